r"""Networks that learn which cells belong together, from the confident parts of localization maps. No truth is seen.

* **IRN** (Ahn, Cho, Kwak, CVPR 2019, Sec. 4): a class-boundary map :math:`B`; affinity of two cells is one minus the
  largest boundary on the line between them. Its displacement field, which only instance masks need, is left out.
* **AffinityNet** (PSA; Ahn, Kwak, CVPR 2018, Sec. 3.2): features :math:`f`; affinity is
  :math:`\exp(-\tfrac{1}{D}\lVert f_i - f_j\rVert_1)`.

Both learn from pairs of cells nearer than a radius whose confident labels are known: equal labels attract, different
labels repel, in the balance of both papers (IRN Eq. 9, PSA Eq. 6):

.. math::
    L = \tfrac{1}{4} \overline{-\log a}_{\text{both background}} + \tfrac{1}{4} \overline{-\log a}_{\text{same class}}
      + \tfrac{1}{2} \overline{-\log (1 - a)}_{\text{different labels}}

Both read features of several depths of any backbone (ResNet-50's stages in IRN), each brought to one grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.propagation.settings import PropagationSettings
from tag2mask.refine import neighbours
from tag2mask.refine.walk import grid_of
from tag2mask.types import BACKGROUND, IGNORE, Losses, MaskedBatch


def depths(backbone: Backbone, limit: int = 5) -> tuple[str, ...]:
    """Blocks whose outputs are read, low to high: spread evenly over the chain, the last one with them.

    IRN takes the five stages of ResNet-50; a chain of five blocks or fewer is taken whole.
    """
    names = backbone.names
    picked = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(limit, len(names)))})
    return tuple(names[i] for i in picked)


class AffinityNet(nn.Module):
    """A backbone, a small layer on each of its depths, and what makes affinities of them.

    Args:
        kind: "irn": a class-boundary map; "psa": features to compare.
    """

    def __init__(self, backbone: Backbone, kind: str, settings: PropagationSettings) -> None:
        super().__init__()
        if backbone.frozen_until is not None:
            raise InputError(f"--propagate {kind} reads several depths of the backbone: leave out --freeze")
        self.backbone, self.kind, self.settings = backbone, kind, settings
        self.names = depths(backbone)
        if not settings.learn_backbone:
            backbone.requires_grad_(False)
        self.sides = nn.ModuleDict()
        for name, channels in zip(self.names, _channels(backbone, self.names), strict=True):
            self.sides[name] = nn.Sequential(
                nn.Conv2d(channels, settings.channels, 1, bias=False),
                nn.GroupNorm(4 if settings.channels % 4 == 0 else 1, settings.channels),
            )
        self.join = nn.Conv2d(
            len(self.names) * settings.channels, 1 if kind == "irn" else 4 * settings.channels, 1, bias=kind == "irn"
        )

    def train(self, mode: bool = True) -> AffinityNet:
        super().train(mode)
        if not self.settings.learn_backbone:
            self.backbone.eval()
        return self

    def grid(self, images: Tensor) -> Tensor:
        """Boundary ``[batch 1 rows columns]`` in [0, 1], or features ``[batch channels rows columns]``."""
        size = grid_of(images.shape[2:], self.settings.stride)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.learn_backbone):
            outputs = dict(self.backbone.outputs(images, self.names))
        sides = [
            F.interpolate(self.sides[name](outputs[name]), size, mode="bilinear", align_corners=False).relu()
            for name in self.names
        ]
        joined = self.join(torch.cat(sides, 1))
        return joined.float().sigmoid() if self.kind == "irn" else F.elu(joined.float())

    def affinity(self, images: Tensor, radius: int, among: Sequence[int] | None = None) -> Tensor:
        """``[batch offsets rows columns]`` of normalised ``[batch 3 height width]``
        (:mod:`tag2mask.refine.neighbours`).

        Args:
            among: only of these offsets, by their place; None: all.
        """
        grid = self.grid(images)
        if self.kind == "psa":
            return neighbours.feature_affinity(grid, radius, among)
        affinity = neighbours.boundary_affinity(grid[:, 0], radius)  # a line passes nearer cells, so all are needed
        return affinity if among is None else affinity[:, list(among)]

    def losses(self, batch: MaskedBatch, progress: float) -> Losses:
        near = neighbours.offsets(self.settings.radius)
        drawn = range(len(near))
        if 0 < self.settings.pairs < len(near):
            drawn = sorted(processes.from_main_tensor(torch.randperm(len(near)))[: self.settings.pairs].tolist())
        affinity = self.affinity(batch.images, self.settings.radius, drawn)
        labels = F.interpolate(batch.masks[:, None].float(), affinity.shape[2:], mode="nearest")[:, 0].long()
        return pair_losses(affinity, labels, [near[i] for i in drawn])


def _channels(backbone: Backbone, names: tuple[str, ...]) -> list[int]:
    side = 8 * max(backbone.stride, backbone.size_divisor)
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        was = backbone.training
        probe = torch.zeros(1, 3, side, side, device=device)
        channels = [x.shape[1] for _, x in backbone.eval().outputs(probe, names)]
        backbone.train(was)
    return channels


def pair_losses(affinity: Tensor, labels: Tensor, offsets: Sequence[neighbours.Offset]) -> Losses:
    """The loss of the module's docstring.

    Args:
        affinity: ``[batch offsets rows columns]`` of each cell and its neighbour at each of ``offsets``.
        labels: ``[batch rows columns]`` int64; IGNORE takes no part.
    """
    rows, columns = labels.shape[1:]
    edge = max(max(abs(y), abs(x)) for y, x in offsets)
    padded = F.pad(labels, (edge, edge, edge, edge), value=IGNORE)
    other = torch.stack([padded[:, y + edge : y + edge + rows, x + edge : x + edge + columns] for y, x in offsets], 1)
    own = labels[:, None]
    known = (own != IGNORE) & (other != IGNORE)
    same = known & (own == other)
    apart = known & ~same
    # one logarithm a pair: of the affinity where it should be high, of one minus it where it should be low
    cost = -torch.log(torch.where(same, affinity, 1 - affinity) + 1e-5)

    def mean(chosen: Tensor) -> Tensor:
        return processes.ratio(torch.where(chosen, cost, 0).sum(), chosen.sum())

    return Losses(
        {
            "background": mean(same & (own == BACKGROUND)) / 4,
            "foreground": mean(same & (own != BACKGROUND)) / 4,
            "boundary": mean(apart) / 2,
        }
    )
