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
from tag2mask.evaluate import ImageScore, OracleSweep, Scores
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
    with pytest.raises(InputError, match=f"^{which} holds the value 9, but 3 classes end at 3"):
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


@pytest.mark.parametrize("truth_values", [(), (8, 10, 12)])
def test_evaluating_a_data_set_is_adding_up_its_images(tmp_path, truth_values):
    dataset, truths = small_world(tmp_path, 4, truth_values)
    rng = np.random.default_rng(1)
    guesses = {sample.id: masks(rng, truth.shape, 4) for sample, truth in zip(dataset.samples, truths, strict=True)}
    untold = Sample("no truth", dataset.samples[0].image_path, None)
    images: list[ImageScore] = []
    scores = evaluate.evaluate_masks(
        dataset.with_samples([untold, *dataset.samples]), lambda sample: guesses[sample.id], images.append
    )
    for label in range(4):
        assert scores.iou[label] == pytest.approx(iou_of_sets(truths, list(guesses.values()), label))
    assert [image.id for image in images] == [sample.id for sample in dataset.samples]
    first = [iou_of_sets(truths[:1], [guesses["sub/0"]], label) for label in range(4)]
    assert images[0].mean_iou == pytest.approx(np.nanmean(first))


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
    assert evaluate.truth_masks_for_oracle_training(dataset, tmp_path / "oracle") == 3
    for sample, truth in zip(dataset.samples, truths, strict=True):
        with Image.open(tmp_path / "oracle" / f"{sample.id}.png") as written:
            assert np.array_equal(np.array(written), truth)


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


def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in "abcd":
        save(tmp_path / "t" / f"{name}.png", np.zeros((2, 3), np.uint8))
        save(tmp_path / "p" / f"{name}.png", np.zeros((2, 3), np.uint8))
    return tmp_path / "p", tmp_path / "t"


def test_missing_predictions_are_counted_unless_allowed(tmp_path):
    predicted, truth = two_folders(tmp_path)
    for name in "bd":
        (predicted / f"{name}.png").unlink()
    with pytest.raises(InputError, match=r"^2 of 4 truth masks have no prediction in .*: b, d; .*--allow-missing"):
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
    threshold, mean_iou = sweep.best
    assert 0.4 < threshold < 0.56 and mean_iou == 100
    content = json.loads(json.dumps(sweep.to_json()))
    assert content["oracle"] is True and content["best_mean_iou"] == 100
    assert OracleSweep.from_json(content).to_json() == content
    before_recall = {name: content[name] for name in ("thresholds", "mean_iou")}  # as older runs have it
    assert OracleSweep.from_json(before_recall).best == sweep.best


def test_recall_at_a_precision():
    sweep = OracleSweep((0.1, 0.2, 0.3, 0.4), (0,) * 4, (40, 50, 60, float("nan")), (90, 80, 40, 0))
    assert sweep.recall_at(30) == 90  # already at the lowest threshold
    assert sweep.recall_at(50) == 80
    assert sweep.recall_at(55) == 60
    assert np.isnan(sweep.recall_at(61))


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
    assert agreement.found == (1, 0, 0) and agreement.missed == (0, 2, 2) and agreement.extra == (1, 0, 0)
    assert agreement.pixels == (599 + 600 + 2 * 240, 600, 0, 1, 120)
    assert agreement.undecided == 5 and agreement.shown == 20 and agreement.tagged == 50
    assert agreement.background == pytest.approx(100 * 1679 / 2400)
    assert evaluate.TagAgreement.from_json(json.loads(json.dumps(agreement.to_json()))) == agreement
