"""``check_segmenter``: what every segmenter promises, executed. A new one joins by being among the known names.

In the manner of scikit-learn's ``check_estimator``: call it on your own segmenter from your own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tag2mask.backbones import Backbone
from tag2mask.protocols import Segmenter
from tag2mask.segment.task import SegmenterTask
from tag2mask.training.optimizer import parameter_groups, pretrained_parameters
from tag2mask.training.settings import TrainSettings
from tag2mask.types import IGNORE, MaskedBatch, Photos

Build = Callable[[Backbone, int], nn.Module]
Make = Callable[[], Backbone]
CLASSES = 3


def check_segmenter(build: Build, backbone: Make, height: int = 40, width: int = 72) -> None:
    """Run every check of the contract.

    Args:
        build: ``(backbone, classes)`` to the segmenter.
        backbone: a fresh small backbone; called several times.
        height, width: of the photos, in pixels; not square, and no multiples of 32.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    for check in (
        check_logits,
        check_a_photo_does_not_depend_on_its_batch,
        check_weights_round_trip,
        check_pretrained_parameters_learn_at_the_backbones_rate,
        check_gradients_reach_everything,
        check_undecided_pixels_take_no_part,
        check_one_step_lowers_the_loss,
    ):
        check(build, backbone, batch_of(height, width))


def _new(build: Build, backbone: Make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    segmenter = build(backbone(), CLASSES)
    assert isinstance(segmenter, Segmenter), "a segmenter has segment(views)"
    return segmenter


def batch_of(height: int, width: int) -> MaskedBatch:
    """Two photos of noise, every label in their masks."""
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, height, width, dtype=torch.int64)
    for label in range(1, 1 + CLASSES):
        masks[:, label * height // 5 :, label * width // 5 :] = label
    return MaskedBatch(("a", "b"), images, masks, torch.ones(2, CLASSES), torch.ones(2, height, width) > 0)


def _logits(segmenter: nn.Module, images: Tensor) -> Tensor:
    assert isinstance(segmenter, Segmenter)
    with torch.no_grad():
        return segmenter.eval().segment(Photos(images))


def check_logits(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    logits = _logits(_new(build, backbone), batch.images)
    assert logits.ndim == 4 and logits.shape[:2] == (2, 1 + CLASSES), f"segment() gives {tuple(logits.shape)}"
    assert logits.shape[2] < logits.shape[3], "rows and columns are exchanged"
    assert bool(torch.isfinite(logits).all()), "logits are not finite"


def check_a_photo_does_not_depend_on_its_batch(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    segmenter, images = _new(build, backbone), batch.images
    together, alone = _logits(segmenter, images), _logits(segmenter, images[1:])
    assert torch.equal(together, _logits(segmenter, images)), "segment() is not deterministic in eval mode"
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3, msg="a photo's logits depend on its batch")


def check_weights_round_trip(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    first, second, images = _new(build, backbone), _new(build, backbone, seed=1), batch.images
    second.load_state_dict(first.state_dict())
    assert torch.equal(_logits(first, images), _logits(second, images)), "the state dict does not hold everything"


def check_pretrained_parameters_learn_at_the_backbones_rate(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    """Weights that came from the backbone learn at its rate, all others at that of new layers."""
    given: list[Backbone] = []

    def noted() -> Backbone:
        given.append(backbone())
        return given[-1]

    segmenter = _new(build, noted)
    from_backbone = {p.detach().numpy().tobytes() for p in given[0].parameters() if p.ndim > 1}
    declared = {id(parameter) for parameter in pretrained_parameters(segmenter)}
    rates = {id(p): group["lr"] for group in parameter_groups(segmenter, TrainSettings()) for p in group["params"]}
    for name, parameter in segmenter.named_parameters():
        pretrained = id(parameter) in declared
        if parameter.ndim > 1:  # biases and norms begin alike everywhere
            assert pretrained == (parameter.detach().numpy().tobytes() in from_backbone), f"{name} is declared wrongly"
        if parameter.requires_grad:
            factor = 1.0 if pretrained else TrainSettings().head_lr_mult
            assert rates[id(parameter)] == TrainSettings().learning_rate * factor, f"{name} learns at another rate"


def check_gradients_reach_everything(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    task = SegmenterTask(_new(build, backbone)).train()
    task.losses(batch, 0.5).total().backward()
    declared = {id(parameter) for parameter in pretrained_parameters(task)}
    reached = {id(p) for p in task.parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert reached & declared, "no gradient reaches the pretrained part"
    assert reached - declared, "no gradient reaches the new layers"


def check_undecided_pixels_take_no_part(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    task = SegmenterTask(_new(build, backbone)).eval()
    nothing = replace(batch, masks=torch.full_like(batch.masks, IGNORE))
    with torch.no_grad():
        terms = {name: float(value) for name, value in task.losses(nothing, 0.5).items() if "segmentation" in name}
    assert terms and not any(terms.values()), f"masks without a decided pixel cost {terms}"


def check_one_step_lowers_the_loss(build: Build, backbone: Make, batch: MaskedBatch) -> None:
    task = SegmenterTask(_new(build, backbone)).train()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    totals = []
    for _ in range(4):
        torch.manual_seed(0)  # the same dropout each time
        total = task.losses(batch, 0.5).total()
        totals.append(float(total.detach()))
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    assert min(totals[1:]) < totals[0], f"small steps on one batch do not lower its loss: {totals}"
