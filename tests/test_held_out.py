"""Held-out photos: which, how well their tags are predicted, and what a run says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import world as small
from tag2mask.data.augment import AugmentSettings
from tag2mask.recipes import RECIPES, recipe
from tag2mask.stages.attempts import best_of_two, gentler
from tag2mask.training import TagPrecision, TrainSettings, schedule
from tag2mask.training.held_out import average_precision, hold_out, tag_precision
from world import SMALL, manifest, run


def test_every_class_and_the_photos_without_any_give_their_share() -> None:
    labels = [frozenset({i % 3}) for i in range(90)] + [frozenset() for _ in range(60)]
    held = hold_out(labels, 0.2, seed=0)
    kinds = (frozenset({0}), frozenset({1}), frozenset({2}), frozenset())
    counts = [sum(labels[i] == kind for i in held) for kind in kinds]
    assert counts == [6, 6, 6, 12]
    assert held == hold_out(labels, 0.2, seed=0) != hold_out(labels, 0.2, seed=1)


def test_a_rare_class_keeps_its_photos() -> None:
    labels = [frozenset({0})] * 100 + [frozenset({1})] * 9
    assert all(labels[i] == {0} for i in hold_out(labels, 0.2, seed=0))
    assert hold_out([frozenset({0})] * 8, 0.2, seed=0) == []


def test_photos_of_two_classes_count_for_both() -> None:
    labels = [frozenset({0, 1})] * 50
    assert len(hold_out(labels, 0.2, seed=0)) == 10


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=40, unique_by=lambda x: x[0]))
def test_average_precision_is_the_mean_precision_at_each_tagged_photo(photos: list[tuple[int, bool]]) -> None:
    scores, tagged = (np.array(column)[:, None] for column in zip(*photos, strict=True))
    expected = []
    for score, is_tagged in photos:
        if is_tagged:
            above = [other for value, other in photos if value >= score]
            expected.append(sum(above) / len(above))
    found = average_precision(scores, tagged)[0]
    assert found == pytest.approx(np.mean(expected)) if expected else np.isnan(found)


def test_equal_scores_are_no_knowledge() -> None:
    tagged = np.array([[True], [False], [False], [False]])
    assert average_precision(np.zeros((4, 1)), tagged)[0] == pytest.approx(0.25)


def test_photos_whose_tags_are_not_known_are_not_held_out() -> None:
    labels: list[frozenset[int] | None] = [None] * 50 + [frozenset({0})] * 50
    held = hold_out(labels, 0.1, seed=0)
    assert len(held) == 5 and min(held) >= 50


def test_a_photo_of_a_rare_class_is_not_held_out_for_another() -> None:
    labels = [frozenset({0, 1})] * 5 + [frozenset({0})] * 20
    held = [hold_out(labels, 0.4, seed=seed, minimum=3) for seed in range(20)]
    assert all(len(of_seed) == 10 and min(of_seed) >= 5 for of_seed in held)


def test_a_class_is_learnt_where_its_precision_is_nearer_to_one_than_to_guessing() -> None:
    tagged = np.array([[True, True], [True, False], [False, True], [False, False]])
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.2, 0.2], [0.1, 0.8]])
    first, second = tag_precision(scores, tagged, ("cat", "dog"))
    assert (first.name, first.average_precision, first.learnt) == ("cat", 1.0, True)
    assert second.average_precision == pytest.approx((1 / 3 + 2 / 4) / 2) and second.share == 0.5 and not second.learnt
    assert [row.name for row in tag_precision(scores, tagged * [True, False], ("cat", "dog"))] == ["cat"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with a third of its photos held out, and the report's text."""
    folder = tmp_path_factory.mktemp("held")
    data = small.make(folder / "data", train=24)
    assert run("label", data, "--out", folder / "run", *SMALL, "--held-out", "0.35", "--references", "2") == 0
    return folder / "run", (folder / "run" / "report.html").read_text()


