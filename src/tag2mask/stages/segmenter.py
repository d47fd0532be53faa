"""Masks to a segmenter: trained on the pseudo masks, it relabels its training photos and is trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask import backbones, compute, methods, pseudo, segment
from tag2mask.backbones import Backbone
from tag2mask.data.batches import MaskedImages, StoredFeatures
from tag2mask.data.images import read_image
from tag2mask.localize import batches_by
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.stage import Measured, Part, PhotoStage, PhotoWork, Record, TrainingStage
from tag2mask.recipes import RunSettings
from tag2mask.refine import refiner
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader
from tag2mask.stages.masks import RECORD, Decided, by_best_score, count_unrefined, keep_mask
from tag2mask.stages.networks import (
    STRUCTURE,
    STUDENTS,
    feature_store,
    fitting,
    from_source,
    frozen_settings,
    load_map_network,
    own_settings,
    source_fact,
    stored_source,
)
from tag2mask.stages.taught import corrected_mask, masks_to_learn, say_untagged, taught, taught_facts
from tag2mask.training import fit, load_model, save_model
from tag2mask.types import PseudoMask, Sample

log = logging.getLogger("tag2mask")


OF_NEW_PHOTOS = ("empty_below", "min_growth")  # settings of inference; of a training photo the tags say what is there


def structure(settings: RunSettings) -> tuple[str | Part, ...]:
    """Settings that say which segmenter is built."""
    method = ("method", own_settings(settings, inference=False)) if settings.single_stage else ()
    return ("segmenter", "backbone", *method)


def warm(settings: RunSettings) -> bool:
    """Whether the segmenter starts from the backbone that made the maps."""
    return settings.segmenter.warm_start and settings.segmenter.backbone is None


def train_segmenter(settings: RunSettings, turn: int, *, oracle: bool = False) -> TrainingStage:
    """Round number ``turn`` of the segmenter, from 0; with ``oracle`` on the truth, for measuring."""
    name = names.segmenters(settings, oracle=oracle)[turn]
    masks = "oracle-masks" if oracle else names.masks(settings)[turn]
    before = names.segmenters(settings, oracle=oracle)[turn - 1] if turn else None
    network = names.networks(settings)[-1] if warm(settings) else None
    start = before or network
    loads = (*STRUCTURE, own_settings(settings, inference=False), STUDENTS) if network else ()
    again = 0 < turn < settings.relabel.rounds and not oracle  # what it learns is for another relabelling
    title = f"training {settings.segmenter.name}" + (" again" if turn else "") + (" on the truth (oracle)" * oracle)
    return TrainingStage(
        name=name,
        title=title,
        reads=(masks, *((start,) if start else ())),
        settings=(
            "segmenter", "backbone", "segmenter_augment", "relabel_train" if turn else "segmenter_train", "seed",
            *frozen_settings(settings), *loads, *(("relabel.again_below",) if again else ()),
        ),
        facts=(
            "photos", "tags", "weights", "segmenter weights", *source_fact(settings),
            *(() if oracle else taught_facts(settings)),
        ),
        constants={"form of the weights": "3"},
        oracle=oracle,
        train=lambda context: _train(context, masks, before, network, again=again),
    )  # fmt: skip


def _train(context: Context, masks: str, before: str | None, network: str | None, *, again: bool) -> None:
    s = context.settings
    train = s.segmenter_train if before is None else s.relabel_train
    torch.manual_seed(s.seed)
    segmenter, backbone = _new(context, None if before else network)
    if before is not None:
        load_model(segmenter, context.read(before).model)
    source = _source(context, backbone, context.read(masks))
    if again and (doubted := _doubted(context, context.read(masks))) > (limit := s.relabel.again_below):
        log.info(
            "of %.0f %% of the tagged photos the segmenter's mask was not believed (more than --relabel.again-below "
            "%g): it does not learn from them, and makes them again",
            100 * doubted,
            limit,
        )
        train = replace(train, epochs=0.0)  # stays as it is until the last round, and relabels as it did
    else:
        train = from_source(context, segmenter, train)
    if (saw_empty := segment.saw_empty(segmenter)) is not None:
        saw_empty.fill_(segment.teaches_empty(context.train))
    if (labels := segment.balance_of(segmenter)) is not None and train.epochs:
        labels.reset()  # the weights of before are of other masks
    task = segment.SegmenterTask(segmenter, s.segmenter.balance).to(compute.device())
    flags = "segmenter-train" if before is None else "relabel-train"
    fit(task, source, train, context.folder.folder, seed=s.seed, title=context.stage.title, flags=flags)
    save_model(segmenter, context.folder.model)  # without the task around it


def _doubted(context: Context, masks: StageFolder) -> float:
    """The share of the photos in which there is something to find whose relabelled mask was not believed."""
    tagged = sum(bool(sample.labels) for sample in context.train.samples)
    return float(masks.manifest().get("unrefined", 0)) / max(1, tagged)


def _new(context: Context, network: str | None) -> tuple[nn.Module, Backbone]:
    """A segmenter, on the backbone of a trained network where one is given."""
    s = context.settings
    own = segment.backbone_of(s.segmenter, s.backbone)
    if network is not None:
        backbone = load_map_network(context, network).backbone
    else:
        backbone = backbones.build(own).to(compute.device())
    return segment.build(s.segmenter, backbone, len(context.classes), own), backbone


def _source(context: Context, backbone: Backbone, masks: StageFolder) -> MaskedImages | StoredFeatures:
    """The training photos that have a mask, with it."""
    s = context.settings
    without, corrected = set(masks.manifest().get("without", ())), taught(context)
    dataset, mask_of = context.train, masks_to_learn(context, masks)
    if corrected:
        say_untagged(context, (x for x in dataset.samples if x.key in corrected))
    if without:
        having = [x for x in dataset.samples if x.id not in without or x.key in corrected]
        dataset = dataset.with_samples(having)
    if (store := feature_store(context, backbone)) is not None:
        return stored_source(context, store, dataset, mask_of, seed=s.seed)
    normalisation = (backbone.mean, backbone.std)
    return MaskedImages(dataset, mask_of, fitting(s.segmenter_augment, backbone), normalisation, s.seed)


def relabel(settings: RunSettings, turn: int) -> PhotoStage:
    """The masks of round ``turn``, from 1: the segmenter's of the training photos, gated by their tags and refined. A
    tag says that its object is there: where the segmenter finds next to nothing of it, the mask stays that it learned
    from. Where it did not learn from those of the round before, objects come out smaller this time."""
    trained, earlier = names.segmenters(settings)[turn - 1], names.masks(settings)[:turn]
    again = ("relabel.again_below", "relabel.doubted_correction") if turn > 1 else ()
    return PhotoStage(
        name=names.masks(settings)[turn],
        title="relabelled masks",
        reads=(trained, *earlier),
        settings=(
            *structure(settings), Part("inference", (*OF_NEW_PHOTOS, "scales", "flip", "refine", "prior_correction")),
            "relabel.scales", "relabel.refine", "relabel.prior_correction", *again, "refine_long_side",
            "pseudo.margin", "pseudo.max_growth", "pseudo.min_growth",
        ),
        facts=("photos", "tags", *taught_facts(settings)),
        constants={"refiner": repr(refiner(settings.relabel.refine, settings.refine_long_side))},
        keeps_records=True,
        record=RECORD,
        measured=Measured("masks", f"Relabelled masks, round {turn}", "train"),
        start=lambda context: _relabel(context, trained, earlier),
    )  # fmt: skip


def _relabel(context: Context, trained: str, earlier_masks: Sequence[str]) -> PhotoWork:
    s = context.settings
    sharpen = refiner(s.relabel.refine, s.refine_long_side)
    # nothing undone by default: a network leaves out what its masks leave out and forgives what they add (decision 8)
    correction, learned_from = s.relabel.prior_correction, earlier_masks[0]
    for name in earlier_masks[1:]:  # as its trainings decided
        if _doubted(context, context.read(name)) <= s.relabel.again_below:
            learned_from = name
    if learned_from != earlier_masks[-1]:
        correction = max(correction, s.relabel.doubted_correction)
    views = replace(s.inference, scales=s.relabel.scales, flip=True, refine="none", prior_correction=correction)
    segmenter, backbone = load_segmenter(s, len(context.classes), context.read(trained))
    photos = segment.PhotoSegmenter(segment.folded(segmenter, backbone), backbone, views)
    own = s.pseudo
    decide = pseudo.PseudoSettings(margin=own.margin, max_growth=own.max_growth, min_growth=own.min_growth)
    corrected, earlier = taught(context), MaskReader(context.read(learned_from), context.classes)

    def read(sample: Sample) -> tuple[np.ndarray, list[Tensor]]:
        pixels = read_image(sample.image_path)
        return pixels, photos.read(pixels) if sample.labels and sample.key not in corrected else []

    def gated(
        samples: Sequence[Sample], inputs: Sequence[tuple[np.ndarray, list[Tensor]]]
    ) -> list[tuple[np.ndarray, Tensor, tuple[int, ...]]]:
        shown = [(pixels.shape[:2], views) for pixels, views in inputs if views]
        segmented = iter(photos([(h, w) for (h, w), _ in shown], [views for _, views in shown]) if shown else ())
        out = []
        for sample, (pixels, of_photo) in zip(samples, inputs, strict=True):
            if of_photo:
                scores, classes = segment.gate_by_tags(next(segmented).probabilities, sample.labels or frozenset())
            else:  # what its tags say, or a person, is all there is to know
                scores, classes = torch.ones(1, *pixels.shape[:2]), ()
            out.append((pixels, scores.cpu(), classes))
        return out

    def write(sample: Sample, output: tuple[np.ndarray, Tensor, tuple[int, ...]]) -> Record:
        if sample.key in corrected:
            return keep_mask(context, sample, Decided(PseudoMask(sample.id, corrected_mask(context, sample)), 0.0))
        pixels, scores, classes = output
        refined = pseudo.refine(pixels, scores, sharpen)
        decided = by_best_score(sample, classes, scores, refined, decide)
        mask = earlier.if_any(sample) if decide.min_growth else None
        if mask is not None and pseudo.lost_objects(mask, decided.mask.mask, decide.min_growth):
            decided = Decided(PseudoMask(sample.id, mask), decided.uncertainty, refined=False)
        return keep_mask(context, sample, decided)

    return PhotoWork(
        read=read,
        compute=gated,
        write=write,
        conclude=count_unrefined,
        batches=lambda samples: batches_by(
            samples, lambda x: photos.group(context.size(x)), views.batch_size, photos.device
        ),
    )


def load_segmenter(
    settings: RunSettings, classes: int, stage: StageFolder, *, single_stage: bool = False
) -> tuple[nn.Module, Backbone]:
    """A trained segmenter, in eval mode: of a round, or (``single_stage``) the method."""
    own = settings.backbone if single_stage else segment.backbone_of(settings.segmenter, settings.backbone)
    backbone = backbones.build(replace(own, weights="none"))
    if single_stage:
        segmenter = methods.build(settings.method, backbone, classes, settings.options)
    else:
        segmenter = segment.build(settings.segmenter, backbone, classes, own)
    load_model(segmenter, stage.model)
    return segmenter.to(compute.device()).eval(), backbone
