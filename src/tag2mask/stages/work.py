"""A run while it is worked on, and what every stage needs of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tag2mask import backbones, compute
from tag2mask.backbones import Backbone
from tag2mask.data.images import check_images, file_digest, read_index_mask
from tag2mask.errors import InputError
from tag2mask.features import FeatureStore, Seen
from tag2mask.progress import console, track
from tag2mask.recipes import RunSettings, plain
from tag2mask.run import Clock, Run, Stage, atomic, digest, read_json, write_json
from tag2mask.types import Dataset, Sample

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

    @cached_property
    def saliency_content(self) -> str:
        """Digest of the saliency maps beside the photos: their bytes, so that they may be moved or fetched again."""
        paths = [(s.id, s.saliency_path) for s in self.train.samples]
        return digest([(id, file_digest(path)) for id, path in paths if path is not None])

    @property
    def best_maps(self) -> Stage:
        """The last maps made: of the last student, or of the method."""
        return [self.stages[name] for name in map_names(self.settings) if name in self.stages][-1]

    @property
    def best_network(self) -> Stage:
        """What was trained last to make maps."""
        return [self.stages[name] for name in network_names(self.settings) if name in self.stages][-1]

    @property
    def best_masks(self) -> Stage:
        """The last masks made: of the last relabelling, or of the maps."""
        return [self.stages[name] for name in mask_names(self.settings) if name in self.stages][-1]

    def backbone(self) -> Backbone:
        return backbones.build(self.settings.backbone).to(compute.device())

    def store(self, backbone: Backbone) -> FeatureStore | None:
        """Stored features when the trunk is frozen."""
        if backbone.frozen_until is None:
            return None
        return FeatureStore(backbone, self.seen, self.settings.features, self.settings.localize.precision)


def segmenter_names(settings: RunSettings, *, oracle: bool = False) -> list[str]:
    """Stages of the segmenter's rounds, the result last. A single-stage method is its own, and has no other."""
    if settings.single_stage:
        return [] if oracle else ["method"]
    end = "-oracle" if oracle else ""
    return [*(f"segmenter-{turn}{end}" for turn in range(settings.relabel.rounds)), f"segmenter{end}"]


def network_names(settings: RunSettings) -> list[str]:
    """Stages of the networks that make maps: the method's, then each student's."""
    return ["method", *(f"self-method-{turn + 1}" for turn in range(settings.self_train.students))]


def map_names(settings: RunSettings) -> list[str]:
    """Stages of the maps: the method's, then each student's."""
    return ["maps", *(f"self-maps-{turn + 1}" for turn in range(settings.self_train.students))]


def mask_names(settings: RunSettings) -> list[str]:
    """Stages of the masks: the maps' own, then those of each relabelling."""
    rounds = 0 if settings.single_stage else settings.relabel.rounds
    return ["masks", *(f"masks-{turn + 1}" for turn in range(rounds))]


def say(text: str) -> None:
    console().print(text, markup=False, soft_wrap=True)


def prepare(run: Run, settings: RunSettings, train_set: Dataset, val: Dataset | None, path: Path) -> Work:
    """Decode every photo once: sizes, content digests, and the ones to set aside."""
    everything = {s.id: s for s in (*train_set.samples, *(val.samples if val else ()))}
    marks = [(s.id, str(s.image_path), stamp(s.image_path)) for s in everything.values()]
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


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


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


def mask_if_any(stage: Stage, sample: Sample) -> np.ndarray | None:
    """None for a photo that got no mask (the saliency rule gives none without saliency)."""
    return mask_of(stage, sample) if stage.path(sample.id, ".png").exists() else None


def with_mask(dataset: Dataset, stage: Stage) -> Dataset:
    """The photos to which a finished stage gave a mask."""
    without = set(stage.read_manifest().get("without_mask", ()))
    return dataset.with_samples([s for s in dataset.samples if s.id not in without]) if without else dataset


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


def size_of(work: Work, sample: Sample) -> tuple[int, int]:
    seen = work.seen[sample.id]
    return seen.height, seen.width


def pause(stage: Stage, clock: Clock) -> None:
    if stage.folder.exists() and not stage.done:
        stage.pause(clock.seconds)


def done(stage: Stage, text: str) -> None:
    seconds = stage.read_manifest()["seconds"]
    say(f"{text} ({seconds / 60:.1f} min)")


def _now() -> str:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _command() -> str:
    import shlex

    return shlex.join(["tag2mask", *sys.argv[1:]])
