"""The dense CRF against brute force, a dictionary-based lattice, pydensecrf2 where it is installed, and itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import InputError
from tag2mask.refine import PRESETS, REFINERS, Chain, CrfSettings, DenseCrf, crf, dense_crf, dense_crf_from_labels
from tag2mask.refine import permutohedral as lattice
from tag2mask.refine import refiner as named_refiner
from tag2mask.refine.proposals import MODELS
from world import probabilities, two_tones

PATHS = ("portable", "compiled")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once on plain torch and once on numba, where that is installed."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the compiled path needs the extra 'fast'")
    else:
        monkeypatch.setattr(crf, "_fast", lambda: None)
    return request.param


def noisy_scores(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[2 height width]`` that are right about the second tone of :func:`two_tones` more often than not."""
    truth = image[..., 0] > 120
    noise = np.random.default_rng(3).normal(0, 0.25, truth.shape)
    foreground = np.clip(0.5 + 0.15 * (2 * truth - 1) + noise, 0.02, 0.98)
    return np.stack([1 - foreground, foreground]), truth


# --- independent oracles


def exact_kernel(features: np.ndarray) -> np.ndarray:
    """``exp(-|f_i - f_j|^2 / 2)`` of all pairs; features ``[d N]``."""
    difference = features[:, :, None] - features[:, None, :]
    return np.exp(-0.5 * (difference**2).sum(0))


def slow_lattice_kernel(features: np.ndarray) -> np.ndarray:
    """The matrix of the lattice filter, with dictionaries and the textbook's steps (Adams et al. 2010), in float64."""
    d, points = features.shape
    expand = np.zeros((d + 1, d))  # E of p. 5: an orthogonal basis of the plane sum(x) = 0, scaled to the blur's width
    for j in range(1, d + 1):
        expand[:j, j - 1] = 1
        expand[j, j - 1] = -j
    expand /= np.sqrt([j * (j + 1) for j in range(1, d + 1)])
    lifted = expand @ features * math.sqrt(2 / 3) * (d + 1)
    splat: list[dict[tuple[int, ...], float]] = []
    for y in lifted.T:
        # The nearest remainder-0 point: round each coordinate to a multiple of d + 1, then repair the sum by moving the
        # coordinates which were rounded worst. Among equals the earlier coordinate counts as farther above.
        first = np.round(y / (d + 1)).astype(int) * (d + 1)
        excess = first.sum() // (d + 1)
        order = np.argsort(-(y - first), kind="stable")  # coordinates from the farthest above `first` down
        if excess > 0:  # the last ones move to the front, or the first ones to the back
            first[order[d + 1 - excess :]] -= d + 1
        elif excess < 0:
            first[order[:-excess]] += d + 1
        order = np.roll(order, excess)
        gap = (y - first)[order]
        weights = [0.0] * (d + 1)
        for k in range(1, d + 1):
            weights[k] = (gap[d - k] - gap[d + 1 - k]) / (d + 1)
        weights[0] = 1 - sum(weights)
        corners = {}
        for k in range(d + 1):
            corner = first + k
            corner[order[d + 1 - k :]] -= d + 1
            corners[tuple(corner)] = weights[k]
        splat.append(corners)
    exists = {corner for corners in splat for corner in corners}
    kernel = np.zeros((points, points))
    for source in range(points):
        values = dict(splat[source])
        for j in range(d + 1):
            step = -np.ones(d + 1, int)
            step[j] += d + 1
            blurred: dict[tuple[int, ...], float] = defaultdict(float)
            for corner, value in values.items():
                for shift, part in ((0, 1.0), (1, 0.5), (-1, 0.5)):
                    there = tuple(np.array(corner) + shift * step)
                    if there in exists:
                        blurred[there] += part * value
            values = blurred
        for target in range(points):
            kernel[target, source] = sum(w * values.get(corner, 0.0) for corner, w in splat[target].items())
    return kernel / (1 + 2.0**-d)


