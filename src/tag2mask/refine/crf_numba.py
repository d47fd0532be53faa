"""The dense CRF's mean field compiled with numba: the arithmetic of :mod:`tag2mask.refine.crf_portable`, faster.

Optional (``pip install tag2mask[fast]``). What it saves over plain torch: corners are found by hashing instead of
sorting, and slice, softmax and the next splat are one pass over the pixels, so that each pixel's corners and weights
are read once an iteration. Values lie as planes of two labels, ``[planes corners+1 2]``: one compiled function serves
any number of labels. All functions release the GIL, so images run side by side in threads.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from tag2mask.refine.permutohedral import check_range

if TYPE_CHECKING:
    from tag2mask.refine.crf_settings import CrfSettings

BLOCK = 2048  # pixels per pass: few enough to stay in cache, many enough that calls cost nothing

U64 = np.uint64
F0, F1, HALF = np.float32(0), np.float32(1), np.float32(0.5)
MAGIC = np.float32(3 * 2**22)  # adding and taking it away rounds to the nearest (even) integer, and can be vectorised


def compiled(function: Any) -> Any:
    """``numba.njit`` without the GIL, kept on disk where that is possible."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in (a read-only installation): compiled once per process
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def _slot(table, keys, key):
    """Where ``key`` is in the table, or the free slot where it belongs. A slot holds 1 + the key's index; 0 is free."""
    # Multiplicative hashing: the high bits of the product are the well-mixed ones.
    mask = len(table) - 1
    slot = np.int64((U64(key) * U64(0x9E3779B97F4A7C15)) >> U64(32)) & mask
    while table[slot] != 0 and keys[table[slot] - 1] != key:
        slot = (slot + 1) & mask
    return slot


@compiled
def _grown(keys, count):
    """Room for twice the keys, and a table at most half full for them."""
    more = np.empty(2 * len(keys), np.int64)
    for k in range(count):
        more[k] = keys[k]
    table = np.zeros(2 * len(more), np.int32)
    for k in range(count):
        table[_slot(table, more, more[k])] = k + 1
    return table, more


# The steps on one row of BLOCK points each: on plain rows like these the compiler vectorises.


@compiled
def _lift(feature, scale, place, above, lifted):
    for b in range(len(feature)):
        step = feature[b] * scale
        lifted[b] = above[b] - place * step
        above[b] = above[b] + step


@compiled
def _round(lifted, inverse, d1, corner, excess, offset, rank):
    for b in range(BLOCK):
        whole = (lifted[b] * inverse + MAGIC) - MAGIC
        first = whole * d1
        corner[b] = first
        offset[b] = lifted[b] - first
        rank[b] = F0
        excess[b] = excess[b] + whole


@compiled
def _compare(x, y, x_rank, y_rank):
    for b in range(BLOCK):
        below = F1 if x[b] < y[b] else F0
        x_rank[b] = x_rank[b] + below
        y_rank[b] = y_rank[b] + (F1 - below)


@compiled
def _bring_back(lifted, inverse, d1, corner, excess, offset, rank):
    for b in range(BLOCK):
        r = rank[b] + excess[b]
        back = (d1 if r < F0 else F0) - (d1 if r >= d1 else F0)
        rank[b] = r + back
        first = corner[b] + back
        corner[b] = first
        offset[b] = (lifted[b] - first) * inverse


@compiled
def _add_digit(corner, rank, low, stride, digit, key):
    for b in range(BLOCK):
        key[b] += (np.int64(corner[b]) - low) * stride + np.int64(rank[b]) * digit


@compiled
def _order(x, y):
    for b in range(BLOCK):
        more, less = (x[b], y[b]) if x[b] > y[b] else (y[b], x[b])
        x[b] = more
        y[b] = less


