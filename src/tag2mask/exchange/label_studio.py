"""Label Studio: tasks with brush predictions, and the labelling configuration that they need."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import quoteattr

import numpy as np

from tag2mask.data.images import voc_palette
from tag2mask.errors import InputError, some
from tag2mask.exchange.brush import packed, unpacked
from tag2mask.exchange.outlines import filled, points_of
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, Undecided, only_file, painted
from tag2mask.exchange.xml import check_photo, not_in_xml
from tag2mask.files import atomic, read_json

TASKS, CONFIGURATION = "tasks.json", "labelling.xml"
LABELS, IMAGE = "mask", "image"  # names of the controls in the configuration
DISPLAYED = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".avif")  # by browsers

refuses = not_in_xml


def configuration(classes: Sequence[str]) -> str:
    """The project's labelling configuration: brush labels in the palette of VOC."""
    colours = voc_palette()[1:].tolist()
    labels = "".join(
        f'    <Label value={quoteattr(name)} background="#{"".join(f"{x:02x}" for x in colour)}"/>\n'
        for name, colour in zip(classes, colours, strict=False)
    )
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n'
        f'  <BrushLabels name="{LABELS}" toName="{IMAGE}">\n{labels}  </BrushLabels>\n</View>\n'
    )


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``tasks.json`` to be imported into a project with the configuration ``labelling.xml``."""
    lost, hidden = Undecided(), 0
    root = about.image_root
    if root is None:
        root = f"/data/local-files/?d={quote(os.fsencode(about.root.name))}/"
    (out / CONFIGURATION).write_text(configuration(about.classes), encoding="utf-8")
    with atomic(out / TASKS) as file:
        file.write("[")
        for number, photo in enumerate(photos):
            lost.see(photo)
            hidden += photo.path.suffix.lower() not in DISPLAYED
            file.write(",\n" * (number > 0) + json.dumps(_task(photo, root, about)))
        file.write("]\n")
    said = f"{some(hidden, 'photo')} in a format that browsers do not show (TIFF and the like): save as PNG or JPEG"
    return [*lost.notes(), *([said] if hidden else [])]


def _task(photo: MaskedPhoto, root: str, about: About) -> dict[str, Any]:
    check_photo(photo.name, "label-studio")
    prediction = {
        "model_version": about.version,
        "score": round(photo.score, 5),
        "result": [_result(photo, about.classes[c], pixels) for c, pixels in photo.layers()],
    }
    height, width = photo.size
    known = {"tag2mask": photo.name, "confidence": round(photo.score, 5), "height": height, "width": width}
    return {"data": {IMAGE: root + quote(photo.name), **known}, "predictions": [prediction]}


def _result(photo: MaskedPhoto, name: str, pixels: np.ndarray) -> dict[str, Any]:
    height, width = photo.size
    return {
        "id": hashlib.blake2b(f"{photo.name}\n{name}".encode(), digest_size=5).hexdigest(),
        "type": "brushlabels",
        "from_name": LABELS,
        "to_name": IMAGE,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": packed(pixels), "brushlabels": [name]},
    }


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """The tasks that have an annotation, by their last one: brushes, polygons and rectangles. A task with predictions
    alone was seen by nobody.

    Raises:
        InputError: it is no export of Label Studio, or none of its tasks is annotated.
    """
    path = only_file(path, "*.json", "give the file of Label Studio's export as JSON")
    content, count = read_json(path), 0
    if not isinstance(content, list):
        raise InputError(f"{path} is not an export of Label Studio (no list of tasks): export it as JSON")
    for task in content:
        try:
            data = task["data"]
            valid = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
            if not valid:
                continue
            last = valid[-1]
            name = str(data.get("tag2mask") or unquote(str(data[IMAGE]).rpartition("/")[2]))
            who, results = _who(last), last["result"]
            layers = [layer for result in results if (layer := _layer(result)) is not None]
            size = _size(results, data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(
                f"{path}: task {task.get('id') if isinstance(task, dict) else task} cannot be read ({error!r}): "
                "export the project as JSON (not JSON-MIN)"
            ) from error
        count += 1
        yield Drawn(name, painted(size, layers, classes, f"{path}, {name}"), who, accepted=True)
    if not count:
        raise InputError(
            f"{path}: none of its {len(content)} tasks has an annotation: submit some in Label Studio (predictions "
            "alone were seen by nobody)"
        )


def _size(results: Sequence[dict[str, Any]], data: dict[str, Any]) -> tuple[int, int]:
    """(height, width) by the regions, else as the task was exported; (0, 0): nothing says it."""
    region = next((result for result in results if "original_width" in result), None)
    if region is not None:
        return int(region["original_height"]), int(region["original_width"])
    return int(data.get("height", 0)), int(data.get("width", 0))


def _who(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by")
    return str(by.get("email") or by.get("id")) if isinstance(by, dict) else "" if by is None else f"user {by}"


def _layer(result: dict[str, Any]) -> tuple[str, np.ndarray] | None:
    """Class and pixels of a region; None for what has no area (relations, choices)."""
    kind, value = result["type"], result.get("value") or {}
    names = value.get(kind)
    if kind not in ("brushlabels", "polygonlabels", "rectanglelabels") or not names:
        return None
    if result.get("image_rotation"):
        raise ValueError("a rotated photo: turn it back in Label Studio")
    height, width = int(result["original_height"]), int(result["original_width"])
    if kind == "brushlabels":
        return names[0], unpacked(value["rle"], (height, width))
    if kind == "polygonlabels":
        points = np.asarray(value["points"], np.float64)
    else:
        left, top = value["x"], value["y"]
        right, bottom = left + value["width"], top + value["height"]
        points = np.asarray([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return names[0], filled(points_of((points * (width, height) / 100).ravel().tolist()), (height, width))
