"""What a segmenter learns from: masks, and the tags where it predicts the photo's classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.segment.pyramid import Pyramid, logits_of
from tag2mask.types import IGNORE, Losses, MaskedBatch


class SegmenterTask(nn.Module):
    """Trains a segmenter on masks: cross entropy over decided pixels (255 takes no part); and, where it predicts the
    photo's classes, their multi-label loss against the tags.

    Args:
        balance: of :func:`mask_loss`.
    """

    def __init__(self, segmenter: nn.Module, balance: float = 0.0) -> None:
        super().__init__()
        self.segmenter, self.balance = segmenter, balance

    def losses(self, batch: MaskedBatch, progress: float) -> Losses:
        if isinstance(self.segmenter, Pyramid):
            # each scale is taught at its own resolution, by the nearest pixel of the mask (DeepLab-v2's codes)
            scales, shown = self.segmenter.all_logits(batch.images, batch.valid)
            terms = {}
            for name, logits in zip([*map(str, (1.0, *self.segmenter.scales)), "max"], scales, strict=True):
                small = F.interpolate(batch.masks[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0]
                terms[f"segmentation_{name}"] = mask_loss(logits.float(), small.long(), self.balance)
        else:
            logits, shown = logits_of(self.segmenter, batch, batch.valid)
            logits = F.interpolate(logits.float(), batch.masks.shape[1:], mode="bilinear", align_corners=False)
            terms = {"segmentation": mask_loss(logits, batch.masks, self.balance)}
        if shown is not None:
            terms["presence"] = F.multilabel_soft_margin_loss(shown, batch.labels)
        return Losses(terms)


def mask_loss(logits: Tensor, masks: Tensor, balance: float = 0.0) -> Tensor:
    r"""Cross entropy of ``[batch labels height width]`` and ``[batch height width]`` int64 over decided pixels.

    A pixel of label l weighs :math:`n_l^{-b}`, where :math:`n_l` of the batch's pixels have it: where objects are a
    thousandth of all pixels, a network that is taught all pixels alike learns background alone.

    Args:
        balance: :math:`b`; 0: all pixels weigh alike; 1: all labels do.
    """
    decided = masks != IGNORE
    if not balance:
        loss = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="sum")
        return processes.ratio(loss, decided.sum())  # without a decided pixel 0, not NaN
    pixels = processes.whole_batch(torch.bincount(masks[decided], minlength=logits.shape[1]).float())
    weights = torch.where(pixels > 0, pixels.clamp(min=1) ** -balance, 0.0)
    loss = F.cross_entropy(logits, masks, weights, ignore_index=IGNORE, reduction="sum")
    return processes.ratio(loss, (weights * torch.bincount(masks[decided], minlength=len(weights))).sum(), least=1e-6)
