"""Run lengths of masks, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def runs_of(pixels: np.ndarray) -> list[int]:
    """Lengths of the runs of ``[height width]`` bool in turn, background first, row by row; their sum is its size."""
    flat = np.concatenate([[False], pixels.ravel(), [not pixels.ravel()[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(changes, prepend=0).tolist()


def from_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """``[height width]`` bool back from :func:`runs_of`.

    Raises:
        ValueError: the runs do not fill it.
    """
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"runs over {sum(runs)} pixels for {size[1]}x{size[0]}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size)
