r"""ResNet-38d: the wide pre-activation network of Wu, Shen and van den Hengel ("Wider or Deeper", Pattern Recognition
2019) as AffinityNet cut it to output stride 8; the backbone of PSA, SEAM, EPS and SMAF.

Two blocks, both with the normalisation first; :math:`a = \mathrm{ReLU}(\mathrm{BN}(x))`:

* residual: :math:`\mathrm{conv}_{3\times3}(\mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}_{3\times3}(a))))` plus :math:`x`,
  or plus a 1x1 convolution of :math:`a` (not of :math:`x`) where width or resolution change;
* bottleneck: 1x1, dilated 3x3, 1x1, channels dropped before the last two; always plus a 1x1 convolution of :math:`a`.

No convolution has a bias. Names are the lineage's (``b5_1.conv_branch2a.weight``), so its files load as they are. All
batch norms stay as pretrained, statistics and factors, and so do the first four blocks (:data:`FIXED`); dropout is
active in training. An input of n pixels becomes :math:`\lfloor (n-1)/2 \rfloor + 1` cells at each of the three strides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.backbones import weights
from tag2mask.backbones.chain import Backbone
from tag2mask.backbones.mxnet import read_params
from tag2mask.backbones.settings import BackboneSettings
from tag2mask.errors import InputError, listed

NAME = "resnet38d"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIXED = ("conv1a", "b2", "b2_1", "b2_2")
"""Blocks that never learn."""
HEADS = ("fc8.", "cov_feat.", "bn.")
"""What files of this lineage hold and the backbone does not."""

# name, channels in, middle, out, stride, dilation of the first and of the second 3x3 convolution
RESIDUAL = (
    ("b2", 64, 128, 128, 2, 1, 1),
    *((f"b2_{i}", 128, 128, 128, 1, 1, 1) for i in (1, 2)),
    ("b3", 128, 256, 256, 2, 1, 1),
    *((f"b3_{i}", 256, 256, 256, 1, 1, 1) for i in (1, 2)),
    ("b4", 256, 512, 512, 2, 1, 1),
    *((f"b4_{i}", 512, 512, 512, 1, 1, 1) for i in (1, 2, 3, 4, 5)),
    ("b5", 512, 512, 1024, 1, 1, 2),
    *((f"b5_{i}", 1024, 512, 1024, 1, 2, 2) for i in (1, 2)),
)


def _conv(channels: int, out: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, side, stride, dilation * (side // 2), dilation, bias=False)


class NormRelu(nn.BatchNorm2d):
    """Batch norm and ReLU under the norm's own names."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu_()


