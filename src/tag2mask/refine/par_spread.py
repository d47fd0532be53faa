"""PAR's arithmetic on tensors: the weights of a pixel's neighbours, and the iterations that spread scores by them.

Only the weights are held, ``[48 height width]``: neighbours are shifted slices of a padded image, added up in place,
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

EPSILON = 1e-8  # of the published code, added to each standard deviation
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
        shifted = [part[:, :, : here.shape[2], :width] for part in shifted]
        mean, scale, difference = torch.zeros_like(here), torch.zeros_like(here), torch.empty_like(here)
        for neighbour in shifted:
            mean += neighbour
        mean /= len(offsets)
        for neighbour in shifted:
            torch.sub(neighbour, mean, out=difference)
            scale.addcmul_(difference, difference)
        scale = (scale / (len(offsets) - 1)).sqrt_().add_(EPSILON).mul_(settings.width).reciprocal_()
        block = weights[:, :, rows]
        for q, neighbour in enumerate(shifted):
            torch.sub(neighbour, here, out=difference)
            difference.mul_(scale).square_()
            torch.sum(difference, 1, out=block[:, q])
        block.div_(-channels)
        # Softmax in place. Written out, since `sum` loses fewer digits than torch's softmax over this dimension does.
        block.sub_(block.amax(1, keepdim=True)).exp_()
        block.div_(block.sum(1, keepdim=True)).add_(near)
    return weights


class Spread(torch.autograd.Function):
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
        back = Spread.apply(gradients[0], weights, ctx.settings, not ctx.transposed)
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
