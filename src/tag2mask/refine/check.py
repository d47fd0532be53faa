"""``check_refiner``: what every refiner promises, executed. A new refiner joins by being in ``REFINERS``.

In the manner of scikit-learn's ``check_estimator``: call it on your own refiner from your own tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from tag2mask.protocols import Refiner

Make = Callable[[], Refiner]


def check_refiner(make: Make, *, background: bool = False) -> None:
    """Run every check of the contract.

    Args:
        make: gives the refiner; called several times.
        background: whether it takes label 0 for background, so that this label has its place.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    for check in (
        check_probabilities_in_and_out,
        check_input_is_left_alone,
        check_same_input_same_result,
        functools.partial(check_permuted_labels_permute_the_result, background=background),
        check_an_image_of_one_colour,
        check_thin_images,
        check_certain_scores,
        check_absent_and_single_labels,
        check_a_photo_does_not_depend_on_its_batch,
    ):
        check(make)


def example(batch: int = 2, labels: int = 3, height: int = 20, width: int = 31, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Photos of two tones ``[batch 3 height width]`` uint8, and probabilities ``[batch labels height width]`` float32
    that prefer a label in each part of them."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    side = (2.0 * y + 3.0 * x > height + 1.5 * width).float()
    noise = 12 * torch.randn(batch, 3, height, width, generator=random)
    images = (60 + 120 * side + noise).clamp(0, 255).to(torch.uint8)
    places = torch.stack([side, 1 - side, *(0.3 * side for _ in range(labels - 2))][:labels])
    logits = 2 * places + 0.5 * torch.randn(batch, labels, height, width, generator=random)
    return images, logits.softmax(1)


def _assert_probabilities(scores: Tensor, shape: torch.Size, of: str = "") -> None:
    assert scores.shape == shape, f"refine(){of} gives {tuple(scores.shape)}, not {tuple(shape)}"
    assert scores.dtype == torch.float32, f"refine(){of} gives {scores.dtype}, not float32"
    assert bool(torch.isfinite(scores).all()), f"refine(){of} gives NaN or infinity"
    assert float(scores.min()) >= 0 and float(scores.max()) <= 1 + 1e-4, f"refine(){of} leaves [0, 1]"
    total = scores.sum(1)
    assert float((total - 1).abs().max()) < 1e-3, f"refine(){of} gives labels that do not add up to one"


def check_probabilities_in_and_out(make: Make) -> None:
    for labels in (2, 3, 7):
        images, scores = example(labels=labels)
        _assert_probabilities(make().refine(images, scores), scores.shape)


def check_input_is_left_alone(make: Make) -> None:
    images, scores = example()
    before = images.clone(), scores.clone()
    make().refine(images, scores)
    assert torch.equal(images, before[0]) and torch.equal(scores, before[1]), "refine() changes what it is given"


def check_same_input_same_result(make: Make) -> None:
    images, scores = example()
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as photos are decoded: channels last
    first, again = make().refine(images, scores), make().refine(strided, scores)
    assert torch.equal(first, again), "refine() depends on more than the values it is given"


def check_permuted_labels_permute_the_result(make: Make, background: bool = False) -> None:
    images, scores = example(labels=4)
    order = [0, 2, 3, 1] if background else [2, 0, 3, 1]
    first, moved = make().refine(images, scores)[:, order], make().refine(images, scores[:, order])
    near = ((first - moved).abs() < 1e-2).float().mean()  # where labels are nearly even, rounding grows
    assert float(near) > 0.99, "the order of labels changes the result"


def check_an_image_of_one_colour(make: Make) -> None:
    images, _ = example(height=12, width=19)
    scores = torch.full((2, 3, 12, 19), 0.25)
    scores[:, 1] = 0.5
    refined = make().refine(torch.full_like(images, 77), scores)
    _assert_probabilities(refined, scores.shape, " of one colour")
    assert bool((refined.argmax(1) == 1).all()), "equal scores on equal pixels change their label"


def check_thin_images(make: Make) -> None:
    for height, width in ((1, 1), (1, 17), (17, 1), (2, 3)):
        images, scores = example(height=height, width=width)
        _assert_probabilities(make().refine(images, scores), scores.shape, f" of {height} x {width} pixels")


def check_certain_scores(make: Make) -> None:
    """Ones and zeros, and what a softmax leaves of zeros."""
    images, scores = example()
    for tail in (0.0, 1e-13, 1e-40):
        certain = torch.full_like(scores, tail).scatter_(1, scores.argmax(1, keepdim=True), 1.0)
        _assert_probabilities(make().refine(images, certain), scores.shape, " of certain scores")


def check_absent_and_single_labels(make: Make) -> None:
    images, scores = example(labels=2)
    wide = torch.zeros(2, 5, *scores.shape[2:])
    wide[:, [1, 3]] = scores
    _assert_probabilities(make().refine(images, wide), wide.shape, " with absent labels")
    single = torch.ones(2, 1, *scores.shape[2:])
    assert bool((make().refine(images, single) > 1 - 1e-4).all()), "a single label is not certain"


def check_a_photo_does_not_depend_on_its_batch(make: Make) -> None:
    images, scores = example(batch=3)
    together = make().refine(images, scores)
    for b in range(3):
        alone = make().refine(images[b : b + 1], scores[b : b + 1])
        assert torch.allclose(alone, together[b : b + 1], rtol=0, atol=1e-5), "a photo's result depends on its batch"
