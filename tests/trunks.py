"""Backbones for tests, each built once: building one takes longer than what most tests do with it."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from tag2mask.backbones import Backbone, BackboneSettings, build


def fresh(settings: BackboneSettings) -> Backbone:
    """A backbone of its own with these settings, and the random numbers as they are after building it from seed 0."""
    backbone, after = _built(settings)
    torch.set_rng_state(after)
    return copy.deepcopy(backbone)


@functools.cache
def _built(settings: BackboneSettings) -> tuple[Backbone, Tensor]:
    torch.manual_seed(0)
    return build(settings), torch.get_rng_state()
