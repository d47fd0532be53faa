"""Shards of predict and label: the same bytes as without, each with its manifest, and what merge says of them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tag2mask import shards
from tag2mask.errors import InputError
from tag2mask.shards import Shard
from test_packed import tar
from world import SMALL, fails, manifest, redone, run, stamps

pytestmark = pytest.mark.slow  # whole runs

LABEL = [*SMALL, "--refine", "none"]


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run. Read only."""
    out = tmp_path_factory.mktemp("shards") / "run"
    assert run("train", world, "--out", out, *LABEL, "--relabel.rounds", "0") == 0
    return out


@pytest.fixture(scope="module")
def whole(finished: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Masks by one call."""
    out = tmp_path_factory.mktemp("whole") / "masks"
    assert run("predict", finished, world / "images", "--out", out) == 0
    return masks(out)


def masks(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert found
    return found


def test_three_shards_make_what_one_call_makes(
    finished: Path, world: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    command = ["predict", finished, world / "images", "--out", out, "--shard"]
    for number in (3, 1):
        assert run(*command, f"{number}/3") == 0
    said = fails(capsys, "merge", out)
    assert "1 of 3 shards" in said and "--shard 2/3" in said
    assert len(masks(out)) == 8
    assert run(*command, "2/3") == 0
    assert masks(out) == whole and (out / "classes.txt").exists()
    capsys.readouterr()
    assert run("merge", out) == 0
    assert capsys.readouterr().out == f"12 masks in {out}\n"
    assert len(list((out / ".shards").glob("*.json"))) == 3


def test_very_many_masks_lie_in_subfolders(
    finished: Path,
    world: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same masks, which merge and evaluate find; here "very many" is eleven."""
    out, plain = tmp_path / "masks", tmp_path / "plain"
    assert run("predict", finished, world / "images", "--out", plain) == 0
    monkeypatch.setattr("tag2mask.naming.FLAT", 11)
    for number in (1, 2):
        assert run("predict", finished, world / "images", "--out", out, "--shard", f"{number}/2") == 0
    found = {path.name: path.read_bytes() for path in out.glob("[0-9a-f][0-9a-f]/*.png")}
    assert found == whole and not list(out.glob("*.png"))
    when = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert run("predict", finished, world / "images", "--out", out, "--shard", "1/2") == 0
    assert when == {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}, "what is there is kept"
    capsys.readouterr()
    assert run("merge", out) == 0 and "12 masks" in capsys.readouterr().out
    shown = []
    for folder in (plain, out):
        assert run("evaluate", folder, world / "masks") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    next(out.rglob("photo03.png")).unlink()
    assert "1 of 12 masks not there" in fails(capsys, "merge", out)
    assert "holds masks of fewer photos" in fails(capsys, "predict", finished, world / "images", "--out", plain)


def test_photos_in_tars_are_predicted_as_those_of_a_folder(
    finished: Path, world: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By shards and with one call; a photo that cannot be read is passed over; a tar that is newer is read again."""
    photos = sorted((world / "images").iterdir())
    for number in (0, 1):
        members = {path.name: path.read_bytes() for path in photos[number::2]}
        tar(
            tmp_path / "tars" / f"{number}.tar",
            {**members, **({"cut.png": members["photo01.png"][:99]} if number else {})},
        )
    expected = {f"{int(name[5:7]) % 2}/{name}": content for name, content in whole.items()}
    for flags in ([], ["1/2", "2/2"]):
        out = tmp_path / f"masks-{len(flags)}"
        for shard in flags or ["1/1"]:
            assert run("predict", finished, tmp_path / "tars", "--out", out, "--shard", shard) == 0
        found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*.png")}
        assert found == expected
    capsys.readouterr()
    assert run("merge", out) == 0
    said = capsys.readouterr().out
    assert "12 masks" in said and "1.tar/cut.png" in said
    os.utime(tmp_path / "tars" / "0.tar")
    before = stamps(out)
    assert run("predict", finished, tmp_path / "tars", "--out", out, "--shard", "1/2") == 0
    changed = {name for name, when in stamps(out).items() if before[name] != when and name.endswith(".png")}
    assert changed and any(name.startswith("0/") for name in changed)


def test_a_run_of_very_many_photos_keeps_its_artefacts_in_subfolders(
    finished: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes, which the run and evaluate find; val's few photos lie flat. Here "very many" is nine."""
    monkeypatch.setattr("tag2mask.naming.FLAT", 8)
    out = tmp_path / "run"
    command = ["train", world, "--out", out, *LABEL, "--relabel.rounds", "0"]
    assert run(*command) == 0
    for name, suffix in (("masks", "png"), ("maps", "npz"), ("predictions", "png")):
        pattern = f"*.{suffix}" if name == "predictions" else f"[0-9a-f][0-9a-f]/*.{suffix}"
        of_run = {path.name: path.read_bytes() for path in (out / name).glob(pattern)}
        assert of_run == {path.name: path.read_bytes() for path in (finished / name).glob(f"*.{suffix}")} and of_run
    assert (out / "scores" / "scores.json").read_bytes() == (finished / "scores" / "scores.json").read_bytes()
    shown = []
    for folder in (out, finished):
        capsys.readouterr()
        assert run("evaluate", folder / "masks", world / "masks", "--allow-missing") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    monkeypatch.undo()  # a run goes on as it began
    before = stamps(out)
    next((out / "masks").glob("*/photo03.png")).unlink()
    assert run(*command) == 0
    assert redone(before, stamps(out)) <= {"masks", "scores"} and not list((out / "masks").glob("*.png"))


def test_what_merge_finds_wrong(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shutil.copytree(world / "images", tmp_path / "images")
    (images / "cut.png").write_bytes((images / "photo00.png").read_bytes()[:200])
    out = tmp_path / "masks"
    assert "is not there: check the path" in fails(capsys, "merge", tmp_path / "nothing")
    (tmp_path / "nothing").mkdir()
    assert "holds no finished shard" in fails(capsys, "merge", tmp_path / "nothing")
    for number in (1, 2):
        assert run("predict", finished, images, "--out", out, "--shard", f"{number}/2") == 0
    capsys.readouterr()
    assert run("merge", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("set aside: ") and "cut" in said[0] and "12 masks" in said[1]
    (out / "photo03.png").unlink()
    assert "1 of 12 masks not there" in fails(capsys, "merge", out)
    assert run("predict", finished, images, "--out", out, "--shard", "1/3") == 0
    assert "shards of 2 and of 3, which overlap (1/2, 2/2)" in fails(capsys, "merge", out)
    (out / ".shards" / "1-of-3.json").unlink()
    (images / "photo99.png").write_bytes((images / "photo00.png").read_bytes())
    assert "are others than when shards were made" in fails(capsys, "merge", out)
    assert run("predict", finished, images, "--out", out, "--shard", "1/2") == 0
    assert "shards 1 and 2" in fails(capsys, "merge", out)
    assert run("predict", finished, images, "--out", out, "--shard", "2/2", "--refine", "par") == 0
    assert "different runs or settings" in fails(capsys, "merge", out)


def test_masks_that_are_there_are_kept_unless_they_are_of_something_else(
    finished: Path, world: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    assert run("predict", finished, world / "images", "--out", out) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (out / "photo02.png").unlink()
    (out / "photo05.png").write_bytes(b"")
    assert run("predict", finished, world / "images", "--out", out) == 0
    assert masks(out) == whole
    kept = {path.name for path in out.glob("*.png") if path.stat().st_mtime_ns == before[path.name]}
    assert kept.isdisjoint({"photo02.png", "photo05.png"}) and kept  # a batch is made together
    assert run("predict", finished, world / "images", "--out", out, "--refine", "par") == 0
    assert not any(path.stat().st_mtime_ns == before[path.name] for path in out.glob("*.png"))


@pytest.mark.slow
def test_shards_label_what_one_run_labels(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train once, then every stage by shards; the last to finish a stage concludes it."""
    out = tmp_path / "run"
    command = ["label", world, "--out", out, *LABEL, "--relabel.rounds", "0"]
    assert "needs the stage 'method'" in fails(capsys, *command, "--shard", "1/1")
    assert run(*command, "--until", "method") == 0
    assert not (out / "maps").exists() and not (out / "report.html").exists()
    assert "run `tag2mask label`" in fails(capsys, "merge", out)
    capsys.readouterr()
    assert run(*command, "--shard", "1/2") == 0
    assert "shard 1/2 is done, 1 others are not" in capsys.readouterr().out
    assert "1 of 2 shards" in fails(capsys, "merge", out)
    assert run(*command, "--shard", "2/2") == 0  # concludes the maps, and does its share of the separation
    assert run(*command, "--shard", "1/2") == 0  # concludes that, and does its share of the masks
    assert run(*command, "--shard", "2/2") == 0
    assert f"all masks are in {out / 'masks'}" in capsys.readouterr().out
    assert run("merge", out) == 0
    assert f"9 masks in {out / 'masks'}" in capsys.readouterr().out
    assert masks(out / "masks") == masks(finished / "masks")
    records = [(folder / "masks" / ".stage" / "records.jsonl").read_bytes() for folder in (out, finished)]
    assert records[0] == records[1] and manifest(out, "masks")["threshold"] == manifest(finished, "masks")["threshold"]
    written = {path: path.stat().st_mtime_ns for path in (out / "masks").glob("*.png")}
    assert run(*command) == 0  # scores and report
    assert (out / "report.html").exists()
    assert written == {path: path.stat().st_mtime_ns for path in (out / "masks").glob("*.png")}


def test_two_launches_of_a_shard_and_of_other_settings(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with shards.held(out, Shard(1, 2)):
        said = fails(capsys, "label", world, "--out", out, *LABEL, "--shard", "1/2")
        assert "with other settings" in said  # nobody knows of which
        assert f"shards of {out} are being worked on (1/2)" in fails(capsys, "label", world, "--out", out, *LABEL)
    assert "needs the stage 'method'" in fails(capsys, "label", world, "--out", out, *LABEL, "--shard", "1/1")
    with shards.held(out, Shard(1, 2)):
        assert "shard 1/2" in fails(capsys, "label", world, "--out", out, *LABEL, "--shard", "1/2")
        other = fails(capsys, "label", world, "--out", out, *LABEL, "--shard", "2/2", "--seed", "1")
        assert "with other settings are being worked on (1/2)" in other


def test_masks_of_an_earlier_call_among_the_photos_are_no_photos(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another folder than theirs, too; and the list of photos that shards agree on stays what it was."""
    photos = shutil.copytree(world / "images", tmp_path / "cls" / "cat").parent
    assert run("predict", finished, photos, "--out", photos / "out") == 0
    assert run("predict", finished, photos, "--out", tmp_path / "masks", "--shard", "1/2") == 0
    capsys.readouterr()
    assert run("predict", finished, photos, "--out", photos / "cat" / "again") == 0
    told = capsys.readouterr()
    assert f"predictions of tag2mask in {photos} are no photos, left out: out" in told.out + told.err
    assert len(masks(photos / "cat" / "again" / "cat")) == len(masks(world / "images"))
    assert run("predict", finished, photos, "--out", tmp_path / "masks", "--shard", "2/2") == 0
    assert run("merge", tmp_path / "masks") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where nobody makes folders")
def test_folders_that_cannot_be_made_are_one_line(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out, says in ((tmp_path / "loop", "links lead in a circle"), ("/proc/x", "cannot make the folder /proc/x")):
        assert says in fails(capsys, "predict", finished, world / "images", "--out", out)
        says = says.replace("make the folder /proc/x", "write /proc")
        assert says in fails(capsys, "export", finished, "--to", "png", "--out", out)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match=f"--shard {text}"):
        Shard.of(text)


def test_more_shards_than_photos(
    finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, "predict", finished, world / "images", "--out", tmp_path / "x", "--shard", "1/13")
    assert "13 shards were started for 12 photos" in said


def test_shares_are_all_there_is() -> None:
    items = list(range(11))
    shares = [Shard(number, 4).own(items) for number in range(1, 5)]
    assert sorted(x for share in shares for x in share) == items and Shard().own(items) is items


def test_a_file_is_newer(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    now = time.time_ns()
    os.utime(tmp_path / "a", ns=(now, now))
    assert shards.is_newer(tmp_path / "a", now - 1) and not shards.is_newer(tmp_path / "a", now)
    assert not shards.is_newer(tmp_path / "b", 0)
