"""What training draws from, in a fixed order: see :mod:`tag2mask.data.batches`, which gathers the names."""