def slow_mean_field(energies: np.ndarray, kernels: list[tuple[float, np.ndarray]], iterations: int) -> np.ndarray:
    """The equations of Kraehenbuehl and Koltun with whole matrices, in float64; energies ``[labels N]``."""

    def softmax(logits: np.ndarray) -> np.ndarray:
        e = np.exp(logits - logits.max(0))
        return e / e.sum(0)

    normalised = []
    for weight, kernel in kernels:
        root = 1 / np.sqrt(kernel.sum(1))
        normalised.append(weight * root[:, None] * kernel * root)
    q = softmax(-energies)
    for _ in range(iterations):
        q = softmax(-energies + sum(q @ kernel.T for kernel in normalised))
    return q


def pixel_features(image: np.ndarray, s: CrfSettings) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    spatial = np.stack([x, y]) / s.gaussian_sxy
    colour = image.reshape(-1, 3).T.astype(float) / s.bilateral_srgb
    return spatial, np.concatenate([np.stack([x, y]) / s.bilateral_sxy, colour])


# --- the lattice


@pytest.mark.parametrize(("d", "points", "spread"), [(1, 9, 3.0), (2, 25, 2.0), (3, 20, 1.0), (5, 30, 1.0)])
def test_lattice_is_the_slow_lattice(d: int, points: int, spread: float) -> None:
    features = np.random.default_rng(d).normal(0, spread, (d, points)).astype(np.float32)
    ours = lattice.scaled(lattice.build(torch.from_numpy(features)))(torch.eye(points))
    np.testing.assert_allclose(ours.numpy(), slow_lattice_kernel(features.astype(float)), atol=2e-5)


def test_lattice_approximates_a_gaussian() -> None:
    # A dense cloud in the plane: on average the lattice' kernel is a Gaussian of unit width, up to its known constant.
    y, x = np.mgrid[:24, :30].reshape(2, -1) / 3.0
    features = np.stack([x, y]).astype(np.float32)
    values = torch.from_numpy(np.random.default_rng(0).random((len(x), 1), dtype=np.float32))
    ours = lattice.normalised(lattice.build(torch.from_numpy(features)))(values).numpy()
    kernel = exact_kernel(features.astype(float))
    root = 1 / np.sqrt(kernel.sum(1))
    np.testing.assert_allclose(ours, root[:, None] * kernel * root @ values.numpy(), rtol=0.06)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**16))
def test_barycentric_weights(d: int, points: int, seed: int) -> None:
    features = torch.from_numpy(np.random.default_rng(seed).normal(0, 4, (d, points)).astype(np.float32))
    corner, rank, weights = lattice.simplices(features)
    assert torch.equal(rank.sort(0).values, torch.arange(d + 1.0)[:, None].expand(-1, points))
    assert torch.equal(corner.sum(0), torch.zeros(points)) and torch.equal(corner % (d + 1), torch.zeros_like(corner))
    assert weights.min() > -1e-5
    torch.testing.assert_close(weights.sum(0), torch.ones(points))


def test_compiled_lattice_is_the_portable_one() -> None:
    crf_numba = pytest.importorskip("tag2mask.refine.crf_numba", reason="needs the extra 'fast'")
    image = two_tones(31, 44)
    kernel = crf_numba.Kernel(image, 20.0, 7.0, 1.5)
    features = lattice.scaled_features(31, 44, 20.0, torch.from_numpy(image), 7.0)
    portable = lattice.build(features)
    corners, _, neighbours = kernel.lattice
    assert neighbours.shape[1] == portable.size
    # The same corners under other numbers: corner k of each point corresponds one to one.
    pairs = set(zip(corners.ravel().tolist(), portable.corners.flatten().tolist(), strict=True))
    assert len(pairs) == portable.size
    mass = lattice.normalised(portable, 1.5)(torch.ones(31 * 44, 1))[:, 0]
    np.testing.assert_allclose(kernel.mass, mass.numpy(), rtol=1e-4)


# --- mean field


