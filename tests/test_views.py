"""Views padded to one size, as on an accelerator: what is cut off again, and that photos keep their maps and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from tag2mask import compute, localize, methods
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.localize import Localizer, LocalizeSettings, batches_by
from tag2mask.segment import inference
from tag2mask.segment.inference import InferenceSettings, PhotoSegmenter
from tag2mask.types import LocalizationMaps, Sample
from tag2mask.views import padded_size, padding, stack_padded, without_padding
from world import two_tones

SIZES = ((96, 120), (90, 128), (70, 120))  # the first two are of one padded size, 128x128
CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 32, 64]), st.sampled_from([1, 4, 8, 16]))
def test_what_is_cut_off_is_padding(height: int, width: int, unit: int, stride: int) -> None:
    """Cells of which some pixel is the photo's are kept, others go."""
    rows, columns = padded_size(height, width, unit)
    assert rows % unit == 0 and 0 <= rows - height < unit and columns % unit == 0 and 0 <= columns - width < unit
    batch, valid = stack_padded([torch.ones(1, height, width)], unit)
    assert batch.shape == (1, 1, rows, columns) and (batch[0, 0] == valid[0]).all()
    assert valid.sum() == height * width
    if unit % stride == 0:
        cells = F.max_pool2d(batch, stride)
        inside = without_padding(cells, (height, width), unit)
        assert inside.min() == 1 and inside.sum() == cells.sum()


def test_no_padding_on_a_cpu_nor_for_transformers() -> None:
    backbone = Backbone([("b0", nn.Identity())], 3, 1, (0.0,) * 3, (1.0,) * 3)
    patches = Backbone([("b0", nn.Identity())], 3, 1, (0.0,) * 3, (1.0,) * 3, 14)
    assert padding(CPU, backbone) == 1 == padding(torch.device("cuda"), patches)
    assert padding(torch.device("cuda"), backbone) > 1
    image = torch.rand(3, 5, 7)
    batch, valid = stack_padded([image, image], 1)
    assert torch.equal(batch[1], image) and valid.all()


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(two_tones(height, width, number)).save(tmp_path / f"{number}.png")
        made.append(Sample(str(number), tmp_path / f"{number}.png", frozenset({number % 2}), split="train"))
    return made


def network(name: str) -> tuple[nn.Module, Backbone]:
    torch.manual_seed(0)
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8))
    return methods.build(name, backbone, 2).eval(), backbone


CONVOLUTIONAL = [name for name in methods.METHODS if name != "text"]  # whose networks are ViTs: their views are whole


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_photo_has_its_own_maps_whoever_shares_its_batch(
    name: str, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and with another of its padded size the same to the digit; unpadded nearly the same, and of equal grids."""
    method, backbone = network(name)
    traits = methods.traits(methods.METHODS[name].settings())
    localizer = Localizer(method, traits, backbone, LocalizeSettings(long_side=128, precision="float32"), 2)

    def maps(photos: list[int]) -> list[LocalizationMaps]:
        chosen, sizes = [samples[i] for i in photos], [SIZES[i] for i in photos]
        return localizer(chosen, sizes, [localizer.read(s, size) for s, size in zip(chosen, sizes, strict=True)])

    plain = [maps([i])[0] for i in range(3)]
    monkeypatch.setattr(localize, "padding", lambda device, backbone: 64)
    if traits.whole_views:
        assert localizer.unit == 1
        return
    groups = batches_by([*samples], lambda s: localizer.group(SIZES[int(s.id)]), None, CPU)
    assert [[s.id for s in group] for group in groups] == [["0", "1"], ["2"]]
    together = [*maps([0, 1]), *maps([2])]
    for number, (padded, whole) in enumerate(zip(together, plain, strict=True)):
        alone = maps([number])[0]
        np.testing.assert_allclose(alone.scores, padded.scores, atol=2e-3)
        assert padded.scores.shape == whole.scores.shape and padded.classes == whole.classes
        assert np.abs(padded.scores.astype(np.float32) - whole.scores).mean() < 0.15  # borders see padding, not nothing


def test_a_photo_has_its_own_mask_whoever_shares_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a segmenter that names each pixel by itself padding changes nothing, windows or not."""

    class ByColour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))

        def segment(self, views: object) -> torch.Tensor:
            return torch.einsum("lc,bchw->blhw", self.weight, views.images)  # type: ignore[attr-defined]

    backbone = Backbone([("b0", nn.Identity())], 3, 1, (0.4,) * 3, (0.2,) * 3)
    for window in (768, 64):
        photos = PhotoSegmenter(
            ByColour(), backbone, InferenceSettings(long_side=128, window=window, refine="none", precision="float32")
        )
        pixels = [two_tones(*size, number) for number, size in enumerate(SIZES)]
        inputs = [photos.read(image) for image in pixels]
        plain = [photos([size], [of])[0].probabilities for size, of in zip(SIZES, inputs, strict=True)]
        with monkeypatch.context() as patch:
            patch.setattr(inference, "padding", lambda device, backbone: 64)
            both = [*photos(SIZES[:2], inputs[:2]), *photos(SIZES[2:], inputs[2:])]
            together = [photo.probabilities for photo in both]
        for one, other, size in zip(plain, together, SIZES, strict=True):
            assert other.shape == (3, *size)
            torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_what_memory_does_not_hold_is_done_in_halves() -> None:
    """A batch of five where two fit: each is done once, in order; one that never fits is an error."""
    sizes = []

    def work(items: list[int]) -> list[int]:
        if len(items) > 2 or 7 in items:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(items))
        return [10 * item for item in items]

    assert compute.by_halves(work, [1, 2, 3, 4, 5], "shrink it") == [10, 20, 30, 40, 50]
    assert sizes == [2, 1, 2]
    with pytest.raises(InputError, match=r"does not hold a single photo.*shrink it"):
        compute.by_halves(work, [7], "shrink it")
