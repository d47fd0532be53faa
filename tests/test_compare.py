"""Runs side by side: figures against evaluate's own, the bootstrap against what is known of means, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask import evaluate, pipeline
from tag2mask.compare import compare, statistics
from tag2mask.compare.comparison import Figure, _check_alike, _seed_error, short_names
from tag2mask.compare.measured import open_run
from tag2mask.compare.page import html
from tag2mask.compare.statistics import (
    Interval,
    class_iou,
    draws,
    mean_iou,
    paired_difference,
    resampled,
    runs_resampled,
)
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from world import SMALL, fails, make, run


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of one setting, though something that decides nothing differs, and another setting."""
    root = tmp_path_factory.mktemp("runs")
    for name, flags in (
        ("a", ()),
        ("b", ("--seed", 1, "--train.checkpoint-minutes", 9)),
        ("c", ("--threshold", 0.9, "--refine", "none")),
    ):
        assert run("label", world, "--out", root / name, *SMALL, *flags) == 0
    return {name: root / name for name in "abc"}


def test_figures_are_those_of_evaluate() -> None:
    random = np.random.default_rng(0)
    truth, masks = (random.integers(0, 4, (5, 20, 30)).astype(np.uint8) for _ in range(2))
    masks[:, :3] = 255
    scores = [evaluate.Scores.of(t, m, ("a", "b", "c", "d")) for t, m in zip(truth, masks, strict=True)]
    confusions = np.stack([s.confusion for s in scores])
    total = sum(scores[1:], scores[0])
    assert mean_iou(confusions.sum(0)) == pytest.approx(total.mean_iou)
    np.testing.assert_allclose(class_iou(confusions.sum(0)), total.iou)  # NaN for class d in both
    counts = np.array([[1, 1, 1, 1, 1], [0, 0, 5, 0, 0]])
    np.testing.assert_allclose(resampled(confusions, [counts]), [total.mean_iou, scores[2].mean_iou])


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """One class, photos of a hundred pixels, each wholly right or wholly missed: the IoU of the class is the share of
    right photos, a mean whose standard error is known."""
    right = np.random.default_rng(1).random(400) < 0.7
    confusions = np.zeros((400, 2, 3), np.int64)
    confusions[:, 1, 1], confusions[:, 1, 2] = 100 * right, 100 * ~right
    counts = draws(400, 4000)
    assert all((block.sum(1) == 400).all() for block in counts)
    values = resampled(confusions, counts)
    expected = 100 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert values.std() == pytest.approx(expected, rel=0.06)
    assert values.mean() == pytest.approx(100 * right.mean(), abs=0.2)


