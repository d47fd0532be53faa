"""Masks made of a network's own scores while it trains: gated by the tags, refined, split at a threshold found
online."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.refine import ParSettings, pixel_adaptive
from tag2mask.types import BACKGROUND, IGNORE

BINS = 256  # of the histogram of online scores


def gate_and_rescale(scores: Tensor, tags: Tensor, inside: Tensor | None = None) -> Tensor:
    """ViT-PCM's merge: absent classes switched off, each map over its maximum, all to add up to one.

    Args:
        scores: ``[batch labels rows columns]``.
        tags: ``[batch labels]``, 1 where the photo shows it.
        inside: ``[batch rows columns]`` bool; other cells take no part and come back zero.
    """
    gated = scores * tags[:, :, None, None]
    if inside is not None:
        gated = gated * inside[:, None]
    best = gated.amax((2, 3), keepdim=True)
    gated = gated / torch.where(best > 0, best, 1.0)
    return gated / gated.sum(1, keepdim=True).clamp(min=torch.finfo(gated.dtype).tiny)


class OnlineScores(NamedTuple):
    """Scores of the labels that photos show, in the order of ``which``, background first."""

    scores: Tensor  # [batch shown height width], adding up to one, or 0 where `which` is a label that is not shown
    which: Tensor  # [batch shown] int64, indices into labels
    whole: Tensor  # [batch height width] bool, False where padding is part of the pixel


@torch.no_grad()
def online_scores(
    scores: Tensor, tags: Tensor, valid: Tensor, size: tuple[int, int], images: Tensor | None = None
) -> OnlineScores:
    """Merged patch scores refined along the photo's edges, only those of labels the photo shows, at the labels'
    resolution.

    Args:
        scores: of :func:`gate_and_rescale`, ``[batch labels rows columns]``.
        tags: ``[batch labels]``.
        valid: ``[batch height width]`` bool, of the view, at any resolution.
        size: (height, width) of the labels.
        images: ``[batch 3 height width]``, normalised or not, for PAR; None: no refinement.
    """
    shown = int(tags.sum(1).max())
    which = tags.sort(dim=1, descending=True, stable=True).indices[:, :shown]  # present ones first, in order
    part = scores.gather(1, which[:, :, None, None].expand(-1, -1, *scores.shape[2:]))
    part = F.interpolate(part, size, mode="bilinear", align_corners=False)
    whole = F.adaptive_avg_pool2d(valid[:, None].float(), size) > 0.999
    part = part * whole
    if images is not None:
        small = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
        part = pixel_adaptive(small, part, ParSettings())
    return OnlineScores(part / part.sum(1, keepdim=True).clamp(min=torch.finfo(part.dtype).tiny), which, whole[:, 0])


def best_labels(scored: OnlineScores, confidence: float) -> Tensor:
    """``[batch height width]`` int64 indices into labels: the best one; IGNORE where its score is below ``confidence``
    or padding is part of the pixel."""
    best, index = scored.scores.max(1)
    labels = scored.which.gather(1, index.flatten(1)).view_as(index)
    return torch.where(scored.whole & (best >= confidence), labels, IGNORE)


def split_labels(scored: OnlineScores, threshold: float, band: float) -> Tensor:
    """``[batch height width]`` int64 indices into labels: the best class above ``threshold * (1 + band)``, background
    below ``threshold * (1 - band)``, IGNORE between and where padding is part of the pixel."""
    best, index = F.pad(scored.scores[:, 1:], (0, 0, 0, 0, 0, 1)).max(1)  # a photo may show no class at all
    classes = F.pad(scored.which[:, 1:], (0, 1)).gather(1, index.flatten(1)).view_as(index)
    labels = torch.where(best < threshold * (1 - band), BACKGROUND, IGNORE)
    return torch.where(scored.whole, torch.where(best > threshold * (1 + band), classes, labels), IGNORE)


def class_histogram(scored: OnlineScores) -> Tensor:
    """``[BINS]`` float32 of the best class score of every pixel, over [0, 1]; each photo adds up to one."""
    best = F.pad(scored.scores[:, 1:], (0, 0, 0, 0, 0, 1)).amax(1)
    share = scored.whole / scored.whole.sum((1, 2), keepdim=True).clamp(min=1)
    counted = torch.zeros(BINS, device=best.device).index_add_(
        0, (best * BINS).long().clamp(max=BINS - 1).flatten(), share.flatten()
    )
    return processes.batch_sum(counted)


def balanced_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over background pixels and over foreground pixels, the mean of the two (AFA, ToCo).

    Args:
        logits: ``[batch labels rows columns]``, brought to the labels' size.
        labels: ``[batch height width]`` int64; IGNORE takes no part. Of what no pixel shows the part is 0.
    """
    grown = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(grown, labels, ignore_index=IGNORE, reduction="none")
    background = labels == BACKGROUND
    foreground = ~background & (labels != IGNORE)
    parts = [processes.ratio((losses * of).sum(), of.sum()) for of in (background, foreground)]
    return (parts[0] + parts[1]) / 2


def cells_inside(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch height width]`` bool to ``[batch rows columns]`` bool: cells with at least half as much of the photo as
    the cell with the most, so that the narrowest photo has some."""
    share = F.adaptive_avg_pool2d(valid[:, None].float(), size)[:, 0]
    return share >= 0.5 * share.amax((1, 2), keepdim=True)
