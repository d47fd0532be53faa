r"""Localization maps to pseudo masks: background, refinement, decision, ignore regions. The only +1 in the code.

Background. Maps score foreground only; something must stand for "none of these". With :math:`m(p)` the largest class
score at pixel :math:`p`:

* ``constant``: :math:`b(p) = t` (IRN, SEAM);
* ``power``: :math:`b(p) = (1 - m(p))^\alpha` (PSA), softer, so a refiner has something to move. :math:`\alpha` is set
  through the score :math:`t` at which foreground and background are equal: :math:`\alpha = \ln t / \ln(1 - t)`;
* ``saliency``: :math:`b(p) = 1 - s(p)` from a class-agnostic saliency map.

Or masks come from maps and saliency by fixed thresholds instead, without refinement (``saliency-rule``, that of OAA and
MCIS; :func:`by_saliency_rule`).

The threshold :math:`t` sees no mask. A method that scores background too (EPS, every student of self-training) says
itself how much of each photo is object: the cells where the tags together have more than half of its softmax. So
:math:`t` is then such that the maps of a sample of the training photos exceed it in that share of their cells.

Otherwise it splits the largest scores of that sample into two groups, by default at the geometric mean of two classical
answers: Otsu's (IEEE Trans. SMC 1979) takes the spread in both groups for equal, so the long tail of foreground scores
pulls it up; Li's minimum cross entropy (Li and Lee, Pattern Recognition 1993) takes it to grow with the mean, and falls
low where the maps rest on a haze. Maps lie between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.protocols import Refiner
from tag2mask.types import BACKGROUND, IGNORE, LocalizationMaps, PseudoMask

SALIENCY = ("saliency", "saliency-rule")  # backgrounds that need saliency maps


@dataclass(frozen=True)
class SaliencyRule:
    """Thresholds of the rule of OAA (Jiang et al., ICCV 2019), at the values of MCIS's released code."""

    foreground: float = 0.3
    """Classes and background below it do not count."""
    conflict: float = 0.99
    """Where two of them, the background one of them, lie above it, nobody knows (OAA: 0.9)."""
    attention: float = 0.95
    """A class above it makes a pixel stand out as if it were salient (OAA: 0.8)."""
    salient: int = 32
    """Saliency of 255 from which on a pixel that no class claims is unknown rather than background."""
    least: float = 0.01
    """A mask with a smaller share of foreground is unknown altogether."""


@dataclass(frozen=True)
class PseudoSettings:
    """How scores become masks. Nothing here is set on ground truth."""

    background: Literal["power", "constant", "saliency", "saliency-rule"] = "power"
    threshold: float | None = None
    """Score in (0, 1) at which a class beats the background. None: found on the maps by `rule`."""
    rule: Literal["auto", "between", "otsu", "li"] = "auto"
    """How it is found, from the maps alone: Otsu's threshold, Li's, or their geometric mean (between). auto: by
    the method's own background, if it scores one; by the rule the method names for its maps (mcis: otsu); else
    between."""
    margin: float = 0.0
    """Pixels whose two best refined probabilities differ by less become "do not care" (255)."""
    saliency_rule: SaliencyRule = SaliencyRule()
    """Of `--background saliency-rule`, which has no use for the threshold, its rule and the margin."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold} must lie between 0 and 1")
        if not 0 <= self.margin < 1:
            raise InputError(f"margin {self.margin} must lie in [0, 1)")


def threshold_of(maps: Iterable[LocalizationMaps], rule: str = "auto") -> float:
    """The threshold of these maps in (0, 1) by a rule of :class:`PseudoSettings`, without truth.

    Without any map, or when all scores are equal, 0.5.
    """
    return found_threshold(maps, rule)[0]


def found_threshold(maps: Iterable[LocalizationMaps], rule: str = "auto") -> tuple[float, str]:
    """:func:`threshold_of`, and in words how it was found."""
    shares: list[float | None] = []

    def noted() -> Iterator[LocalizationMaps]:
        for found in maps:
            if found.scores.size:
                shares.append(found.covered)
            yield found

    histogram = score_histogram(noted())
    own = [share for share in shares if share is not None]
    if rule == "auto" and own and len(own) == len(shares):
        return covering_threshold(histogram, sum(own) / len(own)), "by the method's own background, no truth"
    rule = "between" if rule == "auto" else rule
    found = {"otsu": otsu_threshold, "li": li_threshold, "between": between_threshold}[rule](histogram)
    return found, f"rule '{rule}' on the maps, no truth"


def covering_threshold(histogram: np.ndarray, share: float) -> float:
    """The score that this share of the cells exceeds, in [0.02, 0.98]; 0.5 without any cell."""
    if not histogram.sum():
        return 0.5
    below = np.concatenate([[0], np.cumsum(histogram / histogram.sum())])
    return float(np.clip(np.interp(1 - share, below, np.linspace(0, 1, len(below))), 0.02, 0.98))


def score_histogram(maps: Iterable[LocalizationMaps], bins: int = 256) -> np.ndarray:
    """``[bins]`` of the largest class score of every cell, over [0, 1], adding up to one; each image weighs the same.
    All zero without any map."""
    histogram = np.zeros(bins)
    for found in maps:
        if found.scores.size:
            largest = found.scores.astype(np.float32).max(0)
            counts, _ = np.histogram(largest, bins=bins, range=(0.0, 1.0))
            histogram += counts / largest.size
    return histogram / max(histogram.sum(), 1e-12)


def otsu_threshold(histogram: np.ndarray) -> float:
    """Otsu's: the upper edge of the bin after which the variance between the two groups is largest."""
    weight, centres = _below(histogram)
    below, mean_below = np.cumsum(weight), np.cumsum(weight * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean_below[-1] * below - mean_below) ** 2 / (below * (1 - below))
    return _best(between, below)


