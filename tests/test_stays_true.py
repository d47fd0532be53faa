"""What lies in a run folder stays true: after refused commands, when photos, masks, tags and settings change, when what
the run was made of is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import tag2mask
from tag2mask import pipeline
from tag2mask.corrected import corrected_masks
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.evaluate import read_classes
from tag2mask.exchange import FORMATS, About, check
from tag2mask.plan.folder import Run
from tag2mask.review import Review
from tag2mask.stages import method
from test_exchange import ACCEPT
from world import CLASSES, SMALL, fails, keys, made_of, make, run, scene

FAST = (*SMALL, "--refine", "none", "--inference.refine", "none", "--relabel.refine", "none")
AFTER_MASKS = ("segmenter-0", "masks-1", "segmenter", "predictions", "scores")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a finished run of it."""
    folder = tmp_path_factory.mktemp("base")
    make(folder / "data")
    assert run("train", folder / "data", "--out", folder / "run", *FAST) == 0
    return folder


@pytest.fixture
def data(base: Path, tmp_path: Path) -> Path:
    """A copy of the data set, with a copy of the run beside it."""
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


def without(out: Path, stages: tuple[str, ...]) -> None:
    for name in stages:
        shutil.rmtree(out / name)


def test_a_refused_command_leaves_the_names_of_the_classes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a finished segmenter, whose channels they name."""
    out, before = data.parent / "run", (data.parent / "run" / "run.json").read_bytes()
    (data / "classes.txt").write_text("bar\ndisc\n")
    assert "truth mask shows others only" in fails(capsys, "train", data, "--out", out, *FAST)
    assert (out / "run.json").read_bytes() == before and tag2mask.load(out).classes == CLASSES
    (data / "classes.txt").write_text("disc\nbar\n")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(data / "masks" / "photo00.png")
    assert "10x10" in fails(capsys, "train", data, "--out", out, *FAST, "--segmenter", "deeplab-largefov")
    assert run("predict", out, data / "images", "--out", data.parent / "predicted") == 0


@pytest.mark.slow
def test_an_export_that_comes_back_untouched_is_no_correction(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when the run has other masks of these photos meanwhile."""
    out = data.parent / "run"
    without(out, AFTER_MASKS)
    assert run("export", out, "--to", "png", "--out", data.parent / "png") == 0
    assert run("train", data, "--out", out, *FAST) == 0
    assert any(
        not np.array_equal(read_index_mask(path), read_index_mask(out / "masks-1" / path.name))
        for path in (out / "masks").glob("*.png")
    )
    assert "came back as they left" in fails(capsys, "import", out, data.parent / "png", "--from", "png")
    shutil.rmtree(out / "masks-1")  # an export of before that is wholly gone is unknown
    assert run("train", data, "--out", out, *FAST, "--threshold", "0.6") == 0  # those that left are aside
    assert "came back as they left" in fails(capsys, "import", out, data.parent / "png", "--from", "png")