@pytest.mark.parametrize("part", [1, 7, 50, 1 << 24])
def test_blocks_change_no_number(monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Against all draws at once, times all matrices at once."""
    monkeypatch.setattr(statistics, "PART", part)
    runs = np.random.default_rng(4).integers(0, 9000, (2, 11, 3, 4)).astype(np.uint32)
    blocks = draws(11, 40, seed=5)
    counts = np.random.default_rng(5).multinomial(11, np.full(11, 1 / 11), 40)
    np.testing.assert_array_equal(np.concatenate([*blocks]), counts)
    assert part > 11 or max(map(len, blocks)) == 1
    expected = [mean_iou((counts @ flat.reshape(11, -1).astype(float)).reshape(40, 3, 4)) for flat in runs]
    np.testing.assert_array_equal(runs_resampled([*runs], blocks), expected)


def test_a_difference_within_the_spread_of_the_seeds_is_said() -> None:
    def figure(value: float, low: float, error: float | None) -> Figure:
        return Figure((1.0,), Interval(1.0, 0, 2), None, {}, Interval(value, low, 9.0), error)

    assert figure(3.0, 1.0, 0.5).said == "+3.0 [+1.0, +9.0]"
    assert figure(3.0, 1.0, 2.0).said.endswith("within the noise of the seeds")
    assert figure(3.0, -1.0, 0.5).said.endswith("within the noise of the photos")
    assert figure(3.0, 1.0, None).said == "+3.0 [+1.0, +9.0]"  # one seed: what others give is not known
    assert Figure((1.0,), Interval(1.0, 0, 2), None, {}, None).said == ""
    assert _seed_error([1.0, 3.0], [5.0, 5.0]) == pytest.approx(1.0) and _seed_error([1.0], [2.0, 3.0]) is None


def test_runs_that_have_nothing_in_common_are_one_line() -> None:
    """Of three runs each has something in common with the first, and all of them nothing."""

    def run_with(*kinds: str) -> Any:
        photos = {kind: [("val", "a"), ("val", "b")] for kind in kinds}
        known = {key: SimpleNamespace(digest="") for key in [("val", "a"), ("val", "b")]}
        execution = SimpleNamespace(data=SimpleNamespace(photos=known))
        confusions = {kind: np.ones((2, 2, 3)) for kind in kinds}
        return SimpleNamespace(name="x", classes=("c",), photos=photos, execution=execution, confusions=confusions)

    both, masks, predictions = run_with("masks", "predictions"), run_with("masks"), run_with("predictions")
    _check_alike([both, masks])
    with pytest.raises(InputError, match="nothing was measured in all of these runs"):
        _check_alike([both, masks, predictions])


def test_pairs_are_compared_photo_by_photo() -> None:
    """A run that is better by a little on every photo is better for sure, though both vary much between photos."""
    random = np.random.default_rng(2)
    share = random.integers(100, 900, 60)
    worse, better = np.zeros((60, 2, 3), np.int64), np.zeros((60, 2, 3), np.int64)
    for side, hits in ((worse, share), (better, share + 20)):
        side[:, 1, 1], side[:, 1, 0], side[:, 0, 0] = hits, 1000 - hits, 5000
    counts = draws(60)
    sure = paired_difference([better], [worse], counts)
    assert sure.excludes_zero and 1 < sure.low <= sure.value <= sure.high
    shuffled = paired_difference([better[random.permutation(60)]], [worse], counts)
    assert not shuffled.excludes_zero and shuffled.high - shuffled.low > 5 * (sure.high - sure.low)
    same = paired_difference([worse], [worse], counts)
    assert (same.low, same.value, same.high) == (0, 0, 0) and not same.excludes_zero


def test_seeds_are_one_row_and_settings_are_named(runs: dict[str, Path]) -> None:
    found = compare([runs["a"], runs["b"], runs["c"]])
    both, other = found.rows
    assert [len(row.runs) for row in found.rows] == [2, 1] and both.name == "a and 1 more"
    assert other.differs == {"pseudo.threshold": "0.9", "refine": "none"} and not both.differs
    assert found.kinds == ("masks",) and found.one_supervision
    figure = both.figures["masks"]
    scores = [json.loads((runs[n] / "scores" / "scores.json").read_text())["masks"] for n in "ab"]
    np.testing.assert_allclose(figure.seeds, [s["mean_iou"] for s in scores], atol=1e-3)
    assert figure.spread == pytest.approx(np.std(figure.seeds, ddof=1))
    assert figure.mean.low <= figure.mean.value <= figure.mean.high
    mean = np.mean([s["iou"]["disc"] for s in scores])
    assert figure.classes["disc"] == pytest.approx(mean, abs=1e-3)
    difference = other.figures["masks"].difference
    assert difference is not None
    assert difference.value == pytest.approx(other.figures["masks"].seeds[0] - np.mean(figure.seeds))


def test_runs_of_other_weights_are_no_seeds_of_one_row(world: Path, tmp_path: Path) -> None:
    """By the bytes of the file, not by its name: the same weights elsewhere are the same setting."""
    import timm
    from safetensors.torch import save_file

    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        save_file(timm.create_model("resnet10t").state_dict(), file := tmp_path / f"{name}.safetensors")
        assert run("label", world, "--out", tmp_path / name, *SMALL, "--seed", seed, "--weights", file) == 0
    found = compare([tmp_path / "one", tmp_path / "two"])
    assert [row.name for row in found.rows] == ["one", "two"]
    assert list(found.rows[1].differs) == ["weights, by content"] and "weights, by content" in html(found)
    described = shutil.copytree(tmp_path / "one", tmp_path / "moved") / "run.json"
    (tmp_path / "one.safetensors").rename(tmp_path / "elsewhere.safetensors")
    described.write_text(described.read_text().replace("one.safetensors", "elsewhere.safetensors"))
    assert open_run(tmp_path / "moved", "moved").alike == found.rows[0].runs[0].alike


def test_a_seed_that_was_run_again_is_no_other_seed(runs: dict[str, Path], tmp_path: Path) -> None:
    """It would halve the spread and count the same draw twice."""
    shutil.copytree(runs["a"], tmp_path / "again")
    found = compare([runs["a"], runs["b"], tmp_path / "again"])
    assert [row.name for row in found.rows] == ["a and 1 more", "again"]
    assert found.rows[1].figures["masks"].spread is None and not found.rows[1].differs
    assert "rows of their own" in found.to_text()
    assert "rows of their own" not in compare([runs["a"], runs["b"]]).to_text()


def test_a_page_and_json(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "compare.html"
    assert run("compare", runs["a"], runs["c"], "--out", page, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in content["rows"]] == ["a", "c"]
    assert content["rows"][1]["masks"]["difference"]["low"] <= content["rows"][1]["masks"]["difference"]["high"]
    text = page.read_text()
    assert text.count("<article") >= 3 and "pseudo.threshold" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")  # nothing is fetched
    assert run("compare", runs["a"], runs["b"], runs["c"]) == 0
    said = capsys.readouterr().out
    assert "over 2 seeds" in said and "learned from image-level tags" in said
    assert "A row of one seed" in said and "A row of one seed" in text  # c has one
    assert "A row of one seed" not in compare([runs["a"], runs["b"]]).to_text()


def test_runs_that_learned_from_other_things_are_told_apart(runs: dict[str, Path]) -> None:
    found = compare([runs["a"], runs["c"]])
    told = replace(found.rows[1].runs[0], signals=("image-level tags", "saliency maps"))
    mixed = replace(found, rows=(found.rows[0], replace(found.rows[1], runs=(told,))))
    assert "did not learn from the same" in mixed.to_text() and "did not learn from the same" in html(mixed)
    assert "did not learn from the same" not in found.to_text()


def test_other_supervision_is_refused_unless_said(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tag2mask import passport

    honest = passport.signals
    told = lambda run: (*honest(run), "saliency maps") if run.run.folder.name == "c" else honest(run)  # noqa: E731
    monkeypatch.setattr(passport, "signals", told)
    line = fails(capsys, "compare", runs["a"], runs["c"])
    assert "a learned from image-level tags and c from image-level tags, saliency maps" in line and "--mixed" in line
    assert run("compare", runs["a"], runs["c"], "--mixed") == 0
    assert "did not learn from the same" in capsys.readouterr().out


def test_photos_are_measured_as_the_scores_of_a_run_measure_them(
    runs: dict[str, Path], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo of which all is known to be background is; one whose mask a person gave is not, and in no other run."""
    honest = pipeline.reopen

    def reopen(opened: Run) -> Execution:
        execution = honest(opened)
        first, second, *_ = execution.data.train.samples
        background = {first.key: replace(first, mask_path=None, all_background=True)}
        changed = [background.get(s.key, s) for s in execution.data.train.samples]
        execution.data.train = execution.data.train.with_samples(changed)
        if opened.folder.name == "c":
            execution.data.corrected = {second.key: second.image_path}
        return execution

    monkeypatch.setattr(pipeline, "reopen", reopen)
    found = compare([runs["a"], runs["b"]])
    assert [len(one.photos["masks"]) for one in found.rows[0].runs] == [9, 9] and found.taught == 0
    found = compare([runs["a"], runs["c"]], mixed=True)
    one, other = (row.runs[0].photos["masks"] for row in found.rows)
    assert one == other and len(one) == 8 and ("train", "photo00") in one and ("train", "photo01") not in one
    assert [len(row.runs[0].confusions["masks"]) for row in found.rows] == [8, 8]
    assert "1 photo is left out" in found.to_text() and "1 photo is left out" in html(found)


@pytest.mark.slow
def test_what_cannot_be_compared(
    runs: dict[str, Path], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "at least two runs" in fails(capsys, "compare", runs["a"])
    assert "named twice" in fails(capsys, "compare", runs["a"], runs["a"])
    assert "no run" in fails(capsys, "compare", runs["a"], tmp_path)
    fewer = make(tmp_path / "fewer", train=6)
    assert run("label", fewer, "--out", tmp_path / "d", *SMALL) == 0
    assert "different photos: 3 in a alone, 0 in d alone" in fails(capsys, "compare", runs["a"], tmp_path / "d")
    assert run("label", world, "--out", tmp_path / "e", *SMALL, "--classes", "disc") == 0
    assert "has the classes disc and a disc, bar" in fails(capsys, "compare", runs["a"], tmp_path / "e")
    blind = make(tmp_path / "blind", truth=False)
    assert run("label", blind, "--out", tmp_path / "f", *SMALL) == 0
    line = fails(capsys, "compare", runs["a"], tmp_path / "f")
    assert "no true masks to compare by" in line and f"label DATA --out {tmp_path / 'f'} --truth DIR` again" in line
    assert run("label", blind, "--out", tmp_path / "f", *SMALL, "--truth", world / "masks") == 0  # as it says
    assert run("compare", runs["a"], tmp_path / "f", "--mixed") == 0
    one = make(tmp_path / "one")
    for path in sorted((one / "masks").glob("*.png"))[1:]:
        path.unlink()
    for name, seed in (("g", 0), ("h", 1)):
        assert run("label", one, "--out", tmp_path / name, *SMALL, "--seed", seed) == 0
    assert "only one photo was measured" in fails(capsys, "compare", tmp_path / "g", tmp_path / "h")
    shutil.copytree(runs["a"], tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "masks")
    assert "holds no finished masks" in fails(capsys, "compare", runs["a"], tmp_path / "half")


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert short_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]


@pytest.mark.slow
def test_several_seeds_are_run_and_compared(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in a folder of its own, as the run with that seed would be; without truth they are run and not compared."""
    assert run("label", world, "--out", tmp_path / "runs", *SMALL, "--seeds", 0, 3) == 0
    said = capsys.readouterr().out
    assert "over 2 seeds" in said and (tmp_path / "runs" / "compare.html").exists()
    assert run("label", world, "--out", tmp_path / "three", *SMALL, "--seed", 3) == 0
    masks = [sorted((tmp_path / name / "masks").glob("*.png")) for name in ("runs/seed-3", "three")]
    assert len(masks[0]) == 9 and [p.read_bytes() for p in masks[0]] == [p.read_bytes() for p in masks[1]]
    for wrong in ("0", "1,1", "0,00", "a,b", "1.5,2"):
        assert "two or more different whole numbers" in fails(
            capsys, "label", world, "--out", tmp_path / "no", *SMALL, f"--seeds={wrong}"
        )
    assert "seed" in fails(capsys, "label", world, "--out", tmp_path / "no", *SMALL, f"--seeds=0,{2**64}")
    assert not (tmp_path / "no").exists()  # nothing was trained with the first
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "compare.html").write_text("mine")
    assert "no page of a comparison" in fails(capsys, "label", world, "--out", tmp_path / "full", *SMALL, "--seeds=0,1")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["compare.html"]


@pytest.mark.slow
def test_several_seeds_without_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = make(tmp_path / "blind", truth=False)
    assert run("label", blind, "--out", tmp_path / "runs", *SMALL, "--seeds", "0,1") == 0
    assert "2 runs" in (said := capsys.readouterr().out) and "not compared" in said and "no true masks" in said


@pytest.mark.slow
def test_predictions_of_trained_runs(world: Path, tmp_path: Path) -> None:
    assert run("train", world, "--out", tmp_path / "runs", *SMALL, "--seeds", "0,1") == 0
    found = compare([tmp_path / "runs" / "seed-0", tmp_path / "runs" / "seed-1"])
    assert found.kinds == ("masks", "predictions") and "New photos" in found.to_text()
    scores = json.loads((tmp_path / "runs" / "seed-1" / "scores" / "scores.json").read_text())
    assert found.rows[0].figures["predictions"].seeds[1] == pytest.approx(scores["predictions"]["mean_iou"], abs=1e-3)


@pytest.mark.slow
def test_runs_that_people_taught_stand_apart(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed with a person's masks is no seed of the run without, and those masks are the run's in neither."""
    plain, told, back = tmp_path / "plain", tmp_path / "told", tmp_path / "back"
    assert run("train", world, "--out", plain, *SMALL) == 0
    shutil.copytree(plain, told)
    back.mkdir()
    drawn = read_index_mask(world / "masks" / "photo00.png").copy()
    drawn[:3] = 1  # the run's own may be the truth
    write_index_mask(back / "photo00.png", drawn)
    assert run("import", told, back, "--from", "png") == 0
    assert run("train", world, "--out", told, *SMALL, "--seed", "1", "--with-masks") == 0
    assert "--mixed" in fails(capsys, "compare", plain, told)
    found = compare([plain, told], mixed=True)
    assert [len(row.runs[0].photos["masks"]) for row in found.rows] == [8, 8] and found.taught == 1
    assert set(found.rows[1].differs) == {"corrected masks, by content"}
    scores = json.loads((told / "scores" / "scores.json").read_text())["masks-1"]
    assert found.rows[1].figures["masks"].seeds[0] == pytest.approx(scores["mean_iou"], abs=1e-3)
