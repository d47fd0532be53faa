"""Learnt affinities: losses against loops, confident regions by hand, networks that learn a boundary, the stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask import backbones, propagation
from tag2mask.backbones import BackboneSettings
from tag2mask.errors import InputError
from tag2mask.localize import LocalizeSettings
from tag2mask.propagation import (
    PROPAGATIONS,
    AffinityNet,
    PropagationSettings,
    confident_labels,
    depths,
    of_colours,
    of_features,
    pair_losses,
    propagate,
)
from tag2mask.refine import neighbours
from tag2mask.types import LocalizationMaps, MaskedBatch
from world import SMALL, make, redone, run, stamps

SMALL_NET = BackboneSettings("resnet10t", weights="none")


LEARNT = [name for name, way in PROPAGATIONS.items() if way.network == "trained"]


def test_ways_have_names_and_lines() -> None:
    assert propagation.propagation("none") is None
    for name, way in PROPAGATIONS.items():
        assert propagation.propagation(name) is way and way.line and "\n" not in way.line
    for wrong in ("colour", "irn,crf", "", "crf"):
        with pytest.raises(InputError, match="unknown propagation"):
            propagation.propagation(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"foreground": 0.05, "background": 0.3},
        {"background": 0.0},
        {"radius": 0},
        {"radius": 4, "walk_radius": 5},
        {"beta": 0.0},
        {"steps": -1},
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(change: dict[str, float]) -> None:
    with pytest.raises(InputError) as found:
        PropagationSettings(**change)  # type: ignore[arg-type]
    assert "\n" not in str(found.value) and next(iter(change)).replace("_", "-") in str(found.value)


def test_pair_losses_are_their_sums_over_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    rows, columns, near = 5, 7, neighbours.offsets(3)
    values = torch.rand(2, len(near), rows, columns, generator=random) * 0.9 + 0.05
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, rows, columns), generator=random)]
    costs: dict[str, list[float]] = {"background": [], "foreground": [], "boundary": []}
    for b in range(2):
        for k, (dy, dx) in enumerate(near):
            for y in range(rows):
                for x in range(columns):
                    if not (y + dy < rows and 0 <= x + dx < columns):
                        continue
                    own, other = int(labels[b, y, x]), int(labels[b, y + dy, x + dx])
                    if 255 in (own, other):
                        continue
                    a = float(values[b, k, y, x])
                    if own != other:
                        costs["boundary"].append(-np.log(1 - a + 1e-5))
                    else:
                        costs["background" if own == 0 else "foreground"].append(-np.log(a + 1e-5))
    found = pair_losses(values, labels, near)
    for name, weight in (("background", 4), ("foreground", 4), ("boundary", 2)):
        assert float(found[name]) == pytest.approx(np.mean(costs[name]) / weight, rel=1e-5), name


def test_pairs_nobody_knows_cost_nothing() -> None:
    near = neighbours.offsets(3)
    values = torch.rand(1, len(near), 4, 5, requires_grad=True)
    total = pair_losses(values, torch.full((1, 4, 5), 255), near).total()
    total.backward()
    assert float(total.detach()) == 0 and values.grad is not None and bool((values.grad == 0).all())


def blob() -> tuple[LocalizationMaps, np.ndarray]:
    """A photo with a red square in a green one, and a map that is sure of the red, unsure of the green, zero beyond."""
    image = np.full((48, 64, 3), 90, np.uint8)
    image[12:36, 20:44] = (40, 180, 40)
    image[18:30, 26:38] = (220, 40, 40)
    scores = np.zeros((1, 48, 64), np.float16)
    scores[0, 12:36, 20:44] = 0.2  # between the two thresholds
    scores[0, 18:30, 26:38] = 0.9
    return LocalizationMaps("x", (3,), scores, (48, 64)), image


def test_confident_regions_are_sure_inside_sure_outside_and_open_between() -> None:
    maps, image = blob()
    labels = confident_labels(maps, image, PropagationSettings())
    assert labels.shape == (48, 64) and set(np.unique(labels)) <= {0, 4, 255}
    assert (labels[20:28, 28:36] == 4).all() and (labels[:6] == 0).all() and (labels[:, :10] == 0).all()
    assert (labels[12:36, 20:44] != 0).all()  # what the loose threshold calls object is never sure background


def test_a_photo_without_tags_is_all_background() -> None:
    maps = LocalizationMaps("x", (), np.zeros((0, 6, 8), np.float16), (12, 16))
    assert (confident_labels(maps, np.zeros((12, 16, 3), np.uint8), PropagationSettings()) == 0).all()


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("kind", LEARNT)
def test_affinities_of_any_backbone_cover_the_grid(name: str, kind: str) -> None:
    backbone = backbones.build(BackboneSettings(name, weights="none"))
    net = AffinityNet(backbone, kind, PropagationSettings(channels=8)).eval()
    assert net.names == depths(backbone) and net.names[-1] == backbone.names[-1] and len(net.names) <= 5
    with torch.no_grad():
        found = net.affinity(torch.randn(2, 3, 64, 96), 5)
    assert found.shape == (2, 34, 16, 24)
    assert float(found.amin()) >= 0 and float(found.amax()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNT)
def test_a_network_learns_where_the_edge_is(kind: str) -> None:
    """Left half background, right half object, known but for a strip: the affinity across ends below those within."""
    torch.manual_seed(0)
    settings = PropagationSettings(radius=4, walk_radius=3, channels=8, learn_backbone=True, pairs=0)
    net = AffinityNet(backbones.build(SMALL_NET), kind, settings).train()
    images = torch.full((2, 3, 64, 64), -1.0)
    images[..., 32:] = 1.0
    images += 0.1 * torch.randn(images.shape)
    masks = torch.zeros(2, 64, 64, dtype=torch.int64)
    masks[..., 32:] = 2
    masks[..., 30:34] = 255
    batch = MaskedBatch(("a", "b"), images, masks, torch.ones(2, 2), torch.ones(2, 64, 64, dtype=torch.bool))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        total = net.losses(batch, 0.5).total()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])
    with torch.no_grad():
        found = net.eval().affinity(images, 3)
    across, beside = neighbours.offsets(3).index((0, 2)), slice(2, 14)
    assert float(found[:, across, beside, 7].mean()) < 0.7 * float(found[:, across, beside, 2:5].mean())


def test_only_the_new_layers_learn_unless_asked() -> None:
    backbone = backbones.build(SMALL_NET)
    frozen = AffinityNet(backbone, "irn", PropagationSettings(channels=8)).train()
    assert not any(p.requires_grad for p in frozen.backbone.parameters()) and not frozen.backbone.training
    assert all(p.requires_grad for p in (*frozen.sides.parameters(), *frozen.join.parameters()))
    learns = AffinityNet(backbones.build(SMALL_NET), "irn", PropagationSettings(channels=8, learn_backbone=True))
    assert all(p.requires_grad for p in learns.backbone.parameters())


def test_drawn_pairs_give_the_loss_of_all_on_average() -> None:
    torch.manual_seed(0)
    backbone = backbones.build(SMALL_NET)
    every = AffinityNet(backbone, "irn", PropagationSettings(channels=8, radius=4, walk_radius=3, pairs=0)).eval()
    some = AffinityNet(backbone, "irn", PropagationSettings(channels=8, radius=4, walk_radius=3, pairs=6)).eval()
    some.load_state_dict(every.state_dict())
    masks = torch.randint(0, 3, (1, 64, 64))
    batch = MaskedBatch(("a",), torch.randn(1, 3, 64, 64), masks, torch.ones(1, 2), torch.ones(1, 64, 64) > 0)
    with torch.no_grad():
        expected = float(every.losses(batch, 0.0).total())
        drawn = [float(some.losses(batch, 0.0).total()) for _ in range(200)]
    assert np.std(drawn) > 0 and np.mean(drawn) == pytest.approx(expected, rel=0.05)


def test_a_frozen_trunk_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make(tmp_path / "data", train=3, val=0)
    assert run("label", data, "--out", tmp_path / "run", *SMALL, "--freeze", "--propagate", "irn") == 2
    assert "leave out --freeze" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_propagated_maps_are_normalised_and_keep_their_classes() -> None:
    maps, image = blob()
    settings = PropagationSettings(stride=4, steps=64, sigma=0.1)
    colours = of_colours(None, image, LocalizeSettings(long_side=64), settings)
    found = propagate(maps, colours, settings)
    assert found.classes == maps.classes and found.size == maps.size and found.scores.shape == (1, 12, 16)
    assert float(found.scores.max()) == pytest.approx(1, abs=2e-3) and float(found.scores.min()) >= 0
    # the evidence in the middle stays within its colour: cells of the red square against all that are not
    assert float(found.scores[0, 5:7, 7:9].min()) > 5 * float(found.scores[0, :2].max())
    nothing = LocalizationMaps("x", (), np.zeros((0, 6, 8), np.float16), (48, 64))
    assert propagate(nothing, colours, settings) is nothing


def test_features_of_a_backbone_need_no_training() -> None:
    backbone = backbones.build(SMALL_NET).eval()
    _, image = blob()
    found = of_features(backbone, image, LocalizeSettings(long_side=64), PropagationSettings())
    assert found.shape == (1, 34, 12, 16) and float(found.amin()) >= 0 and float(found.amax()) <= 1 + 1e-5
    colours = of_colours(None, image, LocalizeSettings(long_side=64), PropagationSettings())
    without = of_features(backbone, image, LocalizeSettings(long_side=64), PropagationSettings(cosine=0.0))
    once = of_features(backbone, image, LocalizeSettings(long_side=64), PropagationSettings(cosine=1.0))
    torch.testing.assert_close(without, colours)  # a cosine to the power of nothing
    torch.testing.assert_close(found, colours * (once / colours.clamp(min=1e-30)) ** 3, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sigma": 0.0}, "sigma is 0: it must be above 0"),
        ({"cosine": -1.0}, "cosine is -1: it must be at least 0"),
        ({"beta": float("nan")}, "beta is nan"),
    ],
)
def test_settings_of_what_needs_no_training(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=rf"--propagation\.{says}"):
        PropagationSettings(**wrong)


@pytest.mark.parametrize(
    ("way", "refine"),
    [
        pytest.param("irn", "crf", marks=pytest.mark.slow),
        pytest.param("psa", "none", marks=pytest.mark.slow),
        ("colours", "none"),
        ("features", "par"),
    ],
)
def test_every_propagation_is_a_stage_that_resumes_and_is_scored(way: str, refine: str, tmp_path: Path) -> None:
    data, out = make(tmp_path / "data", train=4, val=0), tmp_path / "run"
    flags = [*SMALL, "--propagate", way, "--refine", refine, "--propagation-train.epochs", "1"]
    flags += ["--propagation-train.batch-size", "2", "--propagation.channels", "8", "--propagation.steps", "8"]
    flags += ["--propagation-train.precision", "float32"]
    assert run("label", data, "--out", out, *flags) == 0
    assert len(list((out / "propagated").glob("*.npz"))) == len(list((out / "masks").glob("*.png"))) == 4
    assert (out / "affinity" / "model.safetensors").exists() == (way in LEARNT)
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert {"maps", "propagated", "masks"} <= set(scores)
    assert "Maps after propagation" in (out / "report.html").read_text(encoding="utf-8")
    before = stamps(out)
    assert run("label", data, "--out", out, *flags, "--propagation.beta", "4") == 0
    assert redone(before, stamps(out)) == {"propagated", "masks", "scores"}  # the maps and the network stay
    assert run("label", data, "--out", out, *flags) == 0
    kept = {name: when for name, when in before.items() if name.endswith((".npz", ".png", ".safetensors"))}
    assert kept.items() <= stamps(out).items()  # taken back as they were
