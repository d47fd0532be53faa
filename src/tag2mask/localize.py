"""A trained method to localization maps: scales, flips, class gate, normalisation.

The maps of all views are brought to the finest view's feature grid, averaged, gated by the tags and divided by
their maximum per class, the lineage's common procedure (IRN, PSA, EPS: sum over views, divide by max + 1e-5).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.augment import check_sides, resized
from tag2mask.data.images import open_photo
from tag2mask.errors import InputError
from tag2mask.feature_store import FeatureStore
from tag2mask.protocols import Localizes, Traits
from tag2mask.settings import NOT_NEGATIVE, DecidesNothing, Range, check_values
from tag2mask.types import Batch, Domain, LocalizationMaps, Sample, label_vector, normalise
from tag2mask.views import View, padded_size, padding, stack_padded, views, without_padding

SMALLER = "give a smaller --localize.long-side or smaller --scales"


@dataclass(frozen=True)
class LocalizeSettings:
    """The views of a photo from which its maps are made."""

    long_side: Annotated[int, Range(at_least=16, at_most=65_535)] = 384
    """Longer side of the photo at scale 1, in pixels."""
    scales: Annotated[tuple[float, ...], Range(above=0, at_most=100)] = (0.5, 1.0, 1.5)
    """Sizes of the views, as multiples of that."""
    flip: bool = True
    """Each scale also mirrored."""
    references: Annotated[int, NOT_NEGATIVE] = 0
    """Reference photos of each class with which a photo is compared, by any method with class maps. 0: none. (mcis has
    references of its own.)"""
    fine: bool = True
    """With references: maps get the borders that a finer block of the backbone sees (LayerCAM)."""
    batch_size: Annotated[int | None, Range(at_least=1), DecidesNothing()] = None
    """Photos whose views are of one size in a forward pass. None: 8 on a CPU, 32 on an accelerator."""
    precision: compute.Precision = "auto"
    """Of the forward passes."""

    def __post_init__(self) -> None:
        check_values(self, "localize")
        if not self.scales:
            raise InputError("--localize.scales is empty: give at least one scale")
        check_sides(self.long_side, self.scales, "--localize.long-side times --localize.scales")

    def views(self, height: int, width: int, divisor: int = 1) -> list[View]:
        """Of a photo of this size; sides are multiples of ``divisor``."""
        return views(height, width, self.long_side, self.scales, self.flip, divisor)


@dataclass(frozen=True)
class Localizer:
    """Makes the maps of photos, a batch at a time.

    Attributes:
        method: in eval mode, on its device.
        classes: number of foreground classes.
        store: features of the frozen trunk, filled for the photos' views; None: the photos themselves are shown.
    """

    method: nn.Module
    traits: Traits
    backbone: Backbone
    settings: LocalizeSettings
    classes: int
    store: FeatureStore | None = None

    @property
    def device(self) -> torch.device:
        return next(self.method.parameters()).device

    @property
    def unit(self) -> int:
        """Padded views have sides that are multiples of it (:func:`tag2mask.views.padding`)."""
        whole = self.traits.whole_views or self.store is not None
        return 1 if whole else padding(self.device, self.backbone)

    def views(self, size: tuple[int, int]) -> list[View]:
        """Of a photo of this (height, width)."""
        return self.settings.views(*size, self.backbone.size_divisor)

    def group(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Photos of which this is the same go through the network together."""
        return tuple(padded_size(view.height, view.width, self.unit) for view in self.views(size))

    def read(self, sample: Sample, size: tuple[int, int]) -> list[Tensor]:
        """What the network is shown of a photo of this (height, width), for each of its views: 8-bit pixels
        ``[3 height width]``, not mirrored yet, or stored features."""
        shown = self.views(size)
        if self.store is not None:
            return [self.store.load(sample, view) for view in shown]
        with open_photo(sample.image_path) as photo:
            pixels, _ = photo.decode(max((view.height, view.width) for view in shown))
        of_size = {(v.height, v.width): resized(pixels, (v.height, v.width)) for v in shown if not v.flip}
        return [of_size[view.height, view.width] for view in shown]

    def __call__(
        self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]], inputs: Sequence[Sequence[Tensor]]
    ) -> list[LocalizationMaps]:
        """Maps of the tagged classes of samples of one :meth:`group`.

        Args:
            sizes: (height, width) of each photo.
            inputs: what :meth:`read` gave of each; of one without tags nothing is needed.
        """
        photos = list(zip(samples, sizes, inputs, strict=True))
        tagged = [photo for photo in photos if photo[0].labels]
        maps = iter(compute.by_halves(self._localize, tagged, SMALLER) if tagged else ())
        return [next(maps) if sample.labels else no_maps(sample, size) for sample, size, _ in photos]

    def _localize(self, photos: Sequence[tuple[Sample, tuple[int, int], Sequence[Tensor]]]) -> list[LocalizationMaps]:
        samples, views = [sample for sample, _, _ in photos], [self.views(size) for _, size, _ in photos]
        labels = torch.stack([label_vector(s.labels or frozenset(), self.classes) for s in samples]).to(self.device)
        raws: list[list[Tensor]] = [[] for _ in photos]
        batch: Batch | None = None
        for number, of_photos in enumerate(zip(*views, strict=True)):
            before = views[0][number - 1] if number else None
            if self.store is None and batch is not None and before == replace(of_photos[0], flip=False):
                batch = mirrored(batch)  # of the view before, which is on the device
            else:
                batch = self.batch(samples, [inputs[number] for _, _, inputs in photos], of_photos[0].flip, labels)
            raw = forward(self.method, batch, self.settings.precision)
            raw = raw.flip(3) if of_photos[0].flip else raw
            for row, view in enumerate(of_photos):
                raws[row].append(without_padding(raw[row : row + 1], (view.height, view.width), self.unit))
        maps = []
        for row, (sample, size, _) in enumerate(photos):
            fused = fuse(raws[row])
            share = covered(fused, labels[row : row + 1])[0] if self.traits.maps == "probabilities" else None
            maps.append(present_maps(sample, fused[0].cpu(), size, share))
        return maps

    def batch(self, samples: Sequence[Sample], inputs: Sequence[Tensor], flip: bool, labels: Tensor) -> Batch:
        """One view of samples of one :meth:`group`, as a method takes it.

        Args:
            inputs: of each photo, what :meth:`read` gave of the view.
            flip: whether to mirror it.
            labels: ``[batch classes]`` multi-hot.
        """
        if self.store is None:
            stacked = stack_padded(inputs, self.unit, pin=self.device.type == "cuda")
            images, valid = (x.to(self.device, non_blocking=True) for x in stacked)
            if flip:
                images, valid = images.flip(3), valid.flip(2)
            images = normalise(images, (self.backbone.mean, self.backbone.std)).mul_(valid[:, None])
        else:
            images = torch.stack(list(inputs)).to(self.device, non_blocking=True).float()
            valid = torch.ones(len(samples), *images.shape[2:], dtype=torch.bool, device=self.device)
        images = images.contiguous(memory_format=torch.channels_last)
        domains: tuple[Domain, ...] = tuple(sample.domain for sample in samples)
        ids = tuple(sample.id for sample in samples)
        return Batch(ids, images, labels, valid, stored=self.store is not None, domains=domains)