class ResBlock(nn.Module):
    def __init__(self, channels: int, middle: int, out: int, stride: int, first: int, second: int) -> None:
        super().__init__()
        self.bn_branch2a = NormRelu(channels)
        self.conv_branch2a = _conv(channels, middle, 3, stride, first)
        self.bn_branch2b1 = NormRelu(middle)
        self.conv_branch2b1 = _conv(middle, out, 3, 1, second)
        self.conv_branch1 = None if channels == out and stride == 1 else _conv(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = self.bn_branch2a(x)
        main = self.conv_branch2b1(self.bn_branch2b1(self.conv_branch2a(a)))
        return main + (x if self.conv_branch1 is None else self.conv_branch1(a))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, first: int, second: int, out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = NormRelu(channels)
        self.conv_branch2a = _conv(channels, first, 1)
        self.bn_branch2b1 = NormRelu(first)
        self.conv_branch2b1 = _conv(first, second, 3, 1, dilation)
        self.bn_branch2b2 = NormRelu(second)
        self.conv_branch2b2 = _conv(second, out, 1)
        self.conv_branch1 = _conv(channels, out, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        a = self.bn_branch2a(x)
        main = self.conv_branch2b1(self.dropout(self.bn_branch2b1(self.conv_branch2a(a))))
        main = self.conv_branch2b2(self.dropout(self.bn_branch2b2(main)))
        return main + self.conv_branch1(a)


class ResNet38d(Backbone):
    """The chain of blocks ``conv1a`` to ``bn7``: 4096 channels at stride 8.

    Args:
        thin: every width is divided by this: a small network of the same names, to try things out.
    """

    def __init__(self, thin: int = 1) -> None:
        chain: list[tuple[str, nn.Module]] = [("conv1a", _conv(3, 64 // thin, 3))]
        for name, channels, middle, out, stride, first, second in RESIDUAL:
            block = ResBlock(channels // thin, middle // thin, out // thin, stride, first, second)
            chain.append((name, block))
        for name, widths, dropout in (("b6", (1024, 512, 1024, 2048), 0.3), ("b7", (2048, 1024, 2048, 4096), 0.5)):
            chain.append((name, Bottleneck(*(width // thin for width in widths), dilation=4, dropout=dropout)))
        chain.append(("bn7", NormRelu(4096 // thin)))
        strides, stride = [1], 1
        for block in RESIDUAL:
            stride *= block[4]
            strides.append(stride)
        super().__init__(chain, 4096 // thin, 8, MEAN, STD, strides=[*strides, 8, 8, 8])
        for name in FIXED:
            self.blocks[name].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def taps(self, images: Tensor) -> dict[str, Tensor]:
        """The lineage's intermediate features of normalised images: ``conv4`` (512 channels) and ``conv5`` (1024) are
        the normalised inputs of b5 and of b6, ``conv6`` (4096) is the output; all at stride 8."""
        taps: dict[str, Tensor] = {}
        x = images
        for name, block in self.blocks.items():
            if name in ("b5", "b6"):
                assert isinstance(block, (ResBlock, Bottleneck))
                taps["conv4" if name == "b5" else "conv5"] = block.bn_branch2a(x)
            x = block(x)
        return taps | {"conv6": x}


def check_settings(settings: BackboneSettings) -> None:
    """:class:`InputError` where the settings ask for what this network has not."""
    if settings.weights == "auto":
        raise InputError(
            f"the weights of {NAME} are nowhere to be fetched from: give --weights FILE (the ImageNet model's "
            ".params as published, or a .pth or .safetensors of its lineage), or --weights none for random ones"
        )
    if settings.output_stride != 8:
        raise InputError(f"{NAME} has output stride 8, not {settings.output_stride}: give --backbone.output-stride 8")


def build(settings: BackboneSettings) -> ResNet38d:
    """The network with its weights.

    Raises:
        InputError: as :func:`load_file`.
    """
    backbone = ResNet38d()
    if settings.weights != "none":
        load_file(backbone, Path(settings.weights))
    return backbone


def official_names(backbone: Backbone) -> dict[str, str]:
    """The lineage's name of each tensor (``b5.bn_branch2a.weight``) to ours, in its order."""
    return {name.removeprefix("blocks."): name for name in backbone.state_dict()}


def load_file(backbone: Backbone, path: Path) -> None:
    """Weights from MXNet's ``.params``, a torch file or safetensors under the lineage's names; heads are passed over.

    Raises:
        InputError: not such a file, or of another network.
    """
    source = from_mxnet(path) if path.suffix.lower() == ".params" else weights.read_state_dict(path)
    names, own = official_names(backbone), backbone.state_dict()
    matched = weights.matching({name: own[ours] for name, ours in names.items()}, source, path, HEADS)
    backbone.load_state_dict({names[name]: tensor for name, tensor in matched.items()}, strict=False)


def from_mxnet(path: Path) -> dict[str, Tensor]:
    """The tensors of the released ImageNet model (``ilsvrc-cls_rna-a1_cls1000_ep-0001.params``) under the lineage's
    names; its 1000-class layer is left out.

    Raises:
        InputError: a damaged file, or names that are not this network's.
    """
    tensors: dict[str, Tensor] = {}
    strange = []
    for name, array in read_params(path).items():
        bare = name.partition(":")[2] or name  # "arg:" and "aux:"
        if bare.startswith("linear1000"):
            continue
        official = official_name(bare)
        if official is None:
            strange.append(bare[:60])
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused below
                tensors[official] = torch.from_numpy(np.array(array, np.float32))
    if strange:
        raise InputError(
            f"{path} holds weights of another network ({listed(strange)}): give ResNet-38's, as published with "
            "'Wider or Deeper' (names such as res2a_branch1_weight)"
        )
    weights.check_weights(tensors, path)
    return tensors


KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def official_name(mxnet: str) -> str | None:
    """``res4b5_branch2a_weight`` to ``b4_5.conv_branch2a.weight``, ``bn7_gamma`` to ``bn7.weight``; None: not ours.

    Stage and letter name the block: ``2a`` is b2, ``2b1`` is b2_1. What comes out may still be no tensor of ours.
    """
    if mxnet == "conv1a_weight":
        return "conv1a.weight"
    layer, _, kind = mxnet.partition("_")
    if layer == "bn7" and kind in KINDS:
        return f"bn7.{KINDS[kind]}"
    prefix, stage = ("res", layer[3:]) if layer.startswith("res") else ("bn", layer[2:])
    branch, _, kind = kind.partition("_")
    known = {"weight": "weight"} if prefix == "res" else KINDS
    if (
        not layer.startswith(prefix)
        or kind not in known
        or not branch.startswith("branch")
        or stage[:1] not in "234567"
    ):
        return None
    letter, number = stage[1:2], stage[2:]
    if letter + number != "a" and not (letter == "b" and number.isdigit()):
        return None
    block = f"b{stage[0]}" + (f"_{number}" if number else "")
    return f"{block}.{'conv' if prefix == 'res' else 'bn'}_{branch}.{known[kind]}"
