"""``check_method``: what every method promises, executed. A new method joins by being in ``METHODS``.

In the manner of scikit-learn's ``check_estimator``: call it on your own method from your own tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.layers.class_references import ComparedWithReferences
from tag2mask.protocols import (
    ClassMaps,
    Method,
    MethodSettings,
    PredictsTags,
    Segmenter,
    Trainable,
    Traits,
    UsesClassNames,
    UsesReferences,
)
from tag2mask.types import Batch, Losses, Photos, Reference

Build = Callable[[Backbone, int, Any], nn.Module]
Make = Callable[[], Backbone]
CLASSES = 4


def check_method(build: Build, settings: MethodSettings, backbone: Make) -> None:
    """Run every check of the contract.

    Args:
        build: ``(backbone, classes, settings)`` to the method.
        settings: the method's own.
        backbone: a fresh small backbone; called several times.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    check_settings_are_declared(settings)
    new: Callable[[Backbone], nn.Module] = lambda trunk: build(trunk, CLASSES, settings)  # noqa: E731
    for check in (
        check_traits_agree_with_promises,
        check_localize_shape_and_range,
        check_localize_depends_on_nothing_but_its_input,
        check_weights_round_trip,
        check_class_maps_serve_references,
        check_tags_are_predicted_from_the_photo_alone,
        check_a_single_stage_method_segments,
        *(LEARNING if settings.traits.trains else ()),
    ):
        check(new, backbone)
    check_inference_settings_change_no_training(build, settings, backbone)


New = Callable[[Backbone], nn.Module]


