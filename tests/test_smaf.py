"""Self-training on reactivated maps: the published step and values, each option against a loop, and whole runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from portable import h, uniform
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.cli.runs import parse_run
from tag2mask.data.augment import AugmentSettings, shrunk
from tag2mask.data.batches import StoredFeatures, TaggedImages
from tag2mask.errors import InputError
from tag2mask.methods import METHODS
from tag2mask.methods.cam import Cam
from tag2mask.methods.check import batch_of
from tag2mask.methods.eps import ClassMapNet, Eps, EpsSettings
from tag2mask.methods.smaf import (
    PROTOTYPE_CELLS,
    SelfTrainSettings,
    Student,
    follow,
    learn_prototypes,
    likeness,
    map_loss,
    reactivated,
    student_of,
)
from tag2mask.pipeline import reopen
from tag2mask.plan.folder import Run
from tag2mask.pseudo.thresholds import threshold_of
from tag2mask.recipes import recipe
from tag2mask.refine import refiner
from tag2mask.refine.crf import LabelCrf, dense_crf_from_labels
from tag2mask.segment import SegmenterSettings, SegmenterTask
from tag2mask.segment import build as build_segmenter
from tag2mask.segment.deeplab import DeepLab
from tag2mask.segment.pyramid import Pyramid
from tag2mask.stages.artefacts import read_maps
from tag2mask.summary import supervision
from tag2mask.training import fit, schedule
from tag2mask.types import Batch, Dataset, LocalizationMaps, MaskedBatch, Photos, Sample
from test_eps import small_backbone, with_saliency
from world import SMALL, fails, keys, made_of, make, manifest, run

SMAF = SelfTrainSettings("smaf", background=0.2, sharpness=1.0)  # as published


# --- the published step -----------------------------------------------------------------------------------------


def test_golden_step() -> None:
    logits = 6 * uniform((2, 21, 7, 7), 3)
    maps = torch.zeros(2, 20, 56, 56, dtype=torch.float64)
    fill = lambda k: torch.from_numpy(h(56 * 56, k)).reshape(56, 56)  # noqa: E731
    maps[0, 2], maps[0, 14], maps[1, 7], maps[1, 0] = fill(10), fill(11) ** 2, fill(12) ** 3, fill(13)
    labels = torch.zeros(2, 20, dtype=torch.float64)
    labels[0, 2] = labels[0, 14] = labels[1, 7] = 1
    target = reactivated(torch.stack([shrunk(m, 4) for m in maps]), labels, 0.2)
    assert target.shape == (2, 21, 14, 14)
    assert torch.equal(target.amax(1), torch.ones(2, 14, 14, dtype=torch.float64))
    assert float(target.sum()) == pytest.approx(679.75192299, rel=1e-6)
    assert float(target[1, 0].sum()) == 0  # not labelled
    close = lambda found, expected: np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)  # noqa: E731
    close(target[0, 2, 0, :5], [0.9722175158, 1, 0.5885922528, 1, 0.2593962129])
    close(target[0, 14, 0, :5], [0.0031929160, 0.0824394671, 1, 0.2018652220, 0.0378630248])
    close(target[0, 20, 0, :5], [1, 0.2446605613, 0.8214983106, 0.4375057994, 1])
    close(target[1, 20, 3, :4], [1, 0.5596819207, 1, 1])
    loss = map_loss(logits, target)
    assert float(loss) == pytest.approx(0.0652332878, rel=1e-6)
    assert 100 * float(loss) == pytest.approx(6.523329, rel=1e-6)


def test_golden_learning_rates() -> None:
    """Poly decay from 0.01 over 20,000 steps, read before each step."""
    train = recipe("smaf").student_train
    rate = lambda step: train.learning_rate * schedule(step, 20_000, train)  # noqa: E731
    assert rate(0) == 0.01
    assert rate(1) == pytest.approx(0.0099995500, rel=1e-8)
    assert rate(9999) == pytest.approx(0.0053593496, rel=1e-8)
    assert rate(19999) == pytest.approx(1.346087e-6, rel=1e-6)
    assert (train.momentum, train.head_lr_mult, train.max_grad_norm, train.batch_size) == (5e-4, 10.0, 0.0, 8)


def test_defaults_follow_what_cleans_the_maps() -> None:
    plain, salient = SelfTrainSettings("smaf"), SelfTrainSettings("smaf", denoise=("prototype", "saliency"))
    assert (plain.constant, plain.exponent) == (None, 4.0)  # b is found, which is larger than the paper's
    assert (salient.constant, salient.exponent) == (0.2, 1.0)
    given = replace(salient, background=0.4, sharpness=2.0)
    assert (given.constant, given.exponent) == (0.4, 2.0)


def test_the_recipe_is_as_published() -> None:
    run = recipe("smaf")
    assert run.method == "eps" and run.options == EpsSettings(head="feature", tau=0.4, lam=0.5)
    s = run.self_train
    assert (s.name, s.rounds, s.background, s.weight, s.denoise, s.teacher) == ("smaf", 1, 0.2, 100.0, (), "static")
    assert s.sharpness == 1.0
    assert (s.padding, s.classification, s.jitter, s.stride) == ("background", 0.0, 0.0, 4)
    assert (run.pseudo.background, run.pseudo.threshold, run.refine) == ("constant", 0.2, "crf/labels")
    assert run.segmenter.backbone == "resnet101.tv_in1k" and run.segmenter.pyramid == (0.5, 0.75)


# --- reactivation -----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
def test_reactivated_is_its_loop(seed: int, background: float) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, 4, 5, generator=random, dtype=torch.float64)
    maps[0, 1, :2] = 0
    labels = (torch.rand(2, 3, generator=random) < 0.6).double()
    found = reactivated(maps, labels, background)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                scores = [float(labels[b, c] * maps[b, c, i, j]) for c in range(3)] + [background]
                expected = [s / max(scores) for s in scores]
                np.testing.assert_allclose(found[b, :, i, j].numpy(), expected, rtol=1e-12)
    assert torch.equal(found.amax(1), torch.ones_like(found[:, 0])) and found.min() >= 0
    twice = found[:, :-1] * background / found[:, -1:]  # ratios to background are kept
    torch.testing.assert_close(twice, maps * labels[:, :, None, None])


def test_what_reactivation_says() -> None:
    one = torch.ones(1, 1)
    weak = reactivated(torch.full((1, 1, 1, 1), 0.1), one, 0.2)
    assert weak.flatten().tolist() == pytest.approx([0.5, 1.0])  # background wins; the class is lifted fivefold
    strong = reactivated(torch.full((1, 1, 1, 1), 0.8), one, 0.2)
    assert strong.flatten().tolist() == pytest.approx([1.0, 0.25])
    # sharper: winners and borders stay, the rest falls back
    assert reactivated(torch.full((1, 1, 1, 1), 0.8), one, 0.2, 2.0).flatten().tolist() == pytest.approx([1, 0.0625])
    assert reactivated(torch.full((1, 1, 1, 1), 0.2), one, 0.2, 9.0).flatten().tolist() == pytest.approx([1, 1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_map_loss_is_its_loop(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.float64)
    target = torch.rand(2, 3, 4, 5, generator=random, dtype=torch.float64)
    inside = torch.rand(2, 4, 5, generator=random, dtype=torch.float64)
    total = weights = plain = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(5):
                e = np.exp(logits[b, :, i, j].numpy())
                error = float(((e / e.sum() - target[b, :, i, j].numpy()) ** 2).mean())
                total, weights, plain = (
                    total + float(inside[b, i, j]) * error,
                    weights + float(inside[b, i, j]),
                    plain + error,
                )
    assert float(map_loss(logits, target, inside)) == pytest.approx(total / weights, rel=1e-9)
    assert float(map_loss(logits, target)) == pytest.approx(plain / 40, rel=1e-9)


def test_logits_are_grown_before_the_softmax() -> None:
    logits = torch.randn(1, 3, 2, 3, dtype=torch.float64) * 4
    target = torch.rand(1, 3, 5, 7, dtype=torch.float64)
    grow = lambda x: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True)  # noqa: E731
    expected = ((grow(logits).softmax(1) - target) ** 2).mean()
    assert float(map_loss(logits, target)) == pytest.approx(float(expected), rel=1e-12)
    assert abs(float(((grow(logits.softmax(1)) - target) ** 2).mean() - expected)) > 1e-4


# --- the student ------------------------------------------------------------------------------------------------


def batch_with_maps(rows: int = 8, columns: int = 12) -> Batch:
    batch = batch_of()
    random = torch.Generator().manual_seed(5)
    return replace(batch, maps=torch.rand(3, 4, rows, columns, generator=random) * batch.labels[:, :, None, None])


def student(background: float = 0.2, **change: object) -> Student:
    torch.manual_seed(0)
    return Student(ClassMapNet(small_backbone(), 4), replace(SMAF, **change), background)


def loss_of(student: Student, batch: Batch, progress: float = 0.5) -> float:
    torch.manual_seed(0)
    return float(student.losses(batch, progress)["maps"].detach())


def test_a_student_learns_its_maps() -> None:
    learner, batch = student().train(), batch_with_maps()
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
    found = []
    for _ in range(6):
        losses = learner.losses(batch, 0.0)
        assert list(losses) == ["maps"]
        found.append(float(losses.total().detach()))
        optimizer.zero_grad()
        losses.total().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
    assert found[-1] < found[0]
    reached = {n for n, p in learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("backbone." in n for n in reached) and any("head." in n for n in reached)
    assert batch.maps is not None and not batch.maps.requires_grad


def test_a_students_loss_is_the_step_times_its_weight() -> None:
    learner, batch = student().eval(), batch_with_maps()
    assert batch.maps is not None
    with torch.no_grad():
        step = map_loss(learner.network.logits(batch), reactivated(batch.maps, batch.labels, 0.2))
    assert loss_of(learner, batch) == pytest.approx(100 * float(step), rel=1e-5)
    assert loss_of(student(weight=3.0).eval(), batch) == pytest.approx(3 * float(step), rel=1e-5)
    with torch.no_grad():
        sharp = reactivated(batch.maps, batch.labels, 0.2) ** 4
        step = map_loss(learner.network.logits(batch), sharp)
    assert loss_of(student(sharpness=4.0).eval(), batch) == pytest.approx(100 * float(step), rel=1e-5)
    untagged = replace(batch, maps=torch.ones_like(batch.maps) * 0.9)
    gated = replace(batch, maps=untagged.maps * batch.labels[:, :, None, None])
    assert loss_of(learner, untagged) == loss_of(learner, gated)  # the tags gate


def test_padding_is_background_or_left_out() -> None:
    batch = batch_with_maps()
    assert batch.maps is not None
    valid = batch.valid.clone()
    valid[:, :, 24:] = False
    maps = batch.maps.clone()
    maps[..., 6:] = 0
    padded = replace(batch, valid=valid, maps=maps)
    noise = replace(padded, maps=torch.cat([maps[..., :6], batch.maps[..., 6:]], 3))
    out = student(padding="left-out").eval()
    assert loss_of(out, padded) == pytest.approx(loss_of(out, noise))  # what stands on padding does not matter
    inside = student().eval()
    assert abs(loss_of(inside, padded) - loss_of(inside, noise)) > 1e-3
    with torch.no_grad():
        logits = inside.network.logits(batch)
    target = reactivated(maps, batch.labels, 0.2)
    assert torch.equal(target[..., 6:].argmax(1), torch.full((3, 8, 6), 4))  # background, exactly 1
    by_hand = float(((F.interpolate(logits, (8, 12), mode="bilinear", align_corners=True).softmax(1) - target) ** 2)[
        ..., :6].mean())  # fmt: skip
    assert loss_of(out, padded) == pytest.approx(100 * by_hand, rel=1e-4)


def test_saliency_denoises() -> None:
    batch = batch_with_maps()
    assert batch.maps is not None and batch.saliency is not None
    learner = student(denoise=("saliency",)).eval()
    shown = F.interpolate(batch.saliency[:, None], (8, 12), mode="bilinear", align_corners=False) > 0.5
    assert 0 < shown.float().mean() < 1
    assert loss_of(learner, batch) == pytest.approx(loss_of(student().eval(), replace(batch, maps=batch.maps * shown)))
    assert loss_of(learner, batch) != loss_of(student().eval(), batch)
    with pytest.raises(InputError, match="needs saliency maps and this batch has none"):
        learner.losses(replace(batch, saliency=None), 0.0)


def test_classification_is_a_switch() -> None:
    losses = student(classification=2.0).eval().losses(batch_with_maps(), 0.0)
    assert set(losses) == {"maps", "classification"} and losses["classification"] > 0


def test_prototypes_are_running_means() -> None:
    random = torch.Generator().manual_seed(0)
    prototypes, shown = torch.zeros(2, 3), torch.zeros(2)
    means: list[Tensor] = []
    for _ in range(4):
        features = torch.rand(1, 3, 6, 7, generator=random)
        target = torch.zeros(1, 3, 6, 7)
        target[:, 0, :3], target[:, 2, 3:] = 1, 1
        target[:, 1, 5, : PROTOTYPE_CELLS - 4] = 2  # six cells say too little
        means.append(features[0, :, :3].mean((1, 2)))
        learn_prototypes(prototypes, shown, features, target)
    torch.testing.assert_close(prototypes[0], torch.stack(means).mean(0))
    assert shown.tolist() == [4, 0] and prototypes[1].abs().sum() == 0
    shown[0] = 1e6
    before = prototypes[0].clone()
    learn_prototypes(prototypes, shown, features, target)
    torch.testing.assert_close(prototypes[0], before + 1e-4 * (means[-1] - before))


def test_likeness_by_hand() -> None:
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    found = likeness(features, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    assert found.flatten().tolist() == pytest.approx([0.6, 0.0, 0.8, 0.0])


def test_prototypes_denoise_once_they_know_a_class() -> None:
    batch = batch_with_maps()
    learner = student(denoise=("prototype",)).train()
    first = loss_of(learner, batch)
    plain = loss_of(student().train(), batch)
    assert first == pytest.approx(plain)  # nothing is known yet
    shown: Tensor = learner.shown  # type: ignore[assignment]
    assert shown.sum() > 0
    assert loss_of(learner, batch) != pytest.approx(plain)
    known = shown.clone()
    learner.eval()
    loss_of(learner, batch)
    assert torch.equal(shown, known)  # looking teaches nothing
    assert {"prototypes", "shown"} <= set(learner.state_dict())  # a checkpoint has them


def test_the_average_follows_and_takes_over() -> None:
    learner, batch = student(teacher="ema", decay=0.9).train(), batch_with_maps()
    assert learner.average is not None and not learner.average.training
    name, weight = next(iter(learner.network.named_parameters()))
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    follow(learner.average, learner.network, 0.9)
    torch.testing.assert_close(dict(learner.average.named_parameters())[name], start + 0.1)
    learner = student(teacher="ema").eval()
    plain = student().eval()
    assert loss_of(learner, batch, 0.0) == pytest.approx(loss_of(plain, batch))  # at first the stored maps
    assert loss_of(learner, batch, 1.0) != pytest.approx(loss_of(plain, batch))
    assert batch.maps is not None and learner.average is not None
    with torch.no_grad():
        moved = learner._moving(batch.maps, batch, 1.0)
    torch.testing.assert_close(moved.amax((2, 3)), batch.maps.amax((2, 3)))  # each class as strong as it was stored
    absent = replace(batch, maps=batch.maps * 0)
    with torch.no_grad():
        assert learner._moving(absent.maps, absent, 1.0).abs().max() == 0  # type: ignore[arg-type]
    got = [n for n, p in learner.named_parameters() if p.requires_grad and n.startswith("average")]
    assert not got


def test_students_of_every_method() -> None:
    cam = Cam(small_backbone(), 4)
    new = student_of(cam, cam.backbone, 4)
    assert type(new) is ClassMapNet and new.backbone is cam.backbone and new.form == "linear"
    for head in ("linear", "feature"):
        eps = Eps(small_backbone(), 4, EpsSettings(head=head, channels=8)).eval()  # type: ignore[arg-type]
        own = student_of(eps, eps.backbone, 4).eval()
        images = Photos(batch_of().images)
        assert type(own) is ClassMapNet and list(own.state_dict()) == list(eps.state_dict())
        with torch.no_grad():
            assert torch.equal(own.logits(images), eps.logits(images))  # EPS goes on where it stands
        assert student_of(own, own.backbone, 4) is own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "smag"}, r"unknown value of --self-train\.name 'smag': did you mean smaf"),
        ({"rounds": 0}, r"--self-train\.rounds is 0: it must be at least 1"),
        ({"background": 1.0}, r"--self-train\.background is 1: it must be above 0 and below 1$"),
        ({"denoise": ("salience",)}, r"unknown value of --self-train\.denoise 'salience': did you mean saliency"),
        ({"denoise": ("prototype", "prototype")}, r"--self-train\.denoise prototype,prototype names one twice"),
        ({"decay": 1.0}, r"--self-train\.decay is 1: it must be at least 0 and below 1$"),
        ({"weight": 0.0}, r"--self-train\.weight is 0: it must be above 0$"),
        ({"sharpness": 0.0}, r"--self-train\.sharpness is 0: it must be above 0$"),
        ({"classification": -1.0}, r"--self-train\.classification is -1: it must be at least 0"),
        ({"stride": 0}, r"--self-train\.stride is 0: it must be at least 1"),
        ({"padding": "black"}, r"unknown value of --self-train\.padding 'black'"),
        ({"jitter": float("nan")}, r"--self-train\.jitter is nan"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelfTrainSettings(**change)  # type: ignore[arg-type]


# --- maps under the geometry of the photo -----------------------------------------------------------------------


def test_maps_move_with_the_photo(tmp_path: Path) -> None:
    """A photo whose red and blue are its two maps: they agree in every view, scaled, mirrored, cut, padded."""
    rows, columns = np.mgrid[:80, :120]
    red, blue = rows / 80, columns / 120
    Image.fromarray((255 * np.stack([red, red * 0, blue], 2)).astype(np.uint8)).save(tmp_path / "p.png")
    scores = np.stack([red, blue]).astype(np.float16)[:, 2::5, 2::5]  # at feature stride
    photos = [Sample("p", tmp_path / "p.png", frozenset({0, 3})), Sample("q", tmp_path / "p.png", frozenset({3}))]
    data = Dataset("d", ("a", "b", "c", "d"), photos)

    def maps_of(s: Sample) -> LocalizationMaps:
        return LocalizationMaps(s.id, tuple(sorted(s.labels or ())), scores if s.id == "p" else scores[1:], (80, 120))

    source = TaggedImages(data, AugmentSettings(size=64, jitter=0), ((0.0,) * 3, (1.0,) * 3), 0, maps_of=maps_of)
    for epoch in range(10):
        batch = source.collate([source.item(epoch, 0), source.item(epoch, 1)]).to(torch.device("cpu"))
        assert batch.maps is not None and batch.maps.shape == (2, 4, 16, 16)
        assert batch.maps[:, 1:3].abs().sum() == 0 and batch.maps[1, 0].abs().sum() == 0
        small = F.interpolate(batch.images, (16, 16), mode="bilinear", align_corners=True)
        deep = F.avg_pool2d(batch.valid.float(), 17, 1, 8)[:, None]
        deep = F.interpolate(deep, (16, 16), mode="bilinear", align_corners=True)[:, 0] > 0.999
        assert deep.any()
        assert (batch.maps[:, 3] - small[:, 2])[deep].abs().max() < 0.06
        assert (batch.maps[0, 0] - small[0, 0])[deep[0]].abs().max() < 0.06
        away = F.max_pool2d(batch.valid[:, None].float(), 9, 1, 4)[:, 0] == 0
        away = away[:, 2::4, 2::4]
        assert batch.maps.sum(1)[away].abs().sum() == 0
    other = replace(photos[0], labels=frozenset({1}))
    with pytest.raises(InputError, match="other tags than the photo has now: delete their folder"):
        TaggedImages(
            data.with_samples([other]), AugmentSettings(size=64), ((0.0,) * 3, (1.0,) * 3), 0,
            maps_of=lambda s: maps_of(photos[0]),
        ).item(0, 0)  # fmt: skip


def test_maps_with_stored_features_and_photos_without_tags() -> None:
    scores = np.linspace(0, 1, 8, dtype=np.float16)[None, None].repeat(5, 1)  # grows to the right
    photos = [Sample("p", Path("p"), frozenset({1})), Sample("q", Path("q"), frozenset())]
    data = Dataset("d", ("a", "b"), photos)
    maps_of = lambda s: LocalizationMaps(s.id, tuple(sorted(s.labels)), scores[: len(s.labels)], (40, 64))  # noqa: E731
    source = StoredFeatures(
        data, lambda s, flip: torch.full((2, 5, 8), float(flip)), [(5, 8)] * 2, 0, None, 2, maps_of=maps_of
    )
    seen = set()
    for epoch in range(10):
        batch = source.collate([source.item(epoch, 0), source.item(epoch, 1)])
        assert isinstance(batch, Batch) and batch.stored and batch.maps is not None
        assert batch.maps.shape == (2, 2, 10, 16) and batch.maps[:, 0].abs().sum() == batch.maps[1].abs().sum() == 0
        flipped = bool(batch.images[0, 0, 0, 0])
        assert flipped == bool(batch.maps[0, 1, 0, 0] > batch.maps[0, 1, 0, -1])
        seen.add(flipped)
    assert seen == {False, True}


# --- training on from a checkpoint ------------------------------------------------------------------------------


class OneBatch:
    """A source of the same maps in every epoch."""

    def __init__(self) -> None:
        self.batch = batch_with_maps()

    def __len__(self) -> int:
        return 3

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> int:
        return index

    def collate(self, items: list[int]) -> Batch:
        b, i = self.batch, torch.tensor(items)
        assert b.maps is not None
        return Batch(tuple(b.ids[k] for k in items), b.images[i], b.labels[i], b.valid[i], maps=b.maps[i])


@pytest.mark.slow
def test_an_interrupted_student_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the average and the prototypes, which are state too."""
    train = replace(recipe("default").student_train, epochs=2.0, batch_size=2, precision="float32",
                    checkpoint_minutes=0.0)  # fmt: skip

    def learner() -> Student:
        return student(teacher="ema", denoise=("prototype",), decay=0.5)

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    fit(learner(), OneBatch(), train, tmp_path / "whole", seed=0, title="t")
    steps = 0
    plain = Student.losses

    def stops(self: Student, batch: Batch, progress: float) -> object:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return plain(self, batch, progress)

    monkeypatch.setattr(Student, "losses", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(learner(), OneBatch(), train, tmp_path / "cut", seed=0, title="t")
    monkeypatch.setattr(Student, "losses", plain)
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    fit(learner(), OneBatch(), train, tmp_path / "cut", seed=0, title="t")
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


# --- CRF on labels, several scales, the segmenter's own backbone ------------------------------------------------


def test_crf_on_labels_is_the_published_call() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (12, 17, 3)).astype(np.uint8)
    scores = torch.from_numpy(random.random((3, 12, 17)).astype(np.float32))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    found = refiner("crf/labels").refine(pixels, scores[None])[0]
    expected = dense_crf_from_labels(image, scores.argmax(0).to(torch.uint8).numpy(), 21, gt_prob=0.7, preset="irn")
    np.testing.assert_array_equal(found.argmax(0).numpy(), expected[:3].argmax(0))
    assert torch.allclose(found.sum(0), torch.ones(12, 17), atol=1e-5)
    flat = scores / 7  # how sure the scores are does not matter, only which is best
    torch.testing.assert_close(refiner("crf/labels").refine(pixels, flat[None])[0], found)
    many = torch.rand(1, 30, 12, 17)
    assert LabelCrf().refine(pixels, many).shape == many.shape
    with pytest.raises(InputError, match="give"):
        LabelCrf().refine(pixels[0], scores[None])


