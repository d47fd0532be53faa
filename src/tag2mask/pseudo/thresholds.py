r"""The threshold :math:`t` between classes and background, from the maps alone: no mask is seen.

A method that scores background too (EPS, every student of self-training) says itself how much of each photo is object:
the cells where the tags together have more than half of its softmax. So :math:`t` is then such that the maps of a
sample of the training photos exceed it in that share of their cells.

Otherwise it splits the largest scores of that sample into two groups, by default at the geometric mean of two classical
answers: Otsu's (IEEE Trans. SMC 1979) takes the spread in both groups for equal, so the long tail of foreground scores
pulls it up; Li's minimum cross entropy (Li and Lee, Pattern Recognition 1993) takes it to grow with the mean, and falls
low where the maps rest on a haze. Maps lie between.

Maps that come from references have three groups: background, what surrounds objects, and objects. Otsu's two take
the surroundings for object; of his three groups (section IV of his paper), the highest is the objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tag2mask.types import LocalizationMaps


def threshold_of(maps: Iterable[LocalizationMaps], rule: str = "auto") -> float:
    """The threshold of these maps in (0, 1) by a rule of :class:`PseudoSettings`, without truth.

    Without any map, or when all scores are equal, 0.5.
    """
    return find_threshold(maps, rule)[0]


def find_threshold(maps: Iterable[LocalizationMaps], rule: str = "auto") -> tuple[float, str]:
    """:func:`threshold_of`, and in words where it is from."""
    shares: list[float | None] = []

    def noted() -> Iterator[LocalizationMaps]:
        for of_photo in maps:
            if of_photo.scores.size:
                shares.append(of_photo.covered)
            yield of_photo

    histogram = score_histogram(noted())
    own = [share for share in shares if share is not None]
    if rule == "auto" and own and len(own) == len(shares):
        return covering_threshold(histogram, sum(own) / len(own)), "by the method's own background, no truth"
    rule = "between" if rule == "auto" else rule
    threshold = RULES[rule](histogram)
    return threshold, f"rule '{rule}' on the maps, no truth"


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
    for of_photo in maps:
        if of_photo.scores.size:
            largest = of_photo.scores.astype(np.float32).max(0)
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


def otsu3_threshold(histogram: np.ndarray) -> float:
    """Otsu's of three groups: the upper one of the two edges between which and beside which the variance between the
    groups is largest; of two groups where there are scores in two bins only."""
    weight, centres = _below(histogram)
    below, mass = np.cumsum(weight), np.cumsum(weight * centres)
    # rows: last bin of the lowest group, columns: last bin of the middle one
    weights = below[:, None], below[None] - below[:, None], np.broadcast_to(1 - below, (len(below),) * 2)
    masses = mass[:, None], mass[None] - mass[:, None], mass[-1] - mass[None]
    filled = np.logical_and.reduce(np.broadcast_arrays(*(w > 1e-9 for w in weights)))
    if not filled.any():
        return otsu_threshold(histogram)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = sum(m**2 / w for m, w in zip(masses, weights, strict=True))
    of_upper = np.where(filled, between, -np.inf).max(0)
    return _best(of_upper, below)


def li_threshold(histogram: np.ndarray) -> float:
    """Li's: where the cross entropy of the scores and their two groups' means is lowest, i.e. where
    ``m1 log(mean1) + m2 log(mean2)`` is largest, ``m`` being a group's sum of scores."""
    weight, centres = _below(histogram)
    below, mass = np.cumsum(weight), np.cumsum(weight * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = mass * np.log(mass / below) + (mass[-1] - mass) * np.log((mass[-1] - mass) / (1 - below))
    return _best(gained, below)


def between_threshold(histogram: np.ndarray) -> float:
    """The geometric mean of Otsu's and Li's."""
    return math.sqrt(otsu_threshold(histogram) * li_threshold(histogram))


RULES = {
    "between": between_threshold,
    "otsu": otsu_threshold,
    "otsu3": otsu3_threshold,
    "li": li_threshold,
}


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
