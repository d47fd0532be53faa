"""Photos that show none of the classes, through a whole run: they train, they are counted, their false alarms are a
number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tag2mask.pipeline import Run, reopen
from world import HEIGHT, SMALL, WIDTH, fails, make, run

pytestmark = pytest.mark.slow  # whole runs


def with_good_photos(root: Path) -> Path:
    """The small world, with four photos of nothing to train on, of which nobody drew masks, and three to measure on."""
    make(root)
    lines = (root / "tags.csv").read_text()
    for number in range(7):
        noise = np.random.default_rng(100 + number).integers(60, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "images" / f"good{number}.png")
        lines += f"good{number}.png,,{'train' if number < 4 else 'val'}\n"
    Image.fromarray(noise).save(root / "images" / "forgotten.png")  # in no line: nobody tagged it
    (root / "tags.csv").write_text(lines)
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("background")
    data = with_good_photos(folder / "data")
    assert run("train", data, "--out", folder / "run", *SMALL) == 0
    return data, folder / "run"


def test_they_train_the_method_and_the_segmenter(finished: tuple[Path, Path]) -> None:
    _, out = finished
    execution = reopen(Run(out, existing=True))
    assert len(execution.data.train) == 9 + 4
    for name in ("method", "segmenter-0", "segmenter"):
        assert execution.folders[name].manifest()["count"] == 13
        if name != "method":  # and the segmenter knows that a photo may show nothing
            assert load_file(execution.folders[name].model)["saw_empty"].item()
    for folder in ("masks", "masks-1"):  # the whole mask is background, nothing is undecided
        for number in range(4):
            assert not np.asarray(Image.open(out / folder / f"good{number}.png")).any()


def test_their_false_alarms_are_a_number_of_their_own(finished: tuple[Path, Path]) -> None:
    _, out = finished
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert scores["masks"]["photos"] == 13 and scores["masks"]["false_alarms"]["photos"] == 4
    alarms = scores["predictions"]["false_alarms"]
    shown = [np.asarray(Image.open(out / "predictions" / f"good{number}.png")) > 0 for number in (4, 5, 6)]
    assert (alarms["photos"], alarms["alarms"]) == (3, sum(mask.any() for mask in shown))
    assert alarms["share_of_pixels"] == pytest.approx(100 * np.mean(shown), abs=1e-3)
    assert scores["predictions"]["photos"] == 6  # with the three of objects: none vanishes from the mean
    page = (out / "report.html").read_text()
    assert f"False alarms: {alarms['alarms']} of 3 photos with none of the classes got one in the mask" in page
    assert "none of these" in page and f"{alarms['alarms']} of 3</td>" in page


def test_they_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = with_good_photos(tmp_path / "data")
    assert run("doctor", data) == 0
    said = capsys.readouterr().out
    assert "train: 4 photos with none of the classes" in said and "val: 3 photos with none of the classes" in said
    assert "1 photo in" in said and "forgotten.png" in said and "nobody tagged them" in said


def test_only_untagged_photos_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make(tmp_path / "data", truth=False)
    (data / "tags.csv").write_text("image,tags\n" + "".join(f"photo{i:02d}.png,\n" for i in range(9)))
    said = fails(capsys, "train", data, "--out", tmp_path / "run", *SMALL)
    assert "holds 9 photos and none with tags" in said and not (tmp_path / "run").exists()


def test_the_terminal_says_false_alarms(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = finished
    assert run("train", data, "--out", out, *SMALL, "--inference.scales", "0.5,1") == 0
    assert "Segmenter: false alarms: " in capsys.readouterr().err