SMALL_NET = BackboneSettings("resnet10t", weights="none", output_stride=8)


def test_the_largest_logit_of_the_scales_wins_and_each_is_taught() -> None:
    torch.manual_seed(0)
    s = SegmenterSettings("deeplab-v2", presence=False, pyramid=(0.5, 0.75))
    model = build_segmenter(s, build(SMALL_NET), 2, SMALL_NET).eval()
    assert isinstance(model, Pyramid) and isinstance(model.segmenter, DeepLab)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        shrink = lambda f: F.interpolate(images, scale_factor=f, mode="bilinear", align_corners=False)  # noqa: E731
        looks = [model.segmenter.segment(Photos(x)) for x in (images, shrink(0.5), shrink(0.75))]
        grown = [F.interpolate(x, (8, 12), mode="bilinear", align_corners=False) for x in looks]
        found = model.segment(Photos(images))
        torch.testing.assert_close(found, torch.maximum(torch.maximum(*grown[:2]), grown[2]))
        masks = torch.randint(0, 3, (2, 64, 96))
        masks[:, :10] = 255
        valid = torch.ones(2, 64, 96, dtype=torch.bool)
        losses = SegmenterTask(model).losses(MaskedBatch(("a", "b"), images, masks, torch.ones(2, 2), valid), 0.0)
        assert list(losses) == [f"segmentation_{n}" for n in ("1.0", "0.5", "0.75", "max")]
        for name, logits in zip(losses, [*looks, found], strict=True):
            rows, columns = logits.shape[2:]
            near = masks[:, ((torch.arange(rows) + 0.5) * 64 / rows).long()]
            near = near[:, :, ((torch.arange(columns) + 0.5) * 96 / columns).long()]
            assert float(losses[name]) == pytest.approx(
                float(F.cross_entropy(logits, near, ignore_index=255)), rel=1e-5
            )
    with pytest.raises(InputError, match=r"--segmenter\.pyramid needs features of other scales"):
        frozen = build(replace(SMALL_NET, freeze=True))
        build_segmenter(s, frozen, 2, SMALL_NET)
    with pytest.raises(InputError, match=r"--segmenter\.pyramid is 0: it must be above 0"):
        SegmenterSettings(pyramid=(0.0,))


