r"""Tensors of a training that several processes share: each of them holds a part of every batch.

The loss of a batch is the mean of the processes' losses, weighted by their photos: :math:`L = \sum_r \frac{n_r}{N}
L_r`. For a loss that is a mean over photos nothing else is needed. A loss with another normaliser (decided pixels,
pairs) says so with :func:`ratio` or :func:`mean`; what is counted over a batch goes through :func:`batch_sum`, what is
listed through :func:`rows`. All processes must call them in the same order. In one process each is the plain
computation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tag2mask.processes.group import group_of, noticing_loss, world

BUCKET = 25_000_000  # numbers of gradients that are sent at once

_share = 1.0  # of the photos of the batch at hand, this process's


def set_share(own: int, of_all: int) -> float:
    """How many photos of the batch at hand are this process's; gives their share. 0: it holds one to take part, which
    does not count."""
    global _share
    _share = 1.0 if world() == 1 else own / of_all
    return _share


def ratio(total: Tensor, count: Tensor, least: float = 1.0) -> Tensor:
    """A loss that is a sum over some of what a batch shows, divided by how many there are in the whole batch.

    Args:
        total: sum over this process's part, scalar.
        count: how many were added, scalar without gradient.
        least: the divisor is at least this, so that a batch without any gives 0.
    """
    if world() == 1:
        return total / count.clamp(min=least)
    divisor = all_sum(count if _share else count * 0).clamp(min=least)
    return total / divisor / _share if _share else total * 0


def whole_batch(counts: Tensor) -> Tensor:
    """Counts of what this process's part of a batch shows, added up over the whole batch. No gradient."""
    if world() == 1:
        return counts
    return all_sum(counts if _share else counts * 0)


def mean(values: Tensor, counted: bool = True) -> Tensor:
    """A loss that is a mean over things of which processes have different numbers (pairs of photos).

    Args:
        values: ``[things ...]``, not empty.
        counted: False: this process has none, and one stands in, so that all do the same.
    """
    if world() == 1:
        return values.mean()
    things = len(values)
    return ratio(values.sum() * (counted * things / values.numel()), values.detach().new_tensor(things * counted))


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of the processes' tensors, which are of one shape. No gradient."""
    if world() == 1:
        return tensor
    summed = tensor.detach().clone()
    with noticing_loss():
        dist.all_reduce(summed, group=group_of(summed))
    return summed


def batch_sum(tensor: Tensor) -> Tensor:
    """The sum of what was counted on each process's part of the batch, with gradient."""
    if world() == 1:
        return tensor
    return _Sum.apply(tensor if _share else tensor * 0)


class _Sum(torch.autograd.Function):
    """A sum over processes: each of them has its part in the gradient of all."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_sum(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_sum(gradients[0].contiguous())


def rows(tensor: Tensor) -> Tensor:
    """The rows of the whole batch in its order, of those of each process's part. No gradient."""
    if world() == 1:
        return tensor
    tensor = tensor.detach().contiguous()
    own = tensor if _share else tensor[:0]
    counts = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world())]
    with noticing_loss():
        dist.all_gather(counts, torch.tensor([len(own)], device=tensor.device), group=group_of(tensor))
        longest = max(int(count) for count in counts)
        padded = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(world())]
        dist.all_gather(parts, padded, group=group_of(tensor))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def from_main_tensor(tensor: Tensor) -> Tensor:
    """The main process's tensor, in place: what all must share."""
    if world() > 1:
        plain = tensor.detach().contiguous()
        with noticing_loss():
            dist.broadcast(plain, 0, group=group_of(plain))
        tensor.detach().copy_(plain)
    return tensor


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """The gradients of all processes added up, in place; one that a process lacks counts as 0 there.

    After the backward pass rather than during it: whatever part of a network a batch reaches in some process, the
    others need not know, and several batches of an accumulation are one sum.
    """
    if world() == 1:
        return
    waiting: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if waiting and (
            waiting[0].dtype != parameter.grad.dtype or sum(x.numel() for x in waiting) + parameter.numel() > BUCKET
        ):
            _sum_in_place(waiting)
            waiting = []
        waiting.append(parameter.grad)
    if waiting:
        _sum_in_place(waiting)


def _sum_in_place(tensors: list[Tensor]) -> None:
    flat = all_sum(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
