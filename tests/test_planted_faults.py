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
        "train/optimizer.py", "nesterov=settings.nesterov", "nesterov=False",
        "test_recipes.py::test_what_learns_and_how_fast[mcis/official-method]"),
    "momentum dropped": Fault(
        "train/optimizer.py", "momentum=settings.momentum", "momentum=0.9",
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
        "train/optimizer.py", "settings.weight_decay if weights or settings.decay_biases else 0.0",
        "settings.weight_decay", "test_recipes.py::test_what_learns_and_how_fast[eps-segmenter]"),
    "biases at the rate of weights": Fault(
        "train/optimizer.py", "1.0 if weights else settings.bias_lr_mult", "1.0",
        "test_recipes.py::test_what_learns_and_how_fast[mcis/paper-method]"),
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
