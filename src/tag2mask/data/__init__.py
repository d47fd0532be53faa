"""Data sets: from a folder of photos and tags to a :class:`~tag2mask.types.Dataset` that opens nothing.

``load`` reads one split, ``splits`` says which there are, ``load_images`` takes photos without tags for prediction.
Layouts: :mod:`~tag2mask.data.folder` (a CSV, or one folder a class), :mod:`~tag2mask.data.voc`,
:mod:`~tag2mask.data.coco`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tag2mask.data import coco, folder, voc
from tag2mask.data.images import SUFFIXES
from tag2mask.data.listing import (
    DataSettings,
    Layout,
    Listing,
    Samples,
    Selection,
    absolute,
    image_files,
    log,
    select,
    unique_ids,
)
from tag2mask.errors import InputError, listed
from tag2mask.types import Dataset, Sample

__all__ = ["DataSettings", "Layout", "Samples", "Selection", "load", "load_images", "read", "splits"]


def load(path: Path | str, settings: DataSettings | None = None, split: str | None = None) -> Dataset:
    """One split of a data set, ready for the pipeline.

    Args:
        path: the data set's folder (or its CSV of tags).
        settings: how it is read; by default it is looked at.
        split: by default the settings' training split. For the training split, every class needs a photo and every
            photo a tag; photos of other splits may have none.

    Raises:
        InputError: whatever is wrong with the data set, in one line.
    """
    settings = settings or DataSettings()
    split = split or settings.train_split
    selection = read(path, settings, split)
    dataset = selection.dataset
    if selection.dropped:
        log.info("%s %s: %d photos show none of the classes and are left out", dataset.name, split, selection.dropped)
    if not len(dataset):
        raise InputError(f"split '{split}' of {path} holds no photo of the classes {listed(dataset.classes, 6)}")
    if split == settings.train_split:
        if selection.untagged:
            raise InputError(
                f"{len(selection.untagged)} of {len(dataset)} photos of split '{split}' of {path} have no tags "
                f"({listed(selection.untagged)}): tag them, remove them, or keep them as photos that show none of "
                "the classes with --keep-untagged"
            )
        lonely = classes_without_photos(dataset)
        if lonely:
            raise InputError(
                f"no photo of split '{split}' of {path} has the tag {listed(lonely)}: "
                "add photos, or select the other classes with --classes"
            )
    return dataset


def read(path: Path | str, settings: DataSettings, split: str) -> Selection:
    """As :func:`load` but without its demands: what is there, and what was left out (for the doctor)."""
    found = _find(path, settings)
    return select(found.read(found.root, found.settings, split), settings)


def splits(path: Path | str, settings: DataSettings | None = None) -> tuple[str, ...]:
    """Names of the splits a data set has."""
    found = _find(path, settings or DataSettings())
    return found.split_names(found.root, found.settings)


def load_images(paths: Path | str | Iterable[Path | str]) -> Sequence[Sample]:
    """Photos without tags: every photo under a folder, or the files given. Nothing is opened.

    Raises:
        InputError: a path that is not there, no photo at all, or two photos with one id.
    """
    places = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if len(places) == 1 and places[0].is_dir():
        base = absolute(places[0])
        names = image_files(base)
        if not names:
            raise InputError(f"{places[0]} holds no images: they end in {', '.join(SUFFIXES)}")
    else:
        base, names = Path(), []
        for place in places:
            if place.is_dir():
                names += [(absolute(place) / name).as_posix() for name in image_files(place)]
            elif place.is_file():
                names.append(absolute(place).as_posix())
            else:
                raise InputError(f"{place} is not there: give a folder of images or image files")
        if not names:
            raise InputError(f"no images in {listed(map(str, places)) or 'an empty list'}: give a folder or files")
    unique_ids(names, base)
    return Samples(base, names, [None] * len(names))


def classes_without_photos(dataset: Dataset) -> tuple[str, ...]:
    """Classes no photo is tagged with."""
    seen: set[int] = set()
    if isinstance(dataset.samples, Samples):
        seen.update(*(labels for labels in dataset.samples.distinct_labels() if labels))
    else:
        seen.update(*(sample.labels for sample in dataset.samples if sample.labels))
    return tuple(name for number, name in enumerate(dataset.classes) if number not in seen)


class _Found(NamedTuple):
    """A data set's folder and the two functions that read its layout."""

    root: Path
    settings: DataSettings
    read: Callable[[Path, DataSettings, str], Listing]
    split_names: Callable[[Path, DataSettings], tuple[str, ...]]


def _find(path: Path | str, settings: DataSettings) -> _Found:
    root = absolute(Path(path))
    if root.is_file() and root.suffix.lower() in (".csv", ".tsv"):
        root, settings = root.parent, replace(settings, tags=root)
    folder.folder(root, "the data set")
    layout = settings.layout if settings.layout != "auto" else _detect(root, settings)
    if layout == "voc":
        return _Found(root, settings, voc.read, voc.split_names)
    if layout == "coco":
        return _Found(root, settings, coco.read, coco.split_names)
    if layout == "class-folders":
        return _Found(root, settings, folder.read_class_folders, folder.class_folder_splits)
    return _Found(root, settings, folder.read, folder.split_names)


def _detect(root: Path, settings: DataSettings) -> Layout:
    """The layout a folder has.

    Raises:
        InputError: none of them; says what a data set looks like, or which folder inside is one.
    """
    layout = _looks_like(root, settings)
    if layout:
        return layout
    inside = [child for child in sorted(root.iterdir()) if child.is_dir() and _looks_like(child, settings, strict=True)]
    if inside:
        raise InputError(f"{root} is not a data set itself: did you mean {listed(map(str, inside))}?")
    if folder.class_folders(root) and image_files(root, skip=folder.BESIDE | {"images"}):
        return "class-folders"
    state = "holds images but no tags" if image_files(root) else "holds no images"
    raise InputError(
        f"{root} {state}: make a file tags.csv with columns image,tags, or one folder for each class, "
        "or give the layout of VOC or COCO"
    )


def _looks_like(root: Path, settings: DataSettings, strict: bool = False) -> Layout | None:
    if (root / "JPEGImages").is_dir() and (root / "ImageSets").is_dir():
        return "voc"
    if any((root / "annotations").glob("instances_*.json")):
        return "coco"
    if any(root.glob("*.csv")) or (settings.tags is not None and not strict):
        return "folder"
    return None
