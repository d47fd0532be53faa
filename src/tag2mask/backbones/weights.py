"""Files of weights: read without running code, trusted in nothing, matched with a model by name."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tag2mask.archives import check_archive
from tag2mask.errors import InputError, listed

NESTS = ("state_dict", "model", "Net", "model_state")  # where checkpoints keep their tensors; the last two are SMAF's
PLAIN = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pth`` read with ``weights_only`` (no code is run).

    A checkpoint that nests its tensors under a name of :data:`NESTS` is opened; a ``module.`` prefix is dropped.

    Raises:
        InputError: no such file, damaged, more than tensors, or numbers in it that are not finite.
    """
    if not path.is_file():
        raise InputError(f"no weights file at {path}: give an existing .safetensors or .pth file for --weights")
    try:
        content = _read(path)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and is not opened, since that would run its code: "
            "save its state dict alone (safetensors.torch.save_file) and give that"
        ) from error
    except Exception as error:  # torch and safetensors raise many types on a damaged file
        raise InputError(f"cannot read weights from {path} ({type(error).__name__}): is it complete?") from error
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dict (names to tensors): save model.state_dict() and give that")
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    check_weights(state, path)
    return state


def _read(path: Path) -> object:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith((b"PK", b"\x80")):  # torch writes zip archives, before 1.6 a pickle
        raise InputError(
            f"{path} holds no weights (it begins with {start!r}): give a .safetensors or .pth file, fetched whole"
        )
    check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor is of plain, finite numbers that the file holds.

    Raises:
        InputError: one is not; it and ``path`` are named.
    """
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in PLAIN:
            raise InputError(
                f"{path}: {name[:60]!r} is no dense tensor of plain numbers ({tensor.dtype}, {tensor.layout}): "
                "save the model's state dict in float32"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {name[:60]!r} claims more numbers than the file holds: fetch the file again")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {name[:60]!r} holds NaN or infinity, so nothing made with it would mean anything: "
                "give weights of a training that did not diverge"
            )


def load_file(model: nn.Module, path: Path) -> bool:
    """Weights from a user's file; a classifier on top may be missing or of another size, the trunk may not. Gives
    whether all of the model was there."""
    own = model.state_dict()
    matched = matching(own, read_state_dict(path), path, ("classifier.", "fc.", "head.fc.", "head."))
    model.load_state_dict(matched, strict=False)
    return all(name in matched or name.endswith("num_batches_tracked") for name in own)


def matching(
    own: Mapping[str, Tensor], source: Mapping[str, Tensor], path: Path, heads: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors of ``source`` that are among a model's ``own``.

    Args:
        heads: how the names begin of what may be missing or of another size.

    Raises:
        InputError: one of the others is; ``path`` is named.
    """
    trunk = [n for n in own if not n.startswith(heads)]
    wrong = [n for n in trunk if n in source and source[n].shape != own[n].shape]
    missing = [n for n in trunk if n not in source and not n.endswith("num_batches_tracked")]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{path} does not fit this backbone: {name} is {tuple(source[name].shape)} in the file and "
            f"{tuple(own[name].shape)} in the model ({len(wrong)} such); give the weights of the same architecture"
        )
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of this backbone's tensors ({listed(missing)}): "
            "give the weights of the same architecture, under the names of its published code (timm's, if it is timm's)"
        )
    return {n: v for n, v in source.items() if n in own and v.shape == own[n].shape}
