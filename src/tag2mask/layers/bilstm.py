"""Context of a whole row and column for every cell (ViT-PCM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HvBiLstm(nn.Module):
    """ViT-PCM's context module: a two-way LSTM along every row and another along every column, side by side.

    Dropout on the grid, and on what each LSTM is given (the same channels along a whole row or column).

    Args:
        channels: of the grid.
        width: hidden units of each LSTM in each direction; ``4 * width`` channels come out.
        dropout: 0.2 in ViT-PCM, in all three places.
    """

    def __init__(self, channels: int, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout, self.drop_channels = nn.Dropout(dropout), nn.Dropout1d(dropout)
        self.rows = nn.LSTM(channels, width, batch_first=True, bidirectional=True)
        self.columns = nn.LSTM(channels, width, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch channels rows columns]`` to ``[batch 4*width rows columns]`` float32."""
        with torch.autocast(x.device.type, enabled=False):
            grid = self.dropout(x.float()).permute(0, 2, 3, 1)  # [batch rows columns channels]
            across = self._along(grid, self.rows)
            down = self._along(grid.transpose(1, 2), self.columns).transpose(1, 2)
            return torch.cat([across, down], 3).permute(0, 3, 1, 2)

    def _along(self, lines: Tensor, lstm: nn.LSTM) -> Tensor:
        """``[batch lines steps channels]``, each line on its own."""
        steps = lines.flatten(0, 1)
        steps = self.drop_channels(steps.transpose(1, 2)).transpose(1, 2)
        if self.training or not torch.is_grad_enabled() or not steps.is_cuda:
            return lstm(steps)[0].unflatten(0, lines.shape[:2])
        # cuDNN has no gradients in eval mode, which the maps of a finer block ask for
        with torch.backends.cudnn.flags(enabled=False):
            return lstm(steps)[0].unflatten(0, lines.shape[:2])
