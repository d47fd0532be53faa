"""What each stage of a run does. A stage opens its folder, does what is missing, and marks it done.

Truth enters in two places only: the scores, and the segmenter of an ``oracle_masks`` run, kept and named apart.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tag2mask import backbones, compute, evaluate, methods, pseudo, segment
from tag2mask.backbones import Backbone
from tag2mask.data.batches import MaskedImages, StoredFeatures, TaggedImages
from tag2mask.data.images import check_images, read_image, read_index_mask, read_saliency, write_index_mask
from tag2mask.errors import InputError, listed
from tag2mask.features import FeatureStore, Seen, read_ahead
from tag2mask.localize import localize
from tag2mask.progress import console, track
from tag2mask.recipes import RunSettings, plain
from tag2mask.refine import refiner
from tag2mask.run import Clock, Run, Stage, atomic, digest, read_json, read_jsonl, read_maps, write_json, write_maps
from tag2mask.train import fit, load_model, save_model
from tag2mask.types import IGNORE, Dataset, LocalizationMaps, Sample

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class Work:
    """A run while it is worked on: its settings, data, and the stages done so far."""

    run: Run
    settings: RunSettings
    train: Dataset
    val: Dataset | None
    seen: dict[str, Seen]
    quarantined: list[dict[str, str]]
    stages: dict[str, Stage]

    @cached_property
    def content(self) -> str:
        """Digest of what is learned from: photos by content, with their tags."""
        photos = [(s.id, self.seen[s.id].digest, sorted(s.labels or ()), s.domain) for s in self.train.samples]
        return digest([photos, self.train.classes])

    def backbone(self) -> Backbone:
        return backbones.build(self.settings.backbone).to(compute.device())

    def store(self, backbone: Backbone) -> FeatureStore | None:
        """Stored features when the trunk is frozen."""
        if backbone.frozen_until is None:
            return None
        return FeatureStore(backbone, self.seen, self.settings.features, self.settings.localize.precision)


def say(text: str) -> None:
    console().print(text, markup=False, soft_wrap=True)


# --- images -----------------------------------------------------------------------------------------------------


def prepare(run: Run, settings: RunSettings, train_set: Dataset, val: Dataset | None, path: Path) -> Work:
    """Decode every photo once: sizes, content digests, and the ones to set aside."""
    everything = {s.id: s for s in (*train_set.samples, *(val.samples if val else ()))}
    marks = [(s.id, str(s.image_path), _stamp(s.image_path)) for s in everything.values()]
    stage = run.stage("images", {"photos": digest(marks)})
    if not stage.done:
        clock = Clock()
        lines = []
        for found in track(check_images(everything.values()), "checking photos", len(everything)):
            lines.append(json.dumps(asdict(found)))
        write_json(stage.folder / "quarantine.json", [r for r in map(json.loads, lines) if r["error"]])
        with atomic(stage.folder / "images.jsonl") as file:
            file.writelines(line + "\n" for line in lines)
        stage.finish(count=len(lines), seconds=clock.seconds)
    seen, quarantined = read_images_stage(stage)
    for bad in quarantined[:20]:
        say(f"set aside: {bad['error']}")
    if len(quarantined) > 20:
        say(f"set aside: {len(quarantined) - 20} more, named in {stage.folder / 'quarantine.json'}")
    train_set = readable(train_set, seen)
    if not len(train_set):
        raise InputError(f"none of the {len(everything)} photos of {path} can be read: see {stage.folder}")
    for c, name in enumerate(train_set.classes):
        if not any(c in (s.labels or ()) for s in train_set.samples):
            raise InputError(f"every photo tagged {name} in {path} is unreadable: mend them or leave the class out")
    val = None if val is None else readable(val, seen)
    val = val if val is not None and len(val) else None
    previous = run.description()
    run.describe(
        {
            "tag2mask": __import__("tag2mask").__version__,
            "created": previous.get("created") or _now(),
            "data": str(path.resolve()),
            "command": _command(),
            "classes": list(train_set.classes),
            "truth_values": list(train_set.truth_values),
            "settings": plain(settings),
            "sittings": previous.get("sittings", []),
        }
    )
    return Work(run, settings, train_set, val, seen, quarantined, {"images": stage})


def read_images_stage(stage: Stage) -> tuple[dict[str, Seen], list[dict[str, str]]]:
    """What the check of the photos found: size and digest of the readable ones, and those set aside."""
    seen = {}
    for line in (stage.folder / "images.jsonl").read_text(encoding="utf-8").splitlines():
        r = json.loads(line)
        if not r["error"]:
            seen[r["id"]] = Seen(r["height"], r["width"], r["digest"])
    return seen, read_json(stage.folder / "quarantine.json")


def readable(dataset: Dataset, seen: dict[str, Seen]) -> Dataset:
    if all(s.id in seen for s in dataset.samples):
        return dataset
    return dataset.with_samples([s for s in dataset.samples if s.id in seen])


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


# --- method and maps ----------------------------------------------------------------------------------------------


def train_method(work: Work) -> None:
    """Train the localization method on the tags."""
    s = work.settings
    settings = {
        "content": work.content,
        "method": s.method,
        "options": plain(s.options),
        "backbone": plain(s.backbone),
        "augment": plain(s.augment),
        "train": plain(s.train),
        "view": [s.localize.longest] if s.frozen else None,
        "seed": s.seed,
    }
    stage = work.stages["method"] = work.run.stage("method", settings)
    if stage.done:
        return
    clock = Clock()
    try:
        torch.manual_seed(s.seed)
        method, backbone = new_method(work)
        source = _tagged_source(work, backbone)
        fit(method, source, s.train, stage.folder, seed=s.seed, title=f"training {s.method}")
    finally:
        _pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    _done(stage, f"{s.method} trained on {len(work.train)} photos")


def new_method(work: Work) -> tuple[nn.Module, Backbone]:
    backbone = work.backbone()
    method = methods.build(work.settings.method, backbone, len(work.train.classes), work.settings.options)
    return method.to(compute.device()), backbone


def _tagged_source(work: Work, backbone: Backbone) -> TaggedImages | StoredFeatures:
    s = work.settings
    store = work.store(backbone)
    if store is None:
        if s.augment.size % backbone.multiple:
            raise InputError(
                f"--augment.size {s.augment.size} is not a multiple of this backbone's patch of {backbone.multiple} "
                f"pixels: use {round(s.augment.size / backbone.multiple) * backbone.multiple}"
            )
        return TaggedImages(work.train, s.augment, (backbone.mean, backbone.std), s.seed)
    return _stored_source(work, store, backbone)


def _stored_source(
    work: Work, store: FeatureStore, backbone: Backbone, mask_of: Callable[[Sample], np.ndarray] | None = None
) -> StoredFeatures:
    """Plain and mirrored view at scale 1, computed now if they are not there."""
    longest = work.settings.localize.longest

    def both(sample: Sample) -> list[Any]:
        from tag2mask.features import views

        seen = work.seen[sample.id]
        return views(seen.height, seen.width, longest, (1.0,), True, backbone.multiple)

    store.fill(work.train.samples, both, say)
    grids = [(v.height, v.width) for v in (both(s)[0] for s in work.train.samples)]
    stride = max(1, backbone.stride // 4)
    return StoredFeatures(
        work.train, lambda s, flip: store.load(s, both(s)[int(flip)]), grids, work.settings.seed, mask_of, stride
    )


def load_method(work: Work) -> tuple[nn.Module, Backbone]:
    """The trained method, in eval mode."""
    method, backbone = new_method(work)
    load_model(method, work.stages["method"].folder / "model.safetensors")
    return method.eval(), backbone


def make_maps(work: Work) -> None:
    """Localization maps of every training photo."""
    s = work.settings
    stage = work.stages["maps"] = work.run.stage("maps", {"localize": plain(s.localize)}, [work.stages["method"]])
    if stage.done:
        return
    clock = Clock()
    todo = [sample for sample in work.train.samples if not stage.path(sample.id, ".npz").exists()]
    try:
        method, backbone = load_method(work)
        store = work.store(backbone)
        if store is not None:
            store.fill(todo, lambda x: s.localize.views(*_size(work, x), backbone.multiple), say)
        found = localize(method, backbone, todo, s.localize, len(work.train.classes), store)
        for maps in track(found, "localizing", len(todo)):
            write_maps(stage.path(maps.id, ".npz"), maps)
    finally:
        _pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb())
    _done(stage, f"maps of {len(work.train)} photos")


def maps_of(work: Work, sample: Sample) -> LocalizationMaps:
    return read_maps(work.stages["maps"].path(sample.id, ".npz"), sample.id)


# --- masks --------------------------------------------------------------------------------------------------------


def chosen_threshold(work: Work, most: int = 500) -> float:
    """The user's threshold, or Otsu's of an evenly spread sample of the maps. No truth is looked at."""
    if work.settings.pseudo.threshold is not None:
        return work.settings.pseudo.threshold
    samples = [s for s in work.train.samples if s.labels]
    samples = samples[:: max(1, len(samples) // most)]
    return pseudo.otsu_threshold(maps_of(work, s) for s in samples)


def make_masks(work: Work) -> None:
    """Maps to pseudo masks: background, refinement, decision. Records what is odd about each mask, without truth."""
    s = work.settings
    stage = work.stages["masks"] = work.run.stage(
        "masks",
        {"pseudo": plain(s.pseudo), "refine": s.refine, "refiner": repr(refiner(s.refine, s.refine_longest))},
        [work.stages["maps"]],
    )
    if stage.done:
        return
    clock = Clock()
    threshold = chosen_threshold(work)
    sharpen = refiner(s.refine, s.refine_longest)
    records = stage.folder / "records.jsonl"
    known = {r["id"] for r in read_jsonl(records)}
    todo = [x for x in work.train.samples if x.id not in known or not stage.path(x.id, ".png").exists()]

    def one(sample: Sample) -> dict[str, Any]:
        maps = maps_of(work, sample)
        saliency = None
        if s.pseudo.background == "saliency" and sample.saliency_path is not None:
            saliency = read_saliency(sample.saliency_path, maps.size)
        scores = pseudo.label_scores(maps, threshold, s.pseudo, saliency)
        scores = pseudo.refine(read_image(sample.image_path), scores, sharpen)
        found = pseudo.decide(maps, scores, s.pseudo)
        path = stage.path(sample.id, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(path, found.mask)
        return {
            "id": sample.id,
            "uncertainty": round(float(1 - scores.amax(0).mean()), 5),
            "foreground": round(float(((found.mask > 0) & (found.mask < IGNORE)).mean()), 5),
            "vanished": list(pseudo.vanished(maps, found)),
        }

    try:
        with records.open("a", encoding="utf-8") as file:
            for record in track(in_parallel(one, todo, s.workers), "masks", len(todo)):
                file.write(json.dumps(record) + "\n")
                file.flush()
    finally:
        _pause(stage, clock)
    stage.finish(
        count=len(work.train),
        seconds=0,
        threshold=round(threshold, 4),
        threshold_from="given" if s.pseudo.threshold is not None else "Otsu on the maps, no truth",
        peak_memory_gb=compute.peak_memory_gb(),
    )
    _done(stage, f"masks of {len(work.train)} photos, threshold {threshold:.3f}")


def in_parallel(work: Callable[[T], U], items: Sequence[T], workers: int = 0) -> Iterator[U]:
    """Results in order, a few items ahead, on threads; torch uses one thread in each meanwhile."""
    workers = workers or min(8, os.cpu_count() or 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // workers))
    pool = ThreadPoolExecutor(workers, "work")
    pending: list[Any] = []
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * workers:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


def mask_of(stage: Stage, sample: Sample) -> np.ndarray:
    return read_index_mask(stage.path(sample.id, ".png"))


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


# --- segmenter ----------------------------------------------------------------------------------------------------


def train_segment(work: Work, *, oracle: bool) -> None:
    """Train the segmenter on the pseudo masks (or, for measuring, on the truth)."""
    s = work.settings
    name = "segmenter-oracle" if oracle else "segmenter"
    reads = [work.stages["oracle-masks" if oracle else "masks"]]
    if s.segmenter.warm_start:
        reads.append(work.stages["method"])
    settings = {
        "content": work.content,
        "segmenter": plain(s.segmenter),
        "backbone": plain(s.backbone),
        "augment": plain(s.segmenter_augment),
        "train": plain(s.segmenter_train),
        "seed": s.seed,
    }
    stage = work.stages[name] = work.run.stage(name, settings, reads)
    if stage.done:
        return
    clock = Clock()
    try:
        torch.manual_seed(s.seed)
        segmenter, backbone = new_segmenter(work)
        masks = work.stages["oracle-masks" if oracle else "masks"]
        store = work.store(backbone)
        source: MaskedImages | StoredFeatures
        if store is None:
            normalisation = (backbone.mean, backbone.std)
            size = s.segmenter_augment.size // backbone.multiple * backbone.multiple
            augment = replace(s.segmenter_augment, size=max(size, backbone.multiple))
            source = MaskedImages(work.train, lambda x: mask_of(masks, x), augment, normalisation, s.seed)
        else:
            source = _stored_source(work, store, backbone, lambda x: mask_of(masks, x))
        task = segment.SegmenterTask(segmenter).to(compute.device())
        title = f"training {s.segmenter.name}" + (" on the truth (oracle)" if oracle else "")
        fit(task, source, s.segmenter_train, stage.folder, seed=s.seed, title=title)
        save_model(segmenter, stage.folder / "model.safetensors")  # without the task around it
    finally:
        _pause(stage, clock)
    stage.finish(count=len(work.train), seconds=0, peak_memory_gb=compute.peak_memory_gb(), oracle=oracle)
    _done(stage, f"{s.segmenter.name} trained on {len(work.train)} " + ("true masks (oracle)" if oracle else "masks"))


def new_segmenter(work: Work) -> tuple[nn.Module, Backbone]:
    """A segmenter over the run's backbone, warm where asked."""
    s = work.settings
    if s.segmenter.warm_start:
        _, backbone = load_method(work)
    else:
        backbone = work.backbone()
    return segment.build(s.segmenter, backbone, len(work.train.classes), s.backbone), backbone


