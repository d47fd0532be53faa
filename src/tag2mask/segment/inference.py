"""Segmenter inference: multi-scale and mirrored, in windows for large images, with an optional refiner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute, pseudo
from tag2mask.backbones import Backbone
from tag2mask.data.augment import check_sides, fit_size, resized
from tag2mask.errors import InputError
from tag2mask.layers.folded import fold, probe
from tag2mask.protocols import Refiner, Segmenter
from tag2mask.segment.balance import decided_logits
from tag2mask.segment.pyramid import saw_empty
from tag2mask.settings import SHARE, DecidesNothing, Range, check_values
from tag2mask.types import Photos, normalise
from tag2mask.views import padded_size, padding, stack_padded, without_padding


@dataclass(frozen=True)
class InferenceSettings:
    """How a segmenter segments a new photo."""

    long_side: Annotated[int, Range(at_least=0, at_most=65_535)] = 384
    """Longer side of the photo at scale 1, in pixels; 0: as it is."""
    scales: Annotated[tuple[float, ...], Range(above=0, at_most=100)] = (0.75, 1.0, 1.25)
    """Sizes of the views, as multiples of that."""
    flip: bool = True
    """Each scale also mirrored."""
    window: Annotated[int, Range(at_least=32)] = 768
    """A view longer than this is segmented in overlapping windows of this side."""
    refine: str = "crf/deeplab"
    """Refiner of the probabilities (`tag2mask list refiners`), or none."""
    empty_below: Annotated[float, SHARE] = 0.5
    """A photo without tags in which the segmenter finds no class more likely than this shows none of them. Only where
    a tenth of the training photos or more showed none; fewer false alarms with a larger value. 0: never."""
    prior_correction: Annotated[float, SHARE] = 0.5
    """How far it is undone that rare labels weighed more in the segmenter's loss (`--segmenter.balance`): 0: not at
    all, objects come out large; 1: wholly. Of masks that a segmenter is trained on again `--relabel.prior-correction`
    and `--relabel.doubted-correction` say it."""
    min_growth: Annotated[float, SHARE] = 0.0
    """A refined mask whose objects cover less than so many times the area of the unrefined mask's is not believed, as
    `--pseudo.min-growth` says of training photos: they were too small or thin to survive. 0: always believed."""
    batch_size: Annotated[int | None, Range(at_least=1), DecidesNothing()] = None
    """Photos whose views are of one size in a forward pass. None: 8 on a CPU, 32 on an accelerator."""
    precision: compute.Precision = "auto"
    """Of the forward passes."""

    def __post_init__(self) -> None:
        check_values(self, "inference")
        if not self.scales:
            raise InputError("--inference.scales is empty: give at least one scale")
        check_sides(self.long_side, self.scales, "--inference.long-side times --inference.scales")


class Segmented(NamedTuple):
    """What a segmenter says of a photo."""

    probabilities: Tensor
    """``[1+classes height width]`` float32, background first, at the photo's size."""
    presence: Tensor | None
    """Probability ``[classes]`` float32 that the photo shows each class; None: the segmenter does not predict it."""


def folded(segmenter: nn.Module, backbone: Backbone) -> nn.Module:
    """The same segmenter, in eval mode, made faster for :class:`PhotoSegmenter`: it cannot be trained or saved any more
    (:mod:`tag2mask.layers.folded`)."""
    assert isinstance(segmenter, Segmenter)
    image = Photos(probe(backbone))
    fold(segmenter, lambda: segmenter.segment(image))
    return segmenter


