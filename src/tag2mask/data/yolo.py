"""The layouts of YOLO: for each photo a text with lines ``class x y width height``.

``images/train/7.jpg`` and ``labels/train/7.txt``, ``train/images/7.jpg`` and ``train/labels/7.txt``, or ``7.jpg`` and
``7.txt``. Splits are those of ``data.yaml`` where it names folders or lists of photos in ``images/``. A photo's tags
are the classes of its boxes or outlines; as the format has it, one without a text or with an empty one shows none of
them. The classes are those of ``data.yaml``, ``classes.txt`` or ``obj.names``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tag2mask.data import yolo_yaml
from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import Known, user_classes
from tag2mask.data.companions import PHOTO_WORDS, word
from tag2mask.data.finding import Finding
from tag2mask.data.ids import sample_id
from tag2mask.data.listing import Listing
from tag2mask.data.mixed import masks_among, masks_left_out
from tag2mask.data.peek import start_of
from tag2mask.data.reading import text_lines
from tag2mask.data.settings import DataSettings, is_split, known_split, split_name
from tag2mask.data.walk import Present, folders, image_files, left_out, walk
from tag2mask.errors import InputError, listed, some


class Place(NamedTuple):
    """Where the photos of a split lie."""

    root: Path  # masks and saliency maps lie here
    photos: Path  # their names, hence ids, start from here
    prefix: str  # of the split's names: "train/" or nothing
    labels: Path  # the texts, under the photos' names
    only: frozenset[str] | None = None  # the split's names, where a list has them

    def names(self) -> list[str]:
        """The photos, relative to their folder."""
        files = self._files()
        masks = masks_among(files, self.photos)
        return [name for name in files if name not in masks]

    def masks(self) -> frozenset[str]:
        """Masks among them, which have no text and are no photos that show nothing."""
        return masks_among(self._files(), self.photos)

    def _files(self) -> list[str]:
        names = (name for name in image_files(self.photos) if name.startswith(self.prefix))
        return [name for name in names if self.only is None or name in self.only]


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    for place in (place for group in places(root).values() for place in group):
        if _has_boxes(place.labels / place.prefix) or (place.only and _has_boxes(place.labels, "**/*.txt")):
            return f"YOLO's boxes in {place.labels / place.prefix}"
    return None


def _has_boxes(folder: Path, pattern: str = "*.txt") -> bool:
    texts = sorted(itertools.islice((path for path in folder.glob(pattern) if path.stem != "classes"), 1000))[:20]
    return any(_is_box(start_of(path, 200)) for path in texts)


def _is_box(start: bytes) -> bool:
    """Whether a text begins with a class number and at least four shares of the photo's sides."""
    words = start.split(b"\n")[0].split()
    try:
        return len(words) >= 5 and words[0].isdigit() and all(0 <= float(number) <= 1 for number in words[1:5])
    except ValueError:
        return False


def places(root: Path) -> dict[str, list[Place]]:
    """The folders of photos that have texts, by split: as ``data.yaml`` says or, where it does not, by their names."""
    by_split: dict[str, list[Place]] = {}
    names = folders(root)
    images, labels = _pair(root, names)
    if images and labels:
        said = yolo_yaml.splits(root)
        if not all(_inside(path, images) for paths in said.values() for path in paths):
            said = {}
        inside = [name for name in folders(images) if is_split(name) and (labels / name).is_dir()]
        for name in inside:
            by_split.setdefault(split_name(name), []).append(Place(root, images, f"{name}/", labels))
        if not inside and not said:
            by_split["train"] = [Place(root, images, "", labels)]
        by_split |= {split: list(_said(paths, root, images, labels)) for split, paths in said.items()}
    for name in names if not by_split else ():
        inner_images, inner_labels = _pair(root / name, folders(root / name)) if is_split(name) else (None, None)
        if inner_images and inner_labels:
            by_split.setdefault(split_name(name), []).append(Place(root / name, inner_images, "", inner_labels))
    return by_split or _texts_next_to_photos(root, names)


def _inside(path: Path, images: Path) -> bool:
    return images == path or images in path.parents or path.is_file()


def _said(paths: Sequence[Path], root: Path, images: Path, labels: Path) -> Iterator[Place]:
    """The places of a split whose folders and lists ``data.yaml`` names."""
    listed_: list[str] = []
    for path in paths:
        if path.is_file():
            listed_ += yolo_yaml.photos_of_list(path, root, images)
        else:
            prefix = "" if path == images else f"{path.relative_to(images).as_posix()}/"
            if len(paths) == 1:
                yield Place(root, images, prefix, labels)
                return
            listed_ += [name for name in image_files(images) if name.startswith(prefix)]
    yield Place(root, images, "", labels, frozenset(listed_))


