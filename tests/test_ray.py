"""Predictions on a local Ray of two workers: the same bytes as without, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from world import SMALL, run

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


def workers_of(pid: int) -> list[int]:
    """Processes of Ray's actors that hold the network, among the descendants of a process."""
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

    return [child for child, name in names.items() if "Segmenter" in name and is_below(child)]


@pytest.mark.exhaustive
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
    environment = {**os.environ, **POLITE}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 300
        while not (holding := workers_of(process.pid)):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.2)
        os.kill(holding[0], signal.SIGKILL)
        said = process.communicate(timeout=500)[0]
    assert process.returncode == 0, said
    assert masks(tmp_path / "ray") == masks(tmp_path / "plain")
    assert said.count("set aside: ") == 1 and "cut" in said and "36 masks" in said
    assert not list((tmp_path / "ray").rglob("*.tmp"))


def test_an_address_that_does_not_answer_is_one_line(
    finished: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from world import fails

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    said = fails(capsys, "predict", finished, world / "images", "--out", tmp_path / "x", "--engine", "ray")
    assert "no Ray cluster answers at RAY_ADDRESS 127.0.0.1:9" in said
