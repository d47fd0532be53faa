r"""Rare classes are shown more often: their photos stand in the training set several times.

Of nine hundred dogs and two hundred cows a classifier learns above all to tell dogs from cats, by their faces, and its
maps are faces. Repeat factor sampling (Gupta, Dollár, Girshick, LVIS, CVPR 2019), here up to the most frequent class
and with an exponent:

.. math:: r_c = (\max_k f_k / f_c)^b, \qquad r_x = \max_{c \in x} r_c

* :math:`f_c` -- photos tagged c; :math:`b` -- the balance (theirs 0.5); :math:`r_x` -- how often photo x stands there,
  1 where it shows none of the classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tag2mask.types import Dataset

MOST = 10  # times that a photo stands in it, so that a class of a handful is not all that is seen


def repeats(labels: Sequence[frozenset[int] | None], balance: float) -> np.ndarray:
    """:math:`r_x` of photos, ``[photos]`` float64, from 1 to 10."""
    counts = Counter(label for shown in labels for label in shown or ())
    most = max(counts.values(), default=1)
    factors = [max(((most / counts[label]) ** balance for label in shown or ()), default=1.0) for shown in labels]
    return np.minimum(np.array(factors, dtype=np.float64), MOST)


def balanced(dataset: Dataset, balance: float, seed: int) -> Dataset:
    """The photos of a data set, in its order, each as often as it shall be shown in an epoch; parts of a time are drawn
    once for the whole training. 0: as it is."""
    if not balance:
        return dataset
    factors = repeats([sample.labels for sample in dataset.samples], balance)
    times = np.floor(factors + np.random.default_rng([seed, 15_485_863]).random(len(factors))).astype(int)
    return dataset.with_samples([s for s, count in zip(dataset.samples, times, strict=True) for _ in range(count)])
