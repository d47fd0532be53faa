"""A light decoder in the manner of DeepLab-v3+ (Chen et al., ECCV 2018): context on the last block's features, joined
with those of a finer block.

Logits have the finer block's grid (stride 4 on most backbones) instead of the last block's, so borders and small
objects are not lost. Convolutions are separable: on a CPU it takes less time than LargeFOV's head (docs/log.md). A
backbone without finer features (a ViT, or a frozen one, of which only the last features are stored) is decoded at its
own grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone, depthwise
from tag2mask.layers.batch_norm import WholeBatchNorm
from tag2mask.segment.settings import SegmenterSettings

FINE_STRIDE = 4
FINE_CHANNELS = 48  # to which the finer features are reduced, as in DeepLab-v3+
DILATIONS = (1, 3, 6)


def fine_block(backbone: Backbone) -> str | None:
    """The last block of stride 4, or else of the next coarser stride; None where no block is finer than the last, or
    where the backbone is frozen."""
    if backbone.frozen_until is not None:
        return None
    strides = [stride for stride in backbone.strides.values() if FINE_STRIDE <= stride < backbone.stride]
    names = [name for name, stride in backbone.strides.items() if strides and stride == min(strides)]
    return names[-1] if names else None


def channels_of(backbone: Backbone, block: str | None) -> int:
    """Of a block's output; 0: of none."""
    if block is None:
        return 0
    side = 8 * max(backbone.stride, backbone.size_divisor)
    device = next(backbone.parameters()).device
    with torch.no_grad():
        ((_, grid),) = backbone.outputs(torch.zeros(1, 3, side, side, device=device), (block,))
    return grid.shape[1]


class Decoder(nn.Module):
    """Features of the last block, and of a finer one where there is one, to logits on the finer grid.

    Args:
        channels: of the last block's features.
        fine_channels: of the finer ones; 0: there are none.
        labels: of the logits.
        settings: width and dropout.
    """

    def __init__(self, channels: int, fine_channels: int, labels: int, settings: SegmenterSettings) -> None:
        super().__init__()
        wide, width = settings.channels, max(1, settings.channels // 2)
        self.reduce = _unit(nn.Conv2d(channels, wide, 1, bias=False))
        self.context = nn.ModuleList(_depthwise(wide, dilation) for dilation in DILATIONS)
        self.join = _unit(nn.Conv2d(wide * (1 + len(DILATIONS)), width, 1, bias=False))
        self.dropout = nn.Dropout2d(settings.dropout)
        self.fine = _unit(nn.Conv2d(fine_channels, FINE_CHANNELS, 1, bias=False)) if fine_channels else None
        joined = width + (FINE_CHANNELS if fine_channels else 0)
        self.fuse = nn.Sequential(*_separable(joined, width), *_separable(width, width))
        self.classify = nn.Conv2d(width, labels, 1)
        depthwise.use(self)

    def forward(self, features: Tensor, fine: Tensor | None = None) -> Tensor:
        """``[batch channels rows columns]``, and the finer ``[batch fine_channels rows columns]``."""
        x = self.reduce(features)
        x = self.dropout(self.join(torch.cat([x, *(convolution(x) for convolution in self.context)], 1)))
        if self.fine is not None:
            assert fine is not None
            reduced = self.fine(fine)
            grown = F.interpolate(x, reduced.shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([grown, reduced], 1)
        return self.classify(self.fuse(x))


def _unit(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, WholeBatchNorm(convolution.out_channels), nn.ReLU(inplace=True))


def _depthwise(channels: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels, bias=False)


def _separable(channels: int, width: int) -> tuple[nn.Module, nn.Module]:
    """A depthwise 3x3 convolution, and a 1x1 one with norm and ReLU."""
    return _depthwise(channels), _unit(nn.Conv2d(channels, width, 1, bias=False))
