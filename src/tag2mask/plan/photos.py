"""How a per-photo stage is carried out: what is done is skipped, the rest is read ahead, computed, written behind.

Several processes share the batches. Batches are formed of all photos, so that what comes out does not depend on how
many processes there are; each process keeps records of its own, which the main one gathers at the end.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tag2mask import concurrency, processes, progress
from tag2mask.data.samples import Joined, keys_of
from tag2mask.errors import InputError
from tag2mask.files import atomic, end_last_line, iterate_jsonl
from tag2mask.naming import safe_name
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.types import Sample, SampleKey


def samples_of(stage: PhotoStage, context: Context) -> Sequence[Sample]:
    """The photos that a stage is about."""
    of_train = context.train.samples if stage.split in ("train", "all") else ()
    of_val = context.val.samples if stage.split in ("val", "all") and context.val is not None else ()
    return of_train if not len(of_val) else of_val if not len(of_train) else Joined(of_train, of_val)


def missing(stage: PhotoStage, context: Context, worker: str = "0") -> list[Sample]:
    """Photos that have no artefact, or no record, or one that is out of date.

    Args:
        worker: one whose records were not gathered yet, and count.
    """
    samples = samples_of(stage, context)
    unrecorded = _unrecorded(stage, context, worker, samples) if stage.keeps_records else []
    if stage.suffix is None:
        return [samples[index] for index in unrecorded]
    without = set(context.folder.manifest().get("without", ()))
    present, todo = Present(context.folder.folder, stage.suffix), set(unrecorded)
    return [
        sample
        for index, sample in enumerate(samples)
        if index in todo or (sample.id not in without and not present(sample))
    ]


class Present:
    """Whether photos have an artefact that is not empty, from one listing of each folder."""

    def __init__(self, folder: Path, suffix: str | None) -> None:
        self.folder, self.suffix = folder, suffix
        self.names: dict[Path, frozenset[str]] = {}

    def __call__(self, sample: Sample) -> bool:
        path = self.folder / f"{safe_name(sample.id)}{self.suffix}"
        if path.parent not in self.names:
            entries = path.parent.iterdir() if path.parent.is_dir() else ()
            self.names[path.parent] = frozenset(entry.name for entry in entries if entry.stat().st_size)
        return path.name in self.names[path.parent]


def run_photos(stage: PhotoStage, context: Context, workers: int) -> dict[str, Any]:
    """Do what is missing; gives what the manifest is to hold."""
    samples = samples_of(stage, context)
    work = stage.start(context)
    if work.zero is not None:
        return _added_up(stage, work, context, workers)
    todo = set(processes.from_main(lambda: _to_do(stage, context)))
    batches = [batch for batch in work.batches(samples) if any(sample.key in todo for sample in batch)]
    with processes.together():
        do_share(stage, work, processes.own(batches), context, workers, str(processes.rank()))
    return dict(work.manifest) | processes.from_main(lambda: concluded(stage, work, samples, context))


def _to_do(stage: PhotoStage, context: Context) -> list[SampleKey]:
    """The photos that are not done, records that an interruption left ungathered taken in."""
    context.folder.gather_records()
    return [sample.key for sample in missing(stage, context)]


def do_share(
    stage: PhotoStage, work: PhotoWork, batches: Sequence[Sequence[Sample]], context: Context, workers: int, worker: str
) -> None:
    """Do these batches, remembering each photo as soon as it is done.

    Args:
        worker: whose records they are (:meth:`StageFolder.records_of`).
    """
    keeps = stage.keeps_records or work.conclude is not None
    count = sum(map(len, batches))
    end_last_line(context.folder.records_of(worker))
    with context.folder.records_of(worker).open("a", encoding="utf-8") as file:
        for sample, record in progress.track(_carried_out(work, batches, context, workers), stage.title, count):
            if keeps:
                file.write(json.dumps(_identified(stage, sample, record)) + "\n")
                file.flush()


def concluded(stage: PhotoStage, work: PhotoWork, samples: Sequence[Sample], context: Context) -> dict[str, Any]:
    """The records of all processes as one file in the order of the photos; more for the manifest."""
    context.folder.gather_records()
    records = {(r["split"], r["id"]): r for r in read_records(context.folder.records, stage.record)}
    in_order = [records[sample.key] for sample in samples if sample.key in records]
    if stage.keeps_records:
        with atomic(context.folder.records) as file:
            file.writelines(json.dumps(record) + "\n" for record in in_order)
    else:
        context.folder.records.unlink(missing_ok=True)
    manifest: dict[str, Any] = {}
    if without := sorted(record["id"] for record in in_order if record.get("artefact") is False):
        manifest["without"] = without
    return manifest | dict(work.conclude(in_order) if work.conclude is not None else {})


def _added_up(stage: PhotoStage, work: PhotoWork, context: Context, workers: int) -> dict[str, Any]:
    """A stage that keeps nothing of each photo, but a sum over all."""
    batches, total, error = processes.own_block(work.batches(samples_of(stage, context))), work.zero, None
    carried_out = _carried_out(work, batches, context, workers)
    tracked = progress.track(carried_out, stage.title, sum(map(len, batches)))
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


def read_records(path: Path, holds: Mapping[str, tuple[type, ...]] = MappingProxyType({})) -> Iterator[Record]:
    """The records of a finished stage that are not damaged, in the order of its photos, read as they are asked for.

    Args:
        holds: the stage's ``record``.
    """
    types = {"id": (str,), "split": (str,), **holds}
    whole = lambda line: all(name in line and type(line[name]) in kinds for name, kinds in types.items())  # noqa: E731
    return (line for line in iterate_jsonl(path) if whole(line))


def _carried_out(
    work: PhotoWork, batches: Sequence[Sequence[Sample]], context: Context, workers: int
) -> Iterator[tuple[Sample, Any]]:
    return concurrency.pipelined(
        batches, work.read, work.compute, work.write, cost=context.decoded_bytes, workers=workers
    )


def _identified(stage: PhotoStage, sample: Sample, record: Mapping[str, Any] | None) -> Record:
    stamp = {} if stage.stamp is None else {"stamp": stage.stamp(sample)}
    return {"id": sample.id, "split": sample.split, **(record or {}), **stamp}


def _unrecorded(stage: PhotoStage, context: Context, worker: str, samples: Sequence[Sample]) -> list[int]:
    """Places of the photos whose record is not there, or out of date.

    A finished stage has its records in the order of its photos, so that of very many none waits in memory for another.
    """
    stamp_of = stage.stamp or (lambda sample: None)
    paths = dict.fromkeys([context.folder.records, context.folder.records_of(worker)])
    records = itertools.chain.from_iterable(read_records(path, stage.record) for path in paths)
    stamps: dict[SampleKey, Any] = {}  # of records that are not in the place of their photo
    left: list[int] = []
    for index, key in enumerate(keys_of(samples)):
        record = next(records, None)
        if record is not None and (record["split"], record["id"]) != key:
            stamps[record["split"], record["id"]] = record.get("stamp")
            record = None
        if record is None or (stage.stamp is not None and record.get("stamp") != stage.stamp(samples[index])):
            left.append(index)
    stamps |= {(record["split"], record["id"]): record.get("stamp") for record in records}
    if not stamps:
        return left
    fresh = lambda sample: sample.key in stamps and stamp_of(sample) in (None, stamps[sample.key])  # noqa: E731
    return [index for index in left if not fresh(samples[index])]
