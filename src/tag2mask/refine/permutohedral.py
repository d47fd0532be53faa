"""High-dimensional Gaussian filtering on the permutohedral lattice, in plain torch: one code for CPU and GPU.

``K v`` with ``K_ij = exp(-|f_i - f_j|^2 / 2)`` over all pairs of N points costs O(N^2). The lattice of Adams, Baek and
Davis (Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010) does it in O(N d^2): each
point lies in one simplex of the lattice A*_d and *splats* its value on the d + 1 corners with barycentric weights, the
corner values are *blurred* with [1/2, 1, 1/2] along the d + 1 lattice directions, and the point *slices* its value from
its corners with the same weights. Corners no point touches do not exist; a blur reads zero there, as in the reference
code of Kraehenbuehl and Koltun (Efficient Inference in Fully Connected CRFs, NIPS 2011).

Here a corner is one int64 key, the corners are found by sorting the keys, and splat and slice are weighted sums over
index lists ("embedding bags"), the one sparse product torch offers quickly on every platform and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tag2mask.errors import InputError


@dataclass(frozen=True)
class Lattice:
    """The corners around N points with d features each; M corners exist. Index M means "no such corner"."""

    corners: Tensor  # [N d+1] int32: the corners of each point's simplex
    weights: Tensor  # [N d+1] float32: its barycentric coordinates there, each at least 0, summing to 1
    neighbours: Tensor  # [d+1 2 M] int32: the next corner up and down each lattice direction, M where there is none
    splat_points: Tensor  # [N (d+1)] int32: the points that touch corner 0, then those that touch corner 1, ...
    splat_entries: Tensor  # [N (d+1)] int64: where in the flattened `weights` each of them has its weight
    splat_starts: Tensor  # [M+1] int32: where in `splat_points` each corner begins

    @property
    def size(self) -> int:
        """M, the number of corners."""
        return self.neighbours.shape[-1]


def scaled_features(height: int, width: int, sxy: float, image: Tensor | None = None, srgb: float = 1.0) -> Tensor:
    """Position and, with ``image`` ([height width 3] uint8), colour of each pixel in units of the kernel's widths.

    Returns ``[2 or 5, height * width]`` float32 in the order x, y, red, green, blue, which decides the order of the
    blurs and with it the last digits of the result; it is that of Kraehenbuehl's code.
    """
    device = None if image is None else image.device
    # Divisors are tensors: a GPU would multiply by the inverse of a plain number, which rounds differently.
    position, colour = torch.tensor([sxy, srgb], dtype=torch.float32, device=device)
    x = torch.arange(width, dtype=torch.float32, device=device) / position
    y = torch.arange(height, dtype=torch.float32, device=device) / position
    rows = [x.expand(height, width), y[:, None].expand(height, width)]
    if image is not None:
        rows += list((image.float() / colour).unbind(-1))
    return torch.stack(rows).flatten(1)


def simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex each point lies in (Adams et al. 2010, sections 3 and 4).

    Args:
        features: ``[d N]`` float32 in units of the filter's standard deviation.

    Returns:
        The remainder-0 corner ``[d+1 N]`` (a multiple of d + 1 in each coordinate, sum 0), the rank ``[d+1 N]`` of each
        coordinate in the simplex' sorting order (0: the coordinate farthest above that corner) and the barycentric
        weights ``[d+1 N]`` of the corners with remainder 0 ... d; all float32.
    """
    d = len(features)
    # The blur has this standard deviation on the lattice, so features are stretched by it (p. 6 of Adams et al.).
    # Every rounding to float32 below is that of Kraehenbuehl's code: colours are integers, so many points lie exactly
    # on a simplex' border, and the last bit decides which corners exist.
    stretch = float(torch.tensor(math.sqrt(2 / 3) * (d + 1)))
    inverse = float(torch.tensor(1 / (d + 1)))
    lifted = [torch.empty(0)] * (d + 1)  # on the plane sum(x) = 0 of R^(d+1): y = E f (p. 5)
    above = torch.zeros_like(features[0])
    for j in range(d, 0, -1):
        step = features[j - 1] * (1 / math.sqrt(j * (j + 1)) * stretch)
        lifted[j] = above - j * step
        above = above + step
    lifted[0] = above
    lifted = torch.stack(lifted)
    rounded = torch.round(lifted * inverse)
    excess = rounded.sum(0)  # zero if rounding stayed on the plane
    corner = rounded.mul_(d + 1)
    offset = lifted - corner
    rank = torch.zeros_like(lifted)
    for i in range(d):
        for j in range(i + 1, d + 1):
            below = (offset[i] < offset[j]).float()
            rank[i] += below
            rank[j] += 1 - below
    rank += excess
    back = ((rank < 0).float() - (rank > d).float()) * (d + 1)  # steps which bring the corner back to the plane
    rank += back
    corner += back
    offset = (lifted - corner) * inverse
    offset = _sorted_descending(offset)
    weights = torch.empty_like(offset)
    weights[0] = offset[d] - offset[0] + 1
    for k in range(1, d + 1):
        weights[k] = offset[d - k] - offset[d - k + 1]
    return corner, rank, weights


def _sorted_descending(rows: Tensor) -> Tensor:
    # Bubble sort across a handful of rows: whole-row minima and maxima are far quicker than N tiny sorts.
    rows_ = list(rows.unbind(0))
    for end in range(len(rows_) - 1, 0, -1):
        for i in range(end):
            rows_[i], rows_[i + 1] = torch.maximum(rows_[i], rows_[i + 1]), torch.minimum(rows_[i], rows_[i + 1])
    return torch.stack(rows_)


