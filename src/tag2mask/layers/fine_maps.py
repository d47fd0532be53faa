r"""Where objects are smaller than a cell: what a finer block of the backbone says about a class.

Idea (LayerCAM, Jiang et al., TIP 2021). A class map has the grid of the last block, 16 pixels a cell, and a hole of 8
pixels makes it rise in a circle of 100. A block below, on a grid twice as fine, still knows where the hole is; its
cells count by how much the class score would rise with them:

.. math::
    L_c(p) = \sum_k \max\!\left(0, \frac{\partial \sum_q z_c(q)}{\partial A_k(p)}\right) \max(0, A_k(p))

* :math:`A` -- output of the deepest block whose grid is twice as fine as that of the maps, :math:`z_c` -- score of
  class c (:class:`tag2mask.protocols.ClassMaps`).

A class map is multiplied by :math:`\tanh(2 L_c / \max L_c)`, LayerCAM's scaling (its equation 7).

Ours: this is done for classes only whose evidence lies in a small part of what their maps cover. Of a large object, a
fine block sees edges and patterns, and its inside would be lost. The part is measured by *effective areas*,
:math:`a(M) = (\sum M)^2 / \sum M^2`: that of map times :math:`L_c` over that of the map, the median over the references
of a class. On tiles it is 0.08 to 0.13 for holes, breaks and cracks, 0.27 to 0.57 for frayed edges and large stains, on
animals 0.32 to 0.51 (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone

SMALL_PART = 0.15
"""A class whose evidence has at most this share of its maps' effective area is located by a finer block."""


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
        scores: of one class, ``[batch rows columns]``, computed from ``output``.
        output: of the finer block, ``[batch channels fine_rows fine_columns]``.

    Returns:
        ``[batch fine_rows fine_columns]`` float32, at least 0, without gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), output, retain_graph=True)
    return (gradient.float().relu() * output.detach().float().relu()).sum(1)


def sharpened(maps: Tensor, fine: Tensor) -> Tensor:
    """Maps of one class times those of the finer block, both ``[batch rows columns]`` on its grid."""
    return maps * torch.tanh(2 * fine / (fine.amax((1, 2), keepdim=True) + 1e-12))


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
