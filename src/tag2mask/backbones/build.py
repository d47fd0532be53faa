"""A backbone by name, and where its weights come from: the embedded package, a file, or the hub."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tag2mask.backbones import resnet38
from tag2mask.backbones.chain import Backbone
from tag2mask.backbones.embedded import EMBEDDED, embedded_file
from tag2mask.backbones.settings import BackboneSettings
from tag2mask.backbones.timm_models import build_timm
from tag2mask.errors import InputError, unknown
from tag2mask.files import bytes_digest

# Worth naming first; every timm model with a feature map works.
BACKBONES: dict[str, str] = {
    "tf_efficientnet_lite0": "embedded weights, no hub needed",
    "resnet50": "",
    "resnet101": "",
    "vgg16.tv_in1k": "",
    "convnext_tiny": "",
    "vit_small_patch14_dinov2.lvd142m": "",
    "vit_base_patch14_dinov2.lvd142m": "",
    "vit_base_patch16_224.orig_in21k_ft_in1k": "",
    "deit_small_patch16_224.fb_in1k": "",
    resnet38.NAME: "of PSA, SEAM, EPS, SMAF; needs --weights FILE (.params or .pth), --backbone.output-stride 8",
}


def known() -> tuple[str, ...]:
    """The names of :data:`BACKBONES`."""
    return tuple(BACKBONES)


def check_settings(settings: BackboneSettings) -> None:
    """The name exists and the weights file is there; builds nothing.

    Raises:
        InputError: otherwise.
    """
    if settings.name == resnet38.NAME:
        resnet38.check_settings(settings)
    else:
        import timm

        architecture = settings.name.split(".")[0]
        if not timm.is_model(architecture):
            near = [model for model in (*timm.list_models(), resnet38.NAME) if model[:4] == architecture[:4]]
            raise unknown("backbone", settings.name, near or known())
    if settings.weights not in ("auto", "none") and not Path(settings.weights).is_file():
        raise InputError(f"no weights file at {settings.weights}: give an existing .safetensors or .pth, auto or none")


def build(settings: BackboneSettings) -> Backbone:
    """The backbone of these settings, weights loaded, frozen as asked.

    Raises:
        InputError: an unknown name (nearest named), weights that cannot be had, an output stride it does not have.
    """
    check_settings(settings)
    backbone = resnet38.build(settings) if settings.name == resnet38.NAME else build_timm(settings)
    backbone.built = settings
    if settings.freeze:
        backbone.freeze_until(backbone.names[-1])
    elif settings.freeze_until is not None:
        backbone.freeze_until(settings.freeze_until)
    if settings.freeze_norms:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
    return backbone


def weights_digest(settings: BackboneSettings) -> str:
    """What the weights are, by their bytes: the digest of the file they come from, embedded or given; ``none``; or
    ``hub:NAME`` of timm's, which are fixed by their name.

    Raises:
        InputError: the file is not there.
    """
    check_settings(settings)
    architecture = settings.name.split(".")[0]
    if settings.weights == "none":
        return "none"
    if settings.weights != "auto":
        return bytes_digest(Path(settings.weights))
    if architecture in EMBEDDED:
        return bytes_digest(embedded_file(architecture))
    return f"hub:{settings.name}"


def repository(settings: BackboneSettings) -> str | None:
    """Of the hub, where timm fetches the weights of a name; None: it knows none."""
    import timm

    config = timm.get_pretrained_cfg(settings.name, allow_unregistered=True)
    return None if config is None else config.hf_hub_id
