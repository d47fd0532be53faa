"""What a reader of a data set hands over, and how it is narrowed to the classes asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute, sample_id, tidy
from tag2mask.data.samples import Labels, Samples
from tag2mask.data.settings import DataSettings, Layout, comma_separated
from tag2mask.data.walk import Present, image_files
from tag2mask.data.words import check_class, clean, listed_classes
from tag2mask.errors import InputError, unknown
from tag2mask.types import Dataset

__all__ = [
    "DataSettings",
    "Layout",
    "Listing",
    "Present",
    "Samples",
    "Selection",
    "absolute",
    "class_values",
    "image_files",
    "sample_id",
    "select",
    "selected_classes",
    "tidy",
]


@dataclass(frozen=True)
class Listing:
    """All photos of one split over all classes of the data set, before a selection.

    In ``samples``, labels ``None`` mean that nothing is known, an empty set that none of the classes is there.
    """

    name: str
    classes: tuple[str, ...]
    truth_values: tuple[int, ...]  # value of each class in the truth masks
    samples: Samples
    source: str  # where the tags come from, for messages
    explicit: bool = False  # the user listed the classes by name
    origins: Mapping[str, str] = field(default_factory=dict)  # where a class is first named: a line, a folder, a file
    findings: tuple[Finding, ...] = ()  # what is worth knowing about how it was read


@dataclass(frozen=True)
class Selection:
    """A listing narrowed to the classes asked for, with what was left out on the way."""

    dataset: Dataset
    dropped: int  # photos that show none of the classes, under ``negatives="drop"``
    untagged: tuple[str, ...]  # ids of photos without tags (they are in the data set, labels None)
    truth_values: frozenset[int]  # of all classes, those that were not selected too
    findings: tuple[Finding, ...] = ()
    own_tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # the data set's, by id, of photos that a person gave other tags

    def tagged(self) -> Dataset:
        """The photos of which something is known, those that show none of the classes included."""
        if not self.untagged:
            return self.dataset
        samples = self.dataset.samples
        assert isinstance(samples, Samples)
        return self.dataset.with_samples(
            samples.take([index for index, labels in enumerate(samples.labels()) if labels is not None])
        )


def class_values(classes: Sequence[str], settings: DataSettings, own: Sequence[int] = ()) -> tuple[int, ...]:
    """Pixel value of each class in truth masks: 1, 2, ..., or the data set's ``own``, or what the settings say.

    Raises:
        InputError: a name that is no class, a value outside 1..254, two classes with one value.
    """
    values = dict(zip(classes, own or range(1, len(classes) + 1), strict=True))
    overrides: dict[str, int] = {}
    for pair in comma_separated(settings.truth_values):
        name, equals, value = pair.rpartition("=")
        name, value = clean(name), value.strip()
        if not equals or not value.isdecimal():
            raise InputError(f"truth value '{pair}' is not name=value: write for instance {classes[0]}=8")
        if name not in values:
            raise unknown("class", name, classes)
        overrides[name] = int(value)
    values |= overrides
    selected = selected_classes(classes, settings)
    owner: dict[int, str] = {}
    for name in (name for name in classes if name in selected):
        if overrides and not 1 <= values[name] <= 254:
            raise InputError(f"truth value {values[name]} of class '{name}' is outside 1..254: 0 is background")
        if values[name] in owner:
            raise InputError(
                f"classes '{owner[values[name]]}' and '{name}' both have value {values[name]} in the truth masks: "
                "give every class its own with truth values name=value"
            )
        owner[values[name]] = name
    return tuple(values[name] for name in classes)


def selected_classes(classes: Sequence[str], settings: DataSettings) -> tuple[str, ...]:
    """The classes asked for, in the data set's order; all when none is named."""
    wanted = comma_separated(settings.classes)
    numbers = listed_classes(classes, wanted).number
    for name in sorted(wanted):
        if name not in numbers:
            raise unknown("class", name, classes)
    chosen = {numbers[name] for name in wanted}
    return tuple(name for number, name in enumerate(classes) if not wanted or number in chosen)


def select(listing: Listing, settings: DataSettings) -> Selection:
    """Narrow a listing to the classes of the settings.

    Photos that show none of them are kept with empty labels, or dropped under ``negatives="drop"``.

    Raises:
        InputError: a class that is not there or cannot be one (background), or more than 254.
    """
    chosen = selected_classes(listing.classes, settings)
    for name in chosen:
        check_class(name, listing.origins.get(name, listing.source), explicit=listing.explicit)
    if len(chosen) > 254:
        raise InputError(
            f"data set '{listing.name}' has {len(chosen)} classes; an 8-bit mask holds 254 beside background and "
            "ignore: select some with --classes"
        )
    column = {listing.classes.index(name): number for number, name in enumerate(chosen)}
    change: dict[Labels, Labels] = {
        labels: None if labels is None else frozenset(column[label] for label in labels if label in column)
        for labels in listing.samples.distinct_labels()
    }
    samples = listing.samples.relabelled(change)
    dropped = 0
    if settings.negatives == "drop" and frozenset() in samples.distinct_labels():
        indices = [index for index, labels in enumerate(samples.labels()) if labels is None or labels]
        dropped = len(samples) - len(indices)
        samples = samples.take(indices)
    untagged: tuple[str, ...] = ()
    if None in samples.distinct_labels():
        untagged = tuple(id_ for id_, labels in zip(samples.ids(), samples.labels(), strict=True) if labels is None)
    values = tuple(listing.truth_values[listing.classes.index(name)] for name in chosen)
    if max(values) > 254:  # hundreds of classes, some selected: no 8-bit mask holds their numbers, so no truth does
        values = ()
    dataset = Dataset(listing.name, chosen, samples, values)
    return Selection(dataset, dropped, untagged, frozenset(listing.truth_values), listing.findings)
