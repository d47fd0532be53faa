"""Localization as a run does it, without a run folder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tag2mask.data.images import check_image
from tag2mask.feature_store import FeatureStore
from tag2mask.localize import Localizer, LocalizeSettings, batches_by
from tag2mask.types import Batch, Domain, LocalizationMaps, PhotoFacts, Sample, SampleKey


def facts_of(samples: Sequence[Sample]) -> dict[SampleKey, PhotoFacts]:
    """What the check of the photos finds out."""
    checked = [(sample, check_image(sample)) for sample in samples]
    return {sample.key: PhotoFacts(found.height, found.width, found.digest) for sample, found in checked}


def localized(
    method: nn.Module,
    samples: Sequence[Sample],
    settings: LocalizeSettings,
    classes: int,
    store: FeatureStore | None = None,
) -> dict[str, LocalizationMaps]:
    """Maps by id of photos of any size, in batches of those that have the same."""
    facts = facts_of(samples)
    size = lambda s: (facts[s.key].height, facts[s.key].width)  # noqa: E731
    localizer = Localizer(method, method.traits, method.backbone, settings, classes, store)
    views = lambda s: tuple(settings.views(*size(s), method.backbone.size_divisor))  # noqa: E731
    found = {}
    for batch in batches_by(samples, views, settings.batch_size, torch.device("cpu")):
        inputs = [localizer.read(sample, size(sample)) for sample in batch]
        found |= {maps.id: maps for maps in localizer(batch, list(map(size, batch)), inputs)}
    return found


def batch(images: Tensor, labels: Tensor, *, stored: bool = False, domains: tuple[Domain, ...] = ()) -> Batch:
    """Whole photos ``[batch 3 height width]``, or their stored features, as they are localized."""
    valid = torch.ones(len(images), *images.shape[2:], dtype=torch.bool)
    return Batch(tuple(map(str, range(len(images)))), images, labels, valid, stored=stored, domains=domains)
