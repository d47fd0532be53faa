"""Photos that share a class, in pairs, for methods that compare photos."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tag2mask.data.samples import labels_of
from tag2mask.data.training.photos import TaggedImages
from tag2mask.data.training.stored import StoredFeatures
from tag2mask.errors import InputError, listed
from tag2mask.types import Batch, Dataset

PARTNERS = 1_000_000  # epochs from here on are no training's: their views are those of partners


class Pairs:
    """A source whose every photo brings a partner that shares a class, for methods that compare photos.

    An epoch is one pass over the photos. The partner of photo ``index`` is a function of (seed, epoch, index): one of
    the photo's classes, then another photo of that class, both uniformly and whatever the domain. Where the source has
    groups, the partner is of the photo's group. It shows another view than the one of its own turn in that epoch.

    A batch holds the photos, then their partners; ``Batch.pairs`` says which belong together. A photo that finds no
    partner (without tags, or alone in its group with its classes) stands there by itself.

    Raises:
        InputError: a class has a single photo.
    """

    def __init__(self, source: TaggedImages | StoredFeatures, seed: int) -> None:
        self.source, self.dataset, self.seed = source, source.dataset, seed
        check_pairs(self.dataset)
        self.keys = source.groups()
        self.pools: dict[tuple[object, int], array[int]] = {}  # indices, growing, by group and class
        for index, labels in enumerate(labels_of(self.dataset)):
            for label in labels or ():
                self.pools.setdefault((self._group(index), label), array("L")).append(index)

    def __len__(self) -> int:
        return len(self.source)

    def groups(self) -> Sequence[object] | None:
        return self.keys

    def _group(self, index: int) -> object:
        return None if self.keys is None else self.keys[index]

    def partner(self, epoch: int, index: int) -> int | None:
        """The index of the partner, never the photo itself."""
        group = self._group(index)
        labels = sorted(self.dataset.samples[index].labels or ())
        pools = [pool for pool in (self.pools[group, label] for label in labels) if len(pool) > 1]
        if not pools:
            return None
        random = np.random.default_rng([self.seed, epoch, index, PARTNERS])
        pool = pools[random.integers(len(pools))]
        place = int(random.integers(len(pool) - 1))  # among the others
        return pool[place + (pool[place] >= index)]

    def item(self, epoch: int, index: int) -> tuple[Any, Any | None]:
        other = self.partner(epoch, index)
        return self.source.item(epoch, index), None if other is None else self.source.item(PARTNERS + epoch, other)

    def collate(self, items: Sequence[tuple[Any, Any | None]]) -> Batch:
        partners = [(row, partner) for row, (_, partner) in enumerate(items) if partner is not None]
        batch = self.source.collate([*(photo for photo, _ in items), *(partner for _, partner in partners)])
        assert isinstance(batch, Batch), "pairs are of tags"
        return replace(batch, pairs=tuple((row, len(items) + place) for place, (row, _) in enumerate(partners)))


def check_pairs(dataset: Dataset) -> None:
    """Every class has photos to compare, or the error names those that have a single one."""
    first: dict[int, int] = {}
    more: set[int] = set()
    for index, labels in enumerate(labels_of(dataset)):
        for label in labels or ():
            if first.setdefault(label, index) != index:
                more.add(label)
    lone = sorted(set(first) - more)
    if lone:
        photos = listed(f"{dataset.classes[label]} ({dataset.samples[first[label]].id})" for label in lone)
        raise InputError(
            f"this method compares photos of a class, and {dataset.name} has a single photo of {photos}: "
            "add photos, leave such classes out with --classes, or use another --method"
        )
    if not first:
        raise InputError(f"no photo of {dataset.name} has a tag, so no two can be compared: tag them")


def pairs_within(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Each photo with the next of the batch, around its end, that shares a class; photos without one are in no pair.

    Raises:
        InputError: no two share a class.
    """
    shares, size = (batch.labels @ batch.labels.T > 0).tolist(), len(batch.labels)
    pairs = []
    for m in range(size):
        others = ((m + step) % size for step in range(1, size))
        pairs += [(m, n) for n in [next((n for n in others if shares[m][n]), None)] if n is not None]
    if not pairs:
        raise InputError(
            f"no two of the {size} photos of this batch share a class ({listed(batch.ids)}), so none can be compared: "
            "give larger batches, or draw partners (tag2mask.data.batches.Pairs)"
        )
    return tuple(pairs)
