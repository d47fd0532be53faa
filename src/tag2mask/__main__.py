"""`python -m tag2mask` is `tag2mask`."""

from tag2mask.cli import main

main()
