"""Adaptive-K pooling: the best scores of a class speak for the photo, as many as its scores say (APC)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["ratio_to_max", "consecutive", "gap", "fixed", "max", "mean"]


def adaptive_k(
    scores: Tensor,
    rule: Rule = "ratio_to_max",
    ratio: float = 0.9,
    top: int = 6,
    min_patches: int = 1,
    max_patches: int = 0,
    inside: Tensor | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Adaptive-K pooling: the mean of the K best scores, K found for each photo and class.

    With :math:`z^{(1)} \ge z^{(2)} \ge \dots`: ``ratio_to_max`` :math:`K = \#\{k : z^{(k)} \ge \rho z^{(1)}\}`;
    ``consecutive`` the largest K such that :math:`z^{(k+1)} \ge \rho z^{(k)}` for all :math:`k < K`; ``gap``
    :math:`K = \arg\max_k z^{(k)} - z^{(k+1)}`; ``fixed`` K = top; ``max`` K = 1; ``mean`` K = N. Then K is clamped.

    The first rule needs the maximum, a comparison and a mean; with a lower limit of K also that many best scores.
    Everything is sorted only where K is limited from above.

    Args:
        scores: ``[batch classes patches]``, at least 0.
        ratio: :math:`\rho`.
        min_patches, max_patches: limits of K (``max_patches`` 0: all patches). ``max`` and ``mean`` are not limited.
        inside: ``[batch patches]`` bool, the patches that count, at least one a photo; None: all.
        share: of the first three rules, a lower limit of K as a share of N; ``max_patches`` goes before it.

    Returns:
        The means ``[batch classes]``, with the gradient 1/K at every chosen score and no other; and K.
    """
    assert min_patches >= 1 and (max_patches == 0 or max_patches >= min_patches), (min_patches, max_patches)
    if inside is None:
        inside = torch.ones_like(scores[:, 0], dtype=torch.bool)
    number = inside.sum(1, keepdim=True)  # N, [batch 1]
    z = torch.where(inside[:, None], scores, -1.0)  # padding comes last and is never near the best
    if rule == "max":
        return z.max(2).values, torch.ones_like(number).expand(z.shape[:2])
    if rule == "mean":
        return torch.where(inside[:, None], scores, 0.0).sum(2) / number, number.expand(z.shape[:2])
    low = number.clamp(max=min_patches)
    high = number.clamp(max=max_patches) if max_patches else number
    if rule == "fixed":
        best = z.topk(min(max(top, min_patches), z.shape[2]), 2).values
        return _mean_of_best(best, torch.full_like(number, top).clamp(low, high))
    low = torch.maximum(low, (number.double() * share).ceil().long()).clamp(max=high)
    if rule == "ratio_to_max" and not max_patches:
        return _near_the_best(z, ratio, low, min(max(min_patches, math.ceil(z.shape[2] * share)), z.shape[2]))
    ordered = z.sort(2, descending=True).values
    return _mean_of_best(ordered, _count(ordered.detach(), rule, ratio, number, low, high).clamp(low, high))


def _near_the_best(z: Tensor, ratio: float, low: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
    """Means of the scores within ``ratio`` of the best, or of the ``low`` best, at most ``deepest``, if those are
    more."""
    chosen = z.detach() >= ratio * z.detach().amax(2, keepdim=True)
    count = chosen.sum(2)
    pooled = torch.where(chosen, z, 0.0).sum(2) / count
    if deepest == 1:
        return pooled, count
    few, _ = _mean_of_best(z.topk(deepest, 2).values, low)
    return torch.where(count < low, few, pooled), torch.maximum(count, low)


def _count(ordered: Tensor, rule: Rule, ratio: float, number: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """K of scores in descending order, padding (-1) last, before it is clamped."""
    if rule == "ratio_to_max":
        return (ordered >= ratio * ordered[:, :, :1]).sum(2)
    if rule == "consecutive":
        holds = ordered[:, :, 1:] >= ratio * ordered[:, :, :-1]  # false where padding begins
        return 1 + holds.long().cumprod(2).sum(2)
    assert rule == "gap", rule
    if ordered.shape[2] == 1:
        return torch.ones_like(number).expand(ordered.shape[:2])
    k = torch.arange(1, ordered.shape[2], device=ordered.device)
    allowed = (k >= low) & (k <= high) & (k < number)  # [batch patches-1]
    return 1 + torch.where(allowed[:, None], ordered[:, :, :-1] - ordered[:, :, 1:], -1.0).argmax(2)


def _mean_of_best(ordered: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the first ``count`` of ``[batch classes patches]``."""
    count = count.expand(ordered.shape[:2])
    chosen = torch.arange(ordered.shape[2], device=ordered.device) < count[:, :, None]
    return torch.where(chosen, ordered, 0.0).sum(2) / count, count
