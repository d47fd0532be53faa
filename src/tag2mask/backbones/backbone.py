"""One small interface over timm's models: a chain of named blocks from images to a feature grid.

A convolutional network hands ``[batch channels rows columns]`` from block to block. A vision transformer hands
tokens; between its blocks they travel as ``[batch channels 1+rows columns]``, prefix tokens (class, registers) in
the first row, so that a half-way state can be stored and taken up again like any other. The last block gives the
plain grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from tag2mask.backbones import depthwise, vgg16
from tag2mask.backbones import weights as weight_files
from tag2mask.errors import InputError, unknown
from tag2mask.settings import ByFact, Range, check_values
from tag2mask.types import Views

RESNET38 = "resnet38d"  # the one that is not timm's


@dataclass(frozen=True)
class BackboneSettings:
    """Which feature extractor, with which weights, and what of it learns."""

    name: str = "tf_efficientnet_lite0"
    """Any timm model that gives a feature map, by its timm name; or resnet38d (PSA, SEAM, EPS, SMAF)."""
    weights: Annotated[str, ByFact("weights", "none")] = "auto"
    """auto: embedded for the default backbone, otherwise timm's from the hub; none: random; or a file."""
    output_stride: Annotated[int, Range(at_least=1, at_most=32)] = 16
    """Pixels per feature cell asked of a CNN (8, 16 or 32); a ViT's is its patch size."""
    freeze: bool = False
    """Train nothing of it: its features are computed once and kept on disk."""
    freeze_until: str | None = None
    """Keep the output of the blocks up to and including this one on disk, and train the blocks above it."""

    def __post_init__(self) -> None:
        check_values(self, "backbone")


