"""Relabelling: again only where the masks were believed; with what share of the balance undone. Slow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tag2mask.data.images import read_index_mask
from world import SMALL, manifest, run

DOUBTED = ("--refine", "none", "--relabel.refine", "none", "--pseudo.min-growth", "1", "--pseudo.max-growth", "0")


def masks(run_folder: Path, stage: str) -> list[np.ndarray]:
    return [read_index_mask(path) for path in sorted((run_folder / stage).glob("*.png"))]


def model(run_folder: Path, stage: str) -> dict[str, Tensor]:
    return load_file(run_folder / stage / "model.safetensors")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_segmenter_that_is_not_believed_relabels_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a limit of 1 every mask that is smaller is doubted, so that many are: two rounds give what one gives that
    has half of the balance undone."""
    once, twice, undone = (tmp_path / name for name in ("once", "twice", "undone"))
    assert run("train", world, "--out", once, *SMALL, *DOUBTED) == 0
    shutil.copytree(once, twice)
    shutil.copytree(once, undone)
    assert run("train", world, "--out", undone, *SMALL, *DOUBTED, "--relabel.prior-correction", "0.5") == 0
    assert manifest(once, "masks-1")["unrefined"] > 1, "of nine, so more than a tenth"
    capsys.readouterr()
    assert run("train", world, "--out", twice, *SMALL, *DOUBTED, "--relabel.rounds", "2") == 0
    assert "(more than --relabel.again-below 0.1): it does not learn from them" in capsys.readouterr().err
    assert "relabels a second time" in (twice / "passport.json").read_text()
    assert "relabels a second time" not in (once / "passport.json").read_text()
    assert same(model(twice, "segmenter-1"), model(twice, "segmenter-0"))
    pairs = list(zip(masks(once, "masks-1"), masks(undone, "masks-1"), strict=True))
    assert any((first != second).any() for first, second in pairs), "the masks of before are other ones"
    _same_masks(masks(undone, "masks-1"), masks(twice, "masks-2"))
    assert same(model(twice, "segmenter"), model(undone, "segmenter"))

    flags = ("--relabel.rounds", "2", "--relabel.doubted-correction", "0")
    assert run("train", world, "--out", twice, *SMALL, *DOUBTED, *flags) == 0
    _same_masks(masks(once, "masks-1"), masks(twice, "masks-2"))

    flags = ("--relabel.rounds", "2", "--relabel.again-below", "1")
    assert run("train", world, "--out", twice, *SMALL, *DOUBTED, *flags) == 0
    assert "does not learn from them" not in capsys.readouterr().err
    assert not same(model(twice, "segmenter-1"), model(twice, "segmenter-0"))
    assert not same(model(twice, "segmenter"), model(once, "segmenter"))


def _same_masks(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_balance_is_undone_in_relabelled_masks_where_asked(world: Path, tmp_path: Path) -> None:
    """The segmenter is the same, its masks are not: a share of the weights of rare labels is taken from its logits."""
    flags = ("--refine", "none", "--relabel.refine", "none", "--pseudo.min-growth", "0")
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("train", world, "--out", first, *SMALL, *flags) == 0
    shutil.copytree(first, second)
    assert run("train", world, "--out", second, *SMALL, *flags, "--relabel.prior-correction", "1") == 0
    assert same(model(first, "segmenter-0"), model(second, "segmenter-0"))
    pairs = list(zip(masks(first, "masks-1"), masks(second, "masks-1"), strict=True))
    assert any((before != after).any() for before, after in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["segmenter-train", "relabel-train"])
def test_advice_names_the_training_that_failed(
    training: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (f"--{training}.learning-rate", "1e6", f"--{training}.start-decay", "0", f"--{training}.max-grad-norm", "0")
    assert run("train", world, "--out", tmp_path / "run", *SMALL, *flags, f"--{training}.epochs", "9") == 2
    assert f"lower --{training}.learning-rate" in capsys.readouterr().err


@pytest.mark.slow
def test_the_segmenter_is_drawn_by_default_which_the_passport_says(world: Path, tmp_path: Path) -> None:
    flags = (*SMALL, "--backbone", "tf_efficientnet_lite0", "--weights", "auto", "--relabel.rounds", "0")
    free, drawn = tmp_path / "free", tmp_path / "drawn"
    assert run("train", world, "--out", drawn, *flags) == 0
    shutil.copytree(drawn, free)
    assert run("train", world, "--out", free, *flags, "--segmenter-train.start-decay", "0") == 0
    assert same(model(free, "method"), model(drawn, "method"))
    assert not same(model(free, "segmenter"), model(drawn, "segmenter"))
    said = "stays near its pretrained weights"
    assert said in (drawn / "passport.json").read_text() and said not in (free / "passport.json").read_text()
