"""Adaptive average pooling in a form that ONNX holds for any size: the exporter fixes the cells at the size it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F


@contextmanager
def exportable_pooling() -> Iterator[None]:
    """Meanwhile ``F.adaptive_avg_pool2d``, which layers and ``F.interpolate(mode="area")`` call, is :func:`pooled`."""
    own = F.adaptive_avg_pool2d

    def chosen(images: Tensor, size: int | tuple[int, int]) -> Tensor:
        rows, columns = (size, size) if isinstance(size, int) else size
        return own(images, size) if rows == columns == 1 else pooled(images, rows, columns)  # 1: a mean, as it is

    F.adaptive_avg_pool2d = chosen  # type: ignore[assignment]
    try:
        yield
    finally:
        F.adaptive_avg_pool2d = own


def pooled(images: Tensor, rows: int, columns: int) -> Tensor:
    """``[batch channels height width]`` to ``[batch channels rows columns]``, as torch's adaptive average pooling."""
    return _means(images.shape[2], rows, images) @ images @ _means(images.shape[3], columns, images).T


def _means(length: int, cells: int, like: Tensor) -> Tensor:
    """``[cells length]``: of each cell the mean over the pixels that it overlaps."""
    pixel, cell = torch.arange(length, device=like.device), torch.arange(cells, device=like.device)[:, None]
    inside = ((pixel + 1) * cells > cell * length) & (pixel * cells < (cell + 1) * length)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)
