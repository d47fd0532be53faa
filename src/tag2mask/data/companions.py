"""Files that accompany photos under the same name: truth masks and saliency maps. Found by name; never opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tag2mask.data.ids import absolute
from tag2mask.data.settings import DataSettings
from tag2mask.data.walk import Present, folders, image_files
from tag2mask.errors import InputError

TRUTH_WORDS = (
    "masks", "mask", "segmentationclassaug", "segmentationclass", "truth", "groundtruth", "gt", "segmentation",
    "segmentations", "seg", "labels", "label", "annotations", "annotation",
)  # fmt: skip
"""Names of folders of truth, without capitals, blanks, ``-`` and ``_``; of several, the earlier one is read first."""
SALIENCY_WORDS = ("saliency", "saliencymaps", "saliencies", "salimages", "sal")
PHOTO_WORDS = frozenset(["images", "imgs", "img", "photos", "jpegimages"])
"""Names of folders of photos, likewise."""
GOOD_WORDS = frozenset(["good", "ok", "normal", "nodefect", "defectfree"])
"""Names of folders of photos that show none of the classes, likewise."""

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".jpg", ".jpeg", ".webp")
"""A JPEG and a WebP are found, then refused: neither holds numbers of classes."""
SALIENCY_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

MARK = re.compile(
    r"([ _.-](masks?|gt|truth|ground[ _-]?truth|labels?|labelids|labeltrainids|seg|segmentation|annotations?|saliency|"
    r"sal)|\.(jpe?g|png|bmp|tiff?|webp))$",
    re.IGNORECASE,
)
"""What people append to a photo's name for its mask or map."""


def word(name: str) -> str:
    """A folder's name as it stands in the lists above."""
    return re.sub(r"[ _-]", "", name.casefold())


class Companions:
    """Which of some places has the file of each photo: one byte a photo."""

    def __init__(
        self, places: Sequence[tuple[Path, str]], ids: Iterable[str], present: Present, folders: Iterable[Path] = ()
    ) -> None:
        """``places``: folder and ending (``_mask.png``); the first that has a photo's file wins.

        ``folders``: further ones, in which there is no such file.
        """
        assert len(places) < 256, len(places)
        self.folders = tuple(dict.fromkeys((*(folder for folder, _ in places), *folders)))
        self._places = tuple(places)
        starts = [(f"{folder}{os.sep}", ending) for folder, ending in self._places]
        self._which = bytearray()
        for id_ in ids:
            numbers = (
                number
                for number, (start, ending) in enumerate(starts, 1)
                if present(os.path.normpath(f"{start}{id_}{ending}"))
            )
            self._which.append(next(numbers, 0))
        self.any = any(self._which)  # whether any photo of the split has one

    def path(self, index: int, id_: str) -> Path | None:
        if not self._which or not self._which[index]:
            return None
        folder, ending = self._places[self._which[index] - 1]
        return folder / f"{id_}{ending}"

    def take(self, indices: Sequence[int]) -> Companions:
        taken = Companions(self._places, (), Present(), self.folders)
        taken.any = self.any
        if self._which:
            taken._which = bytearray(self._which[index] for index in indices)
        return taken


def companions(
    folders: Sequence[Path], suffixes: Sequence[str], ids: Iterable[str], present: Present
) -> Companions | None:
    """Where the files that accompany photos lie, or None when none of the folders holds such files."""
    existing = [place for place in folders if place.is_dir()]
    places = [(place, ending) for place in existing for ending in _endings(place, suffixes)]
    return Companions(places, ids, present, existing) if existing else None


def _endings(place: Path, suffixes: Sequence[str]) -> list[str]:
    """How the files in a folder end after the photos' names: ``.png``, ``.PNG``, ``_mask.png``; the plain one first."""
    rank = {suffix: number for number, suffix in enumerate(suffixes)}
    endings: set[tuple[bool, int, str]] = set()
    for name in image_files(place):
        stem, _, suffix = name.rpartition(".")
        if f".{suffix.lower()}" in rank:
            number = rank[f".{suffix.lower()}"]
            endings.add((False, number, f".{suffix}"))
            mark = MARK.search(stem)
            if mark:
                endings.add((True, number, f"{mark[0]}.{suffix}"))
    return [ending for *_, ending in sorted(endings)][:255]


def companion_names(root: Path) -> frozenset[str]:
    """Folders directly in ``root`` that are called as those of truth and of saliency maps are."""
    return frozenset(name for name in folders(root) if word(name) in TRUTH_WORDS + SALIENCY_WORDS)


NO_FOLDERS: frozenset[str] = frozenset()


def truth(
    root: Path, settings: DataSettings, ids: Iterable[str], present: Present, skip: frozenset[str] = NO_FOLDERS
) -> Companions | None:
    """The truth masks of photos, in the folder that the settings say or in those called so, but for ``skip``."""
    places = _places(root, TRUTH_WORDS, settings.truth, "the truth folder", skip)
    return companions(places, MASK_SUFFIXES, ids, present)


def saliency(
    root: Path, settings: DataSettings, ids: Iterable[str], present: Present, skip: frozenset[str] = NO_FOLDERS
) -> Companions | None:
    """The saliency maps of photos, likewise; None where the run is to make them."""
    if settings.makes_saliency:
        return None
    places = _places(root, SALIENCY_WORDS, settings.saliency, "the saliency folder", skip)
    return companions(places, SALIENCY_SUFFIXES, ids, present)


def _places(root: Path, words: Sequence[str], folder: Path | None, what: str, skip: frozenset[str]) -> list[Path]:
    if folder is not None:
        return [absolute(existing_folder(folder, what))]
    places = [root / name for name in folders(root) if word(name) in words and name not in skip]
    return sorted(places, key=lambda place: words.index(word(place.name)))


def existing_folder(path: Path, what: str) -> Path:
    """``path`` if it is a folder, else the error that says so."""
    if not path.is_dir():
        state = "is a file, not a folder" if path.exists() else "is not there"
        raise InputError(f"{what} {path} {state}: check the path")
    return path
