"""The command line: names, short flags, and one clear line with exit code 2 for everything a user can mend."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask import cli
from tag2mask.cli.flags import spell_out
from tag2mask.cli.runs import parse_run
from tag2mask.data.layouts import LAYOUTS
from tag2mask.deploy.stored import FILE
from tag2mask.plan.folder import BUNDLE
from world import SMALL, redone, run, stamps


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run, expect exit code 2 and exactly one line."""
    capsys.readouterr()
    code = run(*arguments)
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    assert len(said.splitlines()) == 1 and said.startswith("tag2mask: "), said
    return said


def works(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["methods", "recipes", "datasets", "backbones", "propagations", "refiners", "segmenters"]
)
def test_list(capsys: pytest.CaptureFixture[str], what: str) -> None:
    out = works(capsys, "list", what)
    expected = {"methods": "cam", "recipes": "frozen", "datasets": "voc", "backbones": "tf_efficientnet_lite0",
                "propagations": "psa", "refiners": "crf", "segmenters": "deeplab-v2"}[what]  # fmt: skip
    assert any(line.startswith(expected) for line in out.splitlines())
    if what == "datasets":
        assert {line.split()[0] for line in out.splitlines()} >= LAYOUTS.keys()


def test_unknown_names_come_with_the_nearest(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert "did you mean label" in fails(capsys, "lable")
    assert "did you mean methods" in fails(capsys, "list", "method")
    assert "say what to list" in fails(capsys, "list")
    assert "did you mean cam" in fails(capsys, "train", world, *out, "--method", "cams")
    assert "did you mean quick" in fails(capsys, "train", world, *out, "--recipe", "qick")
    assert "resnet" in fails(capsys, "train", world, *out, "--backbone", "resnet500")
    assert "did you mean crf" in fails(capsys, "train", world, *out, "--refine", "crff")
    assert "did you mean deeplab-v2" in fails(capsys, "train", world, *out, "--segmenter", "deeplab-v3")
    assert not list(tmp_path.rglob("model*"))


def test_a_typo_in_a_recipe_or_method_leaves_no_run_folder(
    capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    fails(capsys, "train", world, "--out", tmp_path / "run", "--segmenter", "nothing")
    assert not (tmp_path / "run").exists()


def test_bad_data_sets_end_in_one_line(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    assert "nowhere" in fails(capsys, "train", tmp_path / "nowhere", "--out", tmp_path / "run")
    data = tmp_path / "data"
    shutil.copytree(world, data)
    table = data / "tags.csv"
    good = table.read_text()
    for text, expected in (
        (good.replace("image,tags", "image,shown"), "no column 'tags'"),
        (good + "photo00.png,disc,train\n", "photo00"),
        (good + "absent.png,disc,train\n", "absent.png"),
        (good.replace("disc", "disk"), "disk"),
        ("image,tags,split\n", "empty data set"),
        (re.sub(r"png,[^,]*,", "png,,", good), "none with tags"),
    ):  # fmt: skip
        table.write_text(text)
        said = fails(capsys, "train", data, "--out", tmp_path / "run", *SMALL)
        assert expected in said, (expected, said)
        assert not (tmp_path / "run").exists()


def test_truth_of_another_size_names_both(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    """Before anything is trained; and where that is done already, nothing finished is lost."""
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(world, data)
    right = (data / "masks" / "photo00.png").read_bytes()

    def refused() -> None:
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(data / "masks" / "photo00.png")
        assert run("label", data, "--out", out, *SMALL) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("tag2mask: ") and "30x20" in said and "72x48" in said and "photo00" in said

    refused()
    assert not list(out.rglob("*.safetensors")) and (out / "run.json").exists()
    (data / "masks" / "photo00.png").write_bytes(right)
    assert run("label", data, "--out", out, *SMALL) == 0
    before = stamps(out)
    refused()
    assert redone(before, stamps(out)) == set()
    (data / "masks" / "photo00.png").write_bytes(right)
    assert run("label", data, "--out", out, *SMALL) == 0
    assert redone(before, stamps(out)) == set()


def test_folders_that_cannot_be_written(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    assert "not empty and not a run folder" in fails(capsys, "train", world, "--out", world)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps({"version": 99}))
    assert "another version" in fails(capsys, "train", world, "--out", tmp_path / "old")
    assert "not a run folder" in fails(capsys, "predict", tmp_path, world / "images", "--out", tmp_path / "x")


def test_a_bundle_is_no_run_and_its_name_and_use_are_said(
    capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    """As `export --to bundle` leaves it (tests/test_deploy.py has a real one)."""
    assert BUNDLE == FILE
    (tmp_path / BUNDLE).write_text('{"version": 1}')
    for command in (["predict", tmp_path, world / "images", "--out", tmp_path / "x"], ["serve", tmp_path, "--port", 0]):
        line = fails(capsys, *command)
        assert "is a bundle" in line and f'tag2mask.load("{tmp_path}")' in line and "give the run folder" in line


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "make that place writable"),
        (errno.ELOOP, "mend that place"),
        (errno.ESTALE, "mend that place"),
        (errno.ETIMEDOUT, "mend that place"),
    ],
)
def test_what_the_system_refuses_to_write_is_one_line(
    number: int, advice: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(arguments: list[str]) -> int:
        raise OSError(number, os.strerror(number), "/away/a.png")

    monkeypatch.setattr(cli, "commands", lambda: {"label": refused, "report": refused})
    said = fails(capsys, "label")
    assert "cannot write /away/a.png" in said and f"; {advice} or choose another --out" in said
    said = fails(capsys, "report")  # has no --out
    assert "cannot write /away/a.png" in said and said.rstrip().endswith(advice)


def test_a_file_that_is_not_there_is_a_bug_of_ours_unless_it_was_to_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    tasks = {
        "read": lambda arguments: (gone / "a.npz").read_bytes() and 0,
        "make": lambda arguments: gone.joinpath("a").mkdir() or 0,
        "write": lambda arguments: (gone / ".ab12.tmp").write_text("") and 0,
        "fill": lambda arguments: (gone / ".out.host-1.writing").mkdir() or 0,
    }
    monkeypatch.setattr(cli, "commands", lambda: tasks)
    for name in ("read", "make"):
        with pytest.raises(FileNotFoundError):
            cli.main([name])
    for name in ("write", "fill"):
        assert f"cannot write {gone}: No such file" in fails(capsys, name)


def test_a_patch_that_does_not_divide_the_view(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    flags = ["--backbone", "vit_tiny_patch16_224", "--weights", "none", "--augment.size", "100"]
    said = fails(capsys, "label", world, "--out", tmp_path / "run", *flags)
    assert "not a multiple of the patch of 16" in said
    assert not (tmp_path / "run").exists()


def test_saliency_background_without_saliency(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    said = fails(capsys, "label", world, "--out", tmp_path / "run", *SMALL, "--background", "saliency")
    assert "9 have none" in said and "--saliency FOLDER" in said


def test_evaluate_prints_json_and_a_table(capsys: pytest.CaptureFixture[str], world: Path) -> None:
    content = json.loads(works(capsys, "evaluate", world / "masks", world / "masks", "--classes", "disc,bar", "--json"))
    assert content["mean_iou"] == 100.0 and content["iou"] == {"background": 100.0, "disc": 100.0, "bar": 100.0}
    names = world / "classes.txt"
    assert run("evaluate", world / "masks", world / "masks", "--classes", names) == 0
    said = capsys.readouterr()
    assert "mean IoU 100.00" in said.out and "are one folder, which agrees with itself" in said.err
    assert "nothing" in fails(capsys, "evaluate", world / "masks", world / "nothing", "--classes", "disc,bar")


def test_doctor_reports_and_its_exit_code_tells(
    capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path
) -> None:
    assert works(capsys, "doctor", world)
    data = tmp_path / "data"
    shutil.copytree(world, data)
    for path in sorted((data / "images").glob("*.png"))[:8]:
        path.write_text("no image")
    capsys.readouterr()
    assert run("doctor", data) == 2 and "photo00" in capsys.readouterr().out


def test_short_flags_and_lists() -> None:
    given = ["--classes", "a,b c", "--backbone=resnet50", "--scales", "0.5,1.0", "--freeze", "--threshold", "0.3"]
    assert spell_out(given) == [
        "--data.classes", "a", "b c", "--backbone.name", "resnet50", "--localize.scales", "0.5", "1.0",
        "--backbone.freeze", "--pseudo.threshold", "0.3",
    ]  # fmt: skip


def test_flags_reach_the_settings(world: Path) -> None:
    path, out, settings = parse_run(
        [str(world), "--out", "x", "--recipe", "frozen", "--method", "cam", "--cam.dropout", "0.25", "--seed", "7",
         "--classes", "disc", "--weights", "none", "--pseudo.margin", "0.1"], "train")  # fmt: skip
    assert (path, out) == (world, Path("x"))
    assert settings.backbone.freeze and settings.backbone.weights == "none" and settings.seed == 7
    assert settings.options.dropout == 0.25 and settings.data.classes == ("disc",)
    assert settings.pseudo.margin == 0.1 and settings.pseudo.threshold is None


def test_a_method_is_trained_as_it_wants_unless_a_flag_says_otherwise(world: Path) -> None:
    train = lambda *flags: parse_run([str(world), "--out", "x", *flags], "label")[2].train  # noqa: E731
    cam, apc = train(), train("--method", "apc")
    assert cam.epochs == "auto" and (apc.learning_rate, apc.epochs) == (cam.learning_rate / 5, 10)
    assert train("--recipe", "quick", "--method", "apc").epochs == apc.epochs / 2
    assert train("--recipe", "quick", "--method", "ppl").minimum_epochs == 2.5
    given = train("--method", "apc", "--epochs", "3", "--train.learning-rate", "0.01")
    assert (given.learning_rate, given.epochs) == (0.01, 3)
    published = train("--recipe", "apc/multistage")
    assert train("--recipe", "apc/multistage", "--method", "apc") == published
    assert train("--method", "ppl") == replace(cam, minimum_epochs=5.0)
    mcis = train("--method", "mcis")  # of pairs: as many photos, as many steps
    assert (mcis.batch_size * 2, mcis.epochs) == (cam.batch_size, 2.5)


def test_bad_values_are_one_line(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    for flags, says in (
        (("--threshold", "1.5"), "tag2mask: --threshold is 1.5: it must be at least 0.001 and at most 0.999"),
        (("--threshold=nan",), "tag2mask: --threshold is nan: it must be at least 0.001 and at most 0.999"),
        (("--pseudo.threshold", "2"), "tag2mask: --pseudo.threshold is 2: it must be at least 0.001 and at most 0.999"),
        (("--epochs", "0"), "a training of 0 epochs: it must be above 0"),
        (("--segmenter-train.epochs", "0"), "--segmenter-train.epochs is 0: it must be above 0"),
        (("--student-train.epochs", "0"), "--student-train.epochs is 0: it must be above 0"),
        (("--scales", "0"), "tag2mask: --scales is 0: it must be above 0 and at most 100"),
        (("--train.workers", "-1"), "--train.workers is -1: it must be at least 0"),
        (("--seed", "-1"), "tag2mask: --seed is -1: it must be at least 0 and at most 4294967295"),
        (("--train.learning-rate", "inf"), "--train.learning-rate is inf: it must be above 0"),
    ):
        assert says in fails(capsys, "label", world, *out, *flags)
    assert not (tmp_path / "run").exists()
