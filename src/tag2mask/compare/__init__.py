"""Runs side by side: the same photos, spread over seeds, and which differences exceed the noise of the photos."""

from tag2mask.compare.comparison import Comparison, Figure, Row, compare
from tag2mask.compare.measured import MeasuredRun, open_run

__all__ = ["Comparison", "Figure", "MeasuredRun", "Row", "compare", "open_run"]
