"""A segmenter's own masks of the training photos, tags known, as better pseudo masks to train it on again.

Pseudo masks err differently from photo to photo; what a network learns from all of them is the part they share, so its
predictions on those very photos are better than what it was taught (self-training; Zou et al., ECCV 2018, relabel by
class confidence; here the image tags are known and say more). Absent classes are switched off, the rest is refined
along the photo's edges. No truth is seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from tag2mask import pseudo
from tag2mask.errors import InputError
from tag2mask.settings import SHARE, Range, check_values


@dataclass(frozen=True)
class RelabelSettings:
    """How often and how the segmenter relabels its training photos."""

    rounds: Annotated[int, Range(at_least=0, at_most=100)] = 2
    """Times it relabels and is trained on from where it stands; 0: it is trained on the maps' masks alone."""
    again_below: Annotated[float, SHARE] = 0.1
    """The share of tagged photos whose relabelled mask was not believed (`--pseudo.min-growth`, `--pseudo.max-growth`)
    up to which it still learns from these masks before it relabels again. Above it, it leaves that training out, and
    makes the masks again as `doubted_correction` says. 1: it always learns from them."""
    prior_correction: Annotated[float, SHARE] = 0.0
    """How much of the loss's weights of rare labels (`--segmenter.balance`) is undone in its masks, as
    `--inference.prior-correction` says of new photos: the more, the smaller objects come out."""
    doubted_correction: Annotated[float, SHARE] = 0.5
    """`prior_correction` of masks that it makes again since those before were not believed (`again_below`): objects
    came out too large. The larger of both counts."""
    scales: Annotated[tuple[float, ...], Range(above=0, at_most=100)] = (1.0,)
    """Of the views that it segments, of `inference.long_side` pixels; each also mirrored."""
    refine: str = "crf/deeplab"
    """Refiner of the gated probabilities (`tag2mask list refiners`), or none."""

    def __post_init__(self) -> None:
        check_values(self, "relabel")
        if not self.scales:
            raise InputError("--relabel.scales is empty: give at least one scale")


def gate_by_tags(probabilities: Tensor, labels: Iterable[int]) -> tuple[Tensor, tuple[int, ...]]:
    """``[1+classes height width]``, background first, and the tagged classes to ``[1+present height width]`` which add
    up to one, and the present classes ascending."""
    present = tuple(sorted(labels))
    kept = probabilities[pseudo.mask_values(present).tolist()]
    total = kept.sum(0, keepdim=True)
    # where all is said to be an absent class nothing is known but that: background
    background = torch.zeros_like(kept)
    background[0] = 1
    return torch.where(total > 1e-6, kept / total.clamp(min=1e-6), background), present
