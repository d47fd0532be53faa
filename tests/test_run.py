"""The run folder: atomic files, stages that redo what depends on a change, one process at a time."""

from __future__ import annotations

import errno
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tag2mask.errors import InputError
from tag2mask.run import Run, atomic, read_maps, write_json, write_maps
from tag2mask.types import LocalizationMaps


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="disk full while writing"), atomic(path) as file:
        file.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_setting_redoes_the_stage_and_those_that_read_it(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        for threshold, kept in ((0.3, False), (0.3, True), (0.4, False)):
            first = run.stage("maps", {"scale": 1})
            second = run.stage("masks", {"threshold": threshold}, [first])
            third = run.stage("segmenter", {}, [second])
            assert first.done is (kept or threshold == 0.4)  # nothing it is made from changed
            assert second.done is kept and third.done is kept
            for stage in (first, second, third):
                if not stage.done:
                    (stage.folder / "artefact").write_text("x")
                    stage.finish(count=1, seconds=1.0)


def test_an_unfinished_stage_keeps_its_artefacts_and_adds_up_its_seconds(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        stage = run.stage("maps", {})
        (stage.folder / "a.npz").write_text("x")
        (stage.folder / ".b.npz.123.tmp").write_text("half")  # the process was killed while it wrote b.npz
        stage.pause(2.0)
    with Run(tmp_path / "run") as run:
        stage = run.stage("maps", {})
        assert not stage.done and (stage.folder / "a.npz").exists()
        assert not list(stage.folder.rglob("*.tmp"))
        stage.finish(count=1, seconds=3.0)
        assert stage.read_manifest()["seconds"] == 5.0
        assert run.stage("maps", {}).done


def _hold(folder: Path, held, release) -> None:
    with Run(folder):
        held.set()
        release.wait(30)


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", held, release))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(InputError, match="another process is working"), Run(tmp_path / "run"):
            pass
    finally:
        release.set()
        other.join()
    with Run(tmp_path / "run"):
        pass


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        Run(tmp_path / "absent", resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(InputError, match="not empty and not a run folder"):
        Run(tmp_path / "photos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        Run(tmp_path / "file")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"version": 0}')
    with pytest.raises(InputError, match="another version"):
        Run(tmp_path / "old")
    (tmp_path / "old" / "run.json").write_text('{"version"')
    with pytest.raises(InputError, match="not valid JSON"):
        Run(tmp_path / "old")


def test_maps_round_trip_in_half_precision(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)
    maps = LocalizationMaps("a/b", (1, 4), scores, (40, 56))
    path = tmp_path / "a" / "b.npz"
    write_maps(path, maps)
    back = read_maps(path, "a/b")
    assert back.classes == (1, 4) and back.size == (40, 56) and back.scores.dtype == np.float16
    np.testing.assert_array_equal(back.scores, scores)
    assert back.covered is None
    write_maps(path, replace(maps, covered=0.25))
    assert read_maps(path, "a/b").covered == 0.25
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="delete that file and run again"):
        read_maps(path, "a/b")
