"""Whole runs of several real processes on one folder: the same bytes as one process makes, and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launching import TAG2MASK, ended, run_all, start
from tag2mask import checks, processes
from tag2mask.errors import InputError
from tag2mask.files import read_jsonl
from world import SMALL, fails, manifest

# no dropout, whose draws cannot be the same, and plain steps: Adam's first ones make much of rounding
SAME = [*SMALL, "--segmenter.dropout", "0", "--refine", "none"]
for _training in ("train", "student-train", "segmenter-train", "relabel-train"):
    SAME += [f"--{_training}.optimizer", "sgd", f"--{_training}.learning-rate", "1e-3"]
SAME += ["--student-train.batch-size", "4", "--student-train.epochs", "2", "--student-train.precision", "float32"]


def same_artefacts(one: Path, other: Path, folders: list[str]) -> None:
    for folder in folders:
        paths = sorted(path for path in (one / folder).rglob("*") if path.suffix in (".png", ".npz"))
        assert paths, folder
        assert len(paths) == sum(path.suffix in (".png", ".npz") for path in (other / folder).rglob("*"))
        for path in paths:
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path


def same_losses(one: Path, other: Path) -> None:
    logs = sorted(one.glob("*/log.jsonl"))
    assert logs
    for log in logs:
        lines, others = read_jsonl(log), read_jsonl(other / log.relative_to(one))
        for line, of_other in zip(lines, others, strict=True):
            speed = {"images_per_s": line["images_per_s"]}
            assert {**of_other, **speed} == pytest.approx(line, rel=1e-5, abs=1e-5), log


# --- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', which is no number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', which is no number of processes"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK 2, WORLD_SIZE 2, LOCAL_RANK 0 and LOCAL_WORLD_SIZE 1 do not go"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT do not say where"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_line(
    environment: dict[str, str],
    says: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert says in fails(capsys, "label", world, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_of_torchrun_uses_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    for name, value in {
        "WORLD_SIZE": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    processes.join()
    assert processes.world() == 1 and not dist.is_initialized()


def test_more_processes_than_photos() -> None:
    with pytest.raises(InputError, match="5 processes were started for 4 training photos: start 4 at most"):
        checks.check_processes(5, 4, "training photo")


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_all_there_is(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tag2mask.processes import group

    items = list(range(10))
    monkeypatch.setattr(group, "world", lambda: world)
    shares, blocks = [], []
    for rank in range(world):
        monkeypatch.setattr(group, "rank", lambda rank=rank: rank)
        shares.append(list(group.own(items)))
        blocks.append(list(group.own_block(items)))
    assert sorted(chain.from_iterable(shares)) == items and list(chain.from_iterable(blocks)) == items


# --- the same results -------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)  # of a machine that has much else to do
@pytest.mark.parametrize(
    ("count", "flags"),
    [
        (2, ["--self-train", "smaf"]),
        (4, ["--self-train", "smaf"]),
        (2, ["--method", "mcis"]),
        (2, ["--propagate", "irn", "--propagation-train.epochs", "1", "--propagation-train.optimizer", "sgd"]),
        (2, ["--freeze"]),
    ],
)
def test_a_run_of_several_processes_is_that_of_one(count: int, flags: list[str], world: Path, tmp_path: Path) -> None:
    """The same losses, masks byte for byte, through self-training and relabelling; predictions of new photos too."""
    command = [*TAG2MASK, "train", world, *SAME, *flags]
    subprocess.run([*map(str, command), "--out", str(tmp_path / "one")], check=True, capture_output=True)
    run_all(count, [*command, "--out", tmp_path / "several"])
    one, several = tmp_path / "one", tmp_path / "several"
    same_losses(one, several)
    same_artefacts(one, several, ["masks", "masks-1", "predictions"])
    for name in ("masks", "images"):
        records = [(run / name / ".stage" / "records.jsonl").read_bytes() for run in (one, several)]
        assert records[0] == records[1]
        assert not list((several / name / ".stage").glob("records-*"))
    assert (one / "scores" / "scores.json").read_bytes() == (several / "scores" / "scores.json").read_bytes()
    assert manifest(several, "masks")["threshold"] == manifest(one, "masks")["threshold"]
    assert not list(several.rglob("*.tmp"))
    for out, number in ((tmp_path / "p1", 1), (tmp_path / "p2", count)):
        predict = [*TAG2MASK, "predict", several, world / "images", "--out", out]
        run_all(number, predict) if number > 1 else subprocess.run(
            [*map(str, predict)], check=True, capture_output=True
        )
    same_artefacts(tmp_path, tmp_path, ["p1"])
    for path in (tmp_path / "p1").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "p2" / path.name).read_bytes()
    assert "done" not in run_all(count, [*command, "--out", several])  # nothing left to do
    assert not list(several.rglob("records-*"))


# --- ends -------------------------------------------------------------------------------------------------------------

SPLIT = ["--train.shard-weights"]
ENDLESS = ["--epochs", "10000", "--train.checkpoint-minutes", "0.01"]


def until_it_trains(run: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 200
    while not (run / "method" / "checkpoint.safetensors").exists():
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("first", "then", "split"), [(2, 1, []), (1, 2, []), (2, 1, SPLIT), (1, 2, SPLIT), (2, 2, SPLIT)]
)
def test_a_checkpoint_serves_another_number_of_processes(
    first: int, then: int, split: list[str], world: Path, tmp_path: Path
) -> None:
    flags = [*SAME, "--epochs", "60", "--train.checkpoint-minutes", "0.01", *split]
    command = [*TAG2MASK, "label", world, *flags, "--out"]
    subprocess.run([*map(str, command), str(tmp_path / "whole")], check=True, capture_output=True)
    began = start(first, [*command, tmp_path / "cut"])
    until_it_trains(tmp_path / "cut", began)
    for process in began:
        process.send_signal(signal.SIGTERM)
    results = ended(began)
    assert all(code == 143 for code, _ in results), results
    assert results[0][1].splitlines()[-1].startswith("tag2mask: asked to end: run the same command again")
    assert all("tag2mask: " not in said for _, said in results[1:]), results
    assert (tmp_path / "cut" / "method" / "checkpoint.safetensors").exists()
    run_all(then, [*command, tmp_path / "cut"])
    whole, cut = (load_file(tmp_path / run / "method" / "model.safetensors") for run in ("whole", "cut"))
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-3, atol=1e-5)
    steps = [line["step"] for line in read_jsonl(tmp_path / "cut" / "method" / "log.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 119
    same_artefacts(tmp_path / "whole", tmp_path / "cut", ["masks"])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("victim", "how"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_process_that_dies_ends_the_others(victim: int, how: signal.Signals, world: Path, tmp_path: Path) -> None:
    """Within 30 seconds, with one line, and the run can go on with one process."""
    command = [*TAG2MASK, "label", world, *SAME, "--out", tmp_path / "run"]
    running = start(2, [*command, *ENDLESS])
    until_it_trains(tmp_path / "run", running)
    running[victim].send_signal(how)
    died = time.monotonic()
    survivor = running[1 - victim]
    said = survivor.communicate(timeout=60)[1]
    assert time.monotonic() - died < 30
    running[victim].kill()
    running[victim].communicate()
    assert survivor.returncode == 2 and "Traceback" not in said
    assert re.match(r"tag2mask: .*(process|processes).*: run the same command again to go on", said.splitlines()[-1])
    assert said.count("tag2mask: ") == 1
    step = max(line["step"] for line in read_jsonl(tmp_path / "run" / "method" / "log.jsonl"))
    epochs = str(2 * (step // 2 + 3))
    done = subprocess.run([*map(str, command), "--epochs", epochs], capture_output=True, text=True)
    assert done.returncode == 0 and len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9


@pytest.mark.exhaustive
def test_what_one_process_cannot_read_is_said_once(world: Path, tmp_path: Path) -> None:
    """A photo of the second process's share that is gone when it is trained on, and a second launch on the folder."""
    data = shutil.copytree(world, tmp_path / "data")
    command = [*TAG2MASK, "label", data, *SAME, *ENDLESS, "--out", tmp_path / "run"]
    running = start(2, command)
    until_it_trains(tmp_path / "run", running)
    second = ended(start(2, command))
    assert [code for code, _ in second] == [2, 2]
    assert "another process is working in" in second[0][1].splitlines()[-1] and "tag2mask: " not in second[1][1]
    for path in (data / "images").iterdir():
        path.unlink()
    results = ended(running)
    assert [code for code, _ in results] == [2, 2], results
    assert results[0][1].count("tag2mask: ") == 1 and "photo0" in results[0][1].splitlines()[-1]
    assert "tag2mask: " not in results[1][1] and "Traceback" not in results[0][1] + results[1][1]