def predict_validation(work: Work) -> None:
    """Masks of the validation photos, without their tags, from each segmenter."""
    if work.val is None:
        return
    for name in [n for n in ("segmenter", "segmenter-oracle") if n in work.stages]:
        folder = name.replace("segmenter", "predictions")
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
            _pause(stage, clock)
        stage.finish(count=len(work.val), seconds=0, peak_memory_gb=compute.peak_memory_gb())
        _done(stage, f"predictions for {len(work.val)} validation photos")


def load_segmenter(
    run: Run, settings: RunSettings, classes: int, name: str = "segmenter"
) -> tuple[nn.Module, Backbone]:
    """A run's trained segmenter, in eval mode."""
    stage = run.open_stage(name)
    backbone = backbones.build(replace(settings.backbone, weights="none"))
    segmenter = segment.build(settings.segmenter, backbone, classes, settings.backbone)
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


# --- scores -------------------------------------------------------------------------------------------------------


def make_scores(work: Work) -> None:
    """Measure everything that has truth. Nothing before this function's call depends on what it finds."""
    reads = [stage for name, stage in work.stages.items() if name != "images"]
    truth = digest(
        [
            (s.id, str(s.mask_path), _stamp(s.mask_path))
            for dataset in (work.train, work.val)
            if dataset is not None
            for s in dataset.samples
            if s.mask_path is not None
        ]
    )
    stage = work.stages["scores"] = work.run.stage("scores", {"truth": truth}, reads)
    if stage.done:
        return
    clock = Clock()
    found: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    masks = work.stages["masks"]
    found["tags"] = evaluate.compare_with_tags(work.train, lambda s: mask_of(masks, s)).to_json()
    if evaluate.has_truth(work.train):
        threshold = masks.read_manifest()["threshold"]
        bare = replace(work.settings.pseudo, margin=0.0)

        def unrefined(sample: Sample) -> np.ndarray:
            maps = maps_of(work, sample)
            return pseudo.decide(maps, pseudo.label_scores(maps, threshold, bare), bare).mask

        if bare.background != "saliency":
            found["maps"] = _score(work.train, unrefined, "maps (train, tags known)", each)
        found["masks"] = _score(work.train, lambda s: mask_of(masks, s), "pseudo masks (train)", each, "masks")
        found["sweep"] = evaluate.sweep_thresholds(work.train, lambda s: maps_of(work, s)).to_json()
    if work.val is not None and evaluate.has_truth(work.val):
        for name in ("predictions", "predictions-oracle"):
            if name in work.stages:
                predicted = work.stages[name]
                title = "segmenter (val, no tags)" + (", ORACLE masks" if name.endswith("oracle") else "")
                found[name] = _score(work.val, lambda s, p=predicted: mask_of(p, s), title, each, name)
    write_json(stage.folder / "scores.json", found)
    write_json(stage.folder / "images.json", each)
    stage.finish(count=len(found), seconds=clock.seconds)


