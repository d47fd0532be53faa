"""What a run would do, before it does it: what is done, what would be made anew, and because of which setting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from tag2mask.files import digest, read_object
from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import ASIDE, Run, StageFolder
from tag2mask.plan.keys import content_of, reads_of
from tag2mask.plan.photos import read_records
from tag2mask.plan.stage import Stage
from tag2mask.plan.view import differences


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
    keys: dict[str, str] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)  # stages that a run would work on


def outlook(
    run: Run | None, stages: Sequence[Stage], settings: Any, data: RunData, wanted: Collection[str]
) -> list[Outlook]:
    """What carrying out the wanted stages would do. Changes nothing.

    Args:
        run: None: there is no run folder yet.
    """
    first = stages[0]
    checked = run.current(first.name) if run is not None else None
    if run is None or checked is None or not checked.has_manifest:
        return [Outlook(stage.name, stage.title, "to do") for stage in stages if stage.name in wanted]
    data = data.checked(read_records(checked.records))
    known, rows = _Known(), []
    for stage in stages:
        row = _of_stage(run, stage, settings, data, known)
        if stage.name in wanted or row.state != "to do":
            rows.append(row)
    return rows


def _of_stage(run: Run, stage: Stage, settings: Any, data: RunData, known: _Known) -> Outlook:
    reads = {name: known.keys[name] for name in reads_of(stage, known.keys)}
    content = content_of(stage, settings, data, reads)
    key = known.keys[stage.name] = digest(content)
    present = run.current(stage.name)
    kept = StageFolder(run.folder / ASIDE / stage.name / key, key)
    minutes = _minutes(present) if present is not None else _minutes(kept)
    if present is not None and present.key == key:
        state = "done" if present.has_manifest else "begun"
        upstream = sorted(known.unsettled & reads.keys())
        if state != "done":
            known.unsettled.add(stage.name)
        return Outlook(stage.name, stage.title, state, tuple(f"{name} is made anew" for name in upstream), minutes)
    if kept.has_manifest:
        return Outlook(stage.name, stage.title, "kept", (), minutes)
    known.unsettled.add(stage.name)
    if present is None:
        return Outlook(stage.name, stage.title, "to do", (), minutes)
    return Outlook(stage.name, stage.title, "anew", tuple(_reasons(present, content)), minutes)


def _reasons(present: StageFolder, content: dict[str, Any]) -> list[str]:
    """What differs from what the stage was made from; the stages it reads first, since they explain the rest."""
    before = read_object(present.own / "key.json") or {}
    changed = {
        part: list(differences(before.get(part, {}), content[part]))
        for part in ("reads", "settings", "constants", "facts")
    }
    if changed["reads"]:
        return [f"{line.partition(':')[0]} is made anew" for line in changed["reads"]]
    facts = [f"other {line.partition(':')[0]}" for line in changed["facts"]]
    constants = [line.partition(":")[0] for line in changed["constants"]]
    return list(dict.fromkeys([*changed["settings"], *facts, *constants]))


def _minutes(stage: StageFolder) -> float | None:
    seconds = stage.manifest().get("seconds")
    return seconds / 60 if isinstance(seconds, (int, float)) else None
