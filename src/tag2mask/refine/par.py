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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.refine.arrays import Array, as_given, dtype_of, highest_scores, shape_of, tensor_of

EPSILON = 1e-8  # of the published code, beside each standard deviation
BLOCK = 2**19  # values worked on at a time on a CPU: 2 MB stay in the second-level cache of most


@dataclass(frozen=True)
class ParSettings:
    """What PAR does. The defaults are AFA's and ToCo's, at the full resolution of the image."""

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)  # pixels; near ones follow edges, far ones reach across an object
    iterations: int = 10  # how often scores spread: 10 times 24 pixels at most
    width: float = 0.3  # standard deviations; colours farther apart than this hardly exchange. Small: clings to edges
    position_weight: float = 0.01  # share of the distance term, whatever the colours: fills holes and specks
    downscale: int = 1  # the training codes refine at half the resolution (2): a quarter of the time, twice the reach

    def __post_init__(self) -> None:
        if not isinstance(self.dilations, tuple) or not self.dilations:
            raise InputError(
                f"PAR: dilations are {self.dilations!r}; give a tuple of pixel distances such as (1, 2, 4)"
            )
        for dilation in self.dilations:
            if not (isinstance(dilation, int) and dilation >= 1):
                raise InputError(f"PAR: a dilation is {dilation!r}; give whole numbers of at least 1")
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise InputError(f"PAR: iterations is {self.iterations}; give a whole number of at least 0")
        if not (math.isfinite(self.width) and self.width > 0):
            raise InputError(f"PAR: width is {self.width}; give a width above 0")
        if not (math.isfinite(self.position_weight) and self.position_weight >= 0):
            raise InputError(f"PAR: position_weight is {self.position_weight}; give a weight of at least 0")
        if not (isinstance(self.downscale, int) and self.downscale >= 1):
            raise InputError(f"PAR: downscale is {self.downscale}; give a whole number of at least 1")

    @property
    def radius(self) -> int:
        """How far the farthest neighbour is, in pixels."""
        return max(self.dilations)

    def offsets(self) -> list[tuple[int, int]]:
        """(down, right) of each neighbour, in the order of the published code."""
        steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
        return [(d * y, d * x) for d in self.dilations for y, x in steps]


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
    """:func:`par` as a :class:`tag2mask.types.Refiner`: it only remembers the settings."""

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

    No value is looked at, so that a GPU need not be waited for; all labels take part. What backpropagation keeps are
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
        scores = cast(Tensor, _Spread.apply(scores, affinities(images, settings), settings, False))
    if settings.downscale > 1:
        scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
    return scores


@torch.no_grad()
def affinities(images: Tensor, settings: ParSettings) -> Tensor:
    """How much each pixel takes from each of its neighbours.

    Args:
        images: ``[batch channels height width]`` float32 or float64.
        settings: the neighbours, in the order of :meth:`ParSettings.offsets`.

    Returns:
        ``[batch neighbours height width]``; they add up to ``1 + position_weight`` in each pixel.
    """
    offsets, radius = settings.offsets(), settings.radius
    batch, channels, height, width = images.shape
    distances = torch.tensor([math.hypot(y, x) for y, x in offsets], dtype=torch.float64)
    near = torch.softmax(-((distances / (distances.std() + EPSILON) / settings.width) ** 2), 0)
    near = (settings.position_weight * near).to(images)[None, :, None, None]
    padded = F.pad(images, [radius] * 4, mode="replicate")
    weights = images.new_empty(batch, len(offsets), height, width)
    for rows in _blocks(height, batch * width * len(offsets), images.device):
        here = images[:, :, rows]
        shifted = [padded[:, :, radius + rows.start + y :, radius + x :] for y, x in offsets]
        shifted = [each[:, :, : here.shape[2], :width] for each in shifted]
        mean, scale, difference = torch.zeros_like(here), torch.zeros_like(here), torch.empty_like(here)
        for each in shifted:
            mean += each
        mean /= len(offsets)
        for each in shifted:
            torch.sub(each, mean, out=difference)
            scale.addcmul_(difference, difference)
        scale = (scale / (len(offsets) - 1)).sqrt_().add_(EPSILON).mul_(settings.width).reciprocal_()
        block = weights[:, :, rows]
        for q, each in enumerate(shifted):
            torch.sub(each, here, out=difference)
            difference.mul_(scale).square_()
            torch.sum(difference, 1, out=block[:, q])
        block.div_(-channels)
        # Softmax in place. Written out, since `sum` loses fewer digits than torch's softmax over this dimension does.
        block.sub_(block.amax(1, keepdim=True)).exp_()
        block.div_(block.sum(1, keepdim=True)).add_(near)
    return weights


