"""The run folder: where each artefact lies, how it is written, how an interrupted run is taken up again.

A run is a folder of stages. A stage's folder holds ``key.json`` (what it is made from: its settings and the keys
of the stages it reads, written first), its artefacts, and ``manifest.json`` (count and seconds, written last: its
presence means *done*). Opening a stage whose key differs empties its folder, so a changed setting redoes that
stage and the ones that read it, nothing else; an equal key without a manifest goes on where it stopped.

Every file is written under a temporary name in the same folder, flushed, and renamed. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from tag2mask.errors import InputError
from tag2mask.types import LocalizationMaps

VERSION = 1  # of the layout of a run folder; a folder of another version is refused, never guessed at


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears whole or not at all. A full disk is one clear line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise InputError(
                f"disk full while writing {path}: free some space and run the same command again; finished work is kept"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    with atomic(path) as file:
        json.dump(content, file, indent=1, sort_keys=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON (line {error.lineno}): delete it and run again") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none when there is no file; a line cut by an interruption is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def digest(content: object) -> str:
    """Sixteen hex digits that change when anything in ``content`` (plain JSON data) does."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Stage:
    """One stage's folder. ``count`` and ``seconds`` are of the finished stage."""

    folder: Path
    key: str

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def done(self) -> bool:
        return self.manifest.exists()

    def path(self, id: str, suffix: str) -> Path:
        """Where the artefact of one image lies; an id may contain ``/``."""
        return self.folder / f"{id}{suffix}"

    def finish(self, *, count: int, seconds: float, **more: object) -> None:
        """Mark the stage done. Seconds of interrupted sittings add up."""
        before = self._earlier_seconds()
        write_json(self.manifest, {"key": self.key, "count": count, "seconds": round(before + seconds, 2), **more})
        (self.folder / "seconds.json").unlink(missing_ok=True)

    def pause(self, seconds: float) -> None:
        """Remember time spent when a sitting ends before the stage is done."""
        write_json(self.folder / "seconds.json", {"seconds": round(self._earlier_seconds() + seconds, 2)})

    def _earlier_seconds(self) -> float:
        path = self.folder / "seconds.json"
        return float(read_json(path)["seconds"]) if path.exists() else 0.0

    def read_manifest(self) -> dict[str, Any]:
        return read_json(self.manifest)


class Run:
    """A run folder held by this process.

    Args:
        folder: made when missing.
        resume: open an existing run only (for ``predict`` and ``report``); an absent one is an error.

    Raises:
        InputError: another process works in the folder, it holds something else, or another layout version.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder = folder
        marker = folder / "run.json"
        if resume and not marker.exists():
            raise InputError(f"{folder} is not a run folder (no run.json): give the --out folder of a training run")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give a folder for --out")
        if folder.exists() and not marker.exists() and any(p.name != ".lock" for p in folder.iterdir()):
            raise InputError(f"{folder} is not empty and not a run folder: give another --out, or empty it")
        if marker.exists():
            found = read_json(marker).get("version")
            if found != VERSION:
                raise InputError(
                    f"{folder} was written by another version of tag2mask (layout {found}, this one reads {VERSION}): "
                    "give another --out, or use the version that made it"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run folder {folder}: {error.strerror}; give another --out") from error
        self._lock = None

    def __enter__(self) -> Run:
        import filelock

        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(
                f"another process is working in {self.folder}: wait for it to end, or give another --out"
            ) from error
        self._lock = lock
        if not (self.folder / "run.json").exists():
            self.describe({})
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def describe(self, content: Mapping[str, object]) -> None:
        """Write ``run.json``: the settings, classes, command and versions of the run."""
        write_json(self.folder / "run.json", {"version": VERSION, **content})

    def description(self) -> dict[str, Any]:
        return read_json(self.folder / "run.json")

    def stage(self, name: str, settings: object, reads: Sequence[Stage] = ()) -> Stage:
        """Open the stage ``name`` made from ``settings`` (plain JSON data) and the stages it ``reads``.

        What lies there under another key is removed first.
        """
        content = {"settings": settings, "reads": {s.folder.name: s.key for s in reads}}
        content = json.loads(json.dumps(content, default=str))
        key = digest(content)
        folder = self.folder / name
        marker = folder / "key.json"
        if not marker.exists() or read_json(marker).get("key") != key:
            if folder.exists():
                shutil.rmtree(folder)
            write_json(marker, {"key": key, **content})
        elif not (folder / "manifest.json").exists():
            for leftover in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
        return Stage(folder, key)

    def open_stage(self, name: str) -> Stage:
        """A finished stage as it lies there, for readers of a run."""
        folder = self.folder / name
        if not (folder / "manifest.json").exists():
            raise InputError(f"{self.folder} has no finished stage '{name}': run `tag2mask train` to its end first")
        return Stage(folder, read_json(folder / "key.json")["key"])


class Clock:
    """Seconds since it was made, for a stage's manifest."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


def write_maps(path: Path, maps: LocalizationMaps) -> None:
    """One image's localization maps as npz: half precision, present classes only."""
    arrays = {
        "classes": np.asarray(maps.classes, np.int16),
        "scores": maps.scores.astype(np.float16),
        "size": np.asarray(maps.size, np.int32),
    }
    if maps.covered is not None:
        arrays["covered"] = np.asarray(maps.covered, np.float32)
    with atomic(path, "wb") as file:
        np.savez(file, **arrays)


def read_maps(path: Path, id: str) -> LocalizationMaps:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            classes = tuple(int(c) for c in file["classes"])
            height, width = (int(v) for v in file["size"])
            covered = float(file["covered"]) if "covered" in file else None
            return LocalizationMaps(id, classes, file["scores"], (height, width), covered)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read the maps of '{id}' at {path} ({error}): delete that file and run again"
        ) from error
