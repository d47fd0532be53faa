"""Batch normalisation over the whole batch, also where several processes hold parts of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tag2mask import processes


class WholeBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d``; in training on several processes, with the statistics of all their photos, so that they learn
    what one process learns."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or processes.world() == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            values = input.float()
            count = processes.batch_sum(values.new_tensor(float(values[:, 0].numel())))
            mean = processes.batch_sum(values.sum((0, 2, 3))) / count
            centred = values - mean[:, None, None]
            variance = processes.batch_sum(centred.square().sum((0, 2, 3))) / count
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
            out = centred / (variance + self.eps).sqrt()[:, None, None]
            return (out * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics for inference towards those of this batch."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
