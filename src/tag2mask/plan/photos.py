"""How a per-photo stage is carried out: what is done is skipped, the rest is read ahead, computed, written behind.

Several processes share the batches. Batches are formed of all photos, so that what comes out does not depend on how
many processes there are; each process keeps records of its own, which the main one gathers at the end.
"""

from __future__ import annotations

import functools
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from tag2mask import concurrency, processes, progress
from tag2mask.data.check import file_digest
from tag2mask.data.checked import CheckedPhotos, stamps_of
from tag2mask.data.samples import Chosen, Joined, keys_of, paths_of
from tag2mask.errors import InputError, UnreadableImage
from tag2mask.files import end_last_line
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.records import Records, put_in_order, read_records
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.types import Sample, SampleKey


def samples_of(stage: PhotoStage, context: Context) -> Sequence[Sample]:
    """The photos that a stage is about."""
    of_train = context.train.samples if stage.split in ("train", "all") else ()
    of_val = context.val.samples if stage.split in ("val", "all") and context.val is not None else ()
    samples = of_train if not len(of_val) else of_val if not len(of_train) else Joined(of_train, of_val)
    return samples if stage.chosen is None else Chosen(samples, stage.chosen(samples))


def missing(stage: PhotoStage, context: Context, worker: str = "0", *, by_bytes: bool = False) -> Chosen:
    """Photos that have no artefact, or no record, or one that is out of date.

    Args:
        worker: one whose records were not gathered yet, and count.
        by_bytes: photos whose files show other times (copied back, other rights) are read, and of the same bytes they
            are not out of date. Who looks at a run needs it; who carries it out reads them anyway.
    """
    samples = samples_of(stage, context)
    unrecorded = _unrecorded(stage, context, worker, samples, by_bytes) if stage.keeps_records else []
    if stage.suffix is None:
        return Chosen(samples, unrecorded)
    without = set(context.folder.manifest().get("without", ()))
    present, todo = Present(context.folder, stage.suffix), set(unrecorded)
    ids = (id_ for _, id_ in keys_of(samples))
    lacking = lambda place, id_: place in todo or (id_ not in without and not present(id_))  # noqa: E731
    return Chosen(samples, array("Q", (place for place, id_ in enumerate(ids) if lacking(place, id_))))


