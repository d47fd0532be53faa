"""timm's models, cut into a chain of named blocks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.backbones import activations, depthwise, vgg16
from tag2mask.backbones.chain import Backbone
from tag2mask.backbones.embedded import EMBEDDED, load_embedded
from tag2mask.backbones.settings import BackboneSettings
from tag2mask.backbones.tokens import TokenBlock, TokenGrid, Tokens, rope_of
from tag2mask.backbones.weights import load_file
from tag2mask.errors import InputError


def build_timm(settings: BackboneSettings) -> Backbone:
    """Any timm model that gives a feature map, with the weights that the settings ask for.

    Raises:
        InputError: weights that cannot be had or do not fit; a model or an output stride that cannot be.
    """
    import timm
    from timm.data.config import resolve_data_config

    name = settings.name
    architecture = name.split(".")[0]
    pretrained = settings.weights == "auto" and architecture not in EMBEDDED
    if architecture == "vgg16" and settings.output_stride in vgg16.STRIDES:
        features = vgg16.features()
        if pretrained:
            vgg16.copy(features, _create(timm, name, True, 32).state_dict())
        elif settings.weights != "none":
            vgg16.load(features, Path(settings.weights))
        chain = vgg16.chain(features, settings.output_stride)
        return _measured(chain, vgg16.MEAN, vgg16.STD, settings.output_stride)
    model = _create(timm, name, pretrained, settings.output_stride)
    if settings.weights == "auto" and architecture in EMBEDDED:
        load_embedded(model, architecture)
    whole = True
    if settings.weights not in ("auto", "none"):
        whole = load_file(model, Path(settings.weights))
    config = resolve_data_config(model.pretrained_cfg)
    try:
        backbone = _wrap(name, model, config, settings.output_stride)
    except (AssertionError, RuntimeError) as error:
        raise _of_one_size(name) from error  # the probe is of another size than the model was made for
    backbone.top = backbone.top if whole else ()
    return backbone


def _of_one_size(name: str) -> InputError:
    return InputError(
        f"'{name}' cannot take photos of any size, since its position embedding cannot be resized: use a plain ViT "
        "(vit_*, deit_*, deit3_*, flexivit_*; DINOv3), whose embedding can, or a CNN (`tag2mask list backbones`)"
    )


def _create(timm: Any, name: str, pretrained: bool, output_stride: int) -> Any:
    attempts: list[dict[str, object]] = [{"output_stride": output_stride}, {"dynamic_img_size": True}, {}]
    for options in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # timm's notes on mapped model names
                return timm.create_model(name, pretrained=pretrained, **options)
        except (TypeError, AssertionError, NotImplementedError):
            continue  # this family does not take the option
        except Exception as error:
            if not pretrained:
                raise
            raise InputError(
                f"the weights of '{name}' cannot be fetched from the hub ({type(error).__name__}): check the network "
                "or HF_HUB_OFFLINE, give a file or none (--weights; --segmenter.weights for a backbone of its own), or "
                "use the embedded default tf_efficientnet_lite0"
            ) from error
    raise InputError(f"timm cannot build '{name}': `tag2mask list backbones` names those that work")


def _wrap(name: str, model: Any, config: dict[str, Any], output_stride: int) -> Backbone:
    size_divisor = 1
    if hasattr(model, "patch_embed") and hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens"):
        if not all(hasattr(model, needed) for needed in Tokens.needs) or getattr(model, "rope_mixed", False):
            raise _of_one_size(name)
        prefix = model.num_prefix_tokens
        chain: list[tuple[str, nn.Module]] = [("embed", Tokens(model))]
        chain += [(f"block{i}", TokenBlock(block, prefix, rope_of(model))) for i, block in enumerate(model.blocks)]
        chain.append(("norm", TokenGrid(model.norm, prefix)))
        size_divisor = int(model.patch_embed.patch_size[0])
        pool = [model.attn_pool] if getattr(model, "attn_pool", None) is not None else []
        top = (*pool, model.fc_norm, model.head)
    else:
        known_chain, top = _blocks_of(model), ()
        chain = known_chain if known_chain is not None else [("features", _Whole(model, model.num_features))]
    backbone = _measured(chain, config["mean"], config["std"], output_stride, size_divisor)
    backbone.top = top
    return backbone


def _blocks_of(model: Any) -> list[tuple[str, nn.Module]] | None:
    """The chain of blocks of the families we know; None for the others."""
    has = lambda *names: all(hasattr(model, name) for name in names)  # noqa: E731
    if has("conv_stem", "bn1", "blocks", "conv_head"):  # EfficientNet, MobileNet
        chain: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(model.conv_stem, model.bn1))]
        chain += [(f"block{i}", block) for i, block in enumerate(model.blocks)]
        head = [model.conv_head] + ([model.bn2] if hasattr(model, "bn2") else [])
        # MobileNetV3 pools before its head convolution; its map ends at the last block
        return chain if not hasattr(model, "bn2") else [*chain, ("head", nn.Sequential(*head))]
    if has("conv1", "bn1", "layer1", "layer4"):  # ResNet and its kin
        stem = [model.conv1, model.bn1] + ([model.act1] if hasattr(model, "act1") else [])
        chain: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*stem, model.maxpool))]
        return chain + [(f"layer{i}", getattr(model, f"layer{i}")) for i in range(1, 5)]
    if has("stem", "stages", "norm_pre"):  # ConvNeXt
        chain = [("stem", model.stem)] + [(f"stage{i}", stage) for i, stage in enumerate(model.stages)]
        return [*chain, ("norm", model.norm_pre)]
    return None


class _Whole(nn.Module):
    """A model of a family we do not know inside: one block, channels first."""

    def __init__(self, model: Any, channels: int) -> None:
        super().__init__()
        self.model, self.channels = model, channels

    def forward(self, images: Tensor) -> Tensor:
        x = self.model.forward_features(images)
        if x.ndim == 4 and x.shape[1] != self.channels and x.shape[3] == self.channels:
            x = x.permute(0, 3, 1, 2)  # Swin and its kin are channels last
        return x


def _measured(
    chain: Sequence[tuple[str, nn.Module]], mean: Any, std: Any, output_stride: int, size_divisor: int = 1
) -> Backbone:
    """The backbone of this chain, its channels and strides measured by a small forward."""
    backbone = Backbone(chain, 0, 0, mean, std, size_divisor)
    depthwise.use(backbone)
    activations.use(backbone)
    side = 8 * output_stride if size_divisor == 1 else 8 * size_divisor
    with torch.inference_mode():
        backbone.eval()
        probe = torch.zeros(1, 3, side, side)
        for key, block in backbone.blocks.items():
            probe = block(probe)
            backbone.strides[key] = side // probe.shape[-1]
    if probe.ndim != 4:
        raise InputError("this timm model gives no feature map: choose a CNN or a ViT (`tag2mask list backbones`)")
    backbone.channels, backbone.stride = probe.shape[1], side // probe.shape[3]
    if size_divisor == 1 and backbone.stride != output_stride:
        raise InputError(
            f"this backbone has output stride {backbone.stride}, not {output_stride}: "
            f"give --backbone.output-stride {backbone.stride}"
        )
    return backbone
