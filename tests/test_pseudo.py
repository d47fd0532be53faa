"""Backgrounds, thresholds without truth, decisions: against slow oracles and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import InputError
from tag2mask.pseudo import (
    PseudoSettings,
    SaliencyRule,
    Threshold,
    best_labels,
    by_saliency_rule,
    covering_threshold,
    decide,
    find_threshold,
    index_mask,
    label_scores,
    li_threshold,
    missing_classes,
    otsu3_threshold,
    otsu_threshold,
    score_histogram,
    shows_object,
    threshold_of,
)
from tag2mask.pseudo.thresholds import RULES
from tag2mask.types import LocalizationMaps


def maps(scores: list | np.ndarray, classes: tuple[int, ...] = (0, 3), size: tuple[int, int] | None = None):
    scores = np.asarray(scores, np.float16)
    return LocalizationMaps("x", classes, scores, size or scores.shape[1:])


def brute_otsu(values: np.ndarray, bins: int = 256) -> float:
    """The definition: try every cut between bins, take the one of the largest variance between the groups."""
    index = np.minimum((values * bins).astype(int), bins - 1)
    centre = (index + 0.5) / bins
    variances = []
    for cut in range(bins - 1):
        low, high = centre[index <= cut], centre[index > cut]
        share = len(low) / len(centre)
        variances.append(share * (1 - share) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0)
    best = np.flatnonzero(np.isclose(variances, max(variances), rtol=1e-9))
    return (best.mean() + 1) / bins


def two_groups(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.beta(2, 8, 70), random.beta(8, 3, 29)]).reshape(1, 9, 11).astype(np.float16)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_otsu_equals_its_definition(seed: int) -> None:
    values = two_groups(seed)
    found = otsu_threshold(score_histogram([maps(values, (0,))]))
    assert found == pytest.approx(brute_otsu(values.astype(np.float32).ravel()), abs=1.5 / 256)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_otsu_of_three_groups_is_scikit_images_upper_threshold(seed: int) -> None:
    filters = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(seed)
    groups = [random.beta(2, 12, 400), random.beta(6, 8, 200), random.beta(12, 3, 200)]
    values = np.concatenate(groups).reshape(1, 20, 40).astype(np.float16)
    found = otsu3_threshold(score_histogram([maps(values, (0,))]))
    counts, _ = np.histogram(values.astype(np.float32), 256, (0, 1))
    upper = filters.threshold_multiotsu(hist=counts)[1]  # the number of a bin
    low, high = sorted((round(found * 256), upper + 1))
    assert not counts[low:high].any(), "of thresholds between which there is no score, either is right"
    assert found > otsu_threshold(score_histogram([maps(values, (0,))]))


def test_otsu_of_three_groups_needs_three() -> None:
    found = score_histogram([maps(np.where(np.arange(12).reshape(1, 3, 4) < 8, 0.25, 0.75), (0,))])
    assert otsu3_threshold(found) == otsu_threshold(found) == pytest.approx(0.5, abs=0.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_li_equals_its_definition(seed: int) -> None:
    """Every cut tried; the cross entropy of Li and Lee written out over the pixels."""
    values = two_groups(seed)
    pixels = (np.minimum((values.astype(np.float32).ravel() * 256).astype(int), 255) + 0.5) / 256

    def cross_entropy(cut: float) -> float:
        low, high = pixels[pixels < cut], pixels[pixels >= cut]
        return sum(float((group * np.log(group / group.mean())).sum()) for group in (low, high) if len(group))

    cuts = np.arange(1, 256) / 256
    costs = np.array([cross_entropy(cut) if (pixels < cut).any() and (pixels >= cut).any() else 9e9 for cut in cuts])
    best = cuts[np.isclose(costs, costs.min(), rtol=1e-9)]
    assert li_threshold(score_histogram([maps(values, (0,))])) == pytest.approx(best.mean(), abs=1.5 / 256)


def test_the_threshold_between_lies_between_and_is_the_default() -> None:
    found = [maps(two_groups(3), (0,))]
    otsu, li = threshold_of(found, "otsu"), threshold_of(found, "li")
    assert li < threshold_of(found) < otsu
    assert threshold_of(found) == pytest.approx((otsu * li) ** 0.5) == threshold_of(found, PseudoSettings().rule)


def test_the_methods_own_background_sets_the_threshold_where_there_is_one() -> None:
    split = maps(two_groups(3), (0,))
    values = split.scores.astype(np.float32)
    own = [replace(split, covered=share) for share in (0.1, 0.2, 0.6)]
    threshold = find_threshold(own).value
    assert "own background" in find_threshold(own).origin
    assert float((values > threshold).mean()) == pytest.approx(0.3, abs=0.01)  # what it covers is what the method says
    assert find_threshold([*own, split]) == find_threshold([split] * 4, "between")  # not of all maps
    assert find_threshold(own, "otsu") == find_threshold([split], "otsu")
    untagged = maps(np.zeros((0, 3, 4)), ())
    assert threshold_of([*own, untagged]) == threshold  # it says nothing
    assert threshold_of([replace(split, covered=0.0)]) == 0.98  # nowhere likely: the best cells alone
    assert threshold_of([replace(split, covered=1.0)]) == pytest.approx(float(values.min()), abs=1 / 256)
    assert covering_threshold(np.zeros(256), 0.3) == 0.5


def test_each_class_has_the_threshold_of_the_cells_that_it_wins() -> None:
    """Two classes that stand out differently; one of too few maps, and one without any."""
    random = np.random.default_rng(0)

    def scores(low: float, high: float) -> np.ndarray:
        centres = np.repeat([low, (low + high) / 2, high], [40, 15, 15])
        return np.clip(random.normal(centres, 0.02), 0, 1).reshape(1, 7, 10)

    faint, sharp = [maps(scores(0.1, 0.4), (0,)) for _ in range(12)], [maps(scores(0.3, 0.9), (2,)) for _ in range(15)]
    few = [maps(scores(0.6, 0.95), (1,)) for _ in range(3)]
    absent = maps(np.concatenate([scores(0.3, 0.9) + 0.01, np.full((1, 7, 10), 0.001)]), (2, 3))  # class 3 wins nowhere
    every = [*faint, *few, *sharp, *[absent] * 12]
    found = find_threshold(every, "otsu23-by-class", 5)
    assert found.value == threshold_of(every, "otsu23") and not find_threshold(every, "otsu3", 5).of_class
    assert 0.15 < found.of_class[0] < 0.4 < 0.5 < found.of_class[2] < 0.9
    assert found.of_class[1] == found.of_class[3] == found.of_class[4] == found.value
    assert found.of_class[0] == pytest.approx(threshold_of(faint, "otsu23"))

    for of_photo in (faint[0], sharp[0], few[0], absent):
        levelled = found.levelled(of_photo)
        for number, label in enumerate(of_photo.classes):
            above = of_photo.scores[number].astype(np.float32) > found.of_class[label]
            np.testing.assert_array_equal(levelled.scores[number] > found.value, above)
    assert find_threshold(every, "otsu3", 5).levelled(absent) is absent
    names = list("abcde")
    kept = Threshold.from_json(found.to_json(names), names)
    assert kept.of_class == pytest.approx(found.of_class, abs=1e-4) and kept.value == pytest.approx(
        found.value, abs=1e-4
    )
    assert Threshold.from_json(Threshold(0.3, "given").to_json(names), names) == Threshold(0.3, "given")


@pytest.mark.parametrize("rule", [*RULES, "otsu23-by-class", "auto"])
def test_rules_weigh_images_alike_and_survive_degenerate_maps(rule: str) -> None:
    split = maps([[[0.1, 0.9]]], (0,))
    assert 0.1 < threshold_of([split], rule) < 0.9
    large = maps(np.tile([[[0.1, 0.9]]], (1, 50, 50)), (0,))
    assert threshold_of([split, large], rule) == pytest.approx(threshold_of([split], rule))
    assert threshold_of([], rule) == 0.5
    assert threshold_of([maps(np.full((1, 3, 4), 0.3), (0,))], rule) == 0.5
    assert threshold_of([maps(np.zeros((0, 3, 4)), ())], rule) == 0.5


@pytest.mark.parametrize("background", ["constant", "power"])
def test_a_class_wins_exactly_above_the_threshold(background: str) -> None:
    chosen = PseudoSettings(background=background)
    scores = np.linspace(0.02, 0.98, 49).reshape(1, 7, 7).astype(np.float16)
    for threshold in (0.2, 0.37, 0.5, 0.8):
        found = maps(scores, (4,))
        mask = decide(found.id, found.classes, label_scores(found, threshold, chosen), chosen).mask
        np.testing.assert_array_equal(mask, np.where(scores[0].astype(np.float32) > threshold, 5, 0))


def test_power_background_is_the_formula() -> None:
    """threshold 1/2 is alpha 1; the golden ratio's threshold (3 - sqrt 5) / 2 is alpha 2."""
    found = maps([[[0.1, 0.6], [0.3, 0.9]]], (0,))
    m = torch.from_numpy(found.scores.astype(np.float32))
    for threshold, alpha in ((0.5, 1.0), ((3 - 5**0.5) / 2, 2.0)):
        background = (1 - m) ** alpha
        expected = torch.cat([background, m]) / (background + m)
        torch.testing.assert_close(label_scores(found, threshold, PseudoSettings()), expected, rtol=1e-4, atol=1e-5)


