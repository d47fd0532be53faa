"""Blocks reproduce the timm model they are cut from; weights come from where they should or say why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import Conv2dSame

from tag2mask.backbones import BackboneSettings, build, depthwise
from tag2mask.backbones.resnet38 import ResNet38d
from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError

CASES = [
    ("resnet10t", 8),
    ("convnext_atto", 32),
    ("mobilenetv3_small_100", 32),
    ("vit_tiny_patch16_224", 16),
    ("swin_tiny_patch4_window7_224", 32),
]


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_blocks_reproduce_timm(name: str, stride: int) -> None:
    torch.manual_seed(0)
    backbone = build(BackboneSettings(name, weights="none", output_stride=stride)).eval()
    options = {"dynamic_img_size": True} if name.startswith("vit") else {}
    options |= {"output_stride": stride} if name.startswith("resnet") else {}
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    size = (224, 224) if name.startswith("swin") else (64, 96)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model.forward_features(images)
        if expected.ndim == 3:  # tokens
            expected = expected[:, 1:].transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))
        elif name.startswith("swin"):
            expected = expected.permute(0, 3, 1, 2)
        elif name.startswith("mobilenetv3"):
            expected = model.blocks(model.bn1(model.conv_stem(images)))
        found = backbone(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.shape[1:] == (backbone.channels, size[0] // backbone.stride, size[1] // backbone.stride)


def test_embedded_weights_know_imagenet(tmp_path: Path) -> None:
    """The embedded weights are in the right places: the classifier on top recognises a photograph of a cat."""
    import numpy as np
    import skimage.data
    from PIL import Image

    from tag2mask.backbones.embedded import load_embedded

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    load_embedded(model, "tf_efficientnet_lite0")
    photo = Image.fromarray(skimage.data.chelsea()).resize((224, 224), Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        best = int(model(x).argmax())
        head = model.forward_features(x)
        torch.testing.assert_close(build(BackboneSettings(output_stride=32)).eval()(x), head)
    assert 281 <= best <= 285  # the five cats of ImageNet


def test_freezing_stops_gradients_below_and_not_above() -> None:
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8, freeze_until="layer2"))
    backbone(torch.randn(1, 3, 32, 48)).sum().backward()
    got = {n.split(".")[1] for n, p in backbone.named_parameters() if p.grad is not None}
    assert got == {"layer3", "layer4"}
    assert not any(m.training for m in backbone.train().modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_weights_from_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    good = tmp_path / "good.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, good)
    backbone = build(BackboneSettings("resnet10t", weights=str(good), output_stride=8))
    torch.testing.assert_close(backbone.blocks["layer1"].state_dict()["0.conv1.weight"], state["layer1.0.conv1.weight"])

    nested = tmp_path / "nested.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, nested)
    assert set(read_state_dict(nested)) == set(state)

    short = dict(list(state.items())[5:])
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match=r"lacks .* tensors"):
        build(BackboneSettings("resnet10t", weights=str(tmp_path / "short.safetensors"), output_stride=8))
    with pytest.raises(InputError, match="no weights file"):
        build(BackboneSettings("resnet10t", weights=str(tmp_path / "absent.pth"), output_stride=8))
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:100])
    with pytest.raises(InputError, match="is it complete"):
        read_state_dict(tmp_path / "cut.safetensors")


class Hostile:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(InputError, match="not opened, since that would run its code"):
        read_state_dict(tmp_path / "hostile.pth")
    assert "ran" not in capsys.readouterr().out


def test_names_strides_and_blocks_that_do_not_exist() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'resnet51'.*resnet"):
        build(BackboneSettings("resnet51", weights="none"))
    with pytest.raises(InputError, match=r"has output stride 32, not 16: give --backbone\.output-stride 32"):
        build(BackboneSettings("mobilenetv3_small_100", weights="none", output_stride=16))
    with pytest.raises(InputError, match="unknown block of this backbone 'layer9': did you mean layer"):
        build(BackboneSettings("resnet10t", weights="none", output_stride=8, freeze_until="layer9"))


def test_an_unreachable_hub_names_what_can_be_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be fetched from the hub.*--weights.*tf_efficientnet_lite0"):
        build(BackboneSettings("resnet10t.c3_in1k", output_stride=8))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "rows"),
    [(3, 1, 1, 1, 8), (5, 1, 2, 1, 9), (5, 1, 4, 2, 8), (3, 1, 2, 2, 7), (3, 1, 4, 4, 8),
     (3, 2, 1, 1, 8), (3, 2, 1, 1, 9), (5, 2, 0, 1, 11), (5, 2, 1, 1, 10), (3, 3, 0, 1, 9), (3, 2, 2, 2, 9),
     (3, 2, "same", 1, 8), (5, 2, "same", 1, 9), (3, 1, "same", 2, 7),
     (1, 1, 0, 1, 8), (7, 1, 3, 1, 9), (7, 2, 6, 2, 8), (5, 1, 4, 2, 7)],
)  # fmt: skip
def test_depthwise_gradients_are_torchs(
    kernel: int, stride: int, padding: int | str, dilation: int, rows: int, precision: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    options = {"stride": stride, "dilation": dilation, "groups": 6, "bias": bias}
    if padding == "same":
        plain = Conv2dSame(6, 6, kernel, **options)
    else:
        plain = torch.nn.Conv2d(6, 6, kernel, padding=padding, **options)
    assert depthwise.DepthwiseConv2d.serves(plain)
    ours = depthwise.DepthwiseConv2d.of(plain)
    results = []
    for conv in (plain, ours):
        conv.zero_grad()
        x = torch.randn(3, 6, rows, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            y = conv(x)
        assert y.dtype == precision
        (y.float() * torch.linspace(-1, 2, y.shape[3])).sum().backward()
        results.append((y, x.grad, *(parameter.grad.clone() for parameter in conv.parameters())))
    assert torch.equal(results[0][0], results[1][0])
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 6, rows, 12).to(memory_format=layout)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            assert torch.equal(ours(x), plain(x))
    tolerance = 1e-5 if precision == torch.float32 else 2e-2
    for found, expected in zip(results[1][1:], results[0][1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_only_depthwise_convolutions_are_replaced() -> None:
    backbone = build(BackboneSettings("tf_efficientnet_lite0", weights="none"))
    kinds = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert len(kinds) == 16 and all(isinstance(m, depthwise.DepthwiseConv2d) for m in kinds)
    assert not any(
        isinstance(m, depthwise.DepthwiseConv2d) for m in build(BackboneSettings("resnet10t", weights="none")).modules()
    )
    for wrong in (
        dict(padding=3),
        dict(padding="same"),
        dict(groups=2),
        dict(stride=(1, 2)),
    ):
        options = {"bias": False, "groups": 6} | wrong
        assert not depthwise.DepthwiseConv2d.serves(torch.nn.Conv2d(6, 6, 3, **options))


def test_what_reaches_beyond_its_own_cell() -> None:
    lite0 = build(BackboneSettings("tf_efficientnet_lite0", weights="none"))
    assert [name for name in lite0.names if lite0.pointwise(name)] == ["head"]
    vit = build(BackboneSettings("vit_tiny_patch16_224", weights="none"))
    assert [name for name in vit.names if vit.pointwise(name)] == ["norm"]
    convnext = build(BackboneSettings("convnext_atto", weights="none", output_stride=32))
    assert [name for name in convnext.names if convnext.pointwise(name)] == ["norm"]
    resnet = build(BackboneSettings("resnet10t", weights="none"))
    assert not any(map(resnet.pointwise, resnet.names))


def test_resolutions_count_dilation_as_the_stride_it_stands_for() -> None:
    resnet = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    assert resnet.strides == {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 8, "layer4": 8}
    assert resnet.resolutions == {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    with torch.device("meta"):
        wide = ResNet38d()
    last = {resolution: name for name, resolution in wide.resolutions.items()}
    assert last == {1: "conv1a", 2: "b2_2", 4: "b3_2", 8: "b4_5", 16: "b5_2", 32: "bn7"}  # where a cut says something


def test_a_part_of_a_vits_tokens_keeps_the_prefix() -> None:
    vit = build(BackboneSettings("vit_tiny_patch16_224", weights="none")).eval()
    packed = torch.arange(2.0 * 7 * 6).reshape(1, 2, 7, 6)  # 6 rows of tokens under the row of prefix tokens
    assert vit.grid(packed, "block3") == (6, 6) and vit.prefix("block3") == 1 and vit.prefix("norm") is None
    part = vit.crop(packed, "block3", slice(4, 6), slice(2, 5))
    assert torch.equal(part[:, :, 1:], packed[:, :, 5:7, 2:5]) and torch.equal(part[:, :, 0, 0], packed[:, :, 0, 0])
    assert torch.equal(vit.crop(packed, "norm", slice(1, 2), slice(0, 6)), packed[:, :, 1:2])
