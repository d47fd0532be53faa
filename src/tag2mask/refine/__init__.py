"""Refiners: sharpen class scores along the edges of a photo. Each is also a plain function to use alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tag2mask.errors import InputError, unknown
from tag2mask.refine.crf import PRESETS, CrfSettings, DenseCrf, dense_crf, dense_crf_from_labels
from tag2mask.types import Refiner

__all__ = [
    "PRESETS",
    "REFINERS",
    "Chain",
    "CrfSettings",
    "DenseCrf",
    "dense_crf",
    "dense_crf_from_labels",
    "refiner",
]

# "crf" is the one for class activation maps; "crf/NAME" are the parameter sets of the published codes.
REFINERS: dict[str, Callable[[], Refiner]] = {
    "crf": functools.partial(DenseCrf, PRESETS["irn"]),
    **{f"crf/{name}": functools.partial(DenseCrf, settings) for name, settings in PRESETS.items()},
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


def refiner(name: str) -> Refiner:
    """The refiner a name stands for: one of :data:`REFINERS`, several joined by commas, or ``none``.

    Raises:
        InputError: an unknown or empty name, or ``none`` together with others.
    """
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
