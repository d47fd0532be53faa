"""Weights drawn towards the pretrained ones (L2-SP), against its equation, and where it must not act."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from process_cases import TAGGED
from tag2mask import methods
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.methods.cam import CamSettings
from tag2mask.training import TrainSettings, fit, load_model, schedule
from tag2mask.training.near_start import NearStart

RATE = 1e-2
LITE = BackboneSettings()
ONE_STEP = TrainSettings(
    epochs=0.5, batch_size=5, optimizer="sgd", learning_rate=RATE, weight_decay=0.0, precision="float32"
)


class Stopped(Exception):
    pass


class StopsAt:
    """The photos, until so many were read."""

    def __init__(self, most: int) -> None:
        self.left = most

    def __len__(self) -> int:
        return len(TAGGED)

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> object:
        self.left -= 1
        if self.left < 0:
            raise Stopped
        return TAGGED.item(epoch, index)

    def collate(self, items):
        return TAGGED.collate(items)


def network(settings: BackboneSettings = LITE, moved: float = 0.01) -> nn.Module:
    """CAM on a backbone whose weights were trained before: they are not the pretrained ones any more."""
    torch.manual_seed(0)
    own = methods.build("cam", build(settings), 3, CamSettings())
    with torch.no_grad():
        for parameter in own.backbone.parameters():
            parameter.add_(moved * torch.randn_like(parameter) * parameter.std(correction=0))
    return own


def trained(folder: Path, settings: TrainSettings, task: nn.Module | None = None) -> nn.Module:
    task = network() if task is None else task
    fit(task, TAGGED, settings, folder, seed=0, title="t")
    return task


def test_a_step_is_the_gradients_and_then_the_way_back(tmp_path: Path) -> None:
    """w - eta g, and of that eta lambda of the way to the weights that the backbone came with; new layers stay."""
    plain = trained(tmp_path / "plain", ONE_STEP)
    drawn = trained(tmp_path / "drawn", replace(ONE_STEP, start_decay=30.0))
    pretrained = dict(build(BackboneSettings()).named_parameters())
    share = RATE * schedule(0, 1, ONE_STEP) * 30
    assert 0.2 < share < 0.4
    moved = 0
    for name, weight in drawn.backbone.named_parameters():
        after = plain.backbone.get_parameter(name)
        torch.testing.assert_close(weight, after + share * (pretrained[name] - after), rtol=1e-5, atol=1e-7)
        moved += not torch.equal(weight, after)
    assert moved > 100
    for name, weight in drawn.named_parameters():
        if not name.startswith("backbone."):
            torch.testing.assert_close(weight, plain.get_parameter(name), rtol=0, atol=0)


@pytest.mark.slow
def test_a_longer_training_ends_nearer_to_the_start_and_learns(tmp_path: Path) -> None:
    settings = replace(ONE_STEP, epochs=4, optimizer="adamw", learning_rate=1e-3)
    pretrained = dict(build(BackboneSettings()).named_parameters())

    def distance(task: nn.Module) -> float:
        own = task.backbone.named_parameters()
        return sum(float((weight - pretrained[name]).detach().square().sum()) for name, weight in own) ** 0.5

    free = trained(tmp_path / "free", settings, network(moved=0.0))
    near = trained(tmp_path / "near", replace(settings, start_decay=200.0), network(moved=0.0))
    assert 0 < distance(near) < 0.8 * distance(free)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_training_goes_on_to_the_bit(accumulate: int, tmp_path: Path) -> None:
    settings = replace(ONE_STEP, epochs=4, accumulate=accumulate, start_decay=20.0, checkpoint_minutes=0.0)
    whole = trained(tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        fit(network(), StopsAt(26), settings, tmp_path / "cut", seed=0, title="t")
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    trained(tmp_path / "cut", settings)
    cut = network()
    load_model(cut, tmp_path / "cut" / "model.safetensors")
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, cut.get_parameter(name)), name


def test_what_does_not_learn_or_has_no_start_is_not_drawn() -> None:
    frozen = network(BackboneSettings(freeze_until="block2"))
    near = NearStart.of(frozen)
    learn = {id(p) for p in frozen.backbone.parameters() if p.requires_grad}
    assert {id(p) for p in near.weights} == learn and 0 < len(learn) < sum(1 for _ in frozen.backbone.parameters())
    assert not NearStart.of(network(BackboneSettings("resnet10t", weights="none"))).weights
    chain = Backbone([("stem", nn.Conv2d(3, 8, 3))], 8, 1, (0.5,) * 3, (0.5,) * 3)  # built by nobody
    assert not NearStart.of(chain).weights


def test_the_whole_way_is_the_start() -> None:
    own = network()
    NearStart.of(own).draw(1.0)
    for name, weight in build(BackboneSettings()).named_parameters():
        assert torch.equal(own.backbone.get_parameter(name), weight)


def test_more_than_the_whole_way_is_refused() -> None:
    with pytest.raises(InputError, match=r"--train\.start-decay 300 .* learning rate of 0\.01: give at most 100$"):
        replace(ONE_STEP, start_decay=300.0)