def test_mean_field_is_the_slow_one(path: str) -> None:
    # Widths which put no pixel on a simplex' border, where float32 and float64 could disagree about it.
    s = CrfSettings(4, 1.7320508, 2.5, 3.1415926, 41.2310563, 6.0)
    image, scores = two_tones(5, 7), probabilities(4, 5, 7)
    spatial, bilateral = pixel_features(image, s)
    kernels = [(2.5, slow_lattice_kernel(spatial)), (6.0, slow_lattice_kernel(bilateral))]
    expected = slow_mean_field(-np.log(scores.reshape(4, -1).astype(float)), kernels, 4).reshape(4, 5, 7)
    np.testing.assert_allclose(dense_crf(image, scores, settings=s), expected, atol=2e-4)


def test_mean_field_is_near_the_exact_one(path: str) -> None:
    # The lattice approximates the kernels (here of 20 points, its worst case), so this is a loose bound: the same
    # labels except where two are close, and probabilities near on average.
    s = CrfSettings(10, 2.0, 2.0, 3.0, 50.0, 2.0)
    image, scores = two_tones(4, 5), probabilities(3, 4, 5)
    spatial, bilateral = pixel_features(image, s)
    kernels = [(2.0, exact_kernel(spatial)), (2.0, exact_kernel(bilateral))]
    exact = slow_mean_field(-np.log(scores.reshape(3, -1).astype(float)), kernels, 10).reshape(3, 4, 5)
    ours = dense_crf(image, scores, settings=s)
    top = np.sort(exact, 0)
    clear = top[-1] - top[-2] > 0.3
    assert clear.sum() >= 8
    assert (ours.argmax(0) == exact.argmax(0))[clear].all()
    assert np.abs(ours - exact).mean() < 0.06


def formula_case() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:6, :9]
    image = np.stack([120 + 7 * x + 2 * y, 90 + 3 * x * y, 200 - 5 * x - 9 * y], -1).astype(np.uint8)
    logits = 3 * np.stack([np.sin(x / 2 + y / 3), np.cos(x / 3 - y), np.sin(x / 4.0) * np.cos(y)])
    scores = np.exp(logits) / np.exp(logits).sum(0)
    return image, scores.astype(np.float32)


