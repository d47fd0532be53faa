"""Everything that touches an accelerator. Skipped without one; `benchmarks/gpu.sh` runs it where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tag2mask import localize, methods
from tag2mask.backbones import BackboneSettings, build
from tag2mask.data.augment import AugmentSettings
from tag2mask.data.batches import MaskedImages, Source, TaggedImages
from tag2mask.errors import InputError
from tag2mask.localize import Localizer, LocalizeSettings
from tag2mask.refine import REFINERS, dense_crf, par, random_walk
from tag2mask.refine.proposals import MODELS
from tag2mask.segment import SegmenterSettings, SegmenterTask
from tag2mask.segment import build as build_segmenter
from tag2mask.training import TrainSettings, fit
from tag2mask.training.loop import _Training
from tag2mask.types import Dataset, Sample
from world import SMALL, probabilities, run, two_tones

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: see benchmarks/gpu.sh")
CUDA = torch.device("cuda", 0)
ON_CNNS = [name for name in methods.METHODS if name != "text"]  # which wants the hub


@pytest.fixture
def exact() -> Iterator[None]:
    """Matrix products in full float32, so that devices can be compared."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Twelve photos of two tones, two classes."""
    samples = []
    for index in range(12):
        path = tmp_path / f"{index}.png"
        Image.fromarray(two_tones(96, 128, index)).save(path)
        samples.append(Sample(str(index), path, frozenset({index % 2}), split="train"))
    return Dataset("tones", ("left", "right"), samples)


@pytest.mark.parametrize("labels", [2, 5, 21])
def test_crf_on_the_device_is_that_of_the_cpu(labels: int) -> None:
    image, scores = two_tones(60, 84), probabilities(labels, 60, 84)
    on_cpu = dense_crf(torch.from_numpy(image), torch.from_numpy(scores))
    on_gpu = dense_crf(torch.from_numpy(image).to(CUDA), torch.from_numpy(scores).to(CUDA))
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-3, rtol=0)


def test_par_and_walk_on_the_device_are_those_of_the_cpu() -> None:
    image, scores = torch.from_numpy(two_tones(60, 84)), torch.from_numpy(probabilities(3, 60, 84))
    for refine in (par, random_walk):
        on_gpu = refine(image.to(CUDA), scores.to(CUDA))
        torch.testing.assert_close(on_gpu.cpu(), refine(image, scores), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", sorted(REFINERS.keys() - MODELS.keys()))  # those want the hub
def test_every_refiner_runs_on_the_device(name: str) -> None:
    images = torch.from_numpy(np.stack([two_tones(40, 56, seed) for seed in (0, 1)])).permute(0, 3, 1, 2)
    scores = torch.from_numpy(np.stack([probabilities(3, 40, 56, seed) for seed in (0, 1)]))
    on_cpu = REFINERS[name].build().refine(images, scores)
    on_gpu = REFINERS[name].build().refine(images.to(CUDA), scores.to(CUDA))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ON_CNNS)
def test_maps_on_the_device_are_those_of_the_cpu(name: str, photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localize, "padding", lambda device, backbone: 64)  # on the CPU, too: borders see it
    maps = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
        method = methods.build(name, backbone, 2).to(device).eval()
        traits = methods.traits(methods.METHODS[name].settings())
        settings = LocalizeSettings(long_side=128, precision="float32")
        localizer = Localizer(method, traits, backbone, settings, 2)
        samples, sizes = photos.samples[:3], [(96, 128)] * 3
        maps[device] = localizer(samples, sizes, [localizer.read(s, (96, 128)) for s in samples])
    for one, other in zip(maps["cpu"], maps["cuda"], strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=5e-3)  # stored in half precision


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # of torch, about its own feature
@pytest.mark.parametrize("name", ON_CNNS)
def test_no_step_of_a_training_waits_for_the_device(name: str, photos: Dataset, tmp_path: Path) -> None:
    """A wait in a step leaves the device idle while the next step is prepared."""
    if methods.traits(methods.METHODS[name].settings()).saliency:
        pytest.skip("these photos have no saliency maps")
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    method = methods.build(name, backbone, 2)
    source = TaggedImages(photos, AugmentSettings(size=64), (backbone.mean, backbone.std), 0)
    waits = waits_of(method, source, tmp_path)
    if name in ("mcis", "apc", "ppl"):
        pytest.skip(f"{name} reads numbers in its step: {waits}")  # said in docs/results.md
    assert not waits, waits


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_of_the_segmenters_training_waits_for_the_device(photos: Dataset, tmp_path: Path) -> None:
    settings = BackboneSettings("resnet10t", weights="none", output_stride=8)
    backbone = build(settings)
    task = SegmenterTask(build_segmenter(SegmenterSettings(channels=16), backbone, 2, settings), balance=0.5)
    halves = np.repeat(np.array([[0, 1]], np.uint8), 64, 1).repeat(96, 0)
    source = MaskedImages(photos, lambda _: halves, AugmentSettings(size=64), (backbone.mean, backbone.std), 0)
    waits = waits_of(task, source, tmp_path)
    assert not waits, waits


