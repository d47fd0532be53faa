"""Masks to a segmenter, and its predictions for photos without tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask import backbones, compute, evaluate, methods, pseudo, segment
from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.data.batches import MaskedImages, StoredFeatures
from tag2mask.data.images import read_image, write_index_mask
from tag2mask.errors import InputError, listed
from tag2mask.features import read_ahead
from tag2mask.progress import track
from tag2mask.recipes import RunSettings, plain
from tag2mask.refine import refiner
from tag2mask.run import Clock, Run, Stage, digest
from tag2mask.stages.label import by_scores, fitting, load_network, stored_source, write_masks
from tag2mask.stages.work import Work, done, mask_of, pause, say, segmenter_names, with_mask
from tag2mask.train import fit, load_model, save_model
from tag2mask.types import Sample


def train_segmenter(work: Work, *, oracle: bool) -> None:
    """Train the segmenter on the pseudo masks, let it relabel them, train it on; as often as asked.

    With ``oracle`` the same rounds on the truth, for measuring: there is nothing to relabel then.
    """
    masks = work.stages["oracle-masks" if oracle else "masks"]
    before: Stage | None = None
    for turn, name in enumerate(segmenter_names(work.settings, oracle=oracle)):
        if turn and not oracle:
            assert before is not None
            masks = relabel(work, f"masks-{turn}", before)
        before = _train_round(work, name, masks, before, oracle=oracle)


def _train_round(work: Work, name: str, masks: Stage, before: Stage | None, *, oracle: bool) -> Stage:
    """Train on these masks, from the weights of the round ``before`` if there was one."""
    s = work.settings
    train = s.segmenter_train if before is None else s.relabel_train
    reads = [masks]
    if before is not None:
        reads.append(before)
    elif warm(s):
        reads.append(work.best_network)
    settings = {
        "content": work.content,
        "segmenter": plain(s.segmenter),
        "backbone": plain(segmenter_backbone(s)),
        "augment": plain(s.segmenter_augment),
        "train": plain(train),
        "seed": s.seed,
    }
    stage = work.stages[name] = work.run.stage(name, settings, reads)
    if stage.done:
        return stage
    clock = Clock()
    try:
        torch.manual_seed(s.seed)
        segmenter, backbone = new_segmenter(work)
        if before is not None:
            load_model(segmenter, before.folder / "model.safetensors")
        store = work.store(backbone)
        source: MaskedImages | StoredFeatures
        dataset = with_mask(work.train, masks)
        if store is None:
            normalisation = (backbone.mean, backbone.std)
            augment = fitting(s.segmenter_augment, backbone)
            source = MaskedImages(dataset, lambda x: mask_of(masks, x), augment, normalisation, s.seed)
        else:
            source = stored_source(work, store, backbone, dataset, lambda x: mask_of(masks, x))
        task = segment.SegmenterTask(segmenter).to(compute.device())
        title = f"training {s.segmenter.name}" + (" on the truth (oracle)" if oracle else "")
        fit(task, source, train, stage.folder, seed=s.seed, title=title)
        save_model(segmenter, stage.folder / "model.safetensors")  # without the task around it
    finally:
        pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb(), oracle=oracle)
    again = "" if before is None else " again"
    of = f"{len(work.train)} " + ("true masks (oracle)" if oracle else f"masks ({masks.folder.name})")
    done(stage, f"{s.segmenter.name} trained{again} on {of}")
    return stage


def relabel(work: Work, name: str, trained: Stage) -> Stage:
    """The segmenter's masks of the training photos, gated by their tags and refined."""
    s = work.settings
    sharpen = refiner(s.relabel.refine, s.refine_longest)
    look = replace(s.inference, scales=s.relabel.scales, flip=True, refine="none")
    settings = {"inference": plain(look), "refiner": repr(sharpen), "margin": s.pseudo.margin}
    stage = work.stages[name] = work.run.stage(name, settings, [trained])
    if stage.done:
        return stage
    segmenter, backbone = load_segmenter(work.run, s, len(work.train.classes), trained.folder.name)

    def scored(sample: Sample) -> tuple[tuple[int, ...], Tensor]:
        pixels = read_image(sample.image_path)
        probabilities = segment.segment_image(segmenter, pixels, look, backbone.mean, backbone.std, backbone.multiple)
        scores, classes = segment.gate_by_tags(probabilities, sample.labels or ())
        return classes, pseudo.refine(pixels, scores, sharpen)

    write_masks(work, stage, by_scores(scored, s.pseudo))
    done(stage, f"{len(work.train)} photos relabelled by the segmenter, tags known")
    return stage


