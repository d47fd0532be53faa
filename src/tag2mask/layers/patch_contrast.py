"""The patch contrast of APC: confident patches of a class drawn together, confident and unconfident ones apart."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

from tag2mask import processes
from tag2mask.errors import some

log = logging.getLogger("tag2mask")


def patch_contrast(
    embeddings: Tensor,
    scores: Tensor,
    present: Tensor,
    confidence: float,
    scope: Literal["image", "batch"] = "image",
    inside: Tensor | None = None,
    low_cap: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Patch contrastive loss, exact and without a list of pairs.

    The mean of :math:`\cos` over ordered pairs of unit vectors is a product of sums, so a class costs
    :math:`O(N D)` and not :math:`O(N^2 D)`. Classes without two confident patches have no first term, those without an
    unconfident one no second; they count in the mean.

    Args:
        embeddings: ``[batch channels patches]``; the gradient goes here and nowhere else.
        scores: ``[batch classes patches]``; say which patches are confident, without gradient.
        present: ``[batch classes]`` bool, the classes that have pairs.
        confidence: :math:`\epsilon`.
        inside: ``[batch patches]`` bool, the patches that count; None: all.
        low_cap: at most this many unconfident patches, drawn at random; 0: all.

    Returns:
        The loss, 0 where there is no pair; and the number of confident patches.
    """
    with torch.autocast(embeddings.device.type, enabled=False), torch.no_grad():
        z = scores.float()
        counted = torch.ones_like(z[:, :1], dtype=torch.bool) if inside is None else inside[:, None]
        high = (z > confidence) & counted & present[:, :, None]
        low = (z < 1 - confidence) & counted
        among = present[:, :, None] if scope == "image" else _anywhere(present)[:, None]
        low = low & among
        if low_cap and low.shape[2] > low_cap:
            lot = torch.where(low, torch.rand(low.shape, device=low.device), -1.0)
            low = low & (lot >= lot.topk(low_cap, 2).values[:, :, -1:])
        high, low = high.float(), low.float()
    with torch.autocast(embeddings.device.type, enabled=False):
        length = embeddings.float().norm(dim=1).clamp(min=1e-12)  # [batch patches]
        weights = torch.cat([high, low], 1) / length[:, None]
        sums = weights @ embeddings.float().transpose(1, 2)  # [batch 2*classes channels], of unit vectors
        sum_high, sum_low = sums.chunk(2, 1)
        own = (high * (length.detach() > 1e-12)[:, None]).sum(2)  # squares of unit vectors; a zero vector has none
        count_high, count_low = high.sum(2), low.sum(2)
        if scope == "batch":
            sum_high, sum_low, own, count_high, count_low, photos = (
                processes.batch_sum(of_photos.sum(0))
                for of_photos in (sum_high, sum_low, own, count_high, count_low, present.float())
            )
            present = photos > 0
        pairs = count_high * (count_high - 1)
        together = (sum_high.square().sum(-1) - own) / pairs.clamp(min=1)
        crossed = count_high * count_low
        apart = (sum_high * sum_low).sum(-1) / crossed.clamp(min=1)
        loss = torch.where(pairs > 0, (1 - together) / 2, 0.0) + torch.where(crossed > 0, (1 + apart) / 2, 0.0)
        if scope == "batch":  # the same in every process
            return loss.sum() / present.sum().clamp(min=1), count_high.sum()
        return processes.ratio(loss.sum(), present.sum()), processes.all_sum(count_high.sum())


def _anywhere(present: Tensor) -> Tensor:
    """``[batch classes]`` bool to the classes that any photo of the whole batch has, ``[classes]``."""
    return processes.batch_sum(present.any(0).float()) > 0


class ConfidenceMonitor:
    """Notices an epoch in which no patch was confident. An epoch ends when a photo comes again."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence
        self.seen: set[str] = set()
        self.confident: Tensor | None = None  # confident patches of this epoch, counted where the training runs
        self.photos = 0  # in the last whole epoch
        self.warned = False

    def count(self, ids: tuple[str, ...], confident: Tensor) -> None:
        if self.seen.intersection(ids):
            self.photos = len(self.seen)
            self.end()
        self.seen.update(ids)
        self.confident = confident if self.confident is None else self.confident + confident

    def end(self) -> None:
        """Warns once, if the epoch was a whole one."""
        whole = self.confident is not None and len(self.seen) >= self.photos
        if whole and not self.warned and not int(self.confident or 0) and processes.is_main():
            log.warning(
                f"apc: no patch of {some(len(self.seen), 'photo')}, a whole epoch, scored above {self.confidence} for "
                "its class, so the patch contrast taught nothing: lower --apc.confidence, train longer, or leave it "
                "out with --apc.contrast 0"
            )
            self.warned = True
        self.seen, self.confident = set(), None
