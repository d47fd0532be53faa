"""Photos without tags, to predict: those of folders, of lists and single files. Names only; nothing is decoded."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute, distinct_ids, tidy
from tag2mask.data.locating import Locator, missing_images
from tag2mask.data.mixed import masks_among, masks_left_out
from tag2mask.data.packed import is_packed, photos_of
from tag2mask.data.peek import is_colour, is_flat
from tag2mask.data.reading import text_lines
from tag2mask.data.samples import Samples
from tag2mask.data.table import photo_names
from tag2mask.data.walk import SUFFIXES, Present, left_out, walk
from tag2mask.errors import InputError, listed

log = logging.getLogger("tag2mask")

TABLES = (".csv", ".tsv")
LISTS = (".txt", *TABLES)
"""Files that name photos: one a line, or in a column ``image``."""


def load_images(paths: Path | str | Iterable[Path | str], skip: Iterable[Path | str] = ()) -> Samples:
    """Photos without tags: every photo under a folder, those that a list names, or the files given.

    A list is a text with a photo a line, or a table with a column ``image``; its names start from its own folder. What
    a folder holds and is no photo, masks of others among it, is left out and said.

    Args:
        paths: a folder, a file, a list, or several of them. Files may be tars or Parquet files of photos
            (:mod:`tag2mask.data.packed`), which are also taken from a folder that holds no other photos.
        skip: folders that are left out, for instance where the masks are written.

    Raises:
        InputError: a path that is not there, no photo at all, or a file given twice.
    """
    places = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    left = [absolute(Path(path)) for path in skip]
    packed = any(map(is_packed, places))
    if len(places) == 1 and places[0].is_dir():
        base = absolute(places[0])
        names = _of_folder(base, left)
        if not names:
            base, names, packed = Path(), photos_of(base), True
        if not names:
            raise InputError(f"{places[0]} holds no images: they end in {', '.join(SUFFIXES)}")
    else:
        base = Path()
        names = list(itertools.chain.from_iterable(_of_place(place, left) for place in map(absolute, places)))
        if not names:
            raise InputError(f"no images in {listed(map(str, places)) or 'an empty list'}: give a folder or files")
    named = len(places) > 1 or places[0].suffix.lower() in LISTS
    ids = distinct_ids(names, explicit=named, place=str(base), packed=packed)
    return Samples(base, names, [None] * len(names), ids=ids)


def _of_place(place: Path, left: Sequence[Path]) -> list[str]:
    if place.is_dir():
        return [(place / name).as_posix() for name in _of_folder(place, left)]
    if not place.is_file():
        raise InputError(f"{place} is not there: give a folder of images, a list of them or image files")
    if is_packed(place):
        return photos_of(place)
    return _of_list(place) if place.suffix.lower() in LISTS else [place.as_posix()]


def _of_folder(base: Path, left: Sequence[Path]) -> list[str]:
    """The photos under a folder. Masks of others are told by their names, and have no photo's colours."""
    contents = walk(base, frozenset(folder.relative_to(base).as_posix() for folder in left if base in folder.parents))
    named = masks_among([f"{base.name}/{name}" for name in contents.photos], base.parent)  # base/images and base/masks
    files = {name.partition("/")[2]: base.parent / name for name in named}
    masks = {name for name, file in files.items() if not is_colour(file) or is_flat(file)}
    _say(masks_left_out(sorted(masks), base))
    _say(left_out(contents, base))
    return [name for name in contents.photos if name not in masks]


def _of_list(path: Path) -> list[str]:
    """The photos that a list names.

    Raises:
        InputError: it names none, one twice, or one that is not there.
    """
    is_table = path.suffix.lower() in TABLES
    names = [*photo_names(path)] if is_table else [tidy(line) for _, line in text_lines(path, "the list")]
    located = Locator([path.parent], Present())
    places = {name: located(name) for name in names}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise missing_images(missing, len(names), str(path), path.parent)
    return list(dict.fromkeys((path.parent / place).as_posix() for place in places.values() if place is not None))


def _say(findings: Iterator[Finding]) -> None:
    for finding in findings:
        log.info("%s", finding)
