"""The demo data: scenes composed from photographs that installed packages already carry. No network.

Six classes, one to three tags an image, exact truth: objects are cut out of photographs by masks drawn once (they are
packaged in ``assets/``), then scaled, turned, mirrored, re-coloured, lit, shadowed and laid over photographs of
brick, grass, gravel, wood and sky, some behind others, among things that are no class (a helmet, boxes, paper).
The pixels come from scikit-image's and Matplotlib's wheels; only the 1-bit outlines are ours.

It is a demo, not a benchmark: there are few source photographs. Coins, persons, the two views of the motorcycle and all
backgrounds of ``val`` never occur in ``train``; cat, cup and shuttle are the same photograph in both (see
:mod:`~tag2mask.demo.notice`).
"""

from __future__ import annotations

from tag2mask.demo.catalogue import DemoSettings
from tag2mask.demo.data_set import demo_root

__all__ = ["DemoSettings", "demo_root"]
