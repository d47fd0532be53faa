"""Segmenter inference: multi-scale and mirrored, in windows for large images, with an optional refiner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.augment import fit_size, resized
from tag2mask.errors import InputError
from tag2mask.protocols import Refiner, Segmenter
from tag2mask.settings import POSITIVE, Range, check_values
from tag2mask.types import Photos, normalise


@dataclass(frozen=True)
class InferenceSettings:
    """How a segmenter segments a new photo."""

    long_side: Annotated[int, Range(at_least=0, at_most=65_535)] = 384
    """Longer side of the photo at scale 1, in pixels; 0: as it is."""
    scales: Annotated[tuple[float, ...], POSITIVE] = (0.75, 1.0, 1.25)
    """Sizes of the views, as multiples of that."""
    flip: bool = True
    """Each scale also mirrored."""
    window: Annotated[int, Range(at_least=32)] = 768
    """A view longer than this is segmented in overlapping windows of this side."""
    refine: str = "crf/deeplab"
    """Refiner of the probabilities (`tag2mask list refiners`), or none."""
    precision: compute.Precision = "auto"
    """Of the forward passes."""

    def __post_init__(self) -> None:
        check_values(self, "inference")
        if not self.scales:
            raise InputError("--inference.scales is empty: give at least one scale")


def segment_photo(segmenter: nn.Module, backbone: Backbone, image: np.ndarray, settings: InferenceSettings) -> Tensor:
    """Probabilities ``[1+classes height width]`` float32 of one photo ``[height width 3]`` uint8, not refined.

    Softmax of each view is brought to the photo's size and averaged.

    Args:
        segmenter: a :class:`tag2mask.protocols.Segmenter` in eval mode, on its device.
        backbone: says how photos are normalised and what their sides are multiples of.
    """
    height, width = image.shape[:2]
    device = next(segmenter.parameters()).device
    long_side = settings.long_side or max(height, width)
    total: Tensor | None = None
    for scale in settings.scales:
        size = fit_size(height, width, long_side, scale, backbone.multiple)
        view = normalise(resized(image, size), (backbone.mean, backbone.std))[None]
        if settings.flip:
            view = torch.cat([view, view.flip(3)])
        probabilities = _windows(segmenter, view.to(device), settings, backbone.multiple)
        if settings.flip:
            probabilities = (probabilities[:1] + probabilities[1:].flip(3)) / 2
        grown = F.interpolate(probabilities, (height, width), mode="bilinear", align_corners=False)[0]
        total = grown if total is None else total + grown
    assert total is not None
    return (total / len(settings.scales)).cpu()


def refined(image: np.ndarray, probabilities: Tensor, refiner: Refiner) -> Tensor:
    """Probabilities ``[labels height width]`` of a photo ``[height width 3]`` uint8, refined; labels that win nowhere
    and come near nowhere are left out and come back zero."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    kept = _worth_refining(probabilities)
    out = torch.zeros_like(probabilities)
    out[kept] = refiner.refine(pixels, probabilities[kept][None] / probabilities[kept].sum(0, keepdim=True))[0]
    return out


def _worth_refining(scores: Tensor, minimum: float = 0.1) -> Tensor:
    """Channels that win somewhere or come near: the others cannot change the outcome and cost time."""
    reaches = scores.amax((1, 2)) > minimum
    reaches[0] = True
    return reaches.nonzero()[:, 0]


def _windows(segmenter: nn.Module, view: Tensor, settings: InferenceSettings, multiple: int) -> Tensor:
    """Softmax ``[batch labels rows columns]`` of a view, whole or averaged over overlapping windows."""
    height, width = view.shape[2:]
    side = max(settings.window // multiple, 1) * multiple
    if max(height, width) <= side:
        return _softmax(segmenter, view, settings.precision)
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width, device=view.device)
    for top, left in window_corners(height, width, side):
        part = view[..., top : top + side, left : left + side]
        size = part.shape[2:]
        probabilities = _softmax(segmenter, part, settings.precision)
        probabilities = F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
        if total is None:
            total = torch.zeros(*probabilities.shape[:2], height, width, device=view.device)
        total[..., top : top + size[0], left : left + size[1]] += probabilities
        count[..., top : top + size[0], left : left + size[1]] += 1
    assert total is not None
    return total / count


def window_corners(height: int, width: int, side: int) -> Iterator[tuple[int, int]]:
    """(top, left) of windows of ``side`` that cover the view, overlapping by at least a third of a side."""

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = -(-(length - side) // (side * 2 // 3)) + 1
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    for top in starts(height):
        for left in starts(width):
            yield top, left


def _softmax(segmenter: nn.Module, images: Tensor, precision: compute.Precision) -> Tensor:
    assert isinstance(segmenter, Segmenter)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), compute.autocast(precision, images.device):
        return segmenter.segment(Photos(images)).float().softmax(1)
