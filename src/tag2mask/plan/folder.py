"""The run folder: where each stage's artefacts lie, when a stage is done, how results of other settings are kept.

A run is a folder of stages. A stage's folder holds its artefacts and, in ``.stage``, ``key.json`` (what it is made
from, written first), ``records.jsonl`` and ``manifest.json`` (count, seconds, written last). A stage is done when it
has a manifest and everything that the manifest promises is there.

A stage that lies there under another key is moved aside, never deleted, and taken back when its settings return.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask import processes, shards
from tag2mask.errors import InputError, listed
from tag2mask.files import (
    bytes_digest,
    check_outside_runs,
    end_last_line,
    iterate_jsonl,
    read_object,
    read_sealed,
    write_json,
    write_sealed,
)
from tag2mask.naming import levels, spread_name
from tag2mask.software import software

log = logging.getLogger("tag2mask")

VERSION = 2  # of the layout of a run folder; a folder of another version is refused, never guessed at
SUBFOLDERS = "subfolders"  # in key.json and manifest.json of a stage: its depth
OWN = ".stage"  # in a stage's folder, what is not an artefact; ids of photos never begin with a dot
BUNDLE = "tag2mask.json"  # in a segmenter that left its run, as tag2mask.deploy.stored.FILE
ASIDE = ".aside"  # in a run's folder, results of other settings


@dataclass(frozen=True)
class StageFolder:
    """One stage's folder.

    Attributes:
        depth: how many subfolders deep its artefacts lie (:func:`tag2mask.naming.levels`).
    """

    folder: Path
    key: str
    depth: int = 0

    @property
    def own(self) -> Path:
        """The folder of what is not an artefact."""
        return self.folder / OWN

    @property
    def records(self) -> Path:
        return self.own / "records.jsonl"

    def records_of(self, worker: str) -> Path:
        """What a process or shard remembers of its photos while the stage is worked on; "0" is the main process."""
        return self.records if worker == "0" else self.own / f"records-{worker}.jsonl"

    @property
    def columns(self) -> Path:
        """The records of checked photos once more, quick to read (:mod:`tag2mask.data.checked`)."""
        return self.own / ".columns.npz"

    def recorded(self) -> list[int]:
        """Size and time of the file of records: what the columns are of."""
        try:
            status = self.records.stat()
        except OSError:
            return []
        return [status.st_size, status.st_mtime_ns]

    def gather_records(self) -> None:
        """Add what other processes and shards remembered to the main process's file."""
        for path in sorted(self.own.glob("records-*.jsonl")):
            end_last_line(self.records)
            with self.records.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in iterate_jsonl(path))  # no line that was cut
            path.unlink()

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def has_manifest(self) -> bool:
        return self.manifest().get("key") == self.key

    def path(self, id: str, suffix: str) -> Path:
        """Where the artefact of one photo lies; an id may contain ``/``."""
        return self.folder / self.name(id, suffix)

    def name(self, id: str, suffix: str) -> str:
        """The same, from this folder on, with forward slashes."""
        return f"{spread_name(id, self.depth)}{suffix}"

    def manifest(self) -> dict[str, Any]:
        """Count, seconds and facts of the finished stage; empty while it is not finished."""
        return read_sealed(self.own / "manifest.json") or {}

    def finish(self, *, count: int, seconds: float, files: Sequence[str] = (), **more: object) -> None:
        """Mark the stage done. Seconds of interrupted sessions add up, and what software each of them ran is kept.

        Args:
            files: names of files that it has besides its artefacts, of which the bytes are remembered.
        """
        total = round(self.earlier_seconds() + seconds, 2)
        more = {"software": self._software(), **more}
        more = {"files": {name: bytes_digest(self.folder / name) for name in files}, **self._subfolders, **more}
        write_sealed(self.own / "manifest.json", {"key": self.key, "count": count, "seconds": total, **more})
        (self.own / "seconds.json").unlink(missing_ok=True)

    @property
    def _subfolders(self) -> dict[str, int]:
        return {SUBFOLDERS: self.depth} if self.depth else {}

    def begin(self, content: Mapping[str, Any]) -> None:
        """Say what the stage is made from."""
        write_sealed(self.own / "key.json", {"key": self.key, **content, **self._subfolders})

    def as_written(self, name: str) -> bool:
        """Whether one of these files holds the bytes that it held when the stage was done."""
        path, digests = self.folder / name, self.manifest().get("files")
        return path.is_file() and isinstance(digests, dict) and digests.get(name) == bytes_digest(path)

    def reopen(self) -> None:
        """Not done any more: something that it promised is missing."""
        done = self.manifest()
        self._remember(done.get("seconds", 0.0), done.get("software", []))
        (self.own / "manifest.json").unlink(missing_ok=True)
        for path in (self.own / shards.FOLDER).glob("*-of-*.json"):  # each shard has to look again
            path.unlink(missing_ok=True)

    def pause(self, seconds: float) -> None:
        """Remember time spent when a session ends before the stage is done."""
        self._remember(round(self.earlier_seconds() + seconds, 2), self._software())

    def _remember(self, seconds: float, software: Sequence[Mapping[str, str | None]]) -> None:
        write_json(self.own / "seconds.json", {"seconds": seconds, "software": software})

    def _software(self) -> list[dict[str, str | None]]:
        """What earlier sessions on the unfinished stage ran, and this one."""
        earlier = (read_object(self.own / "seconds.json") or {}).get("software")
        known = earlier if isinstance(earlier, list) else []
        return known if software() in known else [*known, software()]

    def earlier_seconds(self) -> float:
        """Seconds of earlier sessions on the unfinished stage."""
        seconds = (read_object(self.own / "seconds.json") or {}).get("seconds", 0.0)
        return float(seconds) if isinstance(seconds, (int, float)) else 0.0


