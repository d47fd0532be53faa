r"""Localization maps to pseudo masks: background, refinement, decision, ignore regions. The only +1 in the code.

Background. Maps score foreground only; something must stand for "none of these". With :math:`m(p)` the largest class
score at pixel :math:`p`:

* ``constant``: :math:`b(p) = t` (IRN, SEAM);
* ``power``: :math:`b(p) = (1 - m(p))^\alpha` (PSA), softer, so a refiner has something to move. :math:`\alpha` is set
  through the score :math:`t` at which foreground and background are equal: :math:`\alpha = \ln t / \ln(1 - t)`;
* ``saliency``: :math:`b(p) = 1 - s(p)` from a class-agnostic saliency map.

The threshold :math:`t` sees no mask: by default it is Otsu's threshold of the largest scores of a sample of the
training photos (Otsu, IEEE Trans. SMC 1979), i.e. the value that splits the model's own evidence best into two groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.types import IGNORE, LocalizationMaps, PseudoMask, Refiner


@dataclass(frozen=True)
class PseudoSettings:
    """How scores become masks. Nothing here is set on ground truth."""

    background: Literal["power", "constant", "saliency"] = "power"
    threshold: float | None = None
    """Score in (0, 1) at which a class beats the background. None: Otsu's, from the maps alone."""
    margin: float = 0.0
    """Pixels whose two best refined probabilities differ by less become "do not care" (255)."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold} must lie between 0 and 1")
        if not 0 <= self.margin < 1:
            raise InputError(f"margin {self.margin} must lie in [0, 1)")


def otsu_threshold(maps: Iterable[LocalizationMaps], bins: int = 256) -> float:
    """Otsu's threshold of the largest class score of every cell; each image weighs the same.

    Gives the score that maximises the variance between the two groups, a bin's upper edge, in (0, 1). Without any
    map, or when all scores are equal, 0.5.
    """
    histogram = np.zeros(bins)
    for found in maps:
        if found.scores.size:
            largest = found.scores.astype(np.float32).max(0)
            counts, _ = np.histogram(largest, bins=bins, range=(0.0, 1.0))
            histogram += counts / largest.size
    if histogram.sum() == 0:
        return 0.5
    weight = histogram / histogram.sum()
    centres = (np.arange(bins) + 0.5) / bins
    below, mean_below = np.cumsum(weight), np.cumsum(weight * centres)
    above = 1 - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean_below[-1] * below - mean_below) ** 2 / (below * above)
    between[~np.isfinite(between)] = 0.0
    if between.max() == 0:
        return 0.5
    best = np.flatnonzero(between == between.max())
    return float(np.clip((best.mean() + 1) / bins, 0.02, 0.98))


def label_scores(
    maps: LocalizationMaps, threshold: float, settings: PseudoSettings, saliency: np.ndarray | None = None
) -> Tensor:
    """Probabilities ``[1+present height width]`` float32 of background and the present classes, summing to 1.

    Args:
        saliency: ``[height width]`` in [0, 1], for the ``saliency`` background.
    """
    height, width = maps.size
    scores = torch.from_numpy(maps.scores.astype(np.float32))
    if not len(scores):
        return torch.ones(1, height, width)
    scores = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0].clamp(0, 1)
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
    """One photo ``[height width 3]`` uint8 and ``[labels height width]`` through a refiner."""
    return refiner.refine(torch.from_numpy(image).permute(2, 0, 1)[None], scores[None])[0]


def decide(maps: LocalizationMaps, scores: Tensor, settings: PseudoSettings) -> PseudoMask:
    """Probabilities ``[1+present height width]`` to an index mask: argmax, 255 where the two best are too close."""
    values = np.array([0, *(c + 1 for c in maps.classes)], np.uint8)  # the only +1 in the code
    mask = values[scores.argmax(0).numpy()]
    if settings.margin > 0 and len(scores) > 1:
        best = scores.topk(2, dim=0).values
        mask[(best[0] - best[1] < settings.margin).numpy()] = IGNORE
    return PseudoMask(maps.id, mask)


def index_mask(logits: Tensor) -> np.ndarray:
    """``[1+classes height width]``, background first, to an index mask: there argmax is already the convention."""
    return logits.argmax(0).to(torch.uint8).cpu().numpy()


def vanished(maps: LocalizationMaps, mask: PseudoMask) -> tuple[int, ...]:
    """Tagged classes that no pixel of the mask shows: a label-free sign that something went wrong there."""
    shown = set(np.unique(mask.mask).tolist())
    return tuple(c for c in maps.classes if c + 1 not in shown)
