"""A segmenter over several scales of a view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.protocols import Segmenter
from tag2mask.segment.deeplab import DeepLab
from tag2mask.types import Photos, Views


def logits_of(segmenter: nn.Module, views: Views, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Any segmenter's logits, and the photo's class logits where it has them."""
    if isinstance(segmenter, DeepLab):
        return segmenter.segment_with_presence(views, valid)
    if isinstance(segmenter, Pyramid):
        logits, shown = segmenter.all_logits(views.images, valid)
        return logits[-1], shown
    assert isinstance(segmenter, Segmenter), type(segmenter)
    return segmenter.segment(views), None


def saw_empty(segmenter: nn.Module) -> Tensor | None:
    """The mark of a segmenter, over one scale or several, that says whether it learned what photos of none of the
    classes look like (:class:`DeepLab`); None: it has none."""
    inner = segmenter.segmenter if isinstance(segmenter, Pyramid) else segmenter
    return inner.saw_empty if isinstance(inner, DeepLab) else None


class Pyramid(nn.Module):
    """A segmenter of a view and smaller copies of it; the largest logit wins (Chen et al., TPAMI 2018, Sec. 4.1).
    In training the logits of every scale and the winning ones are taught: ``all_logits``."""

    def __init__(self, segmenter: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.segmenter, self.scales = segmenter, tuple(scales)

    def all_logits(self, images: Tensor, valid: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Logits of the view, of each scale (on grids of their own), and the winner on the view's grid, in this order;
        and the view's class logits where the segmenter predicts presence."""
        first, shown = logits_of(self.segmenter, Photos(images), valid)
        logits = [first]
        for scale in self.scales:
            smaller = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            logits.append(logits_of(self.segmenter, Photos(smaller), valid)[0])
        size = first.shape[2:]
        grown = [F.interpolate(of_scale, size, mode="bilinear", align_corners=False) for of_scale in logits]
        return [*logits, torch.stack(grown).amax(0)], shown

    def segment(self, views: Views) -> Tensor:
        assert not views.stored, "checked in build"
        return self.all_logits(views.images, None)[0][-1]
