"""What other programs write that is not read: named, with what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.peek import start_of
from tag2mask.data.walk import folders


class Form(NamedTuple):
    """A kind of file."""

    suffixes: str  # separated by blanks
    words: tuple[str, ...]  # expressions that are all found at the start of such a file
    what: str
    instead: str


_EXPORT = (
    "such annotations are not read; export them as COCO or PASCAL VOC, or write the tags to tags.csv with columns "
    "image,tags"
)
_TABLE = "if it holds the tags, write them to tags.csv with columns image,tags"
FORMS = (
    Form(".xml", ("<annotations", "<(meta|image)"), "is of CVAT", _EXPORT),
    Form(".json", ('"shapes"', '"(imagePath|imageData|flags)"'), "is of LabelMe", _EXPORT),
    Form(".json", ('"regions"', '"(filename|file_attributes)"'), "is of VIA", _EXPORT),
    Form(".json", (r"\A\s*\[", '"data"', '"(annotations|predictions|result)"'), "is of Label Studio", _EXPORT),
    Form(".json", (r'"categories"\s*:\s*\{', '"(items|info)"'), "is of Datumaro", _EXPORT),
    Form(".json", ('"classTitle"',), "is of Supervisely", _EXPORT),
    Form(".ndjson .jsonl", ('"data_row"',), "is of Labelbox", _EXPORT),
    Form(".ndjson .jsonl", ('"file_name"',), "is a table in JSON lines", "save it as tags.csv with columns image,tags"),
    Form(".tfrecord .tfrecords .parquet", (), "is no folder of photos", "write the photos to files and their tags to "
         "tags.csv with columns image,tags"),
    Form(".xlsx .xls .ods", (), "is a spreadsheet", "if it holds the tags, save it as CSV UTF-8"),
    Form(".zip .tar .gz .tgz .7z .rar", (), "is an archive", "unpack it first"),
    Form(".json", (), "is of a form that is not read", _TABLE),
    Form(".txt", (r"\A[^\n]*\.(jpe?g|png|bmp|tiff?|webp)[ \t,;:]+\S",), "is a list", _TABLE),
)  # fmt: skip


def foreign(root: Path) -> str | None:
    """What a folder, or one in it, holds that another program wrote, and what to do with it; or None."""
    places = [root, *(root / name for name in folders(root)[:20])]
    starts = {path: start_of(path, 1 << 14).decode("utf-8", "replace") for place in places for path in _files(place)}
    for form in FORMS:
        for path, start in starts.items():
            if path.suffix.lower() in form.suffixes.split() and all(re.search(word, start) for word in form.words):
                return f"{path.relative_to(root).as_posix()} {form.what}: {form.instead}"
    return None


def _files(place: Path) -> Iterator[Path]:
    """The first files of each ending in a folder."""
    counts = Counter[str]()
    known = {suffix for form in FORMS for suffix in form.suffixes.split()}
    for path in sorted(place.glob("*")):
        suffix = path.suffix.lower()
        if suffix in known and counts[suffix] < 3 and path.is_file() and not path.name.startswith("."):
            counts[suffix] += 1
            yield path
