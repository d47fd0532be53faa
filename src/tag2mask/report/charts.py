"""Line charts, laid out here and drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tag2mask.evaluate import OracleSweep

CHART = (360, 190)  # width, height of a chart in its own units: about its size in pixels on every screen
MARGIN = (44, 12, 10, 24)  # left, right, top, bottom
HEADROOM = 0.15  # share of the range left free above the curve for a label
MOST_POINTS = 400  # more cannot be told apart in a chart of this width


@dataclass(frozen=True)
class Chart:
    """A line chart, laid out; the template draws it."""

    title: str
    last: str
    raw: str  # points of the values as logged
    smooth: str  # points of their running mean; empty for short ones
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: tuple[float, float, str] | None = None  # a point worth a label
    width: int = CHART[0]
    height: int = CHART[1]
    left: int = MARGIN[0]
    right: int = CHART[0] - MARGIN[1]
    bottom: int = CHART[1] - MARGIN[3]


def line_chart(
    title: str,
    points: Sequence[tuple[float, float]],
    mark: tuple[float, float, str] | None = None,
    smoothed: bool = True,
) -> Chart:
    """Lay a series out. Values that are no finite numbers are left out; long series are thinned by their means."""
    values = np.array([point for point in points if all(map(math.isfinite, point))], np.float64).reshape(-1, 2)
    if not len(values):
        return Chart(title, "no finite value", "", "", [], [])
    last = f"{values[-1, 1]:.3g}"
    smooth = running_mean(values[:, 1], window=max(1, len(values) // 20)) if smoothed and len(values) >= 40 else None
    if len(values) > MOST_POINTS:
        groups = np.array_split(np.arange(len(values)), MOST_POINTS)
        smooth = None if smooth is None else np.array([smooth[group].mean() for group in groups])
        values = np.array([values[group].mean(axis=0) for group in groups])
    low, high = _range(values[:, 1])
    if mark is not None:
        high += HEADROOM * (high - low)  # the label stands above its point
    first, final = float(values[0, 0]), float(values[-1, 0])
    if final <= first:
        first, final = first - 0.5, first + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        left, right, top, bottom = MARGIN
        return (
            round(left + (x - first) / (final - first) * (CHART[0] - left - right), 1),
            round(top + (high - min(max(y, low), high)) / (high - low) * (CHART[1] - top - bottom), 1),
        )

    def line(ys: np.ndarray) -> str:
        return " ".join("{},{}".format(*place(x, y)) for x, y in zip(values[:, 0].tolist(), ys.tolist(), strict=True))

    return Chart(
        title,
        last,
        line(values[:, 1]),
        "" if smooth is None else line(smooth),
        [(place(x, low)[0], _number(x)) for x in _ticks(first, final)],
        [(place(first, y)[1], _number(y)) for y in _ticks(low, high)],
        None if mark is None else (*place(*mark[:2]), mark[2]),
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """From zero where that does not flatten the line, so that heights can be compared."""
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= 0.6 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred, and narrower towards the ends so that it neither lags nor leads there."""
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(len(values))
    half = np.minimum(window, np.minimum(at, len(values) - 1 - at))
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


def _ticks(low: float, high: float, limit: int = 5) -> list[float]:
    """Round values within a range, at most ``limit`` of them."""
    rough = (high - low) / limit
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= limit)
    return [round(at * step, 10) for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def sweep_chart(sweep: OracleSweep) -> Chart:
    threshold, mean_iou = sweep.best_constant
    return line_chart(
        "Best class where its score exceeds a constant",
        list(zip(sweep.thresholds, sweep.mean_iou, strict=True)),
        mark=(threshold, mean_iou, f"{mean_iou:.1f} at {threshold:g}"),
        smoothed=False,
    )
