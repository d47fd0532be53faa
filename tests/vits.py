"""Small vision transformers of timm's own classes, as the backbones of the real ones are built."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.backbones.timm_models import _wrap

CONFIG = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CLIP_LIKE = {"pre_norm": True, "act_layer": "quick_gelu", "num_classes": 8}
default_cfgs: dict[str, Any] = {}  # timm looks for it beside registered models


def _model(patch: int = 4, **options: Any) -> VisionTransformer:
    given = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True, **options}
    model = VisionTransformer(img_size=8 * patch, patch_size=patch, **given)
    with torch.no_grad():
        for parameter in model.parameters():  # timm's start leaves attention flat
            parameter += 0.05 * torch.randn(parameter.shape)
    model.pretrained_cfg = CONFIG
    return model


@register_model
def tiny_clip_for_tests(pretrained: bool = False, output_stride: None = None, **options: Any) -> VisionTransformer:
    """For `--backbone tiny_clip_for_tests --weights none`."""
    options.pop("pretrained_cfg", None), options.pop("pretrained_cfg_overlay", None), options.pop("cache_dir", None)
    return _model(8, **CLIP_LIKE, **options)


@register_model
def tiny_vit_for_tests(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """With four registers, as DINOv2's; for `--backbone tiny_vit_for_tests --weights none`."""
    options.pop("pretrained_cfg", None), options.pop("pretrained_cfg_overlay", None), options.pop("cache_dir", None)
    return _model(8, reg_tokens=4, **options)


def tiny_vit(*, seed: int = 0, name: str = "", patch: int = 4, registers: int = 0, **options: Any) -> Backbone:
    """Two blocks of two heads, 16 channels, one class token, made for photos of 8 x 8 patches."""
    torch.manual_seed(seed)
    model = _model(patch, reg_tokens=registers, **options)
    backbone = _wrap(name, model, CONFIG, 16)
    backbone.built = BackboneSettings(name=name, weights="none") if name else None
    return backbone


def tiny_clip(name: str = "vit_base_patch16_clip_quickgelu_224.openai", **options: Any) -> Backbone:
    """An image tower as CLIP's: a norm before the blocks, QuickGELU, a projection to 8 numbers."""
    return tiny_vit(**{"name": name, **CLIP_LIKE, **options})


def tiny_siglip(name: str = "vit_base_patch16_siglip_224.v2_webli") -> Backbone:
    """An image tower as SigLIP's: no class token, pooled by attention."""
    return tiny_vit(name=name, class_token=False, global_pool="map")
