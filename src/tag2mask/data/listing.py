"""What a reader of a data set hands over, and the settings that say how to read it.

A million photos must not cost a million objects: :class:`Samples` holds one short string a photo and a few bytes
beside it, and makes a :class:`~tag2mask.types.Sample` when one is asked for.
"""

from __future__ import annotations

import logging
import os
import posixpath
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

from tag2mask.data.images import SUFFIXES
from tag2mask.errors import InputError, listed, unknown
from tag2mask.types import DOMAINS, Dataset, Domain, Sample

log = logging.getLogger("tag2mask")

Layout = Literal["auto", "folder", "class-folders", "voc", "coco"]


@dataclass(frozen=True)
class DataSettings:
    """How a data set is read. Paths are relative to where the command runs."""

    layout: Layout = "auto"
    """How the folder is laid out; `auto` looks."""
    classes: tuple[str, ...] = ()
    """Only these classes, of all; their order is the data set's, whichever is given here, so that the same selection
    always means the same columns. Photos showing none of them are left out; their truth pixels are "do not care"."""
    train_split: str = "train"
    """The split to learn from. VOC: `train` means train_aug.txt where there is one, `train.txt` means that list."""
    val_split: str = "val"
    """The split to measure on, if there is one."""
    tags: Path | None = None
    """The tags, when they are not where the layout has them: a CSV; for VOC also lines `id 0 14` or cls_labels.npy."""
    images: Path | None = None
    """The folder of photos, when it is not where the layout has it."""
    truth: Path | None = None
    """Index masks drawn by people, for measuring only, when they are not where the layout has them."""
    saliency: Path | None = None
    """Saliency maps (grey, one a photo, same name), when they are not where the layout has them."""
    truth_values: tuple[str, ...] = ()
    """`name=value`: pixel values of classes in the truth masks, when they are not 1, 2, ... in the order of classes."""
    keep_untagged: bool = False
    """Keep photos without a tag (or without one of the selected classes) as photos that show none of the classes."""

    def absolute(self) -> DataSettings:
        """The same, independent of the folder in which a command runs."""
        paths = {name: getattr(self, name) for name in ("tags", "images", "truth", "saliency")}
        return replace(self, **{name: path.absolute() for name, path in paths.items() if path is not None})


def sample_id(name: str) -> str:
    """A photo's id: its file name relative to the folder of photos, without suffix.

    Ids become names of files in a run, so a photo from elsewhere (absolute, or ``..``) goes by its last name only.
    """
    if name.startswith("/") or name[1:2] == ":" or name.startswith("../"):
        name = name.rpartition("/")[2]
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return folder + slash + (stem if stem.strip(".") else last.replace(".", "_"))  # never "." or ".."


