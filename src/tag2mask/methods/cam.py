r"""CAM: class activation maps of a multi-label classifier (Zhou et al., CVPR 2016), the baseline of the field.

Idea. A classifier that averages a map of class scores over the image must have found the evidence somewhere: the
map itself says where.

.. math::
    Z_c(p) = w_c^\top f(p), \qquad s_c = \frac{1}{|\Omega|} \sum_{p \in \Omega} Z_c(p), \qquad
    M_c(p) = \max(0, Z_c(p))

* :math:`f(p)` -- the backbone's feature vector at cell :math:`p`; :math:`\Omega` -- the cells inside the photo
  (padding is left out of the mean).
* :math:`w_c` -- row of class :math:`c` in a bias-free 1x1 convolution, so averaging and classifying commute
  (Sec. 2 of the paper puts the mean first; the result is the same).
* :math:`s_c` -- image score, trained against the tags with the multi-label soft margin loss (the lineage's choice:
  PSA, IRN, SEAM); :math:`M_c` -- the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.protocols import Traits
from tag2mask.settings import Range, check_values
from tag2mask.types import Batch, Losses, Views, masked_mean


@dataclass(frozen=True)
class CamSettings:
    """CAM has one choice of its own."""

    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Probability with which a feature channel is dropped before the classifier (PSA uses 0.5 on ResNet-38d)."""

    def __post_init__(self) -> None:
        check_values(self, "cam")

    @property
    def traits(self) -> Traits:
        return Traits(class_maps=True)


class Cam(nn.Module):
    """The method page of plain CAM.

    Args:
        backbone: any; it learns unless frozen.
        classes: number of foreground classes.
        settings: see :class:`CamSettings`.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: CamSettings = CamSettings()) -> None:
        super().__init__()
        self.backbone, self.traits = backbone, settings.traits
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifier = nn.Conv2d(backbone.channels, classes, 1, bias=False)

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """:math:`f` and :math:`Z`, signed (:class:`tag2mask.protocols.ClassMaps`)."""
        features = self.backbone.features(views)
        return features, self.classifier(self.dropout(features))

    def score_maps(self, views: Views) -> Tensor:
        """:math:`Z`, signed, ``[batch classes rows columns]``."""
        return self.features_and_scores(views)[1]

    def losses(self, batch: Batch, progress: float) -> Losses:
        return Losses({"classification": F.multilabel_soft_margin_loss(self.tag_scores(batch), batch.labels)})

    def tag_scores(self, batch: Batch) -> Tensor:
        """:math:`s` (:class:`tag2mask.protocols.PredictsTags`)."""
        return masked_mean(self.score_maps(batch), batch.valid)

    def localize(self, batch: Batch) -> Tensor:
        return self.score_maps(batch).relu()
