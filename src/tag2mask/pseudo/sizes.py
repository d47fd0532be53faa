"""Whether maps show objects at all, and on more than a cell or two of the feature grid: told from the maps alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tag2mask.types import LocalizationMaps

FEW_CELLS = 2  # a region of fewer says where something is and not what shape it has
ADVICE = (
    ": such objects are probably too small for the maps' grid, or their tags were not learned; try larger views (twice "
    "the --localize.long-side), a finer grid (half the --backbone.output-stride), more steps (--train.auto-steps)"
)


def cells_above(maps: LocalizationMaps, threshold: float) -> dict[str, int]:
    """Cells of the feature grid whose score reaches the threshold, by the number of the class (a text, for JSON)."""
    reached = (maps.scores >= threshold).sum((1, 2)).tolist()
    return {str(c): count for c, count in zip(maps.classes, reached, strict=True)}


def hardly_shown(records: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> list[str]:
    """A line for each class that covers fewer than :data:`FEW_CELLS` cells on most of its photos; advice with the last.

    Args:
        records: of photos, with what :func:`cells_above` gave as ``cells``.
    """
    counts: dict[int, list[int]] = {}
    for record in records:
        for c, count in record.get("cells", {}).items():
            counts.setdefault(int(c), []).append(count)
    lines = []
    for c, of_class in sorted(counts.items()):
        few = int((np.array(of_class) < FEW_CELLS).sum())
        if 2 * few > len(of_class):
            on = f"on {few} of {len(of_class)} photos, none on {of_class.count(0)}"
            lines.append(f"'{classes[c]}' covers under {FEW_CELLS} cells of the maps {on}")
    if lines:
        lines[-1] += ADVICE
    return lines
