"""Maps of classes propagated over their photo: the ways by name, and the walk itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.backbones.attention import attending
from tag2mask.errors import unknown
from tag2mask.localize import LocalizeSettings, normalise_maps
from tag2mask.propagation.affinities import of_colours, of_features, of_network
from tag2mask.propagation.attention import attend, of_attention, of_tokens
from tag2mask.propagation.settings import PropagationSettings
from tag2mask.refine.walk import walk
from tag2mask.types import LocalizationMaps


@dataclass(frozen=True)
class Propagation:
    """A way to propagate maps before there is a background."""

    line: str
    """For `tag2mask list`."""
    network: Literal["trained", "backbone"] | None
    """Whose features say which cells belong together: a network trained for it (:class:`.AffinityNet` of this name),
    the backbone that made the maps (or one that ``propagation.backbone`` names), or nobody's."""
    affinities: Callable[[Any, np.ndarray, LocalizeSettings, PropagationSettings], Tensor]
    """(that network, photo ``[height width 3]`` uint8, settings of the view, of the walk) to affinities, of each cell
    with its neighbours ``[1 offsets rows columns]`` or with all cells ``[1 cells rows columns]``."""
    along: Callable[[LocalizationMaps, Tensor, PropagationSettings], LocalizationMaps] | None = None
    """(maps, those affinities, settings) to the maps propagated; None: by the random walk, :func:`propagate`."""
    check: Callable[[Backbone], object] = lambda backbone: None
    """Raises :class:`~tag2mask.errors.InputError` where a backbone does not serve."""


PROPAGATIONS: dict[str, Propagation] = {
    "irn": Propagation("random walk along a learnt class-boundary map (IRN)", "trained", of_network),
    "psa": Propagation("random walk along learnt affinities (AffinityNet)", "trained", of_network),
    "colours": Propagation("random walk along the photo's colours, no training", None, of_colours),
    "features": Propagation(
        "random walk along colours and the backbone's features, no training", "backbone", of_features
    ),
    "attention": Propagation(
        "one step along a vision transformer's attention, no training (CLIP-ES)",
        "backbone",
        of_attention,
        attend,
        attending,
    ),
    "tokens": Propagation(
        "one step along the likeness of all cells' features, no training", "backbone", of_tokens, attend
    ),
}


def propagation(name: str) -> Propagation | None:
    """The way a name stands for; None for ``none``.

    Raises:
        InputError: any other name.
    """
    if name == "none":
        return None
    if name not in PROPAGATIONS:
        raise unknown("propagation", name, [*PROPAGATIONS, "none"])
    return PROPAGATIONS[name]


def propagate(maps: LocalizationMaps, affinity: Tensor, settings: PropagationSettings) -> LocalizationMaps:
    """Maps after the walk along ``affinity`` ``[1 offsets rows columns]``, each divided by its maximum again."""
    scores = torch.from_numpy(maps.scores.astype(np.float32))[None]
    if not scores.shape[1]:
        return maps
    scores = F.interpolate(scores, affinity.shape[2:], mode="bilinear", align_corners=False)
    moved = walk(affinity, scores, radius=settings.walk_radius, beta=settings.beta, steps=settings.steps)[0]
    return replace(maps, scores=normalise_maps(moved).numpy().astype(np.float16))  # what they cover stays as large
