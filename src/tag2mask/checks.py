"""What can be known to be wrong before a photo is read or a folder is made."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tag2mask import backbones, methods, processes, segment
from tag2mask.backbones import Backbone, BackboneSettings, licences
from tag2mask.data.batches import check_pairs
from tag2mask.errors import InputError, listed, some, unknown
from tag2mask.files import read_object
from tag2mask.methods.released import released_state
from tag2mask.plan.facts import Fact, RunData
from tag2mask.plan.folder import Run
from tag2mask.plan.source import Source
from tag2mask.propagation import propagation
from tag2mask.protocols import ChecksViews, UsesClassNames
from tag2mask.recipes import RunSettings, propagation_backbone
from tag2mask.refine import entries, refiner
from tag2mask.saliency import SaliencyModel
from tag2mask.saliency.self_supervised import check_backbone
from tag2mask.settings import plain
from tag2mask.shards import Shard
from tag2mask.stages import names
from tag2mask.stages.networks import check_view, new_method
from tag2mask.training import TrainSettings
from tag2mask.types import Dataset

log = logging.getLogger("tag2mask")


def check_run(settings: RunSettings, dataset: Dataset, wanted: Collection[str]) -> None:
    """The settings (their names are checked) go with these training photos.

    Args:
        wanted: names of the stages that are to be carried out.

    Raises:
        InputError: what is wrong first, in one line.
    """
    check_saliency(dataset, settings)
    check_networks(settings, dataset.classes, wanted)
    if settings.traits.pairs:
        check_pairs(dataset)
        if settings.balance:
            raise InputError(
                f"--balance shows photos several times, and --method {settings.method} learns from pairs of different "
                "photos: give --balance 0"
            )
    if settings.oracle_masks:
        check_oracle(dataset)
    if settings.with_masks and not {*names.segmenters(settings)} & {*wanted}:
        raise InputError(
            "--with-masks teaches the segmenter, and `label` ends before it: use `train`, or leave --with-masks out"
        )
    if settings.start_from is not None:
        segmenter = plain(settings.segmenter) if {*names.segmenters(settings)} & {*wanted} else None
        Source.opened(settings.start_from).check(settings.method, settings.backbone.name, dataset.classes, segmenter)


def check_names(settings: RunSettings) -> None:
    """Every name in the settings exists, and the settings go together."""
    methods.entry(settings.method)
    if settings.oracle_masks and settings.single_stage:
        raise InputError(
            f"--oracle-masks trains the run's segmenter on true masks, and --method {settings.method} is itself the "
            f"segmenter: leave it out, or measure another run's (--{settings.method}.no-single-stage, --method cam)"
        )
    if settings.with_masks and settings.single_stage:
        raise InputError(
            f"--with-masks teaches the run's segmenter, and --method {settings.method} is itself the segmenter and "
            "learns from tags alone: leave it out, or choose a method with a segmenter behind it (--method cam)"
        )
    _check_references(settings)
    backbones.check_settings(settings.backbone)
    _check_trackers(settings)
    for name, training in _trainings(settings).items():
        if name != "--train" and training.epochs == 0:  # the method's may be loaded whole
            raise InputError(f"{name}.epochs is 0: it must be above 0")
    refiner(settings.refine)
    refiner(settings.inference.refine)
    refiner(settings.relabel.refine)
    _check_propagation(settings)
    if settings.pseudo.background == "saliency-rule" and settings.refine != "none":
        raise InputError(
            f"--background saliency-rule sets its thresholds on the maps themselves, and --refine {settings.refine} "
            "would move them: use --refine none, or --background saliency"
        )
    own = segment.backbone_of(settings.segmenter, settings.backbone)
    if own is not settings.backbone:
        backbones.check_settings(own)
    segment.check_settings(settings.segmenter, frozen=own.freeze or own.freeze_until is not None)


def _trainings(settings: RunSettings) -> dict[str, TrainSettings]:
    """All trainings that a run may have, by their flags."""
    return {
        "--train": settings.train,
        "--student-train": settings.student_train,
        "--propagation-train": settings.propagation_train,
        "--segmenter-train": settings.segmenter_train,
        "--relabel-train": settings.relabel_train,
    }


def _check_trackers(settings: RunSettings) -> None:
    """What trainings are to log to exists and is installed."""
    for name, training in _trainings(settings).items():
        tracker = training.tracker
        if tracker is None:
            continue
        from accelerate import tracking

        if tracker not in tracking.LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", tracker, tracking.LOGGER_TYPE_TO_CLASS)
        if tracker not in {str(there) for there in tracking.get_available_trackers()}:
            raise InputError(f"{name}.tracker {tracker} is not installed here: pip install {tracker}, or leave it out")


def _check_references(settings: RunSettings) -> None:
    if not settings.localize.references:
        return
    if settings.traits.references:
        own = methods.flag(settings.method)
        raise InputError(
            f"--method {settings.method} compares with {settings.traits.references} references of its own, and "
            f"--references {settings.localize.references} would replace them: give --references 0 or "
            f"--{own}.references 0"
        )
    if not settings.traits.class_maps:
        raise InputError(
            f"--references needs class maps, and --method {settings.method} has none "
            "(tag2mask.protocols.ClassMaps): use --references 0"
        )


def _check_propagation(settings: RunSettings) -> None:
    way = propagation(settings.propagate)
    if way is not None and way.network == "trained" and settings.frozen:
        raise InputError(
            f"--propagate {settings.propagate} needs the outputs of the backbone's blocks: leave out --freeze"
        )
    own = propagation_backbone(settings)
    if own is not None and (way is None or way.network != "backbone"):
        raise InputError(
            f"--propagation.backbone is of --propagate features, attention and tokens, and --propagate "
            f"{settings.propagate} asks no such network: leave it out"
        )
    if own is not None:
        backbones.check_settings(own)


def check_networks(settings: RunSettings, classes: Sequence[str], wanted: Collection[str]) -> None:
    """The method can be built on the backbone, for classes of these names, and learns from views of this size; so can
    the segmenter.

    Raises:
        InputError: what they say of each other, and of the views.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn here must not change what the run draws
        backbone = backbones.build(replace(settings.backbone, weights="none"))
        method = methods.build(settings.method, backbone, len(classes), settings.options)
        if isinstance(method, UsesClassNames):
            method.check_class_names(classes)
        if not settings.single_stage and names.segmenters(settings)[0] in wanted:
            _new_segmenter(settings, len(classes), backbone)
        _check_propagation_network(settings, backbone)
    trains = settings.traits.trains
    if backbone.frozen_until is None and (trains or settings.self_train.students):
        check_view(settings.augment, backbone)
        if isinstance(method, ChecksViews):
            method.check_views(settings.augment.size, settings.augment.size)
    if trains and settings.train.epochs == 0 and released_state(method, settings.backbone.weights) is None:
        raise InputError(
            "a training of 0 epochs: it must be above 0 (only --epochs may be 0, where --weights holds a whole "
            f"released {settings.method} of these classes, to use it as it is)"
        )


