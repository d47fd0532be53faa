"""Tags of photos to predict, from a table of tags: for classes that are settled already, those of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tag2mask.data.folder import check_tags
from tag2mask.data.ids import absolute
from tag2mask.data.lines import DistinctTags, Lines
from tag2mask.data.locating import Locator, namesake
from tag2mask.data.samples import Labels, Samples
from tag2mask.data.table import form_of, rows
from tag2mask.data.walk import Present
from tag2mask.data.words import check_class, listed_classes
from tag2mask.errors import InputError, listed, some, unknown

log = logging.getLogger("tag2mask")


def tag_photos(photos: Samples, table: Path, classes: Sequence[str], *, selected: bool = False) -> Samples:
    """The photos with the labels that a table of tags has for them; those that it does not name keep labels None.

    Args:
        photos: as :func:`tag2mask.data.load_images` gives them.
        table: in any form of :mod:`tag2mask.data.table`; it names photos from their folder, or from its own.
        classes: of the masks.
        selected: they were selected from more: tags that are none of them are passed over, and said.

    Raises:
        InputError: no table, or one without tags; a photo that is not among these; a tag that is no class.
    """
    table = absolute(table)
    lines, tags = _read(table)
    name_of = _Finder(photos, table)
    if missing := lines.join(name_of):
        there = namesake(missing[0], photos.base) if photos.base != Path() else None
        advice = f"{there} is there: write names as they stand in" if there else "give"
        raise InputError(
            f"{len(missing)} of {some(len(lines), 'photo')} named in {table} not among the {len(photos)} to predict: "
            f"{listed(missing)}; {advice} the folder that holds them, or remove their lines"
        )
    number = listed_classes(classes, tags.origins).number
    strange = {tag: place for tag, place in tags.origins.items() if tag not in number}
    check_tags(strange)
    for tag, place in strange.items():
        check_class(tag, place)
    if strange and not selected:
        tag, place = next(iter(strange.items()))
        raise InputError(f"{place}: {unknown('class', tag, classes)}; the run has no others")
    if strange:
        log.info("%s: tags that are none of the run's classes are passed over: %s", table, listed(strange))
    labels: list[Labels] = [None] * len(photos)
    for name, shown in zip(lines.names, lines.labels(number, meant=True), strict=True):
        labels[name_of.index[name]] = shown
    for finding in lines.findings() if lines.tagged() else ():
        log.info("%s", finding)
    _count(labels)
    return photos.tagged(labels)


def _read(table: Path) -> tuple[Lines, DistinctTags]:
    form = form_of(table)
    if "tags" not in form.at and not form.one_hot:
        raise InputError(f"{table} has no column 'tags': its first line must be image,tags")
    tags = DistinctTags()
    lines = Lines(table, tags)
    for row in rows(table, ""):
        lines.add(row, table)
    if not len(lines):
        raise InputError(f"{table} names no photo: write a line image,tags for each whose tags are known")
    return lines, tags


class _Finder:
    """The path of a photo, among those to predict, that a table names."""

    def __init__(self, photos: Samples, table: Path) -> None:
        self.index = {str(absolute(photos.base / name)): index for index, name in enumerate(photos.names())}
        self.base = absolute(photos.base) if photos.base != Path() else table.parent
        self.located = Locator([self.base, table.parent], Present())

    def __call__(self, image: str) -> str | None:
        found = self.located(image)
        path = None if found is None else str(self.base / found)
        return path if path in self.index else None


def _count(labels: Sequence[Labels]) -> None:
    known = [shown for shown in labels if shown is not None]
    none = sum(not shown for shown in known)
    log.info(
        "tags of %d of %s: classes outside of them are switched off, on %d all of them; %d without a line may show any",
        len(known), some(len(labels), "photo"), none, len(labels) - len(known),
    )  # fmt: skip
