"""Tags that a person changed after the data set was written, and the data set's tags as a CSV with those changes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.data.layouts import Opened
from tag2mask.data.listing import Listing
from tag2mask.data.samples import Labels
from tag2mask.errors import InputError, unknown
from tag2mask.files import atomic
from tag2mask.types import SampleKey


@dataclass(frozen=True)
class TagChange:
    """What a person changed in the tags of one photo. What the data set says otherwise stays."""

    added: frozenset[str]
    removed: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


TagChanges = Mapping[SampleKey, TagChange]


def to_json(changes: TagChanges) -> list[Any]:
    """Plain data that :func:`from_json` reads."""
    return [[*key, sorted(change.added), sorted(change.removed)] for key, change in changes.items()]


def from_json(content: Iterable[Any]) -> TagChanges:
    return {(split, id_): TagChange(frozenset(more), frozenset(less)) for split, id_, more, less in content}


def retagged(listing: Listing, changes: TagChanges) -> tuple[Listing, dict[str, tuple[str, ...]]]:
    """A listing with the changed tags; the data set's own of those photos whose tags are others now, by id.

    Raises:
        InputError: a tag was added that the data set does not know any more.
    """
    if not changes:
        return listing, {}
    samples, number = listing.samples, {name: c for c, name in enumerate(listing.classes)}
    labels: list[Labels] = list(samples.labels())
    own: dict[str, tuple[str, ...]] = {}
    for index, id_ in enumerate(samples.ids()):
        if (change := changes.get((samples.split, id_))) is None:
            continue
        before, now = labels[index], _changed(labels[index], change, number, id_)
        if now != before:
            labels[index], own[id_] = now, tuple(listing.classes[c] for c in sorted(before or ()))
    return replace(listing, samples=samples.tagged(labels)), own


def _changed(labels: Labels, change: TagChange, number: Mapping[str, int], id_: str) -> Labels:
    if missing := sorted(change.added - number.keys()):
        raise InputError(
            f"the tag '{missing[0]}' was given to {id_} in review, and {unknown('class', missing[0], number)}: list "
            "it in classes.txt, or take the decision back (`tag2mask serve`)"
        )
    removed = {number[name] for name in change.removed if name in number}
    return (labels or frozenset()) - removed | {number[name] for name in change.added}


def check_writable(classes: Iterable[str]) -> None:
    """Whether tags of these classes can be told apart in a CSV.

    Raises:
        InputError: a name holds what separates tags.
    """
    if bad := next((name for name in classes if {";", "|"} & {*name}), None):
        raise InputError(f"the class '{bad}' has a ; or | in its name, which separate tags in a CSV: rename it")


class Written(NamedTuple):
    """What :func:`write_tags` wrote."""

    photos: int
    changed: int
    untagged: int  # photos that nobody tagged: left out, since an empty tag says that a photo shows none


def write_tags(path: Path, opened: Opened, changes: TagChanges) -> Written:
    """A CSV ``image,tags,split`` of all tagged photos of a data set, of all its classes, as ``--tags`` takes it.

    Raises:
        InputError: a class whose name holds what separates tags; a file that is there already.
    """
    if path.exists():
        raise InputError(f"{path} is there already: give a new file")
    text, photos, changed, untagged = io.StringIO(newline=""), 0, 0, 0
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "tags", "split"])
    for split in opened.reader.splits():
        listing, own = retagged(opened.reader.read(split), changes)
        check_writable(listing.classes)
        changed += len(own)
        for sample in listing.samples:
            if sample.labels is None:
                untagged += 1
                continue
            image = sample.image_path
            name = image.relative_to(opened.root) if opened.root in image.parents else image
            table.writerow([name.as_posix(), ";".join(listing.classes[c] for c in sorted(sample.labels)), split])
            photos += 1
    with atomic(path) as file:
        file.write(text.getvalue())
    return Written(photos, changed, untagged)
