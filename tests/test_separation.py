"""The threshold that parts the features of photos best."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask import backbones
from tag2mask.backbones import BackboneSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.pseudo import (
    PseudoSettings,
    best_separated,
    decide,
    find_threshold,
    label_scores,
    otsu3_threshold,
    otsu_threshold,
    separation,
    thresholds,
    wanted_below,
)
from tag2mask.pseudo.separation import CANDIDATES
from tag2mask.pseudo.thresholds import Threshold, without_surroundings
from tag2mask.stages.artefacts import read_maps
from tag2mask.stages.separation import PHOTOS, asked, asked_block
from tag2mask.types import LocalizationMaps, Sample
from world import CLASSES, SMALL, make, manifest, run


def by_hand(features: np.ndarray, scores: np.ndarray, candidate: float) -> float:
    """The share of variance between two groups of cells, from what is left within them."""
    cells, above = features.reshape(len(features), -1).T, scores.ravel() > candidate
    if above.all() or not above.any():
        return 0.0
    within = sum(((group - group.mean(0)) ** 2).sum() for group in (cells[above], cells[~above]))
    return float(1 - within / ((cells - cells.mean(0)) ** 2).sum())


def test_it_is_the_share_of_variance_between_the_groups() -> None:
    random = np.random.default_rng(0)
    features, scores = random.normal(3, 2, (7, 5, 6)).astype(np.float32), random.random((5, 6)).astype(np.float32)
    found = separation(torch.from_numpy(features), scores)
    assert found == pytest.approx([by_hand(features, scores, c) for c in CANDIDATES], abs=1e-5)


def test_of_scores_it_is_otsus_criterion() -> None:
    """With the scores in the place of features, the best candidate is the one that Otsu's rule takes."""
    scores = np.random.default_rng(1).beta(0.6, 1.2, (40, 40)).astype(np.float32)
    best = CANDIDATES[int(np.argmax(separation(torch.from_numpy(scores)[None], scores)))]
    histogram = np.histogram(scores, 256, (0, 1))[0] / scores.size
    assert abs(best - otsu_threshold(histogram)) <= 0.026


def test_features_see_the_object_where_scores_rise_on_a_part_of_it() -> None:
    """A dog of which the map shows the face at 0.9 and the body at 0.4: its features are alike."""
    scores = np.full((12, 12), 0.1, np.float32)
    scores[3:9, 3:9], scores[3:5, 3:5] = 0.4, 0.9
    features = torch.from_numpy((scores > 0.2).astype(np.float32))[None].repeat(4, 1, 1)
    features += 0.1 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    curve = separation(features, scores)
    best = best_separated(curve, 0.2, 0.8)
    assert best is not None and best < 0.4 and max(curve) > 0.8


def test_what_says_nothing() -> None:
    flat, scores = torch.ones(3, 4, 4), np.full((4, 4), 0.5, np.float32)
    assert separation(flat, scores) == separation(torch.randn(3, 4, 4), scores) == [0.0] * len(CANDIDATES)
    assert separation(flat, np.random.default_rng(0).random((4, 4), np.float32)) == [0.0] * len(CANDIDATES)
    assert best_separated([0.0] * len(CANDIDATES), 0.3, 0.6) is None


def test_maps_may_have_another_grid() -> None:
    """Of small objects they are finer than the features."""
    features = torch.zeros(2, 4, 4)
    features[:, 1:3, 1:3] = 1
    coarse = np.where(features[0].numpy() > 0, 0.6, 0.1).astype(np.float32)
    assert max(separation(features, np.kron(coarse, np.ones((2, 2), np.float32)))) > 0.6


def test_the_best_lies_between_the_two_bounds() -> None:
    curve = [1 - abs(c - 0.3) for c in CANDIDATES]
    assert best_separated(curve, 0.1, 0.9) == 0.3
    assert best_separated(curve, 0.52, 0.71) == 0.52 and best_separated(curve, 0.11, 0.23) == 0.23
    assert best_separated(curve, 0.4, 0.4) == 0.4


def maps(number: int, random: np.random.Generator) -> LocalizationMaps:
    centres = np.repeat([0.1, 0.45, 0.8], [40, 20, 10])
    scores = random.normal(centres, 0.03).clip(0, 1).reshape(1, 7, 10)
    return LocalizationMaps(str(number), (number % 2,), scores, (70, 100))


