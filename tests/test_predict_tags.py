"""Masks of new photos whose tags are known: classes outside of them are switched off."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from tag2mask import data
from tag2mask.data.new_photos import tag_photos
from tag2mask.errors import InputError
from tag2mask.segment.deeplab import DeepLab
from world import SMALL, fails, run


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", world, "--out", out, *SMALL, "--relabel.rounds", "0") == 0
    return out


@pytest.fixture
def photos(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    (folder / "deeper").mkdir(parents=True)
    for name, place in (("photo00", "a"), ("photo01", "b"), ("photo02", "deeper/c"), ("photo03", "d")):
        shutil.copy(world / "images" / f"{name}.png", folder / f"{place}.png")
    return folder


def table(folder: Path, *lines: str) -> Path:
    path = folder / "tags.csv"
    path.write_text("\n".join(["image,tags", *lines]) + "\n")
    return path


def values(folder: Path) -> dict[str, set[int]]:
    paths = sorted(folder.rglob("*.png"))
    return {p.relative_to(folder).with_suffix("").as_posix(): set(np.unique(Image.open(p)).tolist()) for p in paths}


@pytest.mark.parametrize("refine", ["none", "crf"])
def test_classes_outside_of_the_tags_are_switched_off(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refine: str
) -> None:
    def shown(self: DeepLab, views: object) -> torch.Tensor:  # a segmenter that sees a bar nearly everywhere
        logits = torch.zeros(len(views.images), 3, 3, 5)  # type: ignore[attr-defined]
        logits[:, 2], logits[:, 1], logits[:, 1, 0] = 3.0, 2.0, -2.0
        return logits

    monkeypatch.setattr(DeepLab, "segment", shown)
    tags = table(tmp_path, "a.png,disc", "b.png,", "deeper/c.png,bar;DISC")
    tag2mask.predict(finished, photos, tmp_path / "out", refine=refine, tags=tags)
    found = values(tmp_path / "out")
    assert found["a"] == ({0, 1} if refine == "none" else {1})  # above, nothing but the bar was likely
    assert found["b"] == {0}  # an empty tag: it shows none of the classes
    assert found["deeper/c"] == found["d"] == {2}  # all of its tags; no line, so nothing is switched off


def test_photos_without_a_line_are_as_without_a_table(finished: Path, photos: Path, tmp_path: Path) -> None:
    assert run("predict", finished, photos, "--out", tmp_path / "plain") == 0
    tags = table(photos, "a,disc")  # in the folder of the photos, named without suffix
    assert run("predict", finished, photos, "--out", tmp_path / "tagged", "--tags", tags) == 0
    for name in ("b", "deeper/c", "d"):
        assert (tmp_path / "plain" / f"{name}.png").read_bytes() == (tmp_path / "tagged" / f"{name}.png").read_bytes()


BAD = {
    "photos that are not there": (["a.png,disc", "z.png,bar"], "1 of 2 photos named in .* not among the 4 .*z.png"),
    "a photo elsewhere": (["a.png,disc", "../images/photo05.png,bar"], "1 of 2 photos named in"),
    "a tag of no class": (["a.png,disk"], r"tags.csv line 2: unknown class 'disk': did you mean disc"),
    "no line": ([], "names no photo"),
    "contradicting lines": (["a.png,disc", "a.png,bar;disc"], "different tags on lines 2 and 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tables_are_one_line(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    lines, message = BAD[what]
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", table(tmp_path, *lines))
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()  # nothing was written


def test_a_table_that_is_none(finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", tmp_path / "absent.csv")
    assert "absent.csv" in said
    (tmp_path / "list.csv").write_text("image\na.png\n")
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", tmp_path / "list.csv")
    assert "no column 'tags'" in said


def test_tags_of_a_run_whose_classes_were_selected(photos: Path, tmp_path: Path) -> None:
    """The table may name the other classes, too: they are none of the run's."""
    tags = table(tmp_path, "a.png,disc;tree", "b.png,tree")
    new = data.load_images(photos)
    with pytest.raises(InputError, match="unknown class 'tree'"):
        tag_photos(new, tags, ("disc", "bar"))
    found = {s.id: s.labels for s in tag_photos(new, tags, ("disc", "bar"), selected=True)}
    assert found == {"a": {0}, "b": frozenset(), "d": None, "deeper/c": None}


def test_files_given_one_by_one(photos: Path, tmp_path: Path) -> None:
    new = data.load_images([photos / "a.png", photos / "deeper" / "c.png"])
    assert [s.labels for s in tag_photos(new, table(photos, "deeper/c.png,bar"), ("disc", "bar"))] == [None, {1}]
