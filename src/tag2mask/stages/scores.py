"""Everything of a run that has truth, measured. Nothing before this stage depends on what it finds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from tag2mask import evaluate
from tag2mask.files import write_json
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Stage
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader
from tag2mask.stages.masks import unrefined
from tag2mask.stages.thresholds import chosen_threshold, threshold_settings
from tag2mask.types import Dataset, Sample

log = logging.getLogger("tag2mask")


def make_scores(settings: RunSettings, stages: list[Stage]) -> PhotoStage:
    """Scores of what is measured of these stages, as far as they are done."""
    measured = [stage for stage in stages if stage.measured is not None]
    return PhotoStage(
        name="scores",
        title="scores",
        reads_if_done=tuple(stage.name for stage in measured),
        settings=("pseudo", *threshold_settings(settings)),
        facts=(
            "photos",
            "tags",
            "truth",
            "val photos",
            "val truth",
            *(("saliency",) if "saliency" in settings.pseudo.background else ()),
        ),
        suffix=None,
        start=lambda context: _start(context, settings, measured),
    )


def _start(context: Context, settings: RunSettings, measured: list[Stage]) -> PhotoWork:
    return PhotoWork(
        batches=lambda samples: [],
        write=lambda sample, nothing: None,
        conclude=lambda records: _measure(context, names.masks(settings), measured, names.final_maps(settings)),
    )


def _measure(context: Context, masks: list[str], measured: list[Stage], final_maps: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    done = [stage for stage in measured if context.has(stage.name)]
    if best := [name for name in masks if context.has(name)]:
        found["tags"] = evaluate.compare_with_tags(context.train, MaskReader(context.read(best[-1])).if_any).to_json()
    for stage in done:
        assert stage.measured is not None
        dataset = context.train if stage.measured.split == "train" else context.val
        if dataset is None or not evaluate.has_truth(dataset):
            continue
        if stage.measured.what == "maps":
            found[stage.name] = _score(dataset, _unrefined(context, stage.name), stage)
        else:
            reader = MaskReader(context.read(stage.name))
            images: list[evaluate.ImageScore] = []
            found[stage.name] = _score(dataset, reader.if_any, stage, images)
            each[stage.name] = [[i.id, None if np.isnan(i.mean_iou) else round(i.mean_iou, 2)] for i in images]
    maps = [s.name for s in done if s.measured is not None and s.measured.what == "maps" and s.name != "propagated"]
    if maps and evaluate.has_truth(context.train):
        found["sweep"] = evaluate.sweep_thresholds(context.train, MapReader(context.read(maps[-1]))).to_json()
    write_json(context.folder.folder / "scores.json", found)
    write_json(context.folder.folder / "images.json", each)
    return {}


def _unrefined(context: Context, name: str) -> Callable[[Sample], np.ndarray]:
    threshold, _ = chosen_threshold(context, name)
    return unrefined(MapReader(context.read(name)), threshold, context.settings.pseudo)


def _score(
    dataset: Dataset,
    mask: Callable[[Sample], np.ndarray | None],
    stage: Stage,
    images: list[evaluate.ImageScore] | None = None,
) -> dict[str, Any]:
    scores = evaluate.evaluate_masks(dataset, mask, None if images is None else images.append)
    log.info("%s: %.1f mIoU", stage.measured.title if stage.measured else stage.title, scores.mean_iou)
    return scores.to_json()