@compiled
def _find(block, rank, strides, orders, simplex_table, simplex_keys, simplex_corners, table, keys, counts, corners):
    # A function of its own, with room for all new keys made before: reassigning an array within the loop over points
    # would cost two atomic reference counts per point. `block` holds the points' simplices, `corners` is filled.
    d = len(strides)
    d1 = d + 1
    stride_sum = strides.sum()
    simplex_count, count, last_key, last = counts[0], counts[1], counts[2], counts[3]
    for b in range(len(corners)):
        simplex = block[b]
        if simplex != last_key:  # neighbours in the image are often in the same one
            last_key = simplex
            slot = _slot(simplex_table, simplex_keys, simplex)
            if simplex_table[slot] == 0:
                simplex_keys[simplex_count] = simplex
                first = simplex // orders
                for k in range(d1):  # the corner of remainder k adds k, or k - (d + 1) on the k highest ranks
                    key = first + k * stride_sum
                    for i in range(d):
                        if rank[i, b] > d - k:
                            key -= d1 * strides[i]
                    spot = _slot(table, keys, key)
                    if table[spot] == 0:
                        keys[count] = key
                        count += 1
                        table[spot] = count
                    simplex_corners[simplex_count, k] = table[spot] - 1
                simplex_count += 1
                simplex_table[slot] = simplex_count
            last = simplex_table[slot] - 1
        for k in range(d1):
            corners[b, k] = simplex_corners[last, k]
    counts[0], counts[1], counts[2], counts[3] = simplex_count, count, last_key, last


@compiled
def _corners(features, scale, stretch_inverse, low, strides):
    """Corners and barycentric weights of each point; see ``permutohedral.simplices`` and ``build`` for the steps."""
    d, points = features.shape
    d1 = d + 1
    fd1 = np.float32(d1)
    corners = np.empty((points, d1), np.uint32)
    weights = np.empty((points, d1), np.float32)

    lifted = np.zeros((d1, BLOCK), np.float32)
    corner = np.empty((d1, BLOCK), np.float32)
    offset = np.zeros((d1, BLOCK), np.float32)
    rank = np.empty((d1, BLOCK), np.float32)
    above = np.empty(BLOCK, np.float32)
    excess = np.empty(BLOCK, np.float32)
    block_key = np.empty(BLOCK, np.int64)
    digit_base = np.empty(d1, np.int64)
    digit_base[0] = 1
    for i in range(1, d1):
        digit_base[i] = digit_base[i - 1] * d1
    orders = digit_base[d]
    simplex_keys = np.empty(1 << 14, np.int64)
    simplex_table = np.zeros(2 * len(simplex_keys), np.int32)
    simplex_corners = np.empty((len(simplex_keys), d1), np.uint32)
    keys = np.empty(1 << 14, np.int64)
    table = np.zeros(2 * len(keys), np.int32)
    counts = np.array([0, 0, -1, 0])  # of simplices and of corners; the last simplex and its index

    for start in range(0, points, BLOCK):
        size = min(BLOCK, points - start)
        for b in range(BLOCK):  # (loops rather than array assignments: those take seconds to compile)
            above[b] = F0
            excess[b] = F0
            block_key[b] = 0
        for j in range(d, 0, -1):
            _lift(features[j - 1, start : start + size], scale[j - 1], np.float32(j), above, lifted[j])
        for b in range(BLOCK):
            lifted[0, b] = above[b]
        for i in range(d1):
            _round(lifted[i], stretch_inverse, fd1, corner[i], excess, offset[i], rank[i])
        for i in range(d):
            for j in range(i + 1, d1):
                _compare(offset[i], offset[j], rank[i], rank[j])
        for i in range(d1):
            _bring_back(lifted[i], stretch_inverse, fd1, corner[i], excess, offset[i], rank[i])
        for i in range(d):
            _add_digit(corner[i], rank[i], low[i], strides[i] * orders, digit_base[i], block_key)
        for end in range(d, 0, -1):  # bubble sort, descending, all points of the block side by side
            for i in range(end):
                _order(offset[i], offset[i + 1])
        for b in range(size):
            n = start + b
            weights[n, 0] = offset[d, b] - offset[0, b] + F1
            for k in range(1, d1):
                weights[n, k] = offset[d - k, b] - offset[d - k + 1, b]
        while counts[0] + BLOCK > len(simplex_keys):
            simplex_table, simplex_keys = _grown(simplex_keys, counts[0])
            more = np.empty((len(simplex_keys), d1), np.uint32)
            for k in range(counts[0]):
                for i in range(d1):
                    more[k, i] = simplex_corners[k, i]
            simplex_corners = more
        while counts[1] + BLOCK * d1 > len(keys):
            table, keys = _grown(keys, counts[1])
        _find(
            block_key,
            rank,
            strides,
            orders,
            simplex_table,
            simplex_keys,
            simplex_corners,
            table,
            keys,
            counts,
            corners[start : start + size],
        )
    return weights, corners, table, keys, counts[1]


