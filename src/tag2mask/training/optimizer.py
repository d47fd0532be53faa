"""Which parameters learn how fast, and the optimiser that does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.protocols import ClipsApart, DeclaresPretrained
from tag2mask.training.settings import TrainSettings
from tag2mask.training.sharding import is_split


def pretrained_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that learn at the backbone's rate: those of every backbone, and what else a part declares."""
    for module in network.modules():
        if isinstance(module, DeclaresPretrained):
            yield from module.pretrained_parameters()
        elif isinstance(module, Backbone):
            yield from module.parameters()


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Learnable parameters by learning rate (backbone, new layers) and weight decay."""
    pretrained = {id(parameter) for parameter in pretrained_parameters(network)}
    groups: dict[tuple[bool, bool, bool], list[Tensor]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:  # optimisers step over split and whole weights apart
            kind = id(parameter) in pretrained, parameter.ndim > 1, is_split(parameter)
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate
            * (1.0 if of_backbone else settings.head_lr_mult)
            * (1.0 if weights else settings.bias_lr_mult),
            "weight_decay": settings.weight_decay if weights or settings.decay_biases else 0.0,
        }
        for (of_backbone, weights, _), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def clipped_together(network: nn.Module) -> list[list[nn.Parameter]]:
    """Learnable parameters in parts whose gradients are clipped by the norm of the part: all in one, unless the network
    says which are taught by losses that teach nothing else."""
    apart = network.clipped_apart() if isinstance(network, ClipsApart) else []
    ids = set(map(id, apart))
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in ids]
    return [part for part in (rest, apart) if part]


def optimizer_of(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser over :func:`parameter_groups`.

    Raises:
        InputError: nothing is left to train.
    """
    groups = parameter_groups(network, settings)
    if not groups:
        raise InputError("nothing is left to train: unfreeze some of the backbone")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
        )
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True if on_gpu else None)


def schedule(step: int, steps: int, settings: TrainSettings) -> float:
    """Factor on every learning rate before step ``step`` of ``steps``: warm-up times poly decay times milestones."""
    warm = max(1, round(settings.warmup * steps))
    epochs = settings.epochs
    assert epochs != "auto", "resolved when the training begins"
    passed = sum(step * epochs >= milestone * steps for milestone in settings.milestones)
    return min(1.0, (step + 1) / warm) * (1 - step / steps) ** settings.power * 0.1**passed
