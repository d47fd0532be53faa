"""Segmenter inference: multi-scale and mirrored, in windows for large images, with an optional refiner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from tag2mask.settings import POSITIVE, DecidesNothing, Range, check_values
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
    batch_size: Annotated[int | None, Range(at_least=1), DecidesNothing()] = None
    """Photos whose views are of one size in a forward pass. None: 8 on a CPU, 32 on an accelerator."""
    precision: compute.Precision = "auto"
    """Of the forward passes."""

    def __post_init__(self) -> None:
        check_values(self, "inference")
        if not self.scales:
            raise InputError("--inference.scales is empty: give at least one scale")


@dataclass(frozen=True)
class PhotoSegmenter:
    """Segments photos whose views are of one size, a batch at a time.

    Attributes:
        segmenter: a :class:`tag2mask.protocols.Segmenter` in eval mode, on its device.
        backbone: says how photos are normalised and what their sides are multiples of.
    """

    segmenter: nn.Module
    backbone: Backbone
    settings: InferenceSettings

    def views(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(height, width) of the views of a photo, one for each scale."""
        long_side = self.settings.long_side or max(height, width)
        return tuple(fit_size(height, width, long_side, s, self.backbone.multiple) for s in self.settings.scales)

    def read(self, image: np.ndarray) -> list[Tensor]:
        """The views of a photo ``[height width 3]`` uint8, each ``[3 height width]`` uint8."""
        return [resized(image, size) for size in self.views(image.shape[0], image.shape[1])]

    def __call__(self, sizes: Sequence[tuple[int, int]], inputs: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Probabilities ``[1+classes height width]`` float32 of each photo, on the segmenter's device, not refined.

        Softmax of each view is brought to the photo's size and averaged.

        Args:
            sizes: (height, width) of each photo; their views are of the same sizes.
            inputs: what :meth:`read` gave of each.
        """
        device = next(self.segmenter.parameters()).device
        totals: list[Tensor | None] = [None] * len(sizes)
        for of_scale in zip(*inputs, strict=True):
            view = torch.stack(of_scale).to(device, non_blocking=True)
            view = normalise(view, (self.backbone.mean, self.backbone.std))
            if self.settings.flip:
                view = torch.cat([view, view.flip(3)])
            probabilities = _windows(self.segmenter, view, self.settings, self.backbone.multiple)
            if self.settings.flip:
                plain, mirrored = probabilities.chunk(2)
                probabilities = (plain + mirrored.flip(3)) / 2
            for number, size in enumerate(sizes):
                one = probabilities[number : number + 1]
                grown = F.interpolate(one, size, mode="bilinear", align_corners=False)[0]
                total = totals[number]
                totals[number] = grown if total is None else total + grown
        return [total / len(self.settings.scales) for total in totals if total is not None]


def segment_photo(segmenter: nn.Module, backbone: Backbone, image: np.ndarray, settings: InferenceSettings) -> Tensor:
    """Probabilities ``[1+classes height width]`` float32 of one photo ``[height width 3]`` uint8, not refined.

    Args:
        segmenter, backbone: as of :class:`PhotoSegmenter`.
    """
    photos = PhotoSegmenter(segmenter, backbone, settings)
    return photos([(image.shape[0], image.shape[1])], [photos.read(image)])[0].cpu()


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
