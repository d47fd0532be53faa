r"""Fine-tuned weights that stay near the pretrained ones (L2-SP: Li, Grandvalet, Davoine, ICML 2018).

Weight decay draws weights towards zero; this draws those of a backbone towards where its pretraining left them. What a
few hundred photos teach then costs less of what a million had taught: a network tells classes of new photos apart
better. Decoupled from the gradient, as AdamW's decay is (Loshchilov, Hutter, ICLR 2019), after each step of rate
:math:`\eta_t` with strength :math:`\lambda`:

.. math:: w \leftarrow w - \eta_t \lambda\, (w - w_0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tag2mask import backbones
from tag2mask.backbones import Backbone
from tag2mask.training import sharding


@dataclass(frozen=True)
class NearStart:
    """The weights that learn, of backbones that were built with pretrained ones, and those.

    Attributes:
        weights, starts: of each other's shapes, split over the processes where the weights are.
    """

    weights: Sequence[Tensor]
    starts: Sequence[Tensor]

    @classmethod
    def of(cls, network: nn.Module) -> NearStart:
        """Pretrained weights are read again: the network may have been trained before (a segmenter on the network that
        made the maps; a run that starts from another).

        Raises:
            InputError: they cannot be had any more.
        """
        weights: list[Tensor] = []
        starts: list[Tensor] = []
        for backbone in network.modules():
            if not isinstance(backbone, Backbone) or backbone.built is None or backbone.built.weights == "none":
                continue
            if not any(weight.requires_grad for weight in backbone.parameters()):
                continue
            pretrained = dict(backbones.build(backbone.built).named_parameters())
            for name, weight in backbone.named_parameters():
                start = pretrained.get(name)
                if weight.requires_grad and start is not None and start.shape == weight.shape:
                    start = sharding.split_like(start.detach().to(weight.device, weight.dtype), weight)
                    weights.append(weight)
                    starts.append(torch.empty_like(weight).copy_(start))  # in the weight's layout, channels last
        return cls(weights, starts)

    @torch.no_grad()
    def draw(self, share: float) -> None:
        """Take ``share``, from 0 to 1, of the way back."""
        for weight, start in zip(self.weights, self.starts, strict=True):
            weight.lerp_(start, share)