# What pydensecrf2 1.1 gives on `formula_case`: label 1 at five pixels.
GOLDEN_PIXELS = ((0, 1), (2, 4), (5, 4), (1, 7), (4, 5))
GOLDEN = {
    "psa": [3.6e-05, 9.4e-05, 0.936946, 0.079268, 0.998289],
    "irn": [0.999059, 0.990139, 2e-06, 2.3e-05, 0.000282],
    "deeplab": [0.994683, 0.993127, 0.000142, 0.00447, 0.011654],
    "toco-seg": [0.976248, 0.812713, 0.000447, 0.006149, 0.033402],
    "toco-cam": [0.987866, 0.988871, 0.000852, 0.012046, 0.017301],
    "afa": [0.919728, 0.035462, 0.00151, 0.010338, 0.169696],
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_golden(preset: str, path: str) -> None:
    image, scores = formula_case()
    ours = dense_crf(image, scores, preset)[1]
    got = [float(ours[at]) for at in GOLDEN_PIXELS]
    np.testing.assert_allclose(got, GOLDEN[preset], atol=1e-4)


def pydensecrf(image: np.ndarray, energies: np.ndarray, s: CrfSettings) -> np.ndarray:
    module = pytest.importorskip("pydensecrf.densecrf", reason="compares with pydensecrf2: the extra 'bench'")
    labels = len(energies)
    model = module.DenseCRF2D(image.shape[1], image.shape[0], labels)
    model.setUnaryEnergy(np.ascontiguousarray(energies.reshape(labels, -1), np.float32))
    model.addPairwiseGaussian(sxy=s.gaussian_sxy, compat=s.gaussian_compat)
    model.addPairwiseBilateral(sxy=s.bilateral_sxy, srgb=s.bilateral_srgb, rgbim=image, compat=s.bilateral_compat)
    return np.array(model.inference(s.iterations)).reshape(energies.shape)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_scores_as_pydensecrf(preset: str, path: str) -> None:
    image, scores = two_tones(37, 53), probabilities(3, 37, 53)
    theirs = pydensecrf(image, -np.log(np.maximum(scores, 1e-5)), PRESETS[preset])
    ours = dense_crf(image, scores, preset)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999


def label_energies(labels: np.ndarray, n_labels: int, gt_prob: float) -> np.ndarray:
    energies = np.full((n_labels, *labels.shape), -math.log((1 - gt_prob) / (n_labels - 1)), np.float32)
    for label in range(n_labels):
        energies[label][labels == label] = -math.log(gt_prob)
    energies[:, labels == 255] = math.log(n_labels)
    return energies


@pytest.mark.parametrize(("n_labels", "unsure"), [(2, False), (3, True), (7, True)])
def test_labels_as_pydensecrf(n_labels: int, unsure: bool, path: str) -> None:
    image = two_tones(23, 41)
    labels = np.random.default_rng(1).integers(0, 3 if n_labels > 2 else 2, (23, 41), dtype=np.uint8)
    if unsure:
        labels[5:9] = 255
    theirs = pydensecrf(image, label_energies(labels, n_labels, 0.7), PRESETS["irn"])
    np.testing.assert_allclose(dense_crf_from_labels(image, labels, n_labels), theirs, atol=1e-3)


def test_labels_without_a_pixel_share_one_computation_exactly(path: str) -> None:
    image = two_tones(9, 14)
    labels = np.random.default_rng(2).integers(0, 2, (9, 14), dtype=np.uint8) * 3  # 0 and 3 of six
    labels[0] = 255
    ours = dense_crf_from_labels(image, labels, 6, gt_prob=0.6, preset="psa")
    scores = torch.from_numpy(np.exp(-label_energies(labels, 6, 0.6)))
    each = crf.mean_field(torch.from_numpy(image), scores, PRESETS["psa"], 0.0)
    np.testing.assert_allclose(ours, each.numpy(), atol=2e-5)
    np.testing.assert_array_equal(ours[1], ours[5])


@pytest.mark.parametrize("tail", [1e-13, 3e-40, 9e-6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_below_the_floor_share_one_computation(tail: float, dtype: type, path: str) -> None:
    """As a softmax leaves them: three labels that matter among nine whose probability is tiny, not zero."""
    image, scores = two_tones(9, 14), np.full((12, 9, 14), tail, dtype)
    scores[[2, 5, 11]] = probabilities(3, 9, 14)
    scores[:3] *= np.random.default_rng(0).random((3, 9, 14))  # below the floor differences say nothing
    ours = dense_crf(image, scores, "irn")
    full = crf.mean_field(torch.from_numpy(image), torch.from_numpy(scores).float(), PRESETS["irn"], 1e-5)
    np.testing.assert_allclose(ours, full.numpy(), atol=2e-5)
    alike = [label for label in range(12) if label not in (2, 5, 11)]
    np.testing.assert_array_equal(ours[alike], np.broadcast_to(ours[alike[0]], (9, 9, 14)))


def test_labels_below_the_floor_cost_nothing() -> None:
    """What is computed does not grow with their number: the carried labels are those that matter and one more."""
    highest = torch.full((200,), 1e-13)
    highest[[3, 7, 150]] = 0.9
    highest[9] = 0.0
    carried, alike = crf._carried(highest, 1e-5)
    assert carried[:-1].tolist() == [3, 7, 150] and carried[-1] in alike
    assert sorted(alike.tolist()) == [i for i in range(200) if i not in (3, 7, 9, 150)]
    for few in ([0.9, 1e-13], [0.9, 0.0, 0.2], [1e-13]):  # nothing to share: the order stays
        carried, alike = crf._carried(torch.tensor(few), 1e-5)
        assert (
            carried.tolist() == [i for i, value in enumerate(few) if value] and alike.tolist() == carried[-1:].tolist()
        )


def test_only_labels_below_the_floor_stay_uniform(path: str) -> None:
    q = dense_crf(two_tones(6, 11), np.full((5, 6, 11), 1e-9, np.float32))
    np.testing.assert_allclose(q, 0.2, atol=1e-6)


def test_all_pixels_unsure_stay_uniform(path: str) -> None:
    q = dense_crf_from_labels(two_tones(6, 11), np.full((6, 11), 255, np.uint8), 4)
    np.testing.assert_allclose(q, 0.25, atol=1e-6)
    np.testing.assert_array_equal(dense_crf_from_labels(two_tones(6, 11), np.zeros((6, 11), np.uint8), 1), 1.0)


# --- properties

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 13))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**16), st.sampled_from(sorted(PRESETS)))
def test_probabilities(size: tuple[int, int], labels: int, seed: int, preset: str) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    q = dense_crf(image, probabilities(labels, *size, seed), preset)
    assert q.dtype == np.float32 and q.shape == (labels, *size)
    assert q.min() >= 0 and q.max() <= 1 + 1e-6
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SIZES, st.permutations(range(4)), st.integers(0, 2**16))
def test_labels_can_be_permuted(size: tuple[int, int], order: list[int], seed: int) -> None:
    image, scores = two_tones(*size, seed), probabilities(4, *size, seed)
    few = CrfSettings(iterations=3)  # where two labels are nearly even, each iteration multiplies rounding errors
    permuted = dense_crf(image, scores[order], settings=few)
    np.testing.assert_allclose(permuted, dense_crf(image, scores, settings=few)[order], atol=1e-4)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 5), st.integers(0, 2**16), st.sampled_from(sorted(PRESETS)))
