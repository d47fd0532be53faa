"""DeepLab heads on any backbone.

* DeepLab-LargeFOV (Chen et al., ICLR 2015): one 3x3 convolution of large dilation, one 1x1, one classifier.
* DeepLab-v2 (Chen et al., TPAMI 2018): atrous spatial pyramid pooling, the sum of 3x3 classifiers of four dilations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.segment.settings import SegmenterSettings
from tag2mask.types import Dataset, Views, masked_mean

EMPTY_SHARE = 0.1  # of the training photos


class DeepLab(nn.Module):
    r"""A backbone and a head: ``segment`` gives logits ``[batch 1+classes rows columns]`` on the head's grid.

    A head takes the last block's features; with ``fine_block`` also those of that block (DeepLab-v3+).

    With ``presence`` the context of the whole photo decides between classes, in the spirit of EncNet (Zhang et al.,
    CVPR 2018): a linear classifier on the mean feature predicts which classes the photo shows, :math:`\pi_c`, trained
    on the tags. It moves foreground between classes and never between foreground and background:

    .. math:: p'(c) = p(\mathrm{fg}) \frac{\pi_c\, p(c)}{\sum_k \pi_k\, p(k)}, \qquad p'(\mathrm{bg}) = p(\mathrm{bg})

    Attributes:
        saw_empty: bool scalar, kept with the weights: whether enough photos that it learned from showed none of the
            classes, so that a low presence of all classes means that this one does not, either.
    """

    saw_empty: Tensor

    def __init__(
        self, backbone: Backbone, head: nn.Module, presence_of: int = 0, fine_block: str | None = None
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.fine_block = backbone, head, fine_block
        self.presence = nn.Conv2d(backbone.channels, presence_of, 1) if presence_of else None
        self.register_buffer("saw_empty", torch.tensor(False))

    def segment(self, views: Views) -> Tensor:
        return self.segment_with_presence(views, views.valid)[0]

    def segment_with_presence(self, views: Views, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits, and the photo's class logits ``[batch classes]`` (None without ``presence``).

        ``valid`` is ``[batch height width]`` bool, False on padding, which takes no part in the mean.
        """
        if self.fine_block is None:
            features = self.backbone.features(views)
            logits = self.head(features)
        else:
            (_, fine), (_, features) = self.backbone.outputs(views.images, (self.fine_block, self.backbone.names[-1]))
            logits = self.head(features, fine)
        if self.presence is None:
            return logits, None
        maps = self.presence(features)
        shown = maps.float().mean((2, 3)) if valid is None else masked_mean(maps, valid)
        return weigh_classes(logits.float(), F.logsigmoid(shown)), shown


def teaches_empty(dataset: Dataset) -> bool:
    """Whether enough training photos show none of the classes for a segmenter to learn what such a photo looks like."""
    none = sum(sample.labels == frozenset() for sample in dataset.samples)
    return none >= EMPTY_SHARE * len(dataset) > 0


def weigh_classes(logits: Tensor, log_presence: Tensor) -> Tensor:
    """Foreground logits of ``[batch 1+classes rows columns]`` weighed by ``[batch classes]``, the background's
    probability unchanged."""
    foreground = logits[:, 1:]
    weighed = foreground + log_presence[:, :, None, None]
    lost = foreground.logsumexp(1, keepdim=True) - weighed.logsumexp(1, keepdim=True)
    return torch.cat([logits[:, :1], weighed + lost], 1)


class LargeFov(nn.Sequential):
    """3x3 dilated convolution, ReLU, 1x1, ReLU, classifier."""

    def __init__(self, channels: int, labels: int, settings: SegmenterSettings) -> None:
        width, dilation = settings.channels, settings.dilation
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(width, width, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(width, labels, 1),
        )


class Aspp(nn.Module):
    """Sum of four dilated 3x3 classifiers (DeepLab-v2), rates in feature cells of stride 8: 6, 12, 18, 24."""

    def __init__(self, channels: int, labels: int, stride: int) -> None:
        super().__init__()
        rates = [max(1, round(rate * 8 / stride)) for rate in (6, 12, 18, 24)]
        branches = [nn.Conv2d(channels, labels, 3, padding=r, dilation=r) for r in rates]
        for branch in branches:
            assert branch.bias is not None
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(0)
