"""Reference photos: training photos of each class with which the photos to be localized are compared (MCIS, Sec.
3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.batches import domains_of, labels_of
from tag2mask.data.images import read_image
from tag2mask.errors import InputError, listed
from tag2mask.feature_store import FeatureStore
from tag2mask.localize import LocalizeSettings
from tag2mask.protocols import UsesReferences
from tag2mask.types import DOMAINS, Dataset, Domain, Reference, Sample
from tag2mask.views import View, view_batch, views

Drawn = list[tuple[Sample, tuple[int, ...]]]
"""Reference photos with the classes that each was drawn for."""


def draw_references(dataset: Dataset, count: int, seed: int) -> Drawn:
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


def check_references(references: Drawn, samples: Iterable[Sample], classes: Sequence[str], flag: str) -> None:
    """Every class of the samples has a reference.

    Args:
        classes: names, and ``flag`` that of the references, for the error.

    Raises:
        InputError: a sample shows a class that no reference shows.
    """
    known = {label for _, labels in references for label in labels}
    for sample in samples:
        lacking = sorted((sample.labels or frozenset()) - known)
        if lacking:
            raise InputError(
                f"'{sample.id}' is tagged {listed(classes[label] for label in lacking)} and no training photo is, so "
                "there is no reference photo to compare it with: add such photos, leave the class out with --classes, "
                f"or use --{flag} 0"
            )


def reference_view(height: int, width: int, settings: LocalizeSettings, divisor: int = 1) -> View:
    """The view of a reference of this size: at scale 1, not mirrored."""
    return views(height, width, settings.long_side, (1.0,), False, divisor)[0]


def show_references(
    method: nn.Module,
    backbone: Backbone,
    references: Drawn,
    settings: LocalizeSettings,
    store: FeatureStore | None = None,
) -> None:
    """Show a method its references, each once, before photos are localized.

    Args:
        method: in eval mode, a :class:`tag2mask.protocols.UsesReferences`.
        store: features of the frozen trunk, filled for the references' view; None: the photos are shown.
    """
    assert isinstance(method, UsesReferences)
    device = next(method.parameters()).device

    def shown() -> Iterator[Reference]:
        for sample, labels in references:
            if store is None:
                pixels = read_image(sample.image_path)
                view = reference_view(pixels.shape[0], pixels.shape[1], settings, backbone.size_divisor)
                images = view_batch([pixels], view, backbone)
            else:
                facts = store.facts[sample.key]
                view = reference_view(facts.height, facts.width, settings, backbone.size_divisor)
                images = store.load(sample, view).float()[None]
            yield Reference(images.to(device), labels, sample.domain, stored=store is not None)

    # not inference mode: a method may need gradients (tag2mask.layers.fine_maps)
    with torch.no_grad(), compute.autocast(settings.precision, device):
        method.prepare_localization(shown())
