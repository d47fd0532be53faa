"""What a per-photo stage remembers of its photos: JSON lines, read as they are asked for, put in the photos' order
without holding them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tag2mask.files import atomic, iterate_jsonl
from tag2mask.plan.stage import Record
from tag2mask.types import SampleKey

Types = Mapping[str, tuple[type, ...]]
NO_TYPES: Types = MappingProxyType({})


def read_records(path: Path, holds: Types = NO_TYPES) -> Iterator[Record]:
    """The records of a finished stage that are not damaged, in the order of its photos, read as they are asked for.

    Args:
        holds: the stage's ``record``.
    """
    return filter(_Whole(holds), iterate_jsonl(path))


@dataclass(frozen=True)
class Records:
    """:func:`read_records` as often as wanted."""

    path: Path
    holds: Types

    def __iter__(self) -> Iterator[Record]:
        return read_records(self.path, self.holds)


class _Whole:
    """Whether a record holds what it should."""

    def __init__(self, holds: Types) -> None:
        self.types = [*{"id": (str,), "split": (str,), **holds}.items()]

    def __call__(self, record: Mapping[str, Any]) -> bool:
        return all(name in record and type(record[name]) in types for name, types in self.types)


def put_in_order(path: Path, holds: Types, keys: Iterable[SampleKey]) -> list[str]:
    """Write the records anew in the order of these photos, the last of each, without damaged ones and those of other
    photos. Gives the ids of photos without an artefact, sorted.

    The records stay on the disk meanwhile: what is held of each is where it stands.
    """
    numbers: dict[SampleKey, int] = {}
    starts, without = array("Q"), set[SampleKey]()
    for start, record in _with_places(path, holds):
        key = record["split"], record["id"]
        numbers[key] = len(starts)
        starts.append(start)
        without.discard(key)
        if record.get("artefact") is False:
            without.add(key)
    lacking: list[str] = []
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with path.open("rb") as old, atomic(path, "wb") as new:
        for key in keys:
            number = numbers.get(key)
            if number is not None:
                old.seek(starts[number])
                new.write(old.readline().rstrip(b"\n") + b"\n")
                if key in without:
                    lacking.append(key[1])
    return sorted(lacking)


def _with_places(path: Path, holds: Types) -> Iterator[tuple[int, Record]]:
    """Each record that is not damaged, and the byte at which its line begins."""
    if not path.exists():
        return
    whole, start = _Whole(holds), 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and whole(record):
                yield start, record
            start += len(line)
