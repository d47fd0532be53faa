"""The layouts that can be read, and which of them a folder has: decided by what it holds, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from tag2mask.data import anomaly, coco, folder, voc, yolo
from tag2mask.data.class_folders import ClassFolders
from tag2mask.data.companions import existing_folder
from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute
from tag2mask.data.listing import Listing
from tag2mask.data.settings import DataSettings
from tag2mask.data.walk import folders, is_run, made_in
from tag2mask.errors import InputError, listed, unknown


class Reader(Protocol):
    """Reads a data set of one layout. It is made from the data set's folder and the settings."""

    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    def read(self, split: str) -> Listing:
        """All photos of one split; none is opened. Raises :class:`~tag2mask.errors.InputError`."""
        ...

    def left_out(self) -> Iterator[Finding]:
        """What lies in the data set and is not read."""
        ...


class LayoutEntry(NamedTuple):
    """One layout."""

    line: str  # what it is, for lists
    recognise: Callable[[Path, DataSettings], str | None]  # why a folder is of this layout, or None
    reader: Callable[[Path, DataSettings], Reader]


def _never(root: Path, settings: DataSettings) -> None:
    """Class folders have no mark: what nothing else recognises is read so, or refused."""


LAYOUTS: dict[str, LayoutEntry] = {
    "voc": LayoutEntry(
        "PASCAL VOC, with its classes or your own (tags from XML, text lists, or cls_labels.npy)",
        voc.recognise,
        voc.Voc,
    ),
    "coco": LayoutEntry("COCO instances JSON, its own or of exports", coco.recognise, coco.Coco),
    "folder": LayoutEntry(
        "images/ and tags.csv with image,tags (optional split, domain), masks/, saliency/",
        folder.recognise,
        folder.Folder,
    ),
    "yolo": LayoutEntry("YOLO's images/ and labels/", yolo.recognise, yolo.Yolo),
    "anomaly": LayoutEntry("train/good, test/crack, ground_truth/ (MVTec AD)", anomaly.recognise, anomaly.Anomaly),
    "class-folders": LayoutEntry("one folder of photos per class", _never, ClassFolders),
}
"""By name; the first that recognises a folder reads it."""


class Opened(NamedTuple):
    """A data set whose layout is known."""

    root: Path
    settings: DataSettings
    layout: str
    because: str  # what was recognised, in words
    reader: Reader

    @property
    def line(self) -> str:
        """What was recognised and why, for people."""
        return f"{self.root} is read as {self.layout}: {self.because}"


def open_data(path: Path | str, settings: DataSettings) -> Opened:
    """A data set's folder (or its CSV of tags), and what reads it.

    Raises:
        InputError: no such folder, a run, no layout that is known; says what a data set looks like, or which folder
            inside is one.
    """
    root = absolute(Path(path))
    if root.is_file() and root.suffix.lower() in (".csv", ".tsv"):
        root, settings = root.parent, replace(settings, tags=root)
    existing_folder(root, "the data set")
    if is_run(entry.name for entry in root.iterdir()):
        raise InputError(f"{root} is a run of tag2mask: give the data set that it was made from")
    if settings.layout != "auto":
        if settings.layout not in LAYOUTS:
            raise unknown("layout", settings.layout, LAYOUTS)
        return Opened(root, settings, settings.layout, "as asked", LAYOUTS[settings.layout].reader(root, settings))
    for name, entry in LAYOUTS.items():
        because = entry.recognise(root, settings)
        if because:
            return Opened(root, settings, name, because, entry.reader(root, settings))
    inside = [root / name for name in folders(root) if not made_in(root / name) and _is_marked(root / name)]
    if inside:
        raise InputError(f"{root} is not a data set itself: did you mean {listed(map(str, inside))}?")
    try:
        reader = ClassFolders(root, settings)
    except InputError:
        if folder.csv_files(root):  # it is no table of tags: reading it says what it lacks
            folder.Folder(root, settings)
        raise
    return Opened(root, settings, "class-folders", reader.because, reader)


def _is_marked(root: Path) -> bool:
    """Whether a folder is a data set by more than folders of photos."""
    return any(entry.recognise(root, DataSettings()) for entry in LAYOUTS.values())
