"""COCO's instances JSON: which categories occur in which photo. Outlines, nearly all of it, are forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.data.ids import tidy
from tag2mask.data.reading import opened_text
from tag2mask.data.words import clean, folded
from tag2mask.errors import InputError

JSON_BYTES = 2 << 30  # COCO's largest has 450 MB
KEYS = ("categories", "images", "annotations")


@dataclass
class Instances:
    """What an instances JSON says. Ids are texts: some programs write a number as text in one list, not in another."""

    categories: dict[str, str] = field(default_factory=dict)  # names by id, in the order of the ids
    photos: dict[str, str] = field(default_factory=dict)  # files by id
    shown: dict[str, set[str]] = field(default_factory=dict)  # ids of categories by id of the photo
    lost: int = 0  # annotations of photos that are not listed

    def names(self) -> tuple[str, ...]:
        """Names of the categories, each once."""
        return tuple(dict.fromkeys(self.categories.values()))

    def tags(self) -> dict[str, set[str]]:
        """Names of what each file shows; empty for one without any object."""
        tags: dict[str, set[str]] = {}
        for id_, file in self.photos.items():
            tags.setdefault(file, set()).update(self.categories[category] for category in self.shown.get(id_, ()))
        return tags


def read_instances(path: Path) -> Instances:
    """Categories, photos and their objects.

    Raises:
        InputError: not JSON, or not of this form (the message says where).
    """
    instances = Instances()
    families: dict[str, set[str]] = {}  # names of categories by supercategory
    where = "its start"
    with opened_text(path, "the annotations", JSON_BYTES) as file:
        text = file.read()
    try:
        for where, entry in entries(text, KEYS):
            if where == "categories":
                _put(instances.categories, key_of(entry["id"]), _category(entry["name"]))
                families.setdefault(str(entry.get("supercategory")), set()).add(clean(str(entry["name"])))
            elif where == "images":
                _put(instances.photos, key_of(entry["id"]), _file(entry["file_name"]))
            else:
                instances.shown.setdefault(key_of(entry["image_id"]), set()).add(key_of(entry["category_id"]))
        where = "its lists"
        if not instances.categories or not instances.photos:
            raise ValueError("no " + ("images" if instances.categories else "categories"))
        where = "annotations"
        strange = set().union(*instances.shown.values()) - instances.categories.keys()
        if strange:
            raise ValueError(f"category_id {min(strange)[:40]} is not among the categories")
        if instances.shown and not instances.shown.keys() & instances.photos.keys():
            raise ValueError("no image_id is among the images")
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): fetch it again") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)[:200] or type(error).__name__
        raise InputError(f"{path} is not a COCO instances file ({reason} in {where}): fetch it again") from error
    instances.lost = len(instances.shown.keys() - instances.photos.keys())
    instances.categories = _in_order(_without_families(instances, families))
    return instances


def key_of(value: Any) -> str:
    """An id as text: 7, 7.0 and "7" are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"an id is {str(value)[:40]}, neither a number nor a text")
    return str(value)


def _put(into: dict[str, str], key: str, value: str) -> None:
    if into.setdefault(key, value) != value:
        raise ValueError(f"id {key[:40]} stands for {into[key][:40]} and for {value[:40]}")


def _category(name: Any) -> str:
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str):
        raise ValueError(f"a category is called {str(name)[:40]}, which is no text")
    return clean(name)


def _file(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a file_name is {str(name)[:40]!r}, which names no file")
    return tidy(name)


def _without_families(instances: Instances, families: dict[str, set[str]]) -> dict[str, str]:
    """Without categories that no photo shows and that are background or others' supercategory: exports have such."""
    used = set().union(*instances.shown.values())

    def is_class(id_: str, name: str) -> bool:
        return id_ in used or not (families.get(name, set()) - {name} or folded(name).strip("_") == "background")

    return {id_: name for id_, name in instances.categories.items() if is_class(id_, name)}


def _in_order(categories: dict[str, str]) -> dict[str, str]:
    """By number, then those whose ids are no numbers."""

    def rank(id_: str) -> tuple[bool, int, str]:
        number = id_.removeprefix("-")
        return (False, int(id_), "") if number.isdecimal() and len(number) < 19 else (True, 0, id_)

    return {id_: categories[id_] for id_ in sorted(categories, key=rank)}


def entries(text: str, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
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