class Run:
    """A run folder held by this process, or, where several work on it, by the main one.

    Args:
        folder: made when missing.
        existing: open an existing run only (for ``predict`` and ``report``); an absent one is an error.

    Raises:
        InputError: another process works in the folder, it holds something else, or another layout version.
    """

    def __init__(self, folder: Path, *, existing: bool = False) -> None:
        self.folder = folder
        self._lock = None
        described = _description(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give a folder for --out")
        if existing and described is None:
            if (folder / BUNDLE).is_file():
                raise InputError(
                    f"{folder} is a bundle of a segmenter, not a run folder: give the run folder that it was exported "
                    f'from, or open the bundle in Python with tag2mask.load("{folder}")'
                )
            state = "its run.json is damaged" if (folder / "run.json").exists() else "it has no run.json"
            raise InputError(
                f"{folder} is not a run folder ({state}): give the --out folder of a training run, or run its command "
                "again, which writes run.json anew"
            )
        if described is None and not self._looks_like_a_run():
            raise InputError(f"{folder} is not empty and not a run folder: give another --out, or empty it")
        if described is None:
            check_outside_runs(folder, is_run=True)
        version = VERSION if described is None else described.get("version")
        if version != VERSION:
            raise InputError(
                f"{folder} was written by another version of tag2mask (layout {version}, this one reads {VERSION}): "
                "give another --out, or use the version that made it"
            )

    def _looks_like_a_run(self) -> bool:
        """Empty, new, or the run.json of a run was lost."""
        if not self.folder.exists():
            return True
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        return not names or any((self.folder / name / OWN).is_dir() for name in names) or names <= {"run.json"}

    def __enter__(self) -> Run:
        processes.from_main(self._hold)
        with processes.together():
            if not (self.folder / "run.json").exists():
                raise InputError(
                    f"process {processes.rank()} does not see {self.folder / 'run.json'}, which the main process has "
                    "written: give an --out on a file system that all machines share"
                )
        return self

    def check_free(self) -> None:
        """Nobody works on the whole of the run; it is made where it is missing.

        Raises:
            InputError: somebody does.
        """
        self._hold(alone=False)
        self.__exit__()

    def _hold(self, *, alone: bool = True) -> None:
        import filelock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the run folder {self.folder}: {error.strerror}; give another --out"
            ) from error
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(
                f"another process is working in {self.folder}: wait for it to end, or give another --out"
            ) from error
        self._lock = lock
        if alone and (others := shards.held_by_others(self.folder)):
            raise InputError(f"shards of {self.folder} are being worked on ({listed(others)}): wait for them to end")
        if _description(self.folder) is None:
            self.describe({})

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def describe(self, content: Mapping[str, object]) -> None:
        """Write ``run.json``: the settings, classes, command, sessions and versions of the run."""
        write_json(self.folder / "run.json", {"version": VERSION, **content})

    def description(self) -> dict[str, Any]:
        return _description(self.folder) or {}

    def facts(self, names: Iterable[str]) -> dict[Any, str]:
        """These facts as the stages that lie there were made of them."""
        keys = (read_object(path) or {} for path in sorted(self.folder.glob(f"*/{OWN}/key.json")))
        of_stages = [facts for key in keys if isinstance(facts := key.get("facts"), dict)]
        return {name: facts[name] for name in names for facts in of_stages if isinstance(facts.get(name), str)}

    def described(self) -> dict[str, Any]:
        """``run.json`` with all that a reader of the run needs.

        Raises:
            InputError: something of it is not there.
        """
        content = self.description()
        kinds: dict[str, type] = {"settings": dict, "classes": list, "data": str, "sessions": list}
        lacking = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
        if lacking:
            raise InputError(
                f"{self.folder / 'run.json'} is damaged (it lacks {listed(lacking)}): run the run's command again, "
                "which writes it anew"
            )
        return content

    def current(self, name: str) -> StageFolder | None:
        """The stage of this name as it lies there; None where there is none. A finished one is known by its manifest,
        too."""
        for file in ("key.json", "manifest.json"):
            content = read_sealed(self.folder / name / OWN / file) or {}
            if isinstance(content.get("key"), str):
                return StageFolder(self.folder / name, content["key"], content.get(SUBFOLDERS, 0))
        return None

    def open(
        self, name: str, key: str, content: Mapping[str, Any], *, photos: int = 0, tidy: bool = True
    ) -> StageFolder:
        """The folder of a stage to work in, made where it is missing.

        What lies there under another key is moved aside first; what was moved aside under this key is taken back.

        Args:
            content: what the key is the digest of, kept for :mod:`tag2mask.plan.explain`.
            photos: of how many it makes artefacts.
            tidy: remove what a process that was killed left half-written; False: others may be writing.
        """
        present = self.current(name)
        if present is None or present.key != key:
            self.set_aside(name)
            self.take_back(name, key)
            present = self.current(name)
        stage = present or StageFolder(self.folder / name, key, levels(photos))
        if (read_object(stage.own / "key.json") or {}).get("key") != key:
            stage.begin(content)
        for leftover in _leftovers(stage) if tidy else ():
            leftover.unlink()
        return stage

    def stages(self) -> list[str]:
        """Names of the stages that lie there."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{OWN}") if path.parent.name[:1] != ".")

    def set_aside(self, name: str) -> None:
        """Move a stage's folder out of the run; an empty one is removed."""
        folder, present = self.folder / name, self.current(name)
        if not folder.exists():
            return
        if present is None or (not any(path.name != OWN for path in folder.iterdir()) and not present.has_manifest):
            _remove(folder)
            return
        place = self.folder / ASIDE / name / present.key
        if place.exists():
            _remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(place)
        os.utime(place)  # the oldest goes first when space is short
        log.info("%s: results of other settings are kept in %s", name, place)

    def take_back(self, name: str, key: str) -> bool:
        """Put back what was moved aside under this key, if it was and nothing is in its place."""
        kept = self.folder / ASIDE / name / key
        if not kept.is_dir() or (self.folder / name).exists():
            return False
        kept.replace(self.folder / name)
        log.info("%s: results of these settings were kept and are used again", name)
        return True

    def bound_aside(self, limit_gb: float) -> None:
        """Delete the oldest of what was moved aside beyond this size."""
        places = sorted((self.folder / ASIDE).glob("*/*"), key=lambda path: path.stat().st_mtime)
        sizes = {place: sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) for place in places}
        for place in places:
            if sum(sizes.values()) <= limit_gb * 1e9:
                return
            log.info("%s is deleted: results of other settings took more than %g GB (--aside-gb)", place, limit_gb)
            del sizes[place]
            _remove(place)


def _description(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` holds; None where there is none, or it is damaged."""
    content = read_object(folder / "run.json")
    return content if content is not None and "version" in content else None


def _remove(folder: Path) -> None:
    """Delete a folder so that a kill in between leaves nothing that looks whole: renamed first."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    with contextlib.suppress(OSError):
        shutil.rmtree(doomed)
    folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _leftovers(stage: StageFolder) -> Iterator[Path]:
    """Temporary files of a process that was killed while it wrote; none in a finished stage."""
    if not stage.has_manifest:
        yield from stage.folder.rglob(".*.tmp")
