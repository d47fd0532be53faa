r"""Maps with finer borders: what a finer block of the backbone says about a class.

Idea (LayerCAM, Jiang et al., TIP 2021). A class map has the grid of the last block, 16 pixels a cell, and its cells see
far beyond themselves: a thin scratch makes it rise in a band several times as wide. A block below, on a grid twice as
fine, still knows where the scratch is; its cells count by how much the class score would rise with them:

.. math::
    L_c(p) = \sum_k \max\!\left(0, \frac{\partial \sum_q z_c(q)}{\partial A_k(p)}\right) \max(0, A_k(p))

* :math:`A` -- output of the deepest block whose grid is twice as fine as that of the maps, :math:`z_c` -- score of
  class c (:class:`tag2mask.protocols.ClassMaps`).

A class map :math:`M_c` becomes

.. math::
    M_c(p) \tanh\!\left(2 L_c(p) / \max L_c\right)^\gamma

where tanh is LayerCAM's scaling (its equation 7). Ours: :math:`\gamma = 1/2`, the geometric mean of both. Of a large
object a fine block sees edges and patterns, and with :math:`\gamma = 1` its inside would be lost, with 0 its
border (docs/log.md, 2026-11-27).

Where the evidence of a class lies in a small part of what its maps cover, :math:`\gamma = 1`: its objects are smaller
than a cell. The part is measured by *effective areas*, :math:`a(M) = (\sum M)^2 / \sum M^2`: that of map times
:math:`L_c` over that of the map, the median over the references of a class. On tiles it is 0.08 to 0.13 for holes,
breaks and cracks, 0.27 to 0.57 for frayed edges and large stains, on animals 0.32 to 0.51.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone

POWER = 0.5
"""Gamma, of classes whose objects are larger than a cell."""
SMALL_PART = 0.15
"""A class whose evidence has at most this share of its maps' effective area has smaller objects."""


def finer_block(backbone: Backbone) -> str | None:
    """The deepest block whose cells have at most half the side of those of the last; None: there is none (a ViT)."""
    finer = [name for name, stride in backbone.strides.items() if 2 * stride <= backbone.stride]
    return finer[-1] if finer else None


@contextmanager
def watched(block: nn.Module) -> Iterator[list[Tensor]]:
    """While this is open, gradients are kept from the output of a block on, not below it; it is added to the list."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        output = output.clone() if output.is_inference() else output.detach()
        outputs.append(output.requires_grad_())
        return outputs[-1]

    handle = block.register_forward_hook(keep)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield outputs
    finally:
        handle.remove()


def fine_map(scores: Tensor, output: Tensor) -> Tensor:
    """:math:`L_c` of each photo.

    Args:
        scores: of one class each, ``[photos rows columns]``, computed from ``output``.
        output: of the finer block, ``[batch channels fine_rows fine_columns]``.

    Returns:
        ``[batch fine_rows fine_columns]`` float32, at least 0, without gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), output, retain_graph=True)
    return (gradient.float().relu() * output.detach().float().relu()).sum(1)


def fine_maps(scores: Tensor, output: Tensor, labels: Tensor) -> Tensor:
    """:math:`L_c` of the classes of each photo, in as many backward passes as a photo has classes at most: photos do
    not see each other.

    Args:
        scores: ``[batch classes rows columns]``, computed from ``output``.
        output: of the finer block, ``[batch channels fine_rows fine_columns]``.
        labels: ``[batch classes]`` multi-hot; scores may have more classes.

    Returns:
        ``[batch classes fine_rows fine_columns]`` float32 of all classes of the scores, zero where there is no label.
    """
    out = torch.zeros(*scores.shape[:2], *output.shape[2:], device=output.device)
    left = labels.cpu() > 0  # once: every question to a device waits for it
    while left.any():
        photos = left.any(1).nonzero().flatten()
        classes = left[photos].int().argmax(1)  # the first that is left
        out[photos, classes] = fine_map(scores[photos, classes], output)[photos]
        left[photos, classes] = False
    return out


def sharpened(maps: Tensor, fine: Tensor, power: Tensor | float = 1.0) -> Tensor:
    """Maps times those of the finer block to a power, both ``[... rows columns]`` on its grid."""
    return maps * torch.tanh(2 * fine / (fine.amax((-2, -1), keepdim=True) + 1e-12)) ** power


def part(map_: Tensor, fine: Tensor) -> float | None:
    """Effective area of map times fine map over that of the map, of one photo; None where either is empty.

    Args:
        map_: ``[1 rows columns]`` at least 0.
        fine: ``[1 fine_rows fine_columns]`` at least 0.
    """
    map_ = F.interpolate(map_[None], fine.shape[1:], mode="bilinear", align_corners=False)[0]
    map_, fine = (x / (x.amax() + 1e-12) for x in (map_, fine))
    both = _effective_area(map_ * fine)
    return both / _effective_area(map_) if both > 0 else None


def _effective_area(map_: Tensor) -> float:
    total, squares = float(map_.sum()), float(map_.square().sum())
    return total**2 / squares if squares > 0 else 0.0
