"""ResNet-38d against the published layout and a plain reading of its blocks; files of every kind, good and hostile."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tag2mask.backbones import BackboneSettings, build, resnet38
from tag2mask.backbones.mxnet import V1, V2, V3, read_params
from tag2mask.backbones.resnet38 import Bottleneck, ResBlock, ResNet38d, from_mxnet, official_name, official_names
from tag2mask.errors import InputError
from tag2mask.methods.eps import ClassMapNet


def meta() -> ResNet38d:
    """The whole network without its 420 MB."""
    with torch.device("meta"):
        return ResNet38d()


def thin() -> ResNet38d:
    """A network of the same names with a sixteenth of the widths, and norms that do something."""
    torch.manual_seed(0)
    network = ResNet38d(thin=16)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1.5)
    return network


# --- layout -----------------------------------------------------------------------------------------------------


def expected_names() -> list[str]:
    """The published state dict in its order, written down from its rule."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1a.weight"]
    for block in (
        "b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5", "b5", "b5_1", "b5_2"
    ):  # fmt: skip
        names += [f"{block}.bn_branch2a.{n}" for n in norm] + [f"{block}.conv_branch2a.weight"]
        names += [f"{block}.bn_branch2b1.{n}" for n in norm] + [f"{block}.conv_branch2b1.weight"]
        names += [f"{block}.conv_branch1.weight"] if "_" not in block else []
    for block in ("b6", "b7"):
        for branch in ("2a", "2b1", "2b2"):
            names += [f"{block}.bn_branch{branch}.{n}" for n in norm] + [f"{block}.conv_branch{branch}.weight"]
        names.append(f"{block}.conv_branch1.weight")
    return names + [f"bn7.{n}" for n in norm]


def test_names_and_their_order() -> None:
    names = list(official_names(meta()))
    assert names == expected_names()
    counts = Counter(name.split(".")[0] for name in names)
    assert all(counts[b] == 13 for b in ("b2", "b3", "b4", "b5")) and counts["b6"] == counts["b7"] == 19
    assert all(n == 12 for b, n in counts.items() if "_" in b) and counts["bn7"] == 5 and counts["conv1a"] == 1


def test_golden_counts_of_both_heads() -> None:
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    with torch.device("meta"):
        eps, smaf = ClassMapNet(ResNet38d(), 20), ClassMapNet(ResNet38d(), 20, "feature")
    assert count(eps) == 105_156_928 and len(eps.state_dict()) == 229
    state = list(smaf.state_dict())
    assert count(smaf) == 105_598_144 and len(state) == 235
    assert sum(not n.endswith("num_batches_tracked") for n in state) == 197
    assert state[-7:] == ["head.fc8.weight", "head.cov_feat.weight", "head.bn.weight", "head.bn.bias",
                          "head.bn.running_mean", "head.bn.running_var", "head.bn.num_batches_tracked"]  # fmt: skip
    learns = [p for p in smaf.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learns) == 104_729_216 and all(p.ndim == 4 for p in learns)
    assert sum(p.requires_grad for p in smaf.backbone.parameters()) == 35 and len(learns) == 37


@pytest.mark.parametrize(("side", "cells"), [(448, 56), (375, 47), (500, 63), (333, 42), (321, 41), (562, 71),
                                             (750, 94), (1000, 125)])  # fmt: skip
def test_grid_of_a_side(side: int, cells: int) -> None:
    assert meta()(torch.zeros(1, 3, 16, side, device="meta")).shape == (1, 4096, 2, cells)


