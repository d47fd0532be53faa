"""A run that starts from another (`--from`): its weights, the share of the photos that is new, what decides it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.plan.source import learned
from tag2mask.plan.stage import TrainingStage
from tag2mask.recipes import RunSettings
from tag2mask.stages import plan
from tag2mask.training import TrainSettings
from tag2mask.types import PhotoFacts, Sample
from world import SMALL, fails, made_of, make, redone, run, scene, stamps, tags

pytestmark = pytest.mark.slow  # whole runs

EPOCHS = [
    "--epochs", "4", "--segmenter-train.epochs", "4", "--relabel-train.epochs", "2", "--student-train.epochs", "4",
    "--propagation-train.epochs", "4",
]  # fmt: skip
ALL = [
    *SMALL, *EPOCHS, "--self-train", "smaf", "--propagate", "irn", "--refine", "none", "--relabel.refine", "none",
    "--student-train.batch-size", "4", "--propagation-train.batch-size", "4", "--propagation.beta", "2",
    "--student-train.precision", "float32", "--propagation-train.precision", "float32",
]  # fmt: skip
TRAINED = ("method", "self-method-1", "affinity", "segmenter-0", "segmenter")
STILL = [f"--{of}.learning-rate=1e-12" for of in
         ("train", "student-train", "propagation-train", "segmenter-train", "relabel-train")]  # fmt: skip


def with_more(root: Path, more: int) -> Path:
    """The small world with so many training photos more."""
    make(root)
    lines = (root / "tags.csv").read_text()
    for index in range(20, 20 + more):
        image, mask = scene(index)
        Image.fromarray(image).save(root / "images" / f"photo{index}.png")
        lines += f"photo{index}.png,{tags(mask)},train\n"
    (root / "tags.csv").write_text(lines)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("source")
    data = make(folder / "data")
    assert run("train", data, "--out", folder / "run", *ALL) == 0
    return data, folder / "run"


def steps(out: Path, stage: str) -> int:
    lines = (out / stage / "log.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"] + 1


@pytest.mark.slow
def test_every_training_starts_from_the_same_stage_and_sees_the_new_share(
    source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = source
    data = with_more(tmp_path / "data", 3)
    assert run("train", data, "--out", tmp_path / "run", *ALL, *STILL, "--from", before) == 0
    said = capsys.readouterr().err
    assert said.count("3 of 12 photos are new: 1 epochs instead of 4") == 4
    assert said.count("3 of 12 photos are new: 1 epochs instead of 2") == 1
    for stage in TRAINED:
        assert steps(before, stage) == (4 if stage == "segmenter" else 8)  # batches of 4 of 9 photos, the last dropped
        assert steps(tmp_path / "run", stage) == 3  # one epoch of 12
        theirs, ours = (load_file(out / stage / "model.safetensors") for out in (before, tmp_path / "run"))
        # of the photos of each training
        own = (
            "running_mean",
            "running_var",
            "num_batches_tracked",
            "label_balance.batches",
            "label_balance.log_weights",
        )
        weights = [name for name in theirs if not name.endswith(own)]
        for name in weights:  # learning next to nothing, it has kept what it started from
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=f"{stage}: {name}")
        if stage.startswith("segmenter"):  # its labels weigh as in its own batches, not as in those of before
            assert ours["label_balance.batches"].max() == 3
    known = json.loads((tmp_path / "run" / "passport.json").read_text())["started_from"]
    assert known["run"] == str(before) and known["learned_from"]["tags"]["photos"] == 9
    assert "started from the weights of the run" in (tmp_path / "run" / "report.html").read_text()


def test_nothing_new_is_said_and_trains_one_epoch(
    source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, before = source
    flags = [*ALL, "--self-train", "none", "--propagate", "none"]
    assert run("label", data, "--out", tmp_path / "run", *flags, "--from", before) == 0
    assert "where nothing is new: 1 epochs instead of 4" in capsys.readouterr().err
    assert steps(tmp_path / "run", "method") == 2


def test_what_lies_in_the_source_decides(
    source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, before = source
    other = shutil.copytree(before, tmp_path / "source")
    flags = [*SMALL, "--epochs", "4", "--from", other]
    assert run("label", data, "--out", tmp_path / "run", *flags) == 0
    assert made_of(tmp_path / "run", "method")["facts"]["source"]
    first = stamps(tmp_path / "run")
    shutil.move(other, tmp_path / "moved")  # where it lies does not matter
    assert run("label", data, "--out", tmp_path / "run", *flags[:-1], tmp_path / "moved") == 0
    assert redone(first, stamps(tmp_path / "run")) == set()
    model = tmp_path / "moved" / "method" / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1  # one number of the weights, in its last place
    model.write_bytes(bytes(content))
    capsys.readouterr()
    assert run("plan", data, "--out", tmp_path / "run", *flags[:-1], tmp_path / "moved") == 0
    assert "other source" in capsys.readouterr().out
    assert run("label", data, "--out", tmp_path / "run", *flags[:-1], tmp_path / "moved") == 0
    assert {"method", "maps", "masks"} <= redone(first, stamps(tmp_path / "run"))


@pytest.mark.slow
def test_a_stage_that_the_source_has_not_is_trained_in_full(
    source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, before = source
    labelled = shutil.copytree(before, tmp_path / "source")
    shutil.rmtree(labelled / "segmenter-0")
    flags = [*SMALL, *EPOCHS, "--relabel.rounds", "1", "--from", labelled]
    assert run("train", data, "--out", tmp_path / "run", *flags) == 0
    assert "has no stage 'segmenter-0' to start from, so in full" in capsys.readouterr().err
    assert (steps(tmp_path / "run", "segmenter-0"), steps(tmp_path / "run", "segmenter")) == (8, 2)


@pytest.mark.parametrize(
    "what", ["method", "backbone", "segmenter", "classes", "order", "no run", "unfinished", "itself", "damaged"]
)
def test_bad_sources_are_one_line(
    source: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    data, before = source
    flags: list[object] = [*SMALL, "--from", before]
    out = tmp_path / "run"
    if what == "method":
        flags, message = [*flags, "--method", "apc"], "trained with the method cam and this run has apc"
    elif what == "backbone":
        flags, message = [*flags, "--backbone", "resnet18"], "with the backbone resnet10t and this run has resnet18"
    elif what == "segmenter":  # said before the method is trained
        flags, message = [*flags, "--segmenter", "deeplab-v2"], "with --segmenter decoder and this run's has deeplab-v2"
    elif what == "classes":
        flags, message = [*flags, "--classes", "disc"], "its classes are (disc, bar) and those here are (disc)"
    elif what == "order":
        data = shutil.copytree(data, tmp_path / "data")
        (data / "classes.txt").write_text("bar\ndisc\n")
        message = "its classes are (disc, bar) and those here are (bar, disc), which differ or are in another order"
    elif what == "no run":
        flags, message = [*SMALL, "--from", data], "is not a run folder"
    elif what == "unfinished":
        begun = shutil.copytree(before, tmp_path / "begun")
        (begun / "method" / ".stage" / "manifest.json").unlink()
        flags, message = [*SMALL, "--from", begun], "has no trained network (stage 'method')"
    elif what == "itself":
        out = shutil.copytree(before, tmp_path / "same")
        flags, message = [*SMALL, "--from", out], "is the run folder itself"
    else:
        damaged = shutil.copytree(before, tmp_path / "damaged")
        (damaged / "method" / "model.safetensors").write_bytes(b"nothing of weights")
        flags, message = [*SMALL, "--from", damaged], "model.safetensors is damaged: run the command of that run again"
    said = fails(capsys, "train" if what == "segmenter" else "label", data, "--out", out, *flags)
    assert message in said, said
    assert what in ("itself", "damaged") or not out.exists()


def test_held_out_photos_are_new_to_the_network_that_starts(tmp_path: Path) -> None:
    """Those that the source held out, and some of the new ones; none that it has learned."""

    def held(out: Path) -> set[str]:
        return set(json.loads((out / "method" / ".stage" / "held-out.json").read_text()))

    flags = [*SMALL, "--held-out", "0.35", "--epochs", "2"]
    data = make(tmp_path / "data", train=24)
    assert run("label", data, "--out", tmp_path / "before", *flags, "--until", "method") == 0
    more = with_more(tmp_path / "more", 15)
    shutil.rmtree(more)
    make(more, train=39)
    known = set(json.loads((tmp_path / "before" / "method" / ".stage" / "learned.json").read_text()))
    assert held(tmp_path / "before") < known
    assert (
        run("label", more, "--out", tmp_path / "run", *flags, "--until", "method", "--from", tmp_path / "before") == 0
    )
    after = held(tmp_path / "run")
    assert held(tmp_path / "before") < after and not (after - held(tmp_path / "before")) & known


def test_photos_are_known_by_their_bytes_and_tags() -> None:
    photos = {("train", id): PhotoFacts(3, 4, digest) for id, digest in (("a", "1"), ("b", "2"), ("c", "1"))}

    def of(id: str, *labels: int, classes: tuple[str, ...] = ("cat", "dog")) -> str:
        sample = Sample(id, Path(id), frozenset(labels), split="train")
        return learned([sample], photos, classes)[0]

    assert of("a", 0) == of("c", 0) == of("a", 1, classes=("dog", "cat"))  # renamed, classes numbered otherwise
    assert len({of("a", 0), of("a", 0, 1), of("a"), of("b", 0)}) == 4


def test_a_training_is_shortened_to_the_share_that_is_new() -> None:
    ten = TrainSettings(epochs=10.0, batch_size=16, milestones=(5.0,))
    assert ten.shortened(0.25, 160) == (10.0, replace(ten, epochs=2.5, milestones=(1.25,)))
    assert (
        ten.shortened(0.0, 160)[1].epochs == ten.shortened(0.1, 160)[1].epochs == 1.0
    )  # at least once over everything
    assert ten.shortened(1.0, 160)[1] == ten
    assert replace(ten, epochs=0.5).shortened(0.0, 160)[1].epochs == 0.5  # no longer than it is
    auto = TrainSettings(epochs="auto", batch_size=16)  # of 160 photos: at least 300 steps, which are 30 epochs
    usual, shortened = auto.shortened(0.2, 160)
    assert usual == 30.0 and shortened.epochs == pytest.approx(6.0)


def test_every_training_declares_the_source_only_where_there_is_one() -> None:
    base = replace(RunSettings(), self_train=SelfTrainSettings("smaf"), propagate="irn", oracle_masks=True)
    for settings, declared in ((base, False), (replace(base, start_from=Path("run")), True)):
        trainings = [stage for stage in plan(settings) if isinstance(stage, TrainingStage)]
        assert len(trainings) == 9
        assert all(("source" in stage.facts) == declared for stage in trainings)
