"""Index PNG alone: the masks as a run keeps them, under the photos' ids, with ``classes.txt``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tag2mask.data import images
from tag2mask.errors import InputError, listed
from tag2mask.evaluate import CLASSES_FILE, as_written, classes_in, write_classes
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, drawn_mask
from tag2mask.naming import safe_name


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """``<id>.png`` of each photo."""
    write_classes(out, about.classes)
    write_masks(out, photos)
    return []


def write_masks(out: Path, photos: Iterable[MaskedPhoto]) -> list[str]:
    """``<id>.png`` of each photo, and their names without the suffix."""
    names = []
    for photo in photos:
        names.append(safe_name(photo.id))
        path = out / f"{names[-1]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_index_mask(path, photo.mask)
    return names


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every PNG below a folder.

    Raises:
        InputError: no mask, or ``classes.txt`` names other classes.
    """
    if not as_written(path, classes) and (named := classes_in(path)) not in (None, tuple(classes)):
        raise InputError(
            f"{path / CLASSES_FILE} names the classes {listed(named or (), 8)}, and the run's are "
            f"{listed(classes, 8)}: values would mean other classes"
        )
    yield from read_masks(path, classes)


def read_masks(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """Every PNG below a folder, named by its path in it."""
    files = sorted(path.rglob("*.png"))
    if not files:
        raise InputError(f"{path} holds no PNG: give the folder of the corrected masks")
    for file in files:
        yield Drawn(file.relative_to(path).with_suffix("").as_posix(), drawn_mask(file, classes), by_id=True)
