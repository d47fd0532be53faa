"""Pixels of two masks counted: the confusion matrix, and the boundary bands of Boundary IoU. Pure functions."""

from __future__ import annotations

import numpy as np

from tag2mask.errors import InputError
from tag2mask.types import IGNORE

BOUNDARY_RATIO = 0.02  # of the image diagonal; the value of Cheng et al. 2021 for images of VOC's and COCO's size


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n: int) -> np.ndarray:
    """Count pixels by true and predicted label; pixels whose truth is 255 are skipped.

    Args:
        truth: ``[height width]`` uint8.
        predicted: ``[height width]`` uint8; 255 is undecided.
        n: number of labels, background included.

    Returns:
        ``[n n+1]`` int64, truth in rows, prediction in columns; the last column is the undecided pixels.

    Raises:
        InputError: a value that is neither below ``n`` nor 255.
    """
    assert truth.shape == predicted.shape and truth.dtype == predicted.dtype == np.uint8, (truth, predicted)
    pairs = truth.astype(np.intp) * 256
    pairs += predicted
    counts = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
    if counts[n:IGNORE].any():
        raise InputError(f"truth {_outside(counts.sum(axis=1), n)}")
    if counts[:, n:IGNORE].any():
        raise InputError(f"prediction {_outside(counts.sum(axis=0), n)}")
    return counts[:n, [*range(n), IGNORE]].astype(np.int64)


def _outside(histogram: np.ndarray, n: int) -> str:
    value = n + int(np.flatnonzero(histogram[n:IGNORE])[0])
    return f"holds the value {value}, but no class is above {n - 1} (255 is ignored): check the classes"


def boundary_counts(truth: np.ndarray, predicted: np.ndarray, n: int, ratio: float = BOUNDARY_RATIO) -> np.ndarray:
    """Intersection and union of the inner boundary bands of each label (Cheng et al., Boundary IoU, CVPR 2021).

    The band of a label is what an erosion by ``d`` pixels takes from its region, ``d`` being ``ratio`` of the image
    diagonal and the image's edge counting as a boundary, as in the authors' code. A pixel is outside the band exactly
    when its whole ``2d+1`` square carries one label, so one minimum and one maximum filter serve all labels at once.
    Pixels whose truth is 255 belong to no label on either side: what is predicted there changes nothing.

    Args:
        truth: ``[height width]`` uint8.
        predicted: ``[height width]`` uint8; 255 is undecided.
        n: number of labels, background included.
        ratio: band width as a share of the image diagonal.

    Returns:
        ``[2 n]`` int64: intersections, unions.
    """
    distance = max(1, round(ratio * float(np.hypot(*truth.shape))))
    truth_band = _inner_band(truth, distance)
    predicted_band = _inner_band(np.where(truth == IGNORE, np.uint8(IGNORE), predicted), distance)
    common = np.bincount(truth_band[truth_band == predicted_band], minlength=256)[:n]
    truth_size, predicted_size = (np.bincount(band.ravel(), minlength=256)[:n] for band in (truth_band, predicted_band))
    return np.stack([common, truth_size + predicted_size - common]).astype(np.int64)


def _inner_band(labels: np.ndarray, distance: int) -> np.ndarray:
    """``labels`` where another label (or the image's edge) is within ``distance``, 255 elsewhere."""
    low = high = np.pad(labels, distance, constant_values=IGNORE)
    for axis in (0, 1):
        low, high = (_running(np.minimum, low, distance, axis), _running(np.maximum, high, distance, axis))
    return np.where(low == high, np.uint8(IGNORE), labels)


def _running(extreme: np.ufunc, values: np.ndarray, distance: int, axis: int) -> np.ndarray:
    """Minimum or maximum over windows of ``2 distance + 1`` along an axis, in log2 steps by doubling the window."""
    values = np.moveaxis(values, axis, 0)
    width, window = 1, 2 * distance + 1
    while width < window:
        step = min(width, window - width)
        values = extreme(values[:-step], values[step:])
        width += step
    return np.moveaxis(values, 0, axis)
