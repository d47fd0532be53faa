"""A method of one's own, outside of the package: class maps of a classifier that pools by log-sum-exp.

    tag2mask label photos --out run --method examples.method:SoftMaxPooling --soft_max_pooling.sharpness 8

Pinheiro and Collobert (CVPR 2015): between the mean, which asks the whole photo for a class, and the maximum, which
asks one cell, lies a soft maximum, :math:`s_c = \\frac1r \\log \\frac1{|\\Omega|} \\sum_p \\exp(r Z_c(p))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.protocols import Traits
from tag2mask.settings import POSITIVE, check_values
from tag2mask.types import Batch, Losses, Views


@dataclass(frozen=True)
class Settings:
    """One choice."""

    sharpness: Annotated[float, POSITIVE] = 4.0
    """r: towards 0 the mean, towards infinity the maximum."""

    def __post_init__(self) -> None:
        check_values(self, "soft_max_pooling")

    @property
    def traits(self) -> Traits:
        return Traits()  # nothing but photos and tags


DEFAULTS = Settings()


class SoftMaxPooling(nn.Module):
    """Soft maximum pooling (Pinheiro and Collobert, CVPR 2015)"""

    Settings = Settings

    def __init__(self, backbone: Backbone, classes: int, settings: Settings = DEFAULTS) -> None:
        super().__init__()
        self.backbone, self.settings, self.traits = backbone, settings, settings.traits
        self.classifier = nn.Conv2d(backbone.channels, classes, 1)

    def score_maps(self, views: Views) -> Tensor:
        """Z: ``[batch classes rows columns]``."""
        return self.classifier(self.backbone.features(views)).float()

    def losses(self, batch: Batch, progress: float) -> Losses:
        maps, r = self.score_maps(batch), self.settings.sharpness
        inside = F.adaptive_avg_pool2d(batch.valid[:, None].float(), (maps.shape[2], maps.shape[3]))  # padding counts 0
        share = inside / inside.sum((2, 3), keepdim=True)
        scores = torch.logsumexp(r * maps + share.clamp(min=1e-12).log(), (2, 3)) / r
        return Losses({"classification": F.multilabel_soft_margin_loss(scores, batch.labels)})

    def localize(self, batch: Batch) -> Tensor:
        return self.score_maps(batch).relu()
