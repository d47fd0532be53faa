"""Every method of METHODS keeps the contract; and what is CAM's own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.methods import METHODS, check
from tag2mask.methods import build as build_method
from tag2mask.methods.cam import Cam, CamSettings
from tag2mask.methods.check import check_method
from tag2mask.protocols import Traits
from tag2mask.types import Losses, Photos, masked_mean
from trunks import fresh
from vits import tiny_clip


def small_backbone() -> Backbone:
    return fresh(BackboneSettings("resnet10t", weights="none", output_stride=8))


@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str) -> None:
    def built(backbone: Backbone, classes: int, settings: object) -> nn.Module:
        return build_method(name, backbone, classes, settings)

    check_method(built, METHODS[name].settings(), small_backbone if METHODS[name].backbone is None else tiny_clip)


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

    def tag_scores(self, batch):
        scores = super().tag_scores(batch)
        return scores + batch.labels if self.fault == "tags" and not self.training else scores

    def localize(self, batch):
        maps = super().score_maps(batch)
        if self.fault == "transposed":
            return maps.relu().transpose(2, 3)
        if self.fault == "batch":
            return (maps - maps.mean(0)).relu()
        return maps if self.fault == "negative" else maps.relu()


FAULTS = {
    "": None,
    "tags": "predicted tags depend on the tags",
    "padding": "the valid region changes nothing",
    "nan": "loss classification is not finite",
    "detached": "no gradient reaches the backbone",
    "transposed": "rows and columns are exchanged",
    "batch": "a photo's maps depend on its batch",
    "negative": "maps must be finite and at least 0",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_contract_notices(fault: str) -> None:
    broken, message = type("Faulty", (Broken,), {"fault": fault}), FAULTS[fault]
    if message is None:  # the checks notice the fault, not what all of these have in common
        check_method(broken, CamSettings(), small_backbone)
        return
    with pytest.raises(AssertionError, match=message):
        check_method(broken, CamSettings(), small_backbone)


def declaring(**traits: object) -> CamSettings:
    """Settings of a method that declares this and keeps nothing of it."""

    @dataclass(frozen=True)
    class Declaring(CamSettings):
        @property
        def traits(self) -> Traits:
            return Traits(**{"class_maps": True, **traits})

    return Declaring()


@pytest.mark.parametrize(
    ("traits", "message"),
    [
        ({"single_stage": True}, "single_stage and segment"),
        ({"class_maps": False}, "class_maps and features_and_scores"),
        ({"references": 2}, "references without prepare_localization"),
        ({"saliency": True}, "it must say when a batch has none"),
        ({"maps": "probabilities"}, "add up to more than one"),
        ({"inference_settings": ("views",)}, "views.*no settings"),
    ],
)
def test_contract_notices_what_is_declared_and_not_kept(traits: dict[str, object], message: str) -> None:
    def loud(backbone: Backbone, classes: int, settings: CamSettings) -> nn.Module:
        method = Cam(backbone, classes, settings)
        nn.init.ones_(method.classifier.weight)  # maps of features that are at least 0 are then large
        return method

    with pytest.raises(AssertionError, match=message):
        check_method(loud, declaring(**traits), small_backbone)


def test_contract_notices_a_promise_that_is_not_declared() -> None:
    class Segmenting(Cam):
        def segment(self, views):
            return self.score_maps(views)

    with pytest.raises(AssertionError, match="single_stage and segment"):
        check_method(Segmenting, CamSettings(), small_backbone)


def test_contract_notices_settings_of_inference_that_change_training() -> None:
    @dataclass(frozen=True)
    class Weighed(CamSettings):
        weight: float = 1.0

        @property
        def traits(self) -> Traits:
            return Traits(class_maps=True, inference_settings=("weight",))

    class Weighing(Cam):
        def __init__(self, backbone: Backbone, classes: int, settings: Weighed) -> None:
            super().__init__(backbone, classes, settings)
            self.weight = settings.weight

        def losses(self, batch, progress):
            return Losses({"classification": self.weight * super().losses(batch, progress)["classification"]})

    with pytest.raises(AssertionError, match="weight is declared to be of inference only and changes the losses"):
        check_method(Weighing, Weighed(), small_backbone)


def test_contract_wants_frozen_settings() -> None:
    @dataclass
    class Thawed:
        @property
        def traits(self) -> Traits:
            return Traits()

    with pytest.raises(AssertionError, match="must be a frozen dataclass"):
        check_method(Cam, Thawed(), small_backbone)


def test_contract_on_a_vit() -> None:
    def vit() -> Backbone:
        return build(BackboneSettings("vit_tiny_patch16_224", weights="none"))

    def cam(backbone: Backbone) -> nn.Module:
        return Cam(backbone, check.CLASSES)

    check.check_localize_shape_and_range(cam, vit)
    check.check_stored_features_serve_as_well_as_photos(cam, vit)


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
        late = method.score_maps(Photos(images)).mean((2, 3))
        early = nn.functional.linear(features.mean((2, 3)), method.classifier.weight[:, :, 0, 0])
    torch.testing.assert_close(late, early, rtol=1e-4, atol=1e-4)


def test_masked_mean_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 30.0], [3.0, 4.0, 50.0]]]])
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[:, :, 4:] = False
    assert masked_mean(maps, valid).item() == pytest.approx(2.5)
    valid[:, :, 4:5] = True  # half of each cell of the last column
    assert masked_mean(maps, valid).item() == pytest.approx((1 + 2 + 3 + 4 + 15 + 25) / 5)
