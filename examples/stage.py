"""A stage of one's own: how much of each training photo every class covers, as a CSV, after the masks.

    python examples/stage.py photos run

The stage declares what it reads and what decides it; running again does nothing, a changed threshold makes the masks
and this table anew.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import pipeline, stages
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.recipes import RunSettings
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import Sample


def start(context: Context) -> PhotoWork:
    masks = MaskReader(context.read("masks"), context.classes)

    def write(sample: Sample, nothing: None) -> Record:
        counts = np.bincount(masks(sample).ravel(), minlength=256)
        shares = (counts / counts.sum()).round(4)
        return {"shares": [float(shares[value]) for value in range(len(context.classes) + 1)]}

    def conclude(records: Sequence[Record]) -> Mapping[str, Any]:
        with (context.folder.folder / "areas.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["photo", "background", *context.classes])
            table.writerows([record["id"], *record["shares"]] for record in records)
        return {}

    return PhotoWork(write=write, conclude=conclude)


AREAS = PhotoStage(
    name="areas",
    title="areas of the classes",
    reads=("masks",),
    facts=("photos",),
    suffix=None,
    files=("areas.csv",),
    keeps_records=True,
    start=start,
)


def main(photos: str, out: str, settings: RunSettings | None = None) -> Path:
    """Label the photos, then make the table; gives its path."""
    settings = settings or RunSettings()
    plan = stages.plan(settings)
    pipeline.run(Path(photos), Path(out), settings, [*stages.labelling(plan), "areas"], extra=[AREAS])
    return Path(out) / "areas" / "areas.csv"


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