# --- whole runs -------------------------------------------------------------------------------------------------

STUDENTS = [
    "--self-train", "smaf", "--student-train.epochs", "1", "--student-train.batch-size", "4",
    "--student-train.precision", "float32", "--relabel.rounds", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def two_rounds(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "run"
    flags = [*SMALL, *STUDENTS, "--self-train.rounds", "2", "--propagate", "features", "--refine", "none"]
    assert run("train", world, "--out", out, *flags) == 0
    return out


@pytest.mark.slow
def test_students_on_top_of_cam_without_saliency(two_rounds: Path) -> None:
    for name in ("self-method-1", "self-method-2"):
        said = manifest(two_rounds, name)
        assert 0 < said["background"] < 1 and said["count"] == 9
        assert (two_rounds / name / "model.safetensors").exists() and (two_rounds / name / "log.jsonl").exists()
    made = [read_maps(two_rounds / name / "photo02.npz", "photo02") for name in ("maps", "self-maps-1", "self-maps-2")]
    assert all(m.classes == (0, 1) and m.scores.dtype == np.float16 for m in made)
    assert not np.array_equal(made[1].scores, made[0].scores) and not np.array_equal(made[2].scores, made[1].scores)
    scores = json.loads((two_rounds / "scores" / "scores.json").read_text())
    assert set(scores) == {"tags", "maps", "self-maps-1", "self-maps-2", "propagated", "masks", "sweep", "predictions"}
    page = (two_rounds / "report.html").read_text()
    assert "Maps after self-training, round 2" in page and "rounds: 2; it sees no truth" in page
    # students of maps without saliency cleaning score background, and that sets the threshold
    assert manifest(two_rounds, "masks")["threshold_from"].startswith("by the method")
    reads = lambda name: made_of(two_rounds, name)["reads"]  # noqa: E731
    assert set(reads("self-method-1")) == {"method", "maps"}
    assert set(reads("self-method-2")) == {"self-method-1", "self-maps-1"}
    assert set(reads("propagated")) == {"self-maps-2", "self-method-2"}  # later stages read the last of them
    assert set(reads("segmenter")) == {"masks", "self-method-2"}  # and start from it


def test_the_report_says_what_was_chosen_on_truth(two_rounds: Path) -> None:
    work = reopen(Run(two_rounds, existing=True))
    of_defects = ("compared with", "finer block", "refined masks may be", "rare labels")  # chosen for tiles, too
    chosen = lambda: [  # noqa: E731
        line for line in supervision(work) if "chosen on VOC" in line and not any(part in line for part in of_defects)
    ]
    said = ("sharp the targets", "label-free rule", "random walk stops", "rare classes", "default segmenter")
    assert len(chosen()) == len(said) and all(part in line for part, line in zip(said, chosen(), strict=True))
    given = replace(work.settings.self_train, sharpness=2.0)
    work.settings = replace(work.settings, self_train=given, propagate="psa", refine="crf")
    said = ("label-free rule", "dense CRF", "rare classes", "default segmenter")
    assert len(chosen()) == len(said) and all(part in line for part, line in zip(said, chosen(), strict=True))


@pytest.mark.slow
def test_rounds_and_settings_redo_only_what_they_must(two_rounds: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(two_rounds, out)
    flags = [*SMALL, *STUDENTS, "--propagate", "features", "--refine", "none"]
    before, started = keys(out), time.time()
    default = ("--self-train.sharpness", "4")  # written out, which is no other setting
    assert run("label", world, "--out", out, *flags, "--self-train.rounds", "1", *default) == 0
    after = keys(out)
    assert after["self-method-1"] == before["self-method-1"] and after["self-maps-1"] == before["self-maps-1"]
    assert after["propagated"] != before["propagated"]
    assert run("label", world, "--out", out, *SMALL, "--relabel.rounds", "0", "--refine", "none") == 0  # no students
    final = keys(out)
    assert final["maps"] == before["maps"] and final["method"] == before["method"]
    described = json.loads((out / "run.json").read_text())["settings"]["self_train"]
    assert described["name"] == "none"
    assert "self-method-1" not in final  # what is not of this plan is kept aside
    assert run("train", world, "--out", out, *flags, "--self-train.rounds", "2") == 0  # and taken back
    assert keys(out) == before
    for name in ("self-method-1", "self-method-2", "segmenter"):
        model, original = (folder / name / "model.safetensors" for folder in (out, two_rounds))
        assert model.stat().st_mtime < started and model.read_bytes() == original.read_bytes()


def test_a_report_of_a_run_with_students_can_be_written_again(two_rounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(two_rounds, out)
    (out / "report.html").unlink()
    assert run("report", out) == 0 and "round 2" in (out / "report.html").read_text()


@pytest.mark.slow
def test_missing_and_damaged_maps_are_made_anew_before_a_student_learns_from_them(
    two_rounds: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(two_rounds, out)
    path, whole = out / "maps" / "photo03.npz", (two_rounds / "maps" / "photo03.npz").read_bytes()
    path.unlink()
    again = ["label", world, "--out", out, *SMALL, *STUDENTS, "--student-train.learning-rate"]
    assert run(*again, "1e-4") == 0
    assert "maps by cam: missing or damaged: photo03, made anew" in capsys.readouterr().err
    assert path.read_bytes() == whole
    path.write_bytes(b"PK")  # it is there, and nobody knows yet that it cannot be read
    assert run(*again, "2e-4") == 0
    said = capsys.readouterr().err
    assert "maps/photo03.npz is damaged or gone: it is made anew" in said and "Traceback" not in said
    assert path.read_bytes() == whole
    reference = tmp_path / "reference"
    shutil.copytree(two_rounds, reference)
    assert run("label", world, "--out", reference, *SMALL, *STUDENTS, "--student-train.learning-rate", "2e-4") == 0
    for name in ("self-method-1/model.safetensors", "self-maps-1/photo03.npz", "masks/photo03.png"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name


def test_the_whole_of_smaf_small(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """EPS with features, its students with every option, CRF on labels; and what is asked without saliency."""
    data = with_saliency(world, tmp_path / "data")
    flags = [*SMALL, *STUDENTS, "--method", "eps", "--eps.head", "feature", "--eps.channels", "8",
             "--self-train.denoise", "prototype,saliency", "--self-train.teacher", "ema",
             "--self-train.padding", "left-out", "--self-train.classification", "0.1", "--self-train.background", "0.2",
             "--background", "constant", "--threshold", "0.2", "--refine", "crf/labels"]  # fmt: skip
    assert run("label", data, "--out", tmp_path / "run", *flags) == 0
    assert manifest(tmp_path / "run", "self-method-1")["background"] == 0.2
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "run" / "self-method-1" / "model.safetensors")
    trained = load_file(tmp_path / "run" / "method" / "model.safetensors")
    assert list(kept) == list(trained) and any("cov_feat" in n for n in kept)  # the network alone
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    said = fails(capsys, "label", world, "--out", tmp_path / "b", *SMALL, *STUDENTS, "--self-train.denoise", "saliency")
    assert "--self-train.denoise saliency needs a saliency map for every photo" in said and "leave it out" in said


OTHERS = [name for name in METHODS if name not in ("cam", "text")]  # text needs its towers' own network: test_text


@pytest.mark.parametrize("name", ["cam", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_the_maps_of_every_method_teach(name: str, world: Path, tmp_path: Path) -> None:
    data = with_saliency(world, tmp_path / "data") if METHODS[name].settings().traits.saliency else world
    flags = [*SMALL, *STUDENTS, "--method", name, "--refine", "none"]
    assert run("label", data, "--out", tmp_path / "run", *flags) == 0
    assert len(list((tmp_path / "run" / "self-maps-1").glob("*.npz"))) == 9


@pytest.mark.slow
def test_a_student_is_taught_by_the_rule_of_the_masks(world: Path, tmp_path: Path) -> None:
    """MCIS without references has another rule than with: a setting of inference, which no student sees."""
    out = tmp_path / "run"
    flags = (*SMALL, *STUDENTS, "--method", "mcis", "--mcis.references", "0", "--refine", "none")
    assert run("label", world, "--out", out, *flags) == 0
    maps = [read_maps(path, path.stem) for path in sorted((out / "maps").glob("*.npz"))]
    by_rule = {rule: round(threshold_of(maps, rule), 4) for rule in ("auto", "otsu")}
    assert manifest(out, "self-method-1")["background"] == by_rule["auto"] != by_rule["otsu"]
    assert made_of(out, "self-method-1")["constants"]["threshold rule"] == "auto"


@pytest.mark.slow
def test_students_are_drawn_towards_the_pretrained_weights(world: Path, tmp_path: Path) -> None:
    """Where that is asked for; the keys of other students know nothing of it."""
    from safetensors.torch import load_file

    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), weights)
    pretrained = build(BackboneSettings("resnet10t", str(weights)))
    flags = (*SMALL, *STUDENTS, "--weights", weights, "--refine", "none", "--student-train.learning-rate", "1e-3")

    def learnt(decay: str) -> tuple[list[str], float]:
        """The facts that the student declares; how far it is from the pretrained weights."""
        out = tmp_path / "run"
        assert run("label", world, "--out", out, *flags, "--student-train.start-decay", decay) == 0
        own = load_file(out / "self-method-1" / "model.safetensors")
        moved = [
            float((own[f"backbone.{name}"] - w).detach().square().sum()) for name, w in pretrained.named_parameters()
        ]
        return sorted(made_of(out, "self-method-1")["facts"]), sum(moved) ** 0.5

    (facts, free), (facts_near, near) = learnt("0"), learnt("900")
    assert facts == ["photos", "tags"] and facts_near == [*facts, "weights"]
    assert 0 < near < 0.8 * free


@pytest.mark.slow
def test_students_of_ppl_on_stored_features(world: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *STUDENTS, "--method", "ppl", "--freeze-until", "layer2", "--features.folder", tmp_path / "f",
             "--refine", "none"]  # fmt: skip
    assert run("label", world, "--out", tmp_path / "run", *flags) == 0
    assert len(list((tmp_path / "run" / "self-maps-1").glob("*.npz"))) == 9


@pytest.mark.slow
def test_a_segmenter_with_a_backbone_of_its_own(world: Path, tmp_path: Path) -> None:
    """Another architecture and several scales; weights stay random here, since the hub is out of reach."""
    flags = [*SMALL, "--relabel.rounds", "0", "--refine", "none", "--segmenter", "deeplab-v2", "--segmenter.backbone",
             "resnet14t", "--segmenter.weights", "none", "--segmenter.pyramid", "0.5", "--segmenter.no-presence",
             "--segmenter.output-stride", "8"]  # fmt: skip
    assert run("train", world, "--out", tmp_path / "run", *flags) == 0
    assert "method" not in made_of(tmp_path / "run", "segmenter")["reads"]
    assert run("predict", tmp_path / "run", world / "images", "--out", tmp_path / "masks") == 0
    for path in (tmp_path / "run" / "predictions").glob("*.png"):
        assert (tmp_path / "masks" / path.name).read_bytes() == path.read_bytes()


def test_flags_reach_the_settings(world: Path) -> None:
    _, _, found = parse_run(
        [str(world), "--out", "x", "--self-train", "smaf", "--self-train.rounds", "3", "--self-train.denoise",
         "prototype,saliency", "--student-train.epochs", "2"], "label")  # fmt: skip
    assert found.self_train == SelfTrainSettings("smaf", 3, denoise=("prototype", "saliency"))
    assert found.student_train.epochs == 2 and found.self_train.students == 3
    _, _, plain = parse_run([str(world), "--out", "x"], "label")
    assert plain.self_train.students == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("where", ["self-method-1/checkpoint.safetensors", "self-maps-1/.stage/key.json"])
def test_an_interruption_of_self_training_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, how: signal.Signals, where: str
) -> None:
    data = make(tmp_path / "data")

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tag2mask", "label", str(data), "--out", str(out), *SMALL, *STUDENTS,
                   "--student-train.checkpoint-minutes", "0", "--student-train.epochs", "4"]  # fmt: skip
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})

    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=300) and whole.returncode == 0
    cut = tmp_path / "cut"
    process = start(cut)
    deadline = time.monotonic() + 200
    while not (cut / where).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(how)
    process.communicate(timeout=60)
    process = start(cut)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    paths = [tmp_path / "whole" / "self-method-1" / "model.safetensors", *(tmp_path / "whole" / "masks").glob("*.png")]
    for path in paths:
        assert path.read_bytes() == (cut / path.relative_to(tmp_path / "whole")).read_bytes(), path


def test_vits_have_students_too() -> None:
    backbone: Backbone = build(BackboneSettings("vit_tiny_patch16_224", weights="none"))
    learner = Student(ClassMapNet(backbone, 4), SMAF, 0.2).train()
    losses = learner.losses(batch_with_maps(), 0.0)
    assert math.isfinite(losses.total().item())
