"""Everything of a run that has truth, measured photo by photo and added up. Nothing before this stage depends on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tag2mask import evaluate
from tag2mask.files import write_json
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Stage
from tag2mask.pseudo import SALIENCY
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader
from tag2mask.stages.masks import unrefined
from tag2mask.stages.saliency import saliency_inputs
from tag2mask.stages.taught import taught, taught_facts
from tag2mask.stages.thresholds import chosen_threshold, threshold_reads, threshold_settings
from tag2mask.types import Dataset, Sample, SampleKey

log = logging.getLogger("tag2mask")


@dataclass(frozen=True)
class Measurement:
    """What was measured of some photos; of several groups of photos it adds up."""

    scores: Mapping[str, evaluate.Scores] = field(default_factory=dict)
    """By the stage that is measured."""
    photos: Mapping[str, tuple[tuple[str, float | None], ...]] = field(default_factory=dict)
    """(id, mean IoU in percent) of each photo, by stage."""
    sweep: evaluate.OracleSweep | None = None
    tags: evaluate.TagAgreement | None = None

    def __add__(self, other: Measurement) -> Measurement:
        scores = dict(self.scores)
        for name, of_other in other.scores.items():
            scores[name] = scores[name] + of_other if name in scores else of_other
        photos = {n: (*self.photos.get(n, ()), *other.photos.get(n, ())) for n in {**self.photos, **other.photos}}
        return Measurement(scores, photos, _sum(self.sweep, other.sweep), _sum(self.tags, other.tags))


def is_measured(sample: Sample, taught: Container[SampleKey]) -> bool:
    """Whether a run is measured on a photo.

    Args:
        taught: photos of which a person's mask taught the run: that mask stands there, and says nothing of the run.
    """
    return sample.has_truth and sample.key not in taught


def _sum(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other


def make_scores(settings: RunSettings, stages: Sequence[Stage]) -> PhotoStage:
    """Scores of what is measured of these stages, as far as they are done."""
    measured = [stage for stage in stages if stage.measured is not None]
    salient, made = saliency_inputs(settings, used=settings.pseudo.background in SALIENCY)
    return PhotoStage(
        name="scores",
        title="scores",
        reads=made,
        reads_if_done=(*(stage.name for stage in measured), *threshold_reads(settings)),
        settings=("pseudo", *threshold_settings(settings)),
        facts=("photos", "tags", "truth", "val photos", "val truth", *salient, *taught_facts(settings)),
        split="all",
        suffix=None,
        files=("scores.json", "photos.json"),
        start=lambda context: _start(context, measured, names.masks(settings), names.maps(settings)),
    )


def _start(context: Context, measured: Sequence[Stage], masks: Sequence[str], maps: Sequence[str]) -> PhotoWork:
    measure = _Measure(context, [stage for stage in measured if context.has(stage.name)], masks, maps)
    return PhotoWork(write=lambda sample, nothing: measure(sample), zero=Measurement(), conclude=measure.conclude)


class _Measure:
    """Measures photo by photo."""

    def __init__(self, context: Context, measured: Sequence[Stage], masks: Sequence[str], maps: Sequence[str]) -> None:
        self.context, self.measured = context, measured
        self.readers: dict[str, Callable[[Sample], np.ndarray | None]] = {}
        for stage in measured:
            folder = context.read(stage.name)
            if stage.measured is not None and stage.measured.what == "maps":
                threshold = chosen_threshold(context, stage.name)
                self.readers[stage.name] = unrefined(MapReader(folder), threshold, context.settings.pseudo)
            else:
                self.readers[stage.name] = MaskReader(folder, context.classes).if_any
        self.taught = taught(context)
        self.final_masks = ([name for name in masks if context.has(name)] or [None])[-1]
        self.final_maps = ([name for name in maps if context.has(name)] or [None])[-1]

    def __call__(self, sample: Sample) -> Measurement:
        training = sample.split == self.context.train_split
        dataset = self.context.train if training else self.context.val
        assert dataset is not None
        tags = self._agreement(sample) if training and self.final_masks is not None else None
        if not is_measured(sample, self.taught):
            return Measurement(tags=tags)
        scores: dict[str, evaluate.Scores] = {}
        photos: dict[str, tuple[tuple[str, float | None], ...]] = {}
        for stage in self.measured:
            if stage.measured is not None and (stage.measured.split == "train") == training:
                of_photo = evaluate.score_photo(sample, dataset, self.readers[stage.name](sample))
                scores[stage.name] = of_photo
                if stage.measured.what != "maps":
                    photos[stage.name] = ((sample.id, _rounded(of_photo.mean_iou)),)
        return Measurement(scores, photos, self._sweep(sample, dataset) if training else None, tags)

    def _agreement(self, sample: Sample) -> evaluate.TagAgreement:
        assert self.final_masks is not None
        return evaluate.agreement_photo(sample, self.context.classes, self.readers[self.final_masks](sample))

    def _sweep(self, sample: Sample, dataset: Dataset) -> evaluate.OracleSweep | None:
        if self.final_maps is None:
            return None
        return evaluate.sweep_photo(sample, dataset, MapReader(self.context.read(self.final_maps))(sample))

    def conclude(self, total: Measurement) -> dict[str, Any]:
        """Write the scores, and say them."""
        out: dict[str, Any] = {} if total.tags is None else {"tags": total.tags.to_json()}
        for stage in self.measured:
            if stage.name in total.scores and stage.measured is not None:
                scores = total.scores[stage.name]
                evaluate.check_truth(scores, f"the truth masks of the {stage.measured.split} photos")
                log.info("%s: %.1f mIoU", stage.measured.title, scores.mean_iou)
                if stage.measured.split == "val" and scores.false_alarms.photos:  # tags allow none on training photos
                    log.info("%s: false alarms: %s", stage.measured.title, scores.false_alarms)
                out[stage.name] = scores.to_json()
        if total.sweep is not None:
            out["sweep"] = total.sweep.to_json()
        folder = self.context.folder.folder
        write_json(folder / "scores.json", out)
        write_json(folder / "photos.json", {name: list(map(list, rows)) for name, rows in total.photos.items()})
        return {}


def _rounded(mean_iou: float) -> float | None:
    return None if np.isnan(mean_iou) else round(mean_iou, 2)
