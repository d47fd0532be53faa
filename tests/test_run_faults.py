"""What goes wrong with run folders: written over, of other classes, damaged, emptied by half, of photos that changed.

Each test starts from a finished run and does what people do; docs/robustness.md has them in one table.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tag2mask.data.images import read_index_mask
from tag2mask.plan import facts, folder
from world import SMALL, fails, redone, run, scene, stamps

pytestmark = pytest.mark.slow  # a hundred whole runs

FLAGS = (*SMALL, "--refine", "none", "--inference.refine", "none", "--relabel.rounds", "0")
ARTEFACTS = (".png", ".npz", ".safetensors")


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", world, "--out", out, *FLAGS) == 0
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """A copy of its data."""
    return Path(shutil.copytree(world, tmp_path / "data"))


def artefacts(out: Path) -> dict[str, bytes]:
    paths = (p for p in out.rglob("*") if p.suffix in ARTEFACTS and ".aside" not in p.parts and p.name[0] != ".")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


# --- nothing that is read is written over -----------------------------------------------------------------------------


def test_predictions_never_replace_photos(out: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(data)
    said = fails(capsys, "predict", out, data / "images", "--out", data / "images")
    assert "the mask of photo00.png would replace it" in said and stamps(data) == before


@pytest.mark.parametrize("where", ["masks", "."])
def test_predictions_never_replace_other_files_of_the_user(
    where: str, out: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Truth has the names that predictions get; a data set has a classes.txt, as predictions have."""
    before = stamps(data)
    photos = shutil.copytree(data / "images", tmp_path / "photos")
    said = fails(capsys, "predict", out, photos, "--out", data / where)
    assert "holds files that no earlier such command wrote" in said and stamps(data) == before


