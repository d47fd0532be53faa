"""The layout of PASCAL VOC, with its classes or one's own: ``JPEGImages/``, ``ImageSets/``, ``Annotations/``.

Lists may have either style, ``2007_000032`` or ``/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png``.
Without lists all photos are for training; exports with each photo's XML next to it (``train/7.jpg``, ``train/7.xml``)
are read too. Tags: :mod:`~tag2mask.data.voc_tags`. Truth lies in ``SegmentationClassAug/`` (VOC and SBD), else in
``SegmentationClass/``; saliency in ``Saliency/`` or ``SALImages/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from tag2mask.data.annotations import strange_annotations
from tag2mask.data.assemble import Photos, listing
from tag2mask.data.companions import PHOTO_WORDS, companion_names, existing_folder, word
from tag2mask.data.finding import Finding
from tag2mask.data.folder import recognise as holds_tags
from tag2mask.data.ids import absolute, sample_id
from tag2mask.data.listing import Listing
from tag2mask.data.locating import Locator, missing_images
from tag2mask.data.mixed import not_named
from tag2mask.data.reading import text_lines
from tag2mask.data.settings import DataSettings, is_split, known_split, split_name
from tag2mask.data.voc_tags import CLASSES, VocTags, of_annotations, photo_id, read_tags
from tag2mask.data.walk import Present, folders, image_files, left_out, walk
from tag2mask.errors import InputError, listed
from tag2mask.types import Domain

__all__ = ["CLASSES", "Voc", "photo_id", "recognise"]

_FIRST_OF = {"train": ("train_aug", "train", "trainval")}  # the field trains on VOC train + SBD, 10,582 photos


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    images, parts = _photo_folder(root), {word(name) for name in folders(root)}
    if images and word(images.name) != "jpegimages" and holds_tags(root, settings):
        return None  # a table of tags next to images/ and annotations/ says more than their XML
    if images and parts & {"imagesets", "annotations", "segmentationclass"}:
        return f"PASCAL VOC's folders, {images.name} and the like"
    places = [root, *(root / name for name in folders(root) if is_split(name))]
    annotated = [place for place in places if _has_annotations(place)]
    return f"XML annotations next to the photos in {listed(map(str, annotated))}" if annotated else None


def _photo_folder(root: Path) -> Path | None:
    """``JPEGImages``; or another folder of photos, where ``annotations`` holds XML."""
    names = {word(name): root / name for name in folders(root)}
    annotations = names.get("annotations")
    others = [place for name, place in names.items() if name in PHOTO_WORDS]
    if "jpegimages" in names or not annotations or len(others) != 1:
        return names.get("jpegimages")
    return others[0] if next(annotations.glob("*.xml"), None) else None


def _has_annotations(place: Path) -> bool:
    """Whether photos in a folder have an XML of their name."""
    xml = {path.stem for path in place.glob("*.xml")}
    return bool(xml) and any(sample_id(path.name) in xml for path in place.iterdir() if path.suffix.lower() != ".xml")


class Voc:
    """A data set in the VOC layout."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        images = settings.images or _photo_folder(root)
        self.next_to = images is None  # the XML lies next to the photos
        self.base = absolute(existing_folder(images, "the folder of images")) if images else root
        self.lists = {} if self.next_to else _lists(root)
        if len(self.lists) == 1 and not any(map(self._list_of, ("train", "val", "test", settings.train_split))):
            self.lists = {"train": next(iter(self.lists.values()))}  # default.txt: all is for training
        self._present = Present()
        self._tags: dict[Path, VocTags] = {}  # by the file that they come from
        self._annotations: Path | None = None  # the folder of XML, where tags come from there

    def splits(self) -> tuple[str, ...]:
        """The lists that exist, ``train`` when ``train_aug`` does; without lists the folders, or all for training."""
        usual = [name for name in ("train", "val", "test") if self._list_of(name)]
        names = dict.fromkeys((*(name for name in usual if name not in self.lists), *self.lists))
        if not self.lists and self.next_to:
            names = dict.fromkeys(
                split_name(n) for n in folders(self.root) if is_split(n) and image_files(self.root / n)
            )
        return tuple(names) or (split_name(self.settings.train_split),)

    def _photos(self, split: str) -> list[str]:
        """The photos of a split, relative to the folder of photos.

        Raises:
            InputError: no such split, photos that are not there or twice.
        """
        path = self._list_of(split)
        if path:
            return self._listed(path)
        known_split(split, self.splits(), self.root)
        places = [n for n in folders(self.root) if split_name(n) == split] if self.next_to else []
        if not places:
            return image_files(self.base, companion_names(self.base))
        return [f"{place}/{name}" for place in places for name in image_files(self.base / place)]

    def _list_of(self, split: str) -> Path | None:
        if split.endswith(".txt") and split[:-4] in self.lists:
            return self.lists[split[:-4]]
        alike = (name for name in self.lists if split_name(name) == split)
        return next(
            (self.lists[name] for name in (*_FIRST_OF.get(split, ()), split, *alike) if name in self.lists), None
        )

    def _listed(self, path: Path) -> list[str]:
        names: list[str] = []
        missing: list[str] = []
        line_of: dict[str, int] = {}
        located = Locator([self.base], self._present)
        for number, line in text_lines(path, "the list"):
            ids = dict.fromkeys((photo_id(line.split()[0]), photo_id(line)))  # names of one's own may have blanks
            name, id_ = next(
                ((file, id_) for id_ in ids if (file := located(id_))),
                (None, next(iter(ids))),
            )
            if line_of.setdefault(id_, number) != number:
                raise InputError(f"{path} lists image {id_} on lines {line_of[id_]} and {number}: remove one")
            if name is None:
                missing.append(id_)
            names.append(name or id_)
        if missing:
            raise missing_images(missing, len(names), str(path), self.base)
        return names

    def read(self, split: str) -> Listing:
        """The photos of one split."""
        names, tags = self._photos(split), self._tags_of(split)
        domains: list[Domain] = [tags.domains.get(sample_id(n), "target") for n in names] if tags.domains else []
        labels = (tags.labels.get(sample_id(name)) for name in names)
        photos = Photos(self.base, names, labels, domains, explicit=bool(self.lists))
        return listing(self.root, self.settings, split, photos, tags.known, tags.source, present=self._present)

    def _tags_of(self, split: str) -> VocTags:
        lists = self._list_of(split)
        of_list = [f"{lists.stem}_cls.txt"] if lists else []
        places = (
            self.root,
            self.root / "ImageSets" / "Segmentation",
            self.root / "ImageSets",
            self.root / "ImageSets/Main",
        )
        candidates = [place / name for name in ("tags.csv", "cls_labels.npy", *of_list) for place in places]
        path = self.settings.tags or next((path for path in candidates if path.is_file()), None)
        if path is None:
            return self._annotated
        if path not in self._tags:
            self._tags[path] = read_tags(path, self.root, self.settings)
        return self._tags[path]

    @cached_property
    def _annotated(self) -> VocTags:
        """Tags from XML, of the splits that are used, so that classes have the same numbers in each."""
        of_root = (self.root / name for name in folders(self.root) if word(name) == "annotations")
        folder = self.base if self.next_to else next(of_root, None)
        if folder is None:
            raise InputError(
                f"{self.root} has no tags (no tags.csv, cls_labels.npy, list of lines 'id 0 14' called train_cls.txt "
                "or Annotations folder): add one or give --tags"
            )
        self._annotations = folder
        wanted = dict.fromkeys(split_name(name) for name in (self.settings.train_split, self.settings.val_split))
        existing = [name for name in wanted if name in self.splits() or self._list_of(name)] or list(self.splits())
        ids = [sample_id(name) for split in existing for name in self._photos(split)]
        return of_annotations(folder, {id_: folder / f"{id_}.xml" for id_ in ids}, self.root, self.settings)

    def left_out(self) -> Iterator[Finding]:
        """Photos that no list names."""
        contents = walk(self.base, companion_names(self.base))
        named = {name for split in self.splits() for name in self._photos(split)}
        if self._annotations:
            yield from strange_annotations(self._annotations, {sample_id(name) for name in named})
        yield from not_named(contents.photos, named, self.base, "any list")
        yield from left_out(contents, self.base)


def _lists(root: Path) -> dict[str, Path]:
    """The lists of photos: those of the segmentation task, else general ones."""
    for folder in ("Segmentation", "Main", ""):
        lists = {
            path.stem: path
            for path in sorted((root / "ImageSets" / folder).glob("*.txt"))
            if not path.stem.endswith("_cls") and not path.name.startswith(".")
        }
        if folder == "Main":  # it also has lists of single classes
            lists = {name: path for name, path in lists.items() if is_split(name) or name == "trainval"}
        if lists:
            return lists
    return {}
