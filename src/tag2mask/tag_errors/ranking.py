r"""Which tags classifiers contradict that did not learn from their photo (confident learning, arXiv 1911.00068).

Photos are dealt into folds. The tags of a fold are predicted by ridge regression on the other folds' features:

.. math::
    W = (X^\top X + \lambda d I)^{-1} X^\top Y, \qquad P = (x - \bar x) W + \bar y

* :math:`X, Y` -- features (each of mean 0, deviation 1 over all photos) and tags of the other folds, less their means
* :math:`d` -- number of features; :math:`\lambda` = :data:`RIDGE`, so its part does not depend on d

With :math:`t_c` the mean prediction of class c over the photos that are tagged c, :math:`u_c` over the others, the
doubt about a tag is :math:`t_c - P_c`, about a tag that is not there :math:`P_c - u_c`. A tag *looks wrong* where
:math:`P_c < u_c`: the photo is less like the tagged ones than photos without the tag are. It *looks missing* where
:math:`P_c > t_c`. Where :math:`t_c - u_c` is within two standard errors nothing is said of the class.
Of the features, sums over photos are all that is kept, and a part of the photos is read at once: they may lie on disk.
Tags, predictions and doubts are held, a few numbers a photo and class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FOLDS = 5
RIDGE = 1.0
FEW = 10  # photos with a tag, or without it, below which nothing is said of it: two a fold
PART = 4096  # photos read at once


@dataclass(frozen=True)
class Doubts:
    """What cross-fitted classifiers make of tags; all ``[photos classes]``.

    Attributes:
        scores: float in [-1, 1] or a little beyond, larger where the tag, or its absence, is contradicted more.
        wrong, missing: bool, tags that look wrong and tags that look missing.
        told: ``[classes]`` bool, classes of which something is said: enough photos have them and have them not, and
            the features tell these apart.
    """

    scores: np.ndarray
    wrong: np.ndarray
    missing: np.ndarray
    told: np.ndarray

    @property
    def of_photos(self) -> np.ndarray:
        """``[photos]``: the largest doubt about anything that is said of a photo."""
        return self.scores.max(1)


def doubts(features: np.ndarray, tags: np.ndarray, seed: int = 0, places: np.ndarray | None = None) -> Doubts:
    """Doubts about the tags of photos.

    Args:
        features: ``[photos channels]``, finite at these places; may lie on disk (``numpy.memmap``).
        tags: ``[photos classes]`` bool. Nothing is said of a class with fewer than :data:`FEW` photos with it or
            without it: its doubts are 0.
        seed: of the folds.
        places: ``[photos]`` int, where in the features those photos lie that the tags are of; None: all, in order.
    """
    predicted = cross_fitted(features, tags, np.random.default_rng(seed).permutation(len(tags)) % FOLDS, places)
    scores = np.zeros(tags.shape)
    wrong, missing = np.zeros(tags.shape, bool), np.zeros(tags.shape, bool)
    told = judged(tags)
    for c in np.flatnonzero(told).tolist():
        with_tag, p = tags[:, c], predicted[:, c]
        tagged, untagged = p[with_tag].mean(), p[~with_tag].mean()
        error = np.sqrt(p[with_tag].var() / with_tag.sum() + p[~with_tag].var() / (~with_tag).sum())
        if tagged - untagged <= 2 * error:  # chance: half of its tags would look wrong
            told[c] = False
            continue
        scores[:, c] = np.where(with_tag, tagged - p, p - untagged)
        wrong[:, c], missing[:, c] = with_tag & (p < untagged), ~with_tag & (p > tagged)
    return Doubts(scores, wrong, missing, told)


def judged(tags: np.ndarray) -> np.ndarray:
    """``[classes]`` bool: classes with enough photos with and without their tag."""
    return np.minimum(tags.sum(0), (~tags).sum(0)) >= FEW


def cross_fitted(
    features: np.ndarray, tags: np.ndarray, folds: np.ndarray, places: np.ndarray | None = None
) -> np.ndarray:
    """``[photos classes]``: every photo's tags as predicted from the photos of the other folds.

    Args:
        folds: ``[photos]`` int.
        places: as of :func:`doubts`.
    """
    places = np.arange(len(features)) if places is None else places
    mean, deviation = _moments(features, places)
    dealt = range(int(folds.max()) + 1)
    sums = [_Sums.zero(features.shape[1], tags.shape[1]) for _ in dealt]
    for rows, x in _standardised(features, places, mean, deviation):
        for fold in dealt:
            chosen = folds[rows] == fold
            sums[fold].add(x[chosen], tags[rows][chosen].astype(float))
    total = _Sums.zero(features.shape[1], tags.shape[1])
    for part in sums:
        total.add_sums(part, 1)
    fitted = []
    for part in sums:
        others = total.copy()
        others.add_sums(part, -1)
        fitted.append(others.fit())
    predicted = np.zeros(tags.shape)
    for rows, x in _standardised(features, places, mean, deviation):
        for fold, (weight, constant) in enumerate(fitted):
            chosen = folds[rows] == fold
            predicted[rows][chosen] = x[chosen] @ weight + constant
    return predicted


@dataclass
class _Sums:
    """Sums over photos of features x, tags y and their products."""

    count: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def zero(cls, channels: int, classes: int) -> _Sums:
        return cls(
            0, np.zeros(channels), np.zeros(classes), np.zeros((channels, channels)), np.zeros((channels, classes))
        )

    def copy(self) -> _Sums:
        return _Sums(self.count, self.x.copy(), self.y.copy(), self.xx.copy(), self.xy.copy())

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.add_sums(_Sums(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y), 1)

    def add_sums(self, other: _Sums, sign: int) -> None:
        self.count += sign * other.count
        for name in ("x", "y", "xx", "xy"):
            getattr(self, name).__iadd__(sign * getattr(other, name))

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``[channels classes]`` and constants ``[classes]`` of the ridge regression."""
        count = max(self.count, 1)
        x, y = self.x / count, self.y / count
        gram = self.xx - count * np.outer(x, x)
        gram[np.diag_indices_from(gram)] += RIDGE * len(x)
        weight = np.linalg.solve(gram, self.xy - count * np.outer(x, y))
        return weight, y - x @ weight


def _parts(features: np.ndarray, places: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(places), PART):
        rows = slice(start, min(start + PART, len(places)))
        yield rows, np.asarray(features[places[rows]], np.float64)


def _moments(features: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``[channels]``; a feature that never changes has deviation 1."""
    mean, variance = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for _, x in _parts(features, places):
        mean += x.sum(0) / len(places)
    for _, x in _parts(features, places):
        variance += ((x - mean) ** 2).sum(0) / len(places)
    return mean, np.where(variance > 1e-12, np.sqrt(variance), 1)


def _standardised(
    features: np.ndarray, places: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    for rows, x in _parts(features, places):
        yield rows, (x - mean) / deviation
