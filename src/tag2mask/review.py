"""What a person decided on the photos of a run: ``RUN/review``.

``decisions.jsonl`` gets one JSON object a decision and is never rewritten; the last line of a photo counts. The masks
that a person accepted or painted lie in ``masks/<split>/<id>.png`` (index PNG, with ``classes.txt``), those that a
later decision replaced in ``replaced/<split>/<id>.<revision>.png``.

A mask is first written to ``new/<split>/<id>.<revision>.png`` and takes its place once its decision is written, so that
a kill or a full disk in between leaves every decision its own mask; :meth:`Review.mask_path` knows where it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from tag2mask.data.images import write_index_mask
from tag2mask.data.tag_changes import TagChange, TagChanges
from tag2mask.errors import InputError, listed
from tag2mask.evaluate import as_written, classes_in, write_classes
from tag2mask.naming import safe_name
from tag2mask.types import PhotoFacts, SampleKey, drawn_on

FOLDER = "review"
Verdict = Literal["accepted", "corrected", "rejected", "withdrawn"]
"""accepted: the mask as it was shown. corrected: a person painted, or changed the tags. rejected: no mask of use.
withdrawn: as if nothing had been decided."""
VERDICTS: dict[str, Verdict] = {name: name for name in get_args(Verdict)}


@dataclass(frozen=True)
class Decision:
    """One line of ``decisions.jsonl``."""

    split: str
    id: str
    decision: Verdict
    tags: tuple[str, ...] | None  # names of the photo's classes as the person left them; None: nothing was said of them
    given: tuple[str, ...] | None  # names of the photo's classes as the data set has them; None: it says nothing of it
    mask: str | None  # the mask's path, relative to ``RUN/review``; None: the decision leaves no mask
    time: str  # UTC, ISO 8601
    who: str
    revision: int  # decisions on this photo so far, this one included
    photo: str = ""  # digest of the photo's bytes; empty: not kept

    @property
    def key(self) -> SampleKey:
        return self.split, self.id


class Conflict(Exception):
    """Somebody decided on the photo meanwhile."""

    def __init__(self, current: Decision) -> None:
        super().__init__(f"'{current.id}' was {current.decision} by {current.who or 'somebody'} at {current.time}")
        self.current = current


class Review:
    """The decisions on a run's photos. Several threads and processes may decide at once.

    Args:
        run: the run folder. Nothing is made in it before the first decision.
        classes: of the masks, in the order of their values.
        photos: the run's photos as they are now: a decision on another photo of the same name counts as withdrawn.
            Empty: not known, every decision counts.
    """

    def __init__(
        self, run: Path, classes: tuple[str, ...], photos: Mapping[SampleKey, PhotoFacts] | None = None
    ) -> None:
        self.run, self.classes, self.photos = run, classes, photos or {}
        self.folder = run / FOLDER
        self._latest: dict[SampleKey, Decision] = {}
        self._read = 0  # bytes of the file that are read
        self._thread = threading.RLock()

    @property
    def path(self) -> Path:
        return self.folder / "decisions.jsonl"

    def latest(self) -> dict[SampleKey, Decision]:
        """The last decision on each photo that has one, also of other processes."""
        with self._thread:
            self._read_on()
            return {key: self._as_it_counts(decision) for key, decision in self._latest.items()}

    def of(self, key: SampleKey) -> Decision | None:
        with self._thread:
            self._read_on()
            decision = self._latest.get(key)
            return None if decision is None else self._as_it_counts(decision)

    def _as_it_counts(self, decision: Decision) -> Decision:
        if not self.photos or drawn_on(decision.photo, decision.key, self.photos):
            return decision
        return replace(decision, decision="withdrawn", tags=None, given=None, mask=None)

    def mask_path(self, key: SampleKey) -> Path | None:
        """Where the mask that a person accepted or painted lies; None where there is none."""
        with self._thread:  # not between a decision and its mask's place
            decision = self.of(key)
            if decision is None or decision.mask is None:
                return None
            new = self._new_path(key, decision.revision)
            return new if new.exists() else self.folder / decision.mask

    def check_classes(self, split: str) -> None:
        """
        Raises:
            InputError: the masks of this split were painted when the run had other classes.
        """
        of_split = self.folder / "masks" / safe_name(split)
        if as_written(of_split, self.classes):
            return
        if (named := classes_in(of_split)) != self.classes:
            raise InputError(
                f"the masks in {of_split} are of the classes {listed(named or (), 8)}, and the run's are "
                f"{listed(self.classes, 8)} now: their values would mean other classes"
            )

    def tag_changes(self) -> TagChanges:
        """What the decisions that count change in the data set's tags."""
        said = (
            (key, one) for key, one in self.latest().items() if one.decision != "withdrawn" and one.tags is not None
        )
        changes = {key: _change(one) for key, one in said}
        return {key: change for key, change in changes.items() if change}

    def decide(
        self,
        key: SampleKey,
        verdict: Verdict,
        *,
        mask: np.ndarray | None = None,
        tags: tuple[str, ...] | None = None,
        given: tuple[str, ...] | None = None,
        who: str = "",
        revision: int = 0,
    ) -> Decision:
        """Keep a decision, and its mask ``[height width]`` uint8, which is on the disk before the decision is.

        Args:
            tags: names of the photo's classes as the person left them; ``given``: as the data set has them.
            revision: of the photo's decision that the person saw, 0 for none.

        Raises:
            Conflict: there is another one by now; nothing is written.
            InputError: the run folder is gone, or the disk is full.
        """
        import filelock

        self.check_run()
        self.folder.mkdir(exist_ok=True)
        with self._thread, filelock.FileLock(self.folder / ".lock"):
            self._read_on()
            before = self._latest.get(key)
            if before is not None and before.revision != revision:
                raise Conflict(before)
            if before is not None:
                self._settle(before)
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            number = 1 if before is None else before.revision + 1
            at = self._write_mask(key, number, mask)
            photo = self.photos[key].digest if key in self.photos else ""
            decision = Decision(*key, verdict, tags, given, at, now, who, number, photo)
            self._append(decision)
            with contextlib.suppress(OSError):  # the decision stands; the next one on the photo does what is left
                self._settle(decision)
            self._read_on()
            return self._latest[key]

    def check_run(self) -> None:
        """
        Raises:
            InputError: the run folder is not there any more.
        """
        if not (self.run / "run.json").is_file():
            raise InputError(f"the run folder {self.run} is gone: nothing can be kept until it is back where it was")

    def _new_path(self, key: SampleKey, revision: int) -> Path:
        return self.folder / "new" / f"{safe_name(key[0])}/{safe_name(key[1])}.{revision}.png"

    def _mask_path(self, key: SampleKey) -> Path:
        return self.folder / "masks" / safe_name(key[0]) / f"{safe_name(key[1])}.png"

    def _write_mask(self, key: SampleKey, revision: int, mask: np.ndarray | None) -> str | None:
        """Write the mask of a decision that is still to be written; gives the path where it will lie."""
        new, path = self._new_path(key, revision), self._mask_path(key)
        if mask is None:
            new.unlink(missing_ok=True)  # of a decision that a kill kept from being written
            return None
        of_split = self.folder / "masks" / safe_name(key[0])
        if not (of_split / "classes.txt").exists():
            write_classes(of_split, self.classes)
        new.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(new, mask)
        return path.relative_to(self.folder).as_posix()

    def _settle(self, decision: Decision) -> None:
        """Put the mask of the decision that counts in its place, and aside what lay there. Done again, it does nothing;
        what a kill left undone, it does."""
        new, path = self._new_path(decision.key, decision.revision), self._mask_path(decision.key)
        if path.exists() and (decision.mask is None or new.exists()):  # it is of the decision before
            name = f"{safe_name(decision.split)}/{safe_name(decision.id)}.{decision.revision - 1}.png"
            (self.folder / "replaced" / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(self.folder / "replaced" / name)
        if decision.mask is not None and new.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new.replace(path)

    def _append(self, decision: Decision) -> None:
        with self.path.open("ab+", buffering=0) as file:  # what a full disk kept back must not be written on closing
            before = file.tell()
            cut = before > 0 and _last_byte(file) != b"\n"  # by a kill; the line is left out when read
            line = b"\n" * cut + json.dumps(asdict(decision)).encode() + b"\n"
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)  # who decided is told that nothing is kept
                raise

    def _read_on(self) -> None:
        """Take in whole lines that were written since."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:  # another file in its place
                    self._read = 0
                    self._latest.clear()
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            decision = _decision(line)
            if decision is not None:
                self._latest[decision.key] = decision


def _change(decision: Decision) -> TagChange:
    tags, given = frozenset(decision.tags or ()), frozenset(decision.given or ())
    return TagChange(tags - given, given - tags)


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _decision(line: bytes) -> Decision | None:
    """None for a line that is no decision, as one cut by a kill."""
    try:
        content = json.loads(line)
        content = {"photo": "", **content}  # lines of older versions have none
        values: dict[str, Any] = {f.name: content[f.name] for f in fields(Decision)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if values["decision"] not in VERDICTS:
        return None
    for name in ("tags", "given"):
        if values[name] is not None:
            values[name] = tuple(map(str, values[name]))
    return Decision(**values)
