"""A million photos must not cost a million objects.

:class:`Samples` holds one short string a photo and a few bytes beside it, and makes a :class:`~tag2mask.types.Sample`
when one is asked for.
"""

from __future__ import annotations

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from tag2mask.data.companions import Companions
from tag2mask.data.ids import Ids, is_outside
from tag2mask.types import DOMAINS, Dataset, Domain, Sample, SampleKey

Labels = frozenset[int] | None
"""Foreground classes; empty: the photo shows none of them; None: nobody said."""


class Samples(Sequence[Sample]):
    """Samples made when asked for. About a hundred bytes a photo instead of a thousand; no file is opened."""

    def __init__(
        self,
        base: Path,
        names: list[str],
        labels: Iterable[Labels],
        domains: Iterable[Domain] = (),
        truth: Companions | None = None,
        saliency: Companions | None = None,
        *,
        split: str = "",
        ids: Ids | None = None,
    ) -> None:
        """``names`` are the photos' files relative to ``base`` with forward slashes, or absolute."""
        self.base = base
        self._names = names
        self._sets: list[Labels] = []  # each distinct set of labels once
        numbers: dict[Labels, int] = {}
        self._labels = array("L")
        for label in labels:
            if label not in numbers:
                numbers[label] = len(self._sets)
                self._sets.append(label)
            self._labels.append(numbers[label])
        self._domains = bytearray(DOMAINS.index(domain) for domain in domains)  # empty: all "target"
        self._truth = truth
        self._saliency = saliency
        self._id_of = ids or Ids()
        self._ids: list[str] | None = None  # of all, once they are asked for
        self.split = split
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
        name, labels = self._names[index], self._sets[self._labels[index]]
        id_ = self._id_of(name) if self._ids is None else self._ids[index]
        mask = self._truth.path(index, id_) if self._truth else None
        return Sample(
            id=id_,
            image_path=self.base / name,
            labels=labels,
            domain=DOMAINS[self._domains[index]] if self._domains else "target",
            saliency_path=self._saliency.path(index, id_) if self._saliency else None,
            mask_path=mask,
            all_background=labels == frozenset() and mask is None and self._truth is not None and self._truth.any,
            split=self.split,
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def paths(self) -> Iterator[str]:
        """The file of each sample, without making samples."""
        base = f"{self.base}{os.sep}"
        return (str(self.base / name) if is_outside(name) else base + name for name in self._names)

    def ids(self) -> Iterator[str]:
        if self._ids is None:
            self._ids = self._id_of.of_all(self._names)
        return iter(self._ids)

    def keys(self) -> Iterator[SampleKey]:
        """The key of each sample, without making samples."""
        return ((self.split, id_) for id_ in self.ids())

    @property
    def truth(self) -> Companions | None:
        """Where the truth masks lie, if anywhere."""
        return self._truth

    @property
    def saliency(self) -> Companions | None:
        """Where the saliency maps lie, if anywhere."""
        return self._saliency

    def names(self) -> Sequence[str]:
        """The photos' files, relative to the folder of photos, or absolute."""
        return self._names

    def outside(self) -> list[str]:
        """Photos that lie elsewhere than in the folder of photos."""
        return [name for name in self._names if is_outside(name)]

    def labels(self) -> Iterator[Labels]:
        """The label set of each sample, without making samples."""
        return (self._sets[number] for number in self._labels)

    def domains(self) -> Iterator[Domain]:
        """Where each sample comes from, without making samples."""
        return (DOMAINS[number] for number in self._domains or bytes(len(self)))

    def label_counts(self) -> dict[Labels, int]:
        """How many photos have each distinct set of labels."""
        counts = Counter(self._labels)
        return {labels: counts[number] for number, labels in enumerate(self._sets) if counts[number]}

    def take(self, indices: Sequence[int]) -> Samples:
        """These samples, in this order."""
        return Samples(
            self.base,
            [self._names[index] for index in indices],
            (self._sets[self._labels[index]] for index in indices),
            (DOMAINS[self._domains[index]] for index in indices) if self._domains else (),
            self._truth and self._truth.take(indices),
            self._saliency and self._saliency.take(indices),
            split=self.split,
            ids=self._id_of,
        )

    def relabelled(self, change: dict[Labels, Labels]) -> Samples:
        """The same photos, every label set replaced by what ``change`` has for it."""
        return self.tagged(change[self._sets[number]] for number in self._labels)

    def tagged(self, labels: Iterable[Labels]) -> Samples:
        """The same photos with these labels, one each."""
        tagged = Samples(
            self.base,
            self._names,
            labels,
            (DOMAINS[number] for number in self._domains),
            self._truth,
            self._saliency,
            split=self.split,
            ids=self._id_of,
        )
        tagged._ids = self._ids
        return tagged

    def distinct_labels(self) -> tuple[Labels, ...]:
        return tuple(self._sets)


class Chosen(Sequence[Sample]):
    """Some samples of a sequence, made when asked for.

    Args:
        places: of them in the sequence.
    """

    def __init__(self, samples: Sequence[Sample], places: Sequence[int]) -> None:
        self.samples, self.places = samples, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Chosen: ...
    def __getitem__(self, index: int | slice) -> Sample | Chosen:
        if isinstance(index, slice):
            return Chosen(self.samples, self.places[index])
        return self.samples[self.places[index]]

    def keys(self) -> Iterator[SampleKey]:
        return (self[place].key for place in range(len(self)))


class Joined(Sequence[Sample]):
    """The samples of several sequences, one behind the other, made when asked for."""

    def __init__(self, *parts: Sequence[Sample]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return Chosen(self, range(len(self))[index])
        index = range(len(self))[index]
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Sample]:
        return itertools.chain.from_iterable(self.parts)

    def keys(self) -> Iterator[SampleKey]:
        return itertools.chain.from_iterable(map(keys_of, self.parts))

    def paths(self) -> Iterator[str]:
        return itertools.chain.from_iterable(map(paths_of, self.parts))


def keys_of(samples: Sequence[Sample]) -> Iterator[SampleKey]:
    """The key of each sample in order, without making samples where that can be had."""
    keys: Callable[[], Iterator[SampleKey]] | None = getattr(samples, "keys", None)
    return keys() if keys is not None else (sample.key for sample in samples)


def paths_of(samples: Sequence[Sample]) -> Iterator[str]:
    """The file of each sample in order, likewise."""
    paths: Callable[[], Iterator[str]] | None = getattr(samples, "paths", None)
    return paths() if paths is not None else (str(sample.image_path) for sample in samples)


def labels_of(dataset: Dataset) -> Iterator[Labels]:
    """The labels of each sample in order, without making samples where that can be had."""
    samples = dataset.samples
    return samples.labels() if isinstance(samples, Samples) else (sample.labels for sample in samples)


def domains_of(dataset: Dataset) -> Iterator[Domain]:
    """Where each sample comes from, in order, likewise."""
    samples = dataset.samples
    return samples.domains() if isinstance(samples, Samples) else (sample.domain for sample in samples)


def label_counts(dataset: Dataset) -> dict[Labels, int]:
    """How many photos have each distinct set of labels, likewise."""
    samples = dataset.samples
    return samples.label_counts() if isinstance(samples, Samples) else dict(Counter(labels_of(dataset)))
