"""Maps to pseudo masks: background, refinement, decision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from tag2mask import pseudo
from tag2mask.data.images import read_image, read_saliency
from tag2mask.errors import listed, some
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Measured, PhotoStage, PhotoWork, Record
from tag2mask.pseudo import PseudoSettings, Threshold
from tag2mask.recipes import RunSettings
from tag2mask.refine import refiner
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, write_mask
from tag2mask.stages.saliency import saliency_inputs
from tag2mask.stages.thresholds import (
    chosen_threshold,
    threshold_constants,
    threshold_reads,
    threshold_settings,
)
from tag2mask.types import IGNORE, LocalizationMaps, PseudoMask, Sample

log = logging.getLogger("tag2mask")


@dataclass(frozen=True)
class Decided:
    """A mask, and what is known of it without truth."""

    mask: PseudoMask
    uncertainty: float  # in [0, 1]
    refined: bool = True  # False: the refined mask was not believed (tag2mask.pseudo.refined)


RECORD = {"uncertainty": (float,), "foreground": (float,), "missing_classes": (list,)}


def make_masks(settings: RunSettings) -> PhotoStage:
    """Masks of the training photos from the last maps."""
    source = names.final_maps(settings)
    salient, made = saliency_inputs(settings, used=settings.pseudo.background in pseudo.SALIENCY)
    by_rule = settings.pseudo.background == "saliency-rule"
    return PhotoStage(
        name="masks",
        title="pseudo masks",
        reads=(source, *made, *threshold_reads(settings)),
        settings=("pseudo", "refine", "refine_long_side", "localize.long_side", *threshold_settings(settings)),
        facts=("photos", "tags", *salient),
        constants={
            "refiner": repr(refiner(settings.refine, settings.refine_long_side)),
            **threshold_constants(settings, source),
        },
        keeps_records=True,
        record=RECORD,
        measured=Measured("masks", "Pseudo masks", "train"),
        start=lambda context: (_by_saliency if by_rule else _by_scores)(context, source),
    )


def _by_scores(context: Context, source: str) -> PhotoWork:
    s, maps_of = context.settings, MapReader(context.read(source))
    threshold = chosen_threshold(context, source)
    sharpen = refiner(s.refine, s.refine_long_side)
    first = threshold.unrefined if s.refine == "none" else threshold

    def write(sample: Sample, pixels: np.ndarray) -> Record:
        own = maps_of(sample)
        maps = first.levelled(own)
        scores = with_background(sample, maps, threshold.value, s.pseudo)
        refined = pseudo.refine(pixels, scores, sharpen)
        decided = by_best_score(sample, maps.classes, scores, refined, s.pseudo)
        if threshold.of_unrefined and not decided.refined:
            scores = with_background(sample, threshold.unrefined.levelled(own), threshold.value, s.pseudo)
            mask = pseudo.decide(sample.id, maps.classes, scores, s.pseudo)
            decided = Decided(mask, float(1 - scores.amax(0).mean()), decided.refined)
        record = keep_mask(context, sample, decided)
        return {**record, "cells": pseudo.cells_above(maps, threshold.value)}

    return PhotoWork(
        read=lambda sample: read_image(sample.image_path),
        write=write,
        manifest=threshold.to_json(context.classes),
        conclude=partial(_concluded, context),
    )


def _concluded(context: Context, records: Sequence[Record]) -> dict[str, Any]:
    """Say which classes the maps hardly show, and which have small objects on large photos, and keep it for the report,
    beside how many photos keep the mask from before the refiner."""
    sides = [max(context.size(sample)) for sample in context.train.samples[:: max(1, len(context.train) // 1000)]]
    lines = [
        *pseudo.hardly_shown(records, context.classes),
        *pseudo.small_on_large(records, context.classes, median(sides), context.settings.localize.long_side),
    ]
    for line in lines:
        log.info("%s", line)
    return {**count_unrefined(records), **({"small": lines} if lines else {})}


def _by_saliency(context: Context, source: str) -> PhotoWork:
    """By the saliency rule; photos without a saliency map get no mask, and are counted and named."""
    rule, maps_of = context.settings.pseudo.saliency_rule, MapReader(context.read(source))
    if lacking := [sample.id for sample in context.train.samples if sample.saliency_path is None]:
        log.info("%s without a saliency map get no mask: %s", some(len(lacking), "photo"), listed(lacking))

    def write(sample: Sample, nothing: None) -> Record:
        if sample.saliency_path is None:
            return {"uncertainty": 0.0, "foreground": 0.0, "missing_classes": [], "artefact": False}
        maps = maps_of(sample)
        mask = pseudo.by_saliency_rule(maps, read_saliency(sample.saliency_path, maps.size), rule)
        return keep_mask(context, sample, Decided(mask, float((mask.mask == IGNORE).mean())))

    return PhotoWork(write=write, manifest={"threshold": rule.foreground, "threshold_from": "given"})


def with_background(sample: Sample, maps: LocalizationMaps, threshold: float, settings: PseudoSettings) -> Tensor:
    """Probabilities ``[1+present height width]`` of one photo's maps, not refined yet."""
    saliency = None
    if settings.background == "saliency" and sample.saliency_path is not None:
        saliency = read_saliency(sample.saliency_path, maps.size)
    return pseudo.label_scores(maps, threshold, settings, saliency)


def by_best_score(
    sample: Sample, classes: tuple[int, ...], scores: Tensor, refined: Tensor, settings: PseudoSettings
) -> Decided:
    """The best of the present classes and background, of probabilities ``[1+present height width]`` before and after
    the refiner."""
    mask, believed = pseudo.decide_refined(sample.id, classes, scores, refined, settings)
    best = (refined if believed else scores).amax(0)
    return Decided(mask, float(1 - best.mean()), believed)


def count_unrefined(records: Sequence[Record]) -> dict[str, int]:
    """For the manifest: how many photos keep the unrefined mask."""
    return {"unrefined": sum(not record.get("refined", True) for record in records)}


def keep_mask(context: Context, sample: Sample, decided: Decided) -> Record:
    """Write a mask; what is odd about it, without truth."""
    mask = decided.mask
    write_mask(context.folder, sample, mask.mask)
    foreground = pseudo.shows_object(mask.mask)
    return {
        **({} if decided.refined else {"refined": False}),
        "uncertainty": round(decided.uncertainty, 5),
        "foreground": round(float(foreground.mean()), 5),
        "missing_classes": list(pseudo.missing_classes(tuple(sorted(sample.labels or ())), mask)),
    }


def unrefined(
    maps_of: Callable[[Sample], LocalizationMaps], threshold: Threshold, settings: PseudoSettings
) -> Callable[[Sample], Any]:
    """Masks ``[height width]`` straight from maps at a threshold, every pixel decided."""
    settings = replace(settings, margin=0.0)

    def mask(sample: Sample) -> np.ndarray:
        maps = threshold.unrefined.levelled(maps_of(sample))
        scores = with_background(sample, maps, threshold.value, settings)
        return pseudo.decide(maps.id, maps.classes, scores, settings).mask

    return mask
