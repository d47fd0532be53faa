"""A run's masks leave for an annotation tool or another program, the photos in the order that a person wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import Any

from tag2mask import exchange, need, passport, pipeline
from tag2mask.errors import InputError, some, unknown
from tag2mask.exchange.photos import About, MaskedPhoto, ScoreTable, shared_root
from tag2mask.files import check_outside_runs, read_jsonl, whole_folder
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.plan.records import read_records
from tag2mask.progress import track
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import Dataset, Sample, SampleKey

ORDERS = ("worst", "best", "both", "random")
LEDGER = "exports.jsonl"  # in a run: what left it, and how its photos were chosen


@dataclass(frozen=True)
class Source:
    """The masks of a run that can be exported or corrected, with the photos that they are of."""

    execution: Execution
    stage: StageFolder
    dataset: Dataset

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.stage.folder.name

    @property
    def root(self) -> Path:
        """The folder that all its photos share, however few of them leave: names start from it, out and back."""
        return shared_root([sample.image_path for sample in self.dataset.samples])


def masks_of(execution: Execution, what: str) -> Source:
    """The last masks of the tagged photos, or the predictions for the validation photos.

    Raises:
        InputError: the run has none.
    """
    data = execution.data
    if what == "masks":
        asked = names.masks(execution.settings)
        advice = "run `tag2mask label` or `tag2mask train` on it first (`tag2mask plan` says what has changed)"
    elif what == "predictions":
        asked = () if data.val is None else ("predictions",)
        advice = "they are of a validation split, made by `tag2mask train` at its end"
    else:
        raise unknown("what to export", what, ("masks", "predictions"))
    done = [name for name in asked if name in execution.folders]
    if not done:
        if any(StageFolder(execution.run.folder / name, "").manifest() for name in asked):
            raise InputError(
                f"{execution.run.folder} has {what}, but not of the photos, tags and settings that are there now "
                "(`tag2mask plan` says what has changed): run the run's command again, which keeps what is still right"
            )
        raise InputError(f"{execution.run.folder} has no finished {what}: {advice}")
    dataset = data.train if what == "masks" else data.val
    assert dataset is not None
    return Source(execution, execution.folders[done[-1]], dataset)


def export(
    run_folder: Path | str,
    to: str,
    out: Path | str,
    what: str = "masks",
    first: str = "worst",
    limit: int | None = None,
    image_root: str | None = None,
) -> list[str]:
    """Write a run's masks in a format of :data:`tag2mask.exchange.FORMATS`. Gives what is to be known of it.

    Args:
        out: a new or empty folder.
        what: "masks" of the tagged photos or "predictions" of the validation photos.
        first: the order of the photos by their need of a person: "worst", "best", "both" in turn, or "random", which
            alone makes figures on corrected masks hold for all photos.
        limit: only so many photos.
        image_root: what stands before a photo's name where the format asks for an address.

    Raises:
        InputError: no such run, masks, format or order; a class that the format cannot hold; ``out`` is not empty.
    """
    run, out, form = Run(Path(run_folder), existing=True), Path(out), exchange.format_of(to)
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}: give the number of photos, at least 1")
    check_outside_runs(out)
    source = masks_of(pipeline.reopen(run), what)
    exchange.check_classes(to, source.dataset.classes)
    having = ranked(source, first)
    chosen = having[:limit]
    root = source.root
    block = passport.portable(passport.passport(source.execution))
    about = About(source.dataset.classes, _version(source), chosen[0][0].split or what, root, image_root, block)
    with whole_folder(out) as folder:
        table = ScoreTable(folder, about.classes)
        photos = table.watch(track(_photos(source, chosen, root), f"writing {to}", len(chosen)))
        notes = [*form.write(folder, photos, about)]
        left_out = len(source.dataset) - len(having)
        notes += [f"left out: {some(left_out, 'photo')} without a mask"] if left_out else []
        passport.write_beside(folder, block)
        text = _described(to, what, first, notes, about)
        (folder / "export.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    ids = None if limit is None else [sample.id for sample, _ in chosen]
    of_stage = {"stage": source.name, "key": source.stage.key}
    notes += _remember(run, {"to": to, "what": what, "first": first, "ids": ids, **of_stage})
    return [f"{some(len(chosen), 'photo')} in {out}, {first} first, with their scores in {table.path.name}", *notes]


def ranked(source: Source, first: str) -> list[tuple[Sample, float]]:
    """The photos that have a mask, with their score, in this order: by their need of a person (:mod:`tag2mask.need`),
    as on the page of the run.

    The score is 1 less the mean uncertainty that was recorded with the mask: the mean over its pixels of the highest
    probability. Nothing of either comes from truth.

    Raises:
        InputError: no such order, or the records are not there.
    """
    if first not in ORDERS:
        raise unknown("order", first, ORDERS)
    records = {(r["split"], r["id"]): r for r in read_records(source.stage.records)}
    scored = [(s, 1 - r["uncertainty"]) for s in source.dataset.samples if (r := _usable(records, s)) is not None]
    if not scored:
        raise InputError(
            f"{source.stage.folder} has no record of its masks (an earlier version made it, or its .stage folder is "
            "gone): run the run's command again"
        )
    if first == "random":
        Random(0).shuffle(scored)
        return scored
    known = need.kept(source.execution)
    needs = need.keep(source.execution) if known is None else known
    scored.sort(key=lambda pair: needs.get(pair[0].key, 0.0), reverse=first != "best")  # ties: the data set's order
    if first != "both":
        return scored
    turns = (scored[i // 2] if i % 2 == 0 else scored[-1 - i // 2] for i in range(len(scored)))
    return list(turns)


def _usable(records: Mapping[SampleKey, Mapping[str, Any]], sample: Sample) -> Mapping[str, Any] | None:
    record = records.get(sample.key)
    return record if record is not None and record.get("artefact", True) and "uncertainty" in record else None


def _photos(source: Source, chosen: Sequence[tuple[Sample, float]], root: Path) -> Iterator[MaskedPhoto]:
    mask_of = MaskReader(source.stage, source.dataset.classes)
    for sample, score in chosen:
        name = sample.image_path.relative_to(root).as_posix()
        yield MaskedPhoto(sample.id, name, sample.image_path, mask_of(sample), score)


def _version(source: Source) -> str:
    from tag2mask import __version__

    return f"tag2mask {__version__} {source.execution.settings.method} {source.name} {source.stage.key[:8]}"


def _described(to: str, what: str, first: str, notes: Sequence[str], about: About) -> str:
    lines = [f"{what} as {to}, {first} photos first", f"model: {about.version}", f"photos: {about.root}"]
    return "\n".join([*lines, "classes: " + ", ".join(about.classes), *notes]) + "\n"


def _remember(run: Run, entry: Mapping[str, Any]) -> list[str]:
    """Write an export down in the run, so that it is known again when it comes back; what is to be said of it."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        with (run.folder / LEDGER).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"when": when, **entry}) + "\n")
    except OSError as error:  # somebody else's run: what was asked for is there
        return [
            f"{run.folder / LEDGER} cannot be written ({error.strerror}): when corrections come back, they are "
            "compared with the masks of that day"
        ]
    return []


def exports_of(run: Run) -> list[dict[str, Any]]:
    """What left a run, oldest first: ``when, to, what, first, ids`` (None: all photos), ``stage, key``."""
    return read_jsonl(run.folder / LEDGER)
