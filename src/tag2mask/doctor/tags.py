"""Whether tags can teach classes: how many photos, which classes together, words that look alike."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tag2mask.data import Selection
from tag2mask.data.companions import GOOD_WORDS, word
from tag2mask.data.finding import Finding
from tag2mask.data.samples import domains_of, label_counts
from tag2mask.data.words import joined, look_alike, misspelt
from tag2mask.errors import listed, some
from tag2mask.types import Dataset

_NEGATIVE = frozenset(["negative", "healthy", "0", "no", "nothing", "empty", "false", "nodefects", "noobject"])
_PROGRAMS = frozenset({
    "output", "outputs", "result", "results", "prediction", "predictions", "pred", "preds", "heatmap", "heatmaps",
    "runs", "thumbnail", "thumbnails", "thumbs", "augmented", "overlay", "overlays", "visualization",
    "visualizations", "vis", "debug", "tmp", "temp", "cache", "backup", "default", "original",
    "originals", "resized", "cropped",
})  # fmt: skip
_NOBODY_SAID = frozenset(["unknown", "unlabeled", "unlabelled", "undefined", "unsure", "todo", "tbd", "ignore", "void"])

FEW = 20  # photos of a class below which a classifier hardly learns what the photos have in common
IMBALANCE = 20  # ratio of the most to the least frequent class above which the rare ones are drowned
OFTEN = 0.95  # share of a class's photos that show another one too, above which tags hardly separate them


def class_counts(dataset: Dataset) -> dict[str, int]:
    """How many photos show each class."""
    count: Counter[int] = Counter()
    for labels, photos in label_counts(dataset).items():
        count.update(dict.fromkeys(labels or (), photos))
    return {name: count[number] for number, name in enumerate(dataset.classes)}


def count_photos(split: str, selection: Selection, *, measured: bool) -> Iterator[Finding]:
    """How many photos, of which classes, and of which nothing is known.

    Args:
        measured: the split is measured on, nothing is learned from it.
    """
    dataset = selection.dataset
    sets = label_counts(dataset)
    classes = ", ".join(f"{name} {count}" for name, count in class_counts(dataset).items())
    yield Finding("info", f"{split}: {some(len(dataset), 'photo')}; per class: {classes}")
    none, untagged = sets.get(frozenset(), 0), sets.get(None, 0)
    if none:
        yield Finding(
            "note",
            f"{split}: {some(none, 'photo')} with none of the classes",
            "what is found on them is counted as false alarms"
            if measured
            else "they teach what background looks like (--negatives drop leaves them out)",
        )
    if selection.dropped:
        yield Finding("note", f"{split}: {some(selection.dropped, 'photo')} with none of the classes left out")
    if untagged:
        yield Finding(
            "note",
            f"{split}: {some(untagged, 'photo')} without tags: {listed(selection.untagged)}",
            "nothing is learned from them",
        )
    several = sum(photos for labels, photos in sets.items() if labels and len(labels) > 1)
    if several:
        yield Finding("info", f"{split}: {some(several, 'photo')} with more than one class")
    domains = Counter(domains_of(dataset))
    if len(domains) > 1:
        shown = ", ".join(f"{domain} {count}" for domain, count in domains.items())
        yield Finding("info", f"{split}: photos by domain: {shown}")


def examine_tags(train: Dataset, others: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Whether the tags can tell the classes apart."""
    numbers = class_counts(train)
    present = {name: count for name, count in numbers.items() if count}
    yield from _words(numbers)
    yield from _amounts(present)
    yield from _together(train, numbers)
    everywhere = [name for name, count in present.items() if count == len(train)]
    if everywhere and len(train) > 1:
        yield Finding(
            "warning",
            f"every training photo is tagged {listed(everywhere)}",
            "a classifier has nothing to compare with: add photos without it, their tag left empty",
        )
    for split, dataset in others.items():
        tagged = any(label_counts(dataset))
        unseen = [name for name, count in class_counts(dataset).items() if not count]
        if tagged and unseen:
            what = "it" if len(unseen) == 1 else "them"
            yield Finding(
                "warning", f"{split}: no photo of {listed(unseen, 6)}", f"nothing will be measured for {what}"
            )


