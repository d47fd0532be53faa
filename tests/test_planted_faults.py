"""Faults that no test once caught, planted for good: each is put into a copy of the sources, where a test must fail.

A fault whose line is not there any more fails here, too: move it to where the line went.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    """Where ``sound`` is replaced by ``faulty``, and the test that must see it."""

    file: str
    sound: str
    faulty: str
    test: str


FAULTS = {
    "Nesterov's momentum dropped": Fault(
        "training/optimizer.py", "nesterov=settings.nesterov", "nesterov=False",
        "test_recipes.py::test_what_learns_and_how_fast[mcis/official-method]"),
    "momentum dropped": Fault(
        "training/optimizer.py", "momentum=settings.momentum", "momentum=0.9",
        "test_recipes.py::test_what_learns_and_how_fast[eps-method]"),
    "apc.label_confidence not passed on": Fault(
        "methods/apc.py", "best_labels(scores, s.label_confidence)", "best_labels(scores, 0.5)",
        "test_apc.py::test_the_confidence_of_the_settings_decides_what_is_ignored"),
    "the mean over references a sum": Fault(
        "methods/mcis.py", "out[rows, label] = (total / count)", "out[rows, label] = (total / 1)",
        "test_mcis.py::test_a_reference_given_twice_weighs_no_more[paper]"),
    "the same, as released": Fault(
        "methods/mcis.py", "out[rows, label] = (total / count)", "out[rows, label] = (total / 1)",
        "test_mcis.py::test_a_reference_given_twice_weighs_no_more[official]"),
    "EPS's 1e-4 once": Fault(
        "methods/eps.py", 'torch.einsum("bcij,bij->bc", wins + 1e-4, weight)',
        '(torch.einsum("bcij,bij->bc", wins, weight) + 1e-4)',
        "test_eps.py::test_each_pixel_adds_its_1e_4_to_the_area_of_a_class"),
    "the segmenter at the method's stride": Fault(
        "segment/build.py", "if settings.output_stride is None else settings.output_stride", "",
        "test_recipes.py::test_segmenters_have_stride_8_and_frozen_norms[ppl/implicit]"),
    "norms of the segmenter learn": Fault(
        "segment/build.py", "freeze_norms=settings.freeze_norms", "freeze_norms=False",
        "test_recipes.py::test_segmenters_have_stride_8_and_frozen_norms[eps]"),
    "the walk's network at the run's rate": Fault(
        "recipes/ppl.py", "propagation_train=replace(_IRN, epochs=3.0, batch_size=32, head_lr_mult=1.0),", "",
        "test_recipes.py::test_what_learns_and_how_fast[ppl/implicit-affinity]"),
    "no hue": Fault(
        "recipes/eps.py", "jitter=0.3, hue=0.1", "jitter=0.3", "test_recipes.py::test_colours_of_views"),
    "decay on biases": Fault(
        "training/optimizer.py", "settings.weight_decay if weights or settings.decay_biases else 0.0",
        "settings.weight_decay", "test_recipes.py::test_what_learns_and_how_fast[eps-segmenter]"),
    "biases at the rate of weights": Fault(
        "training/optimizer.py", "1.0 if weights else settings.bias_lr_mult", "1.0",
        "test_recipes.py::test_what_learns_and_how_fast[mcis/paper-method]"),
    "two groups' threshold in place of the rule that asks features": Fault(
        "layers/class_references.py", 'threshold_rule="features"', 'threshold_rule="otsu"',
        "test_references.py::test_traits_of_compared_maps"),
    "the lower one of three groups' thresholds": Fault(
        "pseudo/thresholds.py", "-np.inf).max(0)", "-np.inf).max(1)",
        "test_pseudo.py::test_otsu_of_three_groups_is_scikit_images_upper_threshold"),
    "Otsu's in place of the threshold between": Fault(
        "pseudo/thresholds.py", '"between" if rule == "auto"', '"otsu" if rule == "auto"',
        "test_pseudo.py::test_the_threshold_between_lies_between_and_is_the_default"),
    "the share of background for that of objects": Fault(
        "pseudo/thresholds.py", "np.interp(1 - share,", "np.interp(share,",
        "test_pseudo.py::test_the_methods_own_background_sets_the_threshold_where_there_is_one"),
    "a refined mask of which nothing is left is believed": Fault(
        "pseudo/refined.py", "not lost_objects(unrefined.mask, mask.mask, settings.min_growth)", "True",
        "test_refined.py::test_growth_is_limited_and_so_is_vanishing"),
    "a refined mask that floods the photo is believed": Fault(
        "pseudo/refined.py", "and after <= before * settings.max_growth", "",
        "test_refined.py::test_growth_is_limited_and_so_is_vanishing"),
    "the segmenter's loss without its balance": Fault(
        "segment/task.py", "masks, weights, ignore_index", "masks, None, ignore_index",
        "test_segment.py::test_a_balanced_loss_is_the_weighted_mean_over_decided_pixels"),
    "the settings' balance not passed on": Fault(
        "segment/task.py", "mask_loss(logits, batch.masks, weights)", "mask_loss(logits, batch.masks)",
        "test_segment.py::test_the_task_s_loss_is_balanced_as_its_settings_say"),
    "the same at each scale": Fault(
        "segment/task.py", "mask_loss(logits.float(), small.long(), weights)",
        "mask_loss(logits.float(), small.long())",
        "test_segment.py::test_the_task_s_loss_is_balanced_as_its_settings_say"),
    "the balance of the loss is not undone": Fault(
        "segment/balance.py", "else balance.undone(logits, prior_correction)", "else logits.float()",
        "test_segment.py::test_masks_are_decided_as_if_all_pixels_had_been_taught_alike"),
    "negative gradients in the fine maps": Fault(
        "layers/fine_maps.py", "gradient.float().relu()", "gradient.float()",
        "test_fine_maps.py::test_the_fine_map_is_the_formula"),
    "every class has small objects": Fault(
        "layers/class_references.py", "if median(shares) <= SMALL_PART", "",
        "test_fine_maps.py::test_a_small_object_is_found_and_a_large_one_has_finer_borders"),
    "a photo's fine map is of another's class": Fault(
        "layers/fine_maps.py", "fine_map(scores[photos, classes], output)[photos]",
        "fine_map(scores[photos, classes[0]], output)[photos]",
        "test_fine_maps.py::test_each_photo_has_the_fine_maps_of_its_own_classes"),
    "the worse of two trainings is kept": Fault(
        "stages/attempts.py", "mean_precision(again) >= mean_precision(before)",
        "mean_precision(again) <= mean_precision(before)",
        "test_held_out.py::test_what_predicts_tags_better_is_kept"),
    "classes that nowhere occur count as IoU 0": Fault(
        "evaluate/figures.py", "known = values[~np.isnan(values)]", "known = np.nan_to_num(values)",
        "test_evaluate.py::test_golden_example_computed_by_hand"),
    "IoU over truth and prediction, the overlap twice": Fault(
        "evaluate/scores.py", "self.truth_pixels + self.predicted_pixels - self.hits",
        "self.truth_pixels + self.predicted_pixels",
        "test_evaluate.py::test_golden_example_computed_by_hand"),
    "maps of all classes, tagged or not": Fault(
        "localize.py", "tuple(sorted(sample.labels or frozenset()))", "tuple(range(len(raw)))",
        "test_localize.py::test_maps_equal_a_slow_loop_over_views"),
    "masks without the one": Fault(
        "pseudo/masks.py", "*(c + 1 for c in classes)", "*(c for c in classes)",
        "test_pseudo.py::test_scores_are_probabilities_and_masks_show_present_classes_only"),
    "the mean over references of maps a sum": Fault(
        "layers/class_references.py", "(total / len(of_class.values))", "total",
        "test_references.py::test_the_same_reference_many_times_changes_nothing"),
    "maps of mirrored views not mirrored back": Fault(
        "localize.py", "raw.flip(3) if of_photos[0].flip else raw", "raw",
        "test_localize.py::test_maps_equal_a_slow_loop_over_views"),
    "the segmenter's mirrored view not mirrored back": Fault(
        "segment/inference.py", "mirrored.flip(3)", "mirrored",
        "test_segment.py::test_windows_flips_and_scales_agree_on_a_pixelwise_segmenter"),
    "new layers at the rate of the backbone": Fault(
        "training/optimizer.py", "(1.0 if of_backbone else settings.head_lr_mult)", "1.0",
        "test_train.py::test_parameter_groups_by_what_is_pretrained_and_by_dimension"),
}  # fmt: skip


def copied(to: Path) -> Path:
    shutil.copytree(ROOT / "src", to / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return to / "src"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    fault, sources = FAULTS[name], copied(tmp_path)
    path = sources / "tag2mask" / fault.file
    text = path.read_text()
    assert text.count(fault.sound) == 1, f"{fault.file} has no such line any more"
    path.write_text(text.replace(fault.sound, fault.faulty))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"tests/{fault.test}"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(sources)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and f"FAILED tests/{fault.test}" in done.stdout, done.stdout + done.stderr


@pytest.mark.exhaustive
def test_without_a_fault_the_same_tests_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += sorted({f"tests/{fault.test}" for fault in FAULTS.values()})
    environment = {**os.environ, "PYTHONPATH": str(copied(tmp_path))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