@dataclass(frozen=True)
class PhotoSegmenter:
    """Segments photos, a batch at a time.

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
        return tuple(fit_size(height, width, long_side, s, self.backbone.size_divisor) for s in self.settings.scales)

    @property
    def device(self) -> torch.device:
        return next(self.segmenter.parameters()).device

    @property
    def unit(self) -> int:
        """Padded views have sides that are multiples of it (:func:`tag2mask.views.padding`)."""
        return padding(self.device, self.backbone)

    def group(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Photos of which this is the same go through the network together; ``size`` is (height, width)."""
        return tuple(padded_size(*view, self.unit) for view in self.views(*size))

    def read(self, image: np.ndarray) -> list[Tensor]:
        """The views of a photo ``[height width 3]`` uint8, each ``[3 height width]`` uint8."""
        return [resized(image, size) for size in self.views(image.shape[0], image.shape[1])]

    def is_empty(self, photo: Segmented) -> bool:
        """Whether a photo of which nobody said what it shows shows none of the classes."""
        saw = saw_empty(self.segmenter)
        if photo.presence is None or saw is None or not bool(saw):
            return False
        return bool(photo.presence.amax() < self.settings.empty_below)

    def __call__(self, sizes: Sequence[tuple[int, int]], inputs: Sequence[Sequence[Tensor]]) -> list[Segmented]:
        """Photos of one :meth:`group`, on the segmenter's device, not refined. Softmax of each view is brought to the
        photo's size and averaged.

        Args:
            sizes: (height, width) of each photo.
            inputs: what :meth:`read` gave of each.
        """
        advice = "give a smaller --inference.window, --inference.long-side or smaller --inference.scales"
        return compute.by_halves(self._segment, list(zip(sizes, inputs, strict=True)), advice)

    def _segment(self, photos: Sequence[tuple[tuple[int, int], Sequence[Tensor]]]) -> list[Segmented]:
        totals: list[Tensor | None] = [None] * len(photos)
        presence: list[Tensor] = []  # [photos classes] of each scale
        for of_scale in zip(*(inputs for _, inputs in photos), strict=True):
            stacked = stack_padded(of_scale, self.unit, pin=self.device.type == "cuda")
            view, valid = (x.to(self.device, non_blocking=True) for x in stacked)
            view = normalise(view, (self.backbone.mean, self.backbone.std)).mul_(valid[:, None])
            if self.settings.flip:
                view, valid = torch.cat([view, view.flip(3)]), torch.cat([valid, valid.flip(2)])
            shown = Photos(view, valid=valid if self.unit > 1 else None)
            probabilities, of_view = _windows(self.segmenter, shown, self.settings, self.backbone.size_divisor)
            if self.settings.flip:
                plain, mirrored = probabilities.chunk(2)
                probabilities = (plain + mirrored.flip(3)) / 2
            if of_view is not None:
                presence.append(of_view.unflatten(0, (-1, len(photos))).mean(0))
            for number, ((size, _), image) in enumerate(zip(photos, of_scale, strict=True)):
                one = without_padding(probabilities[number : number + 1], (image.shape[1], image.shape[2]), self.unit)
                grown = F.interpolate(one, size, mode="bilinear", align_corners=False)[0]
                total = totals[number]
                totals[number] = grown if total is None else total + grown
        of_photos = torch.stack(presence).mean(0) if presence else [None] * len(photos)
        return [
            Segmented(total / len(self.settings.scales), of_photo)
            for total, of_photo in zip(totals, of_photos, strict=True)
            if total is not None
        ]


def segment_photo(segmenter: nn.Module, backbone: Backbone, image: np.ndarray, settings: InferenceSettings) -> Tensor:
    """Probabilities ``[1+classes height width]`` float32 of one photo ``[height width 3]`` uint8, not refined.

    Args:
        segmenter, backbone: as of :class:`PhotoSegmenter`.
    """
    photos = PhotoSegmenter(segmenter, backbone, settings)
    return photos([(image.shape[0], image.shape[1])], [photos.read(image)])[0].probabilities.cpu()


def refined(image: np.ndarray, probabilities: Tensor, refiner: Refiner, min_growth: float = 0.0) -> Tensor:
    """Probabilities ``[labels height width]`` of a photo ``[height width 3]`` uint8, refined; labels that win nowhere
    and come near nowhere are left out and come back zero. Where the refiner is not believed
    (:class:`InferenceSettings`), they are as they were."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    kept = _worth_refining(probabilities)
    out = torch.zeros_like(probabilities)
    out[kept] = refiner.refine(pixels, probabilities[kept][None] / probabilities[kept].sum(0, keepdim=True))[0]
    if min_growth and pseudo.lost_objects(pseudo.index_mask(probabilities), pseudo.index_mask(out), min_growth):
        return probabilities
    return out


def _worth_refining(scores: Tensor, minimum: float = 0.1) -> Tensor:
    """Channels that win somewhere or come near: the others cannot change the outcome and cost time."""
    reaches = scores.amax((1, 2)) > minimum
    reaches[0] = True
    return reaches.nonzero()[:, 0]


def _windows(
    segmenter: nn.Module, view: Photos, settings: InferenceSettings, size_divisor: int
) -> tuple[Tensor, Tensor | None]:
    """Softmax ``[batch labels rows columns]`` of a view, whole or averaged over overlapping windows; and presence
    ``[batch classes]``, of which the window that is surest counts."""
    height, width = view.images.shape[2:]
    side = max(settings.window // size_divisor, 1) * size_divisor
    if max(height, width) <= side:
        return _softmax(segmenter, view, settings)
    total: Tensor | None = None
    presence: list[Tensor] = []
    count = torch.zeros(1, 1, height, width, device=view.images.device)
    for top, left in window_corners(height, width, side):
        inside = (..., slice(top, top + side), slice(left, left + side))
        part = Photos(view.images[inside], valid=None if view.valid is None else view.valid[inside])
        size = part.images.shape[2:]
        probabilities, of_part = _softmax(segmenter, part, settings)
        presence += [] if of_part is None else [of_part]
        probabilities = F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
        if total is None:
            total = torch.zeros(*probabilities.shape[:2], height, width, device=count.device)
        total[inside] += probabilities
        count[inside] += 1
    assert total is not None
    return total / count, torch.stack(presence).amax(0) if presence else None


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


def _softmax(segmenter: nn.Module, view: Photos, settings: InferenceSettings) -> tuple[Tensor, Tensor | None]:
    images = view.images.contiguous(memory_format=torch.channels_last)
    photos = Photos(images, valid=view.valid)
    with torch.inference_mode(), compute.autocast(settings.precision, images.device):
        logits, shown = decided_logits(segmenter, photos, view.valid, settings.prior_correction)
        return logits.float().softmax(1), None if shown is None else shown.float().sigmoid()
