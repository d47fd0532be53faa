"""Equivariant views: the same photos moved, mirrored and made smaller, with their maps moved alike (ViT-PCM)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mosaic(images: Tensor, maps: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Four photos a picture, each at half the size, transposed and mirrored at random; three in ten are a third of the
    photo, enlarged, in the place of the whole (ViT-PCM: 128 of 384 pixels, to 192).

    One transformation for each quarter serves all pictures; random numbers are torch's.

    Args:
        images: ``[batch 3 height width]``.
        maps: ``[batch labels rows columns]`` over the same photos.
        inside: ``[batch rows columns]`` bool.

    Returns:
        ``[pictures 3 height width]``, the maps moved alike ``[pictures labels rows columns]``, and the cells that
        hold nothing but photo ``[pictures rows columns]`` float32; a quarter as many pictures as photos.
    """
    batch, (height, width), (rows, columns) = len(images), images.shape[2:], maps.shape[2:]
    pictures = -(-batch // 4)
    whole = torch.zeros(pictures, 3, height, width, device=images.device, dtype=images.dtype)
    moved = torch.zeros(pictures, maps.shape[1], rows, columns, device=maps.device, dtype=maps.dtype)
    weight = torch.zeros(pictures, rows, columns, device=maps.device)
    halves = [[(0, -(-n // 2)), (-(-n // 2), n)] for n in (rows, columns)]  # in cells, so that none lies on a seam
    for quarter in range(4):
        (top, bottom), (left, right) = halves[0][quarter // 2], halves[1][quarter % 2]
        if top == bottom or left == right:  # a single row or column of cells
            continue
        y = slice(round(top * height / rows), round(bottom * height / rows))
        x = slice(round(left * width / columns), round(right * width / columns))
        members = (torch.arange(pictures, device=images.device) * 4 + quarter) % batch
        place = _placement().to(images)
        whole[:, :, y, x] = _sampled(images[members], place, (y.stop - y.start, x.stop - x.start))
        cells = (bottom - top, right - left)
        moved[:, :, top:bottom, left:right] = _sampled(maps[members], place, cells)
        covered = _sampled(inside[members][:, None].float(), place, cells)
        weight[:, top:bottom, left:right] = (covered[:, 0] > 0.999).float()
    return whole, moved, weight


def _placement() -> Tensor:
    """A random 2x3 matrix from the quarter's coordinates to the photo's, both from -1 to 1."""
    draw = torch.rand(6)
    side = 1 / 3 if draw[0] < 0.3 else 1.0
    shift = (draw[1:3] * 2 - 1) * (1 - side)
    sign = torch.where(draw[3:5] < 0.5, side, -side)
    axes = torch.diag(sign)
    if draw[5] < 0.5:
        axes = axes.flip(1)
    return torch.cat([axes, shift[:, None]], 1)


def _sampled(x: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch channels height width]`` through a placement, bilinear."""
    grid = F.affine_grid(place.to(x.dtype).expand(len(x), 2, 3), [len(x), x.shape[1], *size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