def test_paths_agree(size: tuple[int, int], labels: int, seed: int, preset: str) -> None:
    crf_numba = pytest.importorskip("tag2mask.refine.crf_numba", reason="needs the extra 'fast'")
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    scores = probabilities(labels, *size, seed)
    tensors = torch.from_numpy(image), torch.from_numpy(scores)
    few = dataclasses.replace(PRESETS[preset], iterations=3)
    for copies in (1, 3):
        compiled = crf_numba.mean_field(image, scores, few, 1e-5, copies)
        np.testing.assert_allclose(compiled, crf.mean_field(*tensors, few, 1e-5, copies).numpy(), atol=1e-4)
    # All ten: rounding errors grow where two labels are nearly even, so only most pixels are equal.
    compiled = crf_numba.mean_field(image, scores, PRESETS[preset], 1e-5)
    difference = np.abs(compiled - crf.mean_field(*tensors, PRESETS[preset], 1e-5).numpy())
    assert np.median(difference) < 1e-5 and difference.max() < 0.02


def test_flipped_image_gives_flipped_result(path: str) -> None:
    # The lattice is laid from the corner of the image, so only nearly so.
    image = two_tones(30, 44)
    scores, _ = noisy_scores(image)
    q = dense_crf(image, scores)
    mirrored = dense_crf(image[:, ::-1], scores[:, :, ::-1])[:, :, ::-1]
    assert np.abs(q - mirrored).mean() < 0.01
    assert (q.argmax(0) == mirrored.argmax(0)).mean() > 0.98


def test_constant_image_and_constant_scores_keep_the_label(path: str) -> None:
    image = np.full((12, 19, 3), 77, np.uint8)
    scores = np.full((3, 12, 19), 0.25, np.float32)
    scores[1] = 0.5
    q = dense_crf(image, scores)
    assert (q.argmax(0) == 1).all() and (q[1] > 0.5).all()
    np.testing.assert_allclose(q[0], q[2], atol=1e-5)


def test_noisy_scores_snap_to_the_edge(path: str) -> None:
    image = two_tones(40, 56)
    scores, truth = noisy_scores(image)
    before = ((scores[1] > 0.5) == truth).mean()
    after = (dense_crf(image, scores).argmax(0) == truth).mean()
    assert before < 0.8 and after > 0.99


def test_without_kernels_or_iterations_scores_are_only_normalised(path: str) -> None:
    image, scores = two_tones(4, 7), probabilities(3, 4, 7)
    for s in (CrfSettings(gaussian_compat=0, bilateral_compat=0), CrfSettings(iterations=0)):
        np.testing.assert_allclose(dense_crf(image, scores * 0.5, settings=s), scores, rtol=1e-5)


