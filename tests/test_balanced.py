"""Photos of rare classes stand in the training set several times."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tag2mask.data.batches import balanced
from tag2mask.data.training.balanced import MOST, repeats
from tag2mask.feature_store import FeatureStore
from tag2mask.recipes import RECIPES, recipe, with_method
from tag2mask.types import Dataset, Sample
from world import SMALL, fails, run

TAGS = st.lists(st.one_of(st.none(), st.frozensets(st.integers(0, 3))), min_size=1, max_size=40)


def photos(labels: list[frozenset[int] | None]) -> Dataset:
    samples = [Sample(str(number), Path(f"{number}.png"), shown) for number, shown in enumerate(labels)]
    return Dataset("photos", ("a", "b", "c", "d"), samples)


def test_repeats_by_hand() -> None:
    """Eight photos of a, two of b, one of both; a photo of the rarer class counts as that."""
    a, b = frozenset({0}), frozenset({1})
    labels = [*[a] * 7, a | b, b, frozenset(), None]
    assert repeats(labels, 1.0).tolist() == [1] * 7 + [4, 4, 1, 1]
    assert repeats(labels, 0.5).tolist() == [1] * 7 + [2, 2, 1, 1]
    assert repeats([frozenset(), None], 1.0).tolist() == [1, 1]
    assert repeats([*[a] * 1000, b], 1.0)[-1] == MOST


@given(TAGS, st.floats(0.01, 1.0), st.integers(0, 5))
def test_every_photo_stands_there_in_its_order_as_often_as_its_factor_says(
    labels: list[frozenset[int] | None], balance: float, seed: int
) -> None:
    dataset = photos(labels)
    drawn = balanced(dataset, balance, seed)
    times = Counter(sample.id for sample in drawn.samples)
    for sample, factor in zip(dataset.samples, repeats(labels, balance), strict=True):
        assert int(factor) <= times[sample.id] <= int(factor) + 1
    assert list(dict.fromkeys(drawn.samples)) == list(dataset.samples)
    assert sorted(drawn.samples, key=lambda x: int(x.id)) == list(drawn.samples)
    assert balanced(dataset, balance, seed).samples == drawn.samples
    assert balanced(dataset, 0.0, seed) is dataset


def test_parts_of_a_time_come_out_in_the_mean_and_hang_on_the_seed() -> None:
    """300 photos of a, 200 of b: those of b are shown one and a half times."""
    dataset = photos([frozenset({0})] * 300 + [frozenset({1})] * 200)
    lengths = [len(balanced(dataset, 1.0, seed)) - 300 for seed in range(20)]
    assert len(set(lengths)) > 1 and abs(np.mean(lengths) - 300) < 8


def test_only_cam_as_the_default_trains_it_is_shown_rare_classes_more_often() -> None:
    """Other methods, and recipes whose epochs are counted, were measured without."""
    same = ("default", "small-objects")
    assert all(recipe(name).balance == (1.0 if name in same else 0.0) for name in RECIPES)
    assert with_method(recipe("default"), "ppl").balance == 0.0


@pytest.fixture
def one_bar(world: Path, tmp_path: Path) -> Path:
    """The small world, where one of nine photos is tagged bar."""
    data = tmp_path / "one-bar"
    shutil.copytree(world, data)
    lines = (data / "tags.csv").read_text().splitlines()
    rows = [line if number == 2 else line.replace(",disc;bar,", ",disc,") for number, line in enumerate(lines)]
    rows = [row if number == 2 else row.replace(",bar,", ",disc,") for number, row in enumerate(rows)]
    (data / "tags.csv").write_text("\n".join(rows) + "\n")
    return data


@pytest.mark.slow
def test_a_run_shows_rare_classes_more_often(one_bar: Path, tmp_path: Path) -> None:
    """One epoch of nine photos is two steps of four; with the only bar eight times it is four."""

    def steps(balance: str) -> int:
        out = tmp_path / f"run-{balance}"
        assert run("label", one_bar, "--out", out, *SMALL, "--balance", balance, "--refine", "none") == 0
        passport = json.loads((out / "passport.json").read_text())
        assert (balance == "1") == any("rare classes are shown" in line for line in passport["chosen_on_truth"])
        return json.loads((out / "method" / "log.jsonl").read_text().splitlines()[-1])["step"] + 1

    assert (steps("0"), steps("1")) == (2, 4)


def test_pairs_are_not_balanced(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "label", world, "--out", tmp_path / "run", *SMALL, "--method", "mcis", "--balance", "1")
    assert "give --balance 0" in said and not (tmp_path / "run").exists()


def test_stored_features_of_a_photo_are_computed_once(one_bar: Path, tmp_path: Path) -> None:
    """However often it stands in the training set."""
    out = tmp_path / "run"
    flags = ("--freeze", "--balance", "1", "--refine", "none", "--references", "0")
    counted = []
    fill = FeatureStore.fill

    def counting(self: FeatureStore, *arguments: Any) -> int:
        counted.append(fill(self, *arguments))
        return counted[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureStore, "fill", counting)
        assert run("label", one_bar, "--out", out, *SMALL, *flags) == 0
    assert counted[0] == 9 * 2  # plain and mirrored
