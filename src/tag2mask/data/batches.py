"""What the training loop draws from: augmented photos, photos with masks, or stored features, in a fixed order.

A source gives one item per index and knows how to collate; :func:`epoch_batches` gives the index batches of one
epoch. Both depend on (seed, epoch, index) alone.
"""

from __future__ import annotations

from tag2mask.data.samples import domains_of, labels_of
from tag2mask.data.training.balanced import balanced
from tag2mask.data.training.pairs import PARTNERS, Pairs, check_pairs, pairs_within
from tag2mask.data.training.photos import MaskedImages, TaggedImages
from tag2mask.data.training.source import Source, epoch_batches
from tag2mask.data.training.stored import StoredFeatures

__all__ = [
    "PARTNERS",
    "MaskedImages",
    "Pairs",
    "Source",
    "StoredFeatures",
    "TaggedImages",
    "balanced",
    "check_pairs",
    "domains_of",
    "epoch_batches",
    "labels_of",
    "pairs_within",
]
