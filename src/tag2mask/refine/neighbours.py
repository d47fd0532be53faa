"""Affinities between a cell of a grid and its neighbours within a radius, one map an offset.

Where they come from: a learnt class-boundary map (IRN, Sec. 4), learnt features (AffinityNet, Sec. 3.2), or with no
training at all the photo's colours or a backbone's features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Offset = tuple[int, int]


@functools.cache
def offsets(radius: int) -> tuple[Offset, ...]:
    """(rows, columns) to the neighbours nearer than ``radius``, one of each opposite pair: those after it in memory."""
    reach = range(-radius + 1, radius)
    near = ((y, x) for y in range(radius) for x in reach if y * y + x * x < radius * radius)
    return tuple((y, x) for y, x in near if (y, x) > (0, 0))


def before(offset: Offset) -> Offset:
    """The cell before the last on the way from (0, 0) to ``offset``, nearest to the straight line."""
    steps = max(abs(offset[0]), abs(offset[1]))
    # halves are rounded away from zero, so the way to a mirrored offset is the mirrored way
    nearest = lambda n: (abs(n) * (steps - 1) * 2 + steps) // (2 * steps) * (1 if n >= 0 else -1)  # noqa: E731
    return nearest(offset[0]), nearest(offset[1])


def boundary_affinity(boundary: Tensor, radius: int) -> Tensor:
    """IRN, Eq. 3: one minus the largest boundary on the line between two cells, both of them with it.

    A line is the line to the cell :func:`before` its end, and its end: one comparison an offset.

    Args:
        boundary: ``[batch rows columns]`` in [0, 1], how likely a class boundary runs through a cell.
        radius: in cells.

    Returns:
        ``[batch offsets rows columns]``: of the cell and its neighbour at each of :func:`offsets`; 0 where the
        neighbour lies outside the grid.
    """
    rows, columns = boundary.shape[1:]
    edge = radius - 1
    padded = F.pad(boundary, (edge, edge, 0, edge), value=1.0)
    largest: dict[Offset, Tensor] = {(0, 0): boundary}
    for y, x in sorted(offsets(radius), key=lambda o: max(abs(o[0]), abs(o[1]))):
        end = padded[:, y : y + rows, x + edge : x + edge + columns]
        largest[y, x] = torch.maximum(largest[before((y, x))], end)
    if radius < 2:
        return boundary.new_zeros(len(boundary), 0, rows, columns)
    return 1 - torch.stack([largest[offset] for offset in offsets(radius)], 1)


def feature_affinity(features: Tensor, radius: int, among: Sequence[int] | None = None) -> Tensor:
    """AffinityNet, Eq. 1: ``exp(-mean over channels |f_i - f_j|)``.

    (The paper writes the sum; its code the mean over channels, which its weights are trained for.)

    Args:
        features: ``[batch channels rows columns]``.
        among: only of these :func:`offsets`, by their place; None: all.

    Returns:
        ``[batch offsets rows columns]`` as :func:`boundary_affinity`.
    """
    return _pairwise(features, radius, lambda a, b: torch.exp(-(a - b).abs().mean(1)), among)


def cosine_affinity(features: Tensor, radius: int) -> Tensor:
    """Cosine of two cells' features, negative ones 0; needs no training. Shapes as :func:`feature_affinity`."""
    unit = F.normalize(features.float(), dim=1)
    return _pairwise(unit, radius, lambda a, b: (a * b).sum(1).clamp(0, 1))


def colour_affinity(images: Tensor, radius: int, sigma: float = 0.08) -> Tensor:
    """Gaussian of the colour difference; needs no training.

    Args:
        images: ``[batch 3 rows columns]`` RGB in [0, 1], already at the grid's size.
        sigma: colour difference (root mean square over channels, of 1) at which the affinity has fallen to 0.61.
    """
    return _pairwise(images.float(), radius, lambda a, b: torch.exp(-((a - b) ** 2).mean(1) / (2 * sigma**2)))


def _pairwise(
    features: Tensor, radius: int, of: Callable[[Tensor, Tensor], Tensor], among: Sequence[int] | None = None
) -> Tensor:
    batch, _, rows, columns = features.shape
    near = offsets(radius)
    out = []
    for y, x in near if among is None else [near[i] for i in among]:
        here = (slice(None), slice(None), slice(0, max(rows - y, 0)), slice(max(-x, 0), columns - max(x, 0)))
        far = (slice(None), slice(None), slice(y, rows), slice(max(x, 0), columns - max(-x, 0)))
        if rows <= y or columns <= abs(x):
            out.append(features.new_zeros(batch, rows, columns))
            continue
        both = of(features[here], features[far])
        out.append(F.pad(both, (max(-x, 0), max(x, 0), 0, y)))
    return torch.stack(out, 1) if out else features.new_zeros(batch, 0, rows, columns)
