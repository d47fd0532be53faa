r"""At which score of a map its photo falls apart best: Otsu's criterion, on features instead of scores.

Idea. A histogram of scores shows where scores part, which need not be where objects end: the map of a dog rises on its
face, that of a person on everything people live among. Features from the middle of the network, where classes are not
told apart yet, show which cells look alike. So for each candidate :math:`t`, the cells whose score is above it are one
group, the others the second, and the photo's features are asked how well this parts them:

.. math::
    s(t) = \frac{n_1 n_2}{n} \frac{\lVert \mu_1 - \mu_2 \rVert^2}{\sum_i \lVert x_i - \mu \rVert^2}

* :math:`x_i` -- features of cell i, :math:`\mu` their mean; :math:`n_1, \mu_1` and :math:`n_2, \mu_2` -- count and mean
  of both groups, :math:`n = n_1 + n_2`.

This is the share of the features' variance that lies between the groups: with scores in the place of features it is
what Otsu maximises (IEEE Trans. SMC 1979), so nothing new is assumed. The mean over photos of a class is taken, for one
photo often parts best elsewhere (sky from ground).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Scores that are tried: 0.05 to 0.95."""


def separation(features: Tensor, scores: np.ndarray) -> list[float]:
    """The share of the variance of a photo's features that lies between the cells above each of :data:`CANDIDATES`
    and the others; 0 where all cells are on one side.

    Args:
        features: ``[channels rows columns]``.
        scores: ``[rows columns]`` in [0, 1] of a class, on any grid.
    """
    x = features.float().flatten(1)
    x = x - x.mean(1, keepdim=True)
    total = float(x.pow(2).sum())
    grid = features.shape[1], features.shape[2]
    map_ = torch.from_numpy(scores.astype(np.float32)).to(x.device)[None, None]
    of_cells = F.interpolate(map_, grid, mode="bilinear", align_corners=False, antialias=True).flatten()
    above = (of_cells > torch.tensor(CANDIDATES, device=x.device)[:, None]).float()  # [candidates cells]
    count, cells = above.sum(1), above.shape[1]
    # both means follow from the upper group's sum, since features add up to zero: n1 mu1 = -n2 mu2
    of_upper = (above @ x.T).pow(2).sum(1)
    between = of_upper * cells / (count * (cells - count)).clamp(min=1)
    parted = (count > 0) & (count < cells) & (total > 0)
    return torch.where(parted, between / max(total, 1e-12), 0.0).tolist()


def best_separated(curve: Sequence[float], least: float, most: float) -> float | None:
    """Where photos fall apart best, of two scores and the :data:`CANDIDATES` between them; None: nowhere.

    Args:
        curve: the mean of :func:`separation` over photos.
    """
    within = [least, *(c for c in CANDIDATES if least < c < most), most]
    shares = np.interp(within, CANDIDATES, curve)
    return within[int(shares.argmax())] if shares.any() else None


def wanted_below(curve: Sequence[float], least: float) -> float | None:
    """Where photos fall apart best, if that is below a score. None: it is not; or it is at the first of the
    :data:`CANDIDATES`: the lower the better says nothing of objects.

    Args:
        curve: as of :func:`best_separated`.
    """
    best = int(np.argmax(curve))
    return CANDIDATES[best] if best and CANDIDATES[best] < least else None