def _check_propagation_network(settings: RunSettings, of_maps: Backbone) -> None:
    way, own = propagation(settings.propagate), propagation_backbone(settings)
    if way is not None and way.network == "backbone":
        way.check(of_maps if own is None else backbones.build(replace(own, weights="none")))


def check_processes(world: int, photos: int, what: str, task: str = "process") -> None:
    """Every process, or other task, has a photo to work on."""
    if world > photos:
        raise InputError(f"{some(world, task)} were started for {some(photos, what)}: start {photos} at most")


def _new_segmenter(settings: RunSettings, classes: int, of_run: Backbone) -> None:
    own = segment.backbone_of(settings.segmenter, settings.backbone)
    backbone = of_run if own is settings.backbone else backbones.build(replace(own, weights="none"))
    segment.build(settings.segmenter, backbone, classes, own)


def check_source(settings: RunSettings, out: Path) -> None:
    """A run does not start from itself."""
    if settings.start_from is not None and settings.start_from.resolve() == out.resolve():
        raise InputError(f"--from {settings.start_from} is the run folder itself: give another --out")


def check_weights(settings: RunSettings, classes: Sequence[str], wanted: Collection[str], run: Run) -> None:
    """What the networks start from can be had and fits them: fetched now, and not when hours have passed.

    Weights from the hub are passed over where a finished stage of the run started from them.

    Raises:
        InputError: weights that cannot be fetched or read, or are another network's.
    """
    own = segment.backbone_of(settings.segmenter, settings.backbone)
    segmenter, walk = names.segmenters(settings)[0], propagation_backbone(settings)
    for told in dict.fromkeys(licences.terms(one) for one in (settings.backbone, own, walk) if one is not None):
        if told:
            log.warning("%s", told)
    with torch.random.fork_rng(devices=[]):
        if not _known(settings.backbone, run, "method", "weights"):
            method, _ = new_method(settings, len(classes))
            if isinstance(method, UsesClassNames):
                method.take_class_names(classes)
        if walk is not None and not _known(walk, run, "propagated", "propagation weights"):
            backbones.build(walk)
        asked = segmenter in wanted and own is not settings.backbone
        if asked and not _known(own, run, segmenter, "segmenter weights"):
            backbones.build(own)
        for name in (settings.refine, settings.relabel.refine, settings.inference.refine):
            for entry in entries(name):
                entry.load()


