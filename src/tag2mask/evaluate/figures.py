"""Counts to figures in percent; NaN where nothing was counted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def percent(part: npt.ArrayLike, whole: npt.ArrayLike) -> np.ndarray:
    """``100 part / whole``, elementwise; NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * np.asarray(part, np.float64) / np.asarray(whole, np.float64)


def mean(values: np.ndarray) -> float:
    """Over those that are no NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def plain(value: float) -> float | None:
    """With four decimals, for JSON; None for NaN, which JSON has not."""
    return None if np.isnan(value) else round(float(value), 4)
