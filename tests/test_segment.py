"""Segmenters and their inference: heads, ignore, windows, views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.segment import InferenceSettings, PhotoSegmenter, SegmenterSettings, SegmenterTask, segment_photo
from tag2mask.segment import build as build_segmenter
from tag2mask.segment.balance import LabelBalance, balance_of, decided_logits
from tag2mask.segment.decoder import fine_block
from tag2mask.segment.deeplab import Aspp, weigh_classes
from tag2mask.segment.inference import window_corners
from tag2mask.segment.pyramid import Pyramid, logits_of
from tag2mask.segment.task import mask_loss
from tag2mask.training import TrainSettings, parameter_groups
from tag2mask.types import MaskedBatch, Photos, Views

SMALL = BackboneSettings("resnet10t", weights="none", output_stride=8)
SMALL16 = BackboneSettings("resnet10t", weights="none", output_stride=16)


def segmenter(name: str, backbone: BackboneSettings = SMALL) -> nn.Module:
    torch.manual_seed(0)
    return build_segmenter(SegmenterSettings(name, channels=8), build(backbone), 3, backbone)


def test_smp_takes_the_backbone_weights() -> None:
    settings = BackboneSettings("resnet18", weights="none", output_stride=32)
    torch.manual_seed(3)
    backbone = build(settings)
    model = build_segmenter(SegmenterSettings("smp:unet"), backbone, 3, settings)
    own = model.model.encoder.model.state_dict()
    assert torch.equal(own["conv1.weight"], backbone.blocks["stem"].state_dict()["0.weight"])
    assert torch.equal(own["layer3.0.conv1.weight"], backbone.blocks["layer3"].state_dict()["0.conv1.weight"])


def test_smp_takes_the_embedded_weights() -> None:
    settings = BackboneSettings(output_stride=32)
    backbone = build(settings)
    model = build_segmenter(SegmenterSettings("smp:fpn"), backbone, 3, settings)
    own = model.model.encoder.model.state_dict()
    assert torch.equal(own["conv_stem.weight"], backbone.blocks["stem"].state_dict()["0.weight"])
    last = "blocks.6.0.conv_pw.weight"
    assert torch.equal(own[last], backbone.blocks["block6"].state_dict()["0.conv_pw.weight"])


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "pspnet", "pan", "unet"])
def test_smp_trains_on_a_batch_of_one_photo(name: str) -> None:
    """Some pool over the whole view, and a norm after that has one value a channel; the last batch may be of one."""
    settings = BackboneSettings("resnet10t", weights="none", output_stride=32)
    torch.manual_seed(0)
    model = build_segmenter(SegmenterSettings(f"smp:{name}"), build(settings), 3, settings).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    logits = model.segment(Photos(torch.randn(1, 3, 64, 96)))
    logits.square().mean().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(module.training for module in model.modules())
    moved = [n for n, b in model.named_buffers() if "running_mean" in n and not torch.equal(b, before[n])]
    assert moved  # the norms that have a batch of cells still take its statistics
    model.segment(Photos(torch.randn(2, 3, 64, 96)))


@pytest.mark.parametrize(
    ("backbone", "block", "stride"),
    [
        (BackboneSettings("resnet10t", weights="none", output_stride=16), "layer1", 4),
        (BackboneSettings(weights="none"), "block1", 4),
        (BackboneSettings("vgg16", weights="none", output_stride=8), None, 4),
        (BackboneSettings("vit_tiny_patch16_224", weights="none"), "", 16),
        (BackboneSettings("resnet10t", weights="none", output_stride=16, freeze=True), "", 16),
    ],
)
def test_the_decoder_has_the_grid_of_the_finest_block_from_stride_4(
    backbone: BackboneSettings, block: str | None, stride: int
) -> None:
    """Of a backbone without one, or a frozen one, of the last block."""
    built = build(backbone)
    assert block is None or fine_block(built) == (block or None)
    model = build_segmenter(SegmenterSettings(channels=8), built, 3, backbone).eval()
    with torch.no_grad():
        assert model.segment(Photos(torch.randn(1, 3, 96, 128))).shape == (1, 4, 96 // stride, 128 // stride)


def test_the_decoder_sees_the_finer_features() -> None:
    """A pixel of difference moves the logits nearby, where the last block's grid is too coarse to say where."""
    backbone = build(SMALL16)
    model = build_segmenter(SegmenterSettings(channels=8, presence=False), backbone, 3, SMALL16).eval()
    assert fine_block(backbone) == "layer1"
    fine = torch.zeros(1, 64, 24, 32)
    deep = torch.zeros(1, backbone.channels, 6, 8)
    other = fine.clone()
    other[..., 10, 20] = 5.0
    with torch.no_grad():
        moved = (model.head(deep, other) - model.head(deep, fine)).abs().amax(1)[0].nonzero()
    assert len(moved) and (moved - torch.tensor([10, 20])).abs().max() <= 2


