"""Predictions and labels on a local Ray of two workers: the same bytes as without, also when one of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_packed import parquet, tar
from world import SMALL, fails, redone, run, stamps

pytest.importorskip("ray")

TAG2MASK = [sys.executable, "-m", "tag2mask"]
# Ray's own courtesy to other programs would starve it on a busy machine
POLITE = {"RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ray") / "run"
    assert run("train", world, "--out", out, *SMALL, "--refine", "none", "--relabel.rounds", "0") == 0
    return out


def masks(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert found
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def workers_of(pid: int, actor: str) -> list[int]:
    """Processes of Ray's actors of this class, among the descendants of a process."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, IndexError, ValueError):
            continue

    def is_below(child: int) -> bool:
        while child > 1:
            if child == pid:
                return True
            child = parents.get(child, 0)
        return False

    return [child for child, name in names.items() if actor in name and is_below(child)]


def survives(command: list[str], actor: str) -> str:
    """What a command says of which one actor is killed, and which ends well."""
    environment = {**os.environ, **POLITE}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 900
        while not (holding := workers_of(process.pid, actor)):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.2)
        os.kill(holding[0], signal.SIGKILL)
        said = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, said
    return said


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_local_ray_makes_the_same_masks_and_survives_the_death_of_a_worker(
    finished: Path, world: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for source in (world / "images").iterdir():
        for copy in range(3):
            (images / f"{source.stem}-{copy}.png").write_bytes(source.read_bytes())
    (images / "cut.png").write_bytes((images / "photo00-0.png").read_bytes()[:200])
    assert run("predict", finished, images, "--out", tmp_path / "plain") == 0
    command = [*TAG2MASK, "predict", str(finished), str(images), "--engine", "ray", "--out", str(tmp_path / "ray")]
    said = survives(command, "Segmenter")
    assert masks(tmp_path / "ray") == masks(tmp_path / "plain")
    assert said.count("set aside: ") == 1 and "cut" in said and "36 masks" in said
    assert not list((tmp_path / "ray").rglob("*.tmp"))


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
def test_photos_in_tars_and_parquet_files_on_a_local_ray(finished: Path, world: Path, tmp_path: Path) -> None:
    photos = sorted((world / "images").iterdir())
    assert run("predict", finished, world / "images", "--out", tmp_path / "plain") == 0
    tar(tmp_path / "in" / "0.tar", {path.name: path.read_bytes() for path in photos[:6]})
    names, contents = [path.name for path in photos[6:]], [path.read_bytes() for path in photos[6:]]
    parquet(tmp_path / "in" / "1.parquet", {"id": names, "image": contents})
    command = ["predict", str(finished), str(tmp_path / "in"), "--engine", "ray", "--out", str(tmp_path / "ray")]
    environment = {name: value for name, value in {**os.environ, **POLITE}.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([*TAG2MASK, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, ray = masks(tmp_path / "plain"), masks(tmp_path / "ray" / "0") | masks(tmp_path / "ray" / "1")
    assert ray == plain and len(ray) == 12


@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_labels_on_a_local_ray_are_those_without(finished: Path, world: Path, tmp_path: Path) -> None:
    """Checks, maps and masks by actors, one of which is killed; a photo that cannot be read; then nothing is left to do
    with Ray or without. The network is trained here, by the same steps."""
    data = shutil.copytree(world, tmp_path / "data")
    (data / "images" / "photo04.png").write_bytes((data / "images" / "photo04.png").read_bytes()[:200])
    command = ["label", str(data), *SMALL, "--refine", "none"]
    assert run(*command, "--out", tmp_path / "plain") == 0
    on_ray = [*TAG2MASK, *command, "--engine", "ray", "--out", str(tmp_path / "ray")]
    said = survives(on_ray, "StageWorker")
    assert said.count("set aside: ") == 1 and "photo04" in said
    for name in ("maps", "masks"):
        plain, ray = (
            {p.name: p.read_bytes() for p in (tmp_path / of / name).iterdir() if p.is_file()} for of in ("plain", "ray")
        )
        assert len(plain) >= 8 and ray == plain
    records = [(tmp_path / of / "masks" / ".stage" / "records.jsonl").read_bytes() for of in ("plain", "ray")]
    assert records[0] == records[1] and len(records[0].splitlines()) == 8
    assert not list((tmp_path / "ray").rglob("*.tmp"))
    before = stamps(tmp_path / "ray")
    assert run(*command, "--out", tmp_path / "ray") == 0
    assert not redone(before, stamps(tmp_path / "ray"))


@pytest.mark.exhaustive
def test_what_answers_and_is_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another kind, which never says a word."""
    from tag2mask import ray_engine
    from tag2mask.errors import InputError

    monkeypatch.setattr(ray_engine, "HEALTH", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(InputError, match="is no Ray cluster that this Ray can use"):
            ray_engine.connected()


def test_engines_that_do_not_go(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["label", world, "--out", tmp_path / "run", *SMALL, "--engine"]
    assert "unknown engine 'spark'" in fails(capsys, *command, "spark")
    assert "both share out the photos" in fails(capsys, *command, "ray", "--shard", "1/2")
    assert "--engine ray shares photos and --freeze" in fails(capsys, *command, "ray", "--freeze")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "no Ray cluster answers at RAY_ADDRESS 127.0.0.1:9" in fails(capsys, *command, "ray")


def test_an_address_that_does_not_answer_is_one_line(
    finished: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    said = fails(capsys, "predict", finished, world / "images", "--out", tmp_path / "x", "--engine", "ray")
    assert "no Ray cluster answers at RAY_ADDRESS 127.0.0.1:9" in said
