"""A trained method to localization maps: scales, flips, class gate, normalisation; batched by size.

The maps of all views are brought to the finest view's feature grid, averaged, gated by the tags and divided by
their maximum per class, the lineage's common procedure (IRN, PSA, EPS: sum over views, divide by max + 1e-5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.batches import domains_of, labels_of
from tag2mask.data.images import read_image
from tag2mask.errors import InputError, listed
from tag2mask.features import FeatureStore, View, by_size, view_batch, views
from tag2mask.types import DOMAINS, Compares, Dataset, Domain, LocalizationMaps, Reference, Sample, label_vector


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
            images, beside = features_of(view).to(where), {}
            if isinstance(method, Compares):
                beside["domains"] = tuple(s.domain for s in chunk)
            raw = look(method, images, labels, settings.precision, stored=store is not None, **beside)
            raws.append(raw.flip(3) if view.flip else raw)
        fused = fuse(raws)
        share = covered(fused, labels) if getattr(method, "scores_background", False) else [None] * len(chunk)
        for sample, maps, part in zip(chunk, fused.cpu(), share, strict=True):
            yield present_maps(sample, maps, size, part)


def draw_references(dataset: Dataset, count: int, seed: int) -> list[tuple[Sample, tuple[int, ...]]]:
    """``count`` photos of each class (all, where there are fewer), with the classes each was drawn for.

    From the target set as far as it has them, then from photos of a single label, then from the web, whose tags may
    lie: each reference speaks for its class in all maps. A function of (seed, class) and the data set alone, so maps do
    not depend on what was done before.
    """
    pools: dict[int, dict[Domain, list[int]]] = {}
    for index, (labels, domain) in enumerate(zip(labels_of(dataset), domains_of(dataset), strict=True)):
        for label in labels or ():
            pools.setdefault(label, {}).setdefault(domain, []).append(index)
    drawn: dict[int, list[int]] = {}
    for label, by_domain in sorted(pools.items()):
        random, wanted = np.random.default_rng([seed, label, 52_711]), count
        for pool in (by_domain[domain] for domain in DOMAINS if domain in by_domain):
            for index in random.choice(pool, min(wanted, len(pool)), replace=False).tolist():
                drawn.setdefault(index, []).append(label)
                wanted -= 1
    return [(dataset.samples[index], tuple(stands_for)) for index, stands_for in drawn.items()]


def reference_view(height: int, width: int, settings: LocalizeSettings, multiple: int = 1) -> View:
    """How a reference of this size is looked at: at scale 1, not mirrored."""
    return views(height, width, settings.longest, (1.0,), False, multiple)[0]


def show_references(
    method: Compares,
    backbone: Backbone,
    references: Sequence[tuple[Sample, tuple[int, ...]]],
    samples: Iterable[Sample],
    settings: LocalizeSettings,
    classes: Sequence[str],
    store: FeatureStore | None = None,
) -> None:
    """Let a method look at its references, each once, before the ``samples`` are localized.

    Args:
        references: of :func:`draw_references`.
        classes: names, for the error.
        store: features of the frozen trunk, filled for the references' view; None: look at the photos.

    Raises:
        InputError: a sample shows a class that no reference shows.
    """
    known = {label for _, labels in references for label in labels}
    for sample in samples:
        lacking = sorted((sample.labels or frozenset()) - known)
        if lacking:
            raise InputError(
                f"'{sample.id}' is tagged {listed(classes[label] for label in lacking)} and no training photo is, so "
                "there is nothing to look at beside it: add such photos, leave the class out with --classes, or use "
                "--mcis.references 0"
            )
    where = next(method.parameters()).device  # type: ignore[attr-defined]

    def looks() -> Iterator[Reference]:
        for sample, labels in references:
            if store is None:
                pixels = read_image(sample.image_path)
                height, width = pixels.shape[:2]
                view = reference_view(height, width, settings, backbone.multiple)
                images = view_batch([pixels], view, backbone)
            else:
                seen = store.seen[sample.id]
                view = reference_view(seen.height, seen.width, settings, backbone.multiple)
                images = store.load(sample, view).float()[None]
            yield Reference(images.to(where), labels, sample.domain)

    with torch.inference_mode(), compute.autocast(settings.precision, where):
        method.prepare_localization(looks(), stored=store is not None)


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


def look(
    method: Any, images: Tensor, labels: Tensor, precision: compute.Precision, *, stored: bool = False, **beside: Any
) -> Tensor:
    """One forward of the method without gradients: raw maps in float32."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), compute.autocast(precision, images.device):
        return method.localize(images, labels, stored=stored, **beside).float()


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


def present_maps(sample: Sample, raw: Tensor, size: tuple[int, int], share: float | None = None) -> LocalizationMaps:
    """Gate by the tags and normalise: raw ``[classes rows columns]`` of one image to what is stored.

    Args:
        share: of :func:`covered`.
    """
    present = tuple(sorted(sample.labels or frozenset()))
    scores = normalise_maps(raw[list(present)]).numpy().astype(np.float16)
    return LocalizationMaps(sample.id, present, scores, size, share)
