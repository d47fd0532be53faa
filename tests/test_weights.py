"""Files of weights: their digests, and what no file may do, however it was made: run code, fill the memory, pass for
weights with numbers that are none."""

from __future__ import annotations

import math
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import fuzz_weights
from tag2mask import backbones
from tag2mask.archives import check_archive
from tag2mask.backbones import BackboneSettings, resnet38
from tag2mask.backbones.mxnet import read_params
from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError


def fails(read: Callable[[Path], object], path: Path) -> str:
    """The one line with which a reader refuses a file; it names the file."""
    with pytest.raises(InputError) as error:
        read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 and str(path) in str(error.value)
    return str(error.value)


# --- digests


def test_the_digest_of_weights_is_that_of_their_bytes(tmp_path: Path) -> None:
    path, settings = tmp_path / "w.safetensors", BackboneSettings("resnet10t", str(tmp_path / "w.safetensors"))
    digests = []
    for value in (1.0, 2.0, 1.0):
        save_file({"a": torch.full((3,), value)}, path)
        os.utime(path, ns=(1, 1))  # the same size and the same time each time
        digests.append(backbones.weights_digest(settings))
    assert digests[0] == digests[2] != digests[1] and len(digests[0]) == 32
    moved = path.rename(tmp_path / "moved.safetensors")
    assert backbones.weights_digest(BackboneSettings("resnet10t", str(moved))) == digests[2]
    with pytest.raises(InputError, match="no weights file"):
        backbones.weights_digest(settings)


def test_digests_of_weights_that_are_no_file() -> None:
    assert backbones.weights_digest(BackboneSettings("resnet10t", "none")) == "none"
    embedded = backbones.weights_digest(BackboneSettings())
    assert len(embedded) == 32 and embedded == backbones.weights_digest(BackboneSettings(output_stride=32))
    assert backbones.weights_digest(BackboneSettings("resnet50.tv_in1k")) == "hub:resnet50.tv_in1k"


# --- numbers that are none


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".SAFETENSORS"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype, suffix: str) -> None:
    state = {"fine": torch.ones(3), "layer.weight": torch.tensor([[1.0, value]], dtype=dtype)}
    path = tmp_path / f"w{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    assert "'layer.weight' holds NaN or infinity" in fails(read_state_dict, path)


def test_a_whole_model_with_one_nan_is_not_built(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", pretrained=False)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    backbones.build(BackboneSettings("resnet10t", weights=str(path)))
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = math.nan
    save_file(state, path)
    with pytest.raises(InputError, match=r"layer3\.0\.conv1\.weight.*NaN"):
        backbones.build(BackboneSettings("resnet10t", weights=str(path)))


def test_mxnet_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.params"
    for value in (math.nan, 1e300):
        array = np.full((2, 2), value)
        code = struct.pack("<I2I", 2, 2, 2) + struct.pack("<iii", 1, 0, 1) + array.tobytes()
        name = b"arg:conv1a_weight"
        content = struct.pack("<QQQ", 0x112, 0, 1) + code + struct.pack("<QQ", 1, len(name)) + name
        path.write_bytes(content)
        assert "'conv1a.weight' holds NaN or infinity" in fails(resnet38.from_mxnet, path)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "no dense tensor of plain numbers"),
        (torch.zeros(3, device="meta"), "no dense tensor of plain numbers"),
        (torch.zeros(3, dtype=torch.complex64), "no dense tensor of plain numbers (torch.complex64"),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), "no dense tensor of plain numbers (torch.float8_e4m3fn"),
        (torch.zeros(1).expand(10**12), "claims more numbers than the file holds"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, tensor: torch.Tensor, words: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({"layer.weight": tensor}, path)
    assert words in fails(read_state_dict, path)


# --- files that are something else


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html><title>404</title>", "holds no weights (it begins with b'<!doctype html><"),
        (b"version https://git-lfs.github.com/spec/v1", "holds no weights (it begins with b'version https:/"),
        (b"", "holds no weights (it begins with b''"),
        (b"\x1f\x8b\x08" + bytes(40), "holds no weights"),
        (b"\x93NUMPY" + bytes(40), "holds no weights"),
        (b"PK\x03\x04" + bytes(40), "is it complete?"),
        (b"\x80\x02}q\x00.", "cannot read weights"),
        (b"\x80\x02cos\nsystem\n(S'ls'\ntR.", "would run its code"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert words in fails(read_state_dict, path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "w.pth"
    os.mkfifo(pipe)  # opening it would wait for ever
    assert "no weights file" in fails(read_state_dict, pipe)
    assert "no weights file" in fails(read_state_dict, tmp_path)
    assert "no weights file" in fails(read_params, pipe)
    assert "no weights file" in fails(read_state_dict, Path("/dev/zero"))


# --- bombs


def test_an_archive_that_inflates_is_refused_before_it_does(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pth", tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(2**20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for member in source.infolist():
            content = source.read(member) * (72 if member.filename.endswith("data/0") else 1)  # 0.3 GB
            out.writestr(member.filename, content)
    tracemalloc.start()
    started = time.monotonic()
    message = fails(read_state_dict, bomb)
    seconds, peak = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "would unpack to 0.3 GB" in message and seconds < 2 and peak < 2**24
    assert read_state_dict(plain)["w"].shape == (2**20,)


def test_an_npz_that_inflates_is_refused_and_honest_ones_are_not(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros((1000, 1000)))  # 8 MB of zeros in 8 kB: harmless
    check_archive(tmp_path / "small.npz")
    np.savez(tmp_path / "plain.npz", a=np.random.default_rng(0).random(1000))
    check_archive(tmp_path / "plain.npz")
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**25 + 2**20))
    assert "would unpack to 0.3 GB" in fails(check_archive, tmp_path / "bomb.npz")
    (tmp_path / "text.npz").write_text("no archive")
    check_archive(tmp_path / "text.npz")  # for its own reader to refuse


@pytest.mark.parametrize("dimensions", [(2**32 - 1,) * 31 + (0,), (0, 2**31, 2**31, 2**31), (2**31,) * 4])
def test_an_mxnet_shape_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, dimensions: tuple[int, ...]
) -> None:
    path = tmp_path / "w.params"
    shape = struct.pack(f"<I{len(dimensions)}I", len(dimensions), *dimensions)
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 1) + shape + struct.pack("<iii", 1, 0, 0) + bytes(64))
    assert "array 0, of shape" in (message := fails(read_params, path)) or "claims the shape" in message


# --- fuzzers: only our own errors come out, nothing hangs, nothing large is made

FAST, SLOW = range(300), range(300, 10_300)


def fuzz(tmp_path: Path, cases: range, case: Callable[[int], bytes], name: str, read: Callable[[Path], object]) -> None:
    path, refused = tmp_path / name, 0
    for number in cases:
        path.write_bytes(case(number))
        started = time.monotonic()
        try:
            read(path)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), number
        except Exception as error:
            raise AssertionError(f"case {number} of {name}") from error
        assert time.monotonic() - started < 5, number
    assert refused > len(cases) * 0.6  # the others were damaged where it does no harm


@pytest.mark.parametrize("cases", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["300", "10000"])
def test_fuzzed_params(tmp_path: Path, cases: range) -> None:
    fuzz(tmp_path, cases, fuzz_weights.params_case, "w.params", read_params)


@pytest.mark.parametrize("cases", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["300", "10000"])
def test_fuzzed_safetensors(tmp_path: Path, cases: range) -> None:
    fuzz(tmp_path, cases, fuzz_weights.safetensors_case, "w.safetensors", read_state_dict)
