"""A segmenter by name."""

from __future__ import annotations

from torch import nn

from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.errors import InputError, unknown
from tag2mask.segment.balance import LabelBalance
from tag2mask.segment.decoder import Decoder, channels_of, fine_block
from tag2mask.segment.deeplab import Aspp, DeepLab, LargeFov
from tag2mask.segment.pyramid import Pyramid
from tag2mask.segment.settings import SegmenterSettings
from tag2mask.segment.smp import MINIMUM, SMP, SmpSegmenter, build_smp


def known() -> tuple[str, ...]:
    """Names of segmenters."""
    return ("decoder", "deeplab-largefov", "deeplab-v2", *(f"smp:{name}" for name in SMP))


def backbone_of(settings: SegmenterSettings, run: BackboneSettings) -> BackboneSettings:
    """The run's backbone, or the segmenter's own, of which no block is frozen."""
    if settings.backbone is None:
        return run
    stride = run.output_stride if settings.output_stride is None else settings.output_stride
    return BackboneSettings(
        settings.backbone, settings.weights, output_stride=stride, freeze_norms=settings.freeze_norms
    )


def check_settings(settings: SegmenterSettings, *, frozen: bool) -> None:
    """The name exists and goes with the backbone; builds nothing."""
    if settings.name not in known():
        raise unknown("segmenter", settings.name, known())
    if frozen and settings.name.startswith("smp:"):
        raise InputError(
            f"{settings.name} reads every stage of the backbone, so stored features do not serve it: "
            "use decoder, deeplab-largefov or deeplab-v2 with --freeze, or train without --freeze"
        )
    if settings.freeze_norms and settings.name.startswith("smp:"):
        raise InputError(f"--segmenter.freeze-norms is of DeepLab heads, and {settings.name} trains all: leave it out")
    if frozen and settings.pyramid:
        raise InputError(
            "--segmenter.pyramid needs features of other scales than those that are stored: leave it or --freeze out"
        )


def build(
    settings: SegmenterSettings, backbone: Backbone, classes: int, backbone_settings: BackboneSettings
) -> nn.Module:
    """The segmenter of these settings over 1 + ``classes`` labels.

    Raises:
        InputError: an unknown name; a frozen trunk under a model that needs features of every stage.
    """
    check_settings(settings, frozen=backbone.frozen_until is not None)
    labels = 1 + classes
    presence_of = classes if settings.presence else 0
    if settings.name == "decoder":
        fine = fine_block(backbone)
        head = Decoder(backbone.channels, channels_of(backbone, fine), labels, settings)
        segmenter: nn.Module = DeepLab(backbone, head, presence_of, fine)
    elif settings.name == "deeplab-largefov":
        segmenter = DeepLab(backbone, LargeFov(backbone.channels, labels, settings), presence_of)
    elif settings.name == "deeplab-v2":
        segmenter = DeepLab(backbone, Aspp(backbone.channels, labels, backbone.stride), presence_of)
    else:
        segmenter = SmpSegmenter(
            build_smp(settings.name[4:], backbone, labels, backbone_settings), MINIMUM.get(settings.name[4:], 32)
        )
    if settings.pyramid:
        segmenter = Pyramid(segmenter, settings.pyramid)
    segmenter.add_module("label_balance", LabelBalance(labels))
    return segmenter
