"""Tags of a data set in the VOC layout, from wherever they are kept, and what its classes are.

The first of these that is there: ``--tags FILE``; ``tags.csv``; ``cls_labels.npy``; lists of lines ``id 0 14`` called
``<list>_cls.txt``; the XML annotations. The classes are those that the user listed (``--class-names``, ``classes.txt``,
``labelmap.txt``), else VOC's 20 where the tags fit them, else the names met.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tag2mask.data.annotations import read_annotation
from tag2mask.data.class_file import Known, known_classes, user_classes
from tag2mask.data.folder import check_tags
from tag2mask.data.ids import sample_id, tidy
from tag2mask.data.label_file import read_label_file
from tag2mask.data.lines import DistinctTags, Lines
from tag2mask.data.reading import text_lines
from tag2mask.data.samples import Labels
from tag2mask.data.settings import DataSettings
from tag2mask.data.table import rows
from tag2mask.data.words import folded
from tag2mask.errors import InputError, some, unknown
from tag2mask.types import Domain

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes, alphabetical; class ``c`` has value ``c + 1`` in the truth masks."""


class VocTags(NamedTuple):
    """The tags of a data set's photos."""

    source: str
    known: Known
    labels: Mapping[str, Labels]  # by photo id; a photo that is missing is untagged
    domains: Mapping[str, Domain]  # of photos that are not of the target set


def photo_id(word: str) -> str:
    """``2007_000032`` of ``2007_000032``, ``2007_000032.jpg`` and ``/JPEGImages/2007_000032.jpg``."""
    name = tidy(word).lstrip("/")
    before, folder, rest = name.rpartition("JPEGImages/")
    return sample_id(rest if folder and (not before or before.endswith("/")) else name)


def read_tags(path: Path, root: Path, settings: DataSettings) -> VocTags:
    """Tags from a CSV (image,tags), from ``cls_labels.npy`` or from lines ``id 0 14``.

    Raises:
        InputError: a file of another form, an id listed twice, a name or number that is no class.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        return _of_table(path, root, settings)
    if path.suffix.lower() == ".npy":
        vectors = read_label_file(path)
        count = len(next(iter(vectors.values())))
        numbers = {id_: np.flatnonzero(vector > 0).tolist() for id_, vector in vectors.items()}
        return _numbered(numbers, lambda _: str(path), count, str(path), root, settings)
    line_of: dict[str, int] = {}
    numbers = dict(_text_tags(path, line_of))
    place_of: Callable[[str], str] = lambda id_: f"{path} line {line_of[id_]}"  # noqa: E731
    return _numbered(numbers, place_of, None, str(path), root, settings)


def _of_table(path: Path, root: Path, settings: DataSettings) -> VocTags:
    tags = DistinctTags()
    lines = Lines(path, tags)
    for row in rows(path, ""):
        lines.add(row, path)
    lines.join(photo_id)
    known = named_classes(tags.origins, root, settings)
    if not known.explicit:
        check_tags(tags.origins)
    domains = dict(zip(lines.names, lines.domains(), strict=False))
    return VocTags(str(path), known, _shared(zip(lines.names, lines.labels(known.number), strict=True)), domains)


def of_annotations(folder: Path, paths: Mapping[str, Path], root: Path, settings: DataSettings) -> VocTags:
    """Tags from XML.

    Args:
        folder: where the annotations lie, for messages.
        paths: the annotation of each photo, by its id.
    """
    origins: dict[str, str] = {}
    names_of: dict[str, frozenset[str] | None] = {}
    for id_, path in paths.items():
        names_of[id_] = read_annotation(path)
        for name in names_of[id_] or ():
            origins.setdefault(name, str(path))
    known = named_classes(dict(sorted(origins.items())), root, settings)
    labels = {
        id_: None if names is None else frozenset(known.number[name] for name in names)
        for id_, names in names_of.items()
    }
    return VocTags(f"the annotations in {folder}", known, _shared(labels.items()), {})


def named_classes(origins: Mapping[str, str], root: Path, settings: DataSettings) -> Known:
    """The classes of tags that are names.

    Raises:
        InputError: a name that looks like a misspelt class of VOC where most names are VOC's.
    """
    if user_classes(root, settings) is not None:
        return known_classes(root, settings, origins)
    number = {name: CLASSES.index(folded(name)) for name in origins if folded(name) in CLASSES}
    others = [name for name in origins if name not in number]
    if not others:
        return Known(CLASSES, (), number, True, (), {})
    if len(number) > len(others):
        for name in others:
            if difflib.get_close_matches(folded(name), CLASSES, n=1, cutoff=0.6):
                raise InputError(
                    f"{origins[name]}: {unknown('class', name, CLASSES)}; if the classes are your own, list them in "
                    f"classes.txt or with --class-names {','.join(sorted(origins))[:200]}"
                )
    return known_classes(root, settings, origins)


def _numbered(
    numbers: Mapping[str, list[int]],
    place_of: Callable[[str], str],
    count: int | None,
    source: str,
    root: Path,
    settings: DataSettings,
) -> VocTags:
    """Tags that are numbers of classes, ``count`` of them where the file says so."""
    own = user_classes(root, settings)
    names = own.names if own else CLASSES
    if count is not None and count != len(names):
        raise InputError(
            f"{source} has {some(count, 'number')} a photo for {some(len(names), 'class')}"
            f"{f' in {own.source}' if own else ' in VOC'}: name its {count} classes, in order, with --class-names "
            "a,b,c or in classes.txt"
        )
    for id_, shown in numbers.items():
        if shown and max(shown) >= len(names):
            advice = "" if own else ": name your own classes, in order, with --class-names a,b,c or in classes.txt"
            last = len(names) - 1
            raise InputError(f"{place_of(id_)}: '{max(shown)}' is not a class number from 0 to {last}{advice}")
    known = Known(names, own.values if own else (), {name: i for i, name in enumerate(names)}, True, (), {})
    return VocTags(source, known, _shared((id_, frozenset(shown)) for id_, shown in numbers.items()), {})


def _shared(pairs: Iterable[tuple[str, Labels]]) -> dict[str, Labels]:
    """Equal sets are one object: there are thousands of photos and some hundred sets."""
    sets: dict[Labels, Labels] = {}
    return {id_: sets.setdefault(labels, labels) for id_, labels in pairs}


def _text_tags(path: Path, line_of: dict[str, int]) -> Iterable[tuple[str, list[int]]]:
    for number, line in text_lines(path, "the file of tags"):
        words = line.split()
        id_ = photo_id(words[0])
        if line_of.setdefault(id_, number) != number:
            raise InputError(f"{path} lists image {id_} on lines {line_of[id_]} and {number}: remove one")
        for word in words[1:]:
            if not word.isdecimal() or len(word) > 6:
                raise InputError(f"{path} line {number}: '{word[:40]}' is not a class number: write lines 'id 0 14'")
        yield id_, [int(word) for word in words[1:]]
