"""Weights and states of a training on disk, as safetensors: nothing is pickled."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask import processes
from tag2mask.errors import DamagedArtefact, InputError
from tag2mask.files import atomic
from tag2mask.training.sharding import is_split, split_like, whole

log = logging.getLogger("tag2mask")


def save_model(network: nn.Module, path: Path) -> None:
    """Weights as safetensors, atomically; by the main process alone."""
    from safetensors.torch import save

    if not processes.is_main():
        return
    with atomic(path, "wb") as file:
        file.write(save({n: t.detach().contiguous().cpu() for n, t in network.state_dict().items()}))


def load_model(network: nn.Module, path: Path) -> None:
    """Weights written by :func:`save_model`.

    Raises:
        DamagedArtefact: they cannot be read, or are not finite numbers; the file is moved aside.
        InputError: something is missing or left over.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedArtefact(path, str(error)) from error
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise DamagedArtefact(path, f"{broken[0]} holds numbers that are not finite")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2][:200]
        raise InputError(
            f"{path} does not fit this model, as that of another version of tag2mask ({reason}): train again in a new "
            "folder, or use the version that made it"
        ) from error
    channels_last(network)


def channels_last(network: nn.Module) -> nn.Module:
    """Convolutions in the memory format in which they are fast."""
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def save_checkpoint(path: Path, key: str, step: int, network: nn.Module, optimizer: Any) -> None:
    """Model, optimiser state and step in one file: everything needed to continue, with any number of processes. Every
    process must call it; the main one writes."""
    from safetensors.torch import save

    tensors = {f"model.{n}": t for n, t in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{field}.{name}"] = torch.as_tensor(value)
    content = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if processes.is_main():
            content[name] = tensor.contiguous().cpu()
    if processes.is_main():
        metadata = {"key": key, "step": str(step), "digest": _digest(content, key, str(step))}
        with atomic(path, "wb") as file:
            file.write(save(content, metadata=metadata))


def _digest(tensors: dict[str, Tensor], key: str, step: str) -> str:
    """Of everything in a checkpoint, so that damage which can still be read is known as such."""
    digest = hashlib.blake2b(f"{key} {step}".encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def restore_checkpoint(path: Path, key: str, network: nn.Module, optimizer: Any) -> int:
    """The step to go on from; 0 when there is no checkpoint of this key and network, or it is damaged."""
    if not path.exists():
        return 0
    try:
        metadata, tensors = _read(path)
        if metadata["digest"] != _digest(tensors, metadata["key"], metadata["step"]):
            raise ValueError("other content than was written")
        step, state = int(metadata["step"]), _optimizer_state(tensors)
    except Exception as error:  # safetensors raises many types on a damaged file, and its content may be anything
        log.info("the checkpoint %s is damaged (%s): this training begins anew", path, type(error).__name__)
        return 0
    model = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    own, parameters = network.state_dict(), dict(network.named_parameters())
    fits = model.keys() == own.keys() and all(model[name].shape == own[name].shape for name in own)
    if metadata.get("key") != key or not fits or not state.keys() <= parameters.keys():
        return 0
    network.load_state_dict({name: split_like(tensor, own[name]) for name, tensor in model.items()})
    _restore_optimizer(optimizer, state, parameters)
    return step


def _restore_optimizer(
    optimizer: Any, state: dict[str, dict[str, Tensor]], parameters: dict[str, nn.Parameter]
) -> None:
    """By the names of parameters, for groups and their order depend on how they are split."""
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    ordered = [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]
    by_number = {
        number: {field: _laid_out(value, parameters[name]) for field, value in state[name].items()}
        for number, name in enumerate(ordered)
        if name in state
    }
    optimizer.load_state_dict({"state": by_number, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """The state of a parameter in its memory format, which a fused optimiser insists on; or this process's part."""
    value = split_like(value, parameter)
    if value.shape != parameter.shape or is_split(value):
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the optimiser keeps of each parameter, by the parameter's name."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, field, name = key.split(".", 2)
            state.setdefault(name, {})[field] = tensor
    return state
