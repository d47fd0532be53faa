"""Corrected masks come back to their run: measured honestly, never trained on, bad ones refused whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask import corrections, pipeline
from tag2mask.corrected import corrected_masks
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.errors import InputError
from tag2mask.evaluate import Scores
from tag2mask.exchange import FORMATS
from tag2mask.plan.folder import Run
from tag2mask.review import Review
from test_exchange import submit
from world import CLASSES, SMALL, fails, keys, run, stamps

QUICK = [*SMALL, "--refine", "none", "--inference.refine", "none", "--relabel.rounds", "0"]


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corrections") / "run"
    assert run("train", world, "--out", out, *QUICK) == 0
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def exported(copy: Path, out: Path, form: str = "png", *flags: object) -> Path:
    assert run("export", copy, "--to", form, "--out", out, *flags) == 0
    return out


def correct(folder: Path, world: Path, ids: list[str]) -> None:
    """A person replaces the masks of some photos by the truth."""
    for id_ in ids:
        write_index_mask(folder / f"{id_}.png", read_index_mask(world / "masks" / f"{id_}.png"))


def test_a_check_is_the_mean_iou_of_the_corrected_photos(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a slow bootstrap of its own; photos that came back as they left are not counted."""
    out, ids = exported(copy, tmp_path / "out"), ["photo00", "photo01", "photo04"]
    correct(out, world, ids)
    capsys.readouterr()
    assert run("import", copy, out, "--from", "png") == 0
    said = capsys.readouterr().out
    assert "3 corrected masks" in said and "left out, since unchanged: 6" in said and "--accepted" in said
    assert run("evaluate", copy, "--check", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    of_photos = [
        Scores.of(read_index_mask(world / "masks" / f"{i}.png"), read_index_mask(copy / "masks" / f"{i}.png"),
                  ("disc", "bar"))
        for i in ids
    ]  # fmt: skip
    total = of_photos[0] + of_photos[1] + of_photos[2]
    assert found["photos"] == 3 and abs(found["mean_iou"] - total.mean_iou) < 1e-3
    drawn = np.random.default_rng(5)
    means = []
    for _ in range(3000):
        a, b, c = (of_photos[i] for i in drawn.integers(0, 3, 3))
        means.append((a + b + c).mean_iou)
    assert np.allclose(found["interval"], np.percentile(means, [2.5, 97.5]), atol=2.0)
    assert any("no random choice" in line for line in found["remarks"])
    assert any("3 photos cannot say much" in line for line in found["remarks"])
    assert run("import", copy, out, "--from", "png") == 0
    (again,) = corrections.check(copy)
    assert again.scores.photos == 3 and abs(again.scores.mean_iou - total.mean_iou) < 1e-3, "twice the same is once"


def test_a_random_choice_that_came_back_whole_speaks_for_all(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(copy, tmp_path / "out", "png", "--first", "random", "--limit", 4)
    ids = [path.stem for path in out.glob("*.png")]
    correct(out, world, ids[:-1])
    assert run("import", copy, out, "--from", "png") == 0
    assert any("no random choice" in r for c in corrections.check(copy) for r in c.remarks), "one did not come back"
    assert run("import", copy, out, "--from", "png", "--accepted") == 0
    (check,) = corrections.check(copy)
    assert check.scores.photos == 4 and not any("no random choice" in remark for remark in check.remarks)
    other = next(path.stem for path in (copy / "masks").glob("*.png") if path.stem not in ids)
    more = exported(copy, tmp_path / "more")
    correct(more, world, [other])
    assert run("import", copy, more, "--from", "png") == 0
    assert any("no random choice" in r for c in corrections.check(copy) for r in c.remarks), "one was chosen by hand"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_comes_back(form: str, copy: Path, tmp_path: Path) -> None:
    """Unchanged: accepted, the run's own masks are right; polygons nearly."""
    out = exported(copy, tmp_path / "out", form)
    if form == "label-studio":
        submit(out)
    assert run("import", copy, out, "--from", form, "--accepted") == 0
    (check,) = corrections.check(copy)
    assert check.scores.photos == 9
    decided = check.scores.decided_mean_iou
    assert decided > 99 or (form == "yolo" and decided > 60), decided


def test_the_latest_correction_of_a_photo_counts_and_who_made_it_is_kept(
    copy: Path, world: Path, tmp_path: Path
) -> None:
    out = exported(copy, tmp_path / "out")
    write_index_mask(out / "photo02.png", np.full((48, 72), 2, np.uint8))
    assert run("import", copy, out, "--from", "png") == 0
    correct(out, world, ["photo02"])
    assert run("import", copy, out, "--from", "png") == 0
    latest = corrected_masks(copy, ("disc", "bar"))
    truth = read_index_mask(world / "masks" / "photo02.png")
    assert np.array_equal(read_index_mask(latest["train", "photo02"].path), truth)
    tasks = exported(copy, tmp_path / "tasks", "label-studio")
    submit(tasks)
    assert run("import", copy, tasks / "tasks.json", "--from", "label-studio") == 0
    content = json.loads((copy / "corrections" / "003" / "corrections.json").read_text())
    assert content["from"] == "label-studio" and content["photos"][0]["who"] == "user 1" and content["when"]


def test_predictions_are_corrected_and_checked_apart(copy: Path, world: Path, tmp_path: Path) -> None:
    out = exported(copy, tmp_path / "out", "png", "--what", "predictions")
    correct(out, world, ["photo09", "photo10", "photo11"])
    assert run("import", copy, out, "--from", "png", "--what", "predictions") == 0
    (check,) = corrections.check(copy)
    measured = json.loads((copy / "scores" / "scores.json").read_text())["predictions"]
    assert check.scores.photos == 3 and abs(check.scores.mean_iou - measured["mean_iou"]) < 1e-3
    assert not any("random" in remark for remark in check.remarks), "all photos are no choice"


def test_corrections_decide_nothing(copy: Path, world: Path, tmp_path: Path) -> None:
    """The same command after an import does nothing, and keys are what they were."""
    before = keys(copy)
    out = exported(copy, tmp_path / "out")
    correct(out, world, ["photo00", "photo01"])
    assert run("import", copy, out, "--from", "png") == 0
    when = {name: time for name, time in stamps(copy).items() if "/" in name}
    assert run("train", world, "--out", copy, *QUICK) == 0
    assert keys(copy) == before
    assert {name: time for name, time in stamps(copy).items() if "/" in name} == when


# --- decisions of the review page


def truth_of(world: Path, id_: str) -> np.ndarray:
    return read_index_mask(world / "masks" / f"{id_}.png")


def test_masks_of_the_review_page_are_imported_and_measure(
    copy: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Painted and accepted ones, of both splits; neither rejected ones nor those taken back."""
    review = Review(copy, CLASSES)
    review.decide(("train", "photo00"), "corrected", mask=truth_of(world, "photo00"), who="Ada")
    review.decide(("train", "photo01"), "accepted", mask=read_index_mask(copy / "masks" / "photo01.png"))
    review.decide(("train", "photo02"), "rejected")
    review.decide(("train", "photo03"), "corrected", mask=truth_of(world, "photo03"))
    review.decide(("train", "photo03"), "withdrawn", revision=1)
    review.decide(("val", "photo09"), "corrected", mask=truth_of(world, "photo09"))
    capsys.readouterr()
    assert run("import", copy, "--from", "review") == 0
    said = capsys.readouterr().out.splitlines()
    assert "2 corrected masks" in said[0] and "(masks), 1 of them changed" in said[0]
    assert "1 corrected mask in" in said[1] and "(predictions)" in said[1]
    content = json.loads((copy / "corrections" / "001" / "corrections.json").read_text())
    assert content["from"] == "review" and [p["who"] for p in content["photos"]] == ["Ada", ""]
    masks, predictions = corrections.check(copy)
    assert masks.scores.photos == 2 and predictions.scores.photos == 1
    total = Scores.of(truth_of(world, "photo00"), read_index_mask(copy / "masks" / "photo00.png"), CLASSES)
    own = read_index_mask(copy / "masks" / "photo01.png")
    assert abs(masks.scores.mean_iou - (total + Scores.of(own, own, CLASSES)).mean_iou) < 1e-6
    assert run("import", copy, "--from", "review", "--what", "predictions") == 0
    assert (copy / "corrections" / "003").is_dir() and not (copy / "corrections" / "004").exists()
    (copy / "review" / "masks" / "train" / "classes.txt").write_text("bar\ndisc\n")
    assert "other classes" in fails(capsys, "import", copy, "--from", "review")
    assert not (copy / "corrections" / "004").exists()


def test_a_review_that_brings_nothing(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nobody accepted or painted" in fails(capsys, "import", copy, "--from", "review")
    assert "no other place" in fails(capsys, "import", copy, tmp_path, "--from", "review")
    assert "give the file or folder" in fails(capsys, "import", copy, "--from", "png")
    assert not (copy / "corrections").exists()


def rows_of(path: Path) -> dict[str, tuple[str, str]]:
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0] == ["image", "tags", "split"]
    return {Path(image).stem: (tags, split) for image, tags, split in lines[1:]}


def retag(copy: Path) -> None:
    """photo00 shows a disc: a person says both; photo01 a bar: rejected with no tag at all; photo04 is taken back."""
    review, none = Review(copy, CLASSES), np.zeros((48, 72), np.uint8)
    review.decide(("train", "photo00"), "corrected", mask=none, tags=("disc", "bar"), given=("disc",))
    review.decide(("train", "photo01"), "rejected", tags=(), given=("bar",))
    review.decide(("train", "photo02"), "accepted", mask=none, tags=("disc", "bar"), given=("disc", "bar"))
    review.decide(("train", "photo04"), "rejected", tags=("disc",), given=("bar",))
    review.decide(("train", "photo04"), "withdrawn", revision=1)


def test_tags_corrected_in_review_are_taken_by_the_next_run(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run as it lies there stays readable; the next training in it would begin again, and a CSV says the same."""
    before = pipeline.reopen(Run(copy, existing=True))
    retag(copy)
    again = pipeline.reopen(Run(copy, existing=True))
    assert again.folders.keys() == before.folders.keys() and again.data.retagged == 0, "decisions alone change nothing"
    capsys.readouterr()
    assert run("plan", world, "--out", copy, *QUICK) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "done" in rows["images"] and "tags" in rows["method"] and "redo" not in rows["images"]
    written = tmp_path / "tags.csv"
    assert run("review", copy, "--tags", written) == 0
    said = capsys.readouterr().out
    assert "1 accepted, 1 corrected, 1 rejected, 2 with other tags" in said
    rows_before, rows_now = rows_of(world / "tags.csv"), rows_of(written)
    assert rows_now == rows_before | {"photo00": ("disc;bar", "train"), "photo01": ("", "train")}
    assert "is there already" in fails(capsys, "review", copy, "--tags", written)
    assert "not a run folder" in fails(capsys, "review", world)


@pytest.mark.slow
def test_a_run_with_corrected_tags_is_that_of_a_data_set_with_those_tags(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same keys as with the CSV; the supervision says how many; taken back, the first results are there again."""
    first = keys(copy)
    retag(copy)
    written = tmp_path / "tags.csv"
    assert run("review", copy, "--tags", written) == 0
    capsys.readouterr()
    assert run("train", world, "--out", copy, *QUICK) == 0
    assert "2 photos with tags as corrected in review: photo00, photo01" in capsys.readouterr().err
    passport = json.loads((copy / "passport.json").read_text())
    assert passport["learned_from"]["tags"] == {"photos": 9, "of_none": 1, "corrected_in_review": 2}
    assert "of which 2 corrected in review" in (copy / "report.html").read_text()
    now = pipeline.reopen(Run(copy, existing=True))
    assert now.data.retagged == 2 and now.data.own_tags["train", "photo01"] == ("bar",) and "masks" in now.folders
    other = Path(shutil.copytree(copy, tmp_path / "other", ignore=shutil.ignore_patterns("review")))
    when = stamps(other / "method")
    assert run("train", world, "--out", other, *QUICK, "--tags", written) == 0
    assert keys(other) == keys(copy) != first and stamps(other / "method") == when
    Review(copy, CLASSES).decide(("train", "photo00"), "withdrawn", revision=1)
    Review(copy, CLASSES).decide(("train", "photo01"), "withdrawn", revision=1)
    assert run("train", world, "--out", copy, *QUICK) == 0
    assert keys(copy) == first


# --- corrected masks that teach, where it is asked for


TAUGHT = [*QUICK, "--relabel.rounds", "1", "--relabel.refine", "none", "--with-masks"]


def bring(copy: Path, world: Path, out: Path, ids: list[str], *flags: object) -> None:
    """Masks of these photos, drawn by a person as the truth is, come back."""
    correct(exported(copy, out, "png", *flags), world, ids)
    assert run("import", copy, out, "--from", "png", *flags) == 0


def test_corrected_masks_would_teach_the_segmenter_alone(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "holds no corrected mask" in fails(capsys, "train", world, "--out", copy, *TAUGHT)
    bring(copy, world, tmp_path / "val", ["photo10"], "--what", "predictions")
    assert "holds no corrected mask" in fails(capsys, "train", world, "--out", copy, *TAUGHT), "of val none teaches"
    bring(copy, world, tmp_path / "out", ["photo00", "photo04"])
    assert "`label` ends before" in fails(capsys, "label", world, "--out", copy, *TAUGHT)
    single = [*SMALL, "--method", "apc", "--apc.single-stage", "--with-masks"]
    assert "is itself the segmenter" in fails(capsys, "train", world, "--out", tmp_path / "apc", *single)

    def planned(*flags: object) -> dict[str, str]:
        capsys.readouterr()
        assert run("plan", world, "--out", copy, *QUICK, *flags) == 0
        return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}

    rows = planned("--with-masks")
    assert all(" done " in rows[name] for name in ("images", "method", "maps", "masks"))
    assert " anew " in rows["segmenter"] and "other corrected masks" in rows["segmenter"]
    assert all(" done " in row for row in planned().values()), "without the flag they are as if they were not there"


@pytest.mark.slow
def test_a_run_learns_from_corrected_masks_and_says_so(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def carried(folder: Path, *flags: object) -> dict[str, str]:
        assert run("train", world, "--out", folder, *flags) == 0
        return keys(folder)

    plain = carried(copy, *TAUGHT[:-1])
    bring(copy, world, tmp_path / "out", ["photo00", "photo04"])
    before = stamps(copy)
    first = carried(copy, *TAUGHT)
    changed = {name for name in first if first[name] != plain[name]}
    assert changed == {"segmenter-0", "masks-1", "segmenter", "predictions", "scores"}
    now = stamps(copy)
    assert all(now[f] == before[f] for f in before if f.split("/")[0] in ("images", "method", "maps", "masks"))
    for id_ in ("photo00", "photo04"):
        assert np.array_equal(read_index_mask(copy / "masks-1" / f"{id_}.png"), truth_of(world, id_))
        assert not np.array_equal(read_index_mask(copy / "masks" / f"{id_}.png"), truth_of(world, id_))
    passport = json.loads((copy / "passport.json").read_text())
    assert passport["learned_from"]["corrected_masks"] == 2
    assert passport["signals"] == ["image-level tags", "masks that people corrected"]
    assert "2 corrected masks of training photos" in (copy / "report.html").read_text()
    scores = json.loads((copy / "scores" / "scores.json").read_text())
    assert scores["masks-1"]["photos"] == scores["masks"]["photos"] == 7, "a person's mask is no score of the run"

    assert "has learned from all of 2" in fails(capsys, "evaluate", copy, "--check")
    bring(copy, world, tmp_path / "more", ["photo02"])
    assert "predictions" in pipeline.reopen(Run(copy, existing=True)).folders, "an import changes no finished run"
    (check,) = corrections.check(copy)
    assert check.scores.photos == 1 and any("left out: 2 corrected photos" in line for line in check.remarks)

    second = carried(copy, *TAUGHT)
    assert second["segmenter-0"] != first["segmenter-0"] and second["masks"] == plain["masks"]
    mask = copy / "corrections" / "002" / "photo02.png"
    write_index_mask(mask, np.full((48, 72), 1, np.uint8))
    third = carried(copy, *TAUGHT)
    assert third["segmenter-0"] != second["segmenter-0"], "other bytes, another network"
    mask.write_bytes(b"no picture")
    assert "photo02 cannot be used" in fails(capsys, "train", world, "--out", copy, *TAUGHT)
    shutil.rmtree(copy / "corrections" / "002")
    assert carried(copy, *TAUGHT) == first and carried(copy, *TAUGHT[:-1]) == plain


# --- what goes wrong


def test_corrections_that_do_not_fit_are_one_line_and_leave_nothing(
    copy: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(copy, tmp_path / "out")

    def refused(word: str, *flags: object) -> None:
        assert word in fails(capsys, "import", copy, out, "--from", "png", *flags)
        assert not (copy / "corrections").exists()

    refused("--accepted")  # nothing was changed
    correct(out, world, ["photo00"])
    refused("is no photo of predictions", "--what", "predictions")
    write_index_mask(out / "photo01.png", np.zeros((10, 10), np.uint8))
    refused("10x10")
    write_index_mask(out / "photo01.png", np.full((48, 72), 3, np.uint8))
    refused("the value 3")
    Image.new("RGB", (72, 48)).save(out / "photo01.png")
    refused("colour image")
    (out / "photo01.png").unlink()
    write_index_mask(out / "stranger.png", np.zeros((48, 72), np.uint8))
    refused("stranger is no photo")
    (out / "stranger.png").unlink()
    (out / "classes.txt").write_text("bar\ndisc\n")
    refused("other classes")
    (out / "classes.txt").unlink()
    (out / "deeper").mkdir()
    shutil.copy(out / "photo00.png", out / "deeper" / "photo00.png.png")
    refused("both the photo")
    assert "not a run folder" in fails(capsys, "import", world, out, "--from", "png")
    assert "format" in fails(capsys, "import", copy, out, "--from", "pngg")
    assert "no corrected masks" in fails(capsys, "evaluate", copy, "--check")


@pytest.mark.parametrize(
    ("form", "name", "content", "word"),
    [
        ("coco", "x.json", "[1]", "not a COCO"),
        ("coco", "x.json", "{", "not valid JSON"),
        ("coco", "x.json", '{"images": [{"id": 1, "file_name": "photo00.png", "height": 48, "width": 72}], '
         '"categories": [{"id": 7, "name": "cat"}], '
         '"annotations": [{"image_id": 1, "category_id": 7, "segmentation": [[0, 0, 9, 0, '
         '9, 9]]}]}', "class 'cat'"),
        ("coco", "x.json", '{"images": [{"id": 1, "file_name": "photo00.png", "height": 48, "width": 72}], '
         '"categories": [{"id": 7, "name": "bar"}], '
         '"annotations": [{"image_id": 1, "category_id": 7, "segmentation": {"size": [48, '
         '72], "counts": [1, 2]}}]}', "no segmentation"),
        ("label-studio", "x.json", '{"a": 1}', "no list of tasks"),
        ("label-studio", "x.json", '[{"data": {"image": "photo00.png"}}]', "seen by nobody"),
        ("label-studio", "x.json", '[{"data": {"image": "photo00.png"}, "annotations": [{"result": [{"type": '
         '"brushlabels", "original_width": 72, "original_height": 48, "value": {"rle": [1, 2], "brushlabels": '
         '["bar"]}}]}]}]', "cannot be read"),
        ("cvat", "x.xml", "<annotations", "no XML"),
        ("cvat", "x.xml", "<html/>", "no file of CVAT"),
        ("cvat", "x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "document type"),
        ("cvat", "x.xml", '<annotations><image name="photo00.png" width="72" height="48"><mask label="bar" rle="1, 2" '
         'left="0" top="0" width="5" height="5"/></image></annotations>', "cannot be read"),
        ("cvat", "x.xml", '<annotations><image name="photo00.png" width="72" height="48"><mask label="bar" rle="0, 25" '
         'left="70" top="0" width="5" height="5"/></image></annotations>', "reaches out"),
        ("labelme", "x.json", '{"shapes": []}', "not a file of labelme"),
        ("labelme", "x.json", '{"imageHeight": 48, "imageWidth": 72, "imagePath": "photo00.png", "shapes": [{"label": '
         '"bar", "points": [[0, 0], [1, 1]], "shape_type": "line"}]}', "no area"),
        ("voc", "x.txt", "", "SegmentationClass"),
        ("yolo", "x.txt", "", "no photos"),
        ("png", "x.txt", "", "no PNG"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_are_said_to_be(
    form: str, name: str, content: str, word: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    assert word in fails(capsys, "import", trained, tmp_path, "--from", form, "--accepted")
    assert not (trained / "corrections").exists()


def test_corrections_of_another_version_or_of_other_classes(copy: Path, world: Path, tmp_path: Path) -> None:
    out = exported(copy, tmp_path / "out")
    correct(out, world, ["photo00"])
    assert run("import", copy, out, "--from", "png") == 0
    manifest = copy / "corrections" / "001" / "corrections.json"
    content = json.loads(manifest.read_text())
    for change, word in (({"version": 9}, "another version"), ({"classes": ["bar", "disc"]}, "other classes|classes")):
        manifest.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=word):
            corrections.check(copy)
