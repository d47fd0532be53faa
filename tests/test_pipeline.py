"""The whole pipeline on a small world: artefacts, resume, what a change redoes, oracle kept apart, odd photos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
import tag2mask.stages.method
from tag2mask import stages
from tag2mask.compare.measured import open_run
from tag2mask.errors import InputError
from tag2mask.layers.folded import ActivatedConv2d
from world import SMALL, manifest, redone, run, scene, stamps


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", world, "--out", out, *SMALL, "--oracle-masks") == 0
    return out


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    for name in ("run.json", "report.html", "method/model.safetensors", "segmenter/model.safetensors",
                 "method/log.jsonl", "scores/scores.json"):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    assert len(list((finished / "maps").glob("*.npz"))) == len(list((finished / "masks").glob("*.png"))) == 9
    assert len(list((finished / "masks-1").glob("*.png"))) == 9
    assert len(list((finished / "predictions").glob("*.png"))) == 3
    suffixes = {p.suffix for p in finished.rglob("*") if p.is_file()} - {""}  # nothing pickled, no leftovers
    assert suffixes <= {".json", ".jsonl", ".npz", ".png", ".safetensors", ".html", ".txt"}
    texts = {p.parent.name: p.read_text().split() for p in finished.rglob("*.txt")}
    masks = {"masks", "masks-1", "predictions", "oracle-masks", "predictions-oracle"}
    assert texts.keys() == masks and all(names == ["disc", "bar"] for names in texts.values())
    scores = json.loads((finished / "scores" / "scores.json").read_text())
    assert set(scores) == {"tags", "maps", "masks", "masks-1", "sweep", "predictions", "predictions-oracle"}
    described = json.loads((finished / "run.json").read_text())
    assert described["settings"]["train"]["epochs"] == 1 and described["classes"] == ["disc", "bar"]


def test_masks_show_only_tagged_classes_at_the_photos_size(finished: Path, world: Path) -> None:
    tags = dict(line.split(",")[:2] for line in (world / "tags.csv").read_text().splitlines()[1:])
    for path in (*(finished / "masks").glob("*.png"), *(finished / "masks-1").glob("*.png")):
        mask = np.asarray(Image.open(path))
        assert mask.shape == (48, 72)
        allowed = {0, 255} | {("disc", "bar").index(t) + 1 for t in tags[f"{path.stem}.png"].split(";")}
        assert set(np.unique(mask)) <= allowed


def test_networks_of_maps_and_predictions_have_their_norms_folded_and_activations_joined(
    finished: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    localizer = stages.method.Localizer
    monkeypatch.setattr(stages.method, "Localizer", lambda *given: seen.append(given[0]) or localizer(*given))
    assert run("label", world, "--out", tmp_path / "run", *SMALL, "--until", "maps") == 0
    seen.append(tag2mask.load(finished)._predictor.photos.segmenter)
    assert len(seen) == 2
    for network in seen:
        kinds = {type(module) for module in network.modules()}
        assert torch.nn.Conv2d in kinds and not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)
        assert ActivatedConv2d in kinds or not torch.backends.mkldnn.is_available()


def test_minutes_that_are_compared_are_without_the_oracle(finished: Path) -> None:
    took = {path.parents[1].name: manifest(finished, path.parents[1].name)["seconds"]
            for path in finished.glob("*/.stage/manifest.json")}  # fmt: skip
    oracle = {name for name in took if "oracle" in name}
    assert {"oracle-masks", "segmenter-oracle", "predictions-oracle"} <= oracle and sum(took[x] for x in oracle) > 0
    own = sum(seconds for name, seconds in took.items() if name not in oracle)
    assert open_run(finished, "run").minutes == pytest.approx(own / 60)


def test_scores_agree_with_the_evaluator_of_folders(finished: Path, world: Path) -> None:
    truth = finished.parent / "truth"
    truth.mkdir(exist_ok=True)
    for path in (finished / "masks").glob("*.png"):
        shutil.copy(world / "masks" / path.name, truth / path.name)
    found = tag2mask.evaluate_folders(str(finished / "masks"), str(truth), ("disc", "bar")).mean_iou
    scores = json.loads((finished / "scores" / "scores.json").read_text())
    assert scores["masks"]["mean_iou"] == pytest.approx(found, abs=1e-3)


def test_nothing_is_redone_and_a_change_redoes_what_depends_on_it(finished: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = stamps(out)
    assert run("train", world, "--out", out, *SMALL, "--oracle-masks") == 0
    assert redone(before, stamps(out)) == set()
    before = stamps(out)
    assert run("train", world, "--out", out, *SMALL, "--oracle-masks", "--inference.scales", "0.5,1") == 0
    assert redone(before, stamps(out)) == {"predictions", "predictions-oracle", "scores"}
    before = stamps(out)
    assert run("label", world, "--out", out, *SMALL, "--threshold", "0.7") == 0
    assert manifest(out, "masks")["threshold_from"] == "given"
    after = stamps(out)
    # what is made of the masks, and the oracle that was not asked for, are kept aside: `label` does not come to them
    assert {n.split("/")[0] for n in after} >= {"masks", "scores"} and {n for n in after if "oracle" in n} == set()
    assert redone({name: when for name, when in before.items() if name in after}, after) == {"masks", "scores"}


def test_truth_decides_nothing(world: Path, finished: Path, tmp_path: Path) -> None:
    """The same data without truth gives the same masks and models, byte for byte."""
    blind = tmp_path / "data"
    shutil.copytree(world, blind)
    shutil.rmtree(blind / "masks")
    out = tmp_path / "run"
    assert run("train", blind, "--out", out, *SMALL) == 0
    for folder, pattern in (
        ("masks", "*.png"),
        ("masks-1", "*.png"),
        ("predictions", "*.png"),
        ("method", "model.*"),
        ("segmenter", "model.*"),
    ):
        paths = sorted((out / folder).glob(pattern))
        assert paths
        for path in paths:
            assert path.read_bytes() == (finished / folder / path.name).read_bytes(), path
    assert set(json.loads((out / "scores" / "scores.json").read_text())) == {"tags"}


def test_predict_gives_masks_for_new_photos(finished: Path, world: Path, tmp_path: Path) -> None:
    photos = tmp_path / "new" / "deeper"
    photos.mkdir(parents=True)
    shutil.copy(world / "images" / "photo00.png", photos / "a.png")
    (photos / "b.jpg").write_text("no image")
    assert run("predict", finished, tmp_path / "new", "--out", tmp_path / "masks") == 0
    assert [p.relative_to(tmp_path / "masks").as_posix() for p in (tmp_path / "masks").rglob("*.png")] == [
        "deeper/a.png"
    ]
    same = finished / "predictions" / "photo09.png"
    assert run("predict", finished, world / "images", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / "photo09.png").read_bytes() == same.read_bytes()


def test_unreadable_photos_are_set_aside_named_and_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    whole = (data / "images" / "photo03.png").read_bytes()
    (data / "images" / "photo03.png").write_bytes(whole[: len(whole) // 2])
    (data / "images" / "photo04.png").write_text("this is text")
    out = tmp_path / "run"
    assert run("label", data, "--out", out, *SMALL) == 0
    said = capsys.readouterr().err
    assert "photo03.png" in said and "photo04.png" in said and said.count("set aside") == 2
    assert len(list((out / "masks").glob("*.png"))) == 7
    page = (out / "report.html").read_text()
    assert "2 photos were set aside" in page and "photo04" in page


@pytest.mark.slow
def test_frozen_features_are_shared_by_runs(world: Path, tmp_path: Path) -> None:
    flags = [
        *SMALL,
        "--freeze-until",
        "layer3",
        "--features.folder",
        tmp_path / "features",
        "--segmenter.no-warm-start",
    ]
    assert run("train", world, "--out", tmp_path / "a", *flags) == 0
    before = stamps(tmp_path / "features")
    assert len(before) >= 9 * 2 - 1  # plain and mirrored; equal photos would share
    assert run("train", world, "--out", tmp_path / "b", *flags, "--segmenter", "deeplab-v2", "--epochs", "2") == 0
    assert stamps(tmp_path / "features") == before
    assert (tmp_path / "b" / "segmenter" / "model.safetensors").exists()


def test_python_interface(world: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tag2mask.cli.runs import parse_run

    _, _, settings = parse_run([str(world), "--out", str(tmp_path / "run"), *SMALL], "label")
    masks = tag2mask.label(world, tmp_path / "run", replace(settings, seed=3))
    assert len(list(masks.glob("*.png"))) == 9
    with pytest.raises(InputError, match="no finished stage 'segmenter'"):
        tag2mask.predict(tmp_path / "run", world / "images", tmp_path / "out")


def test_settings_survive_the_run_folder(finished: Path, world: Path) -> None:
    from tag2mask.cli.runs import parse_run
    from tag2mask.recipes import settings_from

    stored = settings_from(json.loads((finished / "run.json").read_text())["settings"])
    _, _, given = parse_run([str(world), "--out", str(finished), *SMALL, "--oracle-masks"], "train")
    assert stored == given


def _start(world: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tag2mask", "train", str(world), "--out", str(out), *SMALL]
    command += ["--train.checkpoint-minutes", "0", "--segmenter-train.checkpoint-minutes", "0", "--epochs", "4"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


@pytest.fixture(scope="module")
def uninterrupted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    process = _start(world, out)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return out


WHERE = (
    "images/.stage/key.json",
    "method/checkpoint.safetensors",
    "maps/.stage/key.json",
    "masks/.stage/records.jsonl",
    "segmenter/checkpoint.safetensors",
    "predictions/.stage/key.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("where", WHERE)
def test_an_interruption_at_any_point_loses_nothing(
    world: Path, uninterrupted: Path, tmp_path: Path, how: signal.Signals, where: str
) -> None:
    """Interrupted (politely or not) in each stage and started again, a run ends as an uninterrupted one."""
    cut = tmp_path / "cut"
    process = _start(world, cut)
    deadline = time.monotonic() + 200
    while not (cut / where).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how != signal.SIGKILL and process.returncode != 0:
        code, word = (2, "interrupted") if how == signal.SIGINT else (143, "asked to end")
        assert process.returncode == code and f"{word}: run the same command again" in said, said
        assert "Traceback" not in said
        assert not list(cut.rglob("*.tmp"))
    process = _start(world, cut)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    for name in ("method/model.safetensors", "segmenter/model.safetensors"):
        assert (cut / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    for folder in ("masks", "predictions"):
        for path in (uninterrupted / folder).glob("*.png"):
            assert path.read_bytes() == (cut / folder / path.name).read_bytes(), path


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_with_space(world: Path, tmp_path: Path) -> None:
    """A real file system of two megabytes, which the model does not fit."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount a small file system")
    try:
        command = [sys.executable, "-m", "tag2mask", "label", str(world), "--out", str(small / "run"), *SMALL]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 2 and "disk full while writing" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not list(small.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert len(list((small / "run" / "masks").glob("*.png"))) == 9
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_the_demo_is_visibly_good(tmp_path: Path) -> None:
    """`tag2mask demo` as a user runs it: tags in, over 60 mIoU out, on photos it has not seen."""
    command = [sys.executable, "-m", "tag2mask", "demo", "--out", str(tmp_path / "demo"), "--no-open"]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, env=environment)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "demo" / "scores" / "scores.json").read_text())
    assert scores["masks"]["mean_iou"] > 60 and scores["predictions"]["mean_iou"] > 60
    assert "<html" in (tmp_path / "demo" / "report.html").read_text()[:2000].lower()


def test_the_small_world_is_what_it_says() -> None:
    image, mask = scene(2)
    assert image.shape == (48, 72, 3) and set(np.unique(mask)) == {0, 1, 2}
