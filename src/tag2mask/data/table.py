"""CSV files of tags, in the forms that people and their programs write.

``image,tags`` with tags separated by ``;`` or ``|``; a line for each tag of a photo; or a column for each class with 0
and 1 in it (one-hot). Separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO, cast

from tag2mask.data.finding import Finding
from tag2mask.data.ids import tidy
from tag2mask.data.reading import bounded_lines, opened_text
from tag2mask.data.settings import split_name
from tag2mask.data.words import clean
from tag2mask.errors import InputError, listed, some, unknown
from tag2mask.types import DOMAINS, Domain

# What columns are called, the likeliest name first.
_NAMES = {
    "image": (
        "image", "filename", "file_name", "file", "image_path", "imagepath", "filepath", "file_path", "path", "img",
        "image_name", "imagename", "image_id", "imageid", "photo", "name", "id",
    ),
    "tags": (
        "tags", "tag", "labels", "label", "classes", "class", "categories", "category", "class_name", "label_name",
    ),
    "split": ("split", "subset", "set", "partition"),
    "domain": ("domain",),
    "confidence": ("confidence", "score", "probability", "prob", "certainty"),
}  # fmt: skip
_SPLIT_IN_OTHER_WORDS = frozenset(
    ["is_valid", "is_val", "is_validation", "is_train", "is_training", "is_test", "fold", "kfold", "usage", "phase"]
)

_UNNAMED = re.compile(r"$|unnamed: \d+$", re.IGNORECASE)  # the numbers of lines that pandas writes
_SEPARATORS = re.compile(r"[;|；｜]")
_ABSENT, _PRESENT = frozenset({"", "0", "0.0", "false", "no"}), frozenset({"1", "1.0", "true", "yes"})


class Row(NamedTuple):
    """One line of a CSV of tags."""

    line: int
    image: str
    tags: tuple[str, ...] | None  # None: the table has no tags
    split: str
    domain: Domain


@dataclass(frozen=True)
class Form:
    """How a CSV is written: what its first line says."""

    delimiter: str
    columns: tuple[str, ...]  # names as they stand there
    at: dict[str, int]  # place of image, tags, split, domain, confidence, as far as they are there
    one_hot: tuple[tuple[int, str], ...] = ()  # place and class of each column of zeros and ones

    def unread(self) -> Iterator[str]:
        """Columns that say nothing here."""
        read = {*(place for what, place in self.at.items() if what != "confidence"), *(i for i, _ in self.one_hot)}
        for place, name in enumerate(self.columns):
            if place not in read and not _UNNAMED.match(name) and name.lower() not in _NAMES["image"]:
                yield name

    @property
    def tags_go_on(self) -> bool:
        """Whether cells beyond the last column are tags: separated as the columns are, in ``image;tags``."""
        return self.delimiter in ";|" and self.at.get("tags") == len(self.columns) - 1


def form_of(path: Path) -> Form:
    """The form of a CSV of tags.

    Raises:
        InputError: it cannot be read, or has no column of photos.
    """
    with opened_text(path, "the file of tags") as file:
        return _read_form(file, path)[0]


def _read_form(file: TextIO, path: Path) -> tuple[Form, int]:
    """The form, and how many lines it took; the file then stands at the first photo."""
    lines = bounded_lines(file, path)
    header, taken = next(lines, ""), 1
    excel = re.fullmatch(r'"?sep=(.)"?\s*', header.lstrip("\ufeff"), re.IGNORECASE)
    if excel:
        header, taken = next(lines, ""), 2
    delimiter = excel[1] if excel else max(",;\t|", key=header.count)
    try:
        columns = tuple(clean(name) for name in next(csv.reader([header], delimiter=delimiter), []))
    except (csv.Error, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a CSV file ({error}): save it as CSV UTF-8") from error
    lower = [name.lower() for name in columns]
    twice = next((name for place, name in enumerate(columns) if name and name in columns[:place]), None)
    if twice:
        raise InputError(f"{path} has two columns '{twice}': rename one, or join them")
    at = {what: lower.index(name) for what, names in _NAMES.items() for name in reversed(names) if name in lower}
    if lower == ["pixel value", "class"]:
        raise InputError(
            f"{path} is of Roboflow's masks, which come without tags: export the data set as COCO, whose categories "
            "are read as tags, or write tags.csv with columns image,tags"
        )
    if "image" not in at:
        raise InputError(
            f"{path} has no column 'image' (its first line has: {listed(columns, 8) or 'nothing'}): the first line "
            "must be image,tags"
        )
    classes = () if "tags" in at else ((i, name) for i, name in enumerate(columns) if i not in at.values())
    no_class = {*_NAMES["image"], *_SPLIT_IN_OTHER_WORDS}
    one_hot = ((i, name) for i, name in classes if name.lower() not in no_class and not _UNNAMED.match(name))
    return Form(delimiter, columns, at, tuple(one_hot)), taken


def unread_columns(path: Path) -> Iterator[Finding]:
    """Columns of a table that are not read: of another meaning, or meant in other words than these."""
    form = form_of(path)
    unread = list(form.unread())
    splits = [name for name in unread if name.lower() in _SPLIT_IN_OTHER_WORDS]
    if splits and "split" not in form.at:
        said = f"{path}: column '{splits[0]}' is not read, so no photo is for measuring by it"
        yield Finding("warning", said, "call it split, and write train or val")
    doubts = [name for name in unread if name.lower() in _NAMES["confidence"]]
    if doubts:
        said = f"{path}: column '{doubts[0]}' is not read: a tag counts however doubtful it is there"
        yield Finding("warning", said, "remove the lines that are not meant")
    tags = [name for name in unread if re.match(r"(tag|label|class|categor)(?!.*id$)", name.lower())]
    if tags:
        said = f"{path}: column '{tags[0]}' is not read: the tags are those of '{form.columns[form.at['tags']]}'"
        yield Finding("warning", said, "if it has tags, join them in one column, separated by ;")
    others = [name for name in unread if name not in (*splits, *doubts, *tags)]
    if others:
        yield Finding("note", f"{path}: columns that are not read: {listed(others, 6)}")


def rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of a CSV of tags, read as they are asked for. Where no split is written, they are of ``split``.

    Raises:
        InputError: no such file, not UTF-8, a column missing (the message names those found), an empty image name,
            an unknown domain, more cells than columns, a number other than 0 and 1 where there is a column a class.
    """
    parse: _Parser | None = None
    for form, cells, line in _lines(path):
        parse = parse or _Parser(path, form, split)
        yield parse(cells, line)