def waits_of(task: nn.Module, source: Source, folder: Path) -> list[str]:
    """What in a step of a training waits for the device."""
    settings = TrainSettings(epochs=8, batch_size=4, workers=0, start_decay=1.0)
    training = _Training.begin(task, source, settings, folder, 0, "t", "train")
    waits = []
    for step, batch in training.batches():
        batch = batch.pin_memory()
        if step >= 4:  # the first steps allocate and choose algorithms
            torch.cuda.set_sync_debug_mode("error")
        try:
            training.step(step, batch)
        except RuntimeError as error:
            waits.append(str(error))
            break
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if step > 8:
            break
    return waits


def test_an_interrupted_training_goes_on_from_its_checkpoint(photos: Dataset, tmp_path: Path) -> None:
    """Moments of a fused optimiser lie in memory as their weights do, channels last."""

    class Ending(TaggedImages):
        left = 30

        def item(self, epoch: int, index: int) -> Any:
            self.left -= 1
            if not self.left:
                raise InputError("the power is gone")
            return super().item(epoch, index)

    settings = TrainSettings(epochs=6, batch_size=4, workers=0, checkpoint_minutes=0, precision="float32")
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    source = Ending(photos, AugmentSettings(size=64), (backbone.mean, backbone.std), 0)
    with pytest.raises(InputError, match="the power is gone"):
        fit(methods.build("cam", backbone, 2), source, settings, tmp_path, seed=0, title="t")
    assert (tmp_path / "checkpoint.safetensors").exists()
    fit(methods.build("cam", backbone, 2), source, settings, tmp_path, seed=0, title="t")


def test_memory_that_does_not_suffice_is_one_line(photos: Dataset, tmp_path: Path) -> None:
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    source = TaggedImages(photos, AugmentSettings(size=2048), (backbone.mean, backbone.std), 0)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(InputError, match="does not hold a step of 12 photos"):
            fit(
                methods.build("cam", backbone, 2), source, TrainSettings(epochs=1, batch_size=12, workers=0), tmp_path,
                seed=0, title="t",
            )  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_whole_run_on_the_device(world: Path, tmp_path: Path) -> None:
    precision = [flag for flag in SMALL if flag not in ("float32", "bfloat16")]
    flags = [flag for flag in precision if not flag.endswith(".precision")]
    assert run("train", world, "--out", tmp_path / "run", *flags) == 0
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    assert run("predict", tmp_path / "run", world / "images", "--out", tmp_path / "masks") == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 12


def test_training_learns_on_the_device(photos: Dataset, tmp_path: Path) -> None:
    from tag2mask.files import read_jsonl

    torch.manual_seed(0)
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    source = TaggedImages(photos, AugmentSettings(size=64), (backbone.mean, backbone.std), 0)
    settings = replace(TrainSettings(epochs=20, batch_size=4), workers=2)
    fit(methods.build("cam", backbone, 2), source, settings, tmp_path, seed=0, title="t")
    losses = [line["classification"] for line in read_jsonl(tmp_path / "log.jsonl")]
    assert losses[-1] < losses[0]
