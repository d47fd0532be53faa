"""The run folder: stages that redo what depends on a change, what is kept aside, one process at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from tag2mask.errors import InputError
from tag2mask.plan.folder import Run, StageFolder


def opened(run: Run, name: str, key: str) -> StageFolder:
    return run.open(name, key, {"settings": {"key": key}})


def finished(run: Run, name: str, key: str, content: bytes = b"x") -> StageFolder:
    stage = opened(run, name, key)
    (stage.folder / "artefact").write_bytes(content)
    stage.finish(count=1, seconds=1.0)
    return stage


def test_a_stage_under_another_key_is_moved_aside_and_taken_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tag2mask")
    with Run(tmp_path / "run") as run:
        first = finished(run, "maps", "a", b"of a")
        assert opened(run, "maps", "a").has_manifest  # nothing it is made from changed
        second = opened(run, "maps", "b")
        assert second.folder == first.folder and not second.has_manifest
        assert not (second.folder / "artefact").exists()  # nothing of a shows
        assert (tmp_path / "run" / ".aside" / "maps" / "a" / "artefact").read_bytes() == b"of a"
        assert "maps: results of other settings are kept in" in caplog.text
        finished(run, "maps", "b", b"of b")
        again = opened(run, "maps", "a")
        assert again.has_manifest and (again.folder / "artefact").read_bytes() == b"of a"
        assert "maps: results of these settings were kept and are used again" in caplog.text
        assert (tmp_path / "run" / ".aside" / "maps" / "b" / "artefact").read_bytes() == b"of b"
        assert run.stages() == ["maps"]  # what is kept aside is no stage of the run


def test_an_unfinished_stage_is_kept_aside_too(tmp_path: Path) -> None:
    """Half of a day's training must not vanish through a mistyped flag."""
    with Run(tmp_path / "run") as run:
        (opened(run, "method", "a").folder / "checkpoint.safetensors").write_bytes(b"half")
        opened(run, "method", "b")
        back = opened(run, "method", "a")
        assert (back.folder / "checkpoint.safetensors").read_bytes() == b"half" and not back.has_manifest
        assert not (tmp_path / "run" / ".aside" / "method" / "b").exists()  # nothing was in it: nothing is kept


def test_what_is_kept_aside_is_bounded_and_the_oldest_goes_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tag2mask")
    with Run(tmp_path / "run") as run:
        for age, key in enumerate("abc"):
            finished(run, "maps", key, bytes(1_000_000))
            run.set_aside("maps")
            place = tmp_path / "run" / ".aside" / "maps" / key
            os.utime(place, (1_000_000 + age, 1_000_000 + age))
        finished(run, "maps", "d", bytes(1_000_000))
        run.bound_aside(0.0025)
        kept = tmp_path / "run" / ".aside" / "maps"
        assert sorted(p.name for p in kept.iterdir()) == ["b", "c"]
        assert "results of other settings took more than 0.0025 GB (--aside-gb)" in caplog.text
        run.bound_aside(0)
        assert list(kept.iterdir()) == []
        assert run.current("maps") == StageFolder(tmp_path / "run" / "maps", "d")  # what is used is never deleted


def test_an_unfinished_stage_keeps_its_artefacts_and_adds_up_its_seconds(tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        stage = opened(run, "maps", "a")
        (stage.folder / "a.npz").write_text("x")
        (stage.folder / ".b.npz.123.tmp").write_text("half")  # the process was killed while it wrote b.npz
        stage.pause(2.0)
    with Run(tmp_path / "run") as run:
        stage = opened(run, "maps", "a")
        assert not stage.has_manifest and (stage.folder / "a.npz").exists()
        assert not list(stage.folder.rglob("*.tmp"))
        stage.finish(count=1, seconds=3.0)
        assert stage.manifest()["seconds"] == 5.0
        assert opened(run, "maps", "a").has_manifest
        stage.reopen()  # something that it promised is missing
        assert not stage.has_manifest
        stage.finish(count=1, seconds=1.5)
        assert stage.manifest()["seconds"] == 6.5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "b"}', '{"count": 1}'])
def test_a_stage_with_a_damaged_manifest_is_not_done(content: str, tmp_path: Path) -> None:
    with Run(tmp_path / "run") as run:
        stage = finished(run, "maps", "a")
        (stage.own / "manifest.json").write_text(content)
        assert not opened(run, "maps", "a").has_manifest
        assert (stage.folder / "artefact").exists()


def _hold(folder: Path, held, release) -> None:
    with Run(folder):
        held.set()
        release.wait(30)


@pytest.mark.slow
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
        Run(tmp_path / "absent", existing=True)
    assert not (tmp_path / "absent").exists()
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
    with pytest.raises(InputError, match=r"segmenter lies in the run folder \S+old, whose masks it could replace"):
        Run(tmp_path / "old" / "segmenter")  # which the run itself may want to make


def test_a_lost_run_json_is_written_anew(tmp_path: Path) -> None:
    """Readers of a run say what is wrong; the run's own command goes on."""
    with Run(tmp_path / "run") as run:
        finished(run, "maps", "a")
    for content in ('{"version"', "", "[]"):
        (tmp_path / "run" / "run.json").write_text(content)
        with pytest.raises(InputError, match=r"its run\.json is damaged.*run its command again"):
            Run(tmp_path / "run", existing=True)
        with Run(tmp_path / "run") as run:
            assert opened(run, "maps", "a").has_manifest
        assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"version": 2}
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(InputError, match=r"it has no run\.json"):
        Run(tmp_path / "run", existing=True)
    with Run(tmp_path / "run") as run:
        assert opened(run, "maps", "a").has_manifest