def _known(backbone: BackboneSettings, run: Run, stage: str, fact: Fact) -> bool:
    """Whether there is nothing to fetch or to read."""
    if backbone.weights == "none":
        return True
    digest = backbones.weights_digest(backbone)
    done = run.current(stage)
    if not digest.startswith("hub:") or done is None or not done.has_manifest:
        return False
    facts = (read_object(done.own / "key.json") or {}).get("facts")
    return isinstance(facts, dict) and facts.get(fact) == digest


def check_taught(data: RunData) -> None:
    """There are masks to learn from, where a run is to learn from masks."""
    if data.settings.with_masks and not data.taught:
        raise InputError(
            f"--with-masks: the run holds no corrected mask of {some(len(data.train), 'training photo')}: `tag2mask "
            "import` some first (docs/guide/correcting.md), or leave --with-masks out"
        )


def check_shards(settings: RunSettings, shard: Shard, photos: int) -> None:
    """A shard of labelling can be worked on by itself."""
    check_processes(shard.count, photos, "training photo", "shard")
    if processes.place().world > 1:
        raise InputError("a shard is worked on by one process and this was started as several: leave --shard out")
    if settings.frozen:
        raise InputError("--shard shares photos and --freeze stores features of all of them: leave one of them out")


def check_engine(settings: RunSettings) -> None:
    """The per-photo stages can be done on a cluster."""
    if processes.place().world > 1:
        raise InputError("--engine ray shares the work itself and this was started as several processes: start one")
    if settings.frozen:
        raise InputError("--engine ray shares photos and --freeze stores features of all: leave one of them out")


def check_saliency(dataset: Dataset, settings: RunSettings) -> None:
    """Saliency maps are there for every photo, where the settings ask for them."""
    asking = {
        f"--method {settings.method}": (settings.traits.saliency, "a method without, --method cam"),
        "--self-train.denoise saliency": (
            settings.self_train.students > 0 and "saliency" in settings.self_train.denoise, "leave it out"
        ),
        "--background saliency": (settings.pseudo.background == "saliency", "another background"),
        "--background saliency-rule": (settings.pseudo.background == "saliency-rule", "another background"),
    }  # fmt: skip
    asking = {what: otherwise for what, (asks, otherwise) in asking.items() if asks}
    if settings.data.makes_saliency:
        if not asking:
            raise InputError(
                f"--saliency {settings.data.saliency} makes maps that nothing of this run uses (--method "
                f"{settings.method}): give --recipe saliency, --method eps, --self-train smaf "
                "--self-train.denoise saliency, or leave it out"
            )
        if settings.data.learns_saliency:
            with torch.random.fork_rng(devices=[]):
                check_backbone(backbones.build(replace(settings.backbone, weights="none")))
        else:
            SaliencyModel.installed()
        return
    if not asking:
        return
    lacking = [s.id for s in dataset.samples if s.saliency_path is None]
    for what, otherwise in asking.items():
        if what == "--background saliency-rule":
            if len(lacking) < len(dataset):
                continue  # photos without one get no mask by the rule; they are counted and named
            needed = f"saliency maps and none of {some(len(dataset), 'photo')} has one"
        else:
            needed = f"a saliency map for every photo; {len(lacking)} have none ({listed(lacking)})"
        if lacking:
            raise InputError(
                f"{what} needs {needed}: give --saliency FOLDER (grey images, one a photo under its name, bright where "
                f"something stands out, by any saliency detector), --saliency auto to have them made, or {otherwise}"
            )


def check_oracle(dataset: Dataset) -> None:
    """Every training photo has a true mask."""
    lacking = [s.id for s in dataset.samples if not s.has_truth]
    if lacking:
        raise InputError(
            f"--oracle-masks needs the true mask of every training photo; {len(lacking)} have none "
            f"({listed(lacking)}): give --data.truth FOLDER, or leave --oracle-masks out"
        )
