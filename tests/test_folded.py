"""Batch norms folded into convolutions, and other ways to the same numbers in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tag2mask import segment
from tag2mask.backbones import BackboneSettings, activations, build
from tag2mask.layers import folded
from tag2mask.layers.batch_norm import WholeBatchNorm
from tag2mask.layers.folded import ActivatedConv2d, fold_norms, join_activations, probe
from tag2mask.segment import SegmenterSettings
from tag2mask.types import Photos


def with_statistics(network: nn.Module) -> nn.Module:
    """In eval mode, with norms that have seen something: a fresh norm does nearly nothing."""
    generator = torch.Generator().manual_seed(3)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0, 0.1, generator=generator)
    return network.eval()


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "stride"),
    [("tf_efficientnet_lite0", 16), ("resnet10t", 16), ("test_resnet", 16), ("mobilenetv3_small_050", 32)],
)
def test_a_folded_backbone_gives_the_same_features_and_gradients(name: str, stride: int) -> None:
    backbone = with_statistics(build(BackboneSettings(name, weights="none", output_stride=stride))).double()
    plain = copy.deepcopy(backbone)
    norms = norms_of(backbone)
    image = probe(backbone).double()
    assert fold_norms(backbone, lambda: backbone(image)) == norms > 0 == norms_of(backbone)

    photo = torch.rand(2, 3, 96, 128, dtype=torch.float64)
    first, finer = backbone.names[0], [plain.until(photo, backbone.names[0]), backbone.until(photo, backbone.names[0])]
    outputs, gradients = [], []
    for network, start in zip((plain, backbone), finer, strict=True):
        start = start.detach().requires_grad_()
        features = network.forward_from(start, first)
        (gradient,) = torch.autograd.grad(features.square().sum(), start)
        outputs.append(features), gradients.append(gradient)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["decoder", "deeplab-largefov", "deeplab-v2"])
def test_a_folded_segmenter_gives_the_same_logits(name: str) -> None:
    settings, of_backbone = SegmenterSettings(name), BackboneSettings("test_resnet", weights="none")
    backbone = build(of_backbone)
    segmenter = with_statistics(segment.build(settings, backbone, 3, of_backbone))
    view = Photos(torch.rand(1, 3, 90, 70))
    before = segmenter.segment(view)
    assert segment.folded(segmenter, backbone) is segmenter and not norms_of(segmenter)
    torch.testing.assert_close(segmenter.segment(view), before, rtol=1e-4, atol=1e-5)


needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


@needs_onednn
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "stride", "joined"), [("tf_efficientnet_lite0", 16, 32), ("resnet10t", 16, 7)])
def test_joined_activations_give_the_same_features_and_gradients(
    name: str, stride: int, joined: int, precision: torch.dtype
) -> None:
    """The photo's sides are odd on some grids, so padding is even there and uneven elsewhere."""
    backbone = with_statistics(build(BackboneSettings(name, weights="none", output_stride=stride))).requires_grad_(
        False
    )
    image = probe(backbone)
    fold_norms(backbone, lambda: backbone(image))
    plain = copy.deepcopy(backbone)
    assert join_activations(backbone, lambda: backbone(image)) == joined
    assert sum(isinstance(module, ActivatedConv2d) for module in backbone.modules()) == joined
    photo = torch.rand(2, 3, 90, 132).to(memory_format=torch.channels_last)
    first = backbone.names[1]
    outputs, gradients = [], []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        for network in (plain, backbone):
            with torch.no_grad():
                outputs.append(network(photo).float())
                start = network.until(photo, first)
            start.requires_grad_()
            (gradient,) = torch.autograd.grad(network.forward_from(start, first).float().square().sum(), start)
            gradients.append(gradient.float())
    for other, own in (outputs, gradients):
        scale = float(own.abs().max())
        torch.testing.assert_close(other, own, rtol=0, atol=scale * (1e-5 if precision == torch.float32 else 0.02))


