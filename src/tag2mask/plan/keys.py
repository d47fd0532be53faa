"""Keys of stages, derived from what they declare."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tag2mask.files import digest
from tag2mask.plan.facts import RunData
from tag2mask.plan.stage import Stage
from tag2mask.plan.view import declared_settings


def content_of(stage: Stage, settings: Any, data: RunData, reads: Mapping[str, str]) -> dict[str, Any]:
    """What decides a stage, as JSON data; its key is the digest of this.

    Args:
        reads: keys of the stages it reads.
    """
    return {
        "settings": declared_settings(settings, stage),
        "facts": {name: data.fact(name) for name in stage.facts},
        "constants": dict(stage.constants),
        "reads": dict(reads),
    }


def keys_of(stages: Sequence[Stage], settings: Any, data: RunData, done: Collection[str] = ()) -> dict[str, str]:
    """Stage name to key, of a whole plan.

    Args:
        done: names of the stages that are done, for those that read others only where they are there.
    """
    keys: dict[str, str] = {}
    for stage in stages:
        reads = {name: keys[name] for name in reads_of(stage, done)}
        keys[stage.name] = digest(content_of(stage, settings, data, reads))
    return keys


def reads_of(stage: Stage, done: Collection[str]) -> list[str]:
    """Names of the stages that a stage reads."""
    return [*stage.reads, *(name for name in stage.reads_if_done if name in done)]