def li_threshold(histogram: np.ndarray) -> float:
    """Li's: where the cross entropy of the scores and their two groups' means is least, i.e. where
    ``m1 log(mean1) + m2 log(mean2)`` is largest, ``m`` being a group's sum of scores."""
    weight, centres = _below(histogram)
    below, mass = np.cumsum(weight), np.cumsum(weight * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = mass * np.log(mass / below) + (mass[-1] - mass) * np.log((mass[-1] - mass) / (1 - below))
    return _best(gained, below)


def between_threshold(histogram: np.ndarray) -> float:
    """The geometric mean of Otsu's and Li's."""
    return math.sqrt(otsu_threshold(histogram) * li_threshold(histogram))


def _below(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram adding up to one, and the centres of its bins."""
    bins = len(histogram)
    return histogram / max(histogram.sum(), 1e-12), (np.arange(bins) + 0.5) / bins


def _best(criterion: np.ndarray, below: np.ndarray) -> float:
    """Upper edge of the best bin (the middle one of equals); 0.5 where no bin has scores on both sides."""
    criterion = np.where((below > 1e-9) & (below < 1 - 1e-9), criterion, -np.inf)  # a group of rounding error is none
    if not np.isfinite(criterion).any():
        return 0.5
    best = np.flatnonzero(criterion == criterion.max())
    return float(np.clip((best.mean() + 1) / len(criterion), 0.02, 0.98))


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


def by_saliency_rule(maps: LocalizationMaps, saliency: np.ndarray, rule: SaliencyRule = SaliencyRule()) -> PseudoMask:
    """Maps and a saliency map to an index mask, as the released codes of OAA and MCIS do.

    With each class's map stretched to [0, 1] and the background's score ``1 - saliency``, a pixel takes the best label
    of those at or above ``foreground``, background where there is none. It is 255 where two labels conflict, and where
    the background won although the pixel stands out. So foreground lies within salient regions, unless a class
    outbids the background's score.

    Args:
        saliency: ``[height width]`` in [0, 1].
    """
    grey = np.rint(saliency * 255).astype(np.float32)  # the published thresholds are of 8-bit maps
    attention = np.zeros((0, *maps.size), np.float32)
    if len(maps.classes):
        scores = torch.from_numpy(maps.scores.astype(np.float32))
        scores = F.interpolate(scores[None], maps.size, mode="bilinear", align_corners=False)[0]
        low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
        attention = ((scores - low) / (high - low + 1e-8)).numpy()
    labels = np.concatenate([1 - grey[None] / 255, attention])
    labels[labels < rule.foreground] = 0
    best = labels.argmax(0)  # the first of equals, so background where nothing counts
    mask = mask_values(maps.classes)[best]
    mask[(labels > rule.conflict).sum(0) > 1] = IGNORE
    stands_out = (grey >= rule.salient) | (attention > rule.attention).any(0)
    mask[(best == 0) & stands_out] = IGNORE
    if ((mask != BACKGROUND) & (mask != IGNORE)).mean() < rule.least:
        mask[:] = IGNORE
    return PseudoMask(maps.id, mask)


def refine(image: np.ndarray, scores: Tensor, refiner: Refiner) -> Tensor:
    """One photo ``[height width 3]`` uint8 and ``[labels height width]`` through a refiner."""
    return refiner.refine(torch.from_numpy(image).permute(2, 0, 1)[None], scores[None])[0]


def mask_values(classes: Sequence[int]) -> np.ndarray:
    """Mask values uint8 of background and these foreground classes, in this order."""
    return np.array([BACKGROUND, *(c + 1 for c in classes)], np.uint8)  # the only +1 in the code


def decide(id: str, classes: Sequence[int], scores: Tensor, settings: PseudoSettings) -> PseudoMask:
    """Probabilities ``[1+present height width]`` to an index mask: argmax, 255 where the two best are too close."""
    mask = mask_values(classes)[scores.argmax(0).numpy()]
    if settings.margin > 0 and len(scores) > 1:
        best = scores.topk(2, dim=0).values
        mask[(best[0] - best[1] < settings.margin).numpy()] = IGNORE
    return PseudoMask(id, mask)


def index_mask(logits: Tensor) -> np.ndarray:
    """``[1+classes height width]``, background first, to an index mask: there argmax is already the convention."""
    return logits.argmax(0).to(torch.uint8).cpu().numpy()


def missing_classes(classes: Sequence[int], mask: PseudoMask) -> tuple[int, ...]:
    """Tagged classes that no pixel of the mask shows: a label-free sign that something went wrong there."""
    shown = set(np.unique(mask.mask).tolist())
    return tuple(c for c, value in zip(classes, mask_values(classes)[1:].tolist(), strict=True) if value not in shown)