@needs_onednn
def test_a_processor_without_bfloat16_is_not_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6()).requires_grad_(False)
    image = torch.rand(1, 3, 8, 8)
    assert join_activations(network, lambda: network(image)) == 1
    monkeypatch.setattr(folded, "_dtypes", lambda: (torch.float32,))
    joined = network[0]
    assert isinstance(joined, ActivatedConv2d)
    monkeypatch.setattr(joined.activation, "forward", lambda x: x + 100)
    with torch.no_grad():
        assert joined(image).max() < 10, "float32 is computed together"
        with torch.autocast("cpu", torch.bfloat16):
            assert joined(image).min() > 90, "bfloat16 is not"


class Odd(nn.Module):
    """A convolution and a norm in one of the ways in which they cannot be folded."""

    def __init__(self, forward: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 1), WholeBatchNorm(3), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.conv, self.norm, x)


@pytest.mark.parametrize(
    "how",
    [
        lambda conv, norm, x: norm(y := conv(x)) + y,  # the convolution's output is used twice
        lambda conv, norm, x: norm(conv(x)) + conv(2 * x),  # the convolution is
        lambda conv, norm, x: norm(conv(x)) + norm(x),  # the norm is
        lambda conv, norm, x: conv(norm(x)),  # the norm comes first
        lambda conv, norm, x: norm(conv(x) + x),  # something comes between
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(how: Callable[..., Tensor]) -> None:
    network = with_statistics(Odd(how))
    image, before = torch.rand(1, 3, 8, 8), copy.deepcopy(network.state_dict())
    out = network(image)
    assert fold_norms(network, lambda: network(image)) == 0
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(image), out)


@needs_onednn
@pytest.mark.parametrize(
    "how",
    [
        lambda conv, activation, x: activation(y := conv(x)) + y,
        lambda conv, activation, x: activation(conv(x)) + conv(2 * x),
        lambda conv, activation, x: activation(conv(x)) + activation(x),
        lambda conv, activation, x: activation(conv(x) + x),
    ],
)
def test_what_cannot_be_joined_stays_as_it_is(how: Callable[..., Tensor]) -> None:
    network = Odd(how)
    network.norm = nn.ReLU()
    image = torch.randn(1, 3, 8, 8)
    out = network(image)
    assert join_activations(network, lambda: network(image)) == 0
    assert type(network.conv) is nn.Conv2d and type(network.norm) is nn.ReLU and torch.equal(network(image), out)


def test_a_norm_that_learns_is_not_folded() -> None:
    network = with_statistics(Odd(lambda conv, norm, x: norm(conv(x)))).train()
    image = torch.rand(2, 3, 8, 8)
    assert fold_norms(network, lambda: network(image)) == 0


@pytest.mark.parametrize("kind", activations.FUNCTIONS)
def test_activations_are_torchs_and_in_place_where_nothing_learns(kind: type[nn.Module]) -> None:
    ours = nn.Sequential(kind(inplace=True))  # type: ignore[call-arg]
    activations.use(ours)
    (activation,) = ours
    assert isinstance(activation, activations.Activation)
    given = torch.linspace(-8, 8, 65)
    expected = kind()(given)
    learning = given.clone().requires_grad_()
    out = activation(learning)
    out.sum().backward()
    plain = given.clone().requires_grad_()
    kind()(plain).sum().backward()
    assert torch.equal(out, expected) and torch.equal(learning.grad, plain.grad) and torch.equal(learning, given)
    changed = given.clone()
    assert torch.equal(activation(changed), expected) and torch.equal(changed, expected)  # in place


def test_only_activations_in_place_are_replaced() -> None:
    kept = nn.Sequential(nn.ReLU6(), nn.ReLU(inplace=True))
    activations.use(kept)
    assert [type(module) for module in kept] == [nn.ReLU6, nn.ReLU]
    for name, stride in (("tf_efficientnet_lite0", 16), ("mobilenetv3_small_050", 32)):
        kinds = [type(m) for m in build(BackboneSettings(name, weights="none", output_stride=stride)).modules()]
        assert activations.Activation in kinds and not {nn.ReLU6, nn.Hardswish} & {*kinds}