@compiled
def _neighbours(table, keys, count, strides):
    """``[d+1 corners 2]``: the next corner up and down each direction; two sides of one relation, looked up once."""
    d = len(strides)
    neighbours = np.full((d + 1, count, 2), count, np.uint32)
    for j in range(d + 1):
        step = -strides.sum()
        if j < d:
            step += (d + 1) * strides[j]
        for v in range(count):
            there = table[_slot(table, keys, keys[v] + step)]
            if there != 0:
                neighbours[j, v, 0] = there - 1
                neighbours[j, there - 1, 1] = v
    return neighbours


@compiled
def _blur(values, spare, neighbours):
    # One plane [corners+1 2] in place of `values` or `spare`, whichever comes out last; row `corners` stays zero.
    for j in range(len(neighbours)):
        for v in range(neighbours.shape[1]):
            up, down = neighbours[j, v, 0], neighbours[j, v, 1]
            spare[v, 0] = values[v, 0] + HALF * (values[up, 0] + values[down, 0])
            spare[v, 1] = values[v, 1] + HALF * (values[up, 1] + values[down, 1])
        values, spare = spare, values
    return values, spare


@compiled
def _filtered_ones(corners, weights, neighbours):
    """``K 1`` with the given splat and slice weights."""
    count = neighbours.shape[1]
    values = np.zeros(count + 1, np.float32)
    spare = np.zeros(count + 1, np.float32)
    points, d1 = corners.shape
    for n in range(points):
        for k in range(d1):
            values[corners[n, k]] += weights[n, k]
    for j in range(d1):
        for v in range(count):
            spare[v] = values[v] + HALF * (values[neighbours[j, v, 0]] + values[neighbours[j, v, 1]])
        values, spare = spare, values
    out = np.empty(points, np.float32)
    for n in range(points):
        s = F0
        for k in range(d1):
            s += weights[n, k] * values[corners[n, k]]
        out[n] = s
    return out


@compiled
def _normalise(corners, weights, neighbours, strength):
    # Puts sqrt(strength * Adams' constant / mass) of each point into its weights; returns K 1 with the new weights.
    points, d1 = corners.shape
    alpha = np.float32(1 / (1 + 2.0 ** -(d1 - 1)))
    mass = _filtered_ones(corners, weights, neighbours)
    root = np.float32(math.sqrt(strength * alpha))
    for n in range(points):
        scale = root / np.float32(math.sqrt(mass[n] * alpha + np.float32(1e-20)))
        for k in range(d1):
            weights[n, k] *= scale
    return _filtered_ones(corners, weights, neighbours)


@compiled
def _exp(x):
    # Cephes' expf for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2], within 2 units in the last place. Unlike a
    # call into the C library it can be vectorised. Below -87 the result would be denormal: it stops at 1e-38.
    x = max(x, np.float32(-87.0))
    n = (x * np.float32(1.44269504088896341) + MAGIC) - MAGIC
    x = x - n * np.float32(0.693359375)
    x = x - n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * x + np.float32(1.3981999507e-3)
    p = p * x + np.float32(8.3334519073e-3)
    p = p * x + np.float32(4.1665795894e-2)
    p = p * x + np.float32(1.6666665459e-1)
    p = p * x + np.float32(5.0000001201e-1)
    p = p * x * x + x + F1
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def _softmax(logits, rows, size, copies, total, top):
    # In place; the first `rows` rows of [.. BLOCK] hold logits relative to a last label that counts `copies` times and
    # whose own probability goes to row `rows`. Only the first `size` columns count.
    for b in range(size):
        top[b] = F0
    for c in range(rows):
        for b in range(size):
            top[b] = max(top[b], logits[c, b])
    for b in range(size):
        e = _exp(-top[b])
        logits[rows, b] = e
        total[b] = copies * e
    for c in range(rows):
        for b in range(size):
            e = _exp(logits[c, b] - top[b])
            logits[c, b] = e
            total[b] += e
    for b in range(size):
        total[b] = F1 / total[b]
    for c in range(rows + 1):
        for b in range(size):
            logits[c, b] *= total[b]