def _texts_next_to_photos(root: Path, names: Sequence[str]) -> dict[str, list[Place]]:
    """``a.jpg`` and ``a.txt`` in one folder, as LabelImg, Darknet and CVAT (``obj_train_data``) write them."""
    by_split: dict[str, list[Place]] = {}
    called = [name for name in names if is_split(name) or word(name) in PHOTO_WORDS or word(name).startswith("obj")]
    for name in ("", *called):
        place = root / name
        stems = {path.stem for path in place.glob("*.txt")}
        if stems and _has_boxes(place) and any(sample_id(photo) in stems for photo in image_files(place)):
            split = "train" if not is_split(name) else split_name(name)
            by_split.setdefault(split, []).append(Place(place if is_split(name) else root, place, "", place))
    return by_split


def _pair(root: Path, names: list[str]) -> tuple[Path | None, Path | None]:
    images = next((root / name for name in names if word(name) in PHOTO_WORDS), None)
    labels = next((root / name for name in names if word(name) in ("labels", "label")), None)
    return images, labels


class Yolo:
    """A data set in one of YOLO's layouts."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.places = places(root)
        if not self.places:
            raise InputError(
                f"{root} has no folders images and labels, as YOLO's data sets have: choose another --layout"
            )
        (first, *_), *_ = self.places.values()
        own = user_classes(root, settings) or user_classes(first.labels, settings)
        self.names, self.values = (own.names, own.values) if own else (yolo_yaml.names(root), ())

    def splits(self) -> tuple[str, ...]:
        return tuple(self.places)

    def read(self, split: str) -> Listing:
        """One split.

        Raises:
            InputError: a text that is not of this form, or a class without a name.
        """
        known_split(split, self.splits(), self.root)
        first, *more = self.places[split]
        if more:
            raise InputError(f"{self.root} has several folders of split '{split}': move their photos into one")
        names = first.names()
        present = Present()
        texts = [_text(first.labels / f"{sample_id(name)}.txt", present) for name in names]
        labels = [frozenset[int]() if text is None else self._labels(text) for text in texts]
        photos = Photos(first.photos, names, labels, explicit=False)
        known, source = Known(self.names, self.values, {}, True, (), {}), str(first.labels)
        strange = _strange(first, [text for text in texts if text], texts.count(None))
        return listing(
            first.root, self.settings, split, photos, known, source, present=present, findings=strange,
            name=self.root.name,
        )  # fmt: skip

    def _labels(self, path: Path) -> frozenset[int]:
        shown: set[int] = set()
        for number, line in text_lines(path, "the labels"):
            word = line.split()[0]
            if not word.isdecimal() or len(word) > 6:
                raise InputError(
                    f"{path} line {number} does not start with the number of a class: write 'class x y w h'"
                )
            if int(word) >= len(self.names):
                raise InputError(
                    f"{path} line {number}: class {word} has no name, there are {len(self.names)}: name all in "
                    "classes.txt, in order"
                )
            shown.add(int(word))
        return frozenset(shown)

    def left_out(self) -> Iterator[Finding]:
        """Files that are not read."""
        for place in (place for group in self.places.values() for place in group):
            yield from masks_left_out(sorted(place.masks()), place.photos)
            yield from left_out(walk(place.photos), place.photos)


def _text(path: Path, present: Present) -> Path | None:
    """A photo's text, also where it differs from its name in capitals alone."""
    if present(str(path)):
        return path
    alike = present.alike(str(path.parent), path.name)
    return path.with_name(alike[0]) if len(alike) == 1 else None


def _strange(place: Place, texts: Sequence[Path], lacking: int) -> Iterator[Finding]:
    """Texts of no photo, where photos have none: those photos would be taken for showing no class."""
    if not lacking:
        return
    own = {*texts, place.labels / place.prefix / "classes.txt"}
    others = sorted(path.name for path in (place.labels / place.prefix).rglob("*.txt") if path not in own)
    if others:
        yield Finding(
            "warning" if texts else "error",
            f"{some(len(others), 'text')} in {place.labels / place.prefix} named like no photo: {listed(others)}; "
            f"{some(lacking, 'photo')} without a text",
            "a text is named after its photo; a photo without one counts as showing none of the classes",
        )
