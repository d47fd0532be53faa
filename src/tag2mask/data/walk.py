"""Which files a folder holds: photos, and what is left out. Names only; nothing is opened."""

from __future__ import annotations

import os
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tag2mask.data.finding import Finding
from tag2mask.data.words import folded
from tag2mask.errors import InputError, listed, some

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm",
    ".pgm", ".pnm",
)  # fmt: skip
"""File names that are taken for photos when a folder is read."""

# Folders that systems and archives leave behind.
SYSTEM = frozenset({"@eadir", "__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle"})

# What lies in folders of photos and is none: no word is lost about it.
_NO_PHOTOS = frozenset({
    ".bat", ".cfg", ".conf", ".csv", ".data", ".db", ".doc", ".docx", ".gz", ".htm", ".html", ".ini", ".ipynb",
    ".json", ".jsonl", ".lnk", ".lock", ".log", ".mat", ".md", ".names", ".npy", ".npz", ".odt", ".onnx", ".pdf",
    ".pickle", ".pkl", ".pt", ".pth", ".py", ".rar", ".rst", ".rtf", ".safetensors", ".sh", ".tar", ".tgz", ".toml",
    ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
})  # fmt: skip
_NO_ENDING = frozenset(
    ["authors", "changelog", "copying", "dockerfile", "license", "makefile", "notice", "readme", "version"]
)


def ignored(name: str) -> bool:
    """Hidden files and folders, and those that systems leave behind."""
    return name.startswith(".") or name.casefold() in SYSTEM


_RUN_FILES = frozenset(["run.json", "key.json", "manifest.json"])


def is_run(names: Iterable[str]) -> bool:
    """Whether a folder that holds these names is a run of tag2mask, or one of its stages."""
    marks = _RUN_FILES.intersection(names)
    return "run.json" in marks or len(marks) > 1


Made = Literal["runs", "predictions", "exports"]
_PREDICTED = ".predicted.json"  # as tag2mask.evaluate.matching.MADE_BY
_EXPORT_FILES = frozenset(["export.txt", "scores.csv"])  # of every format
_MARKS = _RUN_FILES | _EXPORT_FILES | {_PREDICTED}
_SAID: dict[Made, str] = {
    "runs": "runs of tag2mask in {base} are not read: {names}",
    "predictions": "predictions of tag2mask in {base} are no photos, left out: {names}",
    "exports": "exports of tag2mask in {base} are no photos, left out: {names}",
}


def made(names: Iterable[str]) -> Made | None:
    """What of tag2mask's own a folder that holds these names is: its images are no photos of a data set around it."""
    marks = _MARKS.intersection(names)
    if is_run(marks):
        return "runs"
    if _PREDICTED in marks:
        return "predictions"
    return "exports" if marks >= _EXPORT_FILES else None


def made_in(folder: Path) -> Made | None:
    """:func:`made` of a folder that lies there."""
    return made(name for name in _MARKS if (folder / name).exists())


@dataclass
class Walk:
    """What lies under a folder. Names are relative to it, with forward slashes."""

    photos: list[str] = field(default_factory=list)  # sorted
    others: dict[str, list[str]] = field(default_factory=dict)  # by lower-case suffix: files that may be photos
    counts: Counter[str] = field(default_factory=Counter)  # how many there are of each of `others`, which has three
    irregular: list[str] = field(default_factory=list)  # links that lead nowhere, pipes, devices
    made: dict[Made, list[str]] = field(default_factory=dict)  # folders of tag2mask's own; what they hold is not listed


def walk(base: Path, skip: frozenset[str] = frozenset()) -> Walk:
    """Everything under ``base`` that may be a photo. Links to folders are followed, each folder once.

    Args:
        skip: folders that are left out, relative to ``base``.

    Raises:
        InputError: a folder may not be read.
    """
    result = Walk()
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:  # not by recursion: folders may be nested a thousand deep
        prefix = waiting.pop()
        place = os.path.join(base, prefix)  # noqa: PTH118 - a string on purpose, this runs for every folder
        entries = _entries(place, seen)
        if prefix and (what := made(entry.name for entry in entries)):
            result.made.setdefault(what, []).append(prefix.rstrip("/"))
            continue
        for entry in entries:
            name = prefix + entry.name
            if ignored(entry.name) or name in skip:
                continue
            if entry.is_dir():
                waiting.append(f"{name}/")
            elif not entry.is_file():
                result.irregular.append(name)
            elif entry.name.lower().endswith(SUFFIXES):
                result.photos.append(name)
            else:
                _count(result, entry.name, name)
    for names in (result.photos, result.irregular, *result.made.values()):
        names.sort()
    return result


