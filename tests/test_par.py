"""PAR against published numbers, a loop over pixels, and itself."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tag2mask.errors import InputError
from tag2mask.refine import REFINERS, Par, ParSettings, par, pixel_adaptive, refiner
from tag2mask.refine.par import _in_proportion
from tag2mask.refine.par_spread import _gather, _scatter, affinities
from world import probabilities, two_tones

MODULE = importlib.import_module("tag2mask.refine.par_spread")

SMALL = ParSettings(dilations=(1, 3), iterations=3)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def tensors(height: int, width: int, labels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """``[1 3 height width]`` and ``[1 labels height width]``, float64."""
    image = torch.from_numpy(two_tones(height, width, seed)).permute(2, 0, 1)[None].double()
    return image, torch.from_numpy(probabilities(labels, height, width, seed))[None].double()


def slow_par(image: np.ndarray, scores: np.ndarray, s: ParSettings) -> np.ndarray:
    """One pixel after another, in float64, from the formulas."""
    height, width = image.shape[:2]
    steps = [(d * y, d * x) for d in s.dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    distance = np.array([math.sqrt(y * y + x * x) for y, x in steps])
    b = -((distance / (distance.std(ddof=1) + 1e-8) / s.width) ** 2)
    position = np.exp(b - b.max()) / np.exp(b - b.max()).sum()
    pixels = image.astype(float)
    where, weights = {}, {}
    for i in range(height):
        for j in range(width):
            where[i, j] = [(min(max(i + y, 0), height - 1), min(max(j + x, 0), width - 1)) for y, x in steps]
            near = np.array([pixels[q] for q in where[i, j]])
            a = -((np.abs(near - pixels[i, j]) / (near.std(0, ddof=1) + 1e-8) / s.width) ** 2).mean(1)
            colour = np.exp(a - a.max())
            weights[i, j] = colour / colour.sum() + s.position_weight * position
    now = scores.astype(float)
    for _ in range(s.iterations):
        after = np.zeros_like(now)
        for p, neighbours in where.items():
            for w, q in zip(weights[p], neighbours, strict=True):
                after[:, p[0], p[1]] += w * now[:, q[0], q[1]]
        now = after
    return now


# --- exactness


def sequence(count: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1] by integer arithmetic, the same everywhere."""
    mask = 2**32 - 1
    out = []
    for j in range(count):
        x = ((j + 1 + 10007 * seed) * 2654435761) & mask
        x ^= x >> 16
        x = (x * 2246822519) & mask
        x ^= x >> 13
        out.append(x / 2**32)
    return np.array(out)


def golden_input() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.from_numpy(255 * sequence(3 * 12 * 14, 20)).view(1, 3, 12, 14)
    logits = torch.from_numpy(4 * (sequence(3 * 6 * 7, 21) - 0.5)).view(1, 3, 6, 7)
    return image, logits.softmax(1)


def test_golden_numbers() -> None:
    """Of the published code, default settings; scores of half the image's size. It holds the position term in float32
    (its sums are 1.5e-8 off 1.01^10), hence the tolerance in float64."""
    assert sequence(2, 0).tolist() == [0.8072537314146757, 0.8237782551441342]
    image, scores = golden_input()
    exact = pixel_adaptive(image, scores)[0]
    single = par(image[0].permute(1, 2, 0), scores[0])
    assert exact.dtype == torch.float64 and single.dtype == torch.float32
    # In float32 each of ten iterations rounds 48 weights; most of all shows in a pixel's sum.
    for out, tolerance, growth in ((exact.numpy(), 3e-8, 3e-8), (single.double().numpy(), 1e-6, 5e-6)):
        np.testing.assert_allclose(out.sum((1, 2)), [61.1620025001, 64.3253196061, 60.0891921833], rtol=tolerance)
        np.testing.assert_allclose(out[0, 0, :3], [0.2430580719, 0.3259989164, 0.4316063834], rtol=0, atol=tolerance)
        np.testing.assert_allclose(out[2, 11, 13], 0.2135553676, rtol=0, atol=tolerance)
        np.testing.assert_allclose(out.sum(0), np.full((12, 14), 1.1046221089), rtol=growth)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 3), st.integers(0, 2**16), st.sampled_from([SMALL, ParSettings(iterations=2)]))
