"""Random walks: against the dense matrix power, along hand-made walls, and what must always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.refine import random_walk
from tag2mask.refine.neighbours import (
    before,
    boundary_affinity,
    colour_affinity,
    cosine_affinity,
    feature_affinity,
    offsets,
)
from tag2mask.refine.walk import walk


def dense_walk(affinity: Tensor, scores: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """The published form, one image, in double precision: the N x N transition matrix to the power of ``steps``."""
    _, rows, columns = scores.shape
    matrix = torch.eye(rows * columns, dtype=torch.float64)
    for k, (dy, dx) in enumerate(offsets(radius)):
        for y in range(rows):
            for x in range(columns):
                if 0 <= y + dy < rows and 0 <= x + dx < columns:
                    i, j = y * columns + x, (y + dy) * columns + x + dx
                    matrix[i, j] = matrix[j, i] = affinity[k, y, x].double() ** beta
    transition = matrix / matrix.sum(0, keepdim=True)
    powered = torch.linalg.matrix_power(transition, steps)
    return (scores.double().flatten(1) @ powered).unflatten(1, (rows, columns))


def some_boundary(seed: int, rows: int, columns: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, rows, columns, generator=torch.Generator().manual_seed(seed)) ** 3


def some_scores(seed: int, rows: int, columns: int, labels: int = 3, batch: int = 1) -> Tensor:
    return torch.rand(batch, labels, rows, columns, generator=torch.Generator().manual_seed(seed + 1))


def test_offsets_are_one_of_each_pair_within_the_radius() -> None:
    for radius, count in ((1, 0), (2, 4), (5, 34), (10, 152)):
        found = set(offsets(radius))
        assert len(found) == len(offsets(radius)) == count
        assert not found & {(-y, -x) for y, x in found}
        disc = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < radius * radius}
        assert found | {(-y, -x) for y, x in found} == disc


@pytest.mark.parametrize("offset", offsets(10))
def test_the_way_to_an_offset_is_connected_and_near_the_straight_line(offset: tuple[int, int]) -> None:
    cell, way = offset, [offset]
    while cell != (0, 0):
        previous = before(cell)
        assert max(abs(cell[0] - previous[0]), abs(cell[1] - previous[1])) == 1
        assert previous == (0, 0) or previous in offsets(10) or (-previous[0], -previous[1]) in offsets(10)
        cell = previous
        way.append(cell)
    length = (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    for y, x in way:
        assert abs(offset[0] * x - offset[1] * y) / length < 1.35, (offset, way)
    mirrored = (offset[0], -offset[1])
    assert before(mirrored) == (before(offset)[0], -before(offset)[1])


def test_boundary_affinity_is_one_minus_the_largest_on_the_way() -> None:
    boundary = some_boundary(0, 6, 9)
    found = boundary_affinity(boundary, 4)[0]
    for k, (dy, dx) in enumerate(offsets(4)):
        for y in range(6):
            for x in range(9):
                if not (y + dy < 6 and 0 <= x + dx < 9):
                    assert found[k, y, x] == 0
                    continue
                cell, largest = (dy, dx), float(boundary[0, y, x])
                while cell != (0, 0):
                    largest = max(largest, float(boundary[0, y + cell[0], x + cell[1]]))
                    cell = before(cell)
                assert float(found[k, y, x]) == pytest.approx(1 - largest, abs=1e-6)


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("size", [(7, 5), (4, 11), (1, 9), (9, 1), (2, 2)])
def test_walk_is_the_power_of_the_dense_matrix(size: tuple[int, int], radius: int) -> None:
    boundary, scores = some_boundary(radius, *size), some_scores(radius, *size)
    affinity = boundary_affinity(boundary, radius)
    for beta, steps in ((10.0, 256), (8.0, 64), (1.0, 1)):
        expected = dense_walk(affinity[0], scores[0], radius, beta, steps)
        found = walk(affinity, scores, radius=radius, beta=beta, steps=steps)[0]
        assert float((found - expected).abs().max()) < 1e-4


def test_a_batch_is_its_images_one_by_one() -> None:
    boundary, scores = some_boundary(5, 6, 8, batch=3), some_scores(5, 6, 8, batch=3)
    affinity = boundary_affinity(boundary, 3)
    together = walk(affinity, scores, radius=3, steps=16)
    for b in range(3):
        alone = walk(affinity[b : b + 1], scores[b : b + 1], radius=3, steps=16)
        torch.testing.assert_close(together[b : b + 1], alone)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(2, 6))
def test_what_always_holds(seed: int, rows: int, columns: int, radius: int) -> None:
    boundary, scores = some_boundary(seed, rows, columns), some_scores(seed, rows, columns)
    affinity = boundary_affinity(boundary, radius)
    go = lambda s, a=affinity: walk(a, s, radius=radius, beta=4.0, steps=12)  # noqa: E731
    moved = go(scores)
    low, high = scores.amin((2, 3)), scores.amax((2, 3))
    assert bool((moved.amin((2, 3)) >= low - 1e-5).all() and (moved.amax((2, 3)) <= high + 1e-5).all())  # range
    torch.testing.assert_close(go(torch.full_like(scores, 0.3)), torch.full_like(scores, 0.3))  # constant
    torch.testing.assert_close(go(scores[:, [2, 0, 1]]), moved[:, [2, 0, 1]])  # classes
    torch.testing.assert_close(
        go(scores.softmax(1)).sum(1), torch.ones(1, rows, columns), rtol=0, atol=1e-5
    )  # probabilities
    mirrored = go(scores.flip(3), boundary_affinity(boundary.flip(2), radius))
    torch.testing.assert_close(mirrored.flip(3), moved, rtol=1e-4, atol=1e-5)  # ways are mirrored too
    torch.testing.assert_close(go(scores.half()), go(scores.half().float()))


@pytest.mark.parametrize("kind", ["cosine", "feature", "colour"])
def test_affinities_of_features_are_symmetric_under_both_flips(kind: str) -> None:
    of = {"cosine": cosine_affinity, "feature": feature_affinity, "colour": colour_affinity}[kind]
    features = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    scores = some_scores(1, 6, 7, batch=2)
    moved = walk(of(features, 3), scores, radius=3, steps=9)
    for dims in ((2,), (3,), (2, 3)):
        flipped = walk(of(features.flip(dims), 3), scores.flip(dims), radius=3, steps=9).flip(dims)
        torch.testing.assert_close(flipped, moved)


def test_affinities_of_features_are_their_formulas() -> None:
    features = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    y, x, dy, dx = 2, 3, 1, -2
    k = offsets(4).index((dy, dx))
    a, b = features[0, :, y, x], features[0, :, y + dy, x + dx]
    assert feature_affinity(features, 4)[0, k, y, x] == pytest.approx(float(torch.exp(-(a - b).abs().mean())))
    cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    assert cosine_affinity(features, 4)[0, k, y, x] == pytest.approx(max(0.0, cosine), abs=1e-6)
    distance = float(((a - b) ** 2).mean())
    assert colour_affinity(features, 4, 0.5)[0, k, y, x] == pytest.approx(np.exp(-distance / 0.5), rel=1e-5)


def test_a_wall_holds_the_walker_and_a_gap_lets_it_through() -> None:
    scores = torch.zeros(1, 1, 6, 12)
    scores[..., :6] = 1
    wall = torch.zeros(1, 6, 12)
    wall[..., 5:7] = 1
    held = walk(boundary_affinity(wall, 5), scores, radius=5, steps=256)
    torch.testing.assert_close(held[..., :5], torch.ones(1, 1, 6, 5))
    torch.testing.assert_close(held[..., 7:], torch.zeros(1, 1, 6, 5))
    free = walk(boundary_affinity(torch.zeros(1, 6, 12), 5), scores, radius=5, steps=256)
    assert float(free.amax() - free.amin()) < 1e-3  # all alike in the end: the mean


def test_no_step_and_no_neighbour_change_nothing() -> None:
    scores = some_scores(3, 4, 5)
    affinity = boundary_affinity(some_boundary(3, 4, 5), 3)
    torch.testing.assert_close(walk(affinity, scores, radius=3, steps=0), scores)
    alone = boundary_affinity(some_boundary(3, 4, 5), 1)
    torch.testing.assert_close(walk(alone, scores, radius=1), scores)


def test_gradient_reaches_the_boundary() -> None:
    boundary = some_boundary(4, 5, 6).requires_grad_()
    walk(boundary_affinity(boundary, 3), some_scores(4, 5, 6), radius=3, beta=2, steps=3).square().sum().backward()
    assert boundary.grad is not None and float(boundary.grad.abs().sum()) > 0


def test_memory_is_linear_in_the_cells() -> None:
    """No tensor larger than the affinities themselves is made: a dense matrix would be."""
    rows, columns = 40, 60
    affinity = boundary_affinity(some_boundary(0, rows, columns), 5)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        walk(affinity, some_scores(0, rows, columns), radius=5, steps=2)
    assert largest <= 34 * rows * (columns + 4)


def test_the_walk_without_training_stays_inside_a_colour() -> None:
    image = np.zeros((40, 56, 3), np.uint8)
    image[:, 28:] = 200
    scores = np.zeros((2, 40, 56), np.float32)
    scores[0, 10:20, 8:16] = 1  # evidence on a part of the left half
    scores[1, 10:20, 40:48] = 1
    moved = random_walk(image, scores, steps=512)
    assert isinstance(moved, np.ndarray) and moved.shape == scores.shape
    assert moved[0, :, :26].min() > 10 * moved[0, :, 30:].max()
    assert (moved.argmax(0)[:, :26] == 0).all() and (moved.argmax(0)[:, 30:] == 1).all()


@pytest.mark.parametrize(
    ("image", "scores", "says"),
    [
        (np.zeros((6, 8, 3), np.uint8), np.zeros((2, 6, 9), np.float32), "disagree"),
        (np.zeros((6, 8, 3), np.float32), np.zeros((2, 6, 8), np.float32), "uint8"),
        (np.zeros((6, 8, 3), np.uint8), np.full((2, 6, 8), np.nan, np.float32), "NaN"),
        (np.zeros((6, 8, 3), np.uint8), np.full((2, 6, 8), -0.1, np.float32), "negative"),
        (np.zeros((6, 8, 3), np.uint8), np.zeros((2, 6, 8), np.int64), "disagree"),
        (np.zeros((6, 8, 3), np.uint8), [[[0.5]]], "is a list; give a numpy array"),
        ("cow.jpg", np.zeros((2, 6, 8), np.float32), "is a str; give a numpy array"),
    ],
)
def test_bad_input_is_one_clear_line(image: Any, scores: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        random_walk(image, scores)
    assert "\n" not in str(found.value)


def test_no_foreground_stays_no_foreground() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 13, 3)).astype(np.uint8)
    assert (random_walk(image, np.zeros((2, 9, 13), np.float32)) == 0).all()


def test_affinities_of_another_radius_are_refused() -> None:
    with pytest.raises(InputError, match="radius 5"):
        walk(boundary_affinity(some_boundary(0, 4, 5), 3), some_scores(0, 4, 5), radius=5)
