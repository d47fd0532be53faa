"""Models of segmentation_models_pytorch over a timm encoder, with the run's weights in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.errors import InputError
from tag2mask.types import Views

SMP = ("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "deeplabv3", "deeplabv3plus", "upernet")
MINIMUM = {"pan": 128}  # pixels: its features, a cell for every 16, are halved three times


class SmpSegmenter(nn.Module):
    """A segmentation_models_pytorch model over a timm encoder of the same name and weights as the run's backbone.

    Images are padded to a multiple of 32, which those decoders ask for, and the logits cut back.

    Args:
        minimum: the shortest side that the model takes; smaller images are padded to it.
    """

    def __init__(self, model: Any, minimum: int = 32) -> None:
        super().__init__()
        self.model, self.minimum = model, minimum
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                _OneValue(norm)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """Of the encoder (:class:`tag2mask.protocols.DeclaresPretrained`)."""
        return self.model.encoder.parameters()

    def segment(self, views: Views) -> Tensor:
        assert not views.stored, "checked in build"
        height, width = views.images.shape[2:]
        bottom, right = (_padded_side(side, self.minimum) - side for side in (height, width))
        padded = F.pad(views.images, (0, right, 0, bottom))
        return self.model(padded)[..., :height, :width]


def _padded_side(side: int, minimum: int) -> int:
    """The next multiple of 32, at least the minimum: written so that an exporter, to which a side is a symbol, sees
    that it is one. Otherwise the sizes of all layers become expressions that it does not come to the end of."""
    multiple = (side + 31) // 32 * 32
    return multiple if minimum <= 32 else max(multiple, minimum)


class _OneValue:
    """A norm behind a pooling over the whole view has one value a channel in a batch of one photo, and no deviation to
    divide by: it then takes its running statistics, as in inference."""

    def __init__(self, norm: nn.Module) -> None:
        self.switched = False
        norm.register_forward_pre_hook(self.before)
        norm.register_forward_hook(self.after)

    def before(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.switched = norm.training and inputs[0].numel() == inputs[0].shape[1]
        if self.switched:
            norm.eval()

    def after(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.switched:
            norm.train()


def build_smp(name: str, backbone: Backbone, labels: int, backbone_settings: BackboneSettings) -> Any:
    """The model over 1 + classes ``labels``, the backbone's weights in its encoder.

    Raises:
        InputError: the backbone's architecture is no encoder for it.
    """
    import segmentation_models_pytorch as smp

    architecture = backbone_settings.name
    try:
        model: Any = smp.create_model(name, encoder_name=f"tu-{architecture}", encoder_weights=None, classes=labels)
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"smp:{name} cannot be built on {architecture}: {error}; try another backbone") from error
    encoder: nn.Module = model.encoder.model
    # the backbone is the same timm model cut into blocks: its tensors by position, in the encoder's order of names
    own = encoder.state_dict()
    source = _timm_names(backbone)
    fitting = {n: source[n] for n in own if n in source and source[n].shape == own[n].shape}
    if len(fitting) < len(own) * 0.9:
        raise InputError(f"smp:{name}: the weights of {architecture} do not fit its encoder; try another backbone")
    encoder.load_state_dict(fitting, strict=False)
    return model


def _timm_names(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's tensors under the names timm gives them."""
    named = {}
    for name, tensor in backbone.state_dict().items():
        _, block, rest = name.split(".", 2)
        if block == "stem" and rest[0].isdigit():
            index, rest = rest.split(".", 1)
            first = "conv_stem" if "block0" in backbone.names else "conv1"
            named[f"{(first, 'bn1')[int(index)]}.{rest}"] = tensor
        elif block == "head":
            index, rest = rest.split(".", 1)
            named[f"{('conv_head', 'bn2')[int(index)]}.{rest}"] = tensor
        elif block.startswith("block"):
            named[f"blocks.{block[5:]}.{rest}"] = tensor
        elif block.startswith("stage"):
            named[f"stages.{block[5:]}.{rest}"] = tensor
            named[f"stages_{block[5:]}.{rest}"] = tensor
        else:
            named[f"{block}.{rest}"] = tensor
            if block == "stem":
                index, _, tail = rest.partition(".")
                named[f"stem_{index}.{tail}"] = tensor
    return named