@pytest.mark.parametrize("off", ["gaussian_compat", "bilateral_compat"])
def test_a_kernel_can_be_left_out(off: str, path: str) -> None:
    s = CrfSettings(**{"iterations": 3, "gaussian_sxy": 1.7320508, "bilateral_srgb": 41.2310563, off: 0.0})
    image, scores = two_tones(4, 6), probabilities(3, 4, 6)
    spatial, bilateral = pixel_features(image, s)
    features, weight = (bilateral, 10.0) if off == "gaussian_compat" else (spatial, 3.0)
    energies = -np.log(scores.reshape(3, -1).astype(float))
    expected = slow_mean_field(energies, [(weight, slow_lattice_kernel(features))], 3)
    np.testing.assert_allclose(dense_crf(image, scores, settings=s).reshape(3, -1), expected, atol=1e-3)


# --- who takes part, and forms of input


def test_absent_labels_stay_out_and_come_back_zero(path: str) -> None:
    image, scores = two_tones(8, 13), probabilities(3, 8, 13)
    wide = np.zeros((7, 8, 13), np.float32)
    wide[[1, 4, 6]] = scores
    q = dense_crf(image, wide)
    np.testing.assert_array_equal(q[[1, 4, 6]], dense_crf(image, scores))
    assert not q[[0, 2, 3, 5]].any()


def test_single_present_label_is_certain(path: str) -> None:
    scores = np.zeros((3, 5, 8), np.float32)
    scores[0] = 0.4
    q = dense_crf(two_tones(5, 8), scores)
    assert (q[0] == 1).all() and not q[1:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (2, 3)])
def test_thin_images(size: tuple[int, int], path: str) -> None:
    q = dense_crf(two_tones(*size), probabilities(3, *size))
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_types_and_tensors(dtype: torch.dtype, path: str) -> None:
    image, scores = two_tones(6, 10), torch.from_numpy(probabilities(3, 6, 10)).to(dtype)
    before = scores.clone()
    q = dense_crf(torch.from_numpy(image), scores)
    assert isinstance(q, torch.Tensor) and q.dtype == torch.float32
    assert torch.equal(scores, before)
    np.testing.assert_array_equal(q.numpy(), dense_crf(image, scores.float().numpy()))


def test_any_memory_layout_and_read_only_arrays() -> None:
    image, scores = two_tones(6, 10), probabilities(3, 6, 10)
    expected = dense_crf(image, scores)
    frozen = image.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(dense_crf(frozen, np.asfortranarray(scores)), expected)
    channels_first = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    np.testing.assert_array_equal(dense_crf(channels_first.permute(1, 2, 0), torch.from_numpy(scores)), expected)


def test_batch_is_the_images_one_by_one(path: str) -> None:
    images = np.stack([two_tones(7, 12, seed) for seed in range(5)])
    scores = np.stack([probabilities(4, 7, 12, seed) for seed in range(5)])
    scores[1, 2] = 0  # each image has labels of its own
    scores[3, 1:] = 0
    together = dense_crf(images, scores, "afa")
    np.testing.assert_array_equal(
        together, np.stack([dense_crf(*pair, "afa") for pair in zip(images, scores, strict=True)])
    )
    labels = scores.argmax(1).astype(np.uint8)
    together = dense_crf_from_labels(images, labels, 4)
    each = [dense_crf_from_labels(*pair, 4) for pair in zip(images, labels, strict=True)]
    np.testing.assert_array_equal(together, np.stack(each))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_the_cpu() -> None:
    image, scores = torch.from_numpy(two_tones(37, 53)), torch.from_numpy(probabilities(4, 37, 53))
    few = CrfSettings(iterations=3)
    q = dense_crf(image, scores.cuda(), settings=few)
    assert q.is_cuda
    torch.testing.assert_close(q.cpu(), dense_crf(image, scores, settings=few), atol=1e-4, rtol=0)