def test_a_run_says_how_well_held_out_tags_are_predicted(held_out: tuple[Path, str]) -> None:
    out, report = held_out
    rows = manifest(out, "method")["held_out"]
    assert [row["name"] for row in rows] == ["disc", "bar"] and all(row["photos"] == rows[0]["photos"] for row in rows)
    assert all(0 < row["average_precision"] <= 1 and 0 < row["tagged"] < row["photos"] < 24 for row in rows)
    assert f"Tags of {rows[0]['photos']} photos that the method did not learn from" in report
    assert len(list((out / "masks").glob("*.png"))) == 24, "held-out photos get masks, too"


def test_held_out_photos_teach_nothing(held_out: tuple[Path, str], tmp_path: Path) -> None:
    """Their pixels may change, the method's weights do not. (What is held out depends on tags and seed alone.)"""
    out, _ = held_out
    data = small.make(tmp_path / "data", train=24)
    lines = (data / "tags.csv").read_text().splitlines()[1:25]
    labels = [frozenset(("disc", "bar").index(tag) for tag in line.split(",")[1].split(";")) for line in lines]
    held = hold_out(labels, 0.35, seed=0)
    assert len(held) == manifest(out, "method")["held_out"][0]["photos"]
    for index in held:
        path = data / "images" / f"photo{index:02d}.png"
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert run("label", data, "--out", tmp_path / "run", *SMALL, "--held-out", "0.35", "--references", "2") == 0
    model = "method/model.safetensors"
    assert (tmp_path / "run" / model).read_bytes() == (out / model).read_bytes()
    assert manifest(tmp_path / "run", "method")["held_out"] != manifest(out, "method")["held_out"]


def with_random_tags(folder: Path) -> Path:
    data = small.make(folder, train=40, truth=False)
    head, *lines = (data / "tags.csv").read_text().splitlines()
    random = np.random.default_rng(3)
    tags = [("disc", "bar", "disc;bar")[k] for k in random.integers(0, 3, len(lines))]
    changed = [f"{line.split(',')[0]},{tag},{line.split(',')[2]}" for line, tag in zip(lines, tags, strict=True)]
    (data / "tags.csv").write_text("\n".join([head, *changed]) + "\n")
    return data