class Backbone(nn.Module):
    """A chain of named blocks.

    Attributes:
        channels: of the last block's output.
        stride: pixels per cell of the last block's output.
        multiple: image sides must be a multiple of this (a ViT's patch; 1 for a CNN).
        mean, std: the normalisation its weights were trained with (per RGB channel, images in [0, 1]).
        blocks: the blocks in order.
        strides: pixels per cell of each block's output, by name (empty when the chain was built without them).
    """

    def __init__(
        self,
        blocks: Sequence[tuple[str, nn.Module]],
        channels: int,
        stride: int,
        mean: Any,
        std: Any,
        multiple: int = 1,
        strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: block for name, block in blocks})
        self.channels, self.stride, self.multiple = channels, stride, multiple
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.strides: dict[str, int] = dict(zip(self.names, strides, strict=True)) if strides else {}
        self.frozen_until: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    def position(self, block: str) -> int:
        """Index of a named block; an unknown name is an error that lists them."""
        if block not in self.blocks:
            raise unknown("block of this backbone", block, self.names)
        return self.names.index(block)

    def until(self, images: Tensor, block: str) -> Tensor:
        """Normalised images ``[batch 3 height width]`` to the output of ``block``, inclusive."""
        x = images
        for name in self.names[: self.position(block) + 1]:
            x = self.blocks[name](x)
        return x

    def forward_from(self, x: Tensor, block: str) -> Tensor:
        """The output of ``block`` to features ``[batch channels rows columns]``."""
        for name in self.names[self.position(block) + 1 :]:
            x = self.blocks[name](x)
        return x

    def outputs(self, images: Tensor, blocks: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, grid ``[batch channels rows columns]``) of the named blocks on the way up; a ViT's without its
        prefix tokens."""
        last = max(self.position(block) for block in blocks)
        x = images
        for name in self.names[: last + 1]:
            x = self.blocks[name](x)
            if name in blocks:
                yield name, x if self.prefix(name) is None else x[:, :, 1:]

    def features(self, views: Views) -> Tensor:
        """Features ``[batch channels rows columns]`` of photos, from wherever they start."""
        return self(views.images, stored=views.stored)

    def forward(self, images: Tensor, *, stored: bool = False) -> Tensor:
        """Features ``[batch channels rows columns]`` of normalised images, or of the stored trunk's output."""
        if stored:
            assert self.frozen_until is not None, "stored features without a frozen trunk"
            return self.forward_from(images, self.frozen_until)
        return self.forward_from(self.until(images, self.names[0]), self.names[0])

    def prefix(self, block: str) -> int | None:
        """Number of prefix tokens in the first row of ``block``'s output; None where it is a plain grid."""
        module = self.blocks[block]
        if isinstance(module, _Tokens):
            return module.num_prefix_tokens
        return module.prefix if isinstance(module, _TokenBlock) else None

    def pointwise(self, block: str) -> bool:
        """Whether each cell of ``block``'s output depends on the same cell of its input alone, as far as we know it."""
        return _pointwise(self.blocks[block])

    def grid(self, x: Tensor, block: str) -> tuple[int, int]:
        """Rows and columns of cells in ``x``, the output of ``block``; a row of prefix tokens is not one of them."""
        return x.shape[2] - (self.prefix(block) is not None), x.shape[3]

    def crop(self, x: Tensor, block: str, rows: slice, columns: slice) -> Tensor:
        """A part of ``x``, the output of ``block``, that the blocks above take for the whole.

        A part of a ViT's tokens gets its own copy of the prefix tokens.

        Raises:
            InputError: the part is narrower than the row of prefix tokens it must carry.
        """
        prefix = self.prefix(block)
        if prefix is None:
            return x[:, :, rows, columns]
        part = x[:, :, 1:][:, :, rows, columns]
        width = part.shape[3]
        if width < prefix:
            raise InputError(
                f"a patch {width} tokens wide cannot carry the {prefix} prefix tokens of this ViT: "
                "use larger views or a coarser grid"
            )
        return torch.cat([x[:, :, :1, :width], part], 2)

    def freeze_until(self, block: str) -> None:
        """No gradient reaches ``block`` and those below it."""
        for name in self.names[: self.position(block) + 1]:
            self.blocks[name].requires_grad_(False)
        self.frozen_until = block

    def train(self, mode: bool = True) -> Backbone:
        """Batch statistics stay those of the pretraining: batches are small and partly padding."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def _pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return all(map(_pointwise, module))
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding in ((0, 0), 0)
    if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, _TokenGrid)):
        return True
    bare = not list(module.children()) and not list(module.parameters())  # activation, dropout, identity; not pooling
    return bare and not hasattr(module, "kernel_size") and not hasattr(module, "output_size")


class _Tokens(nn.Module):
    """Images to position-embedded tokens, packed (the module docstring says how)."""

    needs = (
        "norm_pre", "pos_drop", "cls_token", "reg_token", "pos_embed", "no_embed_class", "dynamic_img_size",
        "num_reg_tokens",
    )  # fmt: skip  # what timm's plain ViTs have, whose position embedding it resizes

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.patch_embed, self.norm_pre, self.pos_drop = vit.patch_embed, vit.norm_pre, vit.pos_drop
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.num_prefix_tokens, self.no_embed_class = vit.num_prefix_tokens, vit.no_embed_class
        self.dynamic_img_size, self.num_reg_tokens = vit.dynamic_img_size, vit.num_reg_tokens
        if hasattr(vit, "dist_token"):  # DeiT's second prefix token
            self.dist_token = vit.dist_token
        self.patch = tuple(vit.patch_embed.patch_size)
        self._embed = type(vit)._pos_embed
        self.patch_drop = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height < self.patch[0] or width < self.patch[1]:
            raise InputError(
                f"a photo of {height}x{width} pixels is smaller than a patch of {self.patch[0]}x{self.patch[1]}: "
                "enlarge it, or use a backbone with smaller patches"
            )
        if height % self.patch[0] or width % self.patch[1]:
            raise InputError(
                f"a photo of {height}x{width} pixels is no whole number of patches of {self.patch[0]}x{self.patch[1]}: "
                "resize or pad it"
            )
        grid = self.patch_embed(images)  # [batch rows columns channels], dynamic size
        rows, columns = grid.shape[1:3]
        tokens = self.norm_pre(self._embed(self, grid))
        return _pack(tokens, self.num_prefix_tokens, rows, columns)


class _TokenBlock(nn.Module):
    def __init__(self, block: nn.Module, prefix: int) -> None:
        super().__init__()
        self.block, self.prefix = block, prefix

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] - 1, x.shape[3]
        return _pack(self.block(_unpack(x, self.prefix)), self.prefix, rows, columns)


class _TokenGrid(nn.Module):
    """The final norm, prefix tokens dropped, tokens back in their grid."""

    def __init__(self, norm: nn.Module, prefix: int) -> None:
        super().__init__()
        self.norm, self.prefix = norm, prefix

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] - 1, x.shape[3]
        tokens = self.norm(_unpack(x, self.prefix))[:, self.prefix :]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def _pack(tokens: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
    first = tokens.new_zeros(len(tokens), columns, tokens.shape[2])
    if prefix > columns:
        raise InputError(f"an image {columns} patches wide is too small for this ViT: use a larger --size")
    first[:, :prefix] = tokens[:, :prefix]
    return torch.cat([first, tokens[:, prefix:]], 1).transpose(1, 2).unflatten(2, (1 + rows, columns))


def _unpack(x: Tensor, prefix: int) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    columns = x.shape[3]
    return torch.cat([tokens[:, :prefix], tokens[:, columns:]], 1)


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


def check(settings: BackboneSettings) -> None:
    """The name exists and the weights file is there; builds nothing."""
    import timm

    architecture = settings.name.split(".")[0]
    if settings.name == RESNET38 and settings.weights == "auto":
        raise InputError(
            f"the weights of {RESNET38} are nowhere to be fetched from: give --weights FILE (the ImageNet model's "
            ".params as published, or a .pth or .safetensors of its lineage), or --weights none for random ones"
        )
    if settings.name == RESNET38 and settings.output_stride != 8:
        raise InputError(
            f"{RESNET38} has output stride 8, not {settings.output_stride}: give --backbone.output-stride 8"
        )
    if settings.name != RESNET38 and architecture not in timm.list_models():
        near = [model for model in (*timm.list_models(), RESNET38) if model[:4] == architecture[:4]]
        raise unknown("backbone", settings.name, near or known())
    if settings.weights not in ("auto", "none") and not Path(settings.weights).is_file():
        raise InputError(f"no weights file at {settings.weights}: give an existing .safetensors or .pth, auto or none")


def build(settings: BackboneSettings) -> Backbone:
    """The backbone of these settings, weights loaded, frozen as asked.

    Raises:
        InputError: an unknown name (nearest named), weights that cannot be had, an output stride it does not have.
    """
    check(settings)
    backbone = _resnet38(settings) if settings.name == RESNET38 else _timm(settings)
    if settings.freeze:
        backbone.freeze_until(backbone.names[-1])
    elif settings.freeze_until is not None:
        backbone.freeze_until(settings.freeze_until)
    return backbone


def _resnet38(settings: BackboneSettings) -> Backbone:
    from tag2mask.backbones import resnet38  # it is built on this module

    backbone = resnet38.ResNet38d()
    if settings.weights != "none":
        resnet38.load_file(backbone, Path(settings.weights))
    return backbone


def _timm(settings: BackboneSettings) -> Backbone:
    import timm
    from timm.data.config import resolve_data_config

    name = settings.name
    architecture = name.split(".")[0]
    pretrained = settings.weights == "auto" and architecture not in weight_files.EMBEDDED
    if architecture == "vgg16" and settings.output_stride in vgg16.STRIDES:
        features = vgg16.features()
        if pretrained:
            vgg16.copy(features, _create(timm, name, True, 32).state_dict())
        elif settings.weights != "none":
            vgg16.load(features, Path(settings.weights))
        chain = vgg16.chain(features, settings.output_stride)
        return _measured(chain, vgg16.MEAN, vgg16.STD, settings.output_stride)
    model = _create(timm, name, pretrained, settings.output_stride)
    if settings.weights == "auto" and architecture in weight_files.EMBEDDED:
        weight_files.load_embedded(model, architecture)
    elif settings.weights not in ("auto", "none"):
        weight_files.load_file(model, Path(settings.weights))
    config = resolve_data_config(model.pretrained_cfg)
    try:
        return _wrap(name, model, config, settings.output_stride)
    except (AssertionError, RuntimeError) as error:
        raise _of_one_size(name) from error  # the probe is of another size than the model was made for


def _of_one_size(name: str) -> InputError:
    return InputError(
        f"'{name}' cannot look at photos of any size, since its position embedding cannot be resized: use a plain ViT "
        "(vit_*, deit_*, deit3_*, flexivit_*), whose embedding can, or a CNN (`tag2mask list backbones`)"
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
                "or HF_HUB_OFFLINE, give --weights FILE, or use the embedded default tf_efficientnet_lite0"
            ) from error
    raise InputError(f"timm cannot build '{name}': `tag2mask list backbones` names those that work")


def _wrap(name: str, model: Any, config: dict[str, Any], output_stride: int) -> Backbone:
    multiple = 1
    if hasattr(model, "patch_embed") and hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens"):
        if not all(hasattr(model, needed) for needed in _Tokens.needs):
            raise _of_one_size(name)
        prefix = model.num_prefix_tokens
        chain: list[tuple[str, nn.Module]] = [("embed", _Tokens(model))]
        chain += [(f"block{i}", _TokenBlock(block, prefix)) for i, block in enumerate(model.blocks)]
        chain.append(("norm", _TokenGrid(model.norm, prefix)))
        multiple = int(model.patch_embed.patch_size[0])
    else:
        known_chain = _blocks_of(model)
        chain = known_chain if known_chain is not None else [("features", _Whole(model, model.num_features))]
    return _measured(chain, config["mean"], config["std"], output_stride, multiple)


def _measured(
    chain: Sequence[tuple[str, nn.Module]], mean: Any, std: Any, output_stride: int, multiple: int = 1
) -> Backbone:
    """The backbone of this chain, its channels and strides found by a small forward."""
    backbone = Backbone(chain, 0, 0, mean, std, multiple)
    depthwise.use(backbone)
    side = 8 * output_stride if multiple == 1 else 8 * multiple
    with torch.inference_mode():
        backbone.eval()
        probe = torch.zeros(1, 3, side, side)
        for key, block in backbone.blocks.items():
            probe = block(probe)
            backbone.strides[key] = side // probe.shape[-1]
    if probe.ndim != 4:
        raise InputError("this timm model gives no feature map: choose a CNN or a ViT (`tag2mask list backbones`)")
    backbone.channels, backbone.stride = probe.shape[1], side // probe.shape[3]
    if multiple == 1 and backbone.stride != output_stride:
        raise InputError(
            f"this backbone has output stride {backbone.stride}, not {output_stride}: "
            f"give --backbone.output-stride {backbone.stride}"
        )
    return backbone


def known() -> tuple[str, ...]:
    """Backbones worth naming first; every timm model with a feature map works."""
    return (
        "tf_efficientnet_lite0",
        "resnet50",
        "resnet101",
        "vgg16.tv_in1k",
        "convnext_tiny",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch14_dinov2.lvd142m",
        "vit_base_patch16_224.orig_in21k_ft_in1k",
        "deit_small_patch16_224.fb_in1k",
        RESNET38,
    )
