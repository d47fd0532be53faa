"""Tags to masks: train the method, make maps, refine them, decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask import backbones, compute, methods, propagation, pseudo
from tag2mask.backbones import Backbone
from tag2mask.data.augment import AugmentSettings
from tag2mask.data.batches import MaskedImages, Pairs, StoredFeatures, TaggedImages
from tag2mask.data.images import read_image, read_saliency, write_index_mask
from tag2mask.errors import InputError, listed
from tag2mask.features import FeatureStore, views
from tag2mask.localize import draw_references, localize, reference_view, show_references
from tag2mask.methods.eps import check_saliency_maps
from tag2mask.methods.smaf import Student, student_of
from tag2mask.progress import track
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes import RunSettings, plain
from tag2mask.refine import refiner
from tag2mask.run import Clock, Stage, read_jsonl, read_maps, write_maps
from tag2mask.stages.work import (
    Work,
    done,
    in_parallel,
    map_names,
    mask_of,
    network_names,
    pause,
    say,
    size_of,
)
from tag2mask.train import fit, load_model, save_model
from tag2mask.types import IGNORE, Compares, Dataset, LocalizationMaps, PseudoMask, Sample


def train_method(work: Work) -> None:
    """Train the localization method on the tags."""
    s = work.settings
    salient = methods.needs_saliency(s.method)
    settings = {
        "content": work.content,
        "method": s.method,
        "options": learnt_options(s.options),
        "backbone": plain(s.backbone),
        "augment": plain(s.augment),
        "train": plain(s.train),
        "view": [s.localize.longest] if s.frozen else None,
        "seed": s.seed,
    }
    settings |= {"saliency": work.saliency_content} if salient else {}
    stage = work.stages["method"] = work.run.stage("method", settings)
    if stage.done:
        return
    clock = Clock()
    try:
        torch.manual_seed(s.seed)
        method, backbone = new_method(work)
        if salient:
            look_at_saliency(work)
        if hasattr(method, "load_trained") and method.load_trained():  # type: ignore[operator]
            save_model(method, stage.folder / "model.safetensors")
        else:
            source: Any = tagged_source(work, backbone, s.augment, s.seed, saliency=salient)
            if getattr(s.options, "pairs", False):
                source = Pairs(source, s.seed)
            fit(method, source, s.train, stage.folder, seed=s.seed, title=f"training {s.method}")
    finally:
        pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    done(stage, f"{s.method} trained on {len(work.train)} photos")


def look_at_saliency(work: Work, most: int = 50) -> None:
    """Say when saliency maps are black; all of those looked at is an error."""
    samples = work.train.samples[:: max(1, len(work.train) // most)]
    found = [read_saliency(s.saliency_path, size_of(work, s)) for s in samples if s.saliency_path is not None]
    black = check_saliency_maps(found, work.train.name)
    if black:
        say(f"{black} of {len(found)} saliency maps looked at are black; their photos are taught as background")


def learnt_options(options: object) -> dict[str, Any]:
    """The method's settings without those that change where it looks and nothing that it learns."""
    looks_only = getattr(options, "looks_only", ())
    return {name: value for name, value in plain(options).items() if name not in looks_only}


def new_method(work: Work) -> tuple[nn.Module, Backbone]:
    backbone = work.backbone()
    method = methods.build(work.settings.method, backbone, len(work.train.classes), work.settings.options)
    methods.load_released(method, work.settings.backbone.weights)
    return method.to(compute.device()), backbone


def check_network(settings: RunSettings, classes: int) -> None:
    """The method can be built on the backbone and learns from views of this size, before anything is read or written.

    Raises:
        InputError: what they say of each other, and of the views.
    """
    with torch.random.fork_rng(devices=[]):  # what is drawn here must not change what the run draws
        backbone = backbones.build(replace(settings.backbone, weights="none"))
        method = methods.build(settings.method, backbone, classes, settings.options)
    if backbone.frozen_until is None:
        check_view(settings.augment, backbone)
        if (check_views := getattr(method, "check_views", None)) is not None:
            check_views(settings.augment.size, settings.augment.size)


def check_view(augment: AugmentSettings, backbone: Backbone) -> None:
    if augment.size % backbone.multiple:
        raise InputError(
            f"--augment.size {augment.size} is not a multiple of this backbone's patch of {backbone.multiple} pixels: "
            f"use {round(augment.size / backbone.multiple) * backbone.multiple}"
        )