def _entries(place: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """The entries of a folder that was not seen before."""
    try:
        state = os.stat(place)  # noqa: PTH116
        if (state.st_dev, state.st_ino) in seen and state.st_ino:
            return []
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(place) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"folder {place} cannot be read ({error.strerror}): check its permissions") from error


def _count(result: Walk, last: str, name: str) -> None:
    suffix = posixpath.splitext(last)[1].lower()
    if suffix in _NO_PHOTOS or (not suffix and last.lower() in _NO_ENDING):
        return
    result.counts[suffix] += 1
    examples = result.others.setdefault(suffix, [])
    if len(examples) < 3:
        examples.append(name)


def image_files(base: Path, skip: frozenset[str] = frozenset()) -> list[str]:
    """Names of all photos under ``base``, relative to it with forward slashes, sorted."""
    return walk(base, skip).photos


def folders(base: Path) -> list[str]:
    """Names of the folders directly in ``base``, sorted, without hidden ones, runs and exports.

    Masks that were predicted, or exported as they are, stay: a folder of them may be somebody's truth.
    """
    names = sorted(entry.name for entry in _entries(str(base), set()) if entry.is_dir() and not ignored(entry.name))
    return [name for name in names if not _is_no_part(base / name)]


def _is_no_part(folder: Path) -> bool:
    """Whether a folder is a run, or an export in a format that is more than masks and their classes."""
    if is_run(file for file in _RUN_FILES if (folder / file).exists()):
        return True
    return all((folder / file).exists() for file in _EXPORT_FILES) and not (folder / "classes.txt").exists()


def _split(path: str) -> tuple[str, str]:
    """As `os.path.split`, quicker where a path has slashes alone."""
    if os.sep != "/":
        return os.path.split(path)
    folder, slash, name = path.rpartition("/")
    return folder or slash, name


class Present:
    """Answers "is there such a file?" from one listing of each folder rather than one look-up a file.

    A regular file, that is: a link that leads nowhere, a pipe or a device is not there.
    """

    _CASE_BLIND = sys.platform in ("win32", "darwin")

    def __init__(self) -> None:
        self._folders: dict[str, frozenset[str]] = {}
        self._alike: dict[tuple[str, bool], dict[str, list[str]]] = {}

    def names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    self._folders[folder] = frozenset(entry.name for entry in entries if entry.is_file())
            except PermissionError as error:
                raise InputError(f"folder {folder} may not be read: check its permissions") from error
            except (OSError, ValueError):  # not there, no folder, a name that no folder can have
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def __call__(self, path: str) -> bool:
        folder, name = _split(path)
        names = self.names(folder)
        return name in names or (self._CASE_BLIND and bool(names) and Path(path).is_file())

    def alike(self, folder: str, name: str, *, folders_: bool = False) -> list[str]:
        """The files in a folder (or the folders) whose names differ from this one in capitals or composed letters."""
        if (folder, folders_) not in self._alike:
            groups: dict[str, list[str]] = {}
            inner = folders(Path(folder)) if folders_ and os.path.isdir(folder) else ()  # noqa: PTH112 - never an error
            for other in inner if folders_ else sorted(self.names(folder)):
                groups.setdefault(folded(other), []).append(other)
            self._alike[folder, folders_] = groups
        return self._alike[folder, folders_].get(folded(name), [])


def left_out(files: Walk, base: Path) -> Iterator[Finding]:
    """What of a folder is not read, and what to do."""
    for suffix in sorted(files.others):
        count, ending = files.counts[suffix], suffix or "without an ending"
        yield Finding(
            "warning",
            f"{some(count, 'file')} {ending} in {base} left out: {', '.join(files.others[suffix])}",
            "such files are not read: if they are photos, save them as JPEG or PNG",
        )
    if files.irregular:
        yield Finding(
            "warning",
            f"{len(files.irregular)} of the names in {base} lead to no file: {listed(files.irregular)}",
            "links that lead nowhere, pipes and devices are left out: mend or remove them",
        )
    for what, said in _SAID.items():
        if names := files.made.get(what):
            yield Finding("note", said.format(base=base, names=listed(names)))
