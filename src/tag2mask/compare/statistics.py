"""Mean IoU over resampled photos: how far a score, or a difference of two, would move with other photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SAMPLES = 2000
PART = 1 << 24  # numbers handled at once


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % of its bootstrap distribution around the middle."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """``[... n]`` in percent of ``[... n n+1]`` counts, as :attr:`tag2mask.evaluate.Scores.iou`."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(-1) + confusion[..., :-1].sum(-2) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * hits / union


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """PASCAL's mean IoU in percent of ``[... n n+1]`` counts, as :attr:`tag2mask.evaluate.Scores.mean_iou`."""
    return np.nanmean(class_iou(confusion), -1)


def draws(photos: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """``[samples photos]``: how often each photo is drawn, with replacement, as many as there are."""
    return np.random.default_rng(seed).multinomial(photos, np.full(photos, 1 / photos), samples)


def resampled(confusions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean IoU ``[samples]`` of every draw of the photos of ``[photos n n+1]``."""
    flat = confusions.reshape(len(confusions), -1).astype(np.float64)
    step = max(1, PART // flat.shape[1])
    totals = [counts[i : i + step].astype(np.float64) @ flat for i in range(0, len(counts), step)]
    return mean_iou(np.concatenate(totals).reshape(len(counts), *confusions.shape[1:]))


def interval(value: float, distribution: np.ndarray) -> Interval:
    low, high = np.nanpercentile(distribution, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def paired_difference(ones: Sequence[np.ndarray], others: Sequence[np.ndarray], counts: np.ndarray) -> Interval:
    """Mean over the ones' mean IoU less that over the others', on the same draws of the same photos.

    Args:
        ones, others: ``[photos n n+1]`` of every run (a seed each), photos in one order.
        counts: of :func:`draws`.
    """
    value = np.mean([mean_iou(c.sum(0)) for c in ones]) - np.mean([mean_iou(c.sum(0)) for c in others])
    left, right = (np.mean([resampled(c, counts) for c in side], 0) for side in (ones, others))
    return interval(float(value), left - right)