def test_threads_change_nothing() -> None:
    images = np.stack([two_tones(9, 12, seed) for seed in range(4)])
    scores = np.stack([probabilities(3, 9, 12, seed) for seed in range(4)])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(dense_crf(images, scores))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_runs_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dense_crf(two_tones(6, 9), probabilities(2, 6, 9))
    crf._fast.cache_clear()
    monkeypatch.setitem(sys.modules, "tag2mask.refine.crf_numba", None)
    monkeypatch.delattr("tag2mask.refine.crf_numba", raising=False)
    try:
        assert crf._fast() is None
        np.testing.assert_allclose(dense_crf(two_tones(6, 9), probabilities(2, 6, 9)), expected, atol=1e-5)
    finally:
        crf._fast.cache_clear()


# --- bad input: one line each, saying what to do


IMAGE, SCORES = two_tones(4, 6), probabilities(2, 4, 6)


def with_value(value: float) -> np.ndarray:
    scores = SCORES.copy()
    scores[1, 2, 3] = value
    return scores


@pytest.mark.parametrize(
    ("image", "scores", "message"),
    [
        (IMAGE, SCORES[:, :3], r"\[4 6 3\] and scores \[2 3 6\] disagree; resize"),
        (IMAGE, SCORES.transpose(0, 2, 1), "disagree"),
        (IMAGE[None], np.stack([SCORES, SCORES]), "disagree"),
        (IMAGE, SCORES[0], r"shape \[4 6\]; give \[labels height width\]"),
        (IMAGE.transpose(2, 0, 1), SCORES, r"give RGB as \[height width 3\]"),
        (IMAGE[..., 0], SCORES, r"give RGB as \[height width 3\]"),
        (IMAGE.astype(np.float32), SCORES, "image is float32; give uint8"),
        (IMAGE.tolist(), SCORES, "image is a list; give a numpy array or a torch tensor"),
        (IMAGE, SCORES.astype(int), "scores are int64; give probabilities of a float type"),
        (IMAGE, SCORES.astype(object), "of type object"),
        (IMAGE, with_value(math.nan), "NaN or infinity"),
        (IMAGE, with_value(math.inf), "NaN or infinity"),
        (IMAGE, with_value(-0.2), "down to -0.2; give probabilities"),
        (IMAGE, with_value(7.5), "reach 7.5; give probabilities"),
        (IMAGE, np.zeros_like(SCORES), "zero for every label; give it at least background"),
        (IMAGE, np.zeros((0, 4, 6), np.float32), "nothing to refine"),
        (IMAGE[:0], SCORES[:, :0], "nothing to refine"),
    ],
)
def test_bad_scores(image: np.ndarray, scores: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        dense_crf(image, scores)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "n_labels", "gt_prob", "message"),
    [
        (np.zeros((4, 5), np.uint8), 2, 0.7, "disagree; resize"),
        (np.zeros((4, 6), np.float32), 2, 0.7, "labels are float32; give an integer label map"),
        (np.full((4, 6), 2, np.uint8), 2, 0.7, "holds 2, but n_labels is 2: it may hold 0 to 1, and 255"),
        (np.full((4, 6), -1), 2, 0.7, "holds -1"),
        (np.zeros((4, 6), np.uint8), 2, 1.0, "gt_prob is 1.0"),
        (np.zeros((4, 6), np.uint8), 0, 0.7, "n_labels is 0"),
        (np.zeros(6, np.uint8), 2, 0.7, r"give \[height width\]"),
    ],
)
def test_bad_labels(labels: np.ndarray, n_labels: int, gt_prob: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dense_crf_from_labels(IMAGE, labels, n_labels, gt_prob)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"iterations": -1}, "iterations is -1"),
        ({"iterations": 2.5}, "whole number"),
        ({"bilateral_srgb": 0.0}, "bilateral_srgb is 0.0; give a width above 0"),
        ({"gaussian_sxy": math.inf}, "gaussian_sxy is inf"),
        ({"bilateral_compat": -1.0}, "bilateral_compat is -1.0"),
        ({"floor": 0.0}, "floor is 0.0"),
    ],
)
def test_bad_settings(changed: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrfSettings(**changed)  # type: ignore[arg-type]


def test_too_narrow_a_kernel(path: str) -> None:
    with pytest.raises(InputError, match="kernel too narrow for this image"):
        dense_crf(IMAGE, SCORES, settings=CrfSettings(bilateral_sxy=1e-4, bilateral_srgb=1e-4))


# --- names


def test_refiners_promise_the_protocol(path: str) -> None:
    images = torch.from_numpy(np.stack([two_tones(6, 9, 0), two_tones(6, 9, 1)])).permute(0, 3, 1, 2)
    scores = torch.from_numpy(np.stack([probabilities(3, 6, 9, 0), probabilities(3, 6, 9, 1)]))
    for name in REFINERS.keys() - MODELS.keys():  # whose weights a hub has: test_proposals
        q = named_refiner(name).refine(images, scores)
        assert q.shape == scores.shape and q.dtype == torch.float32
    expected = dense_crf(images.permute(0, 2, 3, 1), scores, "irn")
    assert torch.equal(named_refiner("crf/irn").refine(images, scores), expected)
    assert torch.equal(DenseCrf(PRESETS["irn"]).refine(images, scores), expected)
    with pytest.raises(InputError, match=r"give \[batch 3 height width\]"):
        DenseCrf().refine(images.permute(0, 2, 3, 1), scores)


def test_chains(path: str) -> None:
    images = torch.from_numpy(two_tones(6, 9)).permute(2, 0, 1)[None]
    scores = torch.from_numpy(probabilities(3, 6, 9))[None]
    once = named_refiner("crf").refine(images, scores)
    twice = named_refiner("crf, crf/afa").refine(images, scores)
    assert torch.equal(twice, DenseCrf(PRESETS["afa"]).refine(images, once))
    assert named_refiner("none") == Chain(())
    assert named_refiner("none").refine(images, scores) is scores


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crv", "unknown refiner 'crv': did you mean crf"),
        ("crf,,crf", "unknown refiner ''"),
        ("crf/ps", "crf/psa"),
        ("none,crf", "'none' stands alone"),
    ],
)
def test_unknown_refiners(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_refiner(name)


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="unknown CRF preset 'deplab': did you mean deeplab"):
        dense_crf(IMAGE, SCORES, "deplab")


