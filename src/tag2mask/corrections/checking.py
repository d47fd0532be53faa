"""A run measured on the masks that people corrected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import evaluate, pipeline
from tag2mask.compare.statistics import Interval, draws, interval, resampled
from tag2mask.corrected import Corrected, corrected_masks
from tag2mask.corrections.taking import sources
from tag2mask.errors import InputError, some
from tag2mask.export import Source, exports_of
from tag2mask.plan.folder import Run
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import Sample, SampleKey, drawn_on

FEW = 10  # photos below which the interval itself is rough


@dataclass(frozen=True)
class Check:
    """What corrected masks say of a run's own.

    Attributes:
        mean_iou: with its 95 % interval over photos; None with a single photo.
        remarks: what a reader must know before the number.
    """

    title: str
    scores: evaluate.Scores
    mean_iou: Interval | None
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.mean_iou
        between = None if found is None else [round(found.low, 4), round(found.high, 4)]
        return {"what": self.title, **self.scores.to_json(), "interval": between, "remarks": list(self.remarks)}


def check(run_folder: Path | str) -> list[Check]:
    """Measure a run's masks and predictions on the corrected masks that were imported.

    Raises:
        InputError: no such run, or nothing was imported.
    """
    run = Run(Path(run_folder), existing=True)
    execution = pipeline.reopen(run)
    corrected = corrected_masks(run.folder, execution.data.train.classes)
    if not corrected:
        raise InputError(
            f"{run.folder} has no corrected masks: `tag2mask export` some photos (--first random), correct them, "
            "`tag2mask import` them"
        )
    taught = {*execution.data.taught}  # what a run has learned from measures it no more
    photos = execution.data.photos
    asked = {key: mask for key, mask in corrected.items() if key not in taught and drawn_on(mask.digest, key, photos)}
    if not asked:
        raise InputError(
            f"{run.folder} has learned from all of {some(len(corrected), 'corrected mask')} (--with-masks), so "
            "that they do not measure it: correct others (`tag2mask export --first random`), and import them"
        )
    checks = [_checked(run, source, chosen) for source in sources(execution) if (chosen := _of(source, asked))]
    if not checks:
        raise InputError(
            f"none of {some(len(corrected), 'corrected photo')} of {run.folder} is among its photos now: import "
            "them again"
        )
    return checks


def _of(source: Source, corrected: Mapping[SampleKey, Corrected]) -> list[Sample]:
    """The photos with the corrected mask as their truth."""
    pairs = ((sample, corrected.get(sample.key)) for sample in source.dataset.samples)
    return [replace(sample, mask_path=found.path) for sample, found in pairs if found is not None]


def _checked(run: Run, source: Source, samples: Sequence[Sample]) -> Check:
    classes = source.dataset.classes
    dataset = replace(source.dataset, samples=samples, truth_values=tuple(range(1, len(classes) + 1)))
    mask_of = MaskReader(source.stage, classes)
    of_photos = [evaluate.score_photo(sample, dataset, mask_of.if_any(sample)) for sample in samples]
    total = evaluate.Scores.none(classes)
    for scores in of_photos:
        total = total + scores
    found = None
    if len(of_photos) > 1:
        confusions = np.stack([scores.confusion for scores in of_photos])
        found = interval(total.mean_iou, resampled(confusions, draws(len(confusions))))
    of = f"{len(samples)} of {some(len(source.dataset), 'photo')}"
    title = f"{source.name} of {of}, against masks that people corrected"
    return Check(title, total, found, tuple(_remarks(run, source, samples)))


def _remarks(run: Run, source: Source, samples: Sequence[Sample]) -> Iterable[str]:
    if source.dataset is source.execution.data.train and (taught := len(source.execution.data.taught)):
        yield f"left out: {some(taught, 'corrected photo')}, since the run has learned from them (--with-masks)"
    yield "people started from the run's own masks, so borders they left alone count as right"
    if len(samples) < FEW:
        yield f"{some(len(samples), 'photo')} cannot say much: correct {FEW} at least, better 20"
    if len(samples) == len(source.dataset):
        return
    ids = {sample.id for sample in samples}
    what = "predictions" if source.name == "predictions" else "masks"
    limited = [e for e in exports_of(run) if e["first"] == "random" and e["what"] == what and e["ids"] is not None]
    if ids == set().union(*(e["ids"] for e in limited if set(e["ids"]) <= ids)):
        return
    yield (
        "these photos are no random choice, so this is not the mean IoU of all photos: export --first random "
        "--limit 20 and correct every one of them"
    )