def test_each_class_has_its_own_between_otsus_of_two_and_three_groups() -> None:
    random = np.random.default_rng(0)
    every = [maps(number, random) for number in range(30)]
    curves = {0: [1 - c for c in CANDIDATES]}  # class 0: the lower the better; of class 1 nothing is known
    found = find_threshold(every, "features", 3, curves)
    plain = find_threshold(every, "otsu23-by-class", 3)
    own = np.concatenate([m.scores.ravel() for m in every if m.classes == (0,)])
    histogram = np.histogram(own, 256, (0, 1))[0] / own.size
    lower, upper = otsu_threshold(histogram), otsu3_threshold(histogram)
    assert found.of_class[0] == pytest.approx(min(lower, upper), abs=1e-9) and lower != upper
    assert found.of_class[1:] == plain.of_class[1:] and found.value == plain.value
    assert find_threshold(every, "features", 3).of_class == plain.of_class
    upwards = find_threshold(every, "features", 3, {0: list(CANDIDATES)})
    assert upwards.of_class[0] == pytest.approx(max(lower, upper), abs=1e-9)
    for wanted in (0.1, 0.15, 0.2):  # below both: half of the way
        assert wanted < min(lower, upper)
        below = find_threshold(every, "features", 3, {0: [-abs(c - wanted) for c in CANDIDATES]})
        assert below.of_class[0] == pytest.approx(math.sqrt(wanted * min(lower, upper)), abs=1e-9)


def test_what_is_wanted_below_a_score() -> None:
    """Not where the curve only falls, nor where its top is above."""
    assert wanted_below([1 - c for c in CANDIDATES], 0.3) is None
    assert wanted_below(list(CANDIDATES), 0.3) is None
    assert wanted_below([0.0] * len(CANDIDATES), 0.3) is None
    assert wanted_below([-abs(c - 0.1) for c in CANDIDATES], 0.3) == 0.1
    assert wanted_below([-abs(c - 0.1) for c in CANDIDATES], 0.1) is None


def test_some_photos_of_each_class_with_a_single_tag_are_asked() -> None:
    samples = [
        Sample(f"{n}", Path(f"{n}.jpg"), labels if labels is None else frozenset(labels))
        for n, labels in enumerate([[0], [0, 1], [], None, *[[1]] * (2 * PHOTOS + 1), [0]])
    ]
    found = asked(samples)
    ones = [place for place in found if samples[place].labels == {1}]
    assert found == sorted({0, *ones, len(samples) - 1})
    assert PHOTOS / 2 < len(ones) <= PHOTOS and ones == list(range(4, 4 + 2 * PHOTOS + 1, 3))
    assert asked([]) == asked(samples[1:4]) == []


@pytest.mark.parametrize(
    ("name", "finer", "middle"),
    [("tf_efficientnet_lite0", "block2", "block4"), ("resnet10t", "layer2", "layer3")],
)
def test_the_block_that_is_asked(name: str, finer: str, middle: str) -> None:
    """The one that made the maps finer; one in the middle where none did."""
    settings = BackboneSettings(name=name, weights="none")
    drawn = LocalizeSettings(references=5)
    assert asked_block(backbones.build(settings), drawn) == finer
    assert asked_block(backbones.build(settings), replace(drawn, fine=False)) == middle
    assert asked_block(backbones.build(settings), LocalizeSettings(references=0)) == middle
    frozen = backbones.build(replace(settings, freeze_until=middle))
    assert asked_block(frozen, drawn) == middle
    token = backbones.build(BackboneSettings("vit_tiny_patch16_224", weights="none"))
    assert asked_block(token, drawn).startswith("block")


@pytest.mark.slow
def test_what_features_say_is_what_the_masks_get(tmp_path: Path) -> None:
    """With enough photos of a class: neither bound's mean, but what the stage's curves choose on the run's own maps."""
    data, out = make(tmp_path / "data", train=40), tmp_path / "run"
    assert run("label", data, "--out", out, *SMALL, "--references", "2", "--localize.no-fine") == 0
    curves = {CLASSES.index(name): curve for name, curve in manifest(out, "separation")["separation"].items()}
    assert curves
    read = [read_maps(path, path.stem) for path in sorted((out / "maps").glob("*.npz"))]
    expected, without = (find_threshold(read, "features", len(CLASSES), c).of_class for c in (curves, None))
    given = manifest(out, "masks")["class_thresholds"]
    assert [given[name] for name in CLASSES] == pytest.approx(expected, abs=1e-4)
    assert expected != pytest.approx(without, abs=1e-3)


