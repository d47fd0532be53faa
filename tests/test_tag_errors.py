"""Tags that lie: against a slow oracle, on tags that are made wrong, and through the commands to corrected tags."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tag2mask import data, need, pipeline, run_tags, tag_errors
from tag2mask.backbones import BackboneSettings
from tag2mask.data import DataSettings
from tag2mask.errors import InputError
from tag2mask.plan.folder import Run
from tag2mask.tag_errors import ranking
from tag2mask.tag_errors.table import write_table
from world import SMALL, fails, make, run

NETWORK = ("--backbone.name", "resnet10t", "--backbone.weights", "none")


def photos(count: int = 120, channels: int = 12, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features that tell the tags, but for noise."""
    random = np.random.default_rng(3)
    tags = random.random((count, classes)) < 0.35
    features = tags @ random.normal(0, 3, (classes, channels)) + random.normal(0, 1, (count, channels))
    return features.astype(np.float16), tags


def test_cross_fitting_is_ridge_regression_on_the_other_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By augmented least squares, a fold at a time; read in parts of other sizes than the folds."""
    monkeypatch.setattr(ranking, "PART", 33)
    features, tags = photos()
    folds = np.random.default_rng(0).permutation(len(tags)) % 5
    x = features.astype(float)
    x = (x - x.mean(0)) / x.std(0)
    for fold in range(5):
        learnt, left = x[folds != fold], x[folds == fold]
        mean, share = learnt.mean(0), tags[folds != fold].mean(0)
        ridge = np.sqrt(ranking.RIDGE * x.shape[1]) * np.eye(x.shape[1])
        rows = np.concatenate([learnt - mean, ridge])
        targets = np.concatenate([tags[folds != fold] - share, np.zeros((x.shape[1], tags.shape[1]))])
        weight = np.linalg.lstsq(rows, targets, rcond=None)[0]
        expected = (left - mean) @ weight + share
        np.testing.assert_allclose(ranking.cross_fitted(features, tags, folds)[folds == fold], expected, atol=1e-8)


def test_a_photo_has_no_say_in_its_own_doubt() -> None:
    """Would fail if a fold learned from itself: with tags turned over, its predictions stay."""
    features, tags = photos()
    folds = np.arange(len(tags)) % 5
    turned = np.where((folds == 2)[:, None], ~tags, tags)
    one, other = (ranking.cross_fitted(features, said, folds)[folds == 2] for said in (tags, turned))
    np.testing.assert_allclose(one, other, atol=1e-8)


def test_tags_that_were_made_wrong_come_first() -> None:
    features, tags = photos(200)
    said = tags.copy()
    bad = [(5, 0), (60, 1), (111, 2), (150, 0)]
    for row, label in bad:
        said[row, label] = ~said[row, label]
    of = ranking.doubts(features, said)
    predicted = ranking.cross_fitted(features, said, np.random.default_rng(0).permutation(len(said)) % ranking.FOLDS)
    first = np.argsort(-of.scores.ravel())[: len(bad)]
    assert {divmod(int(i), 3) for i in first} == set(bad)
    for c in range(3):
        p, shown = predicted[:, c], said[:, c]
        assert (of.wrong[:, c] == (shown & (p < p[~shown].mean()))).all()
        assert (of.missing[:, c] == (~shown & (p > p[shown].mean()))).all()


def test_nothing_is_said_of_a_class_with_few_photos() -> None:
    features, tags = photos()
    tags[:, 0] = False
    tags[: ranking.FEW - 1, 0] = True
    of = ranking.doubts(features, tags)
    assert not of.scores[:, 0].any() and not of.wrong[:, 0].any() and of.scores[:, 1].any()


def test_nothing_is_said_of_a_class_that_the_features_do_not_tell() -> None:
    """By chance half of its tags would look wrong."""
    features, tags = photos(200)
    for seed in range(5):
        tags[:, 1] = np.random.default_rng(seed).random(200) < 0.4
        of = ranking.doubts(features, tags)
        assert of.told.tolist() == [True, False, True], seed
        assert not (of.wrong[:, 1] | of.missing[:, 1]).any() and not of.scores[:, 1].any()


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photos, and the tags of one of them made wrong."""
    root = make(tmp_path_factory.mktemp("doubtful") / "data", train=60, val=3)
    tags = (root / "tags.csv").read_text().replace("photo03.png,disc,", "photo03.png,bar,")
    (root / "tags.csv").write_text(tags)
    return root


class Watched(np.ndarray):
    """Remembers how many whole rows were read at once."""

    most = 0

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if np.ndim(found) == 2:
            Watched.most = max(Watched.most, len(found))
        return found


