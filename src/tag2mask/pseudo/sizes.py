"""Whether maps show objects at all, and on more than a cell or two of the feature grid, and whether objects are small
on large photos: told from maps and masks alone."""

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

SMALL = 0.01  # of its photos: a class whose masks cover less has small objects
LARGER = 1.5  # times the side at which maps see photos: these have details that maps are not shown


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


def small_on_large(
    records: Iterable[Mapping[str, Any]], classes: Sequence[str], photos: float, long_side: int
) -> list[str]:
    """A line for each class that covers less than :data:`SMALL` of most photos which show it alone, where photos have
    details that maps are not shown; advice with the last.

    Args:
        records: of photos, with ``cells`` as of :func:`cells_above` and ``foreground``, the share of the photo.
        photos: median of the photos' longer sides, in pixels.
        long_side: at which maps see them at scale 1.
    """
    if photos < LARGER * long_side:
        return []
    shares: dict[int, list[float]] = {}
    for record in records:
        if len(record.get("cells", {})) == 1:
            shares.setdefault(int(next(iter(record["cells"]))), []).append(record["foreground"])
    medians = {c: float(np.median(of_class)) for c, of_class in sorted(shares.items())}
    lines = [f"'{classes[c]}' covers {100 * m:.2g} % of its photos" for c, m in medians.items() if m < SMALL]
    if lines:
        lines[-1] += (
            f", and photos of {photos:.0f} pixels (the median) are seen with {long_side}: objects so small are drawn "
            "sharper from larger views (--recipe small-objects; for still larger ones twice the --localize.long-side, "
            "--inference.long-side and --segmenter-augment.scale, four times the work of maps and relabelling)"
        )
    return lines
