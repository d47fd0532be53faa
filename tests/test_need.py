"""Signs that a mask is wrong, without truth: by hand, against scipy and all pairs, and on a run with a spoilt mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu, rankdata

from tag2mask import need, pipeline
from tag2mask.data.images import write_index_mask
from tag2mask.plan.folder import Run
from world import SMALL, run


def test_dice_by_hand() -> None:
    one = np.array([[0, 1, 1, 2], [0, 0, 255, 2]], np.uint8)
    other = np.array([[1, 1, 1, 2], [0, 3, 1, 0]], np.uint8)
    # decided by both: class 1: 2 * 2 / (2 + 3), class 2: 2 * 1 / (2 + 1), class 3: 0
    assert need.dice(one, other) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3) == need.dice(other, one)
    assert need.dice(one, one) == 1 and need.dice(np.zeros_like(one), np.zeros_like(one)) == 1
    assert need.dice(one, None) == 0


def test_ranks_and_auroc_are_scipys() -> None:
    random = np.random.default_rng(0)
    for size in (2, 7, 40):
        values = random.integers(0, 5, size).astype(float)  # with ties
        np.testing.assert_allclose(need.ranks(values), (rankdata(values) - 1) / (size - 1))
        worst = random.random(size) < 0.4
        if worst.any() and not worst.all():
            expected = mannwhitneyu(values[worst], values[~worst]).statistic / (worst.sum() * (~worst).sum())
            assert need.auroc(values, worst) == pytest.approx(expected)
    assert np.isnan(need.auroc(np.ones(3), np.zeros(3, bool)))


def test_a_mask_that_differs_from_its_maps_needs_a_person_most(world: Path, tmp_path: Path) -> None:
    # coarse maps: from fine ones of a network that learnt nothing the CRF's masks differ as much
    assert run("label", world, "--out", tmp_path / "run", *SMALL, "--localize.no-fine") == 0
    before = need.scores(pipeline.reopen(Run(tmp_path / "run", existing=True)))
    assert len(before) == 9 and min(before.values()) == 0 and max(before.values()) == 1
    calm = min(before, key=lambda key: before[key])
    path = next((tmp_path / "run" / "masks").glob(f"{calm[1]}*.png"))
    mask = np.asarray(Image.open(path))
    write_index_mask(path, np.where(mask == 0, mask.max(), 0).astype(np.uint8))
    after = need.scores(pipeline.reopen(Run(tmp_path / "run", existing=True)))
    assert after[calm] > 0.4 + before[calm]  # the disagreement is the largest; its uncertainty is still small
