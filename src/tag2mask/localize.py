"""A trained method to localization maps: scales, flips, class gate, normalisation; batched by size.

The maps of all views are brought to the finest view's feature grid, averaged, gated by the tags and divided by
their maximum per class, the lineage's common procedure (IRN, PSA: sum over views, divide by max + 1e-5). A method that
brings its own ``fuse`` is asked instead of the average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.features import FeatureStore, View, by_size, view_batch, views
from tag2mask.types import LocalizationMaps, Sample, label_vector


@dataclass(frozen=True)
class LocalizeSettings:
    """The views over which a method looks at each photo."""

    longest: int = 384
    """Longer side of the photo at scale 1, in pixels."""
    scales: tuple[float, ...] = (0.5, 1.0, 1.5)
    flip: bool = True
    """Also look at the mirrored photo."""
    batch_size: int = 8
    """Photos of one size looked at together."""
    precision: compute.Precision = "auto"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"localize.scales {self.scales} must be positive numbers, at least one")
        if self.longest < 16:
            raise InputError(f"localize.longest {self.longest} is too small: use at least 16 pixels")

    def views(self, height: int, width: int, multiple: int = 1) -> list[View]:
        return views(height, width, self.longest, self.scales, self.flip, multiple)


def localize(
    method: Any,
    backbone: Backbone,
    samples: Sequence[Sample],
    settings: LocalizeSettings,
    classes: int,
    store: FeatureStore | None = None,
) -> Iterator[LocalizationMaps]:
    """Maps of each sample, in batches of photos of equal size (so not in the given order).

    Args:
        method: in eval mode, on its device.
        samples: with labels; only the present classes' maps are given.
        store: features of the frozen trunk, filled for these samples and views; None: look at the photos.
    """
    where = next(method.parameters()).device
    compute.keep_memory()
    for chunk, size, features_of in _chunks(backbone, samples, settings, store):
        labels = torch.stack([label_vector(s.labels or frozenset(), classes) for s in chunk]).to(where)
        raws = []
        for view in settings.views(*size, backbone.multiple):
            raw = look(method, features_of(view).to(where), labels, settings.precision, stored=store is not None)
            raws.append(raw.flip(3) if view.flip else raw)
        fused = getattr(method, "fuse", fuse)(raws)  # a method may have its own way (EPS sums)
        for sample, maps in zip(chunk, fused.cpu(), strict=True):
            yield present_maps(sample, maps, size)


Chunk = tuple[list[Sample], tuple[int, int], Callable[[View], Tensor]]


def _chunks(
    backbone: Backbone, samples: Sequence[Sample], settings: LocalizeSettings, store: FeatureStore | None
) -> Iterator[Chunk]:
    """Samples of one size, that size, and what the backbone is given of them for a view."""
    if store is None:
        for chunk in by_size(samples, settings.batch_size):
            pixels = [image for _, image in chunk]
            yield [s for s, _ in chunk], pixels[0].shape[:2], lambda v, p=pixels: view_batch(p, v, backbone)
        return
    groups: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        seen = store.seen[sample.id]
        groups.setdefault((seen.height, seen.width), []).append(sample)
    for size, group in groups.items():
        for start in range(0, len(group), settings.batch_size):
            chunk = group[start : start + settings.batch_size]
            yield chunk, size, lambda v, c=chunk: torch.stack([store.load(s, v) for s in c]).float()


def look(method: Any, images: Tensor, labels: Tensor, precision: compute.Precision, *, stored: bool = False) -> Tensor:
    """One forward of the method without gradients: raw maps in float32."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), compute.autocast(precision, images.device):
        return method.localize(images, labels, stored=stored).float()


def fuse(raws: Sequence[Tensor]) -> Tensor:
    """Mean of the views' raw maps ``[batch classes rows columns]`` on the finest grid."""
    finest = max((tuple(raw.shape[2:]) for raw in raws), key=lambda grid: grid[0] * grid[1])
    grown = [F.interpolate(raw, finest, mode="bilinear", align_corners=False) for raw in raws]
    return torch.stack(grown).mean(0)


def normalise_maps(raw: Tensor) -> Tensor:
    """``[... rows columns]`` at least 0, to [0, 1] by the maximum of each map; an all-zero map stays zero."""
    return raw / (raw.amax((-2, -1), keepdim=True) + 1e-5)


def present_maps(sample: Sample, raw: Tensor, size: tuple[int, int]) -> LocalizationMaps:
    """Gate by the tags and normalise: raw ``[classes rows columns]`` of one image to what is stored."""
    present = tuple(sorted(sample.labels or frozenset()))
    scores = normalise_maps(raw[list(present)]).numpy().astype(np.float16)
    return LocalizationMaps(sample.id, present, scores, size)