def photo_names(path: Path) -> Iterator[str]:
    """The photos that a table names, whatever else it says of them.

    Raises:
        InputError: as :func:`rows`, of the column of photos.
    """
    return (_image(cells, form, f"{path} line {line}") for form, cells, line in _lines(path))


def _lines(path: Path) -> Iterator[tuple[Form, list[str], int]]:
    """The form of a table, the cells of each line that is not blank, and its number; as they are asked for."""
    with opened_text(path, "the file of tags") as file:
        form, taken = _read_form(file, path)
        reader = csv.reader(bounded_lines(file, path), delimiter=form.delimiter)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield form, cells, reader.line_num + taken
        except csv.Error as error:
            where = f"line {reader.line_num + taken}"
            raise InputError(f"{path} {where} is not CSV ({error}): save it as CSV UTF-8") from error


def _image(cells: list[str], form: Form, where: str) -> str:
    image = cells[form.at["image"]].strip() if len(cells) > form.at["image"] else ""
    if not image or tidy(image) == ".":
        raise InputError(f"{where} names no image: fill it in or remove the line")
    return tidy(image)


class _Parser:
    """Cells to rows. Cells that were met before are not parsed again: a million lines have few different tags."""

    def __init__(self, path: Path, form: Form, split: str) -> None:
        self.path, self.form, self.split = path, form, split
        self.tags: dict[str, tuple[str, ...]] = {}
        self.splits: dict[str, str] = {}

    def __call__(self, cells: list[str], line: int) -> Row:
        form, at = self.form, self.form.at
        extra = cells[len(form.columns) :]
        if extra and any(map(str.strip, extra)) and not form.tags_go_on:
            raise InputError(
                f"{self.path} line {line} has {some(len(cells), 'cell')} where the first line has {len(form.columns)}: "
                "separate tags by ;"
            )
        if len(cells) < len(form.columns):
            cells += [""] * (len(form.columns) - len(cells))
        image = _image(cells, form, f"{self.path} line {line}")
        if "confidence" in at and re.fullmatch(r"0*\.?0*", cells[at["confidence"]].strip() or "1"):
            name = form.columns[at["confidence"]]
            raise InputError(
                f"{self.path} line {line} gives image {image} a tag of {name} 0, so it does not show it: remove such "
                "lines, and others that are not meant"
            )
        split = cells[at["split"]].strip() if "split" in at else ""
        if split not in self.splits:
            self.splits[split] = split_name(split) or self.split
        return Row(line, image, self._tags(cells, extra, line), self.splits[split], self._domain(cells, line))

    def _tags(self, cells: list[str], extra: list[str], line: int) -> tuple[str, ...] | None:
        if self.form.one_hot:
            return tuple(name for place, name in self.form.one_hot if self._shown(cells[place], name, line))
        if "tags" not in self.form.at:
            return None
        cell = ";".join([cells[self.form.at["tags"]], *extra])
        if cell not in self.tags:
            tags = (clean(tag) for tag in _SEPARATORS.split(cell))
            self.tags[cell] = tuple(dict.fromkeys(tag for tag in tags if tag))
        return self.tags[cell]

    def _shown(self, cell: str, name: str, line: int) -> bool:
        cell = cell.strip().lower()
        if cell in _PRESENT:
            return True
        if cell in _ABSENT:
            return False
        raise InputError(
            f"{self.path} line {line}: there is no column 'tags', and column '{name}' has '{cell[:40]}': with a column "
            "for each class, write 1 where the photo shows it and 0 where not; otherwise the first line must be "
            "image,tags"
        )

    def _domain(self, cells: list[str], line: int) -> Domain:
        if "domain" not in self.form.at:
            return "target"
        domain = cells[self.form.at["domain"]].strip()
        if domain and domain not in DOMAINS:
            raise InputError(f"{self.path} line {line}: {unknown('domain', domain, DOMAINS)}")
        return cast(Domain, domain or "target")
