"""Names of classes: background before them, and where they are read from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tag2mask.errors import InputError, listed
from tag2mask.files import atomic

BACKGROUND_NAME = "background"
CLASSES_FILE = "classes.txt"  # in a folder of masks: one name a line in the order of the values 1, 2, ...


def with_background(classes: Sequence[str]) -> tuple[str, ...]:
    """The labels' names: background, then the classes."""
    if BACKGROUND_NAME in classes:
        raise InputError(
            f"a class is called '{BACKGROUND_NAME}': background is always label 0, leave it out of the classes"
        )
    return (BACKGROUND_NAME, *classes)


def write_classes(folder: Path, classes: Sequence[str]) -> None:
    """Write :data:`CLASSES_FILE` into a folder of masks in our label convention."""
    with atomic(folder / CLASSES_FILE) as file:
        file.writelines(f"{name}\n" for name in classes)


def classes_in(folder: Path) -> tuple[str, ...] | None:
    """The classes that :data:`CLASSES_FILE` in a folder of masks names; None without that file.

    Raises:
        InputError: as :func:`read_classes`.
    """
    path = folder / CLASSES_FILE
    return read_classes(str(path)) if path.is_file() else None


def as_written(folder: Path, classes: Sequence[str]) -> bool:
    """Whether :data:`CLASSES_FILE` of a folder is what :func:`write_classes` writes of these, whose names may hold
    commas or end in numbers."""
    try:
        return (folder / CLASSES_FILE).read_text(encoding="utf-8").splitlines() == list(classes)
    except (OSError, UnicodeDecodeError):
        return False


def read_classes(text: str) -> tuple[str, ...]:
    """The classes from a file with one name per line, or from ``a,b,c``. A leading "background" is taken off.

    Names may hold spaces. Masks given to :func:`evaluate_folders` count their classes from 1 in this order.

    Raises:
        InputError: no such file, no name, a name twice, or a file whose every line carries a value (``cat 8``).
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # 80 names in a row are longer than a file name may be
        is_file = False
    if is_file:
        try:
            content = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the classes in {text} ({error}): give one class a line") from error
        names = content.splitlines() if "\n" in content else content.split(",")
    elif "," not in text and (path.suffix in (".txt", ".csv", ".names") or len(path.parts) > 1):
        raise InputError(f"no file {text} to read the classes from: give a file with one class a line, or a,b,c")
    else:
        names = text.split(",")
    names = [name.strip() for name in names if name.strip()]
    if is_file and _have_values(names):
        raise InputError(f"{text} has values behind its classes ('{names[0]}'): give the names alone")
    if names and names[0].lower() == BACKGROUND_NAME:
        names = names[1:]
    if not names:
        raise InputError(f"no classes in '{text}': give a file with one class a line, or a,b,c")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"class {listed(twice)} is given twice in '{text}': name each class once")
    if len(names) > 254:
        raise InputError(f"{len(names)} classes in '{text}': an 8-bit mask holds at most 254 and background")
    return tuple(names)


def _have_values(names: Sequence[str]) -> bool:
    """Whether all of several lines are ``cat 8``; those of ``defect 1``, ``defect 2`` are names, for ``defect`` is not
    two, and so are those of ``Boeing 747``, for no mask has that value."""
    found = [re.fullmatch(r"(.*)\s(\d+)", name) for name in names]
    pairs = [(match[1].strip(), int(match[2])) for match in found if match]
    before, values = {name for name, _ in pairs}, {value for _, value in pairs}
    return 1 < len(pairs) == len(names) == len(before) == len(values) and max(values) < 256
