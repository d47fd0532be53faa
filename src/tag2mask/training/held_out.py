r"""Photos held out of a training, whose tags say how well each class was learnt. No mask is seen.

Average precision of class :math:`c` over held-out photos, ranked by their score of :math:`c`:

.. math::
    \mathrm{AP}_c = \frac{1}{|P_c|} \sum_{k \in P_c} \frac{|P_c \cap \{1, \dots, k\}|}{k}

* :math:`P_c` -- ranks of the photos that are tagged c. Guessing gives about their share of the photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def hold_out(labels: Sequence[frozenset[int] | None], share: float, seed: int, minimum: int = 3) -> list[int]:
    """Indices of the photos to hold out, ascending: of every class, and of photos without any, that share.

    A class of so few photos that fewer than ``minimum`` of them would be held out gives none: it needs them all. A
    photo whose tags are not known (None) is not held out. A function of the arguments alone.
    """
    random = np.random.default_rng([seed, 69_163])
    pools: dict[int, list[int]] = {}
    for index, shown in enumerate(labels):
        for label in () if shown is None else shown or {-1}:
            pools.setdefault(label, []).append(index)
    rare = {index for pool in pools.values() if round(share * len(pool)) < minimum for index in pool}
    held: set[int] = set()
    for label in sorted(pools, key=lambda label: (len(pools[label]), label)):  # a photo of two classes counts for both
        pool = pools[label]
        wanted = round(share * len(pool)) - len(held.intersection(pool))
        free = [index for index in pool if index not in held and index not in rare]
        if round(share * len(pool)) >= minimum and wanted > 0:
            held.update(random.choice(free, min(wanted, len(free)), replace=False).tolist())
    return sorted(held)


def average_precision(scores: np.ndarray, tagged: np.ndarray) -> np.ndarray:
    """``[classes]`` of scores ``[photos classes]`` and tags likewise (bool); NaN where no photo is tagged. Of equal
    scores those without the tag come first."""
    precision = np.full(scores.shape[1], np.nan)
    for label in range(scores.shape[1]):
        order = np.lexsort((tagged[:, label], -scores[:, label]))
        hits = tagged[order, label]
        if hits.any():
            precision[label] = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
    return precision


@dataclass(frozen=True)
class TagPrecision:
    """How well the tag of a class is predicted on held-out photos."""

    name: str
    average_precision: float
    tagged: int  # held-out photos with the tag
    photos: int  # held-out photos

    @property
    def share(self) -> float:
        """What guessing would reach."""
        return self.tagged / self.photos

    @property
    def learnt(self) -> bool:
        """Whether the precision is nearer to 1 than to what guessing would reach."""
        return self.average_precision >= (1 + self.share) / 2


def mean_precision(rows: Sequence[TagPrecision]) -> float:
    """Mean average precision; 0 without any class."""
    return sum(row.average_precision for row in rows) / max(1, len(rows))


def tag_precision(scores: np.ndarray, tagged: np.ndarray, classes: Sequence[str]) -> list[TagPrecision]:
    """Of every class that a held-out photo is tagged with; arrays as of :func:`average_precision`."""
    precision, counts = average_precision(scores, tagged), tagged.sum(0)
    rows = zip(classes, precision.tolist(), counts.tolist(), strict=True)
    return [TagPrecision(name, value, count, len(tagged)) for name, value, count in rows if count]
