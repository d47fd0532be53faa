"""The loss of photos' tags on class maps."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.types import masked_mean


def tag_loss(maps: Tensor, valid: Tensor, labels: Tensor, counted: bool = True) -> Tensor:
    """Multi-label soft margin of ``[batch classes rows columns]`` maps, averaged inside of ``valid``, against multi-hot
    ``labels``: the mean over the photos of all processes; not ``counted``: these stand in for none."""
    losses = F.multilabel_soft_margin_loss(masked_mean(maps, valid), labels, reduction="none")
    return processes.mean(losses, counted)
