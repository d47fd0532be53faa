"""Losses of several real processes are those of one with the same global batch, whatever they are divided by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import process_cases
from launching import run_all
from tag2mask.files import read_jsonl
from tag2mask.training import TrainSettings, fit, record

SCRIPT = Path(process_cases.__file__)
FEW = ("cam, drawn to the start", "mcis, photos without a partner", "smaf, everything", "segmenter", "apc, batches")


@pytest.fixture(autouse=True)
def _a_line_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "EVERY", 1)


def alike(name: str, one: Path, several: Path, *, atol: float = 1e-4) -> None:
    """Every loss of every step to 1e-5, and so the weights."""
    lines, others = read_jsonl(one / "log.jsonl"), read_jsonl(several / "log.jsonl")
    assert len(lines) == len(others) > 1
    for line, other in zip(lines, others, strict=True):
        losses = {key: value for key, value in line.items() if key != "images_per_s"}
        assert {key: other[key] for key in other if key != "images_per_s"} == pytest.approx(losses, rel=1e-5, abs=1e-5)
    mine, theirs = load_file(one / "model.safetensors"), load_file(several / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        torch.testing.assert_close(
            theirs[key], tensor, rtol=1e-3, atol=atol, msg=lambda text, key=key: f"{name} {key} {text}"
        )


def tolerance(settings: TrainSettings) -> float:
    """Of weights: Adam's steps are as large where the gradient is rounding alone."""
    return 1e-2 if settings.optimizer == "adamw" else 1e-4


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    """A rank that holds no photo of a batch, pairs in one process alone, statistics of the photos in their order,
    pixels and patches counted over the batch. Dividing by a process's own count fails here."""
    run_all(2, [sys.executable, SCRIPT, tmp_path / "two", *FEW])
    for name in FEW:
        task, source, settings = process_cases.CASES[name]()
        fit(task, source, settings, tmp_path / "one" / name, seed=0, title=name)
        alike(name, tmp_path / "one" / name, tmp_path / "two" / name)


@pytest.mark.slow
def test_weights_that_are_split_over_processes_learn_as_whole_ones(tmp_path: Path) -> None:
    """FSDP: clipping by the norm of all parts, momentum or Adam's moments of parts, several forwards of a block in a
    step (pairs of photos, cuts, scales), frozen and pretrained weights, weights drawn to where they started."""
    names = ("mcis", "cam, drawn to the start", "ppl explicit", "segmenter, adam", "segmenter, scales")
    run_all(2, [sys.executable, SCRIPT, tmp_path / "two", "--sharded", *names])
    for name in names:
        task, source, settings = process_cases.CASES[name]()
        fit(task, source, settings, tmp_path / "one" / name, seed=0, title=name)
        alike(name, tmp_path / "one" / name, tmp_path / "two" / name, atol=tolerance(settings))


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [2, 4])
def test_every_training_of_several_processes_is_that_of_one(count: int, tmp_path: Path) -> None:
    """Everything that is trained. With 4 processes some hold no photo of a batch of 1, 2 or 3."""
    run_all(count, [sys.executable, SCRIPT, tmp_path / "several"], timeout=2700)
    for name, case in process_cases.CASES.items():
        task, source, settings = case()
        fit(task, source, settings, tmp_path / "one" / name, seed=0, title=name)
        alike(name, tmp_path / "one" / name, tmp_path / "several" / name, atol=tolerance(settings))
