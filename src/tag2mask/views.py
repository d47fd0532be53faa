"""The views in which a photo is shown to a network at inference: its size in pixels, and whether mirrored."""

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