def test_a_photo_that_cannot_be_read_brings_no_file_into_memory(
    doubtful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are read a part at a time with it as without it, and all other photos are judged as without it."""
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float16)
    features[7] = np.nan
    monkeypatch.setattr(tag_errors, "write_features", lambda *_: features.view(Watched))
    monkeypatch.setattr(ranking, "PART", 10)
    loaded = data.load(doubtful)
    errors = tag_errors.find(loaded, BackboneSettings())
    assert 0 < Watched.most <= 10 and errors.unreadable == 1
    tags = np.array([[c in (s.labels or ()) for c in range(2)] for s in loaded.samples])
    left = np.delete(np.arange(60), 7)
    of = ranking.doubts(features[left], tags[left]).of_photos
    expected = {loaded.samples[int(place)].key: round(float(doubt), 4) for place, doubt in zip(left, of, strict=True)}
    assert {photo.key: photo.doubt for photo in errors.photos} == expected


@pytest.mark.slow
def test_the_table_comes_back_as_tags(doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Corrected with a person's program and given with --tags: the corrected tags are read, all other as before."""
    table = tmp_path / "tags.csv"
    assert run("tags", doubtful, *NETWORK, "--out", table) == 0
    assert "of 60 photos" in capsys.readouterr().out
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 63 and [row["split"] for row in rows] == ["train"] * 60 + ["val"] * 3
    scores = [float(row["doubt"]) for row in rows[:60]]
    assert scores == sorted(scores, reverse=True) and not rows[60]["doubt"]
    for row in rows:
        row["tags"] = "disc" if row["image"] == "photo03.png" else row["tags"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    before = {s.id: s.labels for s in data.load(doubtful).samples}
    after = {s.id: s.labels for s in data.load(doubtful, DataSettings(tags=table)).samples}
    assert after == {**before, "photo03": frozenset({0})} != before
    assert "may hold corrections" in fails(capsys, "tags", doubtful, "--out", table)


def test_a_class_that_would_come_back_as_two_is_refused(doubtful: Path, tmp_path: Path) -> None:
    loaded = data.load(doubtful)
    for name in ("a;b", "a|b"):
        bad = replace(loaded, classes=("disc", name))
        with pytest.raises(InputError, match=r"the class 'a[;|]b' has a ; or \| in its name"):
            write_table(tmp_path / "tags.csv", [bad], tag_errors.TagErrors(()))
        assert not (tmp_path / "tags.csv").exists()
    write_table(tmp_path / "tags.csv", [loaded], tag_errors.TagErrors(()))


def test_bad_input(doubtful: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "10 photos with it and 10 without it" in fails(capsys, "tags", world, *NETWORK)  # 9 photos
    assert "is not there" in fails(capsys, "tags", tmp_path / "nothing")
    assert "no weights file" in fails(capsys, "tags", doubtful, "--backbone.weights", tmp_path / "none.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "whose own seed counts" in fails(capsys, "tags", tmp_path / "run", "--seed", "3")


@pytest.mark.slow
def test_photos_that_cannot_be_read_are_left_out(doubtful: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(doubtful, tmp_path / "data")
    (root / "images" / "photo07.png").write_bytes(b"not a photo")
    errors = tag_errors.find(data.load(root), BackboneSettings("resnet10t", weights="none"))
    assert errors.unreadable == 1 and len(errors.photos) == 59
    assert "1 photo cannot be read" in errors.to_text() and "train/photo07" not in errors.to_text()


@pytest.mark.slow
def test_a_run_shows_what_was_found_until_its_tags_change(
    doubtful: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the report, the queue's need and its rows; not after a tag has changed, whose run is another."""
    from tag2mask.serve.queue import Queue

    out = tmp_path / "run"
    assert run("label", doubtful, "--out", out, *SMALL) == 0
    assert "Training photos whose tags" not in (out / "report.html").read_text()
    execution = pipeline.reopen(Run(out, existing=True))
    assert run_tags.judged(execution) is None
    assert "own data and backbone" in fails(capsys, "tags", out, *NETWORK)
    assert run("tags", out) == 0
    errors = run_tags.judged(execution)
    assert errors is not None and len(errors.photos) == 60
    assert json.loads((out / tag_errors.FILE).read_text())["photos"][0][1] == errors.photos[0].key[1]
    assert "look wrong and" in (out / "report.html").read_text()
    (_, signs), *_ = need.signs(execution)
    assert "tags" in signs
    queue = Queue(execution)
    assert set(queue.tags_said) == {photo.key for photo in errors.suspected}
    tags = (doubtful / "tags.csv").read_text()
    monkeypatch.setattr(run_tags, "_made_of", lambda execution: ["other", "tags"])
    assert run_tags.judged(execution) is None and tags == (doubtful / "tags.csv").read_text()
