"""VGG-16 (Simonyan and Zisserman, ICLR 2015) with a map fine enough to localize on.

timm's has stride 32 only. This is the lineage's variant (DeepLab-LargeFOV, OAA, MCIS): the last pooling is left out; at
stride 8 the one before keeps the map's size (3x3, stride 1) and the last three convolutions have dilation 2 in its
place. At stride 16 it halves the map, and nothing is dilated. No batch norm; every convolution has a bias.

Blocks conv1 to conv5, each with the pooling that follows it. Layers keep their numbers in torchvision's ``features``,
which are also timm's and those of the released checkpoints: ``conv2.5`` is ``features.5``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError, listed

STRIDES = (8, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights, RGB in [0, 1]
BLOCKS = (("conv1", 64, 2), ("conv2", 128, 2), ("conv3", 256, 3), ("conv4", 512, 3), ("conv5", 512, 3))
POOLS = (4, 9, 16, 23, 30)
RELEASED = "vgg."  # before every name of the network in the released checkpoints of OAA's lineage
HEADS = ("classifier.", "pre_logits.", "head.", "fc.")  # of ImageNet classifiers


def features() -> nn.ModuleDict:
    """The 13 convolutions by their number, weights N(0, 2 / (9 outputs)), biases 0."""
    convs = nn.ModuleDict()
    number, channels = 0, 3
    for _, width, count in BLOCKS:
        for _ in range(count):
            conv = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            convs[str(number)] = conv
            number, channels = number + 2, width
        number += 1
    return convs


def chain(convs: nn.ModuleDict, stride: int) -> list[tuple[str, nn.Module]]:
    """The convolutions as named blocks from images to ``[batch 512 rows columns]`` at this stride."""
    assert stride in STRIDES, stride
    blocks: list[tuple[str, nn.Module]] = []
    start = 0
    for (name, _, _), end in zip(BLOCKS, POOLS, strict=True):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(start, end, 2):
            layers[str(number)] = convs[str(number)]
            layers[str(number + 1)] = nn.ReLU(inplace=True)
        if name == "conv4" and stride == 8:
            layers[str(end)] = nn.MaxPool2d(3, 1, 1)
        elif name != "conv5":
            layers[str(end)] = nn.MaxPool2d(2, 2)
        elif stride == 8:
            for layer in layers.values():
                if isinstance(layer, nn.Conv2d):
                    layer.dilation, layer.padding = (2, 2), (2, 2)
        blocks.append((name, nn.Sequential(layers)))
        start = end + 1
    return blocks


def copy(convs: nn.ModuleDict, state: Mapping[str, Tensor]) -> None:
    """Tensors named ``features.0.weight`` and so on into the convolutions."""
    convs.load_state_dict({name: state[f"features.{name}"] for name in convs.state_dict()})


def load(convs: nn.ModuleDict, path: Path) -> None:
    """The convolutions of a user's file: torchvision's or timm's names, a classifier on top or not; or a released
    checkpoint with ``vgg.`` before them, whose other tensors are its method's to read.

    Raises:
        InputError: tensors missing, of another shape, or of something that is neither.
    """
    state = read_state_dict(path)
    released = any(name.startswith(RELEASED) for name in state)
    state = {name.removeprefix(RELEASED): value for name, value in state.items()}
    own = {f"features.{name}": value for name, value in convs.state_dict().items()}
    missing = [name for name in own if name not in state]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of VGG-16's 26 tensors ({listed(missing)}): give VGG-16 weights with "
            "torchvision's names"
        )
    wrong = [name for name in own if state[name].shape != own[name].shape]
    if wrong:
        raise InputError(
            f"{path} does not fit VGG-16: {wrong[0]} is {tuple(state[wrong[0]].shape)} in the file and "
            f"{tuple(own[wrong[0]].shape)} in the network ({len(wrong)} such)"
        )
    left = [name for name in state if name not in own and not name.startswith(HEADS)]
    if left and not released:
        raise InputError(
            f"{path} holds another network on top of VGG-16 ({listed(left)}): give the weights of plain VGG-16"
        )
    copy(convs, state)
