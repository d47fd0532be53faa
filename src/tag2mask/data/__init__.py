"""Data sets: from a folder of photos and tags to a :class:`~tag2mask.types.Dataset` that opens nothing.

``load`` reads one split, ``splits`` says which there are, ``load_images`` takes photos without tags for prediction.
The layouts: :data:`tag2mask.data.layouts.LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from tag2mask.data.finding import Finding
from tag2mask.data.layouts import LAYOUTS, Opened, open_data
from tag2mask.data.listing import Listing, Selection, select
from tag2mask.data.samples import Samples, label_counts
from tag2mask.data.settings import DataSettings, Layout, split_name
from tag2mask.data.tag_changes import TagChanges, retagged
from tag2mask.data.untagged import load_images
from tag2mask.errors import InputError, listed, some
from tag2mask.types import Dataset

__all__ = [
    "LAYOUTS",
    "DataSettings",
    "Finding",
    "Layout",
    "Listing",
    "Opened",
    "Samples",
    "Selection",
    "load",
    "load_images",
    "open_data",
    "read",
    "refuse_errors",
    "splits",
    "training_set",
]


def load(path: Path | str | Opened, settings: DataSettings | None = None, split: str | None = None) -> Dataset:
    """One split of a data set, ready for the pipeline.

    Photos that show none of the classes have empty labels. In the training split every class needs a photo, and photos
    that nobody tagged are left out; in other splits they stand with labels ``None``.

    Args:
        path: the data set's folder (or its CSV of tags), or what :func:`open_data` made of it.
        settings: how it is read; by default the layout is recognised.
        split: by default the settings' training split.

    Raises:
        InputError: whatever is wrong with the data set, in one line.
    """
    opened = path if isinstance(path, Opened) else open_data(path, settings or DataSettings())
    train = split_name(opened.settings.train_split)
    split = split_name(split or train)
    selection = read(opened, split=split)
    if split == train:
        return training_set(opened, selection)
    refuse_errors(selection.findings)
    if not len(selection.dataset):
        raise InputError(f"split '{split}' of {opened.root} holds no photo")
    return selection.dataset


def training_set(opened: Opened, selection: Selection) -> Dataset:
    """The photos to learn from: every class has one, and something is known of each.

    Raises:
        InputError: no photo, none with tags, or a class without one.
    """
    refuse_errors(selection.findings)
    dataset, split = selection.tagged(), split_name(opened.settings.train_split)
    if not len(dataset):
        untagged = some(len(selection.untagged), "photo")
        none = f"holds {untagged} and none with tags" if selection.untagged else "holds no photo"
        raise InputError(f"split '{split}' of {opened.root} {none} of the classes {listed(dataset.classes, 6)}")
    lonely = classes_without_photos(dataset)
    if lonely:
        raise InputError(
            f"no photo of split '{split}' of {opened.root} has the tag {listed(lonely)}: "
            "add photos, or select the other classes with --classes"
        )
    return dataset


def read(
    path: Path | str | Opened,
    settings: DataSettings | None = None,
    split: str = "train",
    changes: TagChanges = MappingProxyType({}),
) -> Selection:
    """As :func:`load` but without its demands: what is there, what was left out, what is worth knowing.

    Args:
        changes: of tags, by a person.
    """
    opened = path if isinstance(path, Opened) else open_data(path, settings or DataSettings())
    listing, own = retagged(opened.reader.read(split_name(split)), changes)
    return replace(select(listing, opened.settings), own_tags=own)


def splits(path: Path | str | Opened, settings: DataSettings | None = None) -> tuple[str, ...]:
    """Names of the splits a data set has."""
    opened = path if isinstance(path, Opened) else open_data(path, settings or DataSettings())
    return opened.reader.splits()


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Stop at the first error among findings, in its words."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: see `tag2mask doctor`)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


def classes_without_photos(dataset: Dataset) -> tuple[str, ...]:
    """Classes no photo is tagged with."""
    seen = {label for labels in label_counts(dataset) for label in labels or ()}
    return tuple(name for number, name in enumerate(dataset.classes) if number not in seen)
