"""How often the segmenter relabels: again only where its masks were believed. Slow."""

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


def model(run_folder: Path, stage: str) -> dict[str, Tensor]:
    return load_file(run_folder / stage / "model.safetensors")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_a_segmenter_that_is_not_believed_relabels_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a limit of 1 every mask that is smaller is doubted, so that many are: two rounds give what one gives."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run("train", world, "--out", once, *SMALL, *DOUBTED) == 0
    shutil.copytree(once, twice)
    assert manifest(once, "masks-1")["unrefined"] > 1, "of nine, so more than a tenth"
    capsys.readouterr()
    assert run("train", world, "--out", twice, *SMALL, *DOUBTED, "--relabel.rounds", "2") == 0
    assert "(more than --relabel.again-below 0.1): it does not relabel again" in capsys.readouterr().err
    assert same(model(twice, "segmenter-1"), model(twice, "segmenter-0"))
    for path in sorted((once / "masks-1").glob("*.png")):
        np.testing.assert_array_equal(read_index_mask(twice / "masks-2" / path.name), read_index_mask(path))
    assert same(model(twice, "segmenter"), model(once, "segmenter"))

    flags = ("--relabel.rounds", "2", "--relabel.again-below", "1")
    assert run("train", world, "--out", twice, *SMALL, *DOUBTED, *flags) == 0
    assert "does not relabel again" not in capsys.readouterr().err
    assert not same(model(twice, "segmenter-1"), model(twice, "segmenter-0"))
    assert not same(model(twice, "segmenter"), model(once, "segmenter"))
