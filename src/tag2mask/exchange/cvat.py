"""CVAT for images 1.1: ``annotations.xml``, one ``<mask>`` a connected part.

The run lengths go row by row through the part's box, from background; the box is ``left top width height`` in the XML,
and ``left, top, right, bottom`` with the last pixel included where CVAT's API is spoken to (:mod:`tag2mask.cvat`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from tag2mask.errors import InputError
from tag2mask.exchange.outlines import filled, parts, points_of
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, Undecided, only_file, painted
from tag2mask.exchange.runs import from_runs, runs_of
from tag2mask.exchange.xml import check_photo, not_in_xml
from tag2mask.files import atomic

FILE = "annotations.xml"
LONGEST = 64  # characters of a label in CVAT


def refuses(name: str) -> str:
    """Names that CVAT or XML cannot hold."""
    return not_in_xml(name) or (f"CVAT's labels have at most {LONGEST} characters" if len(name) > LONGEST else "")


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``annotations.xml``: upload it to a task that has these photos (format "CVAT 1.1")."""
    lost = Undecided()
    with atomic(out / FILE) as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>'
        )
        for name in about.classes:
            file.write(f"<label><name>{escape(name)}</name><type>mask</type><attributes></attributes></label>")
        file.write(f"</labels><source>{escape(about.version)}</source></task></meta>\n")
        for number, photo in enumerate(photos):
            lost.see(photo)
            _write_photo(file, number, photo, about.classes)
        file.write("</annotations>\n")
    return lost.notes()


def _write_photo(file: IO[str], number: int, photo: MaskedPhoto, classes: Sequence[str]) -> None:
    check_photo(photo.name, "cvat")
    height, width = photo.size
    file.write(f'<image id="{number}" name={quoteattr(photo.name)} width="{width}" height="{height}">\n')
    for c, pixels in photo.layers():
        for top, left, part in parts(pixels):
            runs = ", ".join(map(str, runs_of(part)))
            file.write(
                f'<mask label={quoteattr(classes[c])} source="auto" occluded="0" rle="{runs}" left="{left}" '
                f'top="{top}" width="{part.shape[1]}" height="{part.shape[0]}" z_order="0"></mask>\n'
            )
    file.write("</image>\n")


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every ``<image>`` with its masks, polygons and boxes, those of larger ``z_order`` on top.

    Raises:
        InputError: it is no such file.
    """
    path = only_file(path, "*.xml", "give the annotations.xml of an export as 'CVAT for images 1.1'")
    if b"<!DOCTYPE" in path.read_bytes()[:4096]:  # entities could fill the memory
        raise InputError(f"{path} declares a document type, which CVAT's files do not: export it again")
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is no XML ({error}): export it again") from error
    if root.tag != "annotations":
        raise InputError(f"{path} is no file of CVAT (it begins with <{root.tag}>): export 'CVAT for images 1.1'")
    for image in root.iter("image"):
        try:
            size = int(image.attrib["height"]), int(image.attrib["width"])
            shapes = sorted(image, key=lambda shape: int(shape.get("z_order", 0)))
            layers = [(s.get("label", "?"), _pixels(s, size)) for s in shapes if s.tag in _SHAPES]
            name = image.attrib["name"]
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}: image {image.get('name')} cannot be read ({error!r}): export it again"
            ) from error
        yield Drawn(name, painted(size, layers, classes, f"{path}, {name}"))


_SHAPES = ("mask", "polygon", "box")


def _pixels(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    a = shape.attrib
    if shape.tag == "polygon":
        return filled(points_of([float(x) for x in a["points"].replace(";", ",").split(",")]), size)
    if shape.tag == "box":
        left, top, right, bottom = (float(a[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
        return filled(points_of([left, top, right, top, right, bottom, left, bottom]), size)
    left, top, width, height = (int(a[side]) for side in ("left", "top", "width", "height"))
    inside = from_runs([int(run) for run in a["rle"].split(",")], (height, width))
    pixels = np.zeros(size, bool)
    if left < 0 or top < 0 or pixels[top : top + height, left : left + width].shape != inside.shape:
        raise ValueError("a mask reaches out of its photo")
    pixels[top : top + height, left : left + width] = inside
    return pixels
