"""What a segmenter learns from: masks, and the tags where it predicts the photo's classes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.segment.pyramid import Pyramid, logits_of
from tag2mask.types import IGNORE, Losses, MaskedBatch


class SegmenterTask(nn.Module):
    """Trains a segmenter on masks: cross entropy over decided pixels (255 takes no part); and, where it predicts the
    photo's classes, their multi-label loss against the tags."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def losses(self, batch: MaskedBatch, progress: float) -> Losses:
        if isinstance(self.segmenter, Pyramid):
            # each scale is taught at its own resolution, by the nearest pixel of the mask (DeepLab-v2's codes)
            scales, shown = self.segmenter.all_logits(batch.images, batch.valid)
            terms = {}
            for name, logits in zip([*map(str, (1.0, *self.segmenter.scales)), "max"], scales, strict=True):
                small = F.interpolate(batch.masks[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0]
                terms[f"segmentation_{name}"] = mask_loss(logits.float(), small.long())
        else:
            logits, shown = logits_of(self.segmenter, batch, batch.valid)
            logits = F.interpolate(logits.float(), batch.masks.shape[1:], mode="bilinear", align_corners=False)
            terms = {"segmentation": mask_loss(logits, batch.masks)}
        if shown is not None:
            terms["presence"] = F.multilabel_soft_margin_loss(shown, batch.labels)
        return Losses(terms)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of ``[batch labels height width]`` and ``[batch height width]`` int64 over decided pixels."""
    loss = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="sum")
    return processes.ratio(loss, (masks != IGNORE).sum())  # without a decided pixel 0, not NaN
