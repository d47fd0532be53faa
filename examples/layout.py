"""A layout of one's own: photos and a file of JSON lines, as Hugging Face's image folders have it.

    {"file_name": "a.jpg", "tags": ["cat"], "split": "train"}

    python examples/layout.py photos

A layout is two things: a function that says why a folder is of it, and a class that reads one. It names photos and
never opens them; what is wrong ends as an ``InputError`` with file and line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tag2mask import data
from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import known_classes
from tag2mask.data.finding import Finding
from tag2mask.data.ids import tidy
from tag2mask.data.layouts import LAYOUTS, LayoutEntry
from tag2mask.data.listing import Listing
from tag2mask.data.mixed import not_named
from tag2mask.data.reading import text_lines
from tag2mask.data.settings import DataSettings, known_split, split_name
from tag2mask.data.walk import Present, left_out, walk
from tag2mask.errors import InputError

FILE = "metadata.jsonl"


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    return f"tags in {FILE}" if (root / FILE).is_file() else None


class JsonLines:
    """A data set in this layout."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings, self.path = root, settings, root / FILE
        self.photos: dict[str, dict[str, list[str]]] = {}  # names and their tags, by split
        where: dict[str, str] = {}  # each tag, and the line that has it first
        for number, line in text_lines(self.path):
            try:
                row = json.loads(line)
                name, tags, split = tidy(row["file_name"]), row["tags"], split_name(row.get("split", "train"))
                if not isinstance(tags, list):
                    raise TypeError
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(f"{self.path} line {number} has no file_name or no list of tags: mend it") from error
            self.photos.setdefault(split, {})[name] = tags
            for tag in tags:
                where.setdefault(str(tag), f"{self.path} line {number}")
        self.known = known_classes(root, settings, where)

    def splits(self) -> tuple[str, ...]:
        return tuple(self.photos)

    def read(self, split: str) -> Listing:
        known_split(split, self.splits(), self.root)
        names, present = list(self.photos[split]), Present()
        missing = [name for name in names if not present(str(self.root / name))]
        if missing:
            raise InputError(f"{self.path} names photos that are not there, {missing[0]} for one: copy them there")
        labels = [frozenset(self.known.number[str(tag)] for tag in self.photos[split][name]) for name in names]
        photos = Photos(self.root, names, labels)
        return listing(self.root, self.settings, split, photos, self.known, str(self.path), present=present)

    def left_out(self) -> Iterator[Finding]:
        walked = walk(self.root)
        yield from not_named(walked.photos, {n for names in self.photos.values() for n in names}, self.root, FILE)
        yield from left_out(walked, self.root)


LAYOUTS["json-lines"] = LayoutEntry("photos and metadata.jsonl", recognise, JsonLines)

if __name__ == "__main__":
    opened = data.open_data(sys.argv[1], DataSettings())
    dataset = data.load(opened)
    print(f"{opened.line}: {len(dataset)} photos of {', '.join(dataset.classes)}")