def _score(
    dataset: Dataset,
    mask: Callable[[Sample], np.ndarray],
    title: str,
    each: dict[str, list[Any]],
    keep: str | None = None,
) -> dict[str, Any]:
    images: list[evaluate.ImageScore] = []
    scores = evaluate.evaluate_masks(dataset, mask, images.append)
    if keep is not None:
        each[keep] = [[i.id, None if np.isnan(i.mean_iou) else round(i.mean_iou, 2)] for i in images]
    say(f"{title}: {scores.mean_iou:.1f} mIoU")
    return scores.to_json()


# --- the little things --------------------------------------------------------------------


def record_sitting(work: Work, clock: Clock) -> None:
    """Add this sitting to ``run.json``: when, how long, peak memory, the machine."""
    described = work.run.description()
    sitting = {
        "ended": _now(),
        "seconds": round(clock.seconds, 1),
        "peak_memory_gb": round(compute.peak_memory_gb(), 2),
        "device": str(compute.device()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    described["sittings"] = [*described.get("sittings", []), sitting]
    described.pop("version")
    work.run.describe(described)


def _size(work: Work, sample: Sample) -> tuple[int, int]:
    seen = work.seen[sample.id]
    return seen.height, seen.width


def _pause(stage: Stage, clock: Clock) -> None:
    if stage.folder.exists() and not stage.done:
        stage.pause(clock.seconds)


def _done(stage: Stage, text: str) -> None:
    seconds = stage.read_manifest()["seconds"]
    say(f"{text} ({seconds / 60:.1f} min)")


def _now() -> str:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _command() -> str:
    import shlex

    return shlex.join(["tag2mask", *sys.argv[1:]])
