"""COCO's instances JSON. One annotation a class and photo: masks of tags know classes, not instances.

RLE column by column, compressed to a text (``counts``), by COCO's own library, pycocotools.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tag2mask.errors import InputError
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, Undecided, only_file, painted
from tag2mask.files import atomic, read_json

FILE = "instances.json"


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``instances.json``: ids from 1, ``iscrowd`` 0, a score with each image and annotation."""
    masks, lost, shown = _pycocotools(), Undecided(), []
    head = {
        "info": {"description": about.version, **({"passport": about.passport} if about.passport else {})},
        "licenses": [],
        "categories": [{"id": c, "name": name, "supercategory": ""} for c, name in enumerate(about.classes, 1)],
    }
    with atomic(out / FILE) as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        count = 0
        for number, photo in enumerate(photos, 1):
            lost.see(photo)
            shown.append(_image(number, photo))
            for c, pixels in photo.layers():
                count += 1
                file.write(",\n" * (count > 1) + json.dumps(_annotation(masks, count, number, c, pixels, photo.score)))
        file.write('],\n"images": ' + json.dumps(shown) + "}\n")
    return lost.notes()


def _image(number: int, photo: MaskedPhoto) -> dict[str, Any]:
    height, width = photo.size
    return {"id": number, "file_name": photo.name, "width": width, "height": height, "score": round(photo.score, 5)}


def _annotation(masks: ModuleType, number: int, image: int, c: int, pixels: np.ndarray, score: float) -> dict[str, Any]:
    rle = masks.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image,
        "category_id": c + 1,
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": int(masks.area(rle)),
        "bbox": [float(side) for side in masks.toBbox(rle)],
        "iscrowd": 0,
        "score": round(score, 5),
    }


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every image of a COCO file: RLE of either kind, polygons; an image without annotations shows background alone.

    Raises:
        InputError: it is no such file.
    """
    path = only_file(path, "*.json", "give the corrected COCO JSON")
    content = read_json(path)
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        of_image: dict[Any, list[dict[str, Any]]] = {}
        for entry in content["annotations"]:
            of_image.setdefault(entry["image_id"], []).append(entry)
        entries = [(x["id"], str(x["file_name"]), (int(x["height"]), int(x["width"]))) for x in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a COCO instances file ({error!r}): export it again as COCO") from error
    for image, name, size in entries:
        layers = [(names.get(x.get("category_id"), "?"), _pixels(x, size, path)) for x in of_image.get(image, ())]
        yield Drawn(name, painted(size, layers, classes, f"{path}, {name}"))


def _pixels(entry: dict[str, Any], size: tuple[int, int], path: Path) -> np.ndarray:
    masks = _pycocotools()
    try:
        drawn = entry["segmentation"]
        if isinstance(drawn, list):
            drawn = masks.merge(masks.frPyObjects(drawn, *size))
        elif isinstance(drawn["counts"], list):
            if sum(drawn["counts"]) != size[0] * size[1]:
                raise ValueError(f"runs over {sum(drawn['counts'])} pixels")
            drawn = masks.frPyObjects(drawn, *size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own arrays under NumPy 2
            return masks.decode(drawn).astype(bool)
    except Exception as error:  # the C code below raises whatever it likes
        raise InputError(
            f"{path}: annotation {entry.get('id')} has no segmentation that pycocotools can read ({error})"
        ) from error


def _pycocotools() -> ModuleType:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("COCO needs pycocotools, which is not installed: pip install 'tag2mask[export]'") from error
    return mask
