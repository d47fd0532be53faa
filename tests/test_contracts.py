"""Refiners, backbones and segmenters keep their contracts; each joins by being in its dict. The contracts notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tag2mask import segment
from tag2mask.backbones import BACKBONES, Backbone, BackboneSettings, build
from tag2mask.backbones.check import check_backbone
from tag2mask.backbones.resnet38 import NAME, ResNet38d
from tag2mask.refine import PRESETS, REFINERS, Bounded, DenseCrf, crf, refiner
from tag2mask.refine.check import check_refiner
from tag2mask.refine.proposals import MODELS
from tag2mask.segment import SegmenterSettings
from tag2mask.segment.check import check_segmenter
from tag2mask.segment.smp import SMP, SmpSegmenter
from tag2mask.types import Views
from trunks import fresh

# --- refiners


@pytest.mark.parametrize("name", [name for name in REFINERS if name not in MODELS])  # they: test_proposals
def test_refiner(name: str) -> None:
    check_refiner(REFINERS[name].build)
    assert REFINERS[name].line and "\n" not in REFINERS[name].line


@pytest.mark.parametrize("name", ["none", "par,crf"])
def test_chains_are_refiners(name: str) -> None:
    check_refiner(lambda: refiner(name))


def test_a_bounded_refiner_is_one() -> None:
    check_refiner(lambda: Bounded(DenseCrf(), 16))


def test_the_portable_crf_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "_fast", lambda: None)
    check_refiner(lambda: DenseCrf(PRESETS["irn"]))


def _batch_mean(scores: Tensor) -> Tensor:
    return (scores + scores.mean(0, keepdim=True)) / 2


def _in_place(scores: Tensor) -> Tensor:
    return scores.mul_(0.5).mul_(2).add_(1e-9).div_(scores.sum(1, keepdim=True))


REFINER_FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "add up to one": lambda s: s * 0.9,
    "NaN": lambda s: torch.where(s > 0.9, torch.nan, s),
    "not float32": lambda s: s.double(),
    "order of labels": lambda s: torch.cat([s[:, :1] * 0.5, s[:, 1:]], 1) / (1 - s[:, :1] * 0.5),
    "depends on its batch": _batch_mean,
    "changes what it is given": _in_place,
    "not \\(2,": lambda s: s[..., :-1],
    "change their label": lambda s: (1 - s) / max(s.shape[1] - 1, 1),
}


@pytest.mark.parametrize("fault", REFINER_FAULTS)
def test_the_contract_of_refiners_notices(fault: str) -> None:
    class Faulty:
        def refine(self, images: Tensor, scores: Tensor) -> Tensor:
            return REFINER_FAULTS[fault](scores)

    with pytest.raises(AssertionError, match=fault):
        check_refiner(Faulty)


# --- backbones

LARGE = {
    NAME,
    "resnet101",
    "deit_small_patch16_224.fb_in1k",
    "vit_base_patch14_dinov2.lvd142m",
    "vit_base_patch16_224.orig_in21k_ft_in1k",
}


def settings_of(name: str) -> BackboneSettings:
    return BackboneSettings(name, weights="none", output_stride=8 if name == NAME else 16)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in BACKBONES])
def test_backbone(name: str) -> None:
    check_backbone(lambda: build(settings_of(name)))


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("resnet10t", 8),
        ("resnet10t", 32),
        ("mobilenetv3_small_100", 32),
        ("vgg16", 8),
        pytest.param("vgg16", 32, marks=pytest.mark.slow),
    ],
)
def test_backbone_at_other_strides(name: str, stride: int) -> None:
    check_backbone(lambda: fresh(BackboneSettings(name, weights="none", output_stride=stride)))


def test_a_thin_resnet38_is_a_backbone() -> None:
    check_backbone(lambda: ResNet38d(thin=16))


def _faulty_backbone(fault: str) -> Backbone:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    chain: list[tuple[str, nn.Module]] = [("low", conv), ("high", nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)))]
    backbone = Backbone(chain, 8, 2, (0.5,) * 3, (0.5,) * 3, strides=(2, 2))
    faults: dict[str, Callable[[], Any]] = {
        "sound": lambda: None,
        "not \\(2, 9": lambda: setattr(backbone, "channels", 9),
        "statistics of the batch": lambda: setattr(backbone, "train", lambda on=True: nn.Module.train(backbone, on)),
        "at stride 1": lambda: backbone.strides.update(low=1),
        "all of a backbone is pretrained": lambda: setattr(backbone, "pretrained_parameters", conv.parameters),
        "which are frozen": lambda: setattr(backbone, "freeze_until", lambda b: setattr(backbone, "frozen_until", b)),
    }
    faults[fault]()
    return backbone


def test_a_sound_chain_passes() -> None:
    check_backbone(lambda: _faulty_backbone("sound"))


@pytest.mark.parametrize(
    "fault",
    ["not \\(2, 9", "statistics of the batch", "at stride 1", "all of a backbone is pretrained", "which are frozen"],
)
def test_the_contract_of_backbones_notices(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_backbone(lambda: _faulty_backbone(fault))


# --- segmenters

SLOW_SEGMENTERS = {f"smp:{name}" for name in SMP} - {"smp:unet", "smp:fpn"}


def trunk(name: str) -> Callable[[], Backbone]:
    stride = 32 if name.startswith("smp:") else 8  # the smp encoders keep their own strides
    return lambda: fresh(BackboneSettings("resnet10t", weights="none", output_stride=stride))


def maker(settings: SegmenterSettings) -> Callable[[Backbone, int], nn.Module]:
    of = BackboneSettings("resnet10t", weights="none")
    return lambda backbone, classes: segment.build(settings, backbone, classes, of)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW_SEGMENTERS else []) for n in segment.known()]
)
def test_segmenter(name: str) -> None:
    size = {"smp:pan": (264, 296)}.get(name, (40, 72))  # its pyramid pools the coarsest map thrice
    check_segmenter(maker(SegmenterSettings(name, channels=8)), trunk(name), *size)


@pytest.mark.parametrize(
    "settings",
    [
        SegmenterSettings("deeplab-v2", presence=False, pyramid=(0.5, 0.75)),
        SegmenterSettings("smp:unet", pyramid=(0.5,)),
        SegmenterSettings("deeplab-largefov", channels=8, presence=False),
        SegmenterSettings("decoder", channels=8, pyramid=(0.5,)),
    ],
)
def test_segmenter_of_other_settings(settings: SegmenterSettings) -> None:
    check_segmenter(maker(settings), trunk(settings.name))


class Undeclared(SmpSegmenter):
    """Its encoder would learn at the ten-fold rate of new layers."""

    def pretrained_parameters(self):
        return iter(())


class Wrong(nn.Module):
    def __init__(self, backbone: Backbone, classes: int, fault: str) -> None:
        super().__init__()
        self.backbone, self.fault = backbone, fault
        self.head = nn.Conv2d(backbone.channels, classes + (fault != "gives"), 1)

    def segment(self, views: Views) -> Tensor:
        features = self.backbone(views.images)
        logits = self.head(features.detach() if self.fault == "pretrained part" else features)
        if self.fault == "exchanged":
            return logits.transpose(2, 3)
        return logits + logits.mean(0) if self.fault == "depend on its batch" else logits


def test_a_sound_segmenter_passes() -> None:
    check_segmenter(lambda backbone, classes: Wrong(backbone, classes, "sound"), trunk("deeplab-v2"))


@pytest.mark.parametrize("fault", ["gives", "exchanged", "depend on its batch", "pretrained part"])
def test_the_contract_of_segmenters_notices(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_segmenter(lambda backbone, classes: Wrong(backbone, classes, fault), trunk("deeplab-v2"))


def test_an_encoder_that_is_not_declared_is_noticed() -> None:
    def undeclared(backbone: Backbone, classes: int) -> nn.Module:
        sound = maker(SegmenterSettings("smp:unet"))(backbone, classes)
        assert isinstance(sound, SmpSegmenter)
        return Undeclared(sound.model)

    with pytest.raises(AssertionError, match="is declared wrongly"):
        check_segmenter(undeclared, trunk("smp:unet"))