def test_presets_are_the_published_ones() -> None:
    table = {
        "psa": (3, 3, 80, 13, 10),
        "irn": (3, 3, 50, 5, 10),
        "deeplab": (1, 3, 67, 3, 4),
        "toco-seg": (1, 1, 121, 5, 4),
        "toco-cam": (3, 3, 36, 3, 4),
        "afa": (3, 3, 64, 5, 4),
    }
    assert {
        name: (s.gaussian_sxy, s.gaussian_compat, s.bilateral_sxy, s.bilateral_srgb, s.bilateral_compat)
        for name, s in PRESETS.items()
    } == table
    assert all(s.iterations == 10 for s in PRESETS.values())
    assert len(set(itertools.chain(PRESETS.values()))) == len(table)


def test_large_photos_are_refined_small() -> None:
    """A bound above the size changes nothing; below it, labels stay nearly the same and sizes come back."""
    from tag2mask.refine import refiner

    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :90]
    disc = (rows - 30) ** 2 + (columns - 40) ** 2 < 400
    pixels = np.where(disc[..., None], (200, 60, 60), (60, 90, 160)) + random.integers(-9, 9, (60, 90, 3))
    images = torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1)[None]
    soft = torch.from_numpy(np.where(disc, 0.7, 0.3) + random.normal(0, 0.05, (60, 90))).float().clamp(0, 1)
    scores = torch.stack([1 - soft, soft])[None]
    plain = refiner("crf").refine(images, scores)
    assert torch.equal(refiner("crf", 90).refine(images, scores), plain)
    small = refiner("crf", 45).refine(images, scores)
    assert small.shape == plain.shape
    assert (small.argmax(1) == plain.argmax(1)).float().mean() > 0.98
    assert not torch.equal(small, plain)