def test_ignored_pixels_take_no_part_and_none_at_all_gives_zero() -> None:
    task = SegmenterTask(segmenter("deeplab-largefov")).eval()
    images, labels = torch.randn(2, 3, 32, 48), torch.eye(3)[:2]
    valid = torch.ones(2, 32, 48, dtype=torch.bool)
    masks = torch.randint(0, 4, (2, 32, 48))
    half = masks.clone()
    half[:, 16:] = 255

    def loss(of: torch.Tensor) -> torch.Tensor:
        return task.losses(MaskedBatch(("a", "b"), images, of, labels, valid), 0.0)["segmentation"]

    with torch.no_grad():
        logits = nn.functional.interpolate(task.segmenter.segment(Photos(images)), (32, 48), mode="bilinear")
        logp = logits.log_softmax(1).gather(1, masks[:, None])[:, 0]
        torch.testing.assert_close(loss(half), -logp[:, :16].mean(), rtol=1e-4, atol=1e-5)
        assert loss(torch.full_like(masks, 255)) == 0


def test_presence_weighs_classes_and_leaves_the_background() -> None:
    """The docstring's formula, pixel by pixel, on probabilities."""
    torch.manual_seed(0)
    logits, presence = torch.randn(2, 4, 3, 5), torch.rand(2, 3)
    found = weigh_classes(logits, presence.log()).softmax(1)
    p = logits.softmax(1)
    for b in range(2):
        for y in range(3):
            for x in range(5):
                weighed = presence[b] * p[b, 1:, y, x]
                expected = weighed / weighed.sum() * (1 - p[b, 0, y, x])
                torch.testing.assert_close(found[b, 1:, y, x], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[:, 0], p[:, 0], rtol=1e-4, atol=1e-6)


def test_presence_learns_from_tags_and_can_be_left_out() -> None:
    task = SegmenterTask(segmenter("deeplab-v2"))
    batch = MaskedBatch(("a",), torch.randn(1, 3, 32, 48), torch.full((1, 32, 48), 255), torch.tensor([[1.0, 0, 1]]),
                        torch.ones(1, 32, 48, dtype=torch.bool))  # fmt: skip
    losses = task.losses(batch, 0.0)
    losses.total().backward()
    assert set(losses) == {"segmentation", "presence"}
    assert task.segmenter.presence.weight.grad.abs().sum() > 0  # though no pixel is decided
    without = build_segmenter(SegmenterSettings("deeplab-v2", presence=False), build(SMALL), 3, SMALL)
    assert set(SegmenterTask(without).losses(batch, 0.0)) == {"segmentation"}