@pytest.mark.slow
def test_a_class_that_was_not_learnt_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tags at random cannot be learnt."""
    data = with_random_tags(tmp_path / "data")
    with caplog.at_level("WARNING", "tag2mask"):
        logging.getLogger("tag2mask").propagate = True
        assert run("label", data, "--out", tmp_path / "run", *SMALL, "--held-out", "0.4") == 0
    missed = [r for r in manifest(tmp_path / "run", "method")["held_out"]
              if r["average_precision"] < (1 + r["tagged"] / r["photos"]) / 2]  # fmt: skip
    assert missed
    assert (
        "Not learnt from its tags, so its maps and masks mean little" in (tmp_path / "run" / "report.html").read_text()
    )


@pytest.mark.parametrize("per_epoch", [1, 31, 37, 157, 625])
def test_auto_trains_300_steps_or_an_epoch(per_epoch: int) -> None:
    epochs = TrainSettings(epochs="auto").resolved(per_epoch).epochs
    assert epochs != "auto" and TrainSettings(epochs="auto").steps(per_epoch) == max(300, per_epoch)
    of_segmenters = TrainSettings(epochs="auto", auto_steps=150, minimum_epochs=5.0)
    assert of_segmenters.steps(per_epoch) == max(150, 5 * per_epoch)
    assert TrainSettings(epochs=0.5).resolved(per_epoch).epochs == 0.5
    assert TrainSettings(epochs="auto").times(2).epochs == 10


def test_milestones_of_auto_are_of_the_epochs_that_it_comes_to() -> None:
    settings = TrainSettings(epochs="auto", milestones=(6.0,), warmup=0.0, power=0.0).resolved(30)
    assert [round(schedule(step, 300, settings), 3) for step in (179, 180)] == [1.0, 0.1]


def test_auto_on_the_command_line(world: Path, tmp_path: Path) -> None:
    flags = [flag for flag in SMALL if flag not in ("--epochs", "1")]
    assert run("plan", world, "--out", tmp_path / "run", "--epochs", "auto", "--backbone", "resnet10t") == 0
    assert "--epochs" not in flags


@pytest.mark.parametrize("name", [n for n in RECIPES if "/" in n or n in ("eps", "smaf")])
def test_the_papers_recipes_train_on_all_photos_for_their_epochs(name: str) -> None:
    assert recipe(name).held_out == 0 and recipe(name).train.epochs != "auto"


# --- a second training where classes were not learnt -------------------------------------------------------------


def rows(*values: float) -> list[TagPrecision]:
    return [TagPrecision(f"class{i}", value, 3, 12) for i, value in enumerate(values)]


def training(folder: Path, name: str, result: list[TagPrecision], done: list[str], fails: bool = False):
    def train() -> list[TagPrecision]:
        done.append(name)
        if fails:
            raise KeyboardInterrupt
        (folder / "model.safetensors").write_text(name)
        (folder / "log.jsonl").write_text(name)
        return result

    return train


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [((0.9, 0.9), None, "first"), ((0.9, 0.2), (0.8, 0.7), "second"), ((0.9, 0.2), (0.5, 0.3), "first")],
)
def test_what_predicts_tags_better_is_kept(
    first: tuple[float, ...], second: tuple[float, ...] | None, kept: str, tmp_path: Path
) -> None:
    done: list[str] = []
    again = training(tmp_path, "second", rows(*second or ()), done)
    found, is_second = best_of_two(tmp_path, training(tmp_path, "first", rows(*first), done), again)
    assert done == (["first"] if second is None else ["first", "second"])
    assert found == rows(*(second if kept == "second" and second else first)) and is_second == (kept == "second")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "model.safetensors": kept,
        "log.jsonl": kept,
    }


@pytest.mark.parametrize("lost", [None, "first.json", "first-model.safetensors"])
def test_an_interrupted_second_training_goes_on_without_the_first(lost: str | None, tmp_path: Path) -> None:
    done: list[str] = []
    first, again = training(tmp_path, "first", rows(0.2), done), training(tmp_path, "second", rows(0.9), done)
    with pytest.raises(KeyboardInterrupt):
        best_of_two(tmp_path, first, training(tmp_path, "second", [], done, fails=True))
    if lost:
        (tmp_path / lost).unlink()
    assert best_of_two(tmp_path, first, again) == (rows(0.9), True)
    assert done[2:] == (["first", "second"] if lost else ["second"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "model.safetensors"]


def test_gentler_views_are_within_their_scales() -> None:
    assert gentler(AugmentSettings(scale=(0.7, 1.7))) == AugmentSettings(scale=(0.8, 1.25))
    assert gentler(AugmentSettings(scale=(0.9, 2.0))) == AugmentSettings(scale=(0.9, 1.25))
    assert gentler(AugmentSettings(scale=(0.85, 1.1))) is None


@pytest.mark.slow
def test_a_run_trains_again_with_gentler_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tags at random are not learnt by views of any scale. Only where the number of epochs is left to the program."""
    data = with_random_tags(tmp_path / "data")
    flags = [*SMALL, "--held-out", "0.4", "--train.batch-size", "48"]
    assert run("label", data, "--out", tmp_path / "fixed", *flags) == 0
    assert "training again" not in capsys.readouterr().err
    assert run("label", data, "--out", tmp_path / "auto", *flags, "--epochs", "auto", "--train.auto-steps", "2") == 0
    assert "training again with views that cut less of a photo away" in capsys.readouterr().err
    found = manifest(tmp_path / "auto", "method")
    assert found["held_out"] and found.get("scale", [0.8, 1.25]) == [0.8, 1.25]
    assert not list((tmp_path / "auto" / "method").glob("first*"))
