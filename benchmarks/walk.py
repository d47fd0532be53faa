"""The random walk against the published form, pairwise in one run: time, peak memory, and how far results agree.

    python benchmarks/walk.py                  # 63 x 94 cells (a photo of 250 x 375 at stride 4), 3 maps
    python benchmarks/walk.py --rows 32 --columns 47 --rounds 5

The published codes (AffinityNet, IRN) build the N x N transition matrix of a photo and square it eight times; the maps
are multiplied with the result. Both sides start from the same affinities, and both are compared with the same power in
double precision. Memory is the most this process held above its start, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time

import numpy as np
import torch
from torch import Tensor

from tag2mask.refine import neighbours
from tag2mask.refine.walk import walk

RADIUS, BETA = 5, 10.0


def problem(rows: int, columns: int, maps: int) -> tuple[Tensor, Tensor]:
    """Affinities ``[1 offsets rows columns]`` of a random boundary map, and scores ``[1 maps rows columns]``."""
    random = torch.Generator().manual_seed(0)
    boundary = torch.rand(1, rows, columns, generator=random) ** 3
    return neighbours.boundary_affinity(boundary, RADIUS), torch.rand(1, maps, rows, columns, generator=random)


def dense(affinity: Tensor, scores: Tensor) -> Tensor:
    """T = A^beta with columns that add up to one; v T^256 by eight squarings, in float32 as published."""
    rows, columns = scores.shape[2:]
    cells = rows * columns
    index = torch.arange(cells).view(rows, columns)
    matrix = torch.eye(cells)
    for k, (dy, dx) in enumerate(neighbours.offsets(RADIUS)):
        here = index[: rows - dy, max(-dx, 0) : columns - max(dx, 0)].flatten()
        there = index[dy:, max(dx, 0) : columns - max(-dx, 0)].flatten()
        value = affinity[0, k, : rows - dy, max(-dx, 0) : columns - max(dx, 0)].flatten() ** BETA
        matrix[here, there] = value
        matrix[there, here] = value
    matrix /= matrix.sum(0, keepdim=True)
    for _ in range(8):
        matrix = matrix @ matrix
    return (scores[0].flatten(1) @ matrix).view_as(scores)


def stencil(affinity: Tensor, scores: Tensor) -> Tensor:
    return walk(affinity, scores, radius=RADIUS, beta=BETA, steps=256)


def timed(side: str, options: argparse.Namespace) -> tuple[float, float, np.ndarray]:
    """(seconds, peak MB above the start, result), in this process. No tensor: its memory would end with it."""
    torch.set_num_threads(options.threads)
    affinity, scores = problem(options.rows, options.columns, options.maps)
    walk = {"dense": dense, "exact": dense, "stencil": stencil}[side]
    if side == "exact":  # the published form in double precision, to compare both with
        torch.set_default_dtype(torch.float64)
        affinity, scores = affinity.double(), scores.double()
    stencil(*problem(6, 8, 1))  # warm
    start = _peak()
    clock = time.perf_counter()
    result = walk(affinity, scores)
    return time.perf_counter() - clock, _peak() - start, result.numpy()


def _peak() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=63)
    parser.add_argument("--columns", type=int, default=94)
    parser.add_argument("--maps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    print(f"{options.rows} x {options.columns} cells, {options.maps} maps, 256 steps, radius {RADIUS}", flush=True)
    ratios = []
    for _ in range(options.rounds):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            fast, fast_memory, found = pool.apply(timed, ("stencil", options))
            slow, slow_memory, published = pool.apply(timed, ("dense", options))
            _, _, exact = pool.apply(timed, ("exact", options))
        ratios.append(slow / fast)
        print(
            f"dense {slow:8.2f} s {slow_memory:7.0f} MB   stencil {fast:6.3f} s {fast_memory:5.0f} MB   "
            f"{slow / fast:6.0f}x   largest difference from the exact power: dense "
            f"{float(np.abs(published - exact).max()):.1e}, stencil {float(np.abs(found - exact).max()):.1e}"
        )
    print(f"median ratio {statistics.median(ratios):.0f}x with {options.threads} threads")


if __name__ == "__main__":
    main()