@pytest.mark.slow
def test_a_run_asks_features_once_and_only_where_the_rule_does(world: Path, tmp_path: Path) -> None:
    """The default's references ask; a given threshold and another rule do not, and nothing before is made again."""
    out = tmp_path / "run"
    assert run("label", world, "--out", out, *SMALL, "--references", "2") == 0
    measured = manifest(out, "separation")
    assert measured["maps"] == "maps"
    assert all(len(curve) == len(CANDIDATES) for curve in measured["separation"].values())
    records = [json.loads(line) for line in (out / "separation" / ".stage" / "records.jsonl").read_text().splitlines()]
    assert records and {len(record["separation"]) for record in records} == {len(CANDIDATES)}
    assert len(records) == measured["count"] < 9  # those of a single tag
    for flags in (("--threshold", "0.4"), ("--pseudo.rule", "li")):
        before = manifest(out, "maps")
        assert run("label", world, "--out", out, *SMALL, "--references", "2", *flags) == 0
        assert not (out / "separation").exists() and manifest(out, "maps") == before


def test_a_class_that_covers_little_has_a_higher_threshold_where_nothing_refines_its_mask() -> None:
    """Objects of a hundredth of the photo, a wide band around them: the band is more than the objects. One that covers
    a third keeps its threshold."""
    random = np.random.default_rng(1)

    def photo(number: int, cells: tuple[int, int, int]) -> LocalizationMaps:
        centres = np.repeat([0.05, 0.5, 0.9], cells)
        scores = random.normal(centres, 0.02).clip(0, 1).reshape(1, 20, 50)
        return LocalizationMaps(str(number), (number % 2,), scores, (200, 500))

    small, large = (925, 65, 10), (600, 100, 300)
    every = [photo(number, large if number % 2 else small) for number in range(30)]
    curves = {0: [float(c < 0.4) for c in CANDIDATES], 1: [float(c > 0.6) for c in CANDIDATES]}
    found = find_threshold(every, "features", 2, curves)
    assert found.of_class[0] < 0.5 and found.unrefined.of_class[0] > found.of_class[0] + 0.1
    assert found.unrefined.of_class[1] == found.of_class[1]
    assert Threshold.from_json(found.to_json(("a", "b")), ("a", "b")).unrefined.of_class == pytest.approx(
        found.unrefined.of_class, abs=1e-4
    )
    assert find_threshold(every[1::2], "features", 2, curves).of_unrefined == ()
    assert find_threshold(every, "otsu23-by-class", 2).of_unrefined == ()


def test_the_higher_threshold_by_hand() -> None:
    """A mean with Otsu's between what is above, which two bins alone part in the middle: the geometric one where a
    tenth is above, and the nearer to Otsu's the less is."""
    histogram, otsu = np.zeros(256), 174.5 / 256

    def found(above: float) -> float:
        histogram[10], histogram[128], histogram[220] = 1 - above, above / 2, above / 2
        return without_surroundings(histogram, 0.25)

    assert found(0.0999) == pytest.approx((0.25 * otsu) ** 0.5, rel=1e-2)
    assert found(0.05) == pytest.approx(0.25**0.25 * otsu**0.75)
    assert found(1e-4) == pytest.approx(otsu, rel=1e-2)
    assert found(0.1001) == 0.25
    histogram[128] = 0.3
    assert without_surroundings(histogram, 0.25) == 0.25
    assert without_surroundings(histogram, 0.99) == 0.99, "nothing is above"


@pytest.mark.slow
def test_masks_that_no_refiner_touched_have_the_higher_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a refiner all of them; with one those in which it was not believed."""
    monkeypatch.setattr(thresholds, "FEW", 1.0)  # every class covers less
    data, out = make(tmp_path / "data", train=24), tmp_path / "run"

    def masks(*flags: str) -> dict[str, np.ndarray]:
        assert run("label", data, "--out", out, *SMALL, "--references", "2", *flags) == 0
        return {path.stem: np.asarray(Image.open(path)) for path in sorted((out / "masks").glob("*.png"))}

    def agreement(masks: dict[str, np.ndarray], *, unrefined: bool) -> float:
        """The share of pixels that are as decided straight from the maps."""
        found = Threshold.from_json(manifest(out, "masks"), CLASSES)
        chosen, settings, same = found.unrefined if unrefined else found, PseudoSettings(), []
        for id_, mask in masks.items():
            maps = chosen.levelled(read_maps(out / "maps" / f"{id_}.npz", id_))
            same.append(decide(id_, maps.classes, label_scores(maps, chosen.value, settings), settings).mask == mask)
        return float(np.mean(same))

    plain = masks("--refine", "none")
    assert agreement(plain, unrefined=True) > 0.999  # thresholds are kept to four digits
    assert agreement(plain, unrefined=False) < 0.99
    doubted = masks("--refine", "crf", "--pseudo.max-growth", "1", "--pseudo.min-growth", "1")
    assert agreement(doubted, unrefined=True) > 0.999
    believed = masks("--refine", "crf", "--pseudo.max-growth", "0", "--pseudo.min-growth", "0")
    assert agreement(believed, unrefined=True) < 0.99
