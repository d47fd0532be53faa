"""Masks of new photos by a run's segmenter: a map from a file to a file, which any number of processes, shards and
machines can share."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tag2mask import checks, concurrency, data, passport, processes, shards
from tag2mask.data.companions import existing_folder
from tag2mask.data.images import image_size, write_index_mask
from tag2mask.data.new_photos import tag_photos
from tag2mask.data.packed import file_of
from tag2mask.errors import InputError, UnreadableImage, listed, some
from tag2mask.evaluate import write_classes
from tag2mask.evaluate.matching import MADE_BY, subfolders
from tag2mask.files import check_outside_runs, check_own_folder, digest, digest_of_rows, read_object, write_json
from tag2mask.naming import levels, spread_name
from tag2mask.plan.facts import stamp
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.progress import track
from tag2mask.recipes import RunSettings, settings_from
from tag2mask.refine import refiner
from tag2mask.settings import deciding
from tag2mask.shards import WHOLE, Shard
from tag2mask.stages import names
from tag2mask.stages.predictions import Predictor, Read
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")

PART = 512  # photos among which those of one size are brought together
FEW = 16_384  # of so many the sizes are read by every process, so that shares are even


@dataclass(frozen=True)
class Prediction:
    """What makes masks of photos.

    Attributes:
        run: the folder of the run.
        settings: of the run, with what was asked for here.
        out: the folder of masks.
        depth: how many subfolders deep they lie in it (:func:`tag2mask.naming.levels`).
    """

    run: Path
    settings: RunSettings
    classes: tuple[str, ...]
    out: Path
    depth: int = 0

    @classmethod
    def of(cls, run_folder: Path, out: Path, refine: str | None = None, empty_below: float | None = None) -> Prediction:
        """By a run's segmenter.

        Raises:
            InputError: no such run, or no trained segmenter in it.
        """
        described = Run(run_folder, existing=True).described()
        settings = settings_from(described["settings"])
        if refine is not None:
            settings = replace(settings, inference=replace(settings.inference, refine=refine))
        if empty_below is not None:
            settings = replace(settings, inference=replace(settings.inference, empty_below=empty_below))
        prediction = cls(run_folder.absolute(), settings, tuple(described["classes"]), out.absolute())
        assert prediction.stage.has_manifest
        return prediction

    @property
    def stage(self) -> StageFolder:
        """The stage of the run's finished segmenter."""
        name = names.segmenters(self.settings)[-1]
        stage = Run(self.run, existing=True).current(name)
        if stage is None or not stage.has_manifest:
            raise InputError(f"{self.run} has no finished stage '{name}': run `tag2mask train` to its end first")
        return stage

    def key(self, samples: Sequence[Sample]) -> str:
        """What decides the masks, apart from the photos' pixels: also the tags of those photos that have some, so that
        photos without any may come and go."""
        s = self.settings
        made_of = [self.stage.key, deciding(s.inference), s.refine_long_side, list(self.classes)]
        tags = digest_of_rows([x.id, sorted(x.labels)] for x in samples if x.labels is not None)
        return digest([*made_of, repr(refiner(s.inference.refine, s.refine_long_side)), tags])

    @cached_property
    def predictor(self) -> Predictor:
        """The network, loaded when it is first asked for."""
        return Predictor(self.settings, len(self.classes), self.stage, self.settings.single_stage)

    def path(self, sample: Sample) -> Path:
        """Where a photo's mask lies."""
        return self.out / f"{spread_name(sample.id, self.depth)}.png"

    def is_made(self, sample: Sample, began: int) -> bool:
        """Whether a photo's mask is of this prediction, and no older than the photo."""
        changed = max(stamp(file_of(sample.image_path)[0])[1:], default=0)
        return shards.is_newer(self.path(sample), max(began, changed))

    def batches(self, samples: Sequence[Sample], number: int, count: int) -> Iterator[list[Sample]]:
        """Photos that are segmented together: share ``number`` of ``count``, from 0. Batches are formed of all photos,
        so that a mask does not depend on how they are shared."""
        parts = [samples[start : start + PART] for start in range(0, len(samples), PART)]
        if len(samples) > FEW:
            return itertools.chain.from_iterable(self.predictor.batches(p, _size) for p in parts[number::count])
        every = itertools.chain.from_iterable(self.predictor.batches(part, _size) for part in parts)
        return itertools.islice(every, number, None, count)

    def read(self, sample: Sample) -> Read | UnreadableImage:
        """A photo as the network takes it, or why it cannot be read."""
        try:
            return self.predictor.read(sample)
        except UnreadableImage as error:
            return error

    def segmented(self, batch: Sequence[Sample], inputs: Sequence[Read | UnreadableImage]) -> list[Any]:
        """Of the photos that could be read; errors stay in their places."""
        readable = iter(self.predictor.segmented([x for x in inputs if not isinstance(x, UnreadableImage)]))
        return [x if isinstance(x, UnreadableImage) else next(readable) for x in inputs]

    def write(self, sample: Sample, output: Any) -> str | None:
        """Write the mask; why there is none."""
        if isinstance(output, UnreadableImage):
            return str(output)
        path = self.path(sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(path, self.predictor.mask(output, sample.labels))
        return None

    def made(self, batches: Iterable[Sequence[Sample]]) -> Iterator[tuple[Sample, str | None]]:
        """Make the masks of these batches: each photo, and why it has none."""
        decoded = lambda sample: 3.0 * math.prod(_size(sample))  # noqa: E731
        return concurrency.pipelined(
            batches, self.read, self.segmented, self.write, cost=decoded, workers=self.settings.workers
        )

    def begin(self, key: str, *, tagged: bool = False) -> int:
        """Say in the folder what its masks are made of; gives when that began, in nanoseconds. Masks from before are of
        something else and are made anew.

        Args:
            tagged: whether tags of some of the photos are given.

        Raises:
            InputError: they lie otherwise, since they were of many more or fewer photos.
        """
        path = self.out / MADE_BY
        with shards.deciding(self.out):
            before = read_object(path) or {}
            if before and (depth := before.get("subfolders", 0)) != self.depth:
                photos = "more photos" if depth > self.depth else "fewer photos"
                raise InputError(f"{self.out} holds masks of {photos}, in other subfolders: give another --out")
            if before.get("key") != key:
                write_classes(self.out, self.classes)
                passport.write_beside(
                    self.out, passport.of_predictions(self.run, self.settings.inference.refine, tagged=tagged)
                )
                # last: whoever finds it finds the others
                write_json(path, {"key": key, "run": str(self.run), "subfolders": self.depth})
            return path.stat().st_mtime_ns


Engine = Callable[[Prediction, Iterable[Sequence[Sample]]], Iterator[tuple[Sample, str | None]]]
"""Makes the masks of batches: gives each photo, and why it has no mask."""


def predict(
    run_folder: Path | str,
    images: Path | str | Sequence[Path],
    out: Path | str,
    refine: str | None = None,
    tags: Path | str | None = None,
    shard: Shard = WHOLE,
    engine: Engine | None = None,
    empty_below: float | None = None,
) -> list[Path]:
    """Masks for new photos with a run's segmenter: ``out/<id>.png``; above 100,000 photos in subfolders
    (:mod:`tag2mask.naming`), which `evaluate` and :func:`merge_predictions` see through. Gives the paths of this share.

    Photos that cannot be read are named and passed over; masks that are there from an interrupted call are kept.

    Args:
        refine: replaces the run's refiner of predictions.
        tags: a table of tags (:mod:`tag2mask.data.table`) of some of the photos. Classes outside of a photo's tags are
            switched off, all of them where its tags are empty; photos that it does not name may show any.
        shard: do this share of the photos alone, and leave a manifest of it (:func:`merge_predictions`).
        engine: what makes the masks of batches; None: :meth:`Prediction.made`, in this process.
        empty_below: replaces the run's (:class:`tag2mask.segment.InferenceSettings`).

    Raises:
        InputError: no such run, no trained segmenter in it, no photos, none that can be read, tags of other photos or
            classes.
    """
    processes.join()
    prediction = Prediction.of(Path(run_folder), Path(out), refine, empty_below)
    samples = data.load_images(images, skip=[prediction.out])
    prediction = replace(prediction, depth=levels(len(samples)))
    tasks = processes.world() * shard.count
    checks.check_processes(tasks, len(samples), "photo", "shard" if shard.count > 1 else "process")
    _check_folder(prediction, samples)
    if tags is not None:
        selected = bool(prediction.settings.data.classes)
        samples = tag_photos(samples, Path(tags), prediction.classes, selected=selected)
    key = prediction.key(samples)
    with contextlib.ExitStack() as stack:
        processes.from_main(lambda: stack.enter_context(shards.held(prediction.out, shard)))
        began = processes.from_main(lambda: prediction.begin(key, tagged=tags is not None))
        number = (shard.number - 1) * processes.world() + processes.rank()
        batches, make = prediction.batches(samples, number, tasks), engine or Prediction.made
        kept, aside = _predicted(prediction, batches, began, len(samples) // tasks, make)
        if not kept and shard.count == 1:
            raise InputError(
                f"none of {some(len(samples), 'photo')} in {listed(_places(images))} can be read: give photos in a "
                "common format"
            )
        if shard.count > 1:
            content = {"key": key, "images": _places(images), "photos": _list_digest(samples), "aside": aside}
            processes.from_main(lambda: shards.finish(prediction.out, shard, {**content, "masks": len(kept)}))
    return sorted(kept)


def _predicted(
    prediction: Prediction, batches: Iterable[Sequence[Sample]], began: int, expected: int, make: Engine
) -> tuple[list[Path], dict[str, str]]:
    """Make what is missing of these batches: masks that are there in the end, and why photos have none, of all
    processes."""
    done: list[Path] = []
    aside: dict[str, str] = {}

    def to_do() -> Iterator[Sequence[Sample]]:
        for batch in batches:
            if all(prediction.is_made(sample, began) for sample in batch):
                done.extend(map(prediction.path, batch))
            else:
                yield batch

    with processes.together():
        for sample, error in track(make(prediction, to_do()), "predicting", expected):
            if error is None:
                done.append(prediction.path(sample))
            else:
                log.info("set aside: %s", error)
                aside[sample.id] = error
    results = processes.exchange((done, aside))
    for _, of_other in results[1:]:
        for error in of_other.values():
            log.info("set aside: %s", error)
        aside = aside | of_other
    return [path for paths, _ in results for path in paths], aside


def merge_predictions(out: Path | str) -> tuple[int, dict[str, str]]:
    """Check that every shard of a folder of masks is done, and every mask there. Gives the number of masks, and why
    other photos have none.

    Raises:
        InputError: shards are missing, overlap, or are of different runs or photos; a mask is missing.
    """
    out = existing_folder(Path(out), "the folder of masks")
    done = shards.manifests(out)
    again = "`tag2mask predict` with the same arguments and"
    shards.check_complete(out, done, again)
    for what, names_it in (("key", "runs or settings"), ("photos", "lists of photos")):
        first = next((content for content in done if content.get(what) != done[0].get(what)), None)
        if first is not None:
            raise InputError(
                f"shards {done[0]['number']} and {first['number']} of {out} are of different {names_it}: run all again"
            )
    aside = {id_: error for content in done for id_, error in content["aside"].items()}
    began = (out / MADE_BY).stat().st_mtime_ns
    places = done[0]["images"]
    samples = data.load_images(places if len(places) > 1 else places[0], skip=[out])
    if _list_digest(samples) != done[0]["photos"]:
        raise InputError(f"the photos in {listed(places)} are others than when shards were made: run all again")
    depth = subfolders(out)
    paths = {sample.id: out / f"{spread_name(sample.id, depth)}.png" for sample in samples if sample.id not in aside}
    missing = [id_ for id_, path in paths.items() if not shards.is_newer(path, began)]
    if missing:
        raise InputError(
            f"{len(missing)} of {some(len(paths), 'mask')} not there in {out} ({listed(missing)}): run the shards "
            "again, which makes what is missing"
        )
    return len(paths), aside


def _places(images: Path | str | Sequence[Path]) -> list[str]:
    """Where the photos lie, whatever the folder in which a command runs."""
    return [str(Path(place).absolute()) for place in ([images] if isinstance(images, (str, Path)) else images)]


def _list_digest(samples: Sequence[Sample]) -> str:
    return digest([sample.id for sample in samples])


def _check_folder(prediction: Prediction, samples: Sequence[Sample]) -> None:
    """Nothing that is there is written over: no run, no photo, no file that is no prediction.

    Raises:
        InputError: it would be.
    """
    out = prediction.out
    check_outside_runs(out)
    for sample in samples:
        if prediction.path(sample).resolve() == sample.image_path.resolve():
            raise InputError(
                f"--out {out} holds the photos themselves: the mask of {sample.image_path.name} would replace it; give "
                "another folder"
            )
    check_own_folder(out, MADE_BY)


@functools.lru_cache(maxsize=10_000)
def _size(sample: Sample) -> tuple[int, int]:
    """(height, width) of a photo by its header; (1, 1) where that cannot be read."""
    try:
        return image_size(sample.image_path)
    except UnreadableImage:
        return 1, 1