class Present:
    """Whether photos have an artefact that is not empty, from one listing of each folder."""

    def __init__(self, folder: StageFolder, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self.names: dict[str, frozenset[str]] = {}

    def __call__(self, id_: str) -> bool:
        inner, _, name = self.folder.name(id_, self.suffix).rpartition("/")
        if inner not in self.names:
            self.names[inner] = self._not_empty(self.folder.folder / inner)
        return name in self.names[inner]

    @staticmethod
    def _not_empty(folder: Path) -> frozenset[str]:
        try:
            with os.scandir(folder) as entries:
                return frozenset(entry.name for entry in entries if entry.stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


class Alone(Sequence[Sequence[Sample]]):
    """Photos that are computed each by itself, as batches made when asked for."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> list[Sample]: ...
    @overload
    def __getitem__(self, index: slice) -> Alone: ...
    def __getitem__(self, index: int | slice) -> list[Sample] | Alone:
        return Alone(self.samples[index]) if isinstance(index, slice) else [self.samples[index]]


def batches_of(work: PhotoWork, samples: Sequence[Sample]) -> Sequence[Sequence[Sample]]:
    """Which photos are computed together, of all."""
    return Alone(samples) if work.batches is None else work.batches(samples)


Engine = Callable[[PhotoStage, Context, Sequence[Sequence[Sample]], int], Iterator[tuple[Sample, Any]]]
"""Does the batches of a stage elsewhere: gives each photo, and what is to be remembered of it."""


def run_photos(stage: PhotoStage, context: Context, workers: int, engine: Engine | None = None) -> dict[str, Any]:
    """Do what is missing; gives what the manifest is to hold.

    Args:
        engine: what does the work; None: this process.
    """
    samples = samples_of(stage, context)
    work = stage.start(context)
    if work.zero is not None:
        return _added_up(stage, work, context, workers)
    todo = Chosen(samples, processes.from_main(lambda: _to_do(stage, context)))
    if work.batches is None:
        batches: Sequence[Sequence[Sample]] = Alone(todo)
    else:
        keys = {*keys_of(todo)}
        batches = [batch for batch in work.batches(samples) if any(sample.key in keys for sample in batch)]
    with processes.together():
        do_share(stage, work, processes.own(batches), context, workers, str(processes.rank()), engine)
    return dict(work.manifest) | processes.from_main(lambda: concluded(stage, work, samples, context))


def _to_do(stage: PhotoStage, context: Context) -> Sequence[int]:
    """The places of photos that are not done, records that an interruption left ungathered taken in."""
    context.folder.gather_records()
    return missing(stage, context).places


def do_share(
    stage: PhotoStage,
    work: PhotoWork,
    batches: Sequence[Sequence[Sample]],
    context: Context,
    workers: int,
    worker: str,
    engine: Engine | None = None,
) -> None:
    """Do these batches, remembering each photo as soon as it is done.

    Args:
        worker: whose records they are (:meth:`StageFolder.records_of`).
        engine: as of :func:`run_photos`.
    """
    keeps = stage.keeps_records or work.conclude is not None
    count = sum(map(len, batches))
    end_last_line(context.folder.records_of(worker))
    done = engine(stage, context, batches, workers) if engine else carried_out(work, batches, context, workers)
    with context.folder.records_of(worker).open("a", encoding="utf-8") as file:
        for sample, record in progress.track(done, stage.title, count):
            if keeps:
                file.write(json.dumps(_identified(stage, sample, record)) + "\n")
                file.flush()


def concluded(stage: PhotoStage, work: PhotoWork, samples: Sequence[Sample], context: Context) -> dict[str, Any]:
    """The records of all processes as one file in the order of the photos; more for the manifest."""
    folder = context.folder
    folder.gather_records()
    without = put_in_order(folder.records, stage.record, keys_of(samples))
    manifest: dict[str, Any] = {"without": without} if without else {}
    if work.conclude is not None:
        manifest |= work.conclude(Records(folder.records, stage.record))
    if not stage.keeps_records:
        folder.records.unlink()
    return manifest


def _added_up(stage: PhotoStage, work: PhotoWork, context: Context, workers: int) -> dict[str, Any]:
    """A stage that keeps nothing of each photo, but a sum over all."""
    batches, total, error = processes.own_block(batches_of(work, samples_of(stage, context))), work.zero, None
    done = carried_out(work, batches, context, workers)
    tracked = progress.track(done, stage.title, sum(map(len, batches)))
    try:
        total = _sum((value for _, value in tracked), work.zero)
    except InputError as raised:
        error = raised
    first, *others = processes.exchange(total, error)
    total = sum(others, first)
    conclude = work.conclude
    return dict(work.manifest) | ({} if conclude is None else processes.from_main(lambda: dict(conclude(total))))


def _sum(values: Iterable[Any], zero: Any) -> Any:
    """In order, halves of halves: a sum that holds something of each photo is copied as often as it is added to."""
    waiting: list[tuple[int, Any]] = []  # sums of ever fewer values, a power of two
    for value in values:
        count = 1
        while waiting and waiting[-1][0] == count:
            value, count = waiting.pop()[1] + value, 2 * count
        waiting.append((count, value))
    total = zero
    for _, value in waiting:
        total = total + value
    return total


def carried_out(
    work: PhotoWork, batches: Sequence[Sequence[Sample]], context: Context, workers: int
) -> Iterator[tuple[Sample, Any]]:
    """Each photo of these batches, and what writing its artefact gave."""
    return concurrency.pipelined(
        batches, work.read, work.compute, work.write, cost=context.decoded_bytes, workers=workers
    )


def _identified(stage: PhotoStage, sample: Sample, record: Mapping[str, Any] | None) -> Record:
    stamp = {} if stage.stamp is None else {"stamp": stage.stamp(str(sample.image_path))}
    return {"id": sample.id, "split": sample.split, **(record or {}), **stamp}


def _unrecorded(
    stage: PhotoStage, context: Context, worker: str, samples: Sequence[Sample], by_bytes: bool
) -> list[int]:
    """Places of the photos whose record is not there, or out of date."""
    more = [path for path in (context.folder.records_of(worker),) if path != context.folder.records]
    if stage.stamp is not None:
        checked = checked_photos(stage, context.folder, *more)
        places = checked.places(keys_of(samples))
        if not len(checked.ids):
            return [*range(len(samples))]
        found = stamps_of(map(stage.stamp, paths_of(samples)))
        stale = (checked.rows["stamp"][places] != found).any(1)
        if not by_bytes:  # what kept it from being read may be over, and leaves no trace on the file
            stale |= ~checked.rows["readable"][places]
        if by_bytes:
            for place in np.flatnonzero((places >= 0) & stale).tolist():
                record = checked.rows[places[place]]
                if record["stamp"][0] == found[place, 0]:  # as many bytes
                    stale[place] = not _has_digest(samples[place], bytes(record["digest"]).decode())
        return np.flatnonzero((places < 0) | stale).tolist()
    records = (record for path in (context.folder.records, *more) for record in read_records(path, stage.record))
    return _absent(keys_of(samples), ((record["split"], record["id"]) for record in records))


def _has_digest(sample: Sample, digest: str) -> bool:
    try:
        return file_digest(sample.image_path) == digest
    except UnreadableImage:
        return False


def _absent(keys: Iterable[SampleKey], recorded: Iterator[SampleKey]) -> list[int]:
    """Places of the keys that are not recorded. A finished stage has its records in the order of its photos, so that of
    very many none waits in memory for another."""
    left: dict[int, SampleKey] = {}
    others: set[SampleKey] = set()
    for place, key in enumerate(keys):
        found = next(recorded, None)
        if found != key:
            left[place] = key
            others |= {found} if found is not None else set()
    others.update(recorded)
    return [place for place, key in left.items() if key not in others]


def checked_photos(stage: PhotoStage, folder: StageFolder, *more: Path) -> CheckedPhotos:
    """What the stage that checks photos has found, from the columns that were kept of its records where they are.

    Args:
        more: files of records that were not gathered yet.
    """
    if more:
        paths = (folder.records, *more)
        return CheckedPhotos.of(record for path in paths for record in read_records(path, stage.record))
    return _checked_photos(folder, tuple(folder.recorded()), tuple(stage.record.items()))


@functools.lru_cache(maxsize=1)
def _checked_photos(folder: StageFolder, of: tuple[int, ...], holds: tuple[tuple[str, Any], ...]) -> CheckedPhotos:
    """They are asked for twice before a run begins."""
    kept = CheckedPhotos.read(folder.columns, of)
    return kept if kept is not None else CheckedPhotos.of(read_records(folder.records, dict(holds)))


def keep_columns(folder: StageFolder, photos: CheckedPhotos) -> None:
    """So that :func:`checked_photos` is quick the next time."""
    if not CheckedPhotos.is_kept(folder.columns, folder.recorded()):
        photos.write(folder.columns, folder.recorded())
