"""The layout of MS COCO: ``annotations/instances_train2014.json`` and the photos in ``train2014/``.

Exports of other programs are read too: one JSON a split beside its photos (``train/_annotations.coco.json``), and
``data/`` with ``labels.json``. A photo's tags are the categories of its objects (crowds too); one without objects
shows none of the classes. COCO's 80 categories have ids up to 90; in id order they are classes 0 to 79, so class
``c`` has value ``c + 1`` in index masks, as the field's COCO masks do. Object outlines in the JSON are truth and are
never looked at: to measure, give rendered index masks (``masks/``, or ``--truth FOLDER``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import Known, known_classes
from tag2mask.data.companions import PHOTO_WORDS, companion_names, existing_folder, word
from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute
from tag2mask.data.instances import Instances, read_instances
from tag2mask.data.listing import Listing
from tag2mask.data.locating import Locator, missing_images
from tag2mask.data.mixed import not_named
from tag2mask.data.peek import start_of
from tag2mask.data.settings import DataSettings, is_split, known_split, split_name
from tag2mask.data.walk import Present, folders, left_out, walk
from tag2mask.errors import InputError, listed, some, unknown

_START = "instances_"
_SINGLE = ("labels.json", "_annotations.coco.json", "annotations.json", "instances.json", "result.json", "coco.json")


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    files = annotation_files(root)
    shown = listed(path.relative_to(root).as_posix() for path in files.values())
    return f"COCO's annotations in {shown}" if files else None


def annotation_files(root: Path) -> dict[str, Path]:
    """The JSON files by their splits: COCO's own, else those of exports."""
    official = sorted((root / "annotations").glob(f"{_START}*.json"))
    if official:
        return {path.stem[len(_START) :]: path for path in official}
    files: dict[str, Path] = {}
    for name in folders(root):
        if is_split(name):
            candidates = [root / name / file for file in _SINGLE]
            candidates += [path for path in sorted((root / name).glob("*.json")) if path not in candidates]
            path = next((path for path in candidates if _is_coco(path)), None)
            if path:
                files.setdefault(split_name(name), path)
    if not files:
        files = {
            split_name(path.stem): path for path in sorted((root / "annotations").glob("*.json")) if _is_coco(path)
        }
    if not files:
        alone = next((root / file for file in _SINGLE if _is_coco(root / file)), None)
        files = {"train": alone} if alone else {}
    return files


def _is_coco(path: Path) -> bool:
    """Whether a JSON file begins as COCO's do. Datumaro's has an object of categories, and lists of annotations too."""
    start = start_of(path, 1 << 14).lstrip(b"\xef\xbb\xbf \r\n\t")
    lists = re.search(rb'"(images|annotations|categories|licenses)"\s*:\s*\[', start)
    return start.startswith(b"{") and bool(lists) and not re.search(rb'"categories"\s*:\s*\{', start)


class Coco:
    """A data set with COCO's annotations. Each JSON is read once, when it is needed."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.files = annotation_files(root)
        if len(self.files) == 1 and not any(self._file(name) for name in ("train", "val", "test")):
            self.files = {"train": next(iter(self.files.values()))}  # instances_default.json: all is for training
        self._read: dict[str, Instances] = {}
        self._used: dict[str, Path] = {}  # the folder of photos of each file whose split was read

    def _file(self, split: str) -> str | None:
        """``train2014`` for ``train``: the file of that name, else of 2014, else the only one that starts so."""
        starting = [name for name in self.files if name.startswith(split) and name[len(split) :].isdecimal()]
        for name in (split, f"{split}2014", *(name for name in self.files if split_name(name) == split)):
            if name in self.files:
                return name
        return starting[0] if len(starting) == 1 else None

    def splits(self) -> tuple[str, ...]:
        """``train``, ``val``, ``test`` where there is a file of that beginning, and the full names (``train2014``)."""
        short = [name for name in ("train", "val", "test") if name not in self.files and self._file(name)]
        return (*short, *self.files)

    def _instances(self, name: str) -> Instances:
        if name not in self._read:
            self._read[name] = read_instances(self.files[name])
        return self._read[name]

    @cached_property
    def known(self) -> Known:
        """The categories of the splits that are used, so that classes have the same numbers in each."""
        splits = (split_name(self.settings.train_split), split_name(self.settings.val_split))
        names = [name for name in dict.fromkeys(map(self._file, splits)) if name] or list(self.files)
        origins = {
            category: f"category {id_} of {self.files[name]}"
            for name in reversed(names)
            for id_, category in self._instances(name).categories.items()
        }
        order = dict.fromkeys(category for name in names for category in self._instances(name).names())
        return known_classes(self.root, self.settings, {c: origins[c] for c in order}, alphabetical=False)

    def read(self, split: str) -> Listing:
        """One split. Photos without any object show none of the classes."""
        name = self._file(split_name(split)) or self._file(split)
        if name is None:
            known_split(split, self.splits(), self.root)
            raise AssertionError(split)
        instances, known, path = self._instances(name), self.known, self.files[name]
        tags = instances.tags()
        for category in instances.names():
            if category not in known.number:
                raise InputError(f"{path}: {unknown('class', category, known.names)}; the training split lacks it")
        images, present = self._images(name, list(tags)), Present()
        self._used[name] = images
        located = Locator([images], present)
        places = {photo: located(photo) for photo in tags}
        missing = [photo for photo, place in places.items() if place is None]
        if missing:
            raise missing_images(missing, len(tags), str(path), images)
        sets: dict[frozenset[int], frozenset[int]] = {}
        labels = (frozenset(known.number[category] for category in shown) for shown in tags.values())
        files = [place for place in places.values() if place is not None]
        photos = Photos(images, files, (sets.setdefault(label, label) for label in labels))
        lost = _lost(instances, path)
        return listing(self.root, self.settings, split, photos, known, str(path), present=present, findings=lost)

    def _images(self, name: str, photos: Sequence[str]) -> Path:
        """The folder of a split's photos: of those where it may lie, the first that holds some of them.

        Raises:
            InputError: none of them does.
        """
        if self.settings.images:
            return absolute(existing_folder(self.settings.images, "the folder of images"))
        photo_folders = [self.root / folder for folder in folders(self.root) if word(folder) in PHOTO_WORDS]
        folder, own = self.files[name].parent, self.files[name].stem.removeprefix(_START)
        parts = list(dict.fromkeys((name, own)))  # instances_default.json: images/default
        places = [place / part for place in (self.root, *photo_folders) for part in parts] + photo_folders
        places += [folder, folder / "images", folder / "data", self.root]
        present, examples = Present(), photos[:: max(1, len(photos) // 20)]
        for place in places:
            if any(map(Locator([place], present), examples)):
                return place
        return existing_folder(
            next((place for place in places[:-4] if place.is_dir()), places[0]), "the folder of images"
        )

    def left_out(self) -> Iterator[Finding]:
        """What lies in the folders of the photos read so far and is not named."""
        for images in dict.fromkeys(self._used.values()):
            files = [name for name, place in self._used.items() if place == images]
            present = Present()
            photos = {photo for name in files for photo in self._instances(name).photos.values()}
            named = {file for file in map(Locator([images], present), photos) if file}
            contents = walk(images, companion_names(images))
            yield from not_named(contents.photos, named, images, listed(self.files[name].name for name in files))
            yield from left_out(contents, images)


def _lost(instances: Instances, path: Path) -> Iterator[Finding]:
    if instances.lost:
        yield Finding(
            "warning",
            f"{path}: annotations of {some(instances.lost, 'photo')} that are not among its images",
            "their ids lead nowhere: export the data set again",
        )
