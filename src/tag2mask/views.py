"""The views in which a photo is shown to a network at inference: its size in pixels, and whether mirrored.

On an accelerator, views are padded so that photos of nearly one shape go through the network together: it works best
on many photos at once, and prepares its kernels anew for every shape that it meets. The padding has the mean colour, as
in training, and what a network makes of it is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tag2mask.backbones import Backbone
from tag2mask.data.augment import fit_size, resized
from tag2mask.types import normalise


@dataclass(frozen=True)
class View:
    """One view of a photo."""

    height: int  # pixels
    width: int
    flip: bool  # mirrored left to right


def views(height: int, width: int, long_side: int, scales: Sequence[float], flip: bool, divisor: int = 1) -> list[View]:
    """The views of a photo of this size, scale by scale, plain before mirrored.

    Args:
        long_side: pixels of the photo's longer side at scale 1.
        flip: whether there is a mirrored view of every scale.
        divisor: sides are multiples of it.
    """
    sizes = [fit_size(height, width, long_side, scale, divisor) for scale in scales]
    return [View(h, w, mirrored) for h, w in sizes for mirrored in ((False, True) if flip else (False,))]


def view_batch(pixels: Sequence[np.ndarray], view: View, backbone: Backbone) -> Tensor:
    """Photos of one size ``[height width 3]`` uint8 in one view: normalised ``[batch 3 height width]``."""
    images = torch.stack([resized(image, (view.height, view.width)) for image in pixels])
    images = normalise(images.flip(3) if view.flip else images, (backbone.mean, backbone.std))
    return images.contiguous(memory_format=torch.channels_last)


PADDED = 64
"""On an accelerator, padded sides are multiples of so many pixels."""


def padding(device: torch.device, backbone: Backbone) -> int:
    """What the sides of padded views are multiples of; 1: views are not padded. A CPU gains nothing, and a transformer
    would stretch its positions over the padding."""
    return PADDED if device.type != "cpu" and backbone.size_divisor == 1 else 1


def padded_size(height: int, width: int, unit: int) -> tuple[int, int]:
    """(height, width) with the padding."""
    return -(-height // unit) * unit, -(-width // unit) * unit


def stack_padded(images: Sequence[Tensor], unit: int, *, pin: bool = False) -> tuple[Tensor, Tensor]:
    """Images of one padded size in a batch, each at the top left.

    Args:
        images: ``[channels height width]`` of any kind; padding is zero.
        unit: of :func:`padding`.
        pin: in pinned memory, from which a device copies while the CPU goes on.

    Returns:
        The batch, channels last in memory, and which of its pixels are not padding, ``[batch height width]`` bool.
    """
    height, width = padded_size(images[0].shape[1], images[0].shape[2], unit)
    shape = (len(images), images[0].shape[0], height, width)
    batch = torch.empty(shape, dtype=images[0].dtype, memory_format=torch.channels_last, pin_memory=pin).zero_()
    valid = torch.zeros(len(images), height, width, dtype=torch.bool, pin_memory=pin)
    for row, image in enumerate(images):
        batch[row, :, : image.shape[1], : image.shape[2]] = image
        valid[row, : image.shape[1], : image.shape[2]] = True
    return batch, valid


def without_padding(maps: Tensor, size: tuple[int, int], unit: int) -> Tensor:
    """The part of ``[... rows columns]`` that belongs to a photo whose view has this (height, width)."""
    outer = padded_size(*size, unit)
    rows, columns = (
        -(-cells * inner // whole) for cells, inner, whole in zip(maps.shape[-2:], size, outer, strict=True)
    )
    return maps[..., :rows, :columns]
