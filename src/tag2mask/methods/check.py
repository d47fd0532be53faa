"""``check_method``: what every method promises, executed. A new method joins by being in ``METHODS``.

In the manner of scikit-learn's ``check_estimator``: call it on your own method from your own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from tag2mask.backbones import Backbone
from tag2mask.types import Batch, Losses, Segmenter


def check_method(build: Callable[[Backbone, int], nn.Module], backbone: Callable[[], Backbone]) -> None:
    """Run every check of the contract.

    Args:
        build: ``(backbone, classes)`` to the method.
        backbone: a fresh small backbone; called several times.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    for check in (
        check_losses_are_named_finite_scalars,
        check_gradients_reach_backbone_and_head,
        check_localize_shape_and_range,
        check_localize_depends_on_nothing_but_its_input,
        check_weights_round_trip,
        check_one_step_on_one_batch_lowers_the_loss,
        check_stored_features_serve_as_well_as_photos,
        check_padding_takes_no_part,
        check_a_single_stage_method_segments,
    ):
        check(build, backbone)


Build = Callable[[Backbone, int], nn.Module]
Make = Callable[[], Backbone]


def batch_of(size: int = 3, classes: int = 4, height: int = 32, width: int = 48, seed: int = 0) -> Batch:
    """A small batch of noise; every class occurs, the first two photos have two and share one. Something stands out on
    the left of each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, height, width, generator=generator)
    labels = torch.eye(classes)[torch.arange(size) % classes]
    labels[:2, -1] = 1
    ids = tuple(f"photo{i}" for i in range(size))
    saliency = torch.zeros(size, height, width)
    saliency[:, height // 4 : -height // 4, width // 8 : width // 2] = 1
    valid = torch.ones(size, height, width, dtype=torch.bool)
    return Batch(ids, images, labels, valid, saliency=saliency, domains=("target",) * size)


def _losses(method: nn.Module, batch: Batch, progress: float = 0.5) -> list[Losses]:
    result = method.losses(batch, progress)  # type: ignore[operator]
    return [result] if isinstance(result, Losses) else list(_consume(result))


def _consume(results: Iterator[Losses]) -> Iterator[Losses]:
    yield from results


def check_losses_are_named_finite_scalars(build: Build, backbone: Make) -> None:
    method = build(backbone(), 4).train()
    for progress in (0.0, 1.0):
        for losses in _losses(method, batch_of(), progress):
            assert len(losses) > 0, "losses() gives no term"
            for name, value in losses.items():
                assert isinstance(name, str) and value.ndim == 0, f"loss {name!r} is not a scalar"
                assert torch.isfinite(value), f"loss {name} is not finite"


def check_gradients_reach_backbone_and_head(build: Build, backbone: Make) -> None:
    method = build(backbone(), 4).train()
    total = sum(losses.total() for losses in _losses(method, batch_of()))
    assert isinstance(total, Tensor)
    total.backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("backbone." in name for name in reached), "no gradient reaches the backbone"
    assert any("backbone." not in name for name in reached), "no gradient reaches the method's own layers"


def check_localize_shape_and_range(build: Build, backbone: Make) -> None:
    method, batch = build(backbone(), 4).eval(), batch_of()
    with torch.no_grad():
        maps = method.localize(batch.images, batch.labels)  # type: ignore[operator]
    assert maps.ndim == 4 and maps.shape[:2] == (3, 4), f"localize() gives {tuple(maps.shape)}"
    assert maps.shape[2] < maps.shape[3], "rows and columns are exchanged"
    assert torch.isfinite(maps).all() and maps.min() >= 0, "maps must be finite and at least 0"


def check_localize_depends_on_nothing_but_its_input(build: Build, backbone: Make) -> None:
    method, batch = build(backbone(), 4).eval(), batch_of()
    with torch.no_grad():
        first = method.localize(batch.images, batch.labels)  # type: ignore[operator]
        again = method.localize(batch.images, batch.labels)  # type: ignore[operator]
        alone = method.localize(batch.images[1:2], batch.labels[1:2])  # type: ignore[operator]
    assert torch.equal(first, again), "localize() is not deterministic in eval mode"
    torch.testing.assert_close(first[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's maps depend on its batch")


def check_weights_round_trip(build: Build, backbone: Make) -> None:
    torch.manual_seed(0)
    first = build(backbone(), 4).eval()
    torch.manual_seed(1)
    second = build(backbone(), 4).eval()
    second.load_state_dict(first.state_dict())
    batch = batch_of()
    with torch.no_grad():
        maps = [m.localize(batch.images, batch.labels) for m in (first, second)]  # type: ignore[operator]
    assert torch.equal(*maps), "the state dict does not hold everything localize() needs"


def check_one_step_on_one_batch_lowers_the_loss(build: Build, backbone: Make) -> None:
    torch.manual_seed(0)
    method, batch = build(backbone(), 4).train(), batch_of()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    totals = []
    for _ in range(8):
        torch.manual_seed(0)  # the same dropout each time
        total = torch.stack([losses.total() for losses in _losses(method, batch)]).sum()
        totals.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
    assert min(totals[1:]) < totals[0], f"eight small steps on one batch do not lower its loss: {totals}"


def check_stored_features_serve_as_well_as_photos(build: Build, backbone: Make) -> None:
    torch.manual_seed(0)
    trunk = backbone()
    trunk.freeze_until(trunk.names[-2])
    method, batch = build(trunk, 4).eval(), batch_of()
    with torch.no_grad():
        direct = method.localize(batch.images, batch.labels)  # type: ignore[operator]
        features = trunk.until(batch.images, trunk.names[-2])
        stored = method.localize(features, batch.labels, stored=True)  # type: ignore[operator]
    torch.testing.assert_close(direct, stored, msg="stored features give other maps than the photos they are of")
    valid = torch.ones(len(features), *features.shape[2:], dtype=torch.bool)
    of_features = replace(batch, images=features, valid=valid, stored=True)
    for losses in _losses(method.train(), of_features):
        assert torch.isfinite(losses.total()), "losses() of stored features are not finite"


def check_padding_takes_no_part(build: Build, backbone: Make) -> None:
    """A photo and the same photo beside padding: image scores must come from the photo's cells alone."""
    torch.manual_seed(0)
    method, batch = build(backbone(), 4).eval(), batch_of(height=32, width=128)
    half = batch.valid.clone()
    half[:, :, 64:] = False
    images = batch.images.clone()
    images[:, :, :, 64:] = 0
    scores = []
    for noise in (0.0, 5.0):  # what stands on the far padding must not matter (near it, receptive fields overlap)
        images[:, :, :, -1:] = noise
        scores.append(_totals(method, replace(batch, images=images.clone(), valid=half)))
    images[:, :, :, -1:] = 0.0
    whole = _totals(method, replace(batch, images=images))
    assert scores[0] != whole, "the valid region changes nothing"
    spread = max(abs(a - b) for a, b in zip(*scores, strict=True))
    assert spread < 0.2, f"padding changes the loss by {spread:.3f}"


def check_a_single_stage_method_segments(build: Build, backbone: Make) -> None:
    """Only of a method that promises ``segment`` too: logits of background and every class, from photos or features."""
    torch.manual_seed(0)
    trunk = backbone()
    method, batch = build(trunk, 4).eval(), batch_of()
    if not isinstance(method, Segmenter):
        return
    with torch.no_grad():
        logits = method.segment(batch.images)
        alone = method.segment(batch.images[1:2])
        trunk.freeze_until(trunk.names[-2])
        stored = method.segment(trunk.until(batch.images, trunk.names[-2]), stored=True)
    assert logits.ndim == 4 and logits.shape[:2] == (3, 5), f"segment() gives {tuple(logits.shape)}"
    assert logits.shape[2] < logits.shape[3], "rows and columns are exchanged"
    assert torch.isfinite(logits).all(), "logits are not finite"
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's logits depend on its batch")
    torch.testing.assert_close(logits, stored, msg="stored features give other logits than the photos they are of")


def _totals(method: nn.Module, batch: Batch) -> list[float]:
    with torch.no_grad():
        return [float(losses.total()) for losses in _losses(method, batch)]