class _Spread(torch.autograd.Function):
    """The iterations. They are linear in the scores, so that backpropagation is the same with the transposed step."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weights: Tensor, settings: ParSettings, transposed: bool) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.settings, ctx.transposed = settings, transposed
        step = _scatter if transposed else _gather
        for _ in range(settings.iterations):
            scores = step(scores, weights, settings)
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weights,) = ctx.saved_tensors
        back = _Spread.apply(gradients[0], weights, ctx.settings, not ctx.transposed)
        return cast(Tensor, back), None, None, None


def _gather(scores: Tensor, weights: Tensor, settings: ParSettings) -> Tensor:
    """One iteration: each pixel adds up its neighbours' scores."""
    radius = settings.radius
    batch, labels, height, width = scores.shape
    padded = F.pad(scores, [radius] * 4, mode="replicate")
    out = torch.zeros_like(scores, memory_format=torch.contiguous_format)
    for rows in _blocks(height, batch * labels * width, scores.device):
        block = out[:, :, rows]
        for q, (y, x) in enumerate(settings.offsets()):
            there = padded[:, :, radius + rows.start + y :, radius + x :]
            block.addcmul_(weights[:, q, None, rows], there[:, :, : block.shape[2], :width])
    return out


def _scatter(scores: Tensor, weights: Tensor, settings: ParSettings) -> Tensor:
    """The transpose of :func:`_gather`: each pixel adds its score to its neighbours."""
    radius = settings.radius
    batch, labels, height, width = scores.shape
    padded = scores.new_zeros(batch, labels, height + 2 * radius, width + 2 * radius)
    for rows in _blocks(height, batch * labels * width, scores.device):
        block = scores[:, :, rows]
        for q, (y, x) in enumerate(settings.offsets()):
            there = padded[:, :, radius + rows.start + y :, radius + x :]
            there[:, :, : block.shape[2], :width].addcmul_(weights[:, q, None, rows], block)
    # What fell on the replicated border belongs to the pixel it was a replica of.
    padded[:, :, radius] += padded[:, :, :radius].sum(2)
    padded[:, :, radius + height - 1] += padded[:, :, radius + height :].sum(2)
    inner = padded[:, :, radius : radius + height]
    inner[..., radius] += inner[..., :radius].sum(3)
    inner[..., radius + width - 1] += inner[..., radius + width :].sum(3)
    return inner[..., radius : radius + width].contiguous()


def _blocks(height: int, row: int, device: torch.device) -> Iterator[slice]:
    """Rows to work on at a time, with ``row`` values in each: few on a CPU, for its cache; many on a GPU, where each
    call costs."""
    size = max(1, (BLOCK if device.type == "cpu" else 32 * BLOCK) // row)
    return (slice(start, start + size) for start in range(0, height, size))


def _in_proportion(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether grids (height, width) can show the same picture, each side right to one cell of the coarser grid."""

    def ratios_meet(coarse: tuple[int, int], fine: tuple[int, int]) -> bool:
        least = max((c - 1) / f for c, f in zip(coarse, fine, strict=True))
        most = min((c + 1) / f for c, f in zip(coarse, fine, strict=True))
        return least <= most

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
