"""The layout of MS COCO: ``annotations/instances_train2014.json`` and the photos in ``train2014/``.

A photo's tags are the categories of its objects (crowds too). The 80 categories have ids up to 90; in id order they
are classes 0 to 79, so class ``c`` has value ``c + 1`` in index masks, as the field's COCO masks do. Object outlines
in the JSON are truth and are never looked at: to measure, give rendered index masks with ``--truth FOLDER``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tag2mask.data.folder import SALIENCY_SUFFIXES
from tag2mask.data.listing import (
    DataSettings,
    Listing,
    Present,
    Samples,
    absolute,
    beside,
    class_values,
    folder,
    known_split,
    missing_images,
    tidy,
    unique_ids,
)
from tag2mask.errors import InputError

_START = "instances_"


def _files(root: Path) -> dict[str, Path]:
    return {path.stem[len(_START) :]: path for path in sorted((root / "annotations").glob(f"{_START}*.json"))}


def split_names(root: Path, settings: DataSettings) -> tuple[str, ...]:
    """``train`` and ``val`` where there is a file of that beginning, and the full names (``train2014``)."""
    files = _files(root)
    short = [name for name in ("train", "val") if name not in files and _full_name(name, files)]
    return (*short, *files)


def _full_name(split: str, files: dict[str, Path]) -> str | None:
    """``train2014`` for ``train``: the split of that name, else of 2014, else the only one that starts so."""
    starting = [name for name in files if name.startswith(split) and name[len(split) :].isdecimal()]
    for name in (split, f"{split}2014"):
        if name in files:
            return name
    return starting[0] if len(starting) == 1 else None


def read(root: Path, settings: DataSettings, split: str) -> Listing:
    """One split of COCO. Photos without any object have no classes: left out, unless ``keep_untagged``."""
    files = _files(root)
    name = _full_name(split, files)
    if name is None:
        known_split(split, split_names(root, settings), root)
        raise AssertionError(split)
    places = [settings.images] if settings.images else [root / name, root / "images" / name, root / "images"]
    images = absolute(next((place for place in places if place.is_dir()), folder(places[0], "the folder of images")))
    categories, photos, labels_of = read_instances(files[name])
    present = Present()
    missing = [photo for photo in photos.values() if not present(str(images / photo))]
    if missing:
        raise missing_images(missing, len(photos), str(files[name]), images)
    names = list(photos.values())
    unique_ids(names, images)
    truth = [absolute(folder(settings.truth, "the truth folder"))] if settings.truth else []
    saliency = [absolute(folder(settings.saliency, "the saliency folder")) if settings.saliency else root / "saliency"]
    samples = Samples(
        images,
        names,
        (labels_of.get(id_, frozenset()) for id_ in photos),
        (),
        beside(truth, [".png"], names, present),
        beside(saliency, SALIENCY_SUFFIXES, names, present),
    )
    return Listing(root.name, categories, class_values(categories, settings), samples, str(files[name]))


def read_instances(path: Path) -> tuple[tuple[str, ...], dict[int, str], dict[int, frozenset[int]]]:
    """Class names, photo files by image id, and classes by image id, from an instances JSON.

    The file of 2014 has 450 MB, nearly all of it outlines: they are parsed one object at a time and forgotten.

    Raises:
        InputError: not JSON, or not of this form (the message says where).
    """
    categories: dict[int, str] = {}
    photos: dict[int, str] = {}
    tags: dict[int, set[int]] = {}
    where = "its start"
    try:
        text = path.read_text(encoding="utf-8")
        for where, entry in _entries(text, ("categories", "images", "annotations")):
            if where == "categories":
                categories[entry["id"]] = entry["name"]
            elif where == "images":
                photos[entry["id"]] = tidy(entry["file_name"])
            else:
                tags.setdefault(entry["image_id"], set()).add(entry["category_id"])
        where = "categories"
        column = {id_: number for number, id_ in enumerate(sorted(categories))}
        if not categories or not photos:
            raise ValueError("no " + ("images" if categories else "categories"))
        where = "annotations"
        shared: dict[frozenset[int], frozenset[int]] = {}
        labels = {}
        for id_, found in tags.items():
            classes = frozenset(column[category] for category in found)
            labels[id_] = shared.setdefault(classes, classes)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): fetch it again") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a COCO instances file ({type(error).__name__} {error} in {where}): fetch it again"
        ) from error
    return tuple(categories[id_] for id_ in sorted(categories)), photos, labels


def _entries(text: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Key and entry of every array entry under the ``wanted`` keys of a JSON object, one at a time."""
    decoder = json.JSONDecoder()

    def blank(at: int) -> int:
        while text[at : at + 1] in (" ", "\n", "\r", "\t") and at < len(text):
            at += 1
        return at

    def sign(at: int, signs: str) -> int:
        at = blank(at)
        if at >= len(text) or text[at] not in signs:
            raise json.JSONDecodeError(f"expected {' or '.join(signs)}", text, min(at, len(text)))
        return at

    at = sign(0, "{")
    if text[(end := blank(at + 1)) : end + 1] == "}":
        return
    while text[at] != "}":
        key, at = decoder.raw_decode(text, blank(at + 1))
        at = blank(sign(at, ":") + 1)
        if key in wanted and text[at : at + 1] == "[":
            if text[(end := blank(at + 1)) : end + 1] == "]":
                at = end
            while text[at] != "]":
                entry, at = decoder.raw_decode(text, blank(at + 1))
                yield key, entry
                at = sign(at, ",]")
            at += 1
        else:
            _, at = decoder.raw_decode(text, at)
        at = sign(at, ",}")