def test_saliency_background() -> None:
    found = maps([[[0.6, 0.6]], [[0.2, 0.7]]])
    saliency = np.array([[1.0, 0.0]], np.float32)
    chosen = PseudoSettings(background="saliency")
    mask = decide(found.id, found.classes, label_scores(found, 0.5, chosen, saliency), chosen).mask
    assert mask.tolist() == [[1, 0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.05, 0.95))
def test_scores_are_probabilities_and_masks_show_present_classes_only(
    seed: int, present: int, threshold: float
) -> None:
    random = np.random.default_rng(seed)
    classes = tuple(sorted(random.choice(9, present, replace=False).tolist()))
    found = maps(random.random((present, 3, 4)), classes, (11, 14))
    for background in ("power", "constant"):
        chosen = PseudoSettings(background=background, margin=0.1)
        scores = label_scores(found, threshold, chosen)
        assert scores.shape == (1 + present, 11, 14)
        torch.testing.assert_close(scores.sum(0), torch.ones(11, 14))
        mask = decide(found.id, found.classes, scores, chosen)
        assert set(np.unique(mask.mask)) <= {0, 255, *(c + 1 for c in classes)}


def test_margin_leaves_close_calls_undecided() -> None:
    found = maps([[[0.6, 0.6, 0.9]], [[0.58, 0.1, 0.1]]])
    chosen = PseudoSettings(background="constant", margin=0.1)
    scores = label_scores(found, 0.3, chosen)
    assert decide(found.id, found.classes, scores, chosen).mask.tolist() == [[255, 1, 1]]
    assert decide(found.id, found.classes, scores, PseudoSettings("constant")).mask.tolist() == [[1, 1, 1]]