class Present:
    """Answers "is there such a file?" from one listing of each folder rather than one look-up a file."""

    _CASE_BLIND = sys.platform in ("win32", "darwin")

    def __init__(self) -> None:
        self._folders: dict[str, frozenset[str]] = {}

    def names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    self._folders[folder] = frozenset(entry.name for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def __call__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        names = self.names(folder)
        return name in names or (self._CASE_BLIND and bool(names) and Path(path).exists())


class Beside:
    """Files that lie beside photos under the same id (truth, saliency): which of some places has each, one byte."""

    def __init__(self, places: Sequence[tuple[Path, str]], ids: Iterable[str], present: Present) -> None:
        """``places``: folder and suffix, the first that has a photo's file wins."""
        self._places = tuple(places)
        starts = [(f"{folder}{os.sep}", suffix) for folder, suffix in self._places]
        self._which = bytearray()
        for id_ in ids:
            found = (
                number
                for number, (start, suffix) in enumerate(starts, 1)
                if present(os.path.normpath(f"{start}{id_}{suffix}"))
            )
            self._which.append(next(found, 0))

    def path(self, index: int, id_: str) -> Path | None:
        if not self._which or not self._which[index]:
            return None
        folder, suffix = self._places[self._which[index] - 1]
        return folder / f"{id_}{suffix}"

    def take(self, indices: Sequence[int]) -> Beside:
        taken = Beside(self._places, (), Present())
        if self._which:
            taken._which = bytearray(self._which[index] for index in indices)
        return taken


class Samples(Sequence[Sample]):
    """Samples made when asked for. About a hundred bytes a photo instead of a thousand; no file is opened."""

    def __init__(
        self,
        base: Path,
        names: list[str],
        labels: Iterable[frozenset[int] | None],
        domains: Iterable[Domain] = (),
        truth: Beside | None = None,
        saliency: Beside | None = None,
    ) -> None:
        """``names`` are the photos' files relative to ``base`` with forward slashes, or absolute."""
        self._base = base
        self._names = names
        self._sets: list[frozenset[int] | None] = []  # each distinct set of labels once
        numbers: dict[frozenset[int] | None, int] = {}
        self._labels = array("L")
        for label in labels:
            if label not in numbers:
                numbers[label] = len(self._sets)
                self._sets.append(label)
            self._labels.append(numbers[label])
        self._domains = bytearray(DOMAINS.index(domain) for domain in domains)  # empty: all "target"
        self._truth = truth
        self._saliency = saliency
        assert len(self._labels) == len(names) and len(self._domains) in (0, len(names))

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        index = range(len(self))[index]  # negative indices, IndexError
        name = self._names[index]
        id_ = sample_id(name)
        return Sample(
            id=id_,
            image_path=self._base / name,
            labels=self._sets[self._labels[index]],
            domain=DOMAINS[self._domains[index]] if self._domains else "target",
            saliency_path=self._saliency.path(index, id_) if self._saliency else None,
            mask_path=self._truth.path(index, id_) if self._truth else None,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def ids(self) -> Iterator[str]:
        return map(sample_id, self._names)

    def labels(self) -> Iterator[frozenset[int] | None]:
        """The label set of each sample, without making samples."""
        return (self._sets[number] for number in self._labels)

    def domains(self) -> Iterator[Domain]:
        """Where each sample comes from, without making samples."""
        return (DOMAINS[number] for number in self._domains or bytes(len(self)))

    def take(self, indices: Sequence[int]) -> Samples:
        """These samples, in this order."""
        return Samples(
            self._base,
            [self._names[index] for index in indices],
            (self._sets[self._labels[index]] for index in indices),
            (DOMAINS[self._domains[index]] for index in indices) if self._domains else (),
            self._truth and self._truth.take(indices),
            self._saliency and self._saliency.take(indices),
        )

    def relabelled(self, change: dict[frozenset[int] | None, frozenset[int] | None]) -> Samples:
        """The same photos, every label set replaced by what ``change`` has for it."""
        return Samples(
            self._base,
            self._names,
            (change[self._sets[number]] for number in self._labels),
            (DOMAINS[number] for number in self._domains),
            self._truth,
            self._saliency,
        )

    def distinct_labels(self) -> tuple[frozenset[int] | None, ...]:
        return tuple(self._sets)


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


@dataclass(frozen=True)
class Selection:
    """A listing narrowed to the classes asked for, with what was left out on the way."""

    dataset: Dataset
    dropped: int  # photos that show none of the classes
    untagged: tuple[str, ...]  # ids of photos without tags (they are in the data set, labels None)
    truth_values: frozenset[int]  # of all classes, those that were not selected too


def class_values(classes: Sequence[str], settings: DataSettings, own: Sequence[int] = ()) -> tuple[int, ...]:
    """Pixel value of each class in truth masks: 1, 2, ..., or the data set's ``own``, or what the settings say.

    Raises:
        InputError: a name that is no class, a value outside 1..254, two classes with one value.
    """
    values = dict(zip(classes, own or range(1, len(classes) + 1), strict=True))
    given: dict[str, int] = {}
    for pair in (part for text in settings.truth_values for part in text.split(",")):
        name, equals, value = pair.rpartition("=")
        name, value = name.strip(), value.strip()
        if not equals or not value.isdecimal():
            raise InputError(f"truth value '{pair}' is not name=value: write for instance {classes[0]}=8")
        if name not in values:
            raise unknown("class", name, classes)
        given[name] = int(value)
    values |= given
    selected = selected_classes(classes, settings)
    owner: dict[int, str] = {}
    for name in (name for name in classes if name in selected):
        if given and not 1 <= values[name] <= 254:
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
    wanted = {part.strip() for text in settings.classes for part in text.split(",") if part.strip()}
    for name in sorted(wanted):
        if name not in classes:
            raise unknown("class", name, classes)
    return tuple(name for name in classes if not wanted or name in wanted)


def select(listing: Listing, settings: DataSettings) -> Selection:
    """Narrow a listing to the classes of the settings.

    Photos that show none of them are dropped, or kept with empty labels under ``keep_untagged``.
    """
    kept = selected_classes(listing.classes, settings)
    if len(kept) > 254:
        raise InputError(
            f"data set '{listing.name}' has {len(kept)} classes; an 8-bit mask holds 254 beside background and ignore: "
            "select some with --classes"
        )
    column = {listing.classes.index(name): number for number, name in enumerate(kept)}
    change: dict[frozenset[int] | None, frozenset[int] | None] = {}
    for labels in listing.samples.distinct_labels():
        if labels is None:
            change[labels] = frozenset() if settings.keep_untagged else None
        else:
            change[labels] = frozenset(column[label] for label in labels if label in column)
    samples = listing.samples.relabelled(change)
    dropped = 0
    if not settings.keep_untagged and frozenset() in samples.distinct_labels():
        indices = [index for index, labels in enumerate(samples.labels()) if labels is None or labels]
        dropped = len(samples) - len(indices)
        samples = samples.take(indices)
    untagged = tuple(id_ for id_, labels in zip(samples.ids(), samples.labels(), strict=True) if labels is None)
    values = tuple(listing.truth_values[listing.classes.index(name)] for name in kept)
    if max(values) > 254:  # hundreds of classes, some selected: no 8-bit mask holds their numbers, so no truth does
        values = ()
    return Selection(Dataset(listing.name, kept, samples, values), dropped, untagged, frozenset(listing.truth_values))


def folder(path: Path, what: str) -> Path:
    """``path`` if it is a folder, else the error that says so."""
    if not path.is_dir():
        state = "is a file, not a folder" if path.exists() else "is not there"
        raise InputError(f"{what} {path} {state}: check the path")
    return path


def absolute(path: Path) -> Path:
    """``path`` from the root of the file system, without detours; links are kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def image_files(base: Path, skip: frozenset[str] = frozenset()) -> list[str]:
    """Names of all photos under ``base``, relative to it with forward slashes, sorted. Hidden files are left out.

    Links to folders are followed, each folder once. ``skip`` names folders directly under ``base``.
    """
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def walk(place: str, prefix: str) -> None:
        state = os.stat(place)  # noqa: PTH116 - a string on purpose, this runs for every folder
        if (state.st_dev, state.st_ino) in seen and state.st_ino:
            return
        seen.add((state.st_dev, state.st_ino))
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if prefix or entry.name not in skip:
                        walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES):
                    names.append(prefix + entry.name)

    walk(str(base), "")
    names.sort()
    return names


def unique_ids(names: Iterable[str], base: Path) -> None:
    """Refuse two photos that would share an id, hence the files made for them."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(sample_id(name), name)
        if other is not name:
            raise InputError(
                f"{base}: {other} and {name} differ only in suffix or folder, and their masks would share one name: "
                "rename one"
            )


def tidy(name: str) -> str:
    """A file name from a list, with forward slashes and without detours."""
    return posixpath.normpath(name.replace("\\", "/"))


def missing_images(missing: Sequence[str], total: int, source: str, base: Path) -> InputError:
    return InputError(
        f"{len(missing)} of {total} images named in {source} are not in {base}: {listed(missing)}; "
        "copy them there or remove their lines"
    )


def text_lines(path: Path) -> list[str]:
    """Lines of a text file, numbered from 0, or the error that names it."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path") from error


def known_split(split: str, names: Sequence[str], place: Path) -> None:
    """Refuse a split that does not exist."""
    if split not in names:
        if not names:
            raise InputError(f"{place} is an empty data set: its tags list no photo; add rows `image,tags`")
        raise InputError(
            f"{place} has no split '{split}' (it has: {', '.join(names)}): choose one with --train-split, --val-split"
        )


def beside(folders: Sequence[Path], suffixes: Sequence[str], names: list[str], present: Present) -> Beside | None:
    """Where the files beside the photos lie, or None when none of the folders exists."""
    places = [(place, suffix) for place in folders if place.is_dir() for suffix in suffixes]
    return Beside(places, map(sample_id, names), present) if places else None
