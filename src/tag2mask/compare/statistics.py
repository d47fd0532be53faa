"""Mean IoU over resampled photos: how far a score, or a difference of two, would move with other photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True)
class Draws:
    """How often each photo is drawn, with replacement, as many as there are. Iterating gives ``[some photos]`` int64, a
    block of draws after the other, :attr:`samples` in all; the same each time."""

    photos: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[np.ndarray]:
        random, chances = np.random.default_rng(self.seed), np.full(self.photos, 1 / self.photos)
        step = max(1, PART // self.photos)
        for start in range(0, self.samples, step):
            yield random.multinomial(self.photos, chances, min(step, self.samples - start))


def draws(photos: int, samples: int = SAMPLES, seed: int = 0) -> Draws:
    """As many draws of as many photos as there are."""
    return Draws(photos, samples, seed)


def resampled(confusions: np.ndarray, counts: Iterable[np.ndarray]) -> np.ndarray:
    """Mean IoU ``[samples]`` of every draw of the photos of ``[photos n n+1]``.

    Args:
        counts: of :func:`draws`.
    """
    return runs_resampled([confusions], counts)[0]


def runs_resampled(runs: Sequence[np.ndarray], counts: Iterable[np.ndarray]) -> np.ndarray:
    """:func:`resampled` of several runs, ``[runs samples]``, with the draws made once."""
    parts = [[_of_draws(of, part) for of in runs] for block in counts for part in _parts(block, runs)]
    return np.concatenate(parts, 1)


def _parts(counts: np.ndarray, runs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Draws of which the sums of a run are no more than :data:`PART` numbers."""
    step = max(1, PART // max(confusions[0].size for confusions in runs))
    return (counts[start : start + step] for start in range(0, len(counts), step))


def _of_draws(confusions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``[draws]`` of ``[draws photos]``. Sums of whole numbers below 2^53 are exact in any order."""
    cells = confusions[0].size
    totals, step = np.zeros((len(counts), cells)), max(1, PART // cells)
    for start in range(0, len(confusions), step):
        some = slice(start, start + step)
        totals += counts[:, some].astype(np.float64) @ confusions[some].reshape(-1, cells).astype(np.float64)
    return mean_iou(totals.reshape(len(counts), *confusions.shape[1:]))


def interval(value: float, distribution: np.ndarray) -> Interval:
    low, high = np.nanpercentile(distribution, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def paired_difference(ones: Sequence[np.ndarray], others: Sequence[np.ndarray], counts: Draws) -> Interval:
    """Mean over the ones' mean IoU less that over the others', on the same draws of the same photos.

    Args:
        ones, others: ``[photos n n+1]`` of every run (a seed each), photos in one order.
        counts: of :func:`draws`.
    """
    value = np.mean([mean_iou(c.sum(0)) for c in ones]) - np.mean([mean_iou(c.sum(0)) for c in others])
    values = runs_resampled([*ones, *others], counts)
    return interval(float(value), values[: len(ones)].mean(0) - values[len(ones) :].mean(0))
