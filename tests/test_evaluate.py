"""Scores against slow, obvious counting, a hand-computed example, and properties that must always hold."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask import evaluate
from tag2mask.errors import InputError
from tag2mask.evaluate import FalseAlarms, OracleSweep, Scores
from tag2mask.evaluate.matching import bare_name, match
from tag2mask.types import Dataset, LocalizationMaps, Sample

CLASSES = ("cat", "dog", "potted plant")
quick = settings(max_examples=25, deadline=None)


# --- oracles ------------------------------------------------------------------------------------------------------


def counted(truth: np.ndarray, predicted: np.ndarray, n: int) -> list[list[int]]:
    """The confusion matrix, one pixel at a time."""
    table = [[0] * (n + 1) for _ in range(n)]
    for true, guess in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        if true != 255:
            table[true][n if guess == 255 else guess] += 1
    return table


def iou_of_sets(truths: list[np.ndarray], masks: list[np.ndarray], label: int, decided_only: bool = False) -> float:
    """IoU of one label from sets of pixel positions over all images."""
    true_set, guess_set = set(), set()
    for image, (truth, mask) in enumerate(zip(truths, masks, strict=True)):
        for y, x in np.ndindex(truth.shape):
            if truth[y, x] == 255 or (decided_only and mask[y, x] == 255):
                continue
            if truth[y, x] == label:
                true_set.add((image, y, x))
            if mask[y, x] == label:
                guess_set.add((image, y, x))
    union = true_set | guess_set
    return 100 * len(true_set & guess_set) / len(union) if union else math.nan


def band_of(region: np.ndarray, distance: int) -> np.ndarray:
    """What ``distance`` erosions with a 3x3 square, one after the other, take from a region."""
    eroded = region
    for _ in range(distance):
        padded = np.pad(eroded, 1, constant_values=False)
        eroded = np.array(
            [[padded[y : y + 3, x : x + 3].all() for x in range(region.shape[1])] for y in range(region.shape[0])]
        )
    return region & ~eroded


def masks(rng: np.random.Generator, shape: tuple[int, int], n: int, ignore: float = 0.1) -> np.ndarray:
    """Blocky random labels, some 255."""
    height, width = shape
    coarse = rng.integers(0, n, (height // 3 + 1, width // 3 + 1))
    labels = np.kron(coarse, np.ones((3, 3)))[:height, :width].astype(np.uint8)
    labels[rng.random(shape) < ignore] = 255
    return labels


pairs = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 11), st.integers(1, 14), st.integers(2, 5)).map(
    lambda drawn: (
        masks(np.random.default_rng(drawn[0]), drawn[1:3], drawn[3]),
        masks(np.random.default_rng(drawn[0] + 1), drawn[1:3], drawn[3]),
        drawn[3],
    )
)


def names(n: int) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(n - 1))


# --- counting -----------------------------------------------------------------------------------------------------


@quick
@given(pairs)
def test_confusion_matrix_is_what_counting_pixels_gives(drawn):
    truth, predicted, n = drawn
    assert evaluate.confusion_matrix(truth, predicted, n).tolist() == counted(truth, predicted, n)


def test_all_254_classes_fit():
    truth = np.array([[0, 1, 254, 255]], np.uint8)
    matrix = evaluate.confusion_matrix(truth, np.array([[0, 254, 254, 7]], np.uint8), 255)
    assert matrix.sum() == 3 and matrix[0, 0] == matrix[1, 254] == matrix[254, 254] == 1


@pytest.mark.parametrize("which", ["truth", "prediction"])
def test_a_value_that_is_no_class_is_named(which):
    good, bad = np.zeros((2, 3), np.uint8), np.array([[0, 0, 0], [0, 9, 0]], np.uint8)
    pair = (bad, good) if which == "truth" else (good, bad)
    with pytest.raises(InputError, match=f"^{which} holds the value 9, but no class is above 3"):
        evaluate.confusion_matrix(*pair, 4)


@quick
@given(pairs, st.integers(1, 4))
def test_boundary_counts_are_those_of_repeated_erosion(drawn, distance):
    truth, predicted, n = drawn
    ratio = distance / math.hypot(*truth.shape)
    counts = evaluate.boundary_counts(truth, predicted, n, ratio)
    valid = truth != 255
    for label in range(n):
        band = band_of(truth == label, distance)
        guess = band_of((predicted == label) & valid, distance)
        assert counts[:, label].tolist() == [(band & guess).sum(), (band | guess).sum()]


def test_boundary_width_is_two_hundredths_of_the_diagonal():
    truth = np.zeros((300, 400), np.uint8)
    truth[100:200, 100:300] = 1  # diagonal 500: bands of 10 pixels
    _, union = evaluate.boundary_counts(truth, truth, 2)
    assert union.tolist() == [400 * 300 - 380 * 280 + (120 * 220 - 100 * 200), 100 * 200 - 80 * 180]


def test_a_shifted_mask_loses_more_boundary_iou_than_iou():
    truth, shifted = np.zeros((300, 400), np.uint8), np.zeros((300, 400), np.uint8)
    truth[50:250, 50:350] = 1
    shifted[50:250, 55:355] = 1
    scores = Scores.of(truth, shifted, ("cat",))
    assert scores.iou[1] > 95 and scores.boundary_iou[1] < 70


# --- figures ------------------------------------------------------------------------------------------------------


def test_golden_example_computed_by_hand():
    truth = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, 255], [2, 2, 2, 0, 255]], np.uint8)
    guess = np.array([[0, 0, 1, 1, 1], [0, 255, 1, 0, 1], [2, 2, 255, 2, 255]], np.uint8)
    scores = Scores.of(truth, guess, CLASSES)
    # truth pixels: background 6, cat 4, dog 3. Predicted (valid): background 4, cat 4, dog 3. Undecided: 1 and 1.
    assert scores.class_names == ("background", *CLASSES)
    assert scores.confusion.tolist() == [[3, 1, 1, 0, 1], [1, 3, 0, 0, 0], [0, 0, 2, 0, 1], [0] * 5]
    np.testing.assert_allclose(scores.iou, [300 / 7, 300 / 5, 200 / 4, math.nan])
    assert scores.mean_iou == pytest.approx((300 / 7 + 60 + 50) / 3)
    np.testing.assert_allclose(scores.decided_iou, [300 / 6, 60, 200 / 3, math.nan])
    assert scores.decided_mean_iou == pytest.approx((50 + 60 + 200 / 3) / 3)
    np.testing.assert_allclose(scores.precision, [75, 75, 200 / 3, math.nan])
    np.testing.assert_allclose(scores.recall, [50, 75, 200 / 3, math.nan])
    assert scores.pixel_accuracy == pytest.approx(800 / 13)
    assert scores.coverage == pytest.approx(1100 / 13)
    assert scores.foreground_precision == pytest.approx(500 / 7)  # 7 pixels called some object, 5 are one
    assert scores.foreground_recall == pytest.approx(500 / 7)  # 7 pixels are one, 5 were called so
    assert scores.pixels == 13


@quick
@given(st.lists(pairs.filter(lambda drawn: drawn[2] == 3), min_size=1, max_size=4))
def test_iou_is_that_of_pixel_sets_over_all_images(drawn):
    truths, guesses = [pair[0] for pair in drawn], [pair[1] for pair in drawn]
    scores = sum((Scores.of(t, g, names(3)) for t, g in zip(truths, guesses, strict=True)), Scores.none(names(3)))
    np.testing.assert_allclose(scores.iou, [iou_of_sets(truths, guesses, label) for label in range(3)])
    np.testing.assert_allclose(scores.decided_iou, [iou_of_sets(truths, guesses, label, True) for label in range(3)])


@quick
@given(pairs)
def test_merging_is_concatenating(drawn):
    truth, guess, n = drawn
    cut = truth.shape[0] // 2
    merged = Scores.of(truth[:cut], guess[:cut], names(n)) + Scores.of(truth[cut:], guess[cut:], names(n))
    assert merged.confusion.tolist() == Scores.of(truth, guess, names(n)).confusion.tolist()


@quick
@given(pairs, st.randoms(use_true_random=False))
def test_permuting_classes_permutes_the_figures(drawn, random):
    truth, guess, n = drawn
    order = list(range(1, n))
    random.shuffle(order)
    to = np.arange(256, dtype=np.uint8)
    to[1:n] = order
    scores, moved = Scores.of(truth, guess, names(n)), Scores.of(to[truth], to[guess], names(n))
    for figure in ("iou", "decided_iou", "precision", "recall", "boundary_iou"):
        np.testing.assert_array_equal(getattr(moved, figure)[[0, *order]], getattr(scores, figure))
    for figure in ("mean_iou", "pixel_accuracy", "coverage", "foreground_precision", "foreground_recall"):
        np.testing.assert_allclose(getattr(moved, figure), getattr(scores, figure))


@quick
@given(pairs)
def test_iou_is_at_most_precision_and_recall_and_rises_when_undecided_is_left_out(drawn):
    truth, guess, n = drawn
    scores = Scores.of(truth, guess, names(n))
    for iou, decided, precision, recall in zip(
        scores.iou, scores.decided_iou, scores.precision, scores.recall, strict=True
    ):
        if not math.isnan(iou):
            # either may have nothing to divide by, then the IoU is 0
            assert iou <= (0 if math.isnan(precision) else precision) + 1e-9
            assert iou <= (0 if math.isnan(recall) else recall) + 1e-9
        if not math.isnan(decided):
            assert decided >= iou - 1e-9


@quick
@given(pairs)
def test_a_perfect_prediction_scores_100_whatever_it_says_where_truth_is_ignored(drawn):
    truth, noise, n = drawn
    scores = Scores.of(truth, np.where(truth == 255, noise, truth), names(n))
    if scores.pixels:
        assert scores.mean_iou == scores.decided_mean_iou == scores.mean_boundary_iou == 100
        assert scores.pixel_accuracy == scores.coverage == 100


def test_deciding_nothing_scores_zero_and_has_no_decided_figure():
    truth = np.array([[0, 0, 1], [0, 2, 255]], np.uint8)
    scores = Scores.of(truth, np.full_like(truth, 255), CLASSES)
    assert scores.mean_iou == scores.coverage == scores.pixel_accuracy == scores.mean_boundary_iou == 0
    assert math.isnan(scores.decided_mean_iou)


def test_nothing_counted_gives_no_figure_and_no_warning():
    assert math.isnan(Scores.none(CLASSES).mean_iou)
    assert Scores.none(CLASSES).to_json()["mean_iou"] is None


@quick
@given(pairs)
def test_json_round_trip(drawn):
    truth, guess, n = drawn
    scores = Scores.of(truth, guess, names(n))
    content = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert Scores.from_json(content) == scores
    assert list(content["iou"]) == list(scores.class_names)
    if scores.pixels:
        assert content["mean_iou"] == pytest.approx(scores.mean_iou, abs=1e-4)


def test_scores_differ_when_any_count_differs():
    truth = np.array([[0, 0, 1], [1, 1, 1]], np.uint8)
    assert Scores.of(truth, truth, ("cat",)) != Scores.of(truth, 1 - truth, ("cat",))
    assert Scores.of(truth, truth, ("cat",)) != Scores.of(truth, truth, ("dog",))


def test_scores_over_other_classes_do_not_merge():
    with pytest.raises(InputError, match="different classes cannot be merged"):
        _ = Scores.none(("cat",)) + Scores.none(("dog",))


@pytest.mark.parametrize("content", [{}, {"iou": {"background": 1}, "confusion": [[1]], "boundary": [[1], [1]]}])
def test_json_that_is_no_scores_is_refused(content):
    with pytest.raises(InputError, match="evaluate again"):
        Scores.from_json(content)


def test_a_class_called_background_is_refused():
    with pytest.raises(InputError, match="always label 0"):
        Scores.none(("background", "cat"))


# --- data sets ----------------------------------------------------------------------------------------------------


def save(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def small_world(tmp_path: Path, count: int = 4, truth_values: tuple[int, ...] = ()) -> tuple[Dataset, list[np.ndarray]]:
    """A data set of non-square photos with truth; returns the truth in the label convention too."""
    rng = np.random.default_rng(7)
    samples, truths = [], []
    for number in range(count):
        shape = (13 + number, 21)
        truth = masks(rng, shape, 4)
        stored = truth.copy()
        for label, value in enumerate(truth_values, start=1):
            stored[truth == label] = value
        image = save(tmp_path / "images" / f"sub/{number}.png", rng.integers(0, 256, (*shape, 3), np.uint8))
        mask = save(tmp_path / "truth" / f"sub/{number}.png", stored)
        samples.append(Sample(f"sub/{number}", image, frozenset({0, 1, 2}), mask_path=mask))
        truths.append(truth)
    return Dataset("small world", CLASSES, samples, truth_values), truths


def test_truth_values_of_another_palette_become_our_labels_and_the_rest_is_ignored(tmp_path):
    dataset, _ = small_world(tmp_path, 1)
    path = dataset.samples[0].mask_path
    assert path is not None
    stored = np.zeros((13, 21), np.uint8)
    stored[0, :6] = [8, 10, 254, 1, 255, 0]
    save(path, stored)
    dataset = Dataset("palette", CLASSES, dataset.samples, (8, 10, 254))
    assert evaluate.read_truth(dataset.samples[0], dataset)[0, :7].tolist() == [1, 2, 3, 255, 255, 0, 0]


def test_a_mask_of_another_size_than_its_image_is_named_with_both_sizes(tmp_path):
    dataset, _ = small_world(tmp_path, 1)
    path = dataset.samples[0].mask_path
    assert path is not None
    save(path, np.zeros((21, 13), np.uint8))
    with pytest.raises(InputError, match=r"0\.png is 13x21 pixels but its image .*0\.png is 21x13"):
        evaluate.read_truth(dataset.samples[0], dataset)


def test_a_photo_that_is_all_background_is_measured_without_a_mask(tmp_path):
    dataset, _ = small_world(tmp_path, 1)
    good = Sample("good", dataset.samples[0].image_path, frozenset(), all_background=True)
    dataset = dataset.with_samples([*dataset.samples, good])
    assert (evaluate.read_truth(good, dataset) == np.zeros((13, 21), np.uint8)).all()
    shown = np.zeros((13, 21), np.uint8)
    shown[0, :3] = 2
    scores = evaluate.evaluate_masks(dataset, lambda sample: shown if sample is good else np.zeros_like(shown))
    assert scores.photos == 2 and scores.pixels == 2 * 13 * 21 - scores.ignored
    assert (scores.false_alarms.photos, scores.false_alarms.alarms, scores.false_alarms.alarm_pixels) == (1, 1, 3)
    assert str(scores.false_alarms).startswith("1 of 1 photo ") and "on 1.10 % of" in str(scores.false_alarms)
    assert evaluate.score_photo(good, dataset, np.zeros_like(shown)).mean_iou == 100  # it counts in the mean of photos


@pytest.mark.parametrize("truth_values", [(), (8, 10, 12)])
def test_evaluating_a_data_set_is_adding_up_its_images(tmp_path, truth_values):
    dataset, truths = small_world(tmp_path, 4, truth_values)
    rng = np.random.default_rng(1)
    guesses = {sample.id: masks(rng, truth.shape, 4) for sample, truth in zip(dataset.samples, truths, strict=True)}
    untold = Sample("no truth", dataset.samples[0].image_path, None)
    images: dict[str, Scores] = {}
    scores = evaluate.evaluate_masks(
        dataset.with_samples([untold, *dataset.samples]), lambda sample: guesses[sample.id], images.__setitem__
    )
    for label in range(4):
        assert scores.iou[label] == pytest.approx(iou_of_sets(truths, list(guesses.values()), label))
    assert list(images) == [sample.id for sample in dataset.samples] and scores.photos == 4
    assert sum(images.values(), Scores.none(CLASSES)) == scores
    first = [iou_of_sets(truths[:1], [guesses["sub/0"]], label) for label in range(4)]
    assert images["sub/0"].mean_iou == pytest.approx(np.nanmean(first))


def test_a_photo_without_a_mask_is_a_miss_not_a_gap(tmp_path):
    dataset, truths = small_world(tmp_path, 2)
    found = {dataset.samples[0].id: truths[0]}
    scores = evaluate.evaluate_masks(dataset, lambda sample: found.get(sample.id))
    assert scores.pixels == sum(int((truth != 255).sum()) for truth in truths)
    assert scores.decided_mean_iou == 100 and scores.mean_iou < 60


def test_masks_that_do_not_fit_are_named(tmp_path):
    dataset, truths = small_world(tmp_path, 1)
    with pytest.raises(InputError, match=r"'sub/0' is 13x21 pixels but its truth is 21x13"):
        evaluate.evaluate_masks(dataset, lambda sample: truths[0].T)
    with pytest.raises(InputError, match=r"^'sub/0': prediction holds the value 4"):
        evaluate.evaluate_masks(dataset, lambda sample: np.full_like(truths[0], 4))


def test_without_truth_there_is_nothing_to_measure(tmp_path):
    dataset, _ = small_world(tmp_path, 1)
    assert evaluate.has_truth(dataset)
    bare = dataset.with_samples([Sample("a", dataset.samples[0].image_path, None)])
    assert not evaluate.has_truth(bare)
    with pytest.raises(InputError, match="'small world' has no truth masks"):
        evaluate.evaluate_masks(bare, lambda sample: None)


def test_oracle_training_masks_are_the_truth_in_our_convention(tmp_path):
    dataset, truths = small_world(tmp_path, 3, (8, 10, 12))
    for sample, truth in zip(dataset.samples, truths, strict=True):
        evaluate.write_truth_for_oracle_training(sample, dataset, tmp_path / "oracle" / f"{sample.id}.png")
        with Image.open(tmp_path / "oracle" / f"{sample.id}.png") as written:
            assert np.array_equal(np.array(written), truth)


# --- photos that show none of the classes --------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(pairs, st.booleans()).filter(lambda drawn: drawn[0][2] == 3), min_size=1, max_size=5))
def test_false_alarms_are_counted_over_photos_of_background_alone(drawn):
    counts, total = [0, 0, 0, 0], Scores.none(names(3))
    for (truth, guess, _), empty in drawn:
        truth = np.where((truth != 255) & empty, np.uint8(0), truth)
        total = total + Scores.of(truth, guess, names(3))
        known = truth[truth != 255]
        if known.size and not known.any():
            shown = [g for g, t in zip(guess.ravel().tolist(), truth.ravel().tolist(), strict=True) if t == 0]
            wrong = sum(g in (1, 2) for g in shown)
            counts = [c + n for c, n in zip(counts, (1, wrong > 0, len(shown), wrong), strict=True)]
    assert total.false_alarms == FalseAlarms(*counts)
    assert FalseAlarms.from_json(json.loads(json.dumps(total.to_json()["false_alarms"]))) == total.false_alarms


def test_false_alarms_are_figures_of_their_own():
    good = np.zeros((10, 10), np.uint8)
    speck = good.copy()
    speck[0, :3] = 1
    unsure = np.full_like(good, 255)
    scores = sum((Scores.of(good, mask, ("crack",)) for mask in (good, speck, unsure)), Scores.none(("crack",)))
    content = scores.to_json()["false_alarms"]
    assert content == {
        "photos": 3,
        "alarms": 1,
        "pixels": 300,
        "alarm_pixels": 3,
        "share_of_photos": pytest.approx(100 / 3, abs=1e-4),
        "share_of_pixels": 1.0,
    }
    with_object = Scores.of(speck, good, ("crack",))
    assert with_object.false_alarms == FalseAlarms() and (scores + with_object).false_alarms == scores.false_alarms
    assert scores.mean_iou == pytest.approx(100 * (197 / 300) / 2)  # they count in the mean as any photo does
    assert math.isnan(FalseAlarms().share_of_photos) and FalseAlarms().to_json()["share_of_pixels"] is None
    assert any("1 of 3 photos with none of the classes" in line for line in evaluate.notes(scores))


# --- truth that says nothing ---------------------------------------------------------------------------------------


def binary_folders(tmp_path: Path, value: int, good: int = 0) -> tuple[Path, Path]:
    """Two photos with an object of 4 % and as many without as asked; predictions that find nothing."""
    for number in range(2 + good):
        mask = np.zeros((30, 40), np.uint8)
        if number < 2:
            mask[4:10, 5:13] = value
        save(tmp_path / "t" / f"{number}.png", mask)
        save(tmp_path / "p" / f"{number}.png", np.zeros_like(mask))
    return tmp_path / "p", tmp_path / "t"


@pytest.mark.parametrize("classes", [("crack",), CLASSES])
@pytest.mark.parametrize("good", [0, 60])
def test_truth_in_0_and_255_is_refused_with_what_to_write(tmp_path, classes, good):
    """Masks that find nothing scored 100."""
    folders = binary_folders(tmp_path, 255, good)
    with pytest.raises(InputError, match=r"show no class.*write 1") as error:
        evaluate.evaluate_folders(*folders, classes)
    assert "\n" not in str(error.value) and str(folders[1]) in str(error.value)
    scores = evaluate.evaluate_folders(*folders, ("crack",), values=(255,))  # or it is said what 255 stands for
    assert scores.iou[1] == 0 and scores.ignored == 0


def test_truth_in_0_and_1_is_fine_and_a_border_of_255_too(tmp_path):
    predicted, truth = binary_folders(tmp_path, 1, 3)
    border = np.zeros((30, 40), np.uint8)
    border[0], border[5:9, 5:9] = 255, 1
    save(truth / "0.png", border)
    scores = evaluate.evaluate_folders(predicted, truth, ("crack",))
    assert scores.mean_iou < 50 and scores.ignored == 40 and scores.false_alarms.photos == 3


def test_truth_of_good_photos_alone_is_no_fault(tmp_path):
    predicted, truth = binary_folders(tmp_path, 0, 3)
    scores = evaluate.evaluate_folders(predicted, truth, ("crack",))
    assert scores.missing_classes == ("crack",) and scores.false_alarms == FalseAlarms(5, 0, 6000, 0)


def test_truth_of_a_data_set_that_shows_none_of_its_classes_is_refused(tmp_path):
    dataset, _ = small_world(tmp_path, 3)
    for sample in dataset.samples:
        mask = np.zeros(np.array(Image.open(sample.image_path)).shape[:2], np.uint8)
        mask[:, :9] = 255
        save(sample.mask_path, mask)
    with pytest.raises(InputError, match=r"'small world' show no class.*write 1"):
        evaluate.evaluate_masks(dataset, lambda sample: None)
    elsewhere = Dataset("x", CLASSES, small_world(tmp_path / "other", 3)[0].samples, (7, 8, 9))  # values that none has
    with pytest.raises(InputError, match=r"'x' show no class.*--truth-values"):
        evaluate.evaluate_masks(elsewhere, lambda sample: None)
    part = evaluate.score_photo(dataset.samples[0], dataset, None)  # one photo may well show none
    assert part.missing_classes == CLASSES and part.ignored == 9 * 13
    with pytest.raises(InputError, match="here show no class"):
        evaluate.check_truth(part + part, "the masks here")


def test_a_class_that_never_occurs_in_the_truth_is_said(tmp_path):
    predicted, truth = binary_folders(tmp_path, 1)
    (predicted / "1.png").unlink()
    scores = evaluate.evaluate_folders(predicted, truth, ("cat", "dog", "cow"), allow_missing=True)
    content = json.loads(json.dumps(scores.to_json()))
    assert content["missing_classes"] == ["dog", "cow"]
    assert (content["photos"], content["photos_with_truth"]) == (1, 2)
    lines = evaluate.notes(scores)
    assert lines[0] == "1 of 2 masks compared" and lines[1].startswith("dog, cow never occur in the truth")
    assert lines[-1] == "no mask shows any class"
    assert Scores.from_json(content) == scores


def test_predictions_in_0_and_255_are_noted(tmp_path):
    truth, predicted = binary_folders(tmp_path, 1)
    for path in sorted(truth.glob("*.png")):  # the other way round: predictions
        save(path, np.where(np.array(Image.open(predicted / path.name)) > 0, np.uint8(255), np.uint8(0)))
    lines = evaluate.notes(evaluate.evaluate_folders(truth, predicted, ("crack",)))
    assert "4.0 % of their pixels are undecided: if 255 marks the object, write 1" in lines[-1]


# --- sums over photos ----------------------------------------------------------------------------------------------


def test_everything_measured_is_a_sum_over_photos_in_any_order_and_through_json(tmp_path):
    dataset, truths = small_world(tmp_path, 4)
    rng = np.random.default_rng(5)
    guesses = {s.id: masks(rng, t.shape, 4) for s, t in zip(dataset.samples, truths, strict=True)}
    shapes = {s.id: t.shape for s, t in zip(dataset.samples, truths, strict=True)}
    maps = {
        s.id: LocalizationMaps(s.id, (0, 2), rng.random((2, 5, 6)).astype(np.float16), shapes[s.id])
        for s in dataset.samples[1:]
    }
    whole = (
        evaluate.evaluate_masks(dataset, lambda s: guesses[s.id]),
        evaluate.sweep_thresholds(dataset, lambda s: maps.get(s.id)),
        evaluate.compare_with_tags(dataset, lambda s: guesses[s.id]),
    )
    of_photo = (
        lambda s: evaluate.score_photo(s, dataset, guesses[s.id]),
        lambda s: evaluate.sweep_photo(s, dataset, maps.get(s.id)),
        lambda s: evaluate.agreement_photo(s, dataset.classes, guesses[s.id]),
    )
    for total, measure in zip(whole, of_photo, strict=True):
        parts = [type(total).from_json(json.loads(json.dumps(measure(s).to_json()))) for s in dataset.samples]
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            first, *rest = (parts[i] for i in order)
            assert sum(rest, first) == total
        assert total != parts[0]


def test_sums_over_other_classes_or_thresholds_are_refused():
    with pytest.raises(InputError, match="cannot be added up"):
        _ = OracleSweep.none(3) + OracleSweep.none(2)
    with pytest.raises(InputError, match="cannot be added up"):
        _ = OracleSweep.none(3) + OracleSweep.none(3, (0.5,))
    with pytest.raises(InputError, match="cannot be added up"):
        _ = evaluate.TagAgreement.none(("a",)) + evaluate.TagAgreement.none(("b",))
    with pytest.raises(InputError, match="evaluate again"):
        evaluate.TagAgreement.from_json({"classes": ["a"]})
    assert math.isnan(OracleSweep.none(2).best_constant[1])


def test_maps_that_are_not_finite_are_not_swept(tmp_path):
    dataset, truths = small_world(tmp_path, 1)
    scores = np.full((1, 2, 2), np.nan, np.float16)
    with pytest.raises(InputError, match="maps of 'sub/0' hold NaN"):
        evaluate.sweep_photo(dataset.samples[0], dataset, LocalizationMaps("sub/0", (0,), scores, truths[0].shape))


# --- names of masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "A",
        "a_mask",
        "a-mask",
        "a_Mask",
        "a.mask",
        "a_masks",
        "mask_a",
        "a_gt",
        "gt_a",
        "a.jpg",
        "a.JPG",
        "a.png",
        "a_segmentation",
        "a_seg",
        "a_label",
        "a_labels",
        "a_groundtruth",
        "a_ground_truth",
        "a_pred",
        "a_prediction",
        "a_mask.jpg",
        "a.jpg_mask",
        "a_gt_mask",
        "a_annotation",
        "a_labelIds",
        "A_SegmentationMask",
    ],
)
def test_spellings_of_one_name(name):
    assert bare_name(name) == "a" and bare_name(f"Sub.d/{name}") == "sub.d/a"


@pytest.mark.parametrize("name", ["amask", "mask", "gt", "masked_a", "a_maskrcnn", "a_1", "a.b", "1_masks_2"])
def test_names_that_only_look_like_it(name):
    assert bare_name(name) == name


def test_unicode_spellings_of_one_name():
    assert bare_name("gro\u0308\u00dfe") == bare_name("GR\u00d6SSE") == bare_name("gr\u00f6\u00dfe_mask")


@pytest.mark.parametrize("form", ["{}_mask.png", "{}.PNG", "{}.jpg.png", "GT_{}.bmp", "{}_Segmentation.tif"])
def test_masks_in_another_spelling_are_compared(tmp_path, form):
    predicted, truth = two_folders(tmp_path)
    expected = evaluate.evaluate_folders(predicted, truth, CLASSES)
    for path in sorted(truth.glob("*.png")):
        with Image.open(path) as mask:
            mask.save(truth / form.format(path.stem))
        if form != "{}.PNG" or not (truth / form.format(path.stem)).samefile(path):
            path.unlink()
    assert evaluate.evaluate_folders(predicted, truth, CLASSES) == expected
    assert evaluate.evaluate_folders(truth, predicted, CLASSES) == expected


def test_equal_names_come_first_and_what_cannot_be_told_is_said():
    files = lambda *names: {name: Path(name) for name in names}  # noqa: E731
    assert match(files("a", "a_mask"), files("a", "a_mask")) == {"a": "a", "a_mask": "a_mask"}
    assert match(files("a", "b_mask", "c"), files("a", "a_mask", "b")) == {"a": "a", "b_mask": "b"}
    for truth, predicted in ((("x", "x_gt"), ("X",)), (("X",), ("x", "x_gt"))):
        with pytest.raises(InputError, match="which masks belong together cannot be told"):
            match(files(*truth), files(*predicted))


def test_what_is_no_file_is_no_mask(tmp_path):
    predicted, truth = two_folders(tmp_path)
    (truth / "e.png").mkdir()
    assert evaluate.evaluate_folders(predicted, truth, CLASSES).photos == 4


# --- which classes -------------------------------------------------------------------------------------------------


def test_masks_carry_their_classes(tmp_path):
    predicted, truth = two_folders(tmp_path)
    with pytest.raises(InputError, match=r"nothing says which classes .*--classes.*classes\.txt"):
        evaluate.evaluate_folders(predicted, truth)
    (predicted / "classes.txt").write_text("cat\ndog\n")
    assert evaluate.evaluate_folders(predicted, truth).class_names == ("background", "cat", "dog")
    assert evaluate.evaluate_folders(predicted, truth, ("cat", "dog")).class_names[1:] == ("cat", "dog")
    (predicted / "classes.txt").rename(truth / "classes.txt")
    assert evaluate.evaluate_folders(predicted, truth).class_names[1:] == ("cat", "dog")


@pytest.mark.parametrize("given", [("dog", "cat"), ("cat",), ("cat", "dog", "cow"), ("Cat", "dog")])
def test_classes_that_contradict_the_masks_are_refused(tmp_path, given):
    predicted, truth = two_folders(tmp_path)
    (predicted / "classes.txt").write_text("background\ncat\ndog\n")
    with pytest.raises(InputError, match=r"--classes says \(.*p/classes\.txt says \(cat, dog\)"):
        evaluate.evaluate_folders(predicted, truth, given)
    (truth / "classes.txt").write_text("\n".join(given))
    with pytest.raises(InputError, match=r"p/classes\.txt says \(cat, dog\) and .*t/classes\.txt says"):
        evaluate.evaluate_folders(predicted, truth)


# --- folders ------------------------------------------------------------------------------------------------------


def test_folders_give_what_their_masks_give(tmp_path):
    dataset, truths = small_world(tmp_path)
    rng = np.random.default_rng(2)
    expected = Scores.none(CLASSES)
    for sample, truth in zip(dataset.samples, truths, strict=True):
        guess = masks(rng, truth.shape, 4)
        save(tmp_path / "predicted" / f"{sample.id}.bmp", guess)
        expected = expected + Scores.of(truth, guess, CLASSES)
    save(tmp_path / "predicted" / "other.png", np.zeros((2, 3), np.uint8))
    (tmp_path / "truth" / "notes.txt").write_text("passed over")
    (tmp_path / "truth" / ".hidden.png").write_text("passed over")
    assert evaluate.evaluate_folders(tmp_path / "predicted", tmp_path / "truth", CLASSES) == expected


def test_truth_folder_of_another_palette(tmp_path):
    save(tmp_path / "t" / "a.png", np.array([[0, 8, 8], [12, 3, 255]], np.uint8))
    save(tmp_path / "p" / "a.png", np.array([[0, 1, 1], [2, 0, 1]], np.uint8))
    scores = evaluate.evaluate_folders(tmp_path / "p", tmp_path / "t", ("cat", "dog"), values=(8, 12))
    assert scores.mean_iou == 100 and scores.pixels == 4


@pytest.mark.parametrize("values", [(300,), (0,), (-1,), (8, 12), (8, 8, 9)])
def test_truth_values_that_cannot_be(tmp_path, values):
    classes = ("cat", "dog", "cow")[: 3 if len(values) == 3 else 1]
    with pytest.raises(InputError, match=r"truth values .* from 1 to 255"):
        evaluate.evaluate_folders(*two_folders(tmp_path), classes, values=values)


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in "abcd":
        save(tmp_path / "t" / f"{name}.png", np.zeros((2, 3), np.uint8))
        save(tmp_path / "p" / f"{name}.png", np.zeros((2, 3), np.uint8))
    return tmp_path / "p", tmp_path / "t"


def test_missing_predictions_are_counted_unless_allowed(tmp_path):
    predicted, truth = two_folders(tmp_path)
    for name in "bd":
        (predicted / f"{name}.png").unlink()
    with pytest.raises(InputError, match=r"^2 of 4 truth masks without a prediction in .*: b, d; .*--allow-missing"):
        evaluate.evaluate_folders(predicted, truth, CLASSES)
    assert evaluate.evaluate_folders(predicted, truth, CLASSES, allow_missing=True).pixels == 12


def test_folders_that_cannot_be_compared_say_why(tmp_path):
    predicted, truth = two_folders(tmp_path)

    def complaint(predicted: Path = predicted, truth: Path = truth) -> str:
        with pytest.raises(InputError) as caught:
            evaluate.evaluate_folders(predicted, truth, CLASSES)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"{tmp_path / 'nowhere'} is missing" in complaint(tmp_path / "nowhere")
    assert "a.png is a file" in complaint(predicted / "a.png")
    save(tmp_path / "q" / "x.png", np.zeros((2, 3), np.uint8))
    assert "(for instance x against a and 3 more)" in complaint(tmp_path / "q")
    (tmp_path / "empty").mkdir()
    assert "no index masks" in complaint(tmp_path / "empty")

    save(predicted / "c.png", np.zeros((4, 5), np.uint8))
    message = complaint()
    assert f"{predicted / 'c.png'} is 5x4" in message and f"{truth / 'c.png'} is 3x2" in message
    save(predicted / "c.png", np.full((2, 3), 4, np.uint8))
    assert complaint().startswith(f"{predicted / 'c.png'}: prediction holds the value 4")
    save(truth / "b.png", np.full((2, 3), 7, np.uint8))
    assert complaint().startswith(f"{truth / 'b.png'}: truth holds the value 7")
    save(truth / "a.bmp", np.zeros((2, 3), np.uint8))
    assert "two masks for one image" in complaint()
    (truth / "a.bmp").unlink()
    save(truth / "a.png", np.zeros((2, 3, 3), np.uint8))
    assert f"mask {truth / 'a.png'} is a colour image (RGB)" in complaint()
    save(truth / "a.png", np.zeros((2, 3), np.uint8))
    (predicted / "a.png").write_text("no image")
    assert str(predicted / "a.png") in complaint()


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat,dog,potted plant", CLASSES),
        ("cat", ("cat",)),
        (" background, cat ,dog,", ("cat", "dog")),
        (",".join(f"a rather long class name {c}" for c in range(80)), None),
    ],
)
def test_classes_from_text(text, classes):
    assert evaluate.read_classes(text) == (classes or tuple(text.split(",")))


@pytest.mark.parametrize(
    "content",
    ["cat\ndog\npotted plant\n", "\ufeffbackground\r\ncat\r\n\r\ndog\r\npotted plant", "cat,dog,potted plant\n"],
)
def test_classes_from_a_file(tmp_path, content):
    (tmp_path / "classes.txt").write_text(content, encoding="utf-8", newline="")
    assert evaluate.read_classes(str(tmp_path / "classes.txt")) == CLASSES


def test_names_of_classes_may_end_in_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("defect 1\ndefect 2\n")
    assert evaluate.read_classes(str(tmp_path / "classes.txt")) == ("defect 1", "defect 2")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no classes"),
        ("background", "no classes"),
        ("cat,dog,cat", "class cat is given twice"),
        ("nowhere/classes.txt", "no file nowhere/classes.txt"),
        (",".join(map(str, range(300))), "300 classes"),
    ],
)
def test_classes_that_are_none(text, complaint):
    with pytest.raises(InputError, match=complaint):
        evaluate.read_classes(text)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "no classes"), (b"cat 8\ndog 12\n", "values behind"), (b"\xff\xfe\x00", "cannot read the classes")],
)
def test_class_files_that_are_none(tmp_path, content, complaint):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        evaluate.read_classes(str(path))


# --- the oracle sweep ---------------------------------------------------------------------------------------------


def test_sweep_is_one_evaluation_per_threshold(tmp_path):
    dataset, truths = small_world(tmp_path)
    rng = np.random.default_rng(3)
    present = [(0, 2), (1,), (), (0, 1, 2)]
    maps = {
        sample.id: LocalizationMaps(sample.id, has, rng.random((len(has), *t.shape)).astype(np.float16), t.shape)
        for sample, t, has in zip(dataset.samples, truths, present, strict=True)
    }
    del maps["sub/3"]  # an image without maps decides nothing
    thresholds = (0.5, 0.0, 0.25, 0.9375)
    sweep = evaluate.sweep_thresholds(dataset, lambda sample: maps.get(sample.id), thresholds)

    def mask_of(sample: Sample, threshold: float) -> np.ndarray | None:
        if sample.id not in maps:
            return None
        found = maps[sample.id]
        mask = np.zeros(found.size, np.uint8)
        for y, x in np.ndindex(found.size):
            scores = found.scores[:, y, x]
            if len(scores) and scores.max() > threshold:
                mask[y, x] = found.classes[int(scores.argmax())] + 1
        return mask

    assert sweep.thresholds == tuple(sorted(thresholds))
    for at, threshold in enumerate(sweep.thresholds):
        expected = evaluate.evaluate_masks(dataset, lambda sample, at=threshold: mask_of(sample, at))
        for figure in ("mean_iou", "foreground_precision", "foreground_recall"):
            assert getattr(sweep, figure)[at] == pytest.approx(getattr(expected, figure))


def test_sweep_brings_maps_to_pixels_and_finds_the_best_constant(tmp_path):
    image = save(tmp_path / "a.png", np.zeros((12, 20, 3), np.uint8))
    truth = np.zeros((12, 20), np.uint8)
    truth[:, 10:] = 2
    sample = Sample("a", image, frozenset({1}), mask_path=save(tmp_path / "t.png", truth))
    dataset = Dataset("one", CLASSES, [sample])
    maps = LocalizationMaps("a", (1,), np.array([[[0.0, 1.0]] * 2], np.float16), (12, 20))  # a ramp from left to right
    sweep = evaluate.sweep_thresholds(dataset, lambda _: maps)
    threshold, mean_iou = sweep.best_constant
    assert 0.4 < threshold < 0.56 and mean_iou == 100
    content = json.loads(json.dumps(sweep.to_json()))
    assert content["oracle"] is True and content["best_mean_iou"] == 100
    assert OracleSweep.from_json(content) == sweep and OracleSweep.from_json(content).to_json() == content
    for broken in ({}, content | {"counts": {}}, content | {"thresholds": [0.5]}, content | {"thresholds": "x"}):
        with pytest.raises(InputError, match="evaluate again"):
            OracleSweep.from_json(broken)


def test_recall_at_a_precision():
    curve = (40, 50, 60, float("nan")), (90, 80, 40, 0)
    assert evaluate.recall_at(*curve, 30) == 90  # already at the lowest threshold
    assert evaluate.recall_at(*curve, 50) == 80
    assert evaluate.recall_at(*curve, 55) == 60
    assert np.isnan(evaluate.recall_at(*curve, 61))


# --- against the tags ---------------------------------------------------------------------------------------------


def test_agreement_with_the_tags_counts_photos_and_opens_no_truth(tmp_path):
    def sample(name: str, labels: frozenset[int] | None) -> Sample:
        return Sample(name, tmp_path / name, labels, mask_path=tmp_path / "must not be opened")

    speck = np.zeros((20, 30), np.uint8)
    speck[0, 0] = 3  # 1 of 600 pixels
    half = np.zeros((20, 30), np.uint8)
    half[:10] = 1
    half[10:, :6] = 255
    found = {"a": half, "b": speck, "c": np.zeros((20, 30), np.uint8), "d": half, "e": half}
    samples = [
        sample("a", frozenset({0, 1})),  # cat found, dog missed
        sample("b", frozenset({2})),  # a speck is no plant, but the mask is not empty
        sample("c", frozenset({2})),  # empty
        sample("d", frozenset({1})),  # cat is extra, dog missed
        sample("e", None),
        sample("no mask", frozenset({0})),
    ]
    agreement = evaluate.compare_with_tags(Dataset("x", CLASSES, samples), lambda s: found.get(s.id))
    assert (agreement.photos, agreement.empty) == (4, 1)
    assert agreement.tagged_shown == (1, 0, 0) and agreement.tagged_missing == (0, 2, 2)
    assert agreement.untagged_shown == (1, 0, 0)
    assert agreement.pixels == (599 + 600 + 2 * 240, 600, 0, 1, 120)
    assert agreement.undecided == 5 and agreement.recall == 20 and agreement.precision == 50
    assert agreement.background == pytest.approx(100 * 1679 / 2400)
    assert evaluate.TagAgreement.from_json(json.loads(json.dumps(agreement.to_json()))) == agreement
