"""PAR, pixel-adaptive refinement: spreads scores among pixels of like colour (AFA, Ru et al., CVPR 2022; also ToCo).

Each pixel p has 48 neighbours q: 8 directions at 6 dilations, the image's border replicated. With colours I, the
standard deviation s_c(p) of channel c over the 48, and distances d_q with their own standard deviation s,

    a_q = -mean_c [ (I_qc - I_pc) / (s_c + 1e-8) / width ]^2        b_q = -[ d_q / (s + 1e-8) / width ]^2
    weights = softmax_q(a) + position_weight * softmax_q(b)         scores_p <- sum_q weights_q(p) * scores_q

and the last step is repeated. This is the arithmetic of AFA's code, which gathers the 48 neighbours of everything. Here
only the weights are held, ``[48 height width]``: neighbours are shifted slices of a padded image, added up in place,
some rows at a time so that they stay in the processor's cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.refine.arrays import Array, as_given, dtype_of, highest_scores, shape_of, tensor_of
from tag2mask.refine.par_spread import ParSettings, Spread, affinities


def par(image: Array, scores: Array, settings: ParSettings | None = None) -> Array:
    """Spread class scores among pixels of like colour.

    The arithmetic is PAR's own, linear in the scores: each iteration multiplies a pixel's sum over the labels by
    ``1 + position_weight`` (ten of them by 1.1046), which leaves the argmax as it is; :class:`Par` divides by the sum.
    Only labels that are present take part: one whose channel is zero everywhere comes back zero, as it would anyway.
    A single present label is only smoothed.

    Scores of another size than the image's, for instance a network's maps, are brought to it first (bilinear, corners
    on corners, as published). Heights and widths must then be in proportion, up to one cell of the coarser grid.

    Args:
        image: ``[height width 3]`` RGB, uint8 or of a float type, or ``[batch height width 3]``; numpy or torch.
            Neither scale nor offset of a channel matter, as long as grey levels are well above 1e-8 apart.
        scores: ``[labels rows columns]`` of any float type, at least 0, or ``[batch labels rows columns]``. The
            training codes give a softmax over the present labels.
        settings: :class:`ParSettings`; None: the published ones.

    Returns:
        ``[labels height width]`` float32 (or ``[batch ...]``), numpy or torch as ``scores`` came, on its device. No
        gradient: see :func:`pixel_adaptive`.

    Raises:
        InputError: shapes that do not fit, types other than the above, values that are not finite, negative scores,
            scores that are zero for all labels.
    """
    settings = ParSettings() if settings is None else settings
    images, values = _image(image), tensor_of(scores, "PAR", "scores")
    if not values.is_floating_point():
        raise InputError(f"PAR: scores are {dtype_of(values)}; give scores of a float type")
    if values.ndim not in (3, 4):
        raise InputError(f"PAR: scores have shape {shape_of(values)}; give [labels height width]")
    batched = values.ndim == 4
    values = values if batched else values[None]
    images = images if images.ndim == 4 else images[None]
    if values.numel() == 0 or images.numel() == 0:
        raise InputError(f"PAR: image {shape_of(image)} and scores {shape_of(scores)}: there is nothing to refine")
    height, width = images.shape[1:3]
    if len(images) != len(values) or not _in_proportion((height, width), (values.shape[2], values.shape[3])):
        raise InputError(
            f"PAR: image {shape_of(image)} and scores {shape_of(scores)} disagree; "
            "give [labels height width] of the same picture, at any resolution"
        )
    present = highest_scores(values, "PAR", "scores of at least 0") > 0
    out = torch.zeros(*values.shape[:2], height, width, device=values.device)
    with torch.no_grad():
        for b, labels in enumerate(row.nonzero()[:, 0] for row in present):  # one at a time: the weights are large
            pixels = images[b].to(values.device).permute(2, 0, 1)
            out[b, labels] = pixel_adaptive(pixels[None], values[b, labels].float()[None], settings)[0]
    return as_given(scores, out if batched else out[0])


@dataclass(frozen=True)
class Par:
    """:func:`par` as a :class:`tag2mask.protocols.Refiner`: it only remembers the settings."""

    settings: ParSettings = ParSettings()

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities.

        They add up to one over the labels; where scores were zero as far as PAR reaches, they stay zero.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"PAR: images have shape {shape_of(images)}; give [batch 3 height width]")
        refined = par(images.permute(0, 2, 3, 1), scores, self.settings)
        return refined.div_(refined.sum(1, keepdim=True).clamp_(min=torch.finfo(refined.dtype).tiny))


def pixel_adaptive(images: Tensor, scores: Tensor, settings: ParSettings | None = None) -> Tensor:
    """PAR on tensors, for training steps: on the device of the scores, under autocast too, and differentiable in them.

    No value is read, so that a GPU need not be waited for; all labels take part. What backpropagation keeps are
    the weights, once; no gradient goes to the images.

    Args:
        images: ``[batch 3 height width]``, uint8 or of a float type; may be normalised as for a network.
        scores: ``[batch labels rows columns]`` of any float type; as for :func:`par`, brought to the image's size.
        settings: :class:`ParSettings`; None: the published ones.

    Returns:
        ``[batch labels height width]``, float64 if the scores are, otherwise float32.

    Raises:
        InputError: shapes other than these.
    """
    settings = ParSettings() if settings is None else settings
    if images.ndim != 4 or scores.ndim != 4 or len(images) != len(scores):
        raise InputError(
            f"PAR: images {shape_of(images)} and scores {shape_of(scores)} do not fit; "
            "give [batch 3 height width] and [batch labels height width]"
        )
    height, width = images.shape[2:]
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    images, scores = images.detach().to(scores.device, dtype), scores.to(dtype)
    if scores.shape[2:] != (height, width):
        scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=True)
    if settings.downscale > 1:
        small = (max(1, height // settings.downscale), max(1, width // settings.downscale))
        images = F.interpolate(images, small, mode="bilinear", align_corners=False)
        scores = F.interpolate(scores, small, mode="bilinear", align_corners=False)
    if settings.iterations:
        scores = cast(Tensor, Spread.apply(scores, affinities(images, settings), settings, False))
    if settings.downscale > 1:
        scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
    return scores


def _in_proportion(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether grids (height, width) can show the same picture, each side right to one cell of the coarser grid."""

    def ratios_meet(coarse: tuple[int, int], fine: tuple[int, int]) -> bool:
        lowest = max((c - 1) / f for c, f in zip(coarse, fine, strict=True))
        highest = min((c + 1) / f for c, f in zip(coarse, fine, strict=True))
        return lowest <= highest

    coarse, fine = sorted((size, other), key=math.prod)
    return size == other or ratios_meet(coarse, fine)


def _image(image: object) -> Tensor:
    tensor = tensor_of(image, "PAR", "image")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InputError(f"PAR: the image is {dtype_of(tensor)}; give RGB as uint8 or of a float type")
    if tensor.ndim not in (3, 4) or tensor.shape[-1] != 3:
        raise InputError(f"PAR: the image has shape {shape_of(tensor)}; give RGB as [height width 3]")
    # Beyond 1e9 squares of differences over 1e-8 leave the range of float32.
    if tensor.is_floating_point() and tensor.numel() and not bool((tensor.abs() <= 1e9).all()):
        raise InputError("PAR: the image holds NaN, infinity or values beyond 1e9; check how it was read")
    return tensor
