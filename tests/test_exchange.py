"""Masks that leave and come back: every format's contract, and the readers that other programs use."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from tag2mask import data, need, pipeline
from tag2mask.data import DataSettings
from tag2mask.errors import InputError
from tag2mask.exchange import FORMATS, About, MaskedPhoto, check_classes, labelme
from tag2mask.exchange.brush import packed, unpacked
from tag2mask.exchange.check import CLASSES, check_format, check_same, odd_photos
from tag2mask.exchange.outlines import filled, outline, parts
from tag2mask.exchange.runs import from_runs, runs_of
from tag2mask.plan.folder import Run
from world import SMALL, fails, run

PIXELS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=17))


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exchange") / "run"
    assert run("train", world, "--out", out, *SMALL, "--refine", "none", "--inference.refine", "none",
               "--relabel.rounds", 0) == 0  # fmt: skip
    return out


def submit(folder: Path) -> None:
    """As Label Studio's export holds tasks whose predictions a person submitted."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = [{"completed_by": 1, "was_cancelled": False, "result": task["predictions"][0]["result"]}]
    (folder / "tasks.json").write_text(json.dumps(tasks))


ACCEPT = {"label-studio": submit}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_the_contract(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_format(FORMATS[name], tmp_path / "out", tmp_path / "photos", ACCEPT.get(name, lambda folder: None))
    assert FORMATS[name].line and "\n" not in FORMATS[name].line


def test_the_contract_notices_a_shifted_mask(tmp_path: Path) -> None:
    photo = next(odd_photos(tmp_path))
    for exact in (True, False):
        with pytest.raises(AssertionError):
            check_same(photo, np.roll(photo.mask, 1, 1), exact=exact)


@given(PIXELS)
def test_run_lengths_come_back_and_are_those_of_a_slow_count(pixels: np.ndarray) -> None:
    flat = [False, *pixels.ravel().tolist()]  # the first run is background, perhaps of no pixel
    slow = [len(list(run_)) for _, run_ in itertools.groupby(flat)]
    slow[0] -= 1
    assert runs_of(pixels) == slow
    assert np.array_equal(from_runs(slow, pixels.shape), pixels)


@given(PIXELS)
def test_brush_run_lengths_come_back(pixels: np.ndarray) -> None:
    assert np.array_equal(unpacked(packed(pixels), pixels.shape), pixels)


def test_brush_run_lengths_are_label_studios() -> None:
    """Made by ``label_studio_sdk.converter.brush.encode_rle`` of these pixels; and single words."""
    pixels = np.zeros((3, 5), bool)
    pixels[1, 1:4] = True
    made_by_label_studio = BRUSH
    assert np.array_equal(unpacked(made_by_label_studio, (3, 5)), pixels)
    single = f"{4:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    single += "0" + "00" + "011" + "".join(f"{value:08b}" for value in (10, 20, 30, 255))
    single += "0" * (-len(single) % 8)
    assert unpacked(list(int(single, 2).to_bytes(len(single) // 8, "big")), (1, 1)).all()


BRUSH = [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 133, 192, 0]


@pytest.mark.parametrize("rle", [[], [0, 0, 0, 60], BRUSH[:-4], [255] * 40, [0, 0, 0, 61, *BRUSH[4:]]])
def test_broken_brush_run_lengths_are_refused(rle: list[int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        unpacked(rle, (3, 5))


@given(PIXELS)
def test_outlines_hold_exactly_their_part_and_its_holes(pixels: np.ndarray) -> None:
    """Filled by pixels' centres, the outline of a part is the part without holes; an oracle floods the outside."""
    for top, left, part in parts(pixels):
        points, holes = outline(part)
        solid = ~_flooded(np.pad(part, 1))[1:-1, 1:-1]
        assert np.array_equal(filled(points, part.shape), solid)
        assert holes == solid.sum() - part.sum()
        assert pixels[top : top + part.shape[0], left : left + part.shape[1]][part].all()


def _flooded(walls: np.ndarray) -> np.ndarray:
    """What is reached from the corner, also over corners, without crossing walls."""
    reached, todo = np.zeros_like(walls), [(0, 0)]
    while todo:
        y, x = todo.pop()
        if 0 <= y < walls.shape[0] and 0 <= x < walls.shape[1] and not walls[y, x] and not reached[y, x]:
            reached[y, x] = True
            todo += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return reached


@settings(deadline=None)  # the slow rule on a busy machine
@given(
    arrays(np.float64, st.tuples(st.integers(3, 25), st.just(2)), elements=st.floats(-9, 40)),
    st.tuples(st.integers(1, 33), st.integers(1, 33)),
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([0, 0.5, 1e-13, 0.5 + 1e-12]),
    st.sampled_from([0, 0, 0, 1000]),
)
def test_polygons_are_filled_as_by_the_rule_of_scikit_image(
    points: np.ndarray, size: tuple[int, int], decimals: int | None, off: float, far: int
) -> None:
    """Which asks every side for every pixel. Sides cross, enclose holes, end on centres, leave the photo."""
    from skimage.draw import polygon

    points = (points if decimals is None else points.round(decimals)) + off + far
    size = (size[0] + far, size[1] + far)
    expected = np.zeros(size, bool)
    expected[polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, size)] = True
    assert np.array_equal(filled(points, size), expected)


def test_a_polygon_of_very_many_points_on_a_large_photo() -> None:
    """Asking every side for every pixel would take many minutes."""
    angle = np.linspace(0, 2 * np.pi, 17_000, endpoint=False)
    radius = 1 + 0.1 * np.sin(40 * angle)
    points = np.stack([3000 + 2600 * radius * np.cos(angle), 2000 + 1700 * radius * np.sin(angle)], 1)
    began = time.process_time()
    pixels = filled(points, (4000, 6000))
    assert time.process_time() - began < 10
    x, y = points.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert abs(pixels.sum() / area - 1) < 1e-4
    assert filled(points * 1e304, (40, 60)).shape == (40, 60)  # beyond what numbers hold: a shape, no error


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under NumPy 2
def test_coco_is_read_by_its_own_library(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    photos = written("coco", tmp_path)
    content = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(1, 10))
    assert all(a["iscrowd"] == 0 and isinstance(a["segmentation"]["counts"], str) for a in content["annotations"])
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    coco = COCO(tmp_path / "out" / "instances.json")
    for number, photo in enumerate(photos, 1):
        assert coco.imgs[number]["file_name"] == photo.name and coco.imgs[number]["score"] == photo.score
        back = np.zeros_like(photo.mask)
        for annotation in coco.loadAnns(coco.getAnnIds(number)):
            pixels = coco.annToMask(annotation).astype(bool)
            back[pixels] = annotation["category_id"]
            assert annotation["area"] == pixels.sum()
        check_same(photo, back, exact=True)
    assert [coco.cats[c]["name"] for c in (1, 2)] == list(CLASSES)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_yolo_says_what_holes_add_and_its_lines_are_read_by_another_library(tmp_path: Path) -> None:
    from pycocotools import mask as rle

    (tmp_path / "out").mkdir()
    ring = np.zeros((60, 90), np.uint8)
    ring[10:50, 10:60] = 1
    ring[20:30, 20:40] = 0
    path = tmp_path / "photos" / "ring.png"
    path.parent.mkdir()
    Image.fromarray(ring).convert("RGB").save(path)
    photo = MaskedPhoto("ring", "ring.png", path, ring, 0.5)
    notes = FORMATS["yolo"].write(tmp_path / "out", [photo], About(CLASSES, "v", "train", path.parent))
    assert notes == [f"holes are filled: they add {100 * 200 / (40 * 50 - 200):.2g} % to the classes' area"]
    line = (tmp_path / "out" / "labels" / "train" / "ring.txt").read_text().split()
    points = np.array(line[1:], float).reshape(-1, 2) * (90, 60)
    back = rle.decode(rle.frPyObjects([points.ravel().tolist()], 60, 90))[..., 0].astype(bool)
    solid = np.zeros((60, 90), bool)
    solid[10:50, 10:60] = True
    assert line[0] == "0" and (back & solid).sum() / (back | solid).sum() >= 0.99
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"] == dict(enumerate(CLASSES))


def test_an_exported_yolo_data_set_is_read_as_one(tmp_path: Path) -> None:
    """By this project's own reader, which knows nothing of the export: the same photos with the same classes."""
    from tag2mask import data

    photos = written("yolo", tmp_path)
    read = data.read(tmp_path / "out", split="train").dataset
    assert read.classes == CLASSES
    assert {s.id: s.labels for s in read.samples} == {f"train/{p.id}": {c for c, _ in p.layers()} for p in photos}


def test_labelme_files_lead_to_their_photos(tmp_path: Path) -> None:
    photos = written("labelme", tmp_path)
    for photo in photos:
        file = tmp_path / "out" / f"{labelme.safe_name(photo.id)}.json"
        content = json.loads(file.read_text())
        assert (file.parent / content["imagePath"]).resolve() == photo.path.resolve()
        assert (content["imageHeight"], content["imageWidth"]) == photo.size
        for shape in content["shapes"]:
            (left, top), (right, bottom) = shape["points"]
            assert 0 <= left <= right < photo.size[1] and 0 <= top <= bottom < photo.size[0]


def written(name: str, place: Path) -> list[MaskedPhoto]:
    """The odd photos, written in a format into ``place/out``."""
    (place / "out").mkdir()
    photos = list(odd_photos(place / "photos"))
    FORMATS[name].write(place / "out", iter(photos), About(CLASSES, "tag2mask test", "train", place / "photos"))
    return photos


@pytest.mark.parametrize(
    ("name", "of_class", "word"),
    [
        ("cvat", "x" * 65, "64"),
        ("cvat", "a\x01", "XML"),
        ("label-studio", "\x00", "XML"),
        ("voc", "a:b", "':'"),
        ("labelme", "__ignore__", "left out"),
    ],
)
def test_classes_that_a_format_cannot_hold(name: str, of_class: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        check_classes(name, ["cat", of_class])
    check_classes("coco", ["cat", of_class])


# --- of a run


def test_a_run_is_exported_with_scores_in_order(trained: Path, world: Path, tmp_path: Path) -> None:
    """By need of a person, the order of the review page."""
    needed = need.scores(pipeline.reopen(Run(trained, existing=True)))
    assert len(set(needed.values())) > 4
    for first in ("worst", "best", "both", "random"):
        out = tmp_path / first
        assert run("export", trained, "--to", "png", "--out", out, "--first", first) == 0
        with (out / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 9 and all(0 <= float(row["confidence"]) <= 1 for row in rows)
        needs = [needed["train", row["id"]] for row in rows]
        ranked = sorted(needs, reverse=first != "best")
        if first == "both":
            assert needs[:4] == [ranked[0], ranked[-1], ranked[1], ranked[-2]]
        elif first != "random":
            assert needs == ranked
        for row in rows:
            sent = (trained / "masks" / f"{row['id']}.png").read_bytes()
            assert (out / f"{row['id']}.png").read_bytes() == sent
    records = [json.loads(line) for line in (trained / "masks" / ".stage" / "records.jsonl").read_text().splitlines()]
    known = {r["id"]: 1 - r["uncertainty"] for r in records}
    assert all(abs(known[row["id"]] - float(row["confidence"])) < 1e-5 for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_among_the_photos_is_left_out_of_a_data_set(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is neither a class nor the data set that is meant, and no photo to predict; given itself, it is read."""
    for place in ("cat/1.png", "dog/2.png"):
        (tmp_path / place).parent.mkdir()
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / place)
    export = tmp_path / f"export-{name}"
    assert run("export", trained, "--to", name, "--out", export) == 0
    assert data.load(tmp_path).classes == ("cat", "dog")
    shutil.copytree(export, tmp_path / "cat" / "out", symlinks=True)
    for layout in ("auto", "class-folders"):
        found = data.load(tmp_path, DataSettings(layout=layout))
        assert found.classes == ("cat", "dog") and [s.id for s in found.samples] == ["cat/1", "dog/2"]
    capsys.readouterr()
    run("doctor", tmp_path)
    said = capsys.readouterr().out
    assert f"exports of tag2mask in {tmp_path} are no photos, left out: cat/out, export-{name}" in said
    assert [sample.id for sample in data.load_images(tmp_path)] == ["cat/1", "dog/2"]
    if name == "yolo":
        assert len(data.load(export)) == 9


def test_predictions_are_exported_and_limited(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("export", trained, "--to", "coco", "--out", out, "--what", "predictions", "--limit", 2) == 0
    content = json.loads((out / "instances.json").read_text())
    assert len(content["images"]) == 2 and {i["file_name"] for i in content["images"]} <= {
        "photo09.png", "photo10.png", "photo11.png"
    }  # fmt: skip
    assert content["images"][0]["score"] <= content["images"][1]["score"]


def test_bad_exports_are_one_line_and_leave_nothing(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "out"
    assert "did you mean coco" in fails(capsys, "export", trained, "--to", "cocoo", "--out", out)
    assert "order" in fails(capsys, "export", trained, "--to", "coco", "--out", out, "--first", "last")
    assert "what to export" in fails(capsys, "export", trained, "--to", "coco", "--out", out, "--what", "maps")
    assert "--limit" in fails(capsys, "export", trained, "--to", "coco", "--out", out, "--limit", 0)
    assert "not a run folder" in fails(capsys, "export", world, "--to", "coco", "--out", out)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "not empty" in fails(capsys, "export", trained, "--to", "coco", "--out", tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / "predictions")
    line = fails(capsys, "export", copy, "--to", "coco", "--out", out, "--what", "predictions")
    assert "no finished predictions" in line
    described = (copy / "run.json").read_text()
    content = json.loads(described)
    content["settings"]["pseudo"]["threshold"] = 0.875
    (copy / "run.json").write_text(json.dumps(content))
    assert "has masks, but not of the photos, tags and" in fails(capsys, "export", copy, "--to", "coco", "--out", out)
    (copy / "run.json").write_text(described)
    (copy / "masks" / "photo04.png").write_bytes(b"broken")
    assert "damaged" in fails(capsys, "export", copy, "--to", "coco", "--out", out)
    shutil.rmtree(copy / "masks")
    assert "no finished masks" in fails(capsys, "export", copy, "--to", "coco", "--out", out)
    assert not (tmp_path / "deep").exists(), "something half-written was left"


def test_a_library_that_is_missing_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: object, **more: object) -> object:
        if name.split(".")[0] in ("pycocotools", "skimage"):
            raise ImportError(name)
        return real(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("coco", "cvat", "yolo"):
        line = fails(capsys, "export", trained, "--to", name, "--out", tmp_path / name)
        assert "pip install 'tag2mask[export]'" in line and not (tmp_path / name).exists()
