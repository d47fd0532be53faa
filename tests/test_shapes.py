"""The shapes the docstrings promise, executed: jaxtyping checks every dimension, by name, at the call."""

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Bool, Float, Float32, Int64, TypeCheckError, UInt8, jaxtyped
from torch import Tensor

from localizing import batch
from tag2mask import evaluate, localize, pseudo, segment
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.data.augment import AugmentSettings, Geometry, generator
from tag2mask.methods.cam import Cam
from tag2mask.refine import dense_crf
from tag2mask.segment.deeplab import weigh_classes
from tag2mask.types import LocalizationMaps, Photos, masked_mean, normalise

shapes = jaxtyped(typechecker=beartype)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build(BackboneSettings("resnet10t", weights="none", output_stride=8)).eval()


def test_backbone_and_method(backbone: Backbone) -> None:
    @shapes
    def features(x: Float32[Tensor, "batch 3 height width"]) -> Float32[Tensor, "batch 512 height//8 width//8"]:
        return backbone(x)

    @shapes
    def maps(
        x: Float32[Tensor, "batch 3 height width"], y: Float32[Tensor, "batch classes"]
    ) -> Float32[Tensor, "batch classes height//8 width//8"]:
        return Cam(backbone, y.shape[1]).eval().localize(batch(x, y))

    with torch.no_grad():
        features(torch.randn(2, 3, 32, 48))
        maps(torch.randn(2, 3, 32, 48), torch.eye(4)[:2])


def test_segmenter_and_inference(backbone: Backbone) -> None:
    model = segment.build(
        segment.SegmenterSettings("deeplab-largefov", channels=8), backbone, 4, BackboneSettings()
    ).eval()

    @shapes
    def logits(x: Float32[Tensor, "batch 3 height width"]) -> Float32[Tensor, "batch 5 height//8 width//8"]:
        return model.segment(Photos(x))

    @shapes
    def probabilities(image: UInt8[np.ndarray, "height width 3"]) -> Float32[Tensor, "5 height width"]:
        settings = segment.InferenceSettings(long_side=40, scales=(1.0, 1.5), precision="float32")
        return segment.segment_photo(model, backbone, image, settings)

    @shapes
    def index(scores: Float[Tensor, "labels height width"]) -> UInt8[np.ndarray, "height width"]:
        return pseudo.index_mask(scores)

    with torch.no_grad():
        logits(torch.randn(2, 3, 32, 48))
        index(probabilities(np.zeros((37, 53, 3), np.uint8)))


def test_pooling_weighing_and_fusing() -> None:
    @shapes
    def mean(
        maps: Float[Tensor, "batch classes rows columns"], valid: Bool[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch classes"]:
        return masked_mean(maps, valid)

    @shapes
    def weighed(
        logits: Float[Tensor, "batch labels rows columns"], presence: Float[Tensor, "batch labels-1"]
    ) -> Float[Tensor, "batch labels rows columns"]:
        return weigh_classes(logits, presence)

    @shapes
    def fused(
        coarse: Float[Tensor, "batch classes a b"], fine: Float[Tensor, "batch classes rows columns"]
    ) -> Float[Tensor, "batch classes rows columns"]:
        return localize.normalise_maps(localize.fuse([coarse, fine]))

    mean(torch.rand(2, 3, 4, 5), torch.ones(2, 32, 40, dtype=torch.bool))
    weighed(torch.randn(2, 4, 3, 5), torch.randn(2, 3))
    fused(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 7, 9))


def test_views_and_masks() -> None:
    geometry = Geometry.draw(30, 50, AugmentSettings(size=32), generator(0, 0, 0))

    @shapes
    def view(image: UInt8[np.ndarray, "height width 3"]) -> Float32[Tensor, "3 32 32"]:
        return normalise(geometry.image(image), ((0.5,) * 3, (0.5,) * 3))

    @shapes
    def masked(mask: UInt8[np.ndarray, "height width"]) -> UInt8[Tensor, "32 32"]:
        return geometry.mask(mask)

    @shapes
    def confusion(
        truth: UInt8[np.ndarray, "height width"], mask: UInt8[np.ndarray, "height width"]
    ) -> Int64[np.ndarray, "3 4"]:
        return evaluate.confusion_matrix(truth, mask, 3)

    @shapes
    def sharpened(
        image: UInt8[np.ndarray, "height width 3"], scores: Float32[np.ndarray, "labels height width"]
    ) -> Float32[np.ndarray, "labels height width"]:
        return dense_crf(image, scores)

    image = np.zeros((30, 50, 3), np.uint8)
    view(image)
    masked(image[..., 0])
    confusion(image[..., 0], image[..., 1])
    sharpened(image, np.full((2, 30, 50), 0.5, np.float32))


def test_pseudo_labels() -> None:
    maps = LocalizationMaps("x", (0, 3), np.random.default_rng(0).random((2, 3, 4)).astype(np.float16), (21, 34))

    @shapes
    def scores() -> Float32[Tensor, "3 21 34"]:
        return pseudo.label_scores(maps, 0.4, pseudo.PseudoSettings())

    @shapes
    def mask(of: Float32[Tensor, "labels height width"]) -> UInt8[np.ndarray, "height width"]:
        return pseudo.decide(maps.id, maps.classes, of, pseudo.PseudoSettings()).mask

    mask(scores())


def test_a_wrong_shape_would_be_noticed() -> None:
    @shapes
    def wrong(maps: Float[Tensor, "batch classes rows columns"]) -> Float[Tensor, "batch rows"]:
        return maps.mean((2, 3))

    with pytest.raises(TypeCheckError):
        wrong(torch.rand(2, 3, 4, 5))
