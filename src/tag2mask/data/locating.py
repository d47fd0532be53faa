"""Where the photos lie that a table or a list names."""

from __future__ import annotations

import os
import posixpath
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from tag2mask.data.ids import absolute
from tag2mask.data.walk import SUFFIXES, Present, image_files
from tag2mask.data.words import folded
from tag2mask.errors import InputError, listed, some


def locate(name: str, places: Sequence[Path], present: Present) -> str | None:
    """A photo's file relative to the first of the places (absolute when it lies elsewhere), or None if it is not there.

    A table may name a photo from the folder of images, from the data set's folder, or by its id without suffix. Where
    no file has that name exactly, one that differs only in capitals or in Unicode's composed letters is taken (tables
    come from systems that see no difference), if it is the only one.
    """
    base = places[0]
    is_absolute = os.path.isabs(name)  # noqa: PTH117
    if not is_absolute and not name.startswith("../") and present(f"{base}{os.sep}{name}"):
        return name  # nearly always, and there may be a million
    suffixes = ("",) if name.lower().endswith(SUFFIXES) else ("", *SUFFIXES, *map(str.upper, SUFFIXES))
    paths = [os.path.normpath(name if is_absolute else f"{place}{os.sep}{name}") for place in places]
    for path in paths[:1] if is_absolute else paths:
        for suffix in suffixes:
            if present(path + suffix):
                return _relative(path + suffix, base)
    if not is_absolute:
        for path, place in zip(paths, places, strict=True):
            other = _otherwise_spelt(path, str(place), present)
            if other:
                return _relative(other, base)
    return None


def _relative(path: str, base: Path) -> str:
    inside = path.startswith(f"{base}{os.sep}")
    return (path[len(str(base)) + 1 :] if inside else str(absolute(Path(path)))).replace(os.sep, "/")


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