def _words(numbers: Mapping[str, int]) -> Iterator[Finding]:
    """Classes whose names make one doubt that they are meant."""
    for names in look_alike(numbers):
        yield Finding(
            "warning",
            f"classes {', '.join(map(repr, names))} look alike",
            "if they are one, give them one name; if not, never mind",
        )
    for rare, frequent in misspelt(numbers):
        yield Finding(
            "warning",
            f"class '{rare}' ({some(numbers[rare], 'photo')}) may be a misspelt '{frequent}' ({numbers[frequent]})",
            "if it is, mend the tags",
        )
    for name, part in joined(numbers):
        yield Finding(
            "warning",
            f"class '{name}' looks like several tags, '{part}' among them",
            "if it is, write a ; between them; if not, never mind",
        )
    nobody = [name for name in numbers if word(name) in _NOBODY_SAID]
    if nobody:
        yield Finding(
            "warning",
            f"class '{nobody[0]}' sounds as if nobody knew what its photos show",
            "if so, leave those photos out of the tags: as a class it would be learned",
        )
    made = [name for name in numbers if word(name) in _PROGRAMS]
    if made:
        yield Finding(
            "warning",
            f"classes called {listed(made)}: that sounds like what a program wrote, or a person put aside",
            "what is no class, move out of the data set, or select the others with --classes",
        )
    good = [name for name in numbers if word(name) in GOOD_WORDS | _NEGATIVE or _is_negative(name, numbers)]
    if good and len(numbers) > 1:
        rest = ",".join(name for name in numbers if name not in good)
        yield Finding(
            "warning",
            f"class '{good[0]}' sounds as if its photos showed none of the classes",
            f"if so, select the others (--classes {rest}): its photos then teach what background looks like",
        )


def _is_negative(name: str, names: Iterable[str]) -> bool:
    """``no disc``, ``!disc``, ``disc absent`` where there is a class ``disc``; ``BACKGROUND_Google``."""
    thing = re.sub(r"^(no|not|non|without)[ _-]+|^[!~-]|[ _-](absent|no|none|negative)$", "", name.casefold())
    opposite = thing != name.casefold() and thing in {other.casefold() for other in names}
    return opposite or bool(re.match(r"_*background(?![a-z])", name.casefold()))


def _amounts(present: Mapping[str, int]) -> Iterator[Finding]:
    few = [f"{name} ({count})" for name, count in present.items() if count < FEW]
    if few:
        yield Finding(
            "warning",
            f"fewer than {FEW} training photos of {listed(few, 6)}",
            "find more, or select the other classes",
        )
    if present and max(present.values()) > IMBALANCE * min(present.values()):
        frequent, rare = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield Finding(
            "warning",
            f"'{frequent}' has {present[frequent]} training photos and '{rare}' {present[rare]}",
            "find more of the rare ones, or expect little of them",
        )


def _together(train: Dataset, numbers: Mapping[str, int]) -> Iterator[Finding]:
    """Classes that are hardly tagged without each other."""
    together: Counter[tuple[int, int]] = Counter()
    for labels, photos in label_counts(train).items():
        together.update(dict.fromkeys(itertools.permutations(sorted(labels or ()), 2), photos))
    for (one, other), count in sorted(together.items()):
        a, b = train.classes[one], train.classes[other]
        if count == numbers[a] == numbers[b]:
            if one < other:
                yield Finding(
                    "warning",
                    f"'{a}' and '{b}' are always tagged together ({some(count, 'photo')})",
                    "tags cannot tell them apart: add photos of each alone, or make them one class",
                )
        elif count >= OFTEN * numbers[a]:
            yield Finding(
                "warning",
                f"{count} of {some(numbers[a], 'photo')} of '{a}' are tagged '{b}' too",
                f"tags hardly say which pixels are '{a}': add photos of it without '{b}'",
            )
