"""What the training loop draws from: augmented photos, photos with masks, or stored features, in a fixed order.

A source gives one item per index and knows how to collate; :func:`epoch_batches` gives the index batches of one
epoch. Both depend on (seed, epoch, index) alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tag2mask.data import augment
from tag2mask.data.augment import AugmentSettings, Geometry
from tag2mask.data.images import read_image, read_saliency
from tag2mask.data.listing import Samples
from tag2mask.errors import InputError, listed
from tag2mask.types import (
    Batch,
    Dataset,
    Domain,
    LocalizationMaps,
    MaskedBatch,
    Normalisation,
    Sample,
    label_vector,
)


class Source(Protocol):
    """Items by (epoch, index), and how to put a list of them into a batch."""

    def __len__(self) -> int: ...

    def item(self, epoch: int, index: int) -> Any: ...

    def collate(self, items: Sequence[Any]) -> Any: ...

    def groups(self) -> Sequence[object] | None:
        """A key for each index; only indices of equal key share a batch. None: any may."""
        ...


def epoch_batches(source: Source, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled index batches of one epoch.

    A last batch of under half the size joins none and is dropped, unless it is the only one of its group: a step on
    two images would weigh as much as one on sixteen.
    """
    random = np.random.default_rng([seed, epoch, 1_000_003])
    order = random.permutation(len(source))
    keys = source.groups()
    pools: dict[object, list[int]] = {}
    for index in order:
        pools.setdefault(None if keys is None else keys[index], []).append(int(index))
    batches = []
    for pool in pools.values():
        cut = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        if len(cut) > 1 and len(cut[-1]) * 2 < batch_size:
            cut.pop()
        batches += cut
    return [batches[i] for i in random.permutation(len(batches))]


@dataclass(frozen=True)
class _Item:
    sample: Sample
    image: Tensor
    valid: Tensor
    saliency: Tensor | None = None
    maps: Tensor | None = None  # [present rows columns]


