"""Connected parts of a mask and their boxes. Cells that touch, also at a corner, are connected."""

from __future__ import annotations

import numpy as np

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are outside."""


def components(mask: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Parts of ``[rows columns]`` bool, in reading order of their first cells.

    Returns:
        ``[rows columns]`` int64: 0 outside, 1 and more the part; and the box of each part.
    """
    labels = np.zeros(mask.shape, np.int64)
    joined = [0]  # label to a smaller one of the same part
    before: list[tuple[int, int, int]] = []  # start, end and label of the runs of the row above
    for row, starts_and_ends in enumerate(_runs(mask)):
        runs: list[tuple[int, int, int]] = []
        for start, end in starts_and_ends:
            touching = [_root(joined, label) for s, e, label in before if s <= end and e >= start]
            label = min(touching, default=len(joined))
            if not touching:
                joined.append(label)
            for other in touching:
                joined[other] = label
            labels[row, start:end] = label
            runs.append((start, end, label))
        before = runs
    roots = np.array([_root(joined, label) for label in range(len(joined))])
    _, order = np.unique(roots, return_inverse=True)
    labels = order[labels]
    return labels, [_box(labels == part) for part in range(1, int(order.max()) + 1)]


def _runs(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Starts and ends of the runs of each row."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rising, falling = (np.argwhere(edges == sign) for sign in (1, -1))
    rows: list[list[tuple[int, int]]] = [[] for _ in range(len(mask))]
    for (row, start), (_, end) in zip(rising.tolist(), falling.tolist(), strict=True):
        rows[row].append((start, end))
    return rows


def _root(joined: list[int], label: int) -> int:
    while joined[label] != label:
        label = joined[label]
    return label


def _box(part: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