@pytest.mark.exhaustive
def test_a_damaged_artefact_that_one_process_meets_is_made_anew(world: Path, tmp_path: Path) -> None:
    command = [*TAG2MASK, "label", world, *SAME, "--out", tmp_path / "run"]
    run_all(2, command)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "run" / "masks").glob("*.png")}
    maps = tmp_path / "run" / "maps" / "photo05.npz"
    maps.write_bytes(maps.read_bytes()[:-40])
    shutil.rmtree(tmp_path / "run" / "masks")
    assert "is damaged: it is made anew" in run_all(2, command)
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "run" / "masks").glob("*.png")}


@pytest.mark.exhaustive
def test_torchrun_and_more_processes_than_photos(world: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = ["-m", "tag2mask", "label", str(world), *SAME, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, "10", *command], capture_output=True, text=True, env=environment)
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    said = [line for line in done.stderr.splitlines() if line.startswith("tag2mask: ")]
    assert said == ["tag2mask: 10 processes were started for 9 training photos: start 9 at most"]
    done = subprocess.run([*torchrun, "2", *command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
def test_accelerate_launch(world: Path, tmp_path: Path) -> None:
    """The other launcher: the same masks as one process."""
    command = ["-m", "tag2mask", "label", str(world), *SAME, "--out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *command, str(tmp_path / "two")], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "run.json").read_text())["sessions"][-1]["processes"] == 2
    subprocess.run([sys.executable, *command, str(tmp_path / "one")], check=True, capture_output=True, env=environment)
    same_artefacts(tmp_path / "one", tmp_path / "two", ["masks"])