def test_equals_the_loop_over_pixels(size: tuple[int, int], labels: int, seed: int, s: ParSettings) -> None:
    image, scores = two_tones(*size, seed), probabilities(labels, *size, seed)
    expected = slow_par(image, scores, s)
    np.testing.assert_allclose(par(image, scores, s), expected, rtol=1e-5)
    double = torch.from_numpy(scores)[None].double()
    exact = pixel_adaptive(torch.from_numpy(image).permute(2, 0, 1)[None], double, s)
    np.testing.assert_allclose(exact[0].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "s",
    [
        ParSettings(dilations=(2,), iterations=1),
        ParSettings(dilations=(5, 1), iterations=2, width=1.7, position_weight=0.4),
        ParSettings(dilations=(1, 2), position_weight=0.0),
    ],
)
def test_every_setting_equals_the_loop(s: ParSettings) -> None:
    image, scores = two_tones(7, 11), probabilities(2, 7, 11)
    np.testing.assert_allclose(par(image, scores, s), slow_par(image, scores, s), rtol=1e-5)


def test_no_iterations_change_nothing() -> None:
    scores = probabilities(2, 5, 8)
    np.testing.assert_array_equal(par(two_tones(5, 8), scores, ParSettings(iterations=0)), scores)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, scores = tensors(13, 10)
    weights = affinities(image, SMALL)
    whole = pixel_adaptive(image, scores, SMALL), _scatter(scores, weights, SMALL)
    for size in (1, 13 * 10 * 3, 16 * 10 * 4):  # one row at a time; some, with a rest
        monkeypatch.setattr(MODULE, "BLOCK", size)
        in_blocks = pixel_adaptive(image, scores, SMALL), _scatter(scores, affinities(image, SMALL), SMALL)
        for one, other in zip(whole, in_blocks, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


class Largest(TorchDispatchMode):
    """Notes how many values each new tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor):
                self.sizes[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes() // each.element_size()
        return out


def test_only_the_weights_are_held_for_every_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "BLOCK", 48 * 40)
    image, scores = tensors(60, 40, labels=2)
    with Largest() as seen:
        pixel_adaptive(image, scores)
    most, *others = sorted(seen.sizes.values(), reverse=True)
    assert most == 48 * 60 * 40
    assert max(others) <= 3 * (60 + 48) * (40 + 48)  # the padded image


# --- properties


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 4), st.integers(0, 2**16))
def test_sums_grow_as_said(size: tuple[int, int], labels: int, seed: int) -> None:
    out = par(two_tones(*size, seed), probabilities(labels, *size, seed))
    assert (out >= 0).all()
    np.testing.assert_allclose(out.sum(0), 1.01**10, rtol=1e-5)


def test_constant_scores_stay_constant() -> None:
    scores = np.array([0.1, 0.6, 0.3], np.float32)[:, None, None].repeat(9, 1).repeat(14, 2)
    np.testing.assert_allclose(par(two_tones(9, 14), scores), scores * 1.01**10, rtol=1e-5)


def test_on_a_constant_image_all_neighbours_count_alike() -> None:
    image = torch.full((1, 3, 6, 9), 77.0, dtype=torch.float64)
    s = ParSettings(position_weight=0.0)
    torch.testing.assert_close(affinities(image, s), torch.full((1, 48, 6, 9), 1 / 48, dtype=torch.float64))
    with_position = affinities(image, ParSettings())
    torch.testing.assert_close(with_position, with_position[:, :, :1, :1].expand_as(with_position))
    scores = probabilities(2, 6, 9)
    expected = slow_par(np.full((6, 9, 3), 77, np.uint8), scores, SMALL)
    np.testing.assert_allclose(par(np.full((6, 9, 3), 77, np.uint8), scores, SMALL), expected, rtol=1e-5)


def test_lone_pixel_on_a_constant_image_takes_from_all_alike() -> None:
    """Its neighbours have no spread at all: the largest quotients there are."""
    image = np.full((60, 70, 3), 3e8, np.float32)
    image[30, 35] = -3e8
    weights = affinities(torch.from_numpy(image).permute(2, 0, 1)[None], ParSettings(position_weight=0.0))
    torch.testing.assert_close(weights[0, :, 30, 35], torch.full((48,), 1 / 48))
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("downscale", [1, 2])
def test_flipped_and_transposed_images_give_the_like(downscale: int) -> None:
    image, scores = two_tones(20, 26), probabilities(3, 20, 26)
    s = ParSettings(downscale=downscale)
    out = par(image, scores, s)
    np.testing.assert_allclose(par(image[:, ::-1], scores[:, :, ::-1], s)[:, :, ::-1], out, rtol=1e-5)
    np.testing.assert_allclose(par(image[::-1], scores[:, ::-1], s)[:, ::-1], out, rtol=1e-5)
    turned = par(image.transpose(1, 0, 2), scores.transpose(0, 2, 1), s).transpose(0, 2, 1)
    np.testing.assert_allclose(turned, out, rtol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(SIZES, st.permutations(range(4)), st.integers(0, 2**16))
def test_order_of_labels_does_not_matter(size: tuple[int, int], order: list[int], seed: int) -> None:
    image, scores = two_tones(*size, seed), probabilities(4, *size, seed)
    np.testing.assert_array_equal(par(image, scores[order]), par(image, scores)[order])


@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0.0), (1e4, 0.0), (1e-3, 0.0), (2.0, 31.0), (1 / 58, -2.1)])
def test_scale_and_offset_of_the_image_do_not_matter(scale: float, offset: float) -> None:
    image, scores = two_tones(15, 22), probabilities(3, 15, 22)
    expected = par(image, scores)
    np.testing.assert_allclose(par(image * scale + offset, scores), expected, rtol=1e-4)
    each = np.array([1, 0.5, 3]) * scale  # each channel has its own spread
    np.testing.assert_allclose(par(image * each + offset, scores), expected, rtol=1e-4)


def test_scores_move_to_the_edge() -> None:
    image = two_tones(40, 56)
    truth = image[..., 0] > 120
    beside = np.concatenate([truth[:, :1]] * 6 + [truth[:, :-6]], 1)  # six pixels to the right, and blurred
    blurred = F.avg_pool2d(torch.from_numpy(beside)[None].double(), 9, 1, 4, count_include_pad=False)[0].numpy()
    scores = np.stack([0.9 - 0.8 * blurred, 0.1 + 0.8 * blurred])
    assert (scores.argmax(0) == truth).mean() < 0.9
    assert (par(image, scores).argmax(0) == truth).mean() > 0.99
    assert (par(np.zeros_like(image), scores).argmax(0) == truth).mean() < 0.9  # the colours are what does it


# --- who takes part, and forms of input


def test_absent_labels_come_back_zero() -> None:
    image, scores = two_tones(8, 13), probabilities(3, 8, 13)
    wide = np.zeros((7, 8, 13), np.float32)
    wide[[1, 4, 6]] = scores
    with Largest() as seen:
        out = par(image, wide)
    assert 7 * (8 + 48) * (13 + 48) not in seen.sizes.values()  # they are not carried along
    assert 3 * (8 + 48) * (13 + 48) in seen.sizes.values()
    np.testing.assert_array_equal(out[[1, 4, 6]], par(image, scores))
    assert not out[[0, 2, 3, 5]].any()


def test_single_present_label_is_smoothed_and_certain() -> None:
    scores = np.zeros((3, 5, 8), np.float32)
    scores[1] = probabilities(2, 5, 8)[0]
    out = par(two_tones(5, 8), scores, SMALL)
    np.testing.assert_allclose(out[1], slow_par(two_tones(5, 8), scores[1:2], SMALL)[0], rtol=1e-5)
    images = torch.from_numpy(two_tones(5, 8)).permute(2, 0, 1)[None]
    sure = Par(SMALL).refine(images, torch.from_numpy(scores)[None])[0]
    torch.testing.assert_close(sure[1], torch.ones(5, 8))
    assert not sure[[0, 2]].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (2, 3)])
@pytest.mark.parametrize("downscale", [1, 2, 30])
def test_thin_images(size: tuple[int, int], downscale: int) -> None:
    out = par(two_tones(*size), probabilities(3, *size), ParSettings(downscale=downscale))
    assert out.shape == (3, *size)
    np.testing.assert_allclose(out.sum(0), 1.01**10, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_types_and_tensors(dtype: torch.dtype) -> None:
    image, scores = two_tones(6, 10), torch.from_numpy(probabilities(3, 6, 10)).to(dtype)
    before = scores.clone()
    out = par(torch.from_numpy(image), scores.requires_grad_())
    assert isinstance(out, torch.Tensor) and out.dtype == torch.float32 and not out.requires_grad
    assert torch.equal(scores, before)
    np.testing.assert_array_equal(out.numpy(), par(image, scores.detach().float().numpy()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images(dtype: type) -> None:
    image, scores = two_tones(6, 10), probabilities(3, 6, 10)
    np.testing.assert_array_equal(par(image.astype(dtype), scores), par(image, scores))


def test_any_memory_layout_and_read_only_arrays() -> None:
    image, scores = two_tones(6, 10), probabilities(3, 6, 10)
    expected = par(image, scores)
    frozen, kept = image.copy(), scores.copy()
    frozen.flags.writeable = kept.flags.writeable = False
    np.testing.assert_array_equal(par(frozen, kept), expected)
    np.testing.assert_array_equal(par(image, np.asfortranarray(scores)), expected)
    channels_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    last = torch.from_numpy(scores)[None].contiguous(memory_format=torch.channels_last)[0]
    np.testing.assert_array_equal(par(channels_first.permute(1, 2, 0), last), expected)


def test_batch_is_the_images_one_by_one() -> None:
    images = np.stack([two_tones(7, 12, seed) for seed in range(4)])
    scores = np.stack([probabilities(4, 7, 12, seed) for seed in range(4)])
    scores[1, 2] = 0  # each image has labels of its own
    scores[3, 1:] = 0
    one_by_one = np.stack([par(*pair) for pair in zip(images, scores, strict=True)])
    np.testing.assert_array_equal(par(images, scores), one_by_one)
    together = pixel_adaptive(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(scores))
    np.testing.assert_allclose(together.numpy(), one_by_one, rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 7), (9, 15), (40, 61), (1, 1)])
def test_scores_of_another_size_are_brought_to_the_images(size: tuple[int, int]) -> None:
    image, scores = two_tones(18, 27), probabilities(2, *size)
    resized = F.interpolate(torch.from_numpy(scores)[None], (18, 27), mode="bilinear", align_corners=True)[0]
    np.testing.assert_array_equal(par(image, scores), par(image, resized.numpy()))


@pytest.mark.parametrize(
    ("image", "scores", "fits"),
    [
        ((375, 500), (24, 32), True),  # whole patches, rounded up
        ((375, 500), (23, 31), True),  # or down
        ((47, 63), (375, 500), True),
        ((375, 500), (500, 375), False),
        ((375, 500), (32, 32), False),
        ((4, 6), (6, 4), False),
        ((4, 6), (1, 1), True),
        ((300, 300), (20, 23), False),
    ],
)
def test_grids_in_proportion(image: tuple[int, int], scores: tuple[int, int], fits: bool) -> None:
    assert _in_proportion(image, scores) == _in_proportion(scores, image) == fits
    assert _in_proportion(image[::-1], scores[::-1]) == fits


# --- at a lower resolution


def test_half_resolution_as_in_training_codes() -> None:
    image, scores = tensors(21, 32)
    small = [F.interpolate(x, (10, 16), mode="bilinear", align_corners=False) for x in (image, scores)]
    expected = F.interpolate(pixel_adaptive(*small), (21, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixel_adaptive(image, scores, ParSettings(downscale=2)), expected, rtol=0, atol=0)
    out = par(two_tones(21, 32), probabilities(3, 21, 32), ParSettings(downscale=2))
    np.testing.assert_allclose(out, expected[0].numpy(), rtol=1e-5)


# --- in training


@pytest.mark.slow
@pytest.mark.parametrize("s", [SMALL, ParSettings(dilations=(2,), iterations=2, downscale=2)])
def test_gradient(s: ParSettings) -> None:
    image, _ = tensors(5, 7)
    for size in ((5, 7), (3, 4), (1, 1)):
        scores = torch.rand(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        scores.requires_grad_()

        def refined(x: torch.Tensor) -> torch.Tensor:
            return pixel_adaptive(image, x, s)

        assert torch.autograd.gradcheck(refined, scores)
        assert torch.autograd.gradgradcheck(refined, scores)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SIZES, st.integers(0, 2**16))
def test_scatter_is_the_transpose_of_gather(size: tuple[int, int], seed: int) -> None:
    image, x = tensors(*size, labels=2, seed=seed)
    _, y = tensors(*size, labels=2, seed=seed + 1)
    weights = affinities(image, ParSettings())
    there, back = _gather(x, weights, ParSettings()), _scatter(y, weights, ParSettings())
    torch.testing.assert_close((there * y).sum(), (x * back).sum(), rtol=1e-12, atol=0)


def test_training_step() -> None:
    """Scores of a network in half precision, images normalised for it, a loss on what comes out."""
    images = torch.stack([tensors(12, 18, seed=seed)[0][0] for seed in range(2)]).float()
    expected = pixel_adaptive(images, torch.full((2, 3, 12, 18), 0.5), SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = torch.nn.Conv2d(3, 3, 1)
        scores = network(images / 255).softmax(1)
        out = pixel_adaptive((images - 120) / 58, scores, SMALL)
        flat = pixel_adaptive(images, torch.full((2, 3, 12, 18), 0.5, dtype=torch.bfloat16), SMALL)
    assert out.dtype == torch.float32 and out.shape == (2, 3, 12, 18)
    assert torch.equal(flat, expected)
    out[:, 0].log().mean().backward()
    assert network.weight.grad is not None and network.weight.grad.abs().sum() > 0
    images.requires_grad_()
    assert not pixel_adaptive(images, scores.detach(), SMALL).requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_the_cpu() -> None:
    image, scores = tensors(37, 53, labels=4)
    on_gpu = scores.cuda().requires_grad_()
    out = pixel_adaptive(image, on_gpu)  # in float64
    torch.testing.assert_close(out.detach().cpu(), pixel_adaptive(image, scores), rtol=1e-9, atol=0)
    with torch.autocast("cuda"):
        half = par(image[0].permute(1, 2, 0), scores[0].cuda())
    torch.testing.assert_close(half.cpu(), par(image[0].permute(1, 2, 0), scores[0]), rtol=1e-5, atol=0)
    out[:, 1].square().sum().backward()
    on_cpu = scores.clone().requires_grad_()
    pixel_adaptive(image, on_cpu)[:, 1].square().sum().backward()
    assert on_gpu.grad is not None and on_cpu.grad is not None
    torch.testing.assert_close(on_gpu.grad.cpu(), on_cpu.grad, rtol=1e-9, atol=0)


# --- as a refiner


def test_refiner_gives_probabilities() -> None:
    images = torch.from_numpy(np.stack([two_tones(14, 21, 0), two_tones(14, 21, 1)])).permute(0, 3, 1, 2)
    scores = torch.from_numpy(np.stack([probabilities(3, 14, 21, 0), probabilities(3, 14, 21, 1)]))
    for name, s in (("par", ParSettings(downscale=2)), ("par/full", ParSettings())):
        refined = refiner(name).refine(images, scores)
        torch.testing.assert_close(refined.sum(1), torch.ones(2, 14, 21))
        exact = par(images.permute(0, 2, 3, 1), scores, s)
        torch.testing.assert_close(refined, exact / 1.01**10, rtol=1e-5, atol=0)
        assert torch.equal(refined.argmax(1), exact.argmax(1))
        assert REFINERS[name].build() == Par(s)
    with pytest.raises(InputError, match=r"give \[batch 3 height width\]"):
        Par().refine(images.permute(0, 2, 3, 1), scores)


def test_where_nothing_scores_anywhere_near_nothing_comes() -> None:
    image, scores = two_tones(4, 40), np.zeros((2, 4, 40), np.float32)
    scores[:, :, :3] = 0.5
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    refined = Par(ParSettings(dilations=(1, 2), iterations=3)).refine(images, torch.from_numpy(scores)[None])[0]
    assert not refined[..., 9:].any()
    torch.testing.assert_close(refined.sum(0)[:, :9], torch.ones(4, 9))


# --- bad input: one line each, saying what to do


IMAGE, SCORES = two_tones(4, 6), probabilities(2, 4, 6)


def with_value(value: float) -> np.ndarray:
    scores = SCORES.copy()
    scores[1, 2, 3] = value
    return scores


@pytest.mark.parametrize(
    ("image", "scores", "message"),
    [
        (IMAGE, SCORES.transpose(0, 2, 1), r"\[4 6 3\] and scores \[2 6 4\] disagree; give \[labels height width\]"),
        (IMAGE[None], np.stack([SCORES, SCORES]), "disagree"),
        (IMAGE, SCORES[0], r"shape \[4 6\]; give \[labels height width\]"),
        (IMAGE.transpose(2, 0, 1), SCORES, r"give RGB as \[height width 3\]"),
        (IMAGE[..., 0], SCORES, r"give RGB as \[height width 3\]"),
        (IMAGE.astype(np.int64), SCORES, "image is int64; give RGB as uint8 or of a float type"),
        (IMAGE * np.float32("nan"), SCORES, "image holds NaN, infinity or values beyond 1e9"),
        (IMAGE * 1e12, SCORES, "image holds NaN, infinity or values beyond 1e9"),
        (IMAGE.tolist(), SCORES, "image is a list; give a numpy array or a torch tensor"),
        (IMAGE, SCORES.astype(int), "scores are int64; give scores of a float type"),
        (IMAGE, SCORES.astype(object), "of type object"),
        (IMAGE, with_value(math.nan), "NaN or infinity"),
        (IMAGE, with_value(math.inf), "NaN or infinity"),
        (IMAGE, with_value(-0.2), "down to -0.2; give scores of at least 0, not logits"),
        (IMAGE, np.zeros_like(SCORES), "zero for every label; give it at least background"),
        (np.stack([IMAGE] * 2), np.stack([SCORES, 0 * SCORES]), "zero for every label"),
        (IMAGE, np.zeros((0, 4, 6), np.float32), "nothing to refine"),
        (IMAGE[:0], SCORES[:, :0], "nothing to refine"),
        (IMAGE[:0], SCORES, "nothing to refine"),
    ],
)
def test_bad_input(image: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        par(image, scores)
    assert "\n" not in str(error.value)


def test_bad_shapes_in_training() -> None:
    image, scores = tensors(4, 6)
    for images, values in ((image[0], scores), (image, scores[0]), (image.repeat(2, 1, 1, 1), scores)):
        with pytest.raises(InputError, match=r"do not fit; give \[batch 3 height width\]"):
            pixel_adaptive(images, values)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dilations": ()}, r"dilations are \(\); give a tuple"),
        ({"dilations": [1, 2]}, "give a tuple"),
        ({"dilations": (1, 0)}, "a dilation is 0; give whole numbers"),
        ({"dilations": (1.5,)}, "a dilation is 1.5"),
        ({"iterations": -1}, "iterations is -1"),
        ({"iterations": 2.5}, "whole number"),
        ({"width": 0.0}, "width is 0.0; give a width above 0"),
        ({"width": math.nan}, "width is nan"),
        ({"position_weight": -1.0}, "position_weight is -1.0"),
        ({"downscale": 0}, "downscale is 0"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ParSettings(**changed)


def test_settings_are_the_published_ones() -> None:
    s = ParSettings()
    assert (s.dilations, s.iterations, s.width, s.position_weight) == ((1, 2, 4, 8, 12, 24), 10, 0.3, 0.01)
    assert len(s.offsets()) == 48 and s.offsets()[:5] == [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1)]
