"""What YOLO's ``data.yaml`` says: the classes, and where the photos of each split lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tag2mask.data.ids import tidy
from tag2mask.data.reading import read_text, text_lines
from tag2mask.data.words import clean
from tag2mask.errors import InputError, listed

_ADVICE = "name the classes in classes.txt, in order, or with --class-names a,b,c"


def _path(root: Path) -> Path | None:
    """``data.yaml``, else the first YAML file."""
    paths = (path for ending in ("yaml", "yml") for path in root.glob(f"*.{ending}"))
    return min(paths, key=lambda path: (path.stem != "data", path.name), default=None)


def _content(path: Path) -> Any:
    """The content with every value a text: in YAML a class ``no`` is False, and ``012`` is ten. None: no YAML."""
    import yaml

    try:
        return yaml.load(read_text(path, "the names"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None


def names(root: Path) -> tuple[str, ...]:
    """The names of the classes: a list, or a dict by number.

    Raises:
        InputError: no such file, or no names in it.
    """
    path = _path(root)
    if path is None:
        raise InputError(f"{root} has numbers of classes and no names (no data.yaml): {_ADVICE}")
    content = _content(path)
    said = content.get("names") if isinstance(content, dict) else None
    if isinstance(said, dict):
        numbers = [str(number) for number in range(len(said))]
        if set(said) != set(numbers):
            raise InputError(
                f"{path} numbers its classes {listed(map(str, said))}: number them 0 to {len(said) - 1}, without gaps"
            )
        said = [said[number] for number in numbers]
    if not isinstance(said, list) or not all(isinstance(name, str) for name in said):
        raise InputError(f"{path} has no list 'names': {_ADVICE}")
    cleaned = tuple(map(clean, said))
    if not cleaned or not all(cleaned) or len(set(cleaned)) < len(cleaned):
        raise InputError(f"{path} names no class, or one twice: {_ADVICE}")
    return cleaned


def splits(root: Path) -> dict[str, list[Path]]:
    """Folders of photos, and lists of them (``train.txt``), by split; empty where not all that is named is there."""
    path = _path(root)
    content = _content(path) if path else None
    if not isinstance(content, dict):
        return {}
    start = content.get("path")
    starts = [root / start, root] if isinstance(start, str) and "\0" not in start else [root]
    found: dict[str, list[Path]] = {}
    for split in ("train", "val", "test"):
        said = content.get(split) or []
        entries = [entry for entry in ([said] if isinstance(said, str) else said) if isinstance(entry, str) and entry]
        paths = [_existing(entry, starts) for entry in entries]
        if paths and all(paths):
            found[split] = [path for path in paths if path]
        elif paths and split != "test":  # exports name a test split that they do not have
            return {}
    return found if "train" in found else {}


def _existing(entry: str, starts: list[Path]) -> Path | None:
    """A path as Ultralytics takes it: from ``path`` or the data set's folder, which Roboflow's ``../train`` means."""
    candidates = (start / name for name in (entry, entry.removeprefix("../")) for start in starts)
    try:
        return next((Path(path.resolve()) for path in candidates if path.exists()), None)
    except (OSError, ValueError):  # a name that no file can have
        return None


def photos_of_list(path: Path, root: Path, images: Path) -> Iterator[str]:
    """The photos that a list names, relative to ``images``.

    Raises:
        InputError: one that is not there.
    """
    for number, line in text_lines(path, "the list"):
        tail = tidy(line).rpartition(f"/{images.name}/")[2]
        places = [path.parent / line, root / line, images / tail]
        there = next((place.resolve() for place in places if place.is_file()), None)
        if there is None or images not in there.parents:
            raise InputError(
                f"{path} line {number}: {line[:200]} is not in {images}: copy it there, or remove the line"
            )
        yield there.relative_to(images).as_posix()