@compiled
def _slice(values, corners, weights, start, size, logits, first):
    # Adds both labels of a plane to logits[first] and logits[first + 1]. A loop of known length is unrolled: the two
    # lengths that occur are spelled out (5 features have 6 corners, 2 have 3). Unsigned indices need no check for
    # Python's counting from the end.
    if corners.shape[1] == 6:
        for b in range(size):
            n = np.uint32(start + b)
            s0, s1 = logits[first, b], logits[first + 1, b]
            for k in range(6):
                v = corners[n, k]
                w = weights[n, k]
                s0 += w * values[v, 0]
                s1 += w * values[v, 1]
            logits[first, b] = s0
            logits[first + 1, b] = s1
    elif corners.shape[1] == 3:
        for b in range(size):
            n = np.uint32(start + b)
            s0, s1 = logits[first, b], logits[first + 1, b]
            for k in range(3):
                v = corners[n, k]
                w = weights[n, k]
                s0 += w * values[v, 0]
                s1 += w * values[v, 1]
            logits[first, b] = s0
            logits[first + 1, b] = s1


@compiled
def _splat(values, corners, weights, start, size, logits, first):
    if corners.shape[1] == 6:
        for b in range(size):
            n = np.uint32(start + b)
            q0, q1 = logits[first, b], logits[first + 1, b]
            for k in range(6):
                v = corners[n, k]
                w = weights[n, k]
                values[v, 0] += w * q0
                values[v, 1] += w * q1
    elif corners.shape[1] == 3:
        for b in range(size):
            n = np.uint32(start + b)
            q0, q1 = logits[first, b], logits[first + 1, b]
            for k in range(3):
                v = corners[n, k]
                w = weights[n, k]
                values[v, 0] += w * q0
                values[v, 1] += w * q1


@compiled
def _clear(plane):
    for v in range(len(plane)):
        plane[v, 0] = F0
        plane[v, 1] = F0


@compiled
def _iterate(base, mass, iterations, copies, lattice, lattice2):
    """Mean field with two filters; ``base [labels-1 N]`` holds the last label's energy minus each other one's."""
    rows, points = base.shape
    planes = (rows + 1) // 2
    corners, weights, neighbours = lattice
    corners2, weights2, neighbours2 = lattice2
    count, count2 = neighbours.shape[1], neighbours2.shape[1]
    values = np.zeros((planes, count + 1, 2), np.float32)
    spare = np.zeros((planes, count + 1, 2), np.float32)
    values2 = np.zeros((planes, count2 + 1, 2), np.float32)
    spare2 = np.zeros((planes, count2 + 1, 2), np.float32)
    logits = np.zeros((2 * planes + 1, BLOCK), np.float32)
    total = np.empty(BLOCK, np.float32)
    top = np.empty(BLOCK, np.float32)
    out = np.empty((rows + 1, points), np.float32)
    share = F1 / copies
    for iteration in range(iterations + 1):
        for start in range(0, points, BLOCK):
            size = min(BLOCK, points - start)
            if iteration == 0:
                for c in range(rows):
                    for b in range(size):
                        logits[c, b] = base[c, start + b]
            else:
                for c in range(2 * planes):
                    for b in range(size):
                        logits[c, b] = F0
                for p in range(planes):
                    _slice(values[p], corners, weights, start, size, logits, 2 * p)
                    _slice(values2[p], corners2, weights2, start, size, logits, 2 * p)
                for b in range(size):
                    total[b] = -mass[start + b]
                for c in range(rows):
                    for b in range(size):
                        total[b] += logits[c, b]
                for c in range(rows):
                    for b in range(size):
                        logits[c, b] += base[c, start + b] + total[b] * share
            _softmax(logits, rows, size, copies, total, top)
            if iteration == iterations:
                for c in range(rows + 1):
                    for b in range(size):
                        out[c, start + b] = logits[c, b]
            else:
                for p in range(planes):
                    _splat(spare[p], corners, weights, start, size, logits, 2 * p)
                    _splat(spare2[p], corners2, weights2, start, size, logits, 2 * p)
        if iteration < iterations:
            # What was splatted into the spare planes is blurred; the result lies there or in `values`, by parity.
            for p in range(planes):
                _blur(spare[p], values[p], neighbours)
                _blur(spare2[p], values2[p], neighbours2)
            if len(neighbours) % 2 == 0:
                values, spare = spare, values
            if len(neighbours2) % 2 == 0:
                values2, spare2 = spare2, values2
            for p in range(planes):
                _clear(spare[p])
                _clear(spare2[p])
    return out