def check_range(sizes: list[int]) -> None:
    """Raise :class:`InputError` if a corner's coordinates and order, with these ranges, do not fit in one int64."""
    d = len(sizes)
    if math.prod(sizes) * (d + 1) ** d >= 2**63:
        raise InputError(
            f"dense CRF: kernel too narrow for this image ({float(math.prod(sizes)):.0e} lattice cells): "
            "use larger sxy or srgb"
        )


def build(features: Tensor) -> Lattice:
    """The lattice around ``features`` (``[d N]`` float32, in units of the filter's standard deviation).

    Raises:
        InputError: if the features span so many lattice steps that a corner's coordinates do not fit in 63 bits.
    """
    d, points = features.shape
    device = features.device
    corner, rank, weights = simplices(features)

    # One int64 per corner: mixed radix over its first d coordinates (the last one follows, the sum is zero). Corners of
    # the simplex lie within d steps of the first, and their neighbours within d more.
    low = corner[:d].amin(1).long() - 2 * d
    sizes = [int(n) for n in (corner[:d].amax(1).long() - low + 2 * d + 1).tolist()]
    check_range(sizes)
    strides = [math.prod(sizes[:i]) for i in range(d)]
    key = torch.zeros(points, dtype=torch.int64, device=device)
    order = torch.zeros_like(rank[0])  # the ranks as digits: exact in float32, (d + 1)^d < 2^24
    for i in range(d):
        key += (corner[i].long() - low[i]) * strides[i]
        order += rank[i] * (d + 1) ** i
    # Many pixels share a simplex, so corners are looked up once per simplex rather than once per pixel.
    simplex, inverse = torch.unique(key * (d + 1) ** d + order.long(), return_inverse=True)
    first, order = simplex // (d + 1) ** d, simplex % (d + 1) ** d
    digits = [order // (d + 1) ** i % (d + 1) for i in range(d)]
    keys = []
    for k in range(d + 1):  # the corner of remainder k adds k, or k - (d + 1) on the k highest ranks
        keys.append(first + sum((k - (d + 1) * (digits[i] > d - k).long()) * strides[i] for i in range(d)))
    existing, index = torch.unique(torch.stack(keys, 1), return_inverse=True)
    corners = index.int()[inverse]

    count = len(existing)
    neighbours = torch.empty(d + 1, 2, count, dtype=torch.int32, device=device)
    for j in range(d + 1):
        step = (strides[j] * (d + 1) if j < d else 0) - sum(strides)
        for side, shift in enumerate((step, -step)):
            wanted = existing + shift
            at = torch.searchsorted(existing, wanted).clamp_(max=count - 1)
            neighbours[j, side] = torch.where(existing[at] == wanted, at, count)

    # Entries sorted by corner: the corner in the high bits, the entry in the low ones, so that one plain sort does it.
    entries = points * (d + 1)
    bits = entries.bit_length()
    packed = corners.flatten().long() * 2**bits + torch.arange(entries, device=device)
    packed = torch.sort(packed).values & (2**bits - 1)
    starts = torch.zeros(count + 1, dtype=torch.int32, device=device)
    starts[1:] = torch.bincount(corners.flatten(), minlength=count).cumsum(0)
    return Lattice(
        corners=corners,
        weights=weights.T.contiguous(),
        neighbours=neighbours,
        splat_points=(packed // (d + 1)).int(),
        splat_entries=packed,
        splat_starts=starts,
    )


@dataclass(frozen=True)
class Filter:
    """A lattice with the weights of its splat and slice, ready to be applied many times."""

    lattice: Lattice
    weights: Tensor  # [N d+1] float32: barycentric, times whatever each point's value is scaled with
    splat_weights: Tensor  # [N (d+1)] float32: the same in splat order

    def __call__(self, values: Tensor) -> Tensor:
        """Filter ``values [N channels]`` float32; returns the same shape."""
        lattice = self.lattice
        count = lattice.size
        held = values.new_empty(count + 1, values.shape[1])
        held[count] = 0
        held[:count] = embedding_bag(
            lattice.splat_points,
            values,
            lattice.splat_starts,
            mode="sum",
            per_sample_weights=self.splat_weights,
            include_last_offset=True,
        )
        for up, down in lattice.neighbours.unbind(0):
            held[:count] += (held.index_select(0, up) + held.index_select(0, down)).mul_(0.5)
        return embedding_bag(lattice.corners, held, mode="sum", per_sample_weights=self.weights)


def scaled(lattice: Lattice, scale: Tensor | None = None) -> Filter:
    """``diag(scale) K diag(scale)``, with ``scale [N]``; without it ``K`` itself, as the lattice approximates it."""
    d = lattice.weights.shape[1] - 1
    # Adams' constant: what the blur and the two interpolations multiply a constant by, seen from a single point.
    root = math.sqrt(1 / (1 + 2.0**-d))
    weights = lattice.weights * (root if scale is None else (scale * root)[:, None])
    return Filter(lattice, weights, weights.flatten()[lattice.splat_entries])


def normalised(lattice: Lattice, weight: float = 1.0) -> Filter:
    """``weight * D^-1/2 K D^-1/2`` with ``D = diag(K 1)``: the symmetric normalisation of Kraehenbuehl's code."""
    ones = torch.ones(len(lattice.weights), 1, device=lattice.weights.device)
    mass = scaled(lattice)(ones)[:, 0]
    return scaled(lattice, math.sqrt(weight) * torch.rsqrt(mass + 1e-20))
