"""The layout of anomaly sets (MVTec AD and others): ``train/good``, ``test/good``, ``test/crack``, ``ground_truth/``.

Photos in ``good`` show none of the classes; the other folders of ``test`` are the classes. As they stand, such sets
teach no class: every training photo is good. So the training split is said to lack them, with what to do. The masks
in ``ground_truth`` hold 0 and 255 whatever the class and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import known_classes
from tag2mask.data.companions import GOOD_WORDS, word
from tag2mask.data.finding import Finding
from tag2mask.data.listing import Listing
from tag2mask.data.settings import DataSettings, is_split, known_split, split_name
from tag2mask.data.walk import folders, image_files, left_out, walk
from tag2mask.errors import InputError, listed, some


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    inside = {
        split: {word(name) for place in group for name in folders(place)} for split, group in _splits(root).items()
    }
    with_good = [split for split, names in inside.items() if names & GOOD_WORDS]
    if not with_good or not any(names - GOOD_WORDS for names in inside.values()):
        return None
    if (root / "ground_truth").is_dir():
        return f"an anomaly set, with ground_truth and good photos in {listed(with_good)}"
    if inside.get("train", set()) <= GOOD_WORDS and "train" in with_good:
        return "an anomaly set, train holds good photos only"
    return None


def _splits(root: Path) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for name in folders(root):
        if is_split(name):
            by_split.setdefault(split_name(name), []).append(root / name)
    return by_split


class Anomaly:
    """An anomaly set."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.places = _splits(root)
        origins = {
            name: f"folder {place / name}"
            for group in self.places.values()
            for place in group
            for name in folders(place)
            if word(name) not in GOOD_WORDS
        }
        if not origins:
            raise InputError(
                f"{root} has no folder of defects in its splits, as anomaly sets have: choose another --layout"
            )
        self.known = known_classes(root, settings, origins)

    def splits(self) -> tuple[str, ...]:
        return tuple(self.places)

    def read(self, split: str) -> Listing:
        """One split. Ids keep the folders: ``test/crack/001``."""
        known_split(split, self.splits(), self.root)
        names, labels = [], []
        for place in self.places[split]:
            for name in image_files(place):
                folder, slash, _ = name.partition("/")
                if slash:
                    names.append(f"{place.name}/{name}")
                    labels.append(frozenset() if word(folder) in GOOD_WORDS else frozenset({self.known.number[folder]}))
        photos = Photos(self.root, names, labels, explicit=False)
        source, advice = listed(map(str, self.places[split])), self._advice(split, labels)
        binary = frozenset({"ground_truth"})
        return listing(self.root, self.settings, split, photos, self.known, source, skip=binary, findings=advice)

    def _advice(self, split: str, labels: list[frozenset[int]]) -> Iterator[Finding]:
        if split == split_name(self.settings.train_split) and not any(labels):
            yield Finding(
                "error",
                f"{self.root} is an anomaly set: {some(len(labels), 'training photo')}, all good, so their tags teach "
                "no class",
                "move about half of the photos of each defect from test to train, or write train.csv and val.csv "
                "(image,tags; no tag for good photos) that name photos of both",
            )
        if (self.root / "ground_truth").is_dir() and self.settings.truth is None:
            yield Finding(
                "note",
                f"{self.root / 'ground_truth'} holds masks of 0 and 255 whatever the class, which are not read",
                "to measure, write masks with the class's number to masks/, under the photos' paths",
            )

    def left_out(self) -> Iterator[Finding]:
        """Files that are not read."""
        for place in (place for group in self.places.values() for place in group):
            yield from left_out(walk(place), place)
