"""Where the photos lie that a table or a list names."""

from __future__ import annotations

import os
import posixpath
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from tag2mask.data.ids import absolute, is_outside
from tag2mask.data.walk import SUFFIXES, Present, image_files
from tag2mask.data.words import folded
from tag2mask.errors import InputError, listed, some


class Locator:
    """Finds the photos that a table names.

    A table may name a photo from the folder of images, from the data set's folder, or by its id without suffix. Where
    no file has that name exactly, one that differs only in capitals or in Unicode's composed letters is taken (tables
    come from systems that see no difference), if it is the only one.
    """

    def __init__(self, places: Sequence[Path], present: Present) -> None:
        self.places, self.present = [str(place) for place in places], present
        self.base = self.places[0] + os.sep

    def __call__(self, name: str) -> str | None:
        """A photo's file relative to the first of the places (absolute when it lies elsewhere), or None if it is not
        there."""
        if not is_outside(name) and self.present(self.base + name):
            return name  # nearly always, and there may be a million
        if os.path.isabs(name):  # noqa: PTH117
            return self._exactly(name, [os.path.normpath(name)])
        paths = [os.path.normpath(f"{place}{os.sep}{name}") for place in self.places]
        return self._exactly(name, paths) or self._otherwise_spelt(paths)

    def _exactly(self, name: str, paths: Sequence[str]) -> str | None:
        suffixes = ("",) if name.lower().endswith(SUFFIXES) else ("", *SUFFIXES, *map(str.upper, SUFFIXES))
        files = (path + suffix for path in paths for suffix in suffixes)
        return next((self._relative(file) for file in files if self.present(file)), None)

    def _otherwise_spelt(self, paths: Sequence[str]) -> str | None:
        for path, place in zip(paths, self.places, strict=True):
            other = _otherwise_spelt(path, place, self.present)
            if other:
                return self._relative(other)
        return None

    def _relative(self, path: str) -> str:
        inside = path[len(self.base) :] if path.startswith(self.base) else str(absolute(Path(path)))
        return inside.replace(os.sep, "/")


def _otherwise_spelt(path: str, base: str, present: Present) -> str | None:
    """The only photo below ``base`` whose path differs from this one in capitals or composed letters alone."""
    if not path.startswith(base + os.sep):
        return None
    *folders, last = Path(path[len(base) + 1 :]).parts
    place = base
    for folder in folders:
        alike = present.alike(place, folder, folders_=True)
        if len(alike) != 1:
            return None
        place = f"{place}{os.sep}{alike[0]}"
    alike = present.alike(place, last)
    return f"{place}{os.sep}{alike[0]}" if len(alike) == 1 else None


def missing_images(missing: Sequence[str], total: int, source: str, base: Path) -> InputError:
    """The error for photos that a table or list names and that are not there."""
    there = namesake(missing[0], base)
    advice = f"{there} is there: write names as they stand in that folder" if there else "copy them there"
    return InputError(
        f"{len(missing)} of {some(total, 'image')} named in {source} not in {base}: {listed(missing)}; {advice}, or "
        "remove their lines"
    )


def namesake(name: str, base: Path) -> str | None:
    """A photo under ``base`` that may be meant by this name, from another machine, of the web or in quotes."""
    if not base.is_dir():
        return None
    name = posixpath.basename(urllib.parse.unquote(name).strip("\"'` "))
    photos = image_files(base)
    stem = folded(name.rpartition(".")[0] or name)
    alike = (photo for photo in photos if folded(posixpath.basename(photo).rpartition(".")[0]) == stem)
    return next(alike, None)
