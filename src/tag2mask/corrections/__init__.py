"""Masks that people drew or accepted come back to their run, as truth of their own kind, and measure it."""

from tag2mask.corrections.checking import Check, check
from tag2mask.corrections.taking import Imported, import_corrections, import_review

__all__ = ["Check", "Imported", "check", "import_corrections", "import_review"]
