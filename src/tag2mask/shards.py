"""Work shared by tasks that never talk to each other, as the arrays of SLURM and Kubernetes start them: each has a
number, does its share, and leaves a manifest that says so."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tag2mask.errors import InputError, listed, some
from tag2mask.files import read_object, write_json

T = TypeVar("T")

FOLDER = ".shards"  # beside the work: manifests and locks


@dataclass(frozen=True)
class Shard:
    """Number ``number`` of ``count``, from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """``3/10``.

        Raises:
            InputError: it is something else.
        """
        parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
            raise InputError(
                f"--shard {text}: give number/count, from 1/10 to 10/10 (SLURM: --array=1-10 and --shard "
                "$SLURM_ARRAY_TASK_ID/10)"
            )
        return cls(int(parts[1]), int(parts[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """The share: every so-manieth, so that what comes late in a list is not one shard's alone."""
        return items[self.number - 1 :: self.count] if self.count > 1 else items


WHOLE = Shard()


@contextlib.contextmanager
def held(folder: Path, shard: Shard) -> Iterator[None]:
    """Work on a shard that no other process works on.

    Raises:
        InputError: one does, or there cannot be such a folder.
    """
    import filelock

    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a file system on which nobody makes folders, as /proc
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; give another --out") from error
    lock = filelock.FileLock(folder / FOLDER / f"{shard.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        what = f"shard {shard} of {folder}" if shard.count > 1 else str(folder)
        raise InputError(f"another process is working on {what}: wait for it to end") from error
    try:
        yield
    finally:
        lock.release()


def held_by_others(folder: Path) -> list[str]:
    """The shards that are being worked on."""
    import filelock

    names = []
    for path in sorted((folder / FOLDER).glob("*-of-*.lock")):
        try:
            with filelock.FileLock(path, timeout=0):
                pass
        except filelock.Timeout:
            names.append(path.stem.replace("-of-", "/"))
    return names


@contextlib.contextmanager
def deciding(folder: Path, seconds: float = 300.0) -> Iterator[None]:
    """What one shard at a time does, the others wait.

    Raises:
        InputError: they waited too long.
    """
    import filelock

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / FOLDER / "deciding.lock", timeout=seconds):
            yield
    except filelock.Timeout as error:
        raise InputError(
            f"another process has held {folder / FOLDER} for {seconds:.0f} seconds: run the same command again when "
            "it has ended"
        ) from error


def finish(folder: Path, shard: Shard, content: dict[str, Any]) -> None:
    """Write a shard's manifest: its share is done."""
    write_json(folder / FOLDER / f"{shard.name}.json", {"number": shard.number, "count": shard.count, **content})


def begin(folder: Path, shard: Shard) -> None:
    """Forget that the shard was done: it is worked on again."""
    (folder / FOLDER / f"{shard.name}.json").unlink(missing_ok=True)


def manifests(folder: Path, key: str | None = None) -> list[dict[str, Any]]:
    """Manifests of the shards that are done, by number; with ``key`` only those of that key."""
    paths = (folder / FOLDER).glob("*-of-*.json")
    contents = [content for path in paths if (content := read_object(path)) and {"number", "count"} <= content.keys()]
    return sorted((c for c in contents if key is None or c.get("key") == key), key=lambda c: (c["count"], c["number"]))


def check_complete(folder: Path, done: Sequence[dict[str, Any]], again: str) -> None:
    """Every shard is there once.

    Args:
        done: manifests.
        again: the command that a shard is made with.

    Raises:
        InputError: shards are missing, or of different counts, which overlap.
    """
    counts = sorted({int(content["count"]) for content in done})
    if not counts:
        raise InputError(f"{folder} holds no finished shard: run {again} --shard 1/N and so on first")
    if len(counts) > 1:
        few = [f"{c['number']}/{c['count']}" for c in done if c["count"] != counts[-1]]
        raise InputError(
            f"{folder} holds shards of {' and of '.join(map(str, counts))}, which overlap ({listed(few)}): delete the "
            f"manifests of one kind in {folder / FOLDER}, and run what is missing of the other"
        )
    missing = sorted(set(range(1, counts[0] + 1)) - {int(content["number"]) for content in done})
    if missing:
        raise InputError(
            f"{len(missing)} of {some(counts[0], 'shard')} of {folder} not done: run {again} --shard {missing[0]}/"
            f"{counts[0]}" + (f" (and {listed(map(str, missing[1:]), 10)})" if missing[1:] else "")
        )


def is_newer(path: Path, than: int) -> bool:
    """Whether a file is there, not empty, and was written after a time in nanoseconds."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a million of these)
    except OSError:
        return False
    return status.st_size > 0 and status.st_mtime_ns > than
