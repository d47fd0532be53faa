"""The lines of a table of tags joined to photos: a photo may have a line for each of its tags."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tag2mask.data.finding import Finding
from tag2mask.data.samples import Labels
from tag2mask.data.table import Row
from tag2mask.errors import InputError, some
from tag2mask.types import DOMAINS, Domain


class DistinctTags:
    """Every combination of tags once: a million lines have few."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...] | None] = []
        self.origins: dict[str, str] = {}  # each tag, and where it is met first
        self._number: dict[tuple[str, ...] | None, int] = {}

    @property
    def one_a_line(self) -> bool:
        """Whether no line has more than one tag, as where each tag of a photo has its own line."""
        return all(len(tags or ()) < 2 for tags in self.all)

    def number(self, row: Row, path: Path) -> int:
        """The place of a row's tags in ``all``."""
        number = self._number.get(row.tags)
        if number is None:
            number = self._number[row.tags] = len(self.all)
            self.all.append(row.tags)
            for tag in row.tags or ():
                self.origins.setdefault(tag, f"{path} line {row.line}")
        return number


class Lines:
    """The lines of one split: a name and a few bytes each. After :meth:`join`, its photos."""

    def __init__(self, path: Path, tags: DistinctTags) -> None:
        self.path = path  # of the table, the last where there are several
        self.names: list[str] = []  # of the photos, once joined
        self._distinct = tags
        self._images: list[str] = []
        self._tags = array("L")
        self._numbers = array("L")  # of the lines
        self._domains = bytearray()
        self._first = array("L")  # the line that names each photo first, by its place here
        self._more: dict[int, list[int]] = {}  # further lines of a photo

    def __len__(self) -> int:
        return len(self._images)

    def add(self, row: Row, path: Path) -> None:
        self.path = path
        self._images.append(row.image)
        self._tags.append(self._distinct.number(row, path))
        self._numbers.append(row.line)
        self._domains.append(DOMAINS.index(row.domain))

    def join(self, name_of: Callable[[str], str | None]) -> list[str]:
        """Find each line's photo by its name there. Gives the names for which there is none."""
        self.names, self._first, self._more = [], array("L"), {}
        missing: list[str] = []
        number_of: dict[str, int] = {}
        for place, image in enumerate(self._images):
            name = name_of(image)
            if name is None:
                missing.append(image)
                name = image
            number = number_of.setdefault(name, len(self.names))
            if number == len(self.names):
                self.names.append(name)
                self._first.append(place)
            else:
                self._more.setdefault(number, []).append(place)
        return missing

    def tagged(self) -> bool:
        """Whether any line has a tag. Where none has, nobody tagged the photos."""
        return any(self._distinct.all[number] for number in set(self._tags))

    def labels(self, number: Mapping[str, int], *, meant: bool = False) -> Iterator[Labels]:
        """The classes of each photo.

        Args:
            number: the class of a tag; tags without one are passed over.
            meant: whether tags that are empty on all lines mean "none of the classes"; else nobody tagged the photos.
        """
        if not meant and not self.tagged():
            yield from [None] * len(self.names)
            return
        every = self._distinct.all
        sets: list[Labels] = [None if tags is None else _numbers(tags, number) for tags in every]
        for photo, place in enumerate(self._first):
            if photo in self._more:
                yield _numbers(self._joined([place, *self._more[photo]]), number)
            else:
                yield sets[self._tags[place]]

    def _joined(self, places: Sequence[int]) -> set[str]:
        """The tags of a photo that several lines name, one tag each."""
        tags = [self._distinct.all[self._tags[place]] or () for place in places]
        image, (first, other) = self._images[places[1]], (self._numbers[place] for place in places[:2])
        if len({self._domains[place] for place in places}) > 1:
            raise InputError(f"{self.path} lines {first} and {other} give image {image} two domains: mend one")
        if self._distinct.one_a_line and all(tags):
            return {tag for of_line in tags for tag in of_line}
        if len({frozenset(of_line) for of_line in tags}) == 1:
            raise InputError(f"{self.path} lists image {image} on lines {first} and {other}: remove one")
        raise InputError(
            f"{self.path} gives image {image} different tags on lines {first} and {other}: join them in one line, "
            "separated by ;"
        )

    def domains(self) -> list[Domain]:
        """Where each photo comes from; empty when all are of the target set."""
        return [DOMAINS[self._domains[place]] for place in self._first] if any(self._domains) else []

    def findings(self) -> Iterator[Finding]:
        if self._more:
            several = f"{self.path}: {some(len(self._more), 'photo')} on several lines"
            yield Finding("note", f"{several} with a tag each, which are joined")
        if not self.tagged():
            yield Finding("note", f"{self.path}: no line of these {len(self)} has a tag, so the photos are untagged")


def _numbers(tags: Iterable[str], number: Mapping[str, int]) -> frozenset[int]:
    return frozenset(number[tag] for tag in tags if tag in number)
