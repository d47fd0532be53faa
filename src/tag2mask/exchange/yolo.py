"""YOLO's segmentation data sets: one line a connected part, ``class x1 y1 x2 y2 ...`` in shares of the photo's sides.

A line is one polygon, so holes cannot be written: they are filled, and it is said how much that adds. A photo's text
has its name with another suffix, so photos go by their ids, which differ in more than the suffix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from tag2mask.data.images import SUFFIXES, image_size
from tag2mask.errors import InputError, UnreadableImage
from tag2mask.exchange.outlines import filled, outline, parts, points_of
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, Undecided, painted, place_photo
from tag2mask.files import atomic
from tag2mask.naming import safe_name

DECIMALS = 7  # of a share: a thousandth of a pixel at 10,000

_INNER, _ESCAPED = re.compile(r"(?<![^/])images(?=/)"), "%69mages"  # readers look for texts by the last folder "images"


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``data.yaml``, ``images/<split>/`` with the photos, ``labels/<split>/`` with the outlines."""
    lost, area, holes = Undecided(), 0, 0
    for photo in photos:
        lost.see(photo)
        name = f"{about.split}/{_INNER.sub(_ESCAPED, safe_name(photo.id))}"
        place_photo(photo, out / "images" / f"{name}{photo.path.suffix}")
        lines = []
        for c, pixels in photo.layers():
            area += int(pixels.sum())
            for text, of_holes in _lines(pixels):
                lines.append(f"{c} {text}\n")
                holes += of_holes
        with atomic(out / "labels" / f"{name}.txt") as file:
            file.writelines(lines)
    with atomic(out / "data.yaml") as file:
        places = {key: f"images/{about.split}" for key in ("train", "val")}  # without "path": from this file's folder
        content = {**places, "names": dict(enumerate(about.classes))}
        yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)
    said = f"holes are filled: they add {100 * holes / max(area, 1):.2g} % to the classes' area"
    return [*lost.notes(), *([said] if holes else [])]


def _lines(pixels: np.ndarray) -> Iterator[tuple[str, int]]:
    height, width = pixels.shape
    for top, left, part in parts(pixels):
        points, holes = outline(part)
        shares = ((points + np.array([left, top])) / (width, height)).clip(0, 1)
        yield " ".join(f"{share:.{DECIMALS}f}" for share in shares.ravel()), holes


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every photo below ``images``, with the outlines or boxes of its text; without one it shows background alone.

    Raises:
        InputError: no such folders, a line that is no outline, a class without a name.
    """
    root = path / "images"
    photos = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not photos:
        raise InputError(f"{path} has no photos in its folder images: give the folder of the corrected YOLO data set")
    names = _names(path, classes)
    splits = {p.parent.relative_to(root).parts[:1] for p in photos}
    for photo in photos:
        name = photo.relative_to(root)
        text = (path / "labels" / name).with_suffix(".txt")
        try:
            size = image_size(photo)
        except UnreadableImage as error:
            raise InputError(f"{error}: mend or remove it") from error
        inside = Path(*name.parts[1:]) if len(name.parts) > 1 and len(splits) == 1 else name
        id_ = inside.with_suffix("").as_posix().replace(_ESCAPED, "images")
        yield Drawn(id_, painted(size, _layers(text, size, names), classes, str(text)), by_id=True)


def as_left(mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A mask as its outlines are read again: holes are filled."""
    height, width = mask.shape

    def layers() -> Iterator[tuple[str, np.ndarray]]:
        for value in np.unique(mask[mask > 0]):
            for text, _ in _lines(mask == value):
                points = points_of([float(word) for word in text.split()])
                yield classes[int(value) - 1], filled(points * (width, height), (height, width))

    return painted((height, width), layers(), classes, "")


def _names(path: Path, classes: Sequence[str]) -> list[str]:
    """The classes of ``data.yaml``, in order; without that file the run's."""
    file = path / "data.yaml"
    if not file.is_file():
        return list(classes)
    try:
        names = yaml.safe_load(file.read_text(encoding="utf-8"))["names"]
        return [str(names[c]) for c in range(len(names))]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{file} has no list 'names' ({type(error).__name__}): write it again") from error


def _layers(text: Path, size: tuple[int, int], names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    if not text.is_file():
        return
    for number, line in enumerate(text.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            name = names[int(words[0])]
            points = points_of([float(word) for word in words[1:]])
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{text} line {number} is no outline of a class ({error}): write 'class x1 y1 x2 y2 x3 y3 ...'"
            ) from error
        yield name, filled(points * (size[1], size[0]), size)
