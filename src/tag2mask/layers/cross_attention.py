"""Cross-attention between the feature maps of two photos, in both directions at once and in bounded memory.

MCIS (Sun et al., ECCV 2020) calls it co-attention. Every cell of one photo gets a mean of the values of the other,
weighted by the softmax of their affinities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

AFFINITIES = 2**25
"""Affinities held at once, 128 MB of them (training keeps about five times that); more are computed in parts."""


def co_attend(
    queries: Tensor,
    keys: Tensor,
    values_m: Tensor,
    values_n: Tensor,
    inside_m: Tensor | None = None,
    inside_n: Tensor | None = None,
    limit: int = AFFINITIES,
) -> tuple[Tensor, Tensor]:
    r"""Both directions of the co-attention: :math:`V_n A_n` and :math:`V_m A_m` with :math:`P = Q^\top K`.

    Affinities are computed once for both directions, or, where all of them are too many to hold, in parts for each.

    Args:
        queries: :math:`Q = W_P^\top F_m`, ``[pairs channels cells_m]``.
        keys: :math:`K = F_n`, ``[pairs channels cells_n]``.
        values_m: what is carried of m, ``[pairs values cells_m]``; with :math:`F_m` itself, :math:`F_n^\cap` results.
        values_n: what is carried of n, ``[pairs values cells_n]``.
        inside_m, inside_n: ``[pairs cells]`` bool, False on padding, which nobody attends to; None: no padding.
        limit: affinities held at once.

    Returns:
        ``[pairs values cells_m]``, what m finds in n; and ``[pairs values cells_n]``, what n finds in m.
    """
    if len(queries) * queries.shape[2] * keys.shape[2] > limit:
        return (
            attend(queries, keys, values_n, inside_n, limit=limit),
            attend(keys, queries, values_m, inside_m, limit=limit),
        )
    affinities = torch.bmm(queries.transpose(1, 2), keys)  # [pairs cells_m cells_n]
    over_n = _without_padding(affinities, None if inside_n is None else inside_n[:, None]).softmax(2)
    over_m = _without_padding(affinities, None if inside_m is None else inside_m[:, :, None]).softmax(1)
    return torch.bmm(values_n, over_n.transpose(1, 2)), torch.bmm(values_m, over_m)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, inside: Tensor | None = None, *, limit: int = AFFINITIES
) -> Tensor:
    """One direction: for every query a mean of the values, weighted by the softmax over the keys.

    All pairs at once, so many queries at a time that at most ``limit`` affinities are held; the backward pass computes
    them again. Shapes as in :func:`co_attend`; ``[pairs values cells]`` of the queries.
    """
    step = max(1, limit // (len(queries) * keys.shape[2]))
    parts = queries.split(step, 2)
    if len(parts) == 1:
        return _attend(queries, keys, values, inside)
    return torch.cat([checkpoint(_attend, part, keys, values, inside, use_reentrant=False) for part in parts], 2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, inside: Tensor | None) -> Tensor:
    affinities = torch.bmm(queries.transpose(1, 2), keys)
    weights = _without_padding(affinities, None if inside is None else inside[:, None]).softmax(2)
    return torch.bmm(values, weights.transpose(1, 2))


class ClassReferences(NamedTuple):
    """What is kept of the reference photos of one class, which may differ in size."""

    keys: dict[bool, Tensor]  # [references channels cells] for either kind of photo that is compared with them
    values: Tensor  # the map of the class [references cells]
    inside: Tensor  # [references cells] bool, False where a photo has fewer cells than the largest


def stack_references(references: Sequence[tuple[dict[bool, Tensor], Tensor]]) -> ClassReferences:
    """Keys and values of single photos of one class, brought to one number of cells."""
    cells = [len(values) for _, values in references]

    def padded(flat: Tensor) -> Tensor:
        return F.pad(flat, (0, max(cells) - flat.shape[-1]))

    keys = {kind: torch.stack([padded(keys[kind]) for keys, _ in references]) for kind in references[0][0]}
    values = torch.stack([padded(of_photo) for _, of_photo in references])
    inside = torch.arange(max(cells)) < torch.tensor(cells)[:, None]
    return ClassReferences(keys, values, inside.to(values.device))


def attend_to_references(
    queries: Tensor, keys: Tensor, values: Tensor, inside: Tensor, *, limit: int = AFFINITIES // 4
) -> Tensor:
    """Every photo attends to every reference: the sum over the references of the values that each cell gets.

    Affinities leave the cache several times on their way; parts of a quarter of :data:`AFFINITIES`, padding added by
    the product itself and one product with all values take a fifth less time.

    Args:
        queries: ``[photos channels cells]``.
        keys: ``[references channels cells_r]``; all is computed in their type.
        values: ``[references cells_r]``.
        inside: ``[references cells_r]`` bool.

    Returns:
        ``[photos cells]`` float32.
    """
    flat = keys.transpose(0, 1).flatten(1)  # [channels references*cells_r]
    queries, flat_values = queries.to(flat.dtype), values.flatten().to(flat.dtype)
    padding = torch.zeros_like(flat_values).masked_fill_(~inside.flatten(), -torch.inf)
    step = max(1, limit // (len(queries) * flat.shape[1]))
    parts = []
    for part in queries.split(step, 2):
        affinities = torch.addmm(padding, part.transpose(1, 2).flatten(0, 1), flat)
        weights = affinities.unflatten(1, values.shape).softmax(2)
        parts.append((weights.flatten(1) @ flat_values).float().unflatten(0, (len(queries), -1)))
    return torch.cat(parts, 1)


def _without_padding(affinities: Tensor, inside: Tensor | None) -> Tensor:
    return affinities if inside is None else torch.where(inside, affinities, -torch.inf)


def let_back(values: Tensor, share: float) -> Tensor:
    """The same values, which pass on so much of their gradient."""
    return values if share == 1 else values.detach().lerp(values, share) if share else values.detach()
