"""Augmented photos with their tags, and with masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tag2mask.data import augment
from tag2mask.data.augment import AugmentSettings, Geometry
from tag2mask.data.images import open_photo, read_saliency
from tag2mask.data.training.collate import dense_maps, domains_of_items, label_matrix, scores_of, stacked
from tag2mask.types import Batch, Dataset, LocalizationMaps, MaskedBatch, Normalisation, Sample


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
        with open_photo(sample.image_path) as photo:
            geometry = Geometry.draw(*photo.size, self.settings, random)
            pixels, _ = photo.decode((geometry.height, geometry.width))
        valid = geometry.valid()
        image = geometry.image(pixels, augment.Colour.draw(self.settings, random))
        saliency = None
        if self.saliency and sample.saliency_path is not None:
            map_ = torch.from_numpy(read_saliency(sample.saliency_path, photo.size))
            saliency = geometry.maps(map_[None])[0]
        maps = None
        if self.maps_of is not None:
            side = max(1, self.settings.size // self.map_stride)
            scores = scores_of(self.maps_of(sample), sample)
            maps = augment.shrunk(geometry.maps(scores), self.map_stride) if len(scores) else torch.zeros(0, side, side)
        return _Item(sample, image, valid, saliency, maps)

    def collate(self, items: Sequence[_Item]) -> Batch:
        return Batch(
            ids=tuple(i.sample.id for i in items),
            images=torch.stack([i.image for i in items]),
            labels=label_matrix([i.sample for i in items], self.dataset),
            valid=torch.stack([i.valid for i in items]),
            saliency=stacked([i.saliency for i in items]),
            domains=domains_of_items(items),
            maps=dense_maps(items, self.dataset),
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
        with open_photo(sample.image_path) as photo:
            geometry = Geometry.draw(*photo.size, self.settings, random)
            pixels, _ = photo.decode((geometry.height, geometry.width))
        valid = geometry.valid()
        image = geometry.image(pixels, augment.Colour.draw(self.settings, random))
        return sample, image, geometry.mask(self.mask_of(sample)), valid

    def collate(self, items: Sequence[tuple[Sample, Tensor, Tensor, Tensor]]) -> MaskedBatch:
        samples, images, masks, valid = zip(*items, strict=True)
        labels = label_matrix(samples, self.dataset)
        ids = tuple(s.id for s in samples)
        return MaskedBatch(
            ids, torch.stack(images), torch.stack(masks), labels, torch.stack(valid), normalisation=self.normalisation
        )
