"""Names of classes that the user listed: ``--class-names``, ``classes.txt``, ``labelmap.txt``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.finding import Finding
from tag2mask.data.reading import text_lines
from tag2mask.data.settings import DataSettings, comma_separated
from tag2mask.data.words import Classes, check_class, clean, folded, listed_classes, merge, no_class
from tag2mask.errors import InputError, some, unknown

FILES = ("classes.txt", "class_names.txt", "labelmap.txt", "obj.names")
"""Files of a data set that name its classes, the first that is there."""

_COLOURED = re.compile(r"([^:]+):(?:\d+,\d+,\d+)?:[^:]*:[^:]*")  # labelmap.txt of CVAT: name:colour:parts:actions

_VALUED = re.compile(r"(.*?[^\s=])[\s=]+(\d{1,9})")


class UserClasses(NamedTuple):
    """Classes that the user listed, in the order of their numbers."""

    names: tuple[str, ...]
    values: tuple[int, ...]  # their values in truth masks, or empty
    source: str

    def number(self, spelling: str, classes: Classes) -> int | None:
        """The number of a class by its name, or by the number itself where that is no name."""
        if spelling in classes.number:
            return classes.number[spelling]
        is_number = spelling.isdecimal() and len(spelling) < 7 and int(spelling) < len(self.names)
        return int(spelling) if is_number else None


def user_classes(root: Path, settings: DataSettings) -> UserClasses | None:
    """The classes that the settings or a file in the data set's folder list, or None."""
    names = comma_separated(settings.class_names)
    if len(names) == 1 and Path(names[0]).suffix and os.path.isfile(names[0]):  # noqa: PTH113 - never an error
        return _of_file(Path(names[0]))
    if names:
        for name in names:
            check_class(name, "--class-names", explicit=True)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise InputError(f"--class-names has '{twice}' twice: name every class once")
        return UserClasses(tuple(map(clean, names)), (), "--class-names")
    path = next((root / name for name in FILES if (root / name).is_file()), None)
    return _of_file(path) if path else None


def _of_file(path: Path) -> UserClasses:
    names, values = read_classes(path)
    return UserClasses(names, values, str(path))


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and, where the lines have them, their values in truth masks (else empty).

    A line is a name, ``name value``, or ``name:colour:parts:actions`` as CVAT writes it; one that starts with ``#`` is
    a comment. Lines may be numbered from 0 or 1 (``0 cat``, ``1: cat``). A single line may hold them all, ``cat,dog``.

    Raises:
        InputError: a name twice or background among them, values for some only or outside 1..254, no name at all.
    """
    names: dict[str, int] = {}
    values: list[int] = []
    lines = _unnumbered(_apart([line for line in text_lines(path, "the file of classes") if line[1][0] != "#"]))
    numbered = _are_numbered([line for _, line in lines])
    for number, line in lines:
        coloured = _COLOURED.fullmatch(line)
        match = None if coloured or numbered else _VALUED.fullmatch(line)
        name = clean(coloured[1] if coloured else match[1] if match else line)
        if coloured and folded(name).strip("_") == "background":
            continue
        reason = no_class(name)
        if reason and "background is no class" in reason:
            raise InputError(f"{path} line {number}: background is no class (it is value 0 of masks): remove the line")
        check_class(name, f"{path} line {number}", explicit=True)
        if name in names:
            raise InputError(f"{path} line {number}: class '{name}' is already on line {names[name]}: remove one")
        names[name] = number
        if match:
            values.append(int(match[2]))
            if not 1 <= values[-1] <= 254:
                raise InputError(f"{path} line {number}: value {values[-1]} is outside 1..254: 0 is background")
    if not names:
        raise InputError(f"{path} names no class: write one a line")
    if values and len(values) != len(names):
        raise InputError(
            f"{path} gives {len(values)} of {some(len(names), 'class')} a value: give it to all or to none"
        )
    return tuple(names), tuple(values)


def _apart(lines: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """Lines without what separates them in lists: a comma or semicolon at the end, YAML's ``- `` before each. A single
    line is cut there."""
    lines = [(number, line.rstrip(",; ")) for number, line in lines if line.strip(",; ")]
    if len(lines) == 1 and not _COLOURED.fullmatch(lines[0][1]):
        number, line = lines[0]
        return [(number, part.strip()) for part in re.split("[,;]", line) if part.strip()]
    return [(number, line[2:].strip()) for number, line in lines] if all(x[:2] == "- " for _, x in lines) else lines


def _unnumbered(lines: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """Numbered lines without the numbers that they are counted by, from 0 or 1."""
    parts = [re.fullmatch(r"(\d{1,6})(?:\s*[:,;)\t]\s*|\s+)(?!\d+$)(\S.*)", line) for _, line in lines]
    counted = [int(part[1]) if part else None for part in parts]
    if len(lines) < 2 or counted not in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
        return lines
    return [(number, part[2]) for (number, _), part in zip(lines, parts, strict=True) if part]


def _are_numbered(lines: Sequence[str]) -> bool:
    """Whether the numbers at the ends are parts of names: ``defect 1``, ``defect 2``, for ``defect`` is not two."""
    found = [match[1] for line in lines if "=" not in line and (match := _VALUED.fullmatch(line))]
    return len(found) == len(lines) > len(set(found))


class Known(NamedTuple):
    """The classes of a data set and the number that each spelling met in it stands for."""

    names: tuple[str, ...]
    values: tuple[int, ...]  # in truth masks, where the user gave them
    number: dict[str, int]
    explicit: bool
    merged: tuple[tuple[str, ...], ...]  # spellings taken as one that differ in capitals
    origins: dict[str, str]  # where a class is first named


def known_classes(
    root: Path, settings: DataSettings, origins: Mapping[str, str], *, alphabetical: bool = True
) -> Known:
    """The classes that the user listed or, where nothing lists them, those that were met.

    Args:
        origins: every spelling met, and where it is met first.
        alphabetical: the order of those that were met; otherwise that of ``origins``.

    Raises:
        InputError: a spelling that is none of the classes listed; it says where.
    """
    own = user_classes(root, settings)
    if own is None:
        classes = merge(origins, alphabetical=alphabetical)
        first = {classes.names[classes.number[spelling]]: place for spelling, place in reversed(list(origins.items()))}
        return Known(classes.names, (), dict(classes.number), False, classes.merged, first)
    classes = listed_classes(own.names, origins)
    number: dict[str, int] = {}
    for spelling, place in origins.items():
        class_number = own.number(spelling, classes)
        if class_number is None:
            raise InputError(f"{place}: {unknown('class', spelling, own.names)}; the classes are those of {own.source}")
        number[spelling] = class_number
    return Known(own.names, own.values, number, True, (), {})


def merged_words(merged: Iterable[tuple[str, ...]]) -> Iterator[Finding]:
    """Spellings that were taken as one class."""
    for spellings in merged:
        yield Finding(
            "warning",
            f"{', '.join(map(repr, spellings))} are taken as one class",
            "if they are several, list all classes in classes.txt",
        )