def batch_of(size: int = 3, height: int = 32, width: int = 48, seed: int = 0) -> Batch:
    """A small batch of noise; every class occurs, the first two photos have two and share one. Something stands out on
    the left of each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, height, width, generator=generator)
    labels = torch.eye(CLASSES)[torch.arange(size) % CLASSES]
    labels[:2, -1] = 1
    ids = tuple(f"photo{i}" for i in range(size))
    saliency = torch.zeros(size, height, width)
    saliency[:, height // 4 : -height // 4, width // 8 : width // 2] = 1
    valid = torch.ones(size, height, width, dtype=torch.bool)
    return Batch(ids, images, labels, valid, saliency=saliency, domains=("target",) * size)


def _method(network: nn.Module) -> Method:
    assert isinstance(network, Method), "a method has traits and localize(batch)"
    return network


def _losses(network: nn.Module, batch: Batch, progress: float = 0.5) -> list[Losses]:
    assert isinstance(network, Trainable), "a method that trains has losses(batch, progress)"
    result = network.losses(batch, progress)
    return [result] if isinstance(result, Losses) else list(result)


def _maps(network: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return _method(network).localize(batch)


def _one(batch: Batch, row: int) -> Batch:
    """One photo of a batch alone."""
    rows = slice(row, row + 1)
    return Batch(
        batch.ids[rows], batch.images[rows], batch.labels[rows], batch.valid[rows], domains=batch.domains[rows]
    )


def _totals(network: nn.Module, batch: Batch) -> list[float]:
    with torch.no_grad():
        return [float(losses.total()) for losses in _losses(network, batch)]


def check_settings_are_declared(settings: MethodSettings) -> None:
    """Settings are a frozen dataclass, and what they declare of themselves is true."""
    assert dataclasses.is_dataclass(settings) and not isinstance(settings, type), "settings are no dataclass"
    params = getattr(settings, "__dataclass_params__")  # noqa: B009 (pyright knows no such attribute)
    assert params.frozen, "settings must be a frozen dataclass: they are shared and are part of a stage's key"
    assert isinstance(settings.traits, Traits), "settings.traits must be Traits"
    fields = {f.name for f in dataclasses.fields(settings)}
    strange = set(settings.traits.inference_settings) - fields
    assert not strange, f"traits.inference_settings names {sorted(strange)}, which are no settings"


def check_traits_agree_with_promises(new: New, backbone: Make) -> None:
    network = new(backbone())
    method = _method(network)
    traits = method.traits
    assert traits.single_stage == isinstance(method, Segmenter), (
        "traits.single_stage and segment() contradict each other"
    )
    assert traits.trains == isinstance(method, Trainable), "traits.trains and losses() contradict each other"
    assert traits.class_names == isinstance(method, UsesClassNames), (
        "traits.class_names and take_class_names() contradict each other"
    )
    assert traits.class_maps == isinstance(method, ClassMaps), (
        "traits.class_maps and features_and_scores() contradict each other"
    )
    if traits.references:
        assert isinstance(method, UsesReferences), "traits.references without prepare_localization()"
    batch = batch_of()
    if traits.saliency:
        try:
            _losses(network, replace(batch, saliency=None))
        except InputError:
            pass
        else:
            raise AssertionError("traits.saliency, but losses() needs none: it must say when a batch has none")
    elif traits.trains:
        _losses(network, replace(batch, saliency=None))
    if traits.maps == "probabilities":
        sums = _maps(network.eval(), batch).sum(1)
        assert sums.max() <= 1 + 1e-4, "traits.maps says probabilities, but they add up to more than one"


def check_losses_are_named_finite_scalars(new: New, backbone: Make) -> None:
    method = new(backbone()).train()
    for progress in (0.0, 1.0):
        for losses in _losses(method, batch_of(), progress):
            assert len(losses) > 0, "losses() gives no term"
            for name, value in losses.items():
                assert isinstance(name, str) and value.ndim == 0, f"loss {name!r} is not a scalar"
                assert torch.isfinite(value), f"loss {name} is not finite"


def check_gradients_reach_backbone_and_head(new: New, backbone: Make) -> None:
    trunk = backbone()
    method = new(trunk).train()
    torch.stack([losses.total() for losses in _losses(method, batch_of())]).sum().backward()
    reached = {id(p) for p in method.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    own = {id(p) for p in trunk.parameters()}
    assert reached & own, "no gradient reaches the backbone"
    assert reached - own, "no gradient reaches the method's own layers"


def check_photos_without_classes_teach(new: New, backbone: Make) -> None:
    """Photos that show none of the classes, some of a batch or all of it: they are taught as such."""
    torch.manual_seed(0)
    method, batch = new(backbone()).train(), batch_of()
    for rows in ([1], [0, 1, 2]):
        labels = batch.labels.clone()
        labels[rows] = 0
        for losses in _losses(method, replace(batch, labels=labels, pairs=())):
            total = losses.total()
            assert torch.isfinite(total), "losses() of photos that show none of the classes are not finite"
            assert total.requires_grad, "photos that show none of the classes teach nothing"


def check_localize_shape_and_range(new: New, backbone: Make) -> None:
    maps = _maps(new(backbone()).eval(), batch_of())
    assert maps.ndim == 4 and maps.shape[:2] == (3, CLASSES), f"localize() gives {tuple(maps.shape)}"
    assert maps.shape[2] < maps.shape[3], "rows and columns are exchanged"
    assert torch.isfinite(maps).all() and maps.min() >= 0, "maps must be finite and at least 0"


def check_localize_depends_on_nothing_but_its_input(new: New, backbone: Make) -> None:
    method, batch = new(backbone()).eval(), batch_of()
    first, again, alone = _maps(method, batch), _maps(method, batch), _maps(method, _one(batch, 1))
    assert torch.equal(first, again), "localize() is not deterministic in eval mode"
    torch.testing.assert_close(first[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's maps depend on its batch")


def check_weights_round_trip(new: New, backbone: Make) -> None:
    torch.manual_seed(0)
    first = new(backbone()).eval()
    torch.manual_seed(1)
    second = new(backbone()).eval()
    second.load_state_dict(first.state_dict())
    maps = [_maps(method, batch_of()) for method in (first, second)]
    assert torch.equal(*maps), "the state dict does not hold everything localize() needs"


def check_one_step_on_one_batch_lowers_the_loss(new: New, backbone: Make) -> None:
    torch.manual_seed(0)
    method, batch = new(backbone()).train(), batch_of()
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


def check_stored_features_serve_as_well_as_photos(new: New, backbone: Make) -> None:
    torch.manual_seed(0)
    trunk = backbone()
    trunk.freeze_until(trunk.names[-2])
    method, batch = new(trunk).eval(), batch_of()
    with torch.no_grad():
        features = trunk.until(batch.images, trunk.names[-2])
    valid = torch.ones(len(features), *features.shape[2:], dtype=torch.bool)
    stored = replace(batch, images=features, valid=valid, stored=True)
    torch.testing.assert_close(
        _maps(method, batch), _maps(method, stored), msg="stored features give other maps than the photos they are of"
    )
    for losses in _losses(method.train(), stored):
        assert torch.isfinite(losses.total()), "losses() of stored features are not finite"


def check_padding_takes_no_part(new: New, backbone: Make) -> None:
    """A photo and the same photo with padding: image scores must come from the photo's cells alone."""
    torch.manual_seed(0)
    method, batch = new(backbone()).eval(), batch_of(height=32, width=128)
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


