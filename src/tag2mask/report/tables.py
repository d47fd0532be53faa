"""The table of classes: one line each, background first."""

from __future__ import annotations

from dataclasses import dataclass

from tag2mask.evaluate import with_background
from tag2mask.report.colors import class_colors
from tag2mask.report.data import ReportData


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table."""

    name: str
    color: str | None  # None: background
    counts: list[int | None]  # photos by split
    iou: list[float]  # by score table
    precision: float | None
    recall: float | None
    boundary: float | None


def class_rows(data: ReportData) -> list[ClassRow]:
    """Background, then the classes."""
    colors = [None, *class_colors(len(data.classes))]
    table = data.product
    last = None if table is None else table.scores
    names = with_background(data.classes)
    assert all(table.scores.class_names == names for table in data.scores), (
        "scores over other classes than the report's"
    )
    return [
        ClassRow(
            name,
            colors[at],
            [None if at == 0 else counts[at - 1] for counts in data.class_counts.values()],
            [float(table.scores.iou[at]) for table in data.scores],
            None if last is None else float(last.precision[at]),
            None if last is None else float(last.recall[at]),
            None if last is None else float(last.boundary_iou[at]),
        )
        for at, name in enumerate(names)
    ]
