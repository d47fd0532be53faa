"""What a run would do, before it does it: what is done, what would be made anew, and because of which setting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tag2mask.data.check import CheckedImage
from tag2mask.data.checked import CheckedPhotos
from tag2mask.errors import listed
from tag2mask.files import digest, read_object
from tag2mask.plan.context import Context
from tag2mask.plan.execute import lacking
from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import ASIDE, Run, StageFolder
from tag2mask.plan.keys import content_of, reads_of
from tag2mask.plan.photos import checked_photos, missing
from tag2mask.plan.records import read_records
from tag2mask.plan.stage import Fact, PhotoStage, Stage
from tag2mask.plan.view import differences
from tag2mask.types import Dataset, Sample


@dataclass(frozen=True)
class Outlook:
    """One stage of a plan, as a run would find it."""

    name: str
    title: str
    state: str  # "done", "kept", "begun", "to do", "anew"
    because: tuple[str, ...] = ()
    minutes: float | None = None  # that it took last time


@dataclass
class _Known:
    unread: dict[Fact, str] = field(default_factory=dict)  # facts that a run would find changed, and why
    keys: dict[str, str] = field(default_factory=dict)
    changing: set[str] = field(default_factory=set)  # stages that a run would make under a key nobody knows yet
    states: dict[str, str] = field(default_factory=dict)


def outlook(run: Run, stages: Sequence[Stage], settings: Any, data: RunData, wanted: Collection[str]) -> list[Outlook]:
    """What carrying out the wanted stages would do. Changes nothing; the run folder need not be there."""
    first, *others = stages
    checked = run.current(first.name)
    if checked is None or not checked.has_manifest:
        return [Outlook(stage.name, stage.title, "to do") for stage in stages if stage.name in wanted]
    assert isinstance(first, PhotoStage)
    unread = missing(first, Context(first, settings, data, checked, {}), by_bytes=True)
    said = f"new or changed photos: {listed(sample.id for sample in unread)}"
    known = _Known({fact: said for fact, dataset in _datasets(data).items() if _any_of(unread, dataset)})
    state, because = ("begun", (said,)) if unread else ("done", ())
    rows = [Outlook(first.name, first.title, state, because, _minutes(checked))]
    photos = checked_photos(first, checked)
    if unread:
        photos = CheckedPhotos.of([*read_records(checked.records, first.record), *map(_to_be_read, unread)])
    data = data.checked(photos)
    for stage in others:
        row = _of_stage(run, stage, settings, data, known)
        known.states[stage.name] = row.state
        if stage.name in wanted or row.state != "to do":
            rows.append(row)
    return rows


def _datasets(data: RunData) -> dict[Fact, Dataset]:
    """The facts that are the content of photos, and the photos."""
    return {"photos": data.train, **({} if data.val is None else {"val photos": data.val})}


def _to_be_read(sample: Sample) -> dict[str, Any]:
    """The record of a photo that nobody has read yet: taken to be readable. What depends on its content is
    ``_Known.unread``."""
    return asdict(CheckedImage(sample.id, 1, 1, "not read yet", split=sample.split))


def _any_of(samples: Sequence[Sample], dataset: Dataset) -> bool:
    keys = {sample.key for sample in samples}
    return any(sample.key in keys for sample in dataset.samples)


def _of_stage(run: Run, stage: Stage, settings: Any, data: RunData, known: _Known) -> Outlook:
    reads = {name: known.keys[name] for name in reads_of(stage, known.keys)}
    content = content_of(stage, settings, data, reads)
    key = known.keys[stage.name] = digest(content)
    present = run.current(stage.name)
    aside = StageFolder(run.folder / ASIDE / stage.name / key, key)
    minutes = _minutes(present) if present is not None else _minutes(aside)
    unread = tuple(dict.fromkeys(said for fact, said in known.unread.items() if fact in stage.facts))
    upstream = tuple(_upstream(name, known) for name in reads if name in known.changing)
    if unread or upstream:
        known.changing.add(stage.name)
        state = "to do" if present is None else "anew"
        return Outlook(stage.name, stage.title, state, upstream or unread if present is not None else (), minutes)
    if present is not None and present.key == key:
        gone = lacking(stage, Context(stage, settings, data, present, {})) if present.has_manifest else ""
        state = "done" if present.has_manifest and not gone else "begun"
        return Outlook(stage.name, stage.title, state, (gone,) if gone else (), minutes)
    if aside.has_manifest:
        return Outlook(stage.name, stage.title, "kept", (), minutes)
    if present is None:
        return Outlook(stage.name, stage.title, "to do", (), minutes)
    return Outlook(stage.name, stage.title, "anew", tuple(_reasons(present, content, known)), minutes)


def _upstream(name: str, known: _Known) -> str:
    return f"{name} is made anew" if known.states.get(name) == "anew" else f"{name} is still to be made"


def _reasons(present: StageFolder, content: dict[str, Any], known: _Known) -> list[str]:
    """What differs from what the stage was made from; the stages it reads first, since they explain the rest."""
    before = read_object(present.own / "key.json") or {}
    changed = {
        part: list(differences(before.get(part, {}), content[part]))
        for part in ("reads", "settings", "constants", "facts")
    }
    # a stage that it read before and does not now needs no word: another is in its place, or a setting says why
    names = [line.partition(":")[0] for line in changed["reads"]]
    if upstream := [_upstream(name, known) for name in names if name in content["reads"]]:
        return upstream
    facts = [f"other {line.partition(':')[0]}" for line in changed["facts"]]
    constants = [line.partition(":")[0] for line in changed["constants"]]
    return list(dict.fromkeys([*changed["settings"], *facts, *constants])) or [f"without {name}" for name in names[:1]]


def _minutes(stage: StageFolder) -> float | None:
    seconds = stage.manifest().get("seconds")
    return seconds / 60 if isinstance(seconds, (int, float)) else None