def test_missing_classes_names_tagged_classes_without_a_pixel() -> None:
    found = maps([[[0.9, 0.1]], [[0.2, 0.1]]])
    mask = decide(found.id, found.classes, label_scores(found, 0.5, PseudoSettings()), PseudoSettings())
    assert missing_classes(found.classes, mask) == (3,)


def test_a_photo_of_none_of_the_classes_is_background() -> None:
    found = maps(np.zeros((0, 2, 3)), (), (4, 6))
    mask = decide(found.id, found.classes, label_scores(found, 0.4, PseudoSettings()), PseudoSettings(margin=0.2))
    assert mask.mask.shape == (4, 6) and not mask.mask.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_maps_and_scores_that_are_not_finite_are_refused(value: float) -> None:
    """All-background masks and exit 0 would follow."""
    bad = maps([[[0.9, value]], [[0.2, 0.1]]])
    for make in (
        lambda: label_scores(bad, 0.5, PseudoSettings()),
        lambda: by_saliency_rule(bad, np.ones((1, 2), np.float32)),
    ):
        with pytest.raises(InputError, match="maps of 'x' hold NaN or infinity"):
            make()
    scores = torch.tensor([[[0.5, value]], [[0.5, 0.1]]])
    with pytest.raises(InputError, match="scores of 'x' hold NaN"):
        decide("x", (0,), scores, PseudoSettings())
    with pytest.raises(InputError, match="NaN or infinite"):
        index_mask(scores)
    assert index_mask(torch.tensor([[[0.5, 0.1]], [[0.4, 0.3]]])).tolist() == [[0, 1]]


