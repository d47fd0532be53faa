r"""The random walk: scores spread over a photo along affinities between near cells (AffinityNet, Ahn and Kwak, CVPR
2018; IRN, Ahn, Cho and Kwak, CVPR 2019).

Idea. Cells of a grid are joined when they are nearer than a radius; :math:`a_{ij} \in [0, 1]` says how likely the two
belong together (symmetric, :math:`a_{ii} = 1`). A walker steps to a neighbour with probability

.. math::
    T_{ij} = \frac{a_{ij}^\beta}{\sum_k a_{kj}^\beta}, \qquad  v \leftarrow v\, T  \quad (t \text{ times}),

so every step replaces a cell's score by the weighted mean of its neighbours' (both papers, Sec. 3.3; rows of ``v`` are
the score maps). The published codes build the dense ``N x N`` matrix and square it eight times: N^3 work and N^2
memory. Here ``v`` is multiplied t times instead, each product a stencil: one multiply-add a neighbour, on maps padded
to the right so that a neighbour is a shift in memory. The result is the same, memory is linear in N, and all maps
of a photo move at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.refine.arrays import Array, as_given, dtype_of, shape_of, tensor_of
from tag2mask.refine.neighbours import colour_affinity, offsets


def walk(affinity: Tensor, scores: Tensor, *, radius: int, beta: float = 10.0, steps: int = 256) -> Tensor:
    """``steps`` steps of the random walk, all maps at once.

    Args:
        affinity: ``[batch offsets rows columns]`` in [0, 1], of each cell and its neighbour at each of
            :func:`offsets`; what points outside the grid must be 0, as :mod:`tag2mask.refine.neighbours` gives them.
        scores: ``[batch labels rows columns]``.
        radius: the one the affinities were made with.
        beta: exponent of the affinities: larger holds the walker back at weaker boundaries (IRN 10, AffinityNet 8).

    Returns:
        ``[batch labels rows columns]`` float32. Each step is a weighted mean, so the range is kept, equal scores stay,
        and scores that add up to one still do.
    """
    batch, _, rows, columns = scores.shape
    near = offsets(radius)
    if affinity.shape != (batch, len(near), rows, columns):
        raise InputError(
            f"random walk: affinities {list(affinity.shape)} do not fit scores {list(scores.shape)} at radius "
            f"{radius}: give [{batch} {len(near)} {rows} {columns}]"
        )
    if not near or steps == 0:
        return scores.float().clone()
    stride = columns + radius - 1  # a row and free cells to its right: nothing reaches around the edge
    weights = F.pad(affinity.float().clamp(0, 1) ** beta, (0, radius - 1)).flatten(2)
    v = F.pad(scores.float(), (0, radius - 1)).flatten(2)
    shifts = [y * stride + x for y, x in near]
    total = torch.ones(batch, 1, rows * stride, device=v.device)
    for i, shift in enumerate(shifts):
        if 0 < shift < rows * stride:
            w = weights[:, i : i + 1, : rows * stride - shift]
            total[..., :-shift] += w
            total[..., shift:] += w
    for _ in range(steps):
        # in differences, v_i + sum_j w_ij (v_j - v_i) / total_i: rounding does not add up over hundreds of steps
        gained = torch.zeros_like(v)
        for i, shift in enumerate(shifts):
            if 0 < shift < rows * stride:
                w = weights[:, i : i + 1, : rows * stride - shift]
                difference = v[..., shift:] - v[..., :-shift]
                gained[..., :-shift].addcmul_(w, difference)
                gained[..., shift:].addcmul_(w, difference, value=-1)
        v = v + gained / total
    return v.unflatten(2, (rows, stride))[..., :columns].contiguous()


def random_walk(
    image: Array, scores: Array, *, radius: int = 5, sigma: float = 0.08, beta: float = 10.0, steps: int = 256,
    stride: int = 4,
) -> Array:  # fmt: skip
    """The walk that needs no training: along the photo's colours.

    Args:
        image: ``[height width 3]`` uint8 RGB; numpy or torch.
        scores: ``[labels height width]`` of any float type: probabilities, or maps of classes.
        radius: in cells of ``stride`` pixels.
        sigma: see :func:`colour_affinity`.
        stride: pixels of a cell; the walk's result is brought back bilinearly.

    Returns:
        ``[labels height width]`` float32, numpy or torch as ``scores`` came.

    Raises:
        InputError: sizes that disagree, an image that is not uint8, scores that are not finite or negative.
    """
    pixels, values = tensor_of(image, "random walk", "image"), tensor_of(scores, "random walk", "scores")
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"random walk: image is {shape_of(pixels)} {dtype_of(pixels)}; give [height width 3] uint8")
    if values.ndim != 3 or values.shape[1:] != pixels.shape[:2] or not values.is_floating_point():
        raise InputError(
            f"random walk: image {shape_of(pixels)} and scores {shape_of(values)} {dtype_of(values)} disagree; "
            "give float scores [labels height width] of the image's size"
        )
    if not bool(torch.isfinite(values).all()) or (values.numel() and float(values.amin()) < 0):
        raise InputError("random walk: scores hold NaN, infinity or negative values; check the maps they came from")
    refined = colour_walk(
        pixels.permute(2, 0, 1)[None], values.float()[None], radius=radius, sigma=sigma, beta=beta, steps=steps,
        stride=stride,
    )[0]  # fmt: skip
    return as_given(scores, refined.to(values.device))


def colour_walk(
    images: Tensor, scores: Tensor, *, radius: int, sigma: float, beta: float, steps: int, stride: int
) -> Tensor:
    """:func:`random_walk` on ``[batch 3 height width]`` uint8 and ``[batch labels height width]``."""
    height, width = images.shape[2:]
    grid = grid_of((height, width), stride)
    small = F.interpolate(images.float() / 255, grid, mode="area")
    moved = walk(
        colour_affinity(small, radius, sigma), F.interpolate(scores.float(), grid, mode="area"),
        radius=radius, beta=beta, steps=steps,
    )  # fmt: skip
    return F.interpolate(moved, (height, width), mode="bilinear", align_corners=False)


def grid_of(size: Sequence[int], stride: int) -> tuple[int, int]:
    """(rows, columns) of cells of ``stride`` pixels that cover (height, width)."""
    return max(1, -(-size[0] // stride)), max(1, -(-size[1] // stride))