def test_strides_taps_and_dilations() -> None:
    network = meta()
    images = torch.zeros(2, 3, 32, 64, device="meta")
    for name, stride in network.strides.items():
        assert network.until(images, name).shape[2:] == (32 // stride, 64 // stride)
    taps = network.taps(images)
    assert {n: tuple(t.shape) for n, t in taps.items()} == {
        "conv4": (2, 512, 4, 8), "conv5": (2, 1024, 4, 8), "conv6": (2, 4096, 4, 8)
    }  # fmt: skip
    dilation = lambda name, conv: getattr(network.blocks[name], conv).dilation[0]  # noqa: E731
    assert [dilation("b5", c) for c in ("conv_branch2a", "conv_branch2b1")] == [1, 2]
    assert [dilation("b5_1", c) for c in ("conv_branch2a", "conv_branch2b1")] == [2, 2]
    assert dilation("b6", "conv_branch2b1") == dilation("b7", "conv_branch2b1") == 4
    assert (network.blocks["b6"].dropout.p, network.blocks["b7"].dropout.p) == (0.3, 0.5)
    assert network.pointwise("bn7") and not network.pointwise("b7")


# --- arithmetic -------------------------------------------------------------------------------------------------


def norm_relu(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    shape = (1, -1, 1, 1)
    w, b, mean, var = (state[f"{name}.{k}"].view(shape) for k in ("weight", "bias", "running_mean", "running_var"))
    return ((x - mean) / (var + 1e-5).sqrt() * w + b).clamp(min=0)


def test_the_network_is_what_its_page_says() -> None:
    """Every block again, from the state dict alone."""
    network = thin().eval()
    names = official_names(network)
    own = network.state_dict()
    state = {official: own[ours] for official, ours in names.items()}
    images = torch.randn(2, 3, 33, 41)
    x = F.conv2d(images, state["conv1a.weight"], padding=1)
    taps = {}
    for block, _, _, _, stride, first, second in resnet38.RESIDUAL:
        a = norm_relu(state, f"{block}.bn_branch2a", x)
        if block == "b5":
            taps["conv4"] = a
        main = F.conv2d(a, state[f"{block}.conv_branch2a.weight"], stride=stride, padding=first, dilation=first)
        main = norm_relu(state, f"{block}.bn_branch2b1", main)
        main = F.conv2d(main, state[f"{block}.conv_branch2b1.weight"], padding=second, dilation=second)
        beside = f"{block}.conv_branch1.weight"
        x = main + (F.conv2d(a, state[beside], stride=stride) if beside in state else x)
    for block in ("b6", "b7"):
        a = norm_relu(state, f"{block}.bn_branch2a", x)
        if block == "b6":
            taps["conv5"] = a
        main = norm_relu(state, f"{block}.bn_branch2b1", F.conv2d(a, state[f"{block}.conv_branch2a.weight"]))
        main = F.conv2d(main, state[f"{block}.conv_branch2b1.weight"], padding=4, dilation=4)
        main = F.conv2d(norm_relu(state, f"{block}.bn_branch2b2", main), state[f"{block}.conv_branch2b2.weight"])
        x = main + F.conv2d(a, state[f"{block}.conv_branch1.weight"])
    taps["conv6"] = norm_relu(state, "bn7", x)
    with torch.no_grad():
        found = network.taps(images)
    for name, tap in taps.items():
        torch.testing.assert_close(found[name], tap, rtol=1e-4, atol=1e-4)
    assert taps["conv6"].abs().sum() > 0 and taps["conv6"].shape == (2, 256, 5, 6)


def test_what_learns_and_what_does_not() -> None:
    network = thin()
    assert network.train() is network and network.eval() is network
    network.train()
    assert not any(m.training for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = {n: t.clone() for n, t in network.state_dict().items()}
    images = torch.randn(2, 3, 32, 48)
    first, second = network(images), network(images)
    assert not torch.equal(first, second)  # dropout is active
    first.square().mean().backward()
    got = {n for n, p in network.named_parameters() if p.grad is not None}
    assert len(got) == 35 and not any(".bn" in n for n in got)
    assert not {n.split(".")[1] for n in got} & set(resnet38.FIXED)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())  # statistics stand still


def test_shortcuts_read_the_activated_input() -> None:
    block = ResBlock(2, 3, 4, 2, 1, 1).eval()
    torch.nn.init.zeros_(block.conv_branch2b1.weight)
    torch.nn.init.ones_(block.conv_branch1.weight)
    x = torch.full((1, 2, 4, 6), -1.0)
    with torch.no_grad():
        assert block(x).abs().max() == 0 and block(-x).min() > 1.9  # a negative input is gone before the shortcut
        assert ResBlock(2, 3, 2, 1, 1, 1).conv_branch1 is None  # equal width: the input itself
        assert Bottleneck(4, 2, 4, 4, 4, 0.0).conv_branch1 is not None


# --- files ------------------------------------------------------------------------------------------------------

TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def coded(array: np.ndarray, version: int) -> bytes:
    """One array as MXNet writes it."""
    kind = "I" if version == 0 else "q"
    shape = struct.pack(f"<{array.ndim}{kind}", *array.shape)
    head = {
        0: struct.pack("<I", array.ndim),
        V1: struct.pack("<II", V1, array.ndim),
        V2: struct.pack("<IiI", V2, 0, array.ndim),
        V3: struct.pack("<Iii", V3, 0, array.ndim),
    }[version]
    return head + shape + struct.pack("<iii", 1, 0, TYPES[array.dtype.name]) + array.tobytes()


def params(arrays: dict[str, np.ndarray], version: int = 0) -> bytes:
    out = struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(coded(a, version) for a in arrays.values())
    out += struct.pack("<Q", len(arrays))
    return out + b"".join(struct.pack("<Q", len(n.encode())) + n.encode() for n in arrays)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.params"
    path.write_bytes(content)
    return path


SAMPLE = {
    "arg:a_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "aux:b": np.array([1.5, -2.5], np.float64),
    "half": np.array([[0.25]], np.float16),
    "bytes": np.arange(5, dtype=np.uint8),
    "größe": np.array([[-7], [9]], np.int64),
}


@pytest.mark.parametrize("version", [0, V1, V2, V3])
def test_params_of_every_version(tmp_path: Path, version: int) -> None:
    found = read_params(written(tmp_path, params(SAMPLE, version)))
    assert list(found) == list(SAMPLE)
    for name, array in SAMPLE.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_an_array_of_no_dimensions_ends_early_except_in_the_last_version(tmp_path: Path) -> None:
    empty = {V1: struct.pack("<II", V1, 0), V2: struct.pack("<IiI", V2, 0, 0), V3: struct.pack("<Iii", V3, 0, -1)}
    for code in empty.values():
        content = struct.pack("<QQQ", 0x112, 0, 1) + code + struct.pack("<QQ", 1, 1) + b"n"
        assert read_params(written(tmp_path, content))["n"].size == 0
    one = {"n": np.array(3.5, np.float32)}
    assert read_params(written(tmp_path, params(one, V3)))["n"] == 3.5


def fails(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_params(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400 and str(path) in message
    return message


@pytest.mark.parametrize("version", [0, V2])
def test_a_file_cut_anywhere_is_one_line(tmp_path: Path, version: int) -> None:
    whole = params({k: SAMPLE[k] for k in ("aux:b", "half")}, version)
    for length in range(len(whole)):
        fails(written(tmp_path, whole[:length]))
    assert "follow its end" in fails(written(tmp_path, whole + b"x"))


def test_hostile_files_are_one_line_and_allocate_nothing(tmp_path: Path) -> None:
    head = struct.pack("<QQQ", 0x112, 0, 1)
    tail = struct.pack("<QQ", 1, 1) + b"n"
    some = lambda dims, kind="I": struct.pack(f"<I{len(dims)}{kind}iii", len(dims), *dims, 1, 0, 0)  # noqa: E731
    signed = lambda dims: struct.pack(f"<IiI{len(dims)}qiii", V2, 0, len(dims), *dims, 1, 0, 0)  # noqa: E731
    cases = {
        "does not begin": b"PK\x03\x04" * 20,
        "claims 1152921504606846976 arrays": struct.pack("<QQQ", 0x112, 0, 2**60) + bytes(64),
        "4294967295 dimensions": head + struct.pack("<I", 2**32 - 1) + bytes(64),
        "cut short": head + some([2**31, 2**31, 2**31, 2**31]) + bytes(64),
        "negative side": head + signed([4, -1]) + bytes(64) + tail,
        "not stored densely": head + struct.pack("<Ii", V2, 1) + bytes(64),
        "unknown type (9)": head + struct.pack("<IIiii", 1, 1, 1, 0, 9) + bytes(64),
        "1 arrays and 3 names": head + some([1]) + bytes(4) + struct.pack("<Q", 3) + bytes(64),
        "is not text": head + some([1]) + bytes(4) + struct.pack("<QQ", 1, 2) + b"\xff\xfe",
        "name 0 needs": head + some([1]) + bytes(4) + struct.pack("<QQ", 1, 2**63) + b"n",
        "comes twice": struct.pack("<QQQ", 0x112, 0, 2) + 2 * (some([1]) + bytes(4)) + struct.pack("<Q", 2)
        + 2 * (struct.pack("<Q", 1) + b"n"),
    }  # fmt: skip
    for expected, content in cases.items():
        assert expected in fails(written(tmp_path, content)), expected
    assert "the magic" in fails(written(tmp_path, b"")) or "does not begin" in fails(written(tmp_path, b""))
    assert "no weights file" in fails(tmp_path / "absent.params")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bytes_changed_at_random_never_do_harm(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = bytearray(params({"n": np.ones((2, 3), np.float32)}, data.draw(st.sampled_from([0, V1, V2, V3]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.mktemp("fuzz"), bytes(whole))
    try:
        found = read_params(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert sum(a.size for a in found.values()) < 100


# --- names and weights ------------------------------------------------------------------------------------------


def mxnet_name(official: str) -> str | None:
    """The other way, from the names of the published ImageNet model."""
    block, _, rest = official.partition(".")
    part, _, kind = rest.rpartition(".")
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    if kind == "num_batches_tracked":
        return None
    if block in ("conv1a", "bn7"):
        return f"arg:conv1a_{rest}" if block == "conv1a" else f"arg:bn7_{kinds[kind]}"
    stage = f"{block[1]}b{block[3:]}" if "_" in block else f"{block[1]}a"
    if part.startswith("conv"):
        return f"arg:res{stage}_{part[5:]}_weight"
    return f"{'aux' if 'running' in kind else 'arg'}:bn{stage}_{part[3:]}_{kinds[kind]}"


def test_golden_names() -> None:
    assert official_name("res2a_branch1_weight") == "b2.conv_branch1.weight"
    assert official_name("res2b1_branch2a_weight") == "b2_1.conv_branch2a.weight"
    assert official_name("bn4b5_branch2b1_gamma") == "b4_5.bn_branch2b1.weight"
    assert official_name("res6a_branch2b2_weight") == "b6.conv_branch2b2.weight"
    assert official_name("bn7_moving_var") == "bn7.running_var"
    for strange in ("fc1_weight", "res9a_branch1_weight", "res2c_branch1_weight", "bn2a_branch1_weight", "bn7_x", "res",
                    "bn", "", "res2b_branch2a_weight", "stage1_unit1_conv1_weight"):  # fmt: skip
        assert official_name(strange) is None, strange
    for name in official_names(meta()):
        mxnet = mxnet_name(name)
        assert mxnet is None or official_name(mxnet.partition(":")[2]) == name


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`build` makes thin networks."""
    whole = ResNet38d
    monkeypatch.setattr(resnet38, "ResNet38d", lambda: whole(thin=16))


def official_state(network: ResNet38d) -> dict[str, Tensor]:
    own = network.state_dict()
    return {official: own[ours].clone() for official, ours in official_names(network).items()}


def settings_of(path: object) -> BackboneSettings:
    return BackboneSettings("resnet38d", weights=str(path), output_stride=8)


def test_weights_from_every_kind_of_file(small: None, tmp_path: Path) -> None:
    trained = thin()
    state = official_state(trained)
    arrays = {m: t.numpy() for n, t in state.items() if (m := mxnet_name(n))}
    arrays |= {"arg:linear1000_weight": np.zeros((3, 4), np.float32), "arg:linear1000_bias": np.zeros(3, np.float32)}
    mxnet = tmp_path / "imagenet.params"
    mxnet.write_bytes(params(arrays))
    plain, nested, safe = tmp_path / "cls.pth", tmp_path / "smaf.pth", tmp_path / "net.safetensors"
    torch.save(state | {"fc8.weight": torch.zeros(20, 256, 1, 1)}, plain)
    torch.save({"Net": {"model_state": state | {"bn.weight": torch.ones(8)}, "objective_vectors": torch.zeros(21, 8)},
                "iter": 7}, nested)  # fmt: skip
    save_file(state, safe)
    for path in (mxnet, plain, nested, safe):
        found = build(settings_of(path)).state_dict()
        for ours, tensor in trained.state_dict().items():
            assert torch.equal(found[ours], tensor), (path, ours)


def test_weights_that_do_not_fit_are_one_line(small: None, tmp_path: Path) -> None:
    state = official_state(thin())
    short = {n: t for n, t in state.items() if not n.startswith("b6")}
    wide = state | {"b7.conv_branch1.weight": torch.zeros(3, 3, 1, 1)}
    for content, expected in (
        (short, r"lacks 16 of this backbone's tensors \(b6"),
        (wide, r"b7\.conv_branch1\.weight is"),
    ):
        save_file(content, tmp_path / "bad.safetensors")
        with pytest.raises(InputError, match=expected):
            build(settings_of(tmp_path / "bad.safetensors"))
    other = written(tmp_path, params({"arg:stage1_unit1_conv1_weight": np.zeros((1, 1), np.float32)}))
    with pytest.raises(InputError, match=r"weights of another network \(stage1_unit1_conv1_weight\)"):
        from_mxnet(other)
    whole = params({m: t.numpy() for n, t in state.items() if (m := mxnet_name(n))})
    with pytest.raises(InputError, match=r"cannot read the MXNet weights .*cut short"):
        build(settings_of(written(tmp_path, whole[: len(whole) // 2])))


def test_the_name_and_its_conditions(small: None) -> None:
    network = build(BackboneSettings("resnet38d", weights="none", output_stride=8, freeze_until="b5"))
    assert (network.channels, network.stride, network.size_divisor, network.frozen_until) == (256, 8, 1, "b5")
    assert network.mean == (0.485, 0.456, 0.406)
    with pytest.raises(InputError, match=r"give --weights FILE .*--weights none"):
        build(BackboneSettings("resnet38d", output_stride=8))
    with pytest.raises(InputError, match=r"output stride 8, not 16: give --backbone\.output-stride 8"):
        build(BackboneSettings("resnet38d", weights="none"))
    with pytest.raises(InputError, match="no weights file"):
        build(settings_of("absent.params"))
    with pytest.raises(InputError, match=r"unknown backbone 'resnet38'.*resnet38d"):
        build(BackboneSettings("resnet38", weights="none"))