class Colour(nn.Module):
    """Logits that depend on the pixel alone, so every view and window must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]))
        self.sizes: list[tuple[int, ...]] = []

    def segment(self, views: Views) -> torch.Tensor:
        self.sizes.append(tuple(views.images.shape))
        return torch.einsum("lc,bchw->blhw", self.weight, views.images)


def unnormalised(size_divisor: int = 1) -> Backbone:
    return Backbone([("b0", nn.Identity())], 3, 1, (0.0,) * 3, (1.0,) * 3, size_divisor)


def plain(**changes) -> InferenceSettings:
    return InferenceSettings(**{"long_side": 0, "scales": (1.0,), "flip": False, "precision": "float32", **changes})


def test_windows_flips_and_scales_agree_on_a_pixelwise_segmenter() -> None:
    image = np.zeros((50, 130, 3), np.uint8)
    image[:, 65:] = (255, 0, 0)
    image[:, :65] = (0, 0, 255)
    whole = segment_photo(Colour(), unnormalised(), image, plain())
    for settings in (plain(window=40), plain(flip=True), plain(window=64, flip=True)):
        torch.testing.assert_close(segment_photo(Colour(), unnormalised(), image, settings), whole)
    scaled = segment_photo(Colour(), unnormalised(), image, plain(scales=(0.5, 1.0, 2.0)))
    assert scaled.shape == whole.shape == (3, 50, 130)
    assert (scaled.argmax(0) == whole.argmax(0))[:, :60].all()
    torch.testing.assert_close(scaled.sum(0), torch.ones(50, 130))


def test_large_photos_are_never_segmented_whole() -> None:
    model = Colour()
    segment_photo(model, unnormalised(), np.zeros((100, 300, 3), np.uint8), plain(window=64))
    assert max(max(size[2:]) for size in model.sizes) <= 64


def test_photos_of_other_sizes_with_the_same_views_are_segmented_together_as_each_alone() -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (*size, 3)).astype(np.uint8) for size in ((50, 130), (25, 65), (50, 130))]
    torch.manual_seed(0)
    backbone = build(SMALL)
    model = build_segmenter(SegmenterSettings(channels=8), backbone, 3, SMALL).eval()
    photos = PhotoSegmenter(model, backbone, plain(long_side=60, scales=(0.5, 1.0), flip=True))
    sizes = [image.shape[:2] for image in images]
    assert len({photos.views(*size) for size in sizes}) == 1 and photos.views(60, 50) != photos.views(50, 60)
    found = photos(sizes, [photos.read(image) for image in images])
    for image, (probabilities, _) in zip(images, found, strict=True):
        alone = segment_photo(model, backbone, image, photos.settings)
        assert probabilities.shape == (4, *image.shape[:2])
        torch.testing.assert_close(probabilities, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(10, 10), (64, 65), (200, 64), (131, 300)])
def test_windows_cover_everything(height: int, width: int) -> None:
    covered = np.zeros((height, width), bool)
    for top, left in window_corners(height, width, 64):
        assert 0 <= top <= max(0, height - 64) and 0 <= left <= max(0, width - 64)
        covered[top : top + 64, left : left + 64] = True
    assert covered.all()


def test_names() -> None:
    with pytest.raises(InputError, match="unknown segmenter 'smp:unets': did you mean smp:unet"):
        segmenter("smp:unets")
    frozen = BackboneSettings("resnet10t", weights="none", output_stride=8, freeze=True)
    with pytest.raises(InputError, match="reads every stage"):
        segmenter("smp:unet", frozen)


@pytest.mark.parametrize("pyramid", [(), (0.5,)])
@pytest.mark.parametrize("name", ["smp:unet", "smp:deeplabv3plus", "deeplab-v2"])
def test_what_is_pretrained_learns_at_the_backbones_rate(name: str, pyramid: tuple[float, ...]) -> None:
    """Every one of its parameters, however the library calls it; all others ten times as fast."""
    backbone = build(settings := BackboneSettings("resnet10t", weights="none", output_stride=32))
    model = build_segmenter(SegmenterSettings(name, channels=8, pyramid=pyramid), backbone, 3, settings)
    rates = {id(p): g["lr"] for g in parameter_groups(SegmenterTask(model), TrainSettings()) for p in g["params"]}
    inner = model.segmenter if pyramid else model
    own = inner.model.encoder.model if name.startswith("smp") else inner.backbone
    pretrained = {id(p) for p in own.parameters()}
    assert 10 < len(pretrained) < len(rates)
    assert {rates[i] for i in pretrained} == {5e-4}
    assert {rates[i] for i in rates.keys() - pretrained} == {5e-3}


def test_aspp_is_the_sum_of_four_dilated_convolutions() -> None:
    torch.manual_seed(0)
    head = Aspp(5, 4, stride=8)
    x = torch.randn(1, 5, 9, 11)
    expected = sum(
        nn.functional.conv2d(x, b.weight, b.bias, padding=r, dilation=r)
        for b, r in zip(head.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("balance", [0.0, 0.5])
@pytest.mark.parametrize("scales", [(), (0.5,)])
def test_the_task_s_loss_is_balanced_as_its_settings_say(scales: tuple[float, ...], balance: float) -> None:
    made = segmenter("deeplab-largefov")
    task = SegmenterTask(Pyramid(made, scales) if scales else made, balance).eval()
    images, valid = torch.randn(1, 3, 32, 48), torch.ones(1, 32, 48, dtype=torch.bool)
    masks = torch.zeros(1, 32, 48, dtype=torch.int64)
    masks[0, 8:16, 8:16] = 1
    weights = LabelBalance(4).weights(masks, balance) if balance else None
    with torch.no_grad():
        losses = task.losses(MaskedBatch(("a",), images, masks, torch.tensor([[1.0, 0, 0]]), valid), 0.0)
        logits = made.segment(Photos(images)).float()
        if scales:
            small = nn.functional.interpolate(masks[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0]
            torch.testing.assert_close(losses["segmentation_1.0"], mask_loss(logits, small.long(), weights))
        else:
            logits = nn.functional.interpolate(logits, (32, 48), mode="bilinear")
            torch.testing.assert_close(losses["segmentation"], mask_loss(logits, masks, weights))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_a_balanced_loss_is_the_weighted_mean_over_decided_pixels(balance: float) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 4, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int64)
    masks[0, 0], masks[1, 2, 2:4] = 255, 2  # no pixel has labels 1 and 3
    each = functional.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    few, many = each[masks == 2], each[masks == 0]
    of_label = len(few) ** -balance, len(many) ** -balance
    expected = (of_label[0] * few.sum() + of_label[1] * many.sum()) / (of_label[0] * len(few) + of_label[1] * len(many))
    weights = LabelBalance(4).weights(masks, balance)
    torch.testing.assert_close(mask_loss(logits, masks, weights), expected)
    if balance == 1:
        torch.testing.assert_close(expected, (few.mean() + many.mean()) / 2)
    nothing = torch.full_like(masks, 255)
    assert mask_loss(logits, nothing, LabelBalance(4).weights(nothing, balance)) == 0


@pytest.mark.parametrize("name", ["decoder", "smp:unet"])
def test_masks_are_decided_as_if_all_pixels_had_been_taught_alike(name: str) -> None:
    """A network that minimises the balanced loss says w p; what decides is p, of the mean log weight of the batches
    that show a label. It is kept with the weights, and of a training without balance nothing is undone."""
    made = segmenter(name)
    labels = balance_of(made)
    assert labels is not None
    views = Photos(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        before, _ = logits_of(made.eval(), views, None)
        torch.testing.assert_close(decided_logits(made, views, None, 1.0)[0], before.float())
        masks = torch.zeros(2, 8, 8, dtype=torch.int64)
        masks[0, :2] = 2  # 16 and 112 pixels, then 32 and 96
        labels.weights(masks, 0.5)  # not in training: nothing is remembered
        labels.train().weights(masks, 0.5)
        masks[1, :2] = 2
        labels.weights(masks, 0.5)
        labels.eval()
        decided = decided_logits(made, views, None, 1.0)[0] - before
    weights = torch.tensor([(112 * 96) ** 0.5, 1, (16 * 32) ** 0.5, 1]) ** -0.5
    torch.testing.assert_close(decided, -weights.log()[:, None, None].expand_as(decided[0])[None])
    torch.testing.assert_close(decided_logits(made, views, None, 0.25)[0] - before, decided / 4)
    again = segmenter(name)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(
        decided_logits(again.eval(), views, None, 1.0)[0] - logits_of(again, views, None)[0], decided
    )
    labels.reset()
    torch.testing.assert_close(decided_logits(made, views, None, 1.0)[0], before.float())


def test_the_posterior_of_a_balanced_training_is_that_of_its_masks() -> None:
    """A bias alone, on masks of which a sixteenth shows an object: balanced it learns the weighted share, and decides
    by the share."""
    torch.manual_seed(0)
    masks = torch.zeros(1, 16, 16, dtype=torch.int64)
    masks[0, :4, :4] = 1
    labels, bias = LabelBalance(2), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([bias], lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        logits = bias[None, :, None, None].expand(1, 2, 16, 16)
        mask_loss(logits, masks, labels.weights(masks, 0.5)).backward()
        optimizer.step()
    learned = bias.detach()[None, :, None, None]
    assert learned.softmax(1)[0, 1].item() == pytest.approx(0.25 / (0.25 + 15**0.5 / 4), abs=1e-3)
    assert labels.undone(learned).softmax(1)[0, 1].item() == pytest.approx(1 / 16, abs=1e-3)
