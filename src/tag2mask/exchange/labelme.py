"""labelme's JSON, one a photo: a shape ``mask`` a class, a PNG cropped to its box; the box's last pixel is in it."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.data.decode import opened, read_image
from tag2mask.errors import InputError
from tag2mask.exchange.outlines import filled, points_of
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, Undecided, painted
from tag2mask.files import read_json, write_json
from tag2mask.naming import safe_name

VERSION = "5.5.0"  # of labelme, whose files have looked so since then
IGNORED = "__ignore__"  # what labelme calls what is left out
DISPLAYED = {"1", "L", "P", "RGB", "RGBA", "LA", "PA"}  # modes of Pillow's that it opens; no 16 bits, no CMYK


def refuses(name: str) -> str:
    """Names that mean something else there."""
    return "that is its name for what is left out" if name == IGNORED else ""


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``<id>.json`` of each photo; ``labelme DIR --labels labels.txt`` opens them."""
    lost = Undecided()
    for photo in photos:
        lost.see(photo)
        path = out / f"{safe_name(photo.id)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _content(photo, path, about.classes))
    (out / "labels.txt").write_text("\n".join([IGNORED, "_background_", *about.classes]) + "\n", encoding="utf-8")
    return lost.notes()


def _content(photo: MaskedPhoto, path: Path, classes: Sequence[str]) -> dict[str, Any]:
    height, width = photo.size
    try:
        image = Path(os.path.relpath(photo.path, path.parent)).as_posix()
    except ValueError:  # on another drive
        image = photo.path.as_posix()
    return {
        "version": VERSION,
        "flags": {},
        "shapes": [_shape(classes[c], pixels) for c, pixels in photo.layers()],
        "imagePath": image,
        "imageData": _embedded(photo.path),
        "imageHeight": height,
        "imageWidth": width,
        "tag2mask": {"image": photo.name, "confidence": round(photo.score, 5)},
    }


def _embedded(path: Path) -> str | None:
    """A photo that labelme does not open, as PNG of 8 bits; None: it reads the file."""
    with opened(path) as image:
        if image.mode in DISPLAYED:
            return None
    return _png(read_image(path))


def _png(pixels: np.ndarray) -> str:
    coded = io.BytesIO()
    Image.fromarray(pixels).save(coded, format="PNG")
    return base64.b64encode(coded.getvalue()).decode("ascii")


def _shape(label: str, pixels: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    top, bottom, left, right = (int(x) for x in (rows[0], rows[-1], columns[0], columns[-1]))
    return {
        "label": label,
        "points": [[left, top], [right, bottom]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": _png(pixels[top : bottom + 1, left : right + 1]),
    }


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every JSON below a folder: masks, polygons and rectangles, a later shape over an earlier one.

    Raises:
        InputError: no JSON, or one that is not labelme's.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path} holds no JSON: give the folder of the corrected labelme files")
    for file in files:
        content = read_json(file)
        try:
            size = int(content["imageHeight"]), int(content["imageWidth"])
            layers = [(str(shape["label"]), _pixels(shape, size)) for shape in content["shapes"]]
            name = (content.get("tag2mask") or {}).get("image") or Path(content["imagePath"]).name
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, OSError) as error:
            raise InputError(f"{file} is not a file of labelme ({error!r}): save it again there") from error
        yield Drawn(name, painted(size, layers, classes, str(file)))


def _pixels(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    kind, points = shape["shape_type"], np.asarray(shape["points"], np.float64)
    if kind == "polygon":
        return filled(points_of(points.ravel().tolist()), size)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return filled(points_of([left, top, right, top, right, bottom, left, bottom]), size)
    if kind != "mask":
        raise ValueError(f"a shape of the kind {kind}, which has no area")
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=["PNG"]) as coded:
        inside = np.asarray(coded.convert("L")) > 0
    left, top = (round(x) for x in points.min(0).tolist())
    pixels = np.zeros(size, bool)
    height, width = inside.shape
    if left < 0 or top < 0 or pixels[top : top + height, left : left + width].shape != inside.shape:
        raise ValueError("a mask reaches out of its photo")
    pixels[top : top + height, left : left + width] = inside
    return pixels