def new_segmenter(work: Work) -> tuple[nn.Module, Backbone]:
    """A segmenter over the run's backbone, warm where asked."""
    s = work.settings
    if warm(s):
        _, backbone = load_network(work)
    else:
        backbone = backbones.build(segmenter_backbone(s)).to(compute.device())
    return segment.build(s.segmenter, backbone, len(work.train.classes), segmenter_backbone(s)), backbone


def warm(settings: RunSettings) -> bool:
    """Whether the segmenter starts from the backbone that made the maps."""
    return settings.segmenter.warm_start and settings.segmenter.backbone is None


def segmenter_backbone(settings: RunSettings) -> BackboneSettings:
    """The run's backbone, or the segmenter's own: pretrained, nothing frozen, at the same output stride."""
    name = settings.segmenter.backbone
    if name is None:
        return settings.backbone
    return BackboneSettings(name, output_stride=settings.backbone.output_stride)


def predict_validation(work: Work) -> None:
    """Masks of the validation photos, without their tags, from each segmenter."""
    if work.val is None:
        return
    for name, folder in (
        (segmenter_names(work.settings)[-1], "predictions"),
        ("segmenter-oracle", "predictions-oracle"),
    ):
        if name not in work.stages:
            continue
        settings = {
            "inference": plain(work.settings.inference),
            "refiner": repr(refiner(work.settings.inference.refine, work.settings.refine_longest)),
            "photos": digest(sorted((x.id, work.seen[x.id].digest) for x in work.val.samples)),
        }
        stage = work.stages[folder] = work.run.stage(folder, settings, [work.stages[name]])
        if stage.done:
            continue
        clock = Clock()
        try:
            segmenter, backbone = load_segmenter(work.run, work.settings, len(work.train.classes), name)
            todo = [x for x in work.val.samples if not stage.path(x.id, ".png").exists()]
            predicted = predictions(segmenter, backbone, todo, work.settings)
            for sample, mask in track(predicted, "predicting", len(todo)):
                stage.path(sample.id, ".png").parent.mkdir(parents=True, exist_ok=True)
                write_index_mask(stage.path(sample.id, ".png"), mask)
        finally:
            pause(stage, clock)
        stage.finish(count=len(work.val), seconds=0, peak_memory_gb=compute.peak_memory_gb())
        done(stage, f"predictions for {len(work.val)} validation photos")


def load_segmenter(
    run: Run, settings: RunSettings, classes: int, name: str | None = None
) -> tuple[nn.Module, Backbone]:
    """A run's trained segmenter, in eval mode: of a stage, or the run's result; the method, where that is one."""
    stage = run.open_stage(segmenter_names(settings)[-1] if name is None else name)
    own = segmenter_backbone(settings)
    backbone = backbones.build(replace(own, weights="none"))
    if settings.single_stage:
        segmenter = methods.build(settings.method, backbone, classes, settings.options)
    else:
        segmenter = segment.build(settings.segmenter, backbone, classes, own)
    load_model(segmenter, stage.folder / "model.safetensors")
    return segmenter.to(compute.device()).eval(), backbone


def predictions(
    segmenter: nn.Module, backbone: Backbone, samples: Sequence[Sample], settings: RunSettings
) -> Iterator[tuple[Sample, np.ndarray]]:
    """(sample, index mask ``[height width]``) of each photo, in order. No tags are used."""
    inference = settings.inference
    sharpen = None if inference.refine == "none" else refiner(inference.refine, settings.refine_longest)

    def one(item: tuple[Sample, np.ndarray]) -> tuple[Sample, np.ndarray]:
        sample, pixels = item
        scores = segment.segment_image(
            segmenter, pixels, inference, backbone.mean, backbone.std, backbone.multiple, sharpen
        )
        return sample, pseudo.index_mask(scores)

    yield from map(one, read_ahead(samples))


def make_oracle_masks(work: Work) -> None:
    """The truth of the training photos as masks, for the ``oracle_masks`` measurement only."""
    stage = work.stages["oracle-masks"] = work.run.stage("oracle-masks", {"content": work.content})
    if stage.done:
        return
    say("ORACLE: a second segmenter is trained on the true masks; it measures what tags cost and is not the result")
    clock = Clock()
    lacking = [s.id for s in work.train.samples if s.mask_path is None]
    if lacking:
        raise InputError(
            f"--oracle-masks needs the true mask of every training photo; {len(lacking)} have none "
            f"({listed(lacking)}): give --data.truth FOLDER, or leave --oracle-masks out"
        )
    count = evaluate.truth_masks_for_oracle_training(work.train, stage.folder)
    stage.finish(count=count, seconds=clock.seconds)