@pytest.mark.parametrize("where", ["masks", "deeper/than/that", "."])
def test_predictions_never_go_into_a_run(
    where: str, out: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(out)
    assert "lies in the run folder" in fails(capsys, "predict", out, world / "images", "--out", out / where)
    assert stamps(out) == before


def test_predictions_inside_the_photos_are_no_photos_of_the_next(out: Path, data: Path) -> None:
    for _ in range(2):
        assert run("predict", out, data / "images", "--out", data / "images" / "predicted") == 0
        assert len(list((data / "images" / "predicted").rglob("*.png"))) == 12


@pytest.mark.parametrize("command", ["predict", "label"])
@pytest.mark.parametrize("below", ["", "below/that"])
def test_an_out_that_is_a_file(
    command: str, below: str, out: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    target = ("--out", tmp_path / "file" / below)
    given = (out, world / "images", *target) if command == "predict" else (world, *target, *FLAGS)
    assert str(tmp_path / "file") in fails(capsys, command, *given)
    assert (tmp_path / "file").read_text() == "mine"


# --- nothing of an earlier plan is this run's -------------------------------------------------------------------------


def test_a_run_folder_used_again_for_other_classes(
    out: Path, finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("label", world, "--out", out, *FLAGS, "--classes", "bar") == 0
    assert (out / "masks" / "classes.txt").read_text().split() == ["bar"]
    values = {int(v) for path in (out / "masks").glob("*.png") for v in np.unique(read_index_mask(path))}
    assert values <= {0, 1, 255}
    said = fails(capsys, "predict", out, world / "images", "--out", tmp_path / "masks")
    assert "no finished stage 'segmenter'" in said  # the old one would call value 1 disc
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert "used again" in capsys.readouterr().err and artefacts(out) == artefacts(finished)


def changed_tags(data: Path) -> None:
    table = data / "tags.csv"
    table.write_text(table.read_text().replace("photo02.png,disc;bar", "photo02.png,disc"))


def one_photo_less(data: Path) -> None:
    lines = (data / "tags.csv").read_text().splitlines()
    (data / "tags.csv").write_text("\n".join(line for line in lines if "photo03" not in line))


def other_classes(data: Path) -> None:
    (data / "tags.csv").write_text((data / "tags.csv").read_text().replace("disc", "ring"))
    (data / "classes.txt").unlink()


def another_photo(data: Path) -> None:
    Image.fromarray(scene(77)[0]).save(data / "images" / "photo01.png")


@pytest.mark.parametrize("change", [changed_tags, one_photo_less, other_classes, another_photo])
def test_a_report_of_what_is_not_there_any_more(
    change: object, finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New tags, classes or photos are never shown beside old masks."""
    out = Path(shutil.copytree(finished, tmp_path / "again"))
    assert run("train", data, "--out", out, *FLAGS) == 0 and run("report", out) == 0
    before = (out / "report.html").read_bytes()
    assert callable(change)
    change(data)
    assert "no finished run of the photos, tags and settings that are there now" in fails(capsys, "report", out)
    assert (out / "report.html").read_bytes() == before
    shutil.rmtree(data)
    assert "is not there" in fails(capsys, "report", out)


# --- photos and weights are known by their bytes ----------------------------------------------------------------------


def replaced_in_secret(photo: Path) -> None:
    """Another photo of the same size on disk and the same time."""
    status, old = photo.stat(), photo.read_bytes()
    Image.fromarray(scene(77)[0]).save(photo)
    new = photo.read_bytes()
    assert len(new) <= len(old)
    photo.write_bytes(new.ljust(len(old), b"\0"))
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (photo.stat().st_size, photo.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_photo_of_the_same_size_and_time_is_seen(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the time of its last change of state, which nothing sets back; where a file system has none, by --verify."""
    photo, command = data / "images" / "photo01.png", ["label", data, "--out", tmp_path / "run", *FLAGS]
    photo.write_bytes(photo.read_bytes() + b"\0" * 2000)  # room for the other one
    assert run(*command) == 0
    before = stamps(tmp_path / "run")
    replaced_in_secret(photo)
    assert run(*command) == 0
    assert "new or changed photos: photo01" in capsys.readouterr().err
    assert redone(before, stamps(tmp_path / "run")) >= {"images", "method", "maps"}


def test_verify_reads_bytes_whatever_times_say(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tag2mask.stages import photos

    command, mask = ["label", data, "--out", tmp_path / "run", *FLAGS], data / "masks" / "photo02.png"
    for module in (facts, photos):
        monkeypatch.setattr(module, "stamp", lambda path: [1, 2, 3])  # a file system that knows nothing of times
    assert run(*command) == 0
    another_photo(data)
    Image.fromarray(np.zeros_like(read_index_mask(mask))).save(mask)
    before = stamps(tmp_path / "run")
    assert run(*command) == 0 and redone(before, stamps(tmp_path / "run")) == set()
    assert run(*command, "--verify") == 0
    assert redone(before, stamps(tmp_path / "run")) >= {"images", "method", "maps", "masks", "scores"}


@pytest.mark.exhaustive
def test_weights_replaced_under_the_same_name(world: Path, tmp_path: Path) -> None:
    def weights(seed: int) -> None:
        torch.manual_seed(seed)
        torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pth")

    command = ["label", world, "--out", tmp_path / "run", *FLAGS, "--weights", tmp_path / "w.pth"]
    weights(0)
    assert run(*command) == 0
    before = stamps(tmp_path / "run")
    shutil.copy(tmp_path / "w.pth", tmp_path / "moved.pth")
    assert run(*command[:-1], tmp_path / "moved.pth") == 0
    assert redone(before, stamps(tmp_path / "run")) == set()  # the same bytes elsewhere
    weights(1)
    assert run(*command) == 0
    assert redone(before, stamps(tmp_path / "run")) == {"method", "maps", "separation", "masks", "scores"}


def test_a_photo_that_was_mended_is_used(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, command = data / "images" / "photo03.png", ["label", data, "--out", tmp_path / "run", *FLAGS]
    whole = photo.read_bytes()
    photo.write_bytes(whole[:500])
    assert run(*command) == 0 and not (tmp_path / "run" / "masks" / "photo03.png").exists()
    photo.write_bytes(whole)
    assert run(*command) == 0 and (tmp_path / "run" / "masks" / "photo03.png").exists()


@pytest.mark.parametrize("flags", [(), ("--freeze-until", "layer3", "--segmenter.no-warm-start")])
def test_photos_of_two_splits_that_share_an_id(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Both are checked; each gets a mask of its own size; a stored feature is of the bytes in its name."""
    sizes = {"train": (48, 72), "val": (56, 64)}
    (tmp_path / "data").mkdir()
    for split, suffix in (("train", "png"), ("val", "bmp")):
        rows = ["image,tags"]
        for number in range(6):
            image, _ = scene(number + 30 * (split == "val"), *sizes[split])
            Image.fromarray(image).save(tmp_path / "data" / f"{number}.{suffix}")
            rows.append(f"{number}.{suffix},{('disc', 'bar', 'disc;bar')[number % 3]}")
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(rows))
    out = tmp_path / "run"
    own = ["--features.folder", tmp_path / "features"] if flags else []
    assert run("train", tmp_path / "data", "--out", out, *FLAGS, *flags, *own) == 0
    records = [json.loads(line) for line in (out / "images" / ".stage" / "records.jsonl").read_text().splitlines()]
    assert len({(r["split"], r["id"]) for r in records}) == len({r["digest"] for r in records}) == 12
    assert len({r["id"] for r in records}) == 6
    for id_ in range(6):
        assert read_index_mask(out / "masks" / f"{id_}.png").shape == sizes["train"]
        assert read_index_mask(out / "predictions" / f"{id_}.png").shape == sizes["val"]


# --- what is damaged or gone is made anew -----------------------------------------------------------------------------

HOW = {"missing": None, "empty": b"", "binary": bytes(range(256)) * 3, "a list": b"[]\n"}
FILES = (
    "images/.stage/records.jsonl", "images/.stage/manifest.json", "method/.stage/key.json",
    "method/.stage/manifest.json", "maps/photo03.npz", "masks/photo03.png", "masks/.stage/records.jsonl",
    "masks/.stage/manifest.json", "segmenter/model.safetensors", "predictions/photo10.png", "scores/scores.json",
    "scores/photos.json", ".digests.jsonl", "run.json", "segmenter/log.jsonl",
)  # fmt: skip
QUICK = {("scores/scores.json", "a list"), ("scores/photos.json", "binary"), ("masks/.stage/records.jsonl", "binary"),
         ("method/.stage/key.json", "empty"), ("segmenter/model.safetensors", "binary"), ("run.json", "a list"),
         ("predictions/photo10.png", "missing"), ("images/.stage/manifest.json", "binary")}  # fmt: skip
DAMAGES = [
    pytest.param(file, how, marks=[] if (file, how) in QUICK else [pytest.mark.exhaustive])
    for file in FILES
    for how in HOW
]


@pytest.mark.parametrize(("file", "how"), DAMAGES)
def test_the_run_s_command_makes_whole_what_is_damaged(
    file: str, how: str, out: Path, finished: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = HOW[how]
    (out / file).unlink()
    if content is not None:
        (out / file).write_bytes(content)
    capsys.readouterr()
    assert run("report", out) in (0, 2)  # reads what it can, or says what to do
    assert "Traceback" not in capsys.readouterr().err
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert run("report", out) == 0
    assert artefacts(out) == artefacts(finished)
    before = stamps(out)
    assert run("train", world, "--out", out, *FLAGS) == 0 and redone(before, stamps(out)) == set()


def test_a_finished_training_whose_key_is_damaged_is_not_done_again(
    out: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(out)
    (out / "method" / ".stage" / "key.json").write_bytes(b"\0" * 50)
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert stamps(out)["method/model.safetensors"] == before["method/model.safetensors"]
    assert json.loads((out / "method" / ".stage" / "key.json").read_text())["settings"]


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "not finite", "a folder"])
def test_predicting_with_a_damaged_model_names_it_and_the_run_s_command_mends_it(
    how: str, out: Path, finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = out / "segmenter" / "model.safetensors"
    whole = model.read_bytes()
    tensors = load_file(model)
    model.unlink()
    if how == "a folder":
        model.mkdir()
    elif how == "not finite":
        next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = torch.nan
        save_file(tensors, model)
    elif how != "missing":
        model.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")
    for _ in range(2):  # the second time it is gone, since it was moved aside
        said = fails(capsys, "predict", out, world / "images", "--out", tmp_path / "masks")
        assert f"{model} is " in said and "run the command of its run again" in said
    assert not list((tmp_path / "masks").rglob("*.png"))  # never all background
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert model.read_bytes() == whole and run("predict", out, world / "images", "--out", tmp_path / "masks") == 0


DESCRIPTIONS = {
    "empty": b"", "binary": bytes(range(256)), "a list": b"[]", "null": b"null", "an object": b"{}",
    "cut": b'{"version"', "deep": b"[" * 100_000,
    "settings of another kind": b'{"version":2,"settings":[],"classes":["a"],"data":"x"}',
    "no classes": b'{"version":2,"settings":{},"data":"x","sessions":[]}',
}  # fmt: skip


@pytest.mark.parametrize("how", DESCRIPTIONS)
def test_a_run_json_that_is_none(
    how: str, out: Path, finished: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers say what to do, and that works: nothing is made anew but run.json."""
    (out / "run.json").write_bytes(DESCRIPTIONS[how])
    for command in (("predict", out, world / "images", "--out", tmp_path / "masks"), ("report", out)):
        said = fails(capsys, *command)
        assert "run its command again" in said or "run the run's command again" in said
    assert run("plan", world, "--out", out, *FLAGS) == 0
    assert " anew " not in capsys.readouterr().out
    before = stamps(out)
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert redone(before, stamps(out)) == set()
    assert run("predict", out, world / "images", "--out", tmp_path / "masks") == 0


# --- killed at the worst moment ---------------------------------------------------------------------------------------


def test_a_kill_while_results_are_deleted_leaves_nothing_that_looks_whole(
    out: Path, finished: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the files are gone when it is killed; the old settings then make them anew, not believe the rest."""

    def half(place: Path, **_: object) -> None:
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        for path in files[: len(files) // 2]:
            path.unlink()
        if files:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folder.shutil, "rmtree", half)
        for _ in range(3):  # killed again and again
            assert run("label", world, "--out", out, *FLAGS, "--threshold", "0.6", "--aside-gb", "0") == 2
    assert "interrupted" in capsys.readouterr().err
    assert run("train", world, "--out", out, *FLAGS) == 0
    assert artefacts(out) == artefacts(finished)
    assert len(list((out / "masks").glob("*.png"))) == 9


def test_a_kill_at_the_first_write(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", ".0123456789ab.77.tmp"):
        (out / name).write_bytes(b"")
    assert run("label", world, "--out", out, *FLAGS) == 0


# --- names, terminals, limits -----------------------------------------------------------------------------------------


def test_names_that_are_awkward_go_through_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no text, 245 letters, a folder called like a file of ours, what steers a terminal."""
    names = [b"\xff\xfe", b"x" * 241, b"key.json/2", b"\x1b]0;a\x07", "фото".encode(), b"model.safetensors/a", b"a%2Fb"]
    (tmp_path / "data" / "disc").mkdir(parents=True)
    (tmp_path / "data" / "bar").mkdir()
    for index, name in enumerate(names * 2):
        wanted = ("disc", "bar")[index >= len(names)]
        image, _ = scene(0 if wanted == "disc" else 1)
        path = Path(os.fsdecode(os.fsencode(tmp_path / "data" / wanted) + b"/" + name + b".png"))
        path.parent.mkdir(exist_ok=True)
        pixels = image.copy()
        pixels[0, 0] = index  # no two alike
        Image.fromarray(pixels).save(path)
    assert run("label", tmp_path / "data", "--out", tmp_path / "run", *FLAGS) == 0
    assert len(list((tmp_path / "run" / "masks").rglob("*.png"))) == 14
    said = capsys.readouterr()
    page = (tmp_path / "run" / "report.html").read_bytes()
    assert b"\x1b" not in page and "\x1b" not in said.err + said.out
    page.decode()
    before = stamps(tmp_path / "run")
    assert run("label", tmp_path / "data", "--out", tmp_path / "run", *FLAGS) == 0
    assert redone(before, stamps(tmp_path / "run")) == set()


def cyrillic(root: Path) -> Path:
    root.mkdir()
    for name, index in (("диск", 0), ("bär", 1)):
        (root / name).mkdir()
        for number in range(2):
            Image.fromarray(scene(index + 3 * number)[0]).save(root / name / f"фото{number}.png")
    return root


@pytest.mark.parametrize("command", ["doctor", pytest.param("label", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.exhaustive)])
def test_terminals_of_few_letters(command: str, encoding: str, tmp_path: Path) -> None:
    data = cyrillic(tmp_path / "data")
    arguments = [command, str(data), *(["--out", str(tmp_path / "run"), *FLAGS] if command == "label" else [])]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "tag2mask", *arguments], capture_output=True, env=environment)
    said = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in said and done.returncode in (0, 2), said
    assert "\\u0434\\u0438\\u0441\\u043a" in said  # диск
    assert command == "doctor" or len(list((tmp_path / "run" / "masks").rglob("*.png"))) == 4


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform == "win32", reason="limits of the shell")
def test_a_limit_on_the_size_of_files(world: Path, tmp_path: Path) -> None:
    """`ulimit -f`: the model is larger. One line, nothing half-written, and without the limit the run goes on."""
    import resource

    command = [sys.executable, "-m", "tag2mask", "label", str(world), "--out", str(tmp_path / "run"), *FLAGS]
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "model.safetensors" in done.stderr.splitlines()[-1] and not list(tmp_path.rglob("*.tmp"))
    assert subprocess.run(command, capture_output=True).returncode == 0


# --- before the first photo is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["auto", "FILE"])
def test_weights_of_the_segmenter_s_own_backbone_are_checked_first(
    weights: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a hub that is not there, or another network's: before a photo is read; `none` is a choice."""
    (tmp_path / "w.pth").write_bytes(b"")
    torch.save({"other.weight": torch.zeros(3)}, tmp_path / "w.pth")
    given = str(tmp_path / "w.pth") if weights == "FILE" else weights
    flags = [*FLAGS, "--segmenter.backbone", "resnet14t", "--segmenter.no-warm-start", "--segmenter.weights", given]
    said = fails(capsys, "train", world, "--out", tmp_path / "run", *flags)
    assert ("--segmenter.weights" in said) if weights == "auto" else (given in said)
    assert not (tmp_path / "run").exists()
    assert run("label", world, "--out", tmp_path / "run", *flags) == 0  # which comes to no segmenter