def check_class_maps_serve_references(new: New, backbone: Make) -> None:
    """Only of a method that promises ``features_and_scores``: they are of one grid and of each photo alone, and maps
    come of them when the photos of a batch are its references."""
    torch.manual_seed(0)
    method, batch = new(backbone()).eval(), batch_of()
    if not isinstance(method, ClassMaps):
        return
    with torch.no_grad():
        features, scores = method.features_and_scores(batch)
        alone = method.features_and_scores(_one(batch, 1))[1]
        untagged = method.features_and_scores(replace(batch, labels=torch.zeros_like(batch.labels)))[1]
    assert features.ndim == 4 and scores.shape == (3, CLASSES, *features.shape[2:]), (
        f"features_and_scores() gives {tuple(features.shape)} and {tuple(scores.shape)}"
    )
    assert scores.shape[2] < scores.shape[3], "rows and columns are exchanged"
    assert torch.isfinite(features).all() and torch.isfinite(scores).all(), "features or scores are not finite"
    torch.testing.assert_close(scores[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's scores depend on its batch")
    torch.testing.assert_close(scores, untagged, msg="scores depend on the tags")
    compared = ComparedWithReferences(method)
    compared.prepare_localization(references_of(batch))
    with torch.no_grad():
        maps = compared.localize(batch)
    absent = batch.labels[:, :, None, None].expand_as(maps) == 0
    assert maps.min() >= 0 and maps.max() <= 1 + 1e-4 and not maps[absent].any(), "maps of references are not in [0, 1]"


def check_tags_are_predicted_from_the_photo_alone(new: New, backbone: Make) -> None:
    """Only of a method that promises ``tag_scores``: they look at no tag, at no other photo, and at no padding."""
    torch.manual_seed(0)
    method, batch = new(backbone()).eval(), batch_of(height=32, width=128)
    if not isinstance(method, PredictsTags):
        return
    valid, images = batch.valid.clone(), batch.images.clone()
    valid[:, :, 64:] = False
    images[:, :, :, 64:] = 0
    padded = replace(batch, images=images, valid=valid)
    noisy = images.clone()
    noisy[:, :, :, -1:] = 5.0
    with torch.no_grad():
        scores = method.tag_scores(batch)
        alone = method.tag_scores(_one(batch, 1))
        untagged = method.tag_scores(replace(batch, labels=torch.zeros_like(batch.labels)))
        pair = [method.tag_scores(replace(padded, images=of)) for of in (images, noisy)]
    assert scores.shape == (3, CLASSES) and torch.isfinite(scores).all(), f"tag_scores() gives {tuple(scores.shape)}"
    torch.testing.assert_close(scores[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's tags depend on its batch")
    torch.testing.assert_close(scores, untagged, msg="predicted tags depend on the tags")
    spread = float((pair[0] - pair[1]).abs().max())
    assert spread <= 0.1 * float(scores.abs().max()) + 0.05, f"padding changes predicted tags by {spread:.3f}"


def check_a_single_stage_method_segments(new: New, backbone: Make) -> None:
    """Only of a method that promises ``segment`` too: logits of background and every class, from photos or features."""
    torch.manual_seed(0)
    trunk = backbone()
    method, images = new(trunk).eval(), batch_of().images
    if not isinstance(method, Segmenter):
        return
    with torch.no_grad():
        logits = method.segment(Photos(images))
        alone = method.segment(Photos(images[1:2]))
        trunk.freeze_until(trunk.names[-2])
        stored = method.segment(Photos(trunk.until(images, trunk.names[-2]), stored=True))
    assert logits.ndim == 4 and logits.shape[:2] == (3, 1 + CLASSES), f"segment() gives {tuple(logits.shape)}"
    assert logits.shape[2] < logits.shape[3], "rows and columns are exchanged"
    assert torch.isfinite(logits).all(), "logits are not finite"
    torch.testing.assert_close(logits[1:2], alone, rtol=1e-3, atol=1e-4, msg="a photo's logits depend on its batch")
    torch.testing.assert_close(logits, stored, msg="stored features give other logits than the photos they are of")


def check_inference_settings_change_no_training(build: Build, settings: MethodSettings, backbone: Make) -> None:
    """Losses of the same weights do not depend on settings that are declared to be inference's."""
    for name in settings.traits.inference_settings:
        other = _changed(settings, name)
        if other is None:
            continue
        torch.manual_seed(0)
        first = build(backbone(), CLASSES, settings)
        torch.manual_seed(0)
        second = build(backbone(), CLASSES, other)
        assert first.state_dict().keys() == second.state_dict().keys(), f"{name} changes what is trained"
        second.load_state_dict(first.state_dict())
        if not settings.traits.trains:
            continue
        totals = [_totals(network.eval(), batch_of()) for network in (first, second)]
        assert totals[0] == totals[1], f"{name} is declared to be of inference only and changes the losses"


LEARNING = (
    check_losses_are_named_finite_scalars,
    check_gradients_reach_backbone_and_head,
    check_photos_without_classes_teach,
    check_one_step_on_one_batch_lowers_the_loss,
    check_stored_features_serve_as_well_as_photos,
    check_padding_takes_no_part,
)
"""Of methods that train."""


def _changed(settings: Any, name: str) -> MethodSettings | None:
    """The settings with another value of a number or flag; None where it is neither."""
    value = getattr(settings, name)
    if isinstance(value, bool):
        return replace(settings, **{name: not value})
    return replace(settings, **{name: value + 1}) if isinstance(value, (int, float)) else None


def references_of(batch: Batch) -> list[Reference]:
    """The photos of a batch as references, each of its classes."""
    labels = [tuple(row.nonzero().flatten().tolist()) for row in batch.labels]
    return [
        Reference(batch.images[row : row + 1], classes, domain, batch.stored)
        for row, (classes, domain) in enumerate(zip(labels, batch.domains, strict=True))
    ]