def tagged_source(
    work: Work,
    backbone: Backbone,
    augment: AugmentSettings,
    seed: int,
    *,
    saliency: bool = False,
    maps_of: Callable[[Sample], LocalizationMaps] | None = None,
    map_stride: int = 4,
) -> TaggedImages | StoredFeatures:
    """The training photos with their tags, as the backbone takes them: in views, or as stored features."""
    store = work.store(backbone)
    if store is None:
        check_view(augment, backbone)
        normalisation = (backbone.mean, backbone.std)
        return TaggedImages(
            work.train, augment, normalisation, seed, saliency=saliency, maps_of=maps_of, map_stride=map_stride
        )
    return stored_source(
        work, store, backbone, work.train, seed=seed, saliency=saliency, maps_of=maps_of, stride=map_stride
    )


def stored_source(
    work: Work,
    store: FeatureStore,
    backbone: Backbone,
    dataset: Dataset,
    mask_of: Callable[[Sample], np.ndarray] | None = None,
    *,
    seed: int | None = None,
    saliency: bool = False,
    maps_of: Callable[[Sample], LocalizationMaps] | None = None,
    stride: int = 4,
) -> StoredFeatures:
    """Plain and mirrored view at scale 1, computed now if they are not there. What lies beside them (masks, saliency,
    maps) has a cell for every ``stride`` pixels."""
    longest = work.settings.localize.longest

    def both(sample: Sample) -> list[Any]:
        seen = work.seen[sample.id]
        return views(seen.height, seen.width, longest, (1.0,), True, backbone.multiple)

    store.fill(dataset.samples, both, say)
    grids = [(v.height, v.width) for v in (both(s)[0] for s in dataset.samples)]
    return StoredFeatures(
        dataset,
        lambda s, flip: store.load(s, both(s)[int(flip)]),
        grids,
        work.settings.seed if seed is None else seed,
        mask_of,
        max(1, backbone.stride // stride),
        saliency=saliency,
        maps_of=maps_of,
    )


def fitting(augment: AugmentSettings, backbone: Backbone) -> AugmentSettings:
    """The same views at a size the backbone can take."""
    size = augment.size // backbone.multiple * backbone.multiple
    return replace(augment, size=max(size, backbone.multiple))


def load_network(work: Work, stage: Stage | None = None) -> tuple[nn.Module, Backbone]:
    """What makes maps, trained, in eval mode: the method or one of its students, by default the last."""
    stage = work.best_network if stage is None else stage
    network, backbone = new_method(work)
    if stage.folder.name != "method":
        student = student_of(network, backbone, len(work.train.classes))
        # what saliency missed was taught as background, so such a student says too much of it
        student.scores_background = "saliency" not in work.settings.self_train.denoise
        network = student.to(compute.device())
    load_model(network, stage.folder / "model.safetensors")
    return network.eval(), backbone


def make_maps(work: Work) -> None:
    """Localization maps of every training photo, by the network trained last."""
    s = work.settings
    network = work.best_network
    name = map_names(s)[network_names(s).index(network.folder.name)]
    settings: dict[str, Any] = {"localize": plain(s.localize)}
    looks_only = getattr(s.options, "looks_only", ()) if name == "maps" else ()
    if looks_only:
        settings["options"] = {option: getattr(s.options, option) for option in looks_only}
    stage = work.stages[name] = work.run.stage(name, settings, [network])
    if stage.done:
        return
    clock = Clock()
    todo = [sample for sample in work.train.samples if not stage.path(sample.id, ".npz").exists()]
    try:
        method, backbone = load_network(work, network)
        store = work.store(backbone)
        if store is not None:
            store.fill(todo, lambda x: s.localize.views(*size_of(work, x), backbone.multiple), say)
        beside = getattr(s.options, "beside", 0)
        if beside and todo and isinstance(method, Compares):  # a student compares nothing
            references = draw_references(work.train, beside, s.seed)
            if store is not None:
                view = lambda x: [reference_view(*size_of(work, x), s.localize, backbone.multiple)]  # noqa: E731
                store.fill([sample for sample, _ in references], view, say)
            show_references(method, backbone, references, todo, s.localize, work.train.classes, store)
        found = localize(method, backbone, todo, s.localize, len(work.train.classes), store)
        for maps in track(found, "localizing", len(todo)):
            write_maps(stage.path(maps.id, ".npz"), maps)
    finally:
        pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    of = "" if name == "maps" else f" by student {name.rpartition('-')[2]}"
    done(stage, f"maps of {len(work.train)} photos{of}")


def maps_of(work: Work, sample: Sample) -> LocalizationMaps:
    """The last maps of a photo, before any walk."""
    return reader(work.best_maps)(sample)


def train_students(work: Work) -> None:
    """Self-training, where it is asked for: each round a student learns from the maps so far and makes its own."""
    for turn in range(work.settings.self_train.students):
        _train_student(work, turn)
        make_maps(work)


def _train_student(work: Work, turn: int) -> None:
    s = work.settings
    teacher, taught = work.best_network, work.best_maps
    augment = replace(s.augment, jitter=s.self_train.jitter)
    salient = "saliency" in s.self_train.denoise
    settings = {
        "content": work.content,
        "self_train": {k: v for k, v in plain(s.self_train).items() if k != "rounds"}  # one more redoes none
        | {"background": s.self_train.constant, "sharpness": s.self_train.exponent},
        "rule": s.pseudo.rule if s.self_train.constant is None else None,
        "augment": plain(augment),
        "train": plain(s.student_train),
        "seed": s.seed,
    }
    settings |= {"saliency": work.saliency_content} if salient else {}
    name = network_names(s)[turn + 1]
    stage = work.run.stage(name, settings, [teacher, taught])
    if stage.done:
        work.stages[name] = stage
        return
    clock = Clock()
    try:
        lacking = [x.id for x in work.train.samples if not taught.path(x.id, ".npz").exists()]
        if lacking:
            raise InputError(
                f"self-training reads the maps in {taught.folder} and {len(lacking)} of {len(work.train)} photos have "
                f"none ({listed(lacking)}): delete that folder and run again, which makes them anew"
            )
        background = s.self_train.constant
        if background is None:
            background, _ = ruled_threshold(work, taught)
        torch.manual_seed(s.seed + turn + 1)
        network, backbone = load_network(work, teacher)
        student = Student(student_of(network, backbone, len(work.train.classes)), s.self_train, background)
        source = tagged_source(
            work, backbone, augment, s.seed + turn + 1, saliency=salient, maps_of=reader(taught),
            map_stride=s.self_train.stride,
        )  # fmt: skip
        title = f"training student {turn + 1}"
        fit(student.to(compute.device()), source, s.student_train, stage.folder, seed=s.seed + turn + 1, title=title)
        save_model(student.network, stage.folder / "model.safetensors")  # without the task around it
    finally:
        pause(stage, clock)
    stage.finish(
        count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb(), background=round(background, 4)
    )
    work.stages[name] = stage
    done(stage, f"student {turn + 1} trained on {taught.folder.name} of {len(work.train)} photos")


def reader(maps: Stage) -> Callable[[Sample], LocalizationMaps]:
    """What reads a photo's maps from a finished stage."""
    return lambda sample: read_maps(maps.path(sample.id, ".npz"), sample.id)


def chosen_threshold(work: Work, maps: Stage) -> tuple[float, str]:
    """The user's threshold, or the rule's on the maps of this stage, and where it is from. No truth is looked at."""
    if work.settings.pseudo.threshold is not None:
        return work.settings.pseudo.threshold, "given"
    return ruled_threshold(work, maps)


def ruled_threshold(work: Work, maps: Stage, most: int = 500) -> tuple[float, str]:
    """What the rule finds on an evenly spread sample of the maps of this stage, whatever the user gave, and how."""
    samples = [s for s in work.train.samples if s.labels]
    samples = samples[:: max(1, len(samples) // most)]
    rule = work.settings.pseudo.rule
    if rule == "auto" and maps.folder.name == "maps":  # the method's own, neither a student's nor walked
        rule = getattr(work.settings.options, "threshold_rule", rule)
    return pseudo.find_threshold(map(reader(maps), samples), rule)


def unrefined(work: Work, name: str) -> Callable[[Sample], np.ndarray]:
    """Masks straight from the maps of a stage, at the threshold chosen on these very maps."""
    settings, read = replace(work.settings.pseudo, margin=0.0), reader(work.stages[name])
    threshold, _ = chosen_threshold(work, work.stages[name])

    def mask(sample: Sample) -> np.ndarray:
        maps = read(sample)
        return pseudo.decide(maps.id, maps.classes, _with_background(work, sample, maps, threshold), settings).mask

    return mask


def _with_background(work: Work, sample: Sample, maps: LocalizationMaps, threshold: float) -> Tensor:
    """Probabilities ``[1+present height width]`` of one photo's maps, not refined yet."""
    saliency = None
    if work.settings.pseudo.background == "saliency" and sample.saliency_path is not None:
        saliency = read_saliency(sample.saliency_path, maps.size)
    return pseudo.label_scores(maps, threshold, work.settings.pseudo, saliency)


def make_masks(work: Work) -> None:
    """Maps to pseudo masks: background, refinement, decision."""
    s = work.settings
    source = work.stages["walked"] if s.propagate != "none" else work.best_maps
    settings = {"pseudo": plain(s.pseudo), "refine": s.refine, "refiner": repr(refiner(s.refine, s.refine_longest))}
    if s.pseudo.background in pseudo.SALIENCY:
        settings["saliency"] = work.saliency_content
    stage = work.stages["masks"] = work.run.stage("masks", settings, [source])
    if stage.done:
        return
    maps_in = reader(source)
    if s.pseudo.background == "saliency-rule":
        _masks_by_saliency(work, stage, maps_in)
        return
    threshold, threshold_from = chosen_threshold(work, source)
    sharpen = refiner(s.refine, s.refine_longest)

    def scored(sample: Sample) -> tuple[tuple[int, ...], Tensor]:
        maps = maps_in(sample)
        scores = _with_background(work, sample, maps, threshold)
        return maps.classes, pseudo.refine(read_image(sample.image_path), scores, sharpen)

    write_masks(
        work,
        stage,
        by_scores(scored, s.pseudo),
        threshold=round(threshold, 4),
        threshold_from=threshold_from,
    )
    done(stage, f"masks of {len(work.train)} photos, threshold {threshold:.3f}")


def _masks_by_saliency(work: Work, stage: Stage, maps_in: Callable[[Sample], LocalizationMaps]) -> None:
    """Masks by the saliency rule; photos without a saliency map get none, and are counted and named."""
    rule = work.settings.pseudo.saliency_rule

    def decided(sample: Sample) -> Decided | None:
        if sample.saliency_path is None:
            return None
        maps = maps_in(sample)
        found = pseudo.by_saliency_rule(maps, read_saliency(sample.saliency_path, maps.size), rule)
        return found, float((found.mask == IGNORE).mean())

    without = write_masks(work, stage, decided, threshold=rule.foreground, threshold_from="given")
    if without:
        say(f"{len(without)} photos have no saliency map and get no mask: {listed(without)}")
    done(stage, f"masks of {len(work.train) - len(without)} photos by the saliency rule")


Decided = tuple[PseudoMask, float]  # and how uncertain it is, without truth, in [0, 1]


def by_scores(
    scored: Callable[[Sample], tuple[tuple[int, ...], Tensor]], settings: PseudoSettings
) -> Callable[[Sample], Decided]:
    """Masks by the best of a sample's present classes and their probabilities ``[1+present height width]``."""

    def decided(sample: Sample) -> Decided:
        classes, scores = scored(sample)
        return pseudo.decide(sample.id, classes, scores, settings), float(1 - scores.amax(0).mean())

    return decided


def write_masks(work: Work, stage: Stage, decided: Callable[[Sample], Decided | None], **facts: Any) -> list[str]:
    """Write the mask of every training photo that has none yet, and finish the stage.

    What is odd about each, without truth, goes to ``records.jsonl``; ids of photos that get no mask also to the
    stage's manifest, and they are given back.

    Args:
        decided: a sample's mask, or None.
        facts: for the stage's manifest.
    """
    clock = Clock()
    records = stage.folder / "records.jsonl"
    known = {r["id"] for r in read_jsonl(records)}
    todo = [x for x in work.train.samples if x.id not in known or not stage.path(x.id, ".png").exists()]
    without: list[str] = []

    def one(sample: Sample) -> dict[str, Any]:
        result = decided(sample)
        if result is None:
            without.append(sample.id)
            return {"id": sample.id, "uncertainty": 0.0, "foreground": 0.0, "vanished": [], "no_mask": True}
        found, uncertainty = result
        path = stage.path(sample.id, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(path, found.mask)
        return {
            "id": sample.id,
            "uncertainty": round(uncertainty, 5),
            "foreground": round(float(((found.mask > 0) & (found.mask < IGNORE)).mean()), 5),
            "vanished": list(pseudo.missing_classes(tuple(sorted(sample.labels or ())), found)),
        }

    try:
        with records.open("a", encoding="utf-8") as file:
            for record in track(in_parallel(one, todo, work.settings.workers), stage.folder.name, len(todo)):
                file.write(json.dumps(record) + "\n")
                file.flush()
    finally:
        pause(stage, clock)
    if without:
        facts["without_mask"] = sorted(without)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb(), **facts)
    return sorted(without)


def train_affinity(work: Work) -> None:
    """Where the walk goes along learnt affinities: confident regions of the maps, and the network they teach."""
    s = work.settings
    way, kind = propagation.propagation(s.propagate), s.propagate
    if way is None or way.network != "trained":
        return
    settings = {"kind": kind, "affinity": plain(s.propagation), "augment": plain(s.segmenter_augment)}
    settings |= {"train": plain(s.propagation_train), "backbone": plain(s.backbone), "seed": s.seed}
    stage = work.stages["affinity"] = work.run.stage("affinity", settings, [work.best_maps])
    if stage.done:
        return
    clock = Clock()

    def confident(sample: Sample) -> None:
        path = stage.path(sample.id, ".png")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            labels = propagation.confident_labels(maps_of(work, sample), read_image(sample.image_path), s.propagation)
            write_index_mask(path, labels)

    try:
        for _ in track(in_parallel(confident, work.train.samples, s.workers), "confident regions", len(work.train)):
            pass
        torch.manual_seed(s.seed)
        net, backbone = new_affinity_net(work, kind)
        augment = fitting(s.segmenter_augment, backbone)
        source = MaskedImages(work.train, lambda x: mask_of(stage, x), augment, (backbone.mean, backbone.std), s.seed)
        fit(net, source, s.propagation_train, stage.folder, seed=s.seed, title=f"training {kind}")
    finally:
        pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    done(stage, f"{kind} trained on the confident regions of {len(work.train)} photos")


def new_affinity_net(work: Work, kind: str) -> tuple[propagation.AffinityNet, Backbone]:
    backbone = work.backbone()
    return propagation.AffinityNet(backbone, kind, work.settings.propagation).to(compute.device()), backbone


def walk_maps(work: Work) -> None:
    """The maps after a random walk, where one is asked for."""
    s = work.settings
    way = propagation.propagation(s.propagate)
    if way is None:
        return
    learnt = [work.stages["affinity"]] if "affinity" in work.stages else []
    reads = [work.best_maps, *learnt, work.best_network]
    settings = {"kind": s.propagate, "affinity": plain(s.propagation), "longest": s.localize.longest}
    stage = work.stages["walked"] = work.run.stage("walked", settings, reads)
    if stage.done:
        return
    clock = Clock()
    todo = [sample for sample in work.train.samples if not stage.path(sample.id, ".npz").exists()]
    try:
        network = _affinity_network(work, way)

        def one(sample: Sample) -> None:
            affinities = way.affinities(network, read_image(sample.image_path), s.localize, s.propagation)
            moved = propagation.propagate(maps_of(work, sample), affinities, s.propagation)
            write_maps(stage.path(sample.id, ".npz"), moved)

        for _ in track(in_parallel(one, todo, s.workers), "walking", len(todo)):
            pass
    finally:
        pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    done(stage, f"random walk over the maps of {len(work.train)} photos")


def _affinity_network(work: Work, way: propagation.Propagation) -> nn.Module | None:
    """The network whose features say which cells belong together, if any."""
    if way.network is None:
        return None
    if way.network == "backbone":
        return load_network(work)[1]
    net, _ = new_affinity_net(work, work.settings.propagate)
    load_model(net, work.stages["affinity"].folder / "model.safetensors")
    return net.eval()
