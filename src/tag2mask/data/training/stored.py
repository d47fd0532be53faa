"""Stored features of a frozen trunk in place of photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tag2mask.data import augment
from tag2mask.data.augment import Geometry
from tag2mask.data.images import read_saliency
from tag2mask.data.training.collate import dense_maps, domains_of_items, label_matrix, scores_of, stacked
from tag2mask.types import Batch, Dataset, LocalizationMaps, MaskedBatch, Sample


@dataclass(frozen=True)
class _StoredItem:
    sample: Sample
    features: Tensor
    mask: Tensor | None
    saliency: Tensor | None
    maps: Tensor | None  # [present rows columns]


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
            scores = scores_of(self.maps_of(sample), sample)
            maps = view.maps(scores)[:, :height, :width] if len(scores) else torch.zeros(0, height, width)
        return _StoredItem(sample, features, mask, saliency, maps)

    def collate(self, items: Sequence[_StoredItem]) -> Batch | MaskedBatch:
        features = torch.stack([i.features for i in items]).float()
        ids = tuple(i.sample.id for i in items)
        labels = label_matrix([i.sample for i in items], self.dataset)
        valid = torch.ones(len(items), *features.shape[2:], dtype=torch.bool)
        masks = stacked([i.mask for i in items])
        if masks is not None:
            return MaskedBatch(ids, features, masks, labels, valid, stored=True)
        saliency = stacked([i.saliency for i in items])
        return Batch(
            ids, features, labels, valid, True, saliency, domains_of_items(items), dense_maps(items, self.dataset)
        )
