"""Saliency without labels: the background by hand, what it learns of planted photos, a run, bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tag2mask.backbones.attention import Heads
from tag2mask.data.settings import SELF_SUPERVISED, DataSettings
from tag2mask.errors import InputError
from tag2mask.saliency.self_supervised import (
    SelfSupervisedDetector,
    SelfSupervisedSettings,
    background,
    check_backbone,
    key_channels,
    train,
)
from vits import tiny_siglip, tiny_vit
from world import SMALL, fails, made_of, redone, run, stamps


def test_the_background_by_hand() -> None:
    """Two heads, a class token and a register before four cells. The paper's formulas in plain Python are the oracle;
    without the weights of the heads another cell would be the background's."""
    random = torch.Generator().manual_seed(14)
    queries, keys, values = (torch.randn(1, 2, 6, 3, generator=random) for _ in range(3))
    heads = Heads(2 * queries, keys, values)
    attention = [[float(heads.weights[0, h, 0, 2 + p]) for p in range(4)] for h in range(2)]
    mean = sum(map(sum, attention)) / 8
    share = [sum(a > mean for a in of_head) / 4 for of_head in attention]
    assert min(share) > 0 and share[0] != share[1]
    weight = [math.log(sum(share) / q) for q in share]
    sums = [sum(weight[h] * attention[h][p] for h in range(2)) for p in range(4)]
    seed = sums.index(min(sums))
    vectors = [np.concatenate([weight[h] * keys[0, h, 2 + p].numpy() for h in range(2)]) for p in range(4)]
    cosines = [v @ vectors[seed] / np.linalg.norm(v) / np.linalg.norm(vectors[seed]) for v in vectors]
    for likeness in (-0.5, 0.0, 0.3, 0.9):
        expected = [bool(cosine > likeness) for cosine in cosines]
        assert background(heads, 2, likeness)[0].tolist() == expected and expected[seed]


def photo(row: int, column: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A textured square on a flat ground."""
    image = np.full((height, width, 3), 90, np.uint8)
    texture = np.random.default_rng(row + column).integers(150, 256, (20, 20, 3))
    image[row : row + 20, column : column + 20] = texture
    return image


def test_what_stands_out_is_learnt_from_photos_alone() -> None:
    """A small network without positions; with these weights its class token attends to texture, as DINO's does."""
    backbone = tiny_vit(pos_embed="none").eval()
    settings = SelfSupervisedSettings(photos=6, long_side=96, precision="float32")
    photos = [photo(4 * i, 8 * i) for i in range(8)]
    network = train(backbone, [lambda p=p: p for p in photos], settings, seed=0)
    assert network.classifier.weight.shape == (1, key_channels(backbone), 1, 1)
    new = SelfSupervisedDetector(network, backbone, settings)(photo(32, 60))
    assert new.shape == (16, 24) and 0 <= new.min() <= new.max() <= 1
    inside = np.zeros((16, 24), bool)
    inside[8:13, 15:20] = True
    assert new[inside].mean() > 0.8 and new[~inside].mean() < 0.2


def test_networks_that_do_not_serve() -> None:
    with pytest.raises(InputError, match="reads the attention of a class token"):
        check_backbone(tiny_siglip())
    assert DataSettings(saliency=SELF_SUPERVISED).absolute().saliency == SELF_SUPERVISED


RUN = [
    *SMALL,
    "--method",
    "eps",
    "--refine",
    "none",
    "--saliency",
    "self-supervised",
    "--self-supervised.long-side",
    "72",
]


@pytest.mark.slow
def test_a_run_learns_them_from_photos_and_says_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [*RUN, "--backbone", "tiny_vit_for_tests"]
    assert run("label", world, "--out", out, *flags, "--freeze") == 0
    assert made_of(out, "saliency-network")["facts"].keys() == {"photos", "weights"}  # neither tags nor truth
    assert made_of(out, "method")["reads"].keys() == {"saliency"}
    assert len(list((out / "saliency").glob("*.png"))) == 9
    passport = json.loads((out / "passport.json").read_text())
    assert passport["signals"] == ["image-level tags"]
    line = "a linear classifier on the frozen keys of tiny_vit_for_tests, trained without labels"
    assert passport["learned_from"]["saliency"] == {"source": line, "model_saw_masks": False}
    assert f"saliency maps made in the run by {line}" in (out / "report.html").read_text()
    before = stamps(out)
    assert run("label", world, "--out", out, *flags, "--freeze") == 0
    assert redone(before, stamps(out)) == set()
    said = fails(capsys, "label", world, "--out", tmp_path / "other", *RUN)
    assert "--backbone resnet10t has no attention to read" in said and not (tmp_path / "other").exists()


def test_the_same_in_other_units() -> None:
    """Logits of keys are what a linear layer gives."""
    from tag2mask.saliency import SelfSupervisedSaliency

    network, keys = SelfSupervisedSaliency(5), torch.randn(7, 5)
    expected = F.linear(keys, network.classifier.weight[:, :, 0, 0], network.classifier.bias)[:, 0]
    torch.testing.assert_close(network(keys), expected)