def test_pixels_of_objects() -> None:
    assert shows_object(np.array([[0, 1, 254, 255]], np.uint8)).tolist() == [[False, True, True, False]]


def test_bad_settings() -> None:
    with pytest.raises(InputError, match=r"--pseudo\.threshold is 1: it must be at least 0\.001 and at most 0\.999"):
        PseudoSettings(threshold=1.0)
    for margin in (1.5, float("nan")):
        with pytest.raises(InputError, match="margin"):
            PseudoSettings(margin=margin)
    for threshold in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="threshold"):
            PseudoSettings(threshold=threshold)
    with pytest.raises(InputError, match=r"saliency-rule\.minimum is nan"):
        SaliencyRule(minimum=float("nan"))


def maps_of(id: str, *cells: int, classes: tuple[int, ...] = (0, 1)) -> LocalizationMaps:
    """Maps of 5 x 7 cells, so many of which reach 0.5, for each class."""
    scores = np.full((len(cells), 35), 0.4, np.float16)
    for row, count in zip(scores, cells, strict=True):
        row[:count] = 0.5
    return LocalizationMaps(id, classes[: len(cells)], scores.reshape(-1, 5, 7), (80, 112))


def test_classes_that_maps_hardly_show_are_named_from_the_maps_alone() -> None:
    from tag2mask.pseudo import cells_above, hardly_shown

    assert cells_above(maps_of("a", 3, 1), 0.5) == {"0": 3, "1": 1} and cells_above(maps_of("b"), 0.5) == {}
    counts = [(9, 1), (1, 0), (9, 9), (30, 1), (2, 0)]  # of the second class under two on four of five
    records = [{"cells": cells_above(maps_of(str(n), *both), 0.5)} for n, both in enumerate(counts)]
    (line,) = hardly_shown([*records, {"cells": {}}, {}], ("fray", "crack"))
    assert line.startswith("'crack' covers under 2 cells of the maps on 4 of 5 photos, none on 2: ")
    assert "--localize.long-side" in line and "--backbone.output-stride" in line
    assert hardly_shown(records[2:4], ("fray", "crack")) == []  # one of two is not most of them


def test_small_objects_on_large_photos_are_named_from_masks_alone() -> None:
    from tag2mask.pseudo import small_on_large

    shares = {0: (0.002, 0.004, 0.2), 1: (0.03, 0.03, 0.001)}
    records = [{"cells": {str(c): 5}, "foreground": share} for c, of in shares.items() for share in of]
    records += [{"cells": {"0": 5, "1": 5}, "foreground": 0.0}, {"cells": {}, "foreground": 0.0}, {}]
    (line,) = small_on_large(records, ("hole", "stain"), 900, 384)
    assert line.startswith(
        "'hole' covers 0.4 % of its photos, and photos of 900 pixels (the median) are seen with 384: "
    )
    assert "--recipe small-objects" in line
    assert small_on_large(records, ("hole", "stain"), 500, 384) == []  # larger views would show nothing more
    assert small_on_large(records[3:], ("hole", "stain"), 900, 384) == []


def test_the_first_of_equal_scores_is_the_best() -> None:
    random = np.random.default_rng(0)
    for labels, precision in ((2, torch.float32), (3, torch.bfloat16), (21, torch.float32)):
        scores = random.integers(0, 3, (labels, 37, 50)).astype(np.float32)  # many are equal
        found = best_labels(torch.from_numpy(scores).to(precision))
        np.testing.assert_array_equal(found.numpy(), scores.argmax(0))
