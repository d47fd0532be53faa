"""The dense CRF's mean field compiled with numba: the arithmetic of :func:`tag2mask.refine.crf.mean_field`, faster.

Optional (``pip install tag2mask[fast]``). What it saves over plain torch: corners are found by hashing instead of
sorting, and slice, softmax and the next splat are one pass over the pixels, so that each pixel's corners and weights
are read once an iteration. Values lie as planes of two labels, ``[planes corners+1 2]``: one compiled function serves
any number of labels. All functions release the GIL, so images run side by side in threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tag2mask.errors import InputError

BLOCK = 256  # pixels per pass: their logits stay in the first-level cache, and the softmax over them is vectorised

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
def _grown(table, keys, count):
    # Twice the slots; `table` holds index + 1 of the key in `keys`, 0 where free.
    bits = 1
    while (1 << bits) < 2 * len(table):
        bits += 1
    shift = U64(64 - bits)
    mask = (1 << bits) - 1
    bigger = np.zeros(1 << bits, np.int32)
    for k in range(count):
        slot = np.int64((U64(keys[k]) * U64(0x9E3779B97F4A7C15)) >> shift)
        while bigger[slot] != 0:
            slot = (slot + 1) & mask
        bigger[slot] = k + 1
    more = np.empty(1 << (bits - 1), np.int64)
    more[:count] = keys[:count]
    return bigger, more, shift


@compiled
def _corners(features, scale, stretch_inverse, low, strides):
    """Corners and barycentric weights of each point; see ``permutohedral.simplices`` and ``build`` for the steps."""
    d, points = features.shape
    d1 = d + 1
    fd1 = np.float32(d1)
    corners = np.empty((points, d1), np.uint32)
    weights = np.empty((points, d1), np.float32)

    lifted = np.empty(d1, np.float32)
    corner = np.empty(d1, np.float32)
    offset = np.empty(d1, np.float32)
    rank = np.empty(d1, np.int64)
    sort = np.empty(d1 + 1, np.float32)
    digit_base = np.empty(d1, np.int64)
    digit_base[0] = 1
    for i in range(1, d1):
        digit_base[i] = digit_base[i - 1] * d1
    orders = digit_base[d]
    stride_sum = 0
    for i in range(d):
        stride_sum += strides[i]

    simplex_table = np.zeros(1 << 13, np.int32)
    simplex_keys = np.empty(1 << 12, np.int64)
    simplex_corners = np.empty((1 << 12, d1), np.uint32)
    simplex_shift = U64(64 - 13)
    simplex_count = 0
    table = np.zeros(1 << 13, np.int32)
    keys = np.empty(1 << 12, np.int64)
    shift = U64(64 - 13)
    count = 0
    last_key = np.int64(-1)
    last = 0

    for n in range(points):
        above = F0
        for j in range(d, 0, -1):
            step = features[j - 1, n] * scale[j - 1]
            lifted[j] = above - np.float32(j) * step
            above = above + step
        lifted[0] = above
        excess = F0
        for i in range(d1):
            r = (lifted[i] * stretch_inverse + MAGIC) - MAGIC
            corner[i] = r * fd1
            excess += r
            offset[i] = lifted[i] - corner[i]
            rank[i] = 0
        for i in range(d):
            for j in range(i + 1, d1):
                below = np.int64(offset[i] < offset[j])
                rank[i] += below
                rank[j] += 1 - below
        e = np.int64(excess)
        key = np.int64(0)
        order = np.int64(0)
        for i in range(d1):
            r = rank[i] + e
            back = np.int64(r < 0) * d1 - np.int64(r > d) * d1
            r += back
            rank[i] = r
            corner[i] += np.float32(back)
            sort[r] = (lifted[i] - corner[i]) * stretch_inverse
            if i < d:
                key += (np.int64(corner[i]) - low[i]) * strides[i]
                order += r * digit_base[i]
        weights[n, 0] = sort[d] - sort[0] + F1
        for k in range(1, d1):
            weights[n, k] = sort[d - k] - sort[d - k + 1]

        simplex = key * orders + order
        if simplex != last_key:
            last_key = simplex
            slot = np.int64((U64(simplex) * U64(0x9E3779B97F4A7C15)) >> simplex_shift)
            mask = len(simplex_table) - 1
            while True:
                found = simplex_table[slot]
                if found == 0 or simplex_keys[found - 1] == simplex:
                    break
                slot = (slot + 1) & mask
            if found == 0:
                if simplex_count == len(simplex_keys):
                    simplex_table, simplex_keys, simplex_shift = _grown(simplex_table, simplex_keys, simplex_count)
                    more = np.empty((len(simplex_keys), d1), np.uint32)
                    more[:simplex_count] = simplex_corners
                    simplex_corners = more
                    mask = len(simplex_table) - 1
                    slot = np.int64((U64(simplex) * U64(0x9E3779B97F4A7C15)) >> simplex_shift)
                    while simplex_table[slot] != 0:
                        slot = (slot + 1) & mask
                simplex_keys[simplex_count] = simplex
                for k in range(d1):
                    corner_key = key + k * stride_sum
                    for i in range(d):
                        if rank[i] > d - k:
                            corner_key -= d1 * strides[i]
                    if count == len(keys):
                        table, keys, shift = _grown(table, keys, count)
                    spot = np.int64((U64(corner_key) * U64(0x9E3779B97F4A7C15)) >> shift)
                    corner_mask = len(table) - 1
                    while True:
                        there = table[spot]
                        if there == 0:
                            keys[count] = corner_key
                            count += 1
                            table[spot] = count
                            there = count
                            break
                        if keys[there - 1] == corner_key:
                            break
                        spot = (spot + 1) & corner_mask
                    simplex_corners[simplex_count, k] = there - 1
                simplex_count += 1
                simplex_table[slot] = simplex_count
                found = simplex_count
            last = found - 1
        for k in range(d1):
            corners[n, k] = simplex_corners[last, k]

    # Neighbours: up and down are two sides of one relation, so each direction is looked up once.
    neighbours = np.full((d1, count, 2), count, np.uint32)
    mask = len(table) - 1
    for j in range(d1):
        step = -stride_sum
        if j < d:
            step += d1 * strides[j]
        for v in range(count):
            wanted = keys[v] + step
            spot = np.int64((U64(wanted) * U64(0x9E3779B97F4A7C15)) >> shift)
            while True:
                there = table[spot]
                if there == 0:
                    break
                if keys[there - 1] == wanted:
                    neighbours[j, v, 0] = there - 1
                    neighbours[j, there - 1, 1] = v
                    break
                spot = (spot + 1) & mask
    return corners, weights, neighbours


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
    # Adds both labels of a plane to logits[first] and logits[first + 1].
    for b in range(size):
        n = start + b
        s0, s1 = F0, F0
        for k in range(corners.shape[1]):
            v = corners[n, k]
            w = weights[n, k]
            s0 += w * values[v, 0]
            s1 += w * values[v, 1]
        logits[first, b] += s0
        logits[first + 1, b] += s1


@compiled
def _splat(values, corners, weights, start, size, logits, first):
    for b in range(size):
        n = start + b
        q0, q1 = logits[first, b], logits[first + 1, b]
        for k in range(corners.shape[1]):
            v = corners[n, k]
            w = weights[n, k]
            values[v, 0] += w * q0
            values[v, 1] += w * q1


@compiled
def _iterate(base, mass, iterations, copies, corners, weights, neighbours, corners2, weights2, neighbours2):
    """Mean field with two filters; ``base [labels-1 N]`` holds the last label's energy minus each other one's."""
    rows, points = base.shape
    planes = (rows + 1) // 2
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
                logits[:] = F0
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
            spare[:] = F0
            spare2[:] = F0
    return out


class Filter:
    """The corners, weights, neighbours of one kernel and its ``K 1``."""

    def __init__(self, features: NDArray[np.float32], strength: float):
        d = len(features)
        stretch = np.float32(math.sqrt(2 / 3) * (d + 1))
        scale = np.array([1 / math.sqrt(j * (j + 1)) * float(stretch) for j in range(1, d + 1)]).astype(np.float32)
        # Interval arithmetic over the lifted coordinates bounds every corner's, with room for neighbours of corners.
        steps = [float(row.max()) * float(factor) for row, factor in zip(features, scale, strict=True)]
        low, size = [], []
        for j in range(d):
            least = -j * steps[j - 1] if j else 0.0
            most = sum(steps[j:])
            low.append(math.floor(least) - 3 * (d + 1))
            size.append(math.ceil(most) + 3 * (d + 1) - low[-1])
        if math.prod(size) * (d + 1) ** d >= 2**63:
            raise InputError(
                f"the filter is too narrow for this image: {math.prod(size):.0e} lattice cells; use larger sxy or srgb"
            )
        strides = [math.prod(size[:i]) for i in range(d)]
        inverse = np.float32(1 / (d + 1))
        self.corners, self.weights, self.neighbours = _corners(
            features, scale, inverse, np.array(low, np.int64), np.array(strides, np.int64)
        )
        self.mass = _normalise(self.corners, self.weights, self.neighbours, strength)