class TaggedImages:
    """Augmented photos with their tags; where asked, with saliency and with maps, under the geometry of the photo.

    ``maps_of`` gives an earlier network's maps of a sample; a view has a cell of them for every ``map_stride`` pixels.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: AugmentSettings,
        normalisation: Normalisation,
        seed: int,
        *,
        saliency: bool = False,
        maps_of: Callable[[Sample], LocalizationMaps] | None = None,
        map_stride: int = 4,
    ) -> None:
        self.dataset, self.settings, self.normalisation, self.seed = dataset, settings, normalisation, seed
        self.saliency, self.maps_of, self.map_stride = saliency, maps_of, map_stride

    def __len__(self) -> int:
        return len(self.dataset)

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> _Item:
        sample = self.dataset.samples[index]
        random = augment.generator(self.seed, epoch, index)
        pixels = read_image(sample.image_path)
        geometry = Geometry.draw(pixels.shape[0], pixels.shape[1], self.settings, random)
        valid = geometry.valid()
        image = geometry.image(pixels, augment.Colour.draw(self.settings.jitter, random))
        saliency = None
        if self.saliency and sample.saliency_path is not None:
            map_ = torch.from_numpy(read_saliency(sample.saliency_path, pixels.shape[:2]))
            saliency = geometry.maps(map_[None])[0]
        maps = None
        if self.maps_of is not None:
            side = max(1, self.settings.size // self.map_stride)
            scores = _scores(self.maps_of(sample), sample)
            maps = augment.shrunk(geometry.maps(scores), self.map_stride) if len(scores) else torch.zeros(0, side, side)
        return _Item(sample, image, valid, saliency, maps)

    def collate(self, items: Sequence[_Item]) -> Batch:
        return Batch(
            ids=tuple(i.sample.id for i in items),
            images=torch.stack([i.image for i in items]),
            labels=_labels([i.sample for i in items], self.dataset),
            valid=torch.stack([i.valid for i in items]),
            saliency=_all([i.saliency for i in items]),
            domains=_domains(items),
            maps=_dense(items, self.dataset),
            normalisation=self.normalisation,
        )


class MaskedImages:
    """Augmented photos with index masks, image and mask under one geometry."""

    def __init__(
        self,
        dataset: Dataset,
        mask_of: Callable[[Sample], np.ndarray],
        settings: AugmentSettings,
        normalisation: Normalisation,
        seed: int,
    ) -> None:
        self.dataset, self.mask_of, self.settings = dataset, mask_of, settings
        self.normalisation, self.seed = normalisation, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> tuple[Sample, Tensor, Tensor, Tensor]:
        sample = self.dataset.samples[index]
        random = augment.generator(self.seed, epoch, index)
        pixels = read_image(sample.image_path)
        geometry = Geometry.draw(pixels.shape[0], pixels.shape[1], self.settings, random)
        valid = geometry.valid()
        image = geometry.image(pixels, augment.Colour.draw(self.settings.jitter, random))
        return sample, image, geometry.mask(self.mask_of(sample)), valid

    def collate(self, items: Sequence[tuple[Sample, Tensor, Tensor, Tensor]]) -> MaskedBatch:
        samples, images, masks, valid = zip(*items, strict=True)
        labels = _labels(samples, self.dataset)
        ids = tuple(s.id for s in samples)
        return MaskedBatch(
            ids, torch.stack(images), torch.stack(masks), labels, torch.stack(valid), normalisation=self.normalisation
        )


class StoredFeatures:
    """Features of a frozen trunk, the plain view or the mirrored one, with tags; and masks, saliency, maps where asked.

    ``load(sample, flip)`` gives ``[channels rows columns]``; photos of one grid share a batch, so nothing is padded.
    What lies beside a photo has ``mask_stride`` cells along each side of a feature cell.
    """

    def __init__(
        self,
        dataset: Dataset,
        load: Callable[[Sample, bool], Tensor],
        grids: Sequence[tuple[int, int]],
        seed: int,
        mask_of: Callable[[Sample], np.ndarray] | None = None,
        mask_stride: int = 4,
        *,
        saliency: bool = False,
        maps_of: Callable[[Sample], LocalizationMaps] | None = None,
    ) -> None:
        self.dataset, self.load, self.grids, self.seed = dataset, load, grids, seed
        self.mask_of, self.mask_stride = mask_of, mask_stride
        self.saliency, self.maps_of = saliency, maps_of

    def __len__(self) -> int:
        return len(self.dataset)

    def groups(self) -> Sequence[tuple[int, int]]:
        return self.grids

    def item(self, epoch: int, index: int) -> _StoredItem:
        sample = self.dataset.samples[index]
        flip = bool(augment.generator(self.seed, epoch, index).random() < 0.5)
        features = self.load(sample, flip)
        rows, columns = features.shape[1:]
        height, width = rows * self.mask_stride, columns * self.mask_stride
        # the square view pads at the far side; what is mirrored moves with it, so cut the photo's part
        view = Geometry(height, width, 0, 0, max(height, width), flip)
        mask = saliency = maps = None
        if self.mask_of is not None:
            mask = view.mask(self.mask_of(sample))[:height, :width]
        if self.saliency and sample.saliency_path is not None:
            map_ = torch.from_numpy(read_saliency(sample.saliency_path, (height, width)))
            saliency = map_.flip(1) if flip else map_
        if self.maps_of is not None:
            scores = _scores(self.maps_of(sample), sample)
            maps = view.maps(scores)[:, :height, :width] if len(scores) else torch.zeros(0, height, width)
        return _StoredItem(sample, features, mask, saliency, maps)

    def collate(self, items: Sequence[_StoredItem]) -> Batch | MaskedBatch:
        stacked = torch.stack([i.features for i in items]).float()
        ids = tuple(i.sample.id for i in items)
        labels = _labels([i.sample for i in items], self.dataset)
        valid = torch.ones(len(items), *stacked.shape[2:], dtype=torch.bool)
        masks = _all([i.mask for i in items])
        if masks is not None:
            return MaskedBatch(ids, stacked, masks, labels, valid, stored=True)
        saliency = _all([i.saliency for i in items])
        return Batch(ids, stacked, labels, valid, True, saliency, _domains(items), _dense(items, self.dataset))


@dataclass(frozen=True)
class _StoredItem:
    sample: Sample
    features: Tensor
    mask: Tensor | None
    saliency: Tensor | None
    maps: Tensor | None  # [present rows columns]


def _all(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Stacked, when no item lacks it."""
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(there) if len(there) == len(tensors) else None


def _scores(maps: LocalizationMaps, sample: Sample) -> Tensor:
    """``[present rows columns]`` float32, a row for each tag of the sample in ascending order."""
    if set(maps.classes) != (sample.labels or frozenset()):
        raise InputError(
            f"the maps of '{sample.id}' are of other tags than the photo has now: delete their folder and run again"
        )
    return torch.from_numpy(maps.scores.astype(np.float32))


def _dense(items: Sequence[_Item] | Sequence[_StoredItem], dataset: Dataset) -> Tensor | None:
    """Maps of present classes as ``[batch classes rows columns]``, zero where a class is not tagged."""
    if items[0].maps is None:
        return None
    out = torch.zeros(len(items), len(dataset.classes), *items[0].maps.shape[1:])
    for row, item in zip(out, items, strict=True):
        assert item.maps is not None
        row[sorted(item.sample.labels or ())] = item.maps
    return out


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


def labels_of(dataset: Dataset) -> Iterator[frozenset[int] | None]:
    """The labels of each sample in order, without making samples where that can be had."""
    samples = dataset.samples
    return samples.labels() if isinstance(samples, Samples) else (sample.labels for sample in samples)


def domains_of(dataset: Dataset) -> Iterator[Domain]:
    """Where each sample comes from, in order, likewise."""
    samples = dataset.samples
    return samples.domains() if isinstance(samples, Samples) else (sample.domain for sample in samples)


def _labels(samples: Sequence[Sample], dataset: Dataset) -> Tensor:
    return torch.stack([label_vector(s.labels or frozenset(), len(dataset.classes)) for s in samples])


def _domains(items: Sequence[_Item] | Sequence[_StoredItem]) -> tuple[Domain, ...]:
    return tuple(i.sample.domain for i in items)
