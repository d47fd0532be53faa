"""How a per-photo stage is carried out: what is done is skipped, the rest is read ahead, computed, written behind.

Several processes share the batches. Batches are formed of all photos, so that what comes out does not depend on how
many processes there are; each process keeps records of its own, which the main one gathers at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tag2mask import concurrency, processes, progress
from tag2mask.errors import InputError
from tag2mask.files import atomic, read_jsonl
from tag2mask.naming import safe_name
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.types import Sample, SampleKey

UNKNOWN_BYTES = 6e6  # of a decoded photo whose size is not known yet


def samples_of(stage: PhotoStage, context: Context) -> Sequence[Sample]:
    """The photos that a stage is about."""
    of_train = context.train.samples if stage.split in ("train", "all") else ()
    of_val = context.val.samples if stage.split in ("val", "all") and context.val is not None else ()
    return of_train if not len(of_val) else of_val if not len(of_train) else [*of_train, *of_val]


def missing(stage: PhotoStage, context: Context) -> list[Sample]:
    """Photos that have no artefact, or no record, or one that is out of date."""
    without = set(context.folder.manifest().get("without", ()))
    records = _records(stage, context) if stage.keeps_records else None
    present = Present(context.folder.folder, stage.suffix)
    return [
        sample
        for sample in samples_of(stage, context)
        if (records is not None and sample.key not in records)
        or (stage.suffix is not None and sample.id not in without and not present(sample))
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
        _do_share(stage, work, processes.own(batches), context, workers)
    return dict(work.manifest) | processes.from_main(lambda: _concluded(stage, work, samples, context))


def _to_do(stage: PhotoStage, context: Context) -> list[SampleKey]:
    """The photos that are not done, records that an interruption left ungathered taken in."""
    context.folder.gather_records()
    return [sample.key for sample in missing(stage, context)]


def _do_share(
    stage: PhotoStage, work: PhotoWork, batches: Sequence[Sequence[Sample]], context: Context, workers: int
) -> None:
    """Do these batches, remembering each photo as soon as it is done."""
    keeps = stage.keeps_records or work.conclude is not None
    count = sum(map(len, batches))
    with context.folder.records_of(processes.rank()).open("a", encoding="utf-8") as file:
        for sample, record in progress.track(_carried_out(work, batches, context, workers), stage.title, count):
            if keeps:
                file.write(json.dumps(_identified(stage, sample, record)) + "\n")
                file.flush()


def _concluded(stage: PhotoStage, work: PhotoWork, samples: Sequence[Sample], context: Context) -> dict[str, Any]:
    """The records of all processes as one file in the order of the photos; more for the manifest."""
    context.folder.gather_records()
    records = {(record["split"], record["id"]): record for record in read_records(context.folder.records)}
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
    try:
        for _, value in progress.track(carried_out, stage.title, sum(map(len, batches))):
            total = total + value
    except InputError as raised:
        error = raised
    first, *others = processes.exchange(total, error)
    total = sum(others, first)
    conclude = work.conclude
    return dict(work.manifest) | ({} if conclude is None else processes.from_main(lambda: dict(conclude(total))))


def read_records(path: Path) -> list[Record]:
    """The records of a finished stage, in the order of its photos."""
    return [line for line in read_jsonl(path) if {"id", "split"} <= line.keys()]


def _carried_out(
    work: PhotoWork, batches: Sequence[Sequence[Sample]], context: Context, workers: int
) -> Iterator[tuple[Sample, Any]]:
    def cost(sample: Sample) -> float:
        facts = context.photos.get(sample.key)
        return UNKNOWN_BYTES if facts is None else 3.0 * facts.height * facts.width

    return concurrency.pipelined(batches, work.read, work.compute, work.write, cost=cost, workers=workers)


def _identified(stage: PhotoStage, sample: Sample, record: Mapping[str, Any] | None) -> Record:
    stamp = {} if stage.stamp is None else {"stamp": stage.stamp(sample)}
    return {"id": sample.id, "split": sample.split, **(record or {}), **stamp}


def _records(stage: PhotoStage, context: Context) -> dict[SampleKey, Record]:
    """Records that are there and up to date."""
    if not stage.keeps_records:
        return {}
    records = {(record["split"], record["id"]): record for record in read_records(context.folder.records)}
    if stage.stamp is None:
        return records
    now = {sample.key: stage.stamp(sample) for sample in samples_of(stage, context) if sample.key in records}
    return {key: record for key, record in records.items() if record.get("stamp") == now.get(key)}
