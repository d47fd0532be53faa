"""Class scores to index masks. The only +1 in the code."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.protocols import Refiner
from tag2mask.pseudo.settings import PseudoSettings
from tag2mask.types import BACKGROUND, IGNORE, LocalizationMaps, PseudoMask


def at_pixels(maps: LocalizationMaps) -> Tensor:
    """Scores at the photo's size, bilinear: ``[present height width]`` float32.

    Raises:
        InputError: scores that are not finite.
    """
    if not np.isfinite(maps.scores).all():
        raise InputError(f"the maps of '{maps.id}' hold NaN or infinity: make them again")
    scores = torch.from_numpy(maps.scores.astype(np.float32))
    if not len(scores):
        return scores.new_zeros(0, *maps.size)
    return F.interpolate(scores[None], maps.size, mode="bilinear", align_corners=False)[0]


def label_scores(
    maps: LocalizationMaps, threshold: float, settings: PseudoSettings, saliency: np.ndarray | None = None
) -> Tensor:
    """Probabilities ``[1+present height width]`` float32 of background and the present classes, summing to 1.

    Args:
        saliency: ``[height width]`` in [0, 1], for the ``saliency`` background.
    """
    scores = at_pixels(maps).clamp(0, 1)
    if not len(scores):
        return torch.ones(1, *maps.size)
    largest = scores.amax(0, keepdim=True)
    if settings.background == "saliency":
        assert saliency is not None, "checked before the stage"
        background = 1 - torch.from_numpy(saliency)[None]
    elif settings.background == "power":
        background = (1 - largest) ** (math.log(threshold) / math.log(1 - threshold))
    else:
        background = torch.full_like(largest, threshold)
    stacked = torch.cat([background, scores])
    return stacked / stacked.sum(0, keepdim=True).clamp(min=1e-6)


def refine(image: np.ndarray, scores: Tensor, refiner: Refiner) -> Tensor:
    """One photo ``[height width 3]`` uint8 and ``[labels height width]`` through a refiner; one label is certain."""
    if len(scores) == 1:
        return scores
    return refiner.refine(torch.from_numpy(image).permute(2, 0, 1)[None], scores[None])[0]


def mask_values(classes: Sequence[int]) -> np.ndarray:
    """Mask values uint8 of background and these foreground classes, in this order."""
    return np.array([BACKGROUND, *(c + 1 for c in classes)], np.uint8)  # the only +1 in the code


def decide(id: str, classes: Sequence[int], scores: Tensor, settings: PseudoSettings) -> PseudoMask:
    """Probabilities ``[1+present height width]`` to an index mask: argmax, 255 where the two best are too close.

    Raises:
        InputError: probabilities that are not finite.
    """
    if not bool(torch.isfinite(scores).all()):
        raise InputError(f"the scores of '{id}' hold NaN or infinity, so no class is the best: make its maps again")
    mask = mask_values(classes)[best_labels(scores).numpy()]
    if settings.margin > 0 and len(scores) > 1:
        best = scores.topk(2, dim=0).values
        mask[(best[0] - best[1] < settings.margin).numpy()] = IGNORE
    return PseudoMask(id, mask)


def index_mask(logits: Tensor) -> np.ndarray:
    """``[1+classes height width]``, background first, to an index mask: there argmax is already the convention.

    Raises:
        InputError: logits that are not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            "the segmenter's scores are NaN or infinite, so no class is the best: its weights are damaged, or its "
            "precision is too low (--inference.precision float32)"
        )
    return best_labels(logits).to(torch.uint8).cpu().numpy()


def best_labels(scores: Tensor) -> Tensor:
    """``[labels height width]`` to the first of the largest, ``[height width]`` int64. On a CPU torch's argmax takes 14
    times as long as its max, which knows the place too."""
    return scores.max(0).indices


def shows_object(mask: np.ndarray) -> np.ndarray:
    """Pixels of any class, bool: neither background nor undecided."""
    return (mask != BACKGROUND) & (mask != IGNORE)


def missing_classes(classes: Sequence[int], mask: PseudoMask) -> tuple[int, ...]:
    """Tagged classes that no pixel of the mask shows: a label-free sign that something went wrong there."""
    shown = set(np.unique(mask.mask).tolist())
    return tuple(c for c, value in zip(classes, mask_values(classes)[1:].tolist(), strict=True) if value not in shown)
