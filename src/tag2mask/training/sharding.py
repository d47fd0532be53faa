"""Weights of large backbones split over the processes: PyTorch's fully sharded data parallel, block by block.

Each process keeps a part of every weight of the backbone, of its gradient and of the optimiser's state; a block's
weights come together while it is computed. Gradients are added up as those of the other weights are
(:func:`tag2mask.processes.sum_gradients`), so losses are those of one process.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask import processes
from tag2mask.backbones import Backbone


@dataclass(frozen=True)
class SplitBlock:
    """A block of a backbone whose weights are split, and a copy of it without weights."""

    backbone: Backbone
    name: str
    plain: nn.Module

    def gather(self) -> None:
        """Put the copy in its place, with all of its weights. Every process must do it."""
        block = self.backbone.blocks[self.name]
        state = {name: whole(tensor.detach()).clone() for name, tensor in block.state_dict().items()}
        self.plain.load_state_dict(state, assign=True)
        for path, buffer in block.named_buffers():  # also those that are no part of the state
            owner, _, name = path.rpartition(".")
            self.plain.get_submodule(owner)._buffers[name] = buffer
        self.backbone.blocks[self.name] = self.plain.train(block.training)


def split_backbones(network: nn.Module) -> list[SplitBlock]:
    """Split the weights of the blocks that learn, of every backbone in it. None, in one process."""
    if processes.world() == 1:
        return []
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(network.parameters()).device.type, (processes.world(),))
    blocks = [
        SplitBlock(backbone, name, copy.deepcopy(block).to("meta"))
        for backbone in network.modules()
        if isinstance(backbone, Backbone)
        for name, block in backbone.blocks.items()
        if any(parameter.requires_grad for parameter in block.parameters())
    ]
    for split in blocks:
        block = split.backbone.blocks[split.name]
        for parameter in block.parameters():  # channels last cannot be split
            parameter.data = parameter.data.contiguous()
        sharded = fully_shard(block, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)  # added up, not averaged: losses are weighted already
        sharded.set_force_sum_reduction_for_comms(True)
    return blocks


def is_split(tensor: Tensor | None) -> bool:
    """Whether this process holds a part of it alone."""
    return _of_split(tensor) is not None


def _of_split(tensor: Tensor | None) -> Any:
    """The same, where it is split. Who split it has imported the module; that takes a moment and is not done here."""
    module = sys.modules.get("torch.distributed.tensor")
    return tensor if module is not None and isinstance(tensor, module.DTensor) else None


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, split or not; every process must ask."""
    split = _of_split(tensor)
    return tensor if split is None else split.full_tensor()


def split_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of a whole tensor, where ``other``, of the same shape, is split."""
    split = _of_split(other)
    if split is None or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), split.device_mesh, split.placements, src_data_rank=None)


def clip_norm(parameters: Sequence[Tensor], most: float) -> None:
    """Scale gradients down to a norm of ``most``, that of all parts of all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [split.to_local() for gradient in gradients if (split := _of_split(gradient)) is not None]
    if not parts:
        nn.utils.clip_grad_norm_(parameters, most)
        return
    own = [gradient for gradient in gradients if not is_split(gradient)]
    squares = processes.all_sum(_squares(parts)) + _squares(own).to(parts[0].device)
    factor = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in (*parts, *own):
        gradient.mul_(factor.to(gradient.dtype))


def _squares(tensors: Iterable[Tensor]) -> Tensor:
    return sum((tensor.float().square().sum() for tensor in tensors), torch.zeros(()))