@compiled
def _features(image, sxy, srgb):
    """``permutohedral.scaled_features`` of ``[height width 3]``, or of positions alone where the last axis is empty."""
    height, width, channels = image.shape
    out = np.empty((2 + channels, height * width), np.float32)
    for y in range(height):
        for x in range(width):
            n = y * width + x
            out[0, n] = np.float32(x) / sxy
            out[1, n] = np.float32(y) / sxy
            for c in range(channels):
                out[2 + c, n] = np.float32(image[y, x, c]) / srgb
    return out


class Kernel:
    """One normalised kernel: ``weight * D^-1/2 K D^-1/2`` on the lattice around the pixels of an image."""

    def __init__(self, image: NDArray[np.uint8], sxy: float, srgb: float, weight: float):
        features = _features(image, np.float32(sxy), np.float32(srgb))
        d = len(features)
        stretch = np.float32(math.sqrt(2 / 3) * (d + 1))
        scale = np.array([1 / math.sqrt(j * (j + 1)) * float(stretch) for j in range(1, d + 1)]).astype(np.float32)
        # Interval arithmetic over the lifted coordinates bounds every corner's, with room for neighbours of corners.
        steps = [float(row.max()) * float(factor) for row, factor in zip(features, scale, strict=True)]
        low, size = [], []
        for j in range(d):
            low.append(math.floor(-j * steps[j - 1] if j else 0.0) - 3 * (d + 1))
            size.append(math.ceil(sum(steps[j:])) + 3 * (d + 1) - low[-1])
        check_range(size)
        strides = np.array([math.prod(size[:i]) for i in range(d)], np.int64)
        inverse = np.float32(1 / (d + 1))
        weights, corners, *index = _corners(features, scale, inverse, np.array(low, np.int64), strides)
        neighbours = _neighbours(*index, strides)
        self.mass: NDArray[np.float32] = _normalise(corners, weights, neighbours, weight)  # K 1 of the result
        self.lattice = (corners, weights, neighbours)


@functools.lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sxy: float, weight: float) -> Kernel:
    # Depends on the size of the image only, and a data set has few sizes. 375 x 500 takes 6 MB.
    return Kernel(np.empty((height, width, 0), np.uint8), sxy, 1.0, weight)


_NONE = (np.empty((0, 0), np.uint32), np.empty((0, 0), np.float32), np.empty((0, 0, 2), np.uint32))


def mean_field(
    image: NDArray[np.uint8], scores: NDArray[np.float32], settings: CrfSettings, floor: float, copies: int = 1
) -> NDArray[np.float32]:
    """:func:`tag2mask.refine.crf_portable.mean_field` on numpy arrays, with its arguments and result."""
    if len(scores) == 1:
        return np.full_like(scores, 1 / copies)
    energies = -np.log(np.clip(scores, np.float32(floor), np.float32(1))).reshape(len(scores), -1)
    height, width = image.shape[:2]
    kernels = []
    if settings.bilateral_compat:
        image = np.ascontiguousarray(image)
        kernels.append(Kernel(image, settings.bilateral_sxy, settings.bilateral_srgb, settings.bilateral_compat))
    if settings.gaussian_compat:
        kernels.append(_gaussian(height, width, settings.gaussian_sxy, settings.gaussian_compat))
    lattices = [kernel.lattice for kernel in kernels] + [_NONE, _NONE]
    mass = sum((kernel.mass for kernel in kernels), np.zeros(height * width, np.float32))
    iterations = settings.iterations if kernels else 0
    q = _iterate(energies[-1] - energies[:-1], mass, iterations, np.float32(copies), lattices[0], lattices[1])
    return q.reshape(scores.shape)