def mirrored(batch: Batch) -> Batch:
    """The same photos left to right."""
    images = batch.images.flip(3).contiguous(memory_format=torch.channels_last)
    return replace(batch, images=images, valid=batch.valid.flip(2))


def batches_by(
    samples: Sequence[Sample], key: Callable[[Sample], Hashable], batch_size: int | None, device: torch.device
) -> list[list[Sample]]:
    """Samples in lists of equal key: a function of the samples alone, whatever is done already and in how many
    processes.

    Args:
        batch_size: at most so many in a list; None: 8 on a CPU, 32 on an accelerator.
    """
    limit = batch_size or (8 if device.type == "cpu" else 32)
    full: list[list[Sample]] = []
    waiting: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        group = waiting.setdefault(key(sample), [])
        group.append(sample)
        if len(group) == limit:
            full.append(waiting.pop(key(sample)))
    return [*full, *waiting.values()]


def forward(method: nn.Module, batch: Batch, precision: compute.Precision) -> Tensor:
    """One forward pass without gradients: raw maps in float32."""
    assert isinstance(method, Localizes)
    with torch.inference_mode(), compute.autocast(precision, batch.images.device):
        return method.localize(batch).float()


def fuse(raws: Sequence[Tensor]) -> Tensor:
    """Mean of the views' raw maps ``[batch classes rows columns]`` on the finest grid."""
    finest = max((tuple(raw.shape[2:]) for raw in raws), key=lambda grid: grid[0] * grid[1])
    grown = [F.interpolate(raw, finest, mode="bilinear", align_corners=False) for raw in raws]
    return torch.stack(grown).mean(0)


def covered(probabilities: Tensor, labels: Tensor) -> list[float]:
    """Of each photo the share of cells where the tagged classes together are more likely than not.

    Args:
        probabilities: ``[batch classes rows columns]`` of all classes, from a softmax with background.
        labels: ``[batch classes]`` multi-hot.
    """
    shown = (probabilities * labels[:, :, None, None]).sum(1)
    return (shown > 0.5).float().mean((1, 2)).tolist()


def normalise_maps(raw: Tensor) -> Tensor:
    """``[... rows columns]`` at least 0, to [0, 1] by the maximum of each map; an all-zero map stays zero."""
    return raw / (raw.amax((-2, -1), keepdim=True) + 1e-5)


def no_maps(sample: Sample, size: tuple[int, int]) -> LocalizationMaps:
    """Of a photo that shows none of the classes."""
    return LocalizationMaps(sample.id, (), np.zeros((0, 1, 1), np.float16), size)


def present_maps(sample: Sample, raw: Tensor, size: tuple[int, int], share: float | None = None) -> LocalizationMaps:
    """Gate by the tags and normalise: raw ``[classes rows columns]`` of one image to what is stored.

    Args:
        share: of :func:`covered`.
    """
    present = tuple(sorted(sample.labels or frozenset()))
    scores = normalise_maps(raw[list(present)]).numpy().astype(np.float16)
    return LocalizationMaps(sample.id, present, scores, size, share)
