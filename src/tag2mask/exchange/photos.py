"""What leaves and what comes back, whatever the format; the only place here that knows a mask's values."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.data import images
from tag2mask.errors import InputError, UnreadableImage, listed, some
from tag2mask.types import BACKGROUND, IGNORE


@dataclass(frozen=True)
class MaskedPhoto:
    """A photo with its mask, on its way out.

    Attributes:
        name: of its file, relative to the folder that all photos share, with forward slashes.
        mask: ``[height width]`` uint8 in the label convention (:mod:`tag2mask.types`).
        score: how sure the model is of the mask, in [0, 1], without truth.
    """

    id: str
    name: str
    path: Path
    mask: np.ndarray
    score: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    def layers(self) -> Iterator[tuple[int, np.ndarray]]:
        """Class number and pixels ``[height width]`` bool, of the classes that the mask shows."""
        for value in np.unique(self.mask).tolist():
            if value not in (BACKGROUND, IGNORE):
                yield value - 1, self.mask == value


@dataclass(frozen=True)
class About:
    """What all photos of an export share.

    Attributes:
        version: of the model that made the masks.
        split: of the data set that the photos are of.
        root: the folder that the photos share.
        image_root: what stands before a photo's name where a tool asks for an address; None: what the tool needs for
            files of its own disk.
        passport: what the masks were learned from (:mod:`tag2mask.passport`), for formats that have room for it.
    """

    classes: tuple[str, ...]
    version: str
    split: str
    root: Path
    image_root: str | None = None
    passport: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A photo with the mask that a person drew or accepted.

    Attributes:
        name: of the photo's file, as it left; or, ``by_id``, its id as in names of artefacts
            (:func:`tag2mask.naming.safe_name`), without suffix.
        mask: ``[height width]`` uint8 in the label convention.
        who: who made it, where the format says so.
        accepted: whether the format itself says that a person saw this photo; otherwise only a change shows it.
    """

    name: str
    mask: np.ndarray
    who: str = ""
    accepted: bool = False
    by_id: bool = False


Write = Callable[[Path, Iterable[MaskedPhoto], About], Sequence[str]]
"""Writes photos, one in memory at a time, into an empty folder; sentences about what the format could not hold."""
Read = Callable[[Path, Sequence[str]], Iterator[Drawn]]
"""Reads a file or folder in which the classes are these."""


@dataclass(frozen=True)
class Format:
    """A way to write masks down."""

    line: str
    write: Write
    read: Read
    exact: bool = True
    """Whether every pixel of every class comes back as it was."""
    as_left: Callable[[np.ndarray, Sequence[str]], np.ndarray] = field(default=lambda mask, classes: mask)
    """A mask (of these classes, nothing undecided) as it is read again when nobody changed it."""
    refuses: Callable[[str], str] = field(default=lambda name: "")
    """Why it cannot hold the name of a class; empty: it can."""


@dataclass
class Undecided:
    """Counts what a format without "do not care" loses."""

    undecided: int = 0
    pixels: int = 0

    def see(self, photo: MaskedPhoto) -> None:
        self.undecided += int((photo.mask == IGNORE).sum())
        self.pixels += photo.mask.size

    def notes(self) -> list[str]:
        """What is to be said."""
        if not self.undecided:
            return []
        share = 100 * self.undecided / self.pixels
        return [f"{share:.2g} % of the pixels are undecided and leave as background: the format knows no other"]


def painted(
    size: tuple[int, int], layers: Iterable[tuple[str, np.ndarray]], classes: Sequence[str], source: str
) -> np.ndarray:
    """The mask ``[height width]`` uint8 of classes' pixels; a later layer covers an earlier one.

    Raises:
        InputError: a layer is of no class of these, or of another size.
    """
    mask = np.full(size, BACKGROUND, np.uint8)
    for name, pixels in layers:
        if name not in classes:
            raise InputError(
                f"{source} shows the class '{name}', and the run's are {listed(classes, 8)}: rename it there"
            )
        if pixels.shape != size:
            raise InputError(
                f"{source}: a mask of {pixels.shape[1]}x{pixels.shape[0]} pixels on a photo of {size[1]}x{size[0]}"
            )
        mask[pixels] = classes.index(name) + 1
    return mask


def drawn_mask(path: Path, classes: Sequence[str]) -> np.ndarray:
    """An index mask ``[height width]`` uint8 of these classes.

    Raises:
        InputError: it cannot be read, or holds a value of no class.
    """
    try:
        mask = images.read_index_mask(path)
    except UnreadableImage as error:
        raise InputError(f"{error}: write the corrected mask again") from error
    values = set(np.unique(mask).tolist()) - {IGNORE}
    if values and max(values) > len(classes):
        raise InputError(
            f"{path} holds the value {max(values)}, and the last of the run's {some(len(classes), 'class')} is "
            f"{len(classes)}: write 0 for background, 1, 2, ... for the classes in order, 255 for do not care"
        )
    return mask


def place_photo(photo: MaskedPhoto, path: Path) -> None:
    """The photo itself at ``path``: a link where the system has them, else a copy."""
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(photo.path.resolve())
    except OSError:  # Windows without the right to make links
        shutil.copyfile(photo.path, path)


class ScoreTable:
    """``scores.csv``: the photos in their order, with score and classes."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.path, self.classes, self.rows = folder / "scores.csv", classes, 0

    def watch(self, photos: Iterable[MaskedPhoto]) -> Iterator[MaskedPhoto]:
        """The photos, each with a row once it has passed."""
        # names of files may be no text: their bytes are shown, as \\udcff
        with self.path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["rank", "image", "id", "confidence", "classes"])
            for photo in photos:
                yield photo
                self.rows += 1
                shown = ";".join(self.classes[c] for c, _ in photo.layers())
                table.writerow([self.rows, photo.name, photo.id, f"{photo.score:.5f}", shown])


def shared_root(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all these files.

    Raises:
        InputError: they lie on drives that share none.
    """
    try:
        return Path(os.path.commonpath([str(path.parent) for path in paths]))
    except ValueError as error:
        raise InputError("the photos lie on several drives and share no folder: put them on one") from error


def only_file(path: Path, pattern: str, advice: str) -> Path:
    """The file itself, or the only one of this pattern in a folder.

    Raises:
        InputError: there is none, or there are several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path} is not there: {advice}")
    inside = sorted(path.glob(pattern))
    if len(inside) != 1:
        raise InputError(f"{path} holds {len(inside) or 'no'} files {pattern}: {advice}")
    return inside[0]
