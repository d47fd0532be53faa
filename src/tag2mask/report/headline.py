"""The run in three numbers and a sentence or two."""

from __future__ import annotations

from dataclasses import dataclass

from tag2mask.report.data import ReportData
from tag2mask.report.words import percent


@dataclass(frozen=True)
class Card:
    """One number of the headline."""

    value: str
    unit: str
    name: str
    below: str


def headline(data: ReportData) -> list[Card]:
    """At most three numbers, in the order of the pipeline; the last is the run's product."""
    own = [table for table in data.scores if not table.oracle]
    if own:
        return [Card(percent(table.scores.mean_iou), "mIoU", table.name, table.photos) for table in own[-3:]]
    cards = []
    if data.agreements:
        name, agreement = data.agreements[-1]
        cards = [
            Card(str(agreement.photos), "photos", name, "with a mask"),
            Card(percent(100 - agreement.undecided, 0), "%", "Pixels decided", "the rest is left at 255"),
            Card(percent(agreement.recall, 0), "%", "Tags shown", "in their photo's mask"),
        ]
    return cards


def verdict(data: ReportData) -> str:
    """The run in a sentence or two."""
    table = data.product
    if table is None and data.scores:
        return "Only what was trained on true masks has been measured. Nothing here says how good masks from tags are."
    if table is None:
        return (
            "No truth was given, so how good these masks are was not measured. Look at the photos below, then read "
            "what can be trusted."
        )
    iou = {name: value for name, value in zip(data.classes, table.scores.iou[1:], strict=True) if value == value}
    scored = f"{table.name} on {table.photos}" if table.photos else table.name
    if not iou:
        return f"{scored}: no class occurs in the truth or in the masks."
    if not any(iou.values()):
        return f"{scored}: not one pixel of any class is right. Something went wrong; the masks are of no use."
    best, worst = max(iou, key=lambda name: iou[name]), min(iou, key=lambda name: iou[name])
    text = f"{scored}: masks and truth share {percent(table.scores.mean_iou, 0)} % of the area they cover together"
    if len(iou) == 1:
        return f"{text}, averaged over background and {best}."
    return (
        f"{text}, averaged over background and {len(iou)} classes. Best at {best} ({percent(iou[best], 0)}), "
        f"weakest at {worst} ({percent(iou[worst], 0)})."
    )
