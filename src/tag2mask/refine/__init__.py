"""Refiners: sharpen class scores along the edges of a photo. Each is also a plain function to use alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError, unknown
from tag2mask.protocols import Refiner
from tag2mask.refine.crf import PRESETS, CrfSettings, DenseCrf, LabelCrf, dense_crf, dense_crf_from_labels
from tag2mask.refine.par import Par, ParSettings, par, pixel_adaptive
from tag2mask.refine.walks import random_walk

__all__ = [
    "PRESETS",
    "REFINERS",
    "Bounded",
    "Chain",
    "CrfSettings",
    "DenseCrf",
    "LabelCrf",
    "Par",
    "ParSettings",
    "dense_crf",
    "dense_crf_from_labels",
    "par",
    "pixel_adaptive",
    "random_walk",
    "refiner",
]

# "crf" is the one for class activation maps; "crf/NAME" are the parameter sets of the published codes.
# "crf/labels" looks at hard labels alone.
# "par" works at half the resolution of the photo, as in the training codes; "par/full" at all of it.
REFINERS: dict[str, Callable[[], Refiner]] = {
    "crf": functools.partial(DenseCrf, PRESETS["irn"]),
    **{f"crf/{name}": functools.partial(DenseCrf, settings) for name, settings in PRESETS.items()},
    "crf/labels": LabelCrf,
    "par": functools.partial(Par, ParSettings(downscale=2)),
    "par/full": Par,
}


@dataclass(frozen=True)
class Chain:
    """Refiners one after another; none at all changes nothing."""

    refiners: Sequence[Refiner]

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities."""
        for each in self.refiners:
            scores = each.refine(images, scores)
        return scores


@dataclass(frozen=True)
class Bounded:
    """A refiner that sees photos of at most ``longest`` pixels a side: larger ones are refined small, and the
    probabilities brought back. A CRF on a 12-megapixel photo costs minutes and changes little but the very border."""

    refiner: Refiner
    longest: int

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """As :meth:`Chain.refine`."""
        height, width = images.shape[2:]
        if max(height, width) <= self.longest:
            return self.refiner.refine(images, scores)
        factor = self.longest / max(height, width)
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        fewer = F.interpolate(images.float(), small, mode="area").round().to(torch.uint8)
        refined = self.refiner.refine(fewer, F.interpolate(scores, small, mode="area"))
        return F.interpolate(refined, (height, width), mode="bilinear", align_corners=False)


def refiner(name: str, longest: int = 0) -> Refiner:
    """The refiner a name stands for: one of :data:`REFINERS`, several joined by commas, or ``none``.

    Args:
        longest: photos longer than this are refined at this size; 0: never.

    Raises:
        InputError: an unknown or empty name, or ``none`` together with others.
    """
    return Bounded(_named(name), longest) if longest else _named(name)


def _named(name: str) -> Refiner:
    names = [part.strip() for part in name.split(",")]
    if names == ["none"]:
        return Chain(())
    if "none" in names:
        raise InputError(f"refiner '{name}': 'none' stands alone; leave it out of the list")
    for part in names:
        if part not in REFINERS:
            raise unknown("refiner", part, [*REFINERS, "none"])
    if len(names) == 1:
        return REFINERS[names[0]]()
    return Chain(tuple(REFINERS[part]() for part in names))
