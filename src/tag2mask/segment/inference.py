"""Segmenter inference: multi-scale and mirrored, in windows for large images, with an optional refiner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.data.augment import fit_size, normalise, resized
from tag2mask.errors import InputError
from tag2mask.types import Refiner


@dataclass(frozen=True)
class InferenceSettings:
    """How a segmenter looks at a new photo."""

    longest: int = 384
    """Longer side of the photo at scale 1, in pixels; 0: as it is."""
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    flip: bool = True
    window: int = 768
    """A view longer than this is looked at in overlapping windows of this side."""
    refine: str = "crf/deeplab"
    """Refiner of the probabilities (`tag2mask list refiners`), or none."""
    precision: compute.Precision = "auto"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"inference.scales {self.scales} must be positive numbers, at least one")


def segment_image(
    segmenter: Any,
    image: np.ndarray,
    settings: InferenceSettings,
    mean: Sequence[float],
    std: Sequence[float],
    multiple: int = 1,
    refiner: Refiner | None = None,
) -> Tensor:
    """Probabilities ``[1+classes height width]`` float32 of one photo ``[height width 3]`` uint8.

    Softmax of each view is brought to the photo's size and averaged.
    """
    height, width = image.shape[:2]
    where = next(segmenter.parameters()).device
    longest = settings.longest or max(height, width)
    total: Tensor | None = None
    for scale in settings.scales:
        size = fit_size(height, width, longest, scale, multiple)
        view = normalise(resized(image, size), tuple(mean), tuple(std))[None]
        if settings.flip:
            view = torch.cat([view, view.flip(3)])
        probabilities = _windows(segmenter, view.to(where), settings, multiple)
        if settings.flip:
            probabilities = (probabilities[:1] + probabilities[1:].flip(3)) / 2
        grown = F.interpolate(probabilities, (height, width), mode="bilinear", align_corners=False)[0]
        total = grown if total is None else total + grown
    assert total is not None
    scores = (total / len(settings.scales)).cpu()
    if refiner is None:
        return scores
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    kept = _worth_refining(scores)
    refined = torch.zeros_like(scores)
    refined[kept] = refiner.refine(pixels, scores[kept][None] / scores[kept].sum(0, keepdim=True))[0]
    return refined


def _worth_refining(scores: Tensor, least: float = 0.1) -> Tensor:
    """Channels that win somewhere or come near: the others cannot change the outcome and cost time."""
    reaches = scores.amax((1, 2)) > least
    reaches[0] = True
    return reaches.nonzero()[:, 0]


def _windows(segmenter: Any, view: Tensor, settings: InferenceSettings, multiple: int) -> Tensor:
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


def _softmax(segmenter: Any, images: Tensor, precision: compute.Precision) -> Tensor:
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), compute.autocast(precision, images.device):
        return segmenter.segment(images).float().softmax(1)