def test_outlines_that_nobody_touched_are_no_correction(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YOLO fills holes; the run's masks are given some."""
    out = data.parent / "run"
    for path in (out / "masks-1").glob("*.png"):
        mask = np.zeros_like(read_index_mask(path))
        mask[5:25, 5:25], mask[10:20, 10:20] = 1, 0
        write_index_mask(path, mask)
    assert run("export", out, "--to", "yolo", "--out", data.parent / "yolo") == 0
    assert "came back as they left" in fails(capsys, "import", out, data.parent / "yolo", "--from", "yolo")
    text = next((data.parent / "yolo" / "labels").rglob("*.txt"))
    text.write_text("")
    assert run("import", out, data.parent / "yolo", "--from", "yolo") == 0
    assert list(key[1] for key in corrected_masks(out, CLASSES)) == [text.stem]


def test_the_masks_of_a_run_that_is_not_ours_leave_all_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "run"
    (out / "exports.jsonl").mkdir()  # as good as a file that may not be written
    capsys.readouterr()
    assert run("export", out, "--to", "png", "--out", data.parent / "png") == 0
    assert "exports.jsonl cannot be written" in capsys.readouterr().out
    assert len([*(data.parent / "png").rglob("*.png")]) == 9


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_knows_its_masks_again(name: str, tmp_path: Path) -> None:
    """What it reads of a mask that nobody changed is what it says of it."""
    classes = check.CLASSES
    form, photos = FORMATS[name], list(check.odd_photos(tmp_path / "photos"))
    (tmp_path / "out").mkdir()
    form.write(tmp_path / "out", iter(photos), About(classes, "test", "train", tmp_path / "photos"))
    ACCEPT.get(name, lambda folder: None)(tmp_path / "out")
    back = {drawn.name: drawn.mask for drawn in form.read(tmp_path / "out", classes)}
    for photo in photos:
        mask = np.where(photo.mask == 255, 0, photo.mask).astype(np.uint8)
        read = back[photo.name] if photo.name in back else back[photo.id]
        np.testing.assert_array_equal(np.where(read == 255, 0, read), form.as_left(mask, classes))


@pytest.mark.slow
def test_a_correction_is_of_the_photo_that_it_was_drawn_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not of another one that has its name now."""
    out = data.parent / "run"
    assert run("export", out, "--to", "png", "--out", data.parent / "png") == 0
    for name in ("photo00", "photo01"):
        mask = np.zeros((48, 72), np.uint8)
        mask[:, :36] = 1
        write_index_mask(data.parent / "png" / f"{name}.png", mask)
    assert run("import", out, data.parent / "png", "--from", "png") == 0
    capsys.readouterr()
    assert run("plan", data, "--out", out, *FAST, "--with-masks") == 0
    assert "because other corrected masks" in capsys.readouterr().out
    image, mask = scene(30)
    Image.fromarray(image).save(data / "images" / "photo00.png")
    Image.fromarray(mask).save(data / "masks" / "photo00.png")
    assert run("train", data, "--out", out, *FAST, "--with-masks") == 0
    taught = json.loads((out / "passport.json").read_text())["learned_from"]["corrected_masks"]
    assert taught == 1
    assert run("train", data, "--out", out, *FAST) == 0  # and measures only what it was drawn on
    capsys.readouterr()
    assert run("evaluate", out, "--check", "--json") == 0
    assert '"photos": 1' in capsys.readouterr().out


def test_a_withdrawn_decision_counts_no_more(data: Path) -> None:
    out, mask = data.parent / "run", np.full((48, 72), 2, np.uint8)
    review = Review(out, CLASSES)
    for name in ("photo00", "photo01"):
        review.decide(("train", name), "corrected", mask=mask)
    assert run("import", out, "--from", "review") == 0
    assert {key[1] for key in corrected_masks(out, CLASSES)} == {"photo00", "photo01"}
    review.decide(("train", "photo00"), "withdrawn", revision=1)
    assert run("import", out, "--from", "review") == 0
    assert {key[1] for key in corrected_masks(out, CLASSES)} == {"photo01"}


def test_a_decision_on_a_photo_that_was_replaced_counts_no_more(data: Path) -> None:
    """Until the run has seen the new photo; lines of versions that kept no digest count as they did."""
    out, mask = data.parent / "run", np.full((48, 72), 2, np.uint8)

    def review() -> Review:
        execution = pipeline.reopen(Run(out, existing=True))
        return Review(out, CLASSES, execution.data.photos)

    for name in ("photo00", "photo01"):
        review().decide(("train", name), "corrected", mask=mask, tags=("disc",))
    Review(out, CLASSES).decide(("train", "photo02"), "accepted", mask=mask)
    Image.fromarray(scene(30)[0]).save(data / "images" / "photo00.png")
    assert run("label", data, "--out", out, *FAST) == 0
    now = review()
    assert now.latest()["train", "photo00"].decision == "withdrawn" and now.mask_path(("train", "photo00")) is None
    assert now.latest()["train", "photo01"].decision == "corrected" and now.mask_path(("train", "photo01")) is not None
    assert run("import", out, "--from", "review") == 0
    assert {key[1] for key in corrected_masks(out, CLASSES)} == {"photo01", "photo02"}
    now.decide(("train", "photo00"), "accepted", mask=mask, revision=1)  # of the new photo
    assert review().latest()["train", "photo00"].decision == "accepted"
    kept = out / "review" / "replaced" / "train" / "photo00.1.png"
    assert kept.is_file(), "the mask that was painted on the old photo"


@pytest.mark.slow
def test_runs_of_other_photos_with_the_same_names_are_not_compared(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make(tmp_path / "other")
    for path in sorted((other / "images").glob("*.png")):
        image, _ = scene(int(path.stem[-2:]))
        Image.fromarray(image[::-1]).save(path)
    for path in (other / "masks").glob("*.png"):
        write_index_mask(path, read_index_mask(path)[::-1])
    assert run("label", other, "--out", tmp_path / "other_run", *FAST) == 0
    assert "same names and are not the same" in fails(capsys, "compare", data.parent / "run", tmp_path / "other_run")

    third = Path(shutil.copytree(data, tmp_path / "third"))
    mask = read_index_mask(third / "masks" / "photo02.png")
    mask[:5] = 1
    write_index_mask(third / "masks" / "photo02.png", mask)
    assert run("label", third, "--out", tmp_path / "third_run", *FAST) == 0
    assert "against different true masks" in fails(capsys, "compare", data.parent / "run", tmp_path / "third_run")


def test_a_comparison_as_json_is_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a class that no photo of val shows: NaN is no number of JSON's."""
    lines = [x for x in (data / "tags.csv").read_text().splitlines() if not x.startswith(("photo09", "photo11"))]
    (data / "tags.csv").write_text("\n".join(lines) + "\n")
    out = data.parent / "run"
    assert run("train", data, "--out", out, *FAST) == 0
    shutil.copytree(out, tmp_path / "other")
    capsys.readouterr()
    assert run("compare", out, tmp_path / "other", "--json") == 0

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_a_changed_setting_is_examined_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo of val that is also learned from is refused, unless it is meant; that it was meant once is no leave."""
    shutil.copy(data / "images" / "photo00.png", data / "images" / "photo09.png")
    shutil.copy(data / "masks" / "photo00.png", data / "masks" / "photo09.png")
    lines = (data / "tags.csv").read_text().splitlines()
    lines = [line.replace(line.split(",")[1], "disc") if line.startswith("photo09") else line for line in lines]
    (data / "tags.csv").write_text("\n".join(lines) + "\n")
    out = data.parent / "run"
    assert "photo09" in fails(capsys, "label", data, "--out", out, *FAST)
    assert run("label", data, "--out", out, *FAST, "--data.shared-photos", "measure") == 0
    assert "photo09" in fails(capsys, "label", data, "--out", out, *FAST)


def test_a_photo_that_could_not_be_read_is_tried_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What kept it from being read may be over, and leaves no trace on the file. One that left the data set is not
    spoken of."""
    from tag2mask.plan import photos

    out, broken = data.parent / "new", data / "images" / "photo03.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    stamp = photos.stamps_of
    monkeypatch.setattr(photos, "stamps_of", lambda rows: np.zeros_like(stamp(rows)))  # no file ever shows a change
    assert run("label", data, "--out", out, *FAST, "--until", "images") == 0
    assert "photo03" in capsys.readouterr().err
    broken.write_bytes(whole)
    assert run("label", data, "--out", out, *FAST, "--until", "images") == 0
    assert "photo03" not in capsys.readouterr().err.replace("photo03, made anew", "")
    broken.write_bytes(whole[:200])
    monkeypatch.undo()
    assert run("label", data, "--out", out, *FAST, "--until", "images") == 0
    lines = [line for line in (data / "tags.csv").read_text().splitlines() if not line.startswith("photo03")]
    (data / "tags.csv").write_text("\n".join(lines) + "\n")
    broken.unlink()
    capsys.readouterr()
    assert run("label", data, "--out", out, *FAST, "--until", "images") == 0
    assert "photo03" not in capsys.readouterr().err


def test_shards_see_masks_that_were_lost(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "run"
    without(out, (*AFTER_MASKS, "masks"))
    shard = lambda n: run("label", data, "--out", out, *FAST, "--shard", f"{n}/2")  # noqa: E731
    for _ in range(2):
        assert shard(1) == shard(2) == 0
    assert run("merge", out) == 0
    for name in ("photo01", "photo02"):
        (out / "masks" / f"{name}.png").unlink()
    capsys.readouterr()
    assert shard(1) == 0
    assert "all masks are in" not in capsys.readouterr().out
    assert "1 of 2 shards" in fails(capsys, "merge", out)
    assert shard(2) == 0 and run("merge", out) == 0
    assert len([*(out / "masks").glob("*.png")]) == 9


def test_a_training_that_ended_is_not_repeated(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that ends while held-out tags are measured has lost nothing of it."""
    from tag2mask.training import loop

    out, flags = data.parent / "new", ("--held-out", "0.5", "--until", "method", "--train.checkpoint-minutes", "0")
    measure, step, steps = method.measure_tags, loop._Training.step, [0]

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    def counted(self: Any, *given: Any) -> Any:
        steps[0] += 1
        return step(self, *given)

    monkeypatch.setattr(loop._Training, "step", counted)
    monkeypatch.setattr(method, "measure_tags", ends)
    assert run("label", data, "--out", out, *FAST, *flags) != 0
    taken, model = steps[0], (out / "method" / "model.safetensors").read_bytes()
    assert taken
    monkeypatch.setattr(method, "measure_tags", measure)
    assert run("label", data, "--out", out, *FAST, *flags) == 0
    assert steps[0] == taken and (out / "method" / "model.safetensors").read_bytes() == model
    assert not list((out / "method").rglob("fitted.json"))
    shutil.rmtree(out / "method" / ".stage")
    assert run("label", data, "--out", out, *FAST, *flags) == 0
    assert steps[0] == 2 * taken, "a model of which nothing is known is trained anew"


@pytest.mark.slow
def test_a_lost_mask_is_no_miss(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "run"
    assert run("label", data, "--out", tmp_path / "other", *FAST, "--seed", "1") == 0
    (out / "masks-1" / "photo02.png").unlink()
    said = fails(capsys, "compare", out, tmp_path / "other")
    assert "photo02.png" in said or "holds no finished run" in said


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["source", "weights"])
def test_a_finished_run_is_read_when_what_it_started_from_is_gone(gone: str, data: Path, tmp_path: Path) -> None:
    out = data.parent / "run"
    if gone == "source":
        out, source = tmp_path / "second", Path(shutil.copytree(out, tmp_path / "first"))
        assert run("train", data, "--out", out, *FAST, "--from", source) == 0
        shutil.rmtree(source)
    else:
        out, file = tmp_path / "second", tmp_path / "weights.safetensors"
        _save_backbone(file)
        assert run("train", data, "--out", out, *FAST, "--weights", file) == 0
        file.unlink()
    before = keys(out)
    (out / "report.html").unlink()
    assert run("report", out) == 0 and (out / "report.html").is_file()
    assert run("export", out, "--to", "png", "--out", tmp_path / "png") == 0
    assert keys(out) == before


def _save_backbone(file: Path) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), file)


def test_settings_of_new_photos_decide_nothing_of_the_segmenter(data: Path) -> None:
    out = data.parent / "run"
    before = keys(out)
    for flags in (("--inference.empty-below", "0.9"), ("--inference.min-growth", "0.4")):
        assert run("train", data, "--out", out, *FAST, *flags) == 0
        changed = {name for name, key in keys(out).items() if before.get(name) != key}
        assert changed == {"predictions", "scores"}, flags
    assert "empty_below" not in json.dumps(made_of(out, "masks-1")["settings"])


@pytest.mark.parametrize("threshold", ["0.00001", "0.99999", "1e-17", "0", "1"])
def test_thresholds_that_mean_nothing_are_refused(
    threshold: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--threshold" in fails(capsys, "label", data, "--out", data.parent / "new", "--threshold", threshold)


def test_names_that_end_in_numbers(tmp_path: Path) -> None:
    """They are names where a mask cannot have that value, and where a run wrote them."""
    file = tmp_path / "classes.txt"
    for text in ("Boeing 747\nAirbus 320\n", "Grade 3\n", "defect 1\ndefect 2\n"):
        file.write_text(text)
        assert read_classes(str(file)) == tuple(text.splitlines())
    file.write_text("cat 8\ndog 12\n")
    with pytest.raises(tag2mask.InputError, match="values behind its classes"):
        read_classes(str(file))
    for classes in (("Grade 3",), ("disc, small",), ("cat 8", "dog 12")):
        (tmp_path / classes[0]).mkdir()
        (tmp_path / classes[0] / "run.json").write_text("{}")
        review = Review(tmp_path / classes[0], classes)
        review.decide(("train", "a"), "accepted", mask=np.zeros((4, 5), np.uint8))
        review.check_classes("train")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["method", "maps"])
def test_a_stage_that_somebody_removed_is_one_line_or_not_missed(
    stage: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are what the passport names; maps are read by nobody once masks are made."""
    out = tmp_path / "run"
    assert run("label", world, "--out", out, *SMALL) == 0
    shutil.rmtree(out / stage)
    command = ("export", out, "--to", "png", "--out", tmp_path / "png", "--first", "worst")
    if stage == "maps":
        assert run(*command) == 0 and len([*(tmp_path / "png").rglob("*.png")]) == 9
    else:
        assert "it lacks method" in fails(capsys, *command) and "it lacks method" in fails(capsys, "report", out)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_classes_may_be_written_by_any_shell(encoding: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("disc\nbar\n", encoding=encoding)
    flags = ("--classes", tmp_path / "wanted.txt", "--until", "images")
    assert run("label", world, "--out", tmp_path / "run", *SMALL, *flags) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["classes"] == ["disc", "bar"]
