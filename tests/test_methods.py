"""Every method of METHODS keeps the contract; and what is CAM's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.methods import METHODS, check
from tag2mask.methods import build as build_method
from tag2mask.methods.cam import Cam
from tag2mask.methods.check import check_method
from tag2mask.types import masked_mean


def small_backbone() -> Backbone:
    return build(BackboneSettings("resnet10t", weights="none", output_stride=8))


@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str) -> None:
    check_method(lambda backbone, classes: build_method(name, backbone, classes), small_backbone)


class Broken(Cam):
    """Breaks one promise at a time: a contract that cannot fail is none."""

    fault = ""

    def losses(self, batch, progress):
        if self.fault == "padding":
            batch = replace(batch, valid=torch.ones_like(batch.valid))
        losses = super().losses(batch, progress)
        if self.fault == "nan":
            return type(losses)({"classification": losses["classification"] * float("nan")})
        if self.fault == "detached":
            return type(losses)({"classification": self.classifier.weight.square().sum()})
        return losses

    def localize(self, images, labels, *, stored=False):
        maps = self.score_maps(images, stored=stored)
        if self.fault == "transposed":
            return maps.relu().transpose(2, 3)
        if self.fault == "batch":
            return (maps - maps.mean(0)).relu()
        return maps if self.fault == "negative" else maps.relu()


@pytest.mark.parametrize("fault", ["padding", "nan", "detached", "transposed", "batch", "negative"])
def test_contract_notices(fault: str) -> None:
    broken = type("Faulty", (Broken,), {"fault": fault})
    with pytest.raises(AssertionError):
        check_method(broken, small_backbone)


def test_contract_on_a_vit() -> None:
    def vit() -> Backbone:
        return build(BackboneSettings("vit_tiny_patch16_224", weights="none"))

    check.check_localize_shape_and_range(Cam, vit)
    check.check_stored_features_serve_as_well_as_photos(Cam, vit)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean cam"):
        build_method("camm", small_backbone(), 2)


def test_pooling_and_classifying_commute() -> None:
    """The docstring's claim: the mean of the score maps is the classifier on the mean feature."""
    torch.manual_seed(0)
    method = Cam(small_backbone(), 5).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = method.backbone(images)
        late = method.score_maps(images).mean((2, 3))
        early = nn.functional.linear(features.mean((2, 3)), method.classifier.weight[:, :, 0, 0])
    torch.testing.assert_close(late, early, rtol=1e-4, atol=1e-4)


def test_masked_mean_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 30.0], [3.0, 4.0, 50.0]]]])
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[:, :, 4:] = False
    assert masked_mean(maps, valid).item() == pytest.approx(2.5)
    valid[:, :, 4:5] = True  # half of each cell of the last column
    assert masked_mean(maps, valid).item() == pytest.approx((1 + 2 + 3 + 4 + 15 + 25) / 5)
