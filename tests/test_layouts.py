"""What every layout must keep: the same small data set, written in each and read back. A new layout joins by a writer.

And which layout a folder is taken for, with everything that lies in people's folders beside their photos.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_sets import ids, photo, refused, tags, write
from tag2mask import data, doctor
from tag2mask.data import LAYOUTS, DataSettings
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.finding import Finding
from tag2mask.data.images import write_index_mask
from tag2mask.evaluate.matching import MADE_BY

pytestmark = pytest.mark.usefixtures("nothing_is_opened")

# (split, name, tags): what a layout cannot say (several tags, none) its writer leaves out and says so below
PHOTOS = [
    ("train", "p0", {"cat"}),
    ("train", "p1", {"cat", "dog"}),
    ("train", "p2", set()),
    ("train", "p3", {"dog"}),
    ("val", "p4", {"dog"}),
    ("val", "p0", {"cat"}),  # the id of a photo to learn from, where splits lie in different folders
]


def folder(root: Path) -> Path:
    for split, name, shown in PHOTOS:
        photo(root / "images" / split / f"{name}.jpg")
        photo(root / "masks" / split / f"{name}.png")
        with (root / f"{split}.csv").open("a") as file:
            file.write("image,tags\n" if file.tell() == 0 else "")
            file.write(f"{split}/{name}.jpg,{';'.join(sorted(shown))}\n")
    return root


def class_folders(root: Path) -> Path:
    for split, name, shown in PHOTOS:
        if len(shown) == 1:
            photo(root / split / next(iter(shown)) / f"{name}.jpg")
            photo(root / "masks" / split / next(iter(shown)) / f"{name}.png")
    return root


def voc(root: Path) -> Path:
    for split, name, shown in PHOTOS:
        id_ = f"{split}_{name}"
        photo(root / "JPEGImages" / f"{id_}.jpg")
        photo(root / "SegmentationClass" / f"{id_}.png")
        objects = "".join(f"<object><name>{tag}</name></object>" for tag in sorted(shown))
        write(root / "Annotations" / f"{id_}.xml", f"<annotation>{objects}</annotation>")
    for split in ("train", "val"):
        ids_ = [f"{split}_{name}" for of, name, _ in PHOTOS if of == split]
        write(root / "ImageSets" / "Segmentation" / f"{split}.txt", "\n".join(ids_))
    write(root / "classes.txt", "cat\ndog\n")
    return root


def coco(root: Path) -> Path:
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    for split in ("train", "val"):
        images, annotations = [], []
        for number, (of, name, shown) in enumerate(PHOTOS):
            if of == split:
                photo(root / f"{split}2017" / f"{name}.jpg")
                photo(root / "masks" / f"{name}.png")
                images.append({"id": number, "file_name": f"{name}.jpg"})
                annotations += [{"image_id": number, "category_id": 3 if tag == "cat" else 7} for tag in shown]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(root / "annotations" / f"instances_{split}2017.json", json.dumps(content))
    return root


def yolo(root: Path) -> Path:
    for split, name, shown in PHOTOS:
        photo(root / "images" / split / f"{name}.jpg")
        photo(root / "masks" / split / f"{name}.png")
        if shown:
            boxes = "".join(f"{('cat', 'dog').index(tag)} 0.5 0.5 0.2 0.2\n" for tag in sorted(shown))
            write(root / "labels" / split / f"{name}.txt", boxes)
    write(root / "data.yaml", "train: images/train\nnames:\n  0: cat\n  1: dog\n")
    return root


def anomaly(root: Path) -> Path:
    for split, name, shown in PHOTOS:
        if len(shown) < 2:
            photo(root / split / (next(iter(shown)) if shown else "good") / f"{name}.jpg")
    write(root / "ground_truth" / "cat" / "p0_mask.png")
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "class-folders": class_folders,
    "voc": voc,
    "coco": coco,
    "yolo": yolo,
    "anomaly": anomaly,
}
WITHOUT = {"class-folders": ("p1", "p2"), "anomaly": ("p1",)}  # several tags, no tag: folders cannot say that
NO_TRUTH = {"anomaly"}  # its masks are of 0 and 255

layouts = pytest.mark.parametrize("name", LAYOUTS)


@layouts
def test_there_is_a_writer(name):
    assert name in WRITERS


@layouts
def test_a_layout_is_recognised_and_said_why(name, tmp_path):
    opened = data.open_data(WRITERS[name](tmp_path / "set"), DataSettings())
    assert opened.layout == name
    assert opened.line.startswith(f"{tmp_path / 'set'} is read as {name}: ") and len(opened.because) > 10


@layouts
def test_the_tags_come_back(name, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    assert {"train", "val"} <= set(data.splits(root))
    for split in ("train", "val"):
        expected = {n: shown for s, n, shown in PHOTOS if s == split and n not in WITHOUT.get(name, ())}
        dataset = data.load(root, split=split)
        assert dataset.classes == ("cat", "dog") and dataset.truth_values == (1, 2)
        assert {id_[-2:]: shown for id_, shown in tags(dataset).items()} == expected


@layouts
def test_what_every_sample_keeps(name, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    for split in ("train", "val"):
        dataset = data.load(root, split=split)
        samples = list(dataset.samples)
        assert len({sample.key for sample in samples}) == len(samples)
        for sample in samples:
            assert sample.split == split and sample.image_path.is_file() and sample.image_path.is_absolute()
            assert not sample.id.startswith(("/", "..")) and sample.saliency_path is None
            if name not in NO_TRUTH:
                assert sample.mask_path is not None and sample.mask_path.is_file()
        assert samples == list(data.load(root, split=split).samples)
        assert samples == list(pickle.loads(pickle.dumps(dataset.samples)))


@layouts
def test_one_class_of_two(name, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    whole = tags(data.load(root))
    chosen = data.load(root, DataSettings(classes=("dog",)))
    assert chosen.classes == ("dog",) and chosen.truth_values == (2,)
    assert tags(chosen) == {id_: shown & {"dog"} for id_, shown in whole.items() if shown is not None}
    dropped = data.read(root, DataSettings(classes=("dog",), negatives="drop"))
    assert tags(dropped.dataset) == {id_: {"dog"} for id_, shown in whole.items() if shown and "dog" in shown}
    assert dropped.dropped == len(whole) - len(dropped.dataset)


@layouts
def test_a_survey_finds_no_error(name, tmp_path):
    surveyed = doctor.survey(WRITERS[name](tmp_path / "set"), DataSettings())
    assert [f for f in surveyed.findings if f.level == "error"] == []
    assert surveyed.train is not None and surveyed.val is not None
    assert any("is read as" in finding.message for finding in surveyed.findings)
    assert "none of the classes" in " ".join(f.message for f in surveyed.findings) or name == "class-folders"


@layouts
@pytest.mark.parametrize("spelling", ["valid", "Val", "validation"])
def test_splits_in_other_words(name, spelling, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    for path in sorted(root.rglob("*val*"), key=lambda p: -len(p.parts)):
        if path.name in ("val", "val.csv", "val.txt"):
            path.rename(path.with_name(path.name.replace("val", spelling)))
    for table in root.glob("*.csv"):
        table.write_text(table.read_text().replace("val/", f"{spelling}/"))
    found = data.load(root, split="val")
    assert len(found) == 2 and all(sample.split == "val" for sample in found.samples)
    assert tags(data.load(root, split=spelling)) == tags(found)


@layouts
def test_left_overs_of_systems_and_runs_are_nothing(name, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    before = {split: tags(data.load(root, split=split)) for split in ("train", "val")}
    for folder_, file in (
        ("__MACOSX/cat", "p9.jpg"), ("@eaDir", "p9.jpg"), (".cache", "p9.jpg"), ("images/@eaDir", "p9.jpg"),
        ("run/masks", "p9.png"), ("run/predictions", "p0.png"), ("old run", "x.png"),
    ):  # fmt: skip
        if folder_.startswith("images") and not (root / "images").exists():
            continue
        photo(root / folder_ / file)
    write(root / "run" / "run.json", '{"version": 1}')
    write(root / "old run" / "run.json", "")
    assert {split: tags(data.load(root, split=split)) for split in ("train", "val")} == before


@layouts
def test_an_unknown_split(name, tmp_path):
    assert "no split 'extra'" in refused(WRITERS[name](tmp_path / "set"), split="extra")


@layouts
def test_photos_of_unknown_kinds_are_named(name, tmp_path):
    root = WRITERS[name](tmp_path / "set")
    place = data.load(root).samples[0].image_path.parent
    photo(place / "IMG_1.heic")
    (place / "gone.jpg").symlink_to(place / "nowhere.jpg")
    os.mkfifo(place / "pipe.jpg")
    surveyed = doctor.survey(root, DataSettings())
    said = " ".join(map(str, surveyed.findings))
    assert "1 file .heic" in said and "IMG_1.heic" in said
    assert "lead to no file" in said and "gone.jpg" in said and "pipe.jpg" in said
    assert not any(sample.id.endswith(("gone", "pipe")) for sample in data.load(root).samples)


def test_a_layout_as_asked(tmp_path):
    root = class_folders(tmp_path / "set")
    write(root / "train.csv", "image,tags\ntrain/cat/p0.jpg,lion\n")
    assert data.open_data(root, DataSettings()).layout == "folder"
    assert data.load(root, DataSettings(layout="class-folders")).classes == ("cat", "dog")
    with pytest.raises(data.InputError, match="unknown layout"):
        data.open_data(root, replace(DataSettings(), layout="cocoo"))


# ---------------------------------------------------------------------------------------------------- class folders


def many(root: Path, *names: str) -> Path:
    for name in names:
        photo(root / name)
    return root


def said(root: Path, settings: DataSettings | None = None) -> str:
    return " | ".join(map(str, doctor.survey(root, settings or DataSettings()).findings))


@pytest.mark.parametrize("called", ["masks", "Masks", "mask", "gt", "ground_truth", "saliency", "labels", "Seg"])
def test_folders_of_truth_are_no_classes(tmp_path, called):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", f"{called}/cat/1.png", f"{called}/dog/2.png")
    dataset = data.load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    of_truth = called != "saliency"
    assert [sample.mask_path is not None for sample in dataset.samples] == [of_truth, of_truth]
    assert [sample.saliency_path is None for sample in dataset.samples] == [of_truth, of_truth]


@pytest.mark.parametrize("called", ["masks", "mask", "Masks"])
def test_truth_that_is_named_otherwise_is_no_class_either(tmp_path, called):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", f"{called}/1.png", f"{called}/other.png")
    assert data.load(tmp_path).classes == ("cat", "dog")
    surveyed = doctor.survey(tmp_path, DataSettings())
    found = " ".join(map(str, doctor.check_photos(surveyed, CheckedPhotos.of(()))))
    assert "none of the 2 truth masks" in found and "1.png" in found and "named after its photo, cat/1.png" in found


@pytest.mark.parametrize(
    "names",
    [
        ("masks/1.jpg", "masks/2.jpg", "no_masks/1.jpg", "no_masks/3.jpg"),
        ("masks/1.png", "masks/2.png", "no_masks/1.png", "no_masks/3.png"),
        ("mask/a.png", "without_mask/b.png"),
        ("Mask/a.png", "No Mask/b.png", "hat/c.png"),
        ("masks/1.jpg", "hats/1.jpg"),
    ],
)
def test_classes_may_be_called_as_truth_is(tmp_path, names):
    dataset = data.load(many(tmp_path, *names))
    assert set(dataset.classes) == {name.split("/")[0] for name in names} and len(dataset) == len(names)
    assert all(sample.mask_path is None for sample in dataset.samples)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_class_called_as_truth_in_colours(tmp_path, suffix):
    many(tmp_path, "hat/1.jpg")
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (4, 3), "red").save(tmp_path / "masks" / f"{name}.{suffix}", quality=95)
    assert data.load(tmp_path).classes == ("hat", "masks")
    for name in ("a", "b"):
        Image.new("L", (4, 3), 1).save(tmp_path / "masks" / f"{name}.{suffix}")
    assert data.load(tmp_path).classes == ("hat",)
    assert data.load(tmp_path, DataSettings(classes=("hat", "masks"))).classes == ("hat", "masks")  # as the user says


@pytest.mark.parametrize("called", ["img", "images", "imgs", "Photos"])
def test_a_folder_of_photos_is_no_class(tmp_path, called):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", f"{called}/3.jpg", "4.jpg")
    assert data.load(tmp_path).classes == ("cat", "dog")
    assert f"1 photo in {tmp_path / called} lie in no class folder" in said(tmp_path)
    assert f"1 photo in {tmp_path} lie in no class folder" in said(tmp_path)
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    assert "holds images but no tags" in refused(tmp_path)


def test_class_folders_in_a_folder_of_photos(tmp_path):
    many(tmp_path, "images/cat/1.jpg", "images/dog/2.jpg", "masks/cat/1.png")
    dataset = data.load(tmp_path)
    assert ids(dataset) == ["cat/1", "dog/2"] and dataset.samples[0].mask_path == tmp_path / "masks" / "cat" / "1.png"


def test_class_folders_in_another_folder(tmp_path):
    many(tmp_path, "PetImages/Cat/1.jpg", "PetImages/Dog/2.jpg")
    assert f"did you mean {tmp_path / 'PetImages'}?" in refused(tmp_path)
    assert data.load(tmp_path / "PetImages").classes == ("Cat", "Dog")
    assert data.load(tmp_path, DataSettings(classes=("PetImages",))).classes == ("PetImages",)


@pytest.mark.parametrize(
    "names",
    [("train", "val"), ("Train", "Val"), ("TRAIN", "valid"), ("training", "validation"), ("train_set", "val_set")],
)
def test_folders_of_splits(tmp_path, names):
    train, val = names
    many(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{val}/cat/1.jpg", f"{val}/dog/3.jpg", "test/4.jpg")
    assert data.splits(tmp_path) == ("train", "val") or set(data.splits(tmp_path)) == {"train", "val"}
    assert data.load(tmp_path).classes == ("cat", "dog")
    assert ids(data.load(tmp_path, split="val")) == [f"{val}/cat/1", f"{val}/dog/3"]
    assert "1 photo in" in said(tmp_path) and "in no class folder of a split" in said(tmp_path)


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "Val"), ("train",), ("test", "val")])
def test_splits_without_classes_are_no_classes(tmp_path, names):
    many(tmp_path, *(f"{name}/{number}.jpg" for name in names for number in range(3)))
    assert "holds images but no tags" in refused(tmp_path)


def test_splits_called_as_the_user_says(tmp_path):
    many(tmp_path, "fold1/cat/1.jpg", "fold1/dog/2.jpg", "fold2/cat/3.jpg")
    chosen = DataSettings(train_split="fold1", val_split="fold2")
    assert data.splits(tmp_path, chosen) == ("fold1", "fold2") and data.load(tmp_path, chosen).classes == ("cat", "dog")
    assert tags(data.load(tmp_path, chosen, "fold2")) == {"fold2/cat/3": {"cat"}}


def test_a_class_called_train(tmp_path):
    many(tmp_path, "train/1.jpg", "cat/2.jpg")
    assert data.load(tmp_path).classes == ("cat", "train")
    many(tmp_path / "deep", "train/train/1.jpg", "train/cat/2.jpg", "val/cat/3.jpg", "val/train/4.jpg")
    assert data.load(tmp_path / "deep").classes == ("cat", "train")


def test_loose_photos_of_a_test_split_are_no_class(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", "test/3.jpg", "test/4.jpg")
    assert data.load(tmp_path).classes == ("cat", "dog") and f"2 photos in {tmp_path / 'test'}" in said(tmp_path)


def test_folders_without_photos_are_no_classes(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", "docs/readme.md", "weights/a.pth")
    (tmp_path / "emu").mkdir()
    assert data.load(tmp_path).classes == ("cat", "dog") and "docs, emu, weights" in said(tmp_path)


def test_a_run_inside_is_no_class_however_often(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg")
    for number in range(2):
        assert data.load(tmp_path).classes == ("cat", "dog")
        many(tmp_path, f"run{number}/masks/cat/1.png", f"run{number}/report.png")
        write(tmp_path / f"run{number}" / "run.json", '{"version": 1}')
    assert "runs of tag2mask" in said(tmp_path) and "run0, run1" in said(tmp_path)
    assert "is a run of tag2mask" in refused(tmp_path / "run0")
    assert "cat/1" in ids(data.load(tmp_path))


def test_a_stage_taken_out_of_a_run_is_no_class(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", "masks-1/cat/1.png")
    write(tmp_path / "masks-1" / "key.json", "{}")
    write(tmp_path / "masks-1" / "manifest.json", "{}")
    assert data.load(tmp_path).classes == ("cat", "dog")


def test_predictions_inside_are_no_class(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg")
    write_index_mask(tmp_path / "predicted" / "cat" / "1.png", np.zeros((3, 4), np.uint8))
    write(tmp_path / "predicted" / "classes.txt", "cat\ndog\n")
    assert data.load(tmp_path).classes == ("cat", "dog")


def test_predictions_inside_are_no_class_whatever_they_hold_but_may_be_truth(tmp_path):
    """Told by their mark alone: no image is looked into. A folder called masks is still read as truth."""
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", "cat/sub/3.jpg", "masks2/cat/1.png", "cat/out/1.png", "masks/cat/1.png")
    for place in ("masks2", "cat/out", "masks"):
        write(tmp_path / place / MADE_BY, "{}")
    found = data.load(tmp_path)
    assert found.classes == ("cat", "dog") and ids(found) == ["cat/1", "cat/sub/3", "dog/2"]
    assert "predictions of tag2mask" in said(tmp_path) and "cat/out, masks, masks2" in said(tmp_path)
    assert [sample.mask_path for sample in found.samples] == [tmp_path / "masks" / "cat" / "1.png", None, None]


def test_deeper_than_python_recurses(tmp_path):
    place = tmp_path / "cat"
    try:
        for _ in range(600):
            place = place / "d"
        place.mkdir(parents=True)
    except (OSError, RecursionError):
        pytest.skip("paths end before that here")
    photo(place / "1.jpg")
    photo(tmp_path / "dog" / "1.jpg")
    assert len(data.load(tmp_path)) == 2


# --------------------------------------------------------------------------------------------------- other layouts


def roboflow(root: Path) -> Path:
    for split, shown in (("train", "crack"), ("valid", "hole")):
        photo(root / split / "a.jpg")
        photo(root / split / "b.jpg")
        content = {
            "info": {"year": "2024"},
            "categories": [
                {"id": 0, "name": "defects", "supercategory": "none"},
                {"id": 1, "name": "crack", "supercategory": "defects"},
                {"id": 2, "name": "hole", "supercategory": "defects"},
            ],
            "images": [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1 if shown == "crack" else 2}]
            + ([{"id": 1, "image_id": 1, "category_id": 2}] if split == "train" else []),
        }
        write(root / split / "_annotations.coco.json", json.dumps(content))
    return root


def test_coco_beside_the_photos(tmp_path):
    root = roboflow(tmp_path)
    assert data.open_data(root, DataSettings()).layout == "coco" and data.splits(root) == ("train", "val")
    assert data.load(root).classes == ("crack", "hole")
    assert tags(data.load(root)) == {"a": {"crack"}, "b": {"hole"}}
    assert tags(data.load(root, split="val")) == {"a": {"hole"}, "b": set()}
    assert data.load(root).samples[0].image_path == root / "train" / "a.jpg"


def test_coco_with_data_and_labels(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 0}, {"image_id": 2, "category_id": 1}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    write(tmp_path / "labels.json", json.dumps(content))
    many(tmp_path, "data/a.jpg", "data/b.jpg")
    assert data.open_data(tmp_path, DataSettings()).layout == "coco" and data.splits(tmp_path) == ("train",)
    assert tags(data.load(tmp_path)) == {"a": {"cat"}, "b": {"dog"}}


@pytest.mark.parametrize(
    ("json_path", "photos"),
    [
        ("result.json", "images"),
        ("annotations.json", "."),
        ("annotations/train.json", "images"),
        ("annotations/instances_default.json", "images"),
        ("annotations/instances_train.json", "images/train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("train/labels.json", "train/data"),
    ],
)
def test_where_coco_exports_put_things(tmp_path, json_path, photos):
    content = {
        "licenses": [],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 0}],
    }
    write(tmp_path / json_path, json.dumps(content))
    photo(tmp_path / photos / "a.jpg")
    assert tags(data.load(tmp_path)) == {"a": {"cat"}}


def test_an_anomaly_set_is_named_with_what_to_do(tmp_path):
    many(tmp_path, "train/good/1.jpg", "train/good/2.jpg", "test/good/3.jpg", "test/crack/4.jpg")
    write(tmp_path / "ground_truth" / "crack" / "4_mask.png")
    message = refused(tmp_path)
    assert "is an anomaly set" in message and "move about half" in message and "train.csv" in message
    many(tmp_path, "train/crack/5.jpg")
    assert tags(data.load(tmp_path)) == {"train/crack/5": {"crack"}, "train/good/1": set(), "train/good/2": set()}
    shutil.rmtree(tmp_path / "ground_truth")
    (tmp_path / "train" / "crack" / "5.jpg").unlink()
    (tmp_path / "train" / "crack").rmdir()
    assert "is an anomaly set" in refused(tmp_path)


def test_yolo_of_roboflow(tmp_path):
    many(tmp_path, "train/images/a.jpg", "train/images/b.jpg", "valid/images/a.jpg")
    write(tmp_path / "train" / "labels" / "a.txt", "1 0.1 0.2 0.3 0.4\n0 0.1 0.2 0.3 0.4\n")
    write(tmp_path / "train" / "labels" / "b.txt", "")
    write(tmp_path / "valid" / "labels" / "a.txt", "1 0.1 0.2 0.3 0.4 0.5 0.6\n")  # an outline
    write(tmp_path / "data.yaml", "names: ['cat', 'dog']\nnc: 2\n")
    assert tags(data.load(tmp_path)) == {"a": {"cat", "dog"}, "b": set()}
    assert tags(data.load(tmp_path, split="val")) == {"a": {"dog"}}


def test_yolo_without_names_or_of_another_form(tmp_path):
    many(tmp_path, "images/a.jpg", "images/b.jpg")
    write(tmp_path / "labels" / "a.txt", "0 0.1 0.2 0.3 0.4\n")
    assert "numbers of classes and no names" in refused(tmp_path) and "--class-names" in refused(tmp_path)
    write(tmp_path / "data.yaml", "names: {}\n")
    assert "names no class" in refused(tmp_path)
    write(tmp_path / "data.yaml", "train: x\n- y: [")
    assert "data.yaml has no list 'names'" in refused(tmp_path)
    assert tags(data.load(tmp_path, DataSettings(class_names=("cat",)))) == {"a": {"cat"}, "b": set()}
    write(tmp_path / "labels" / "b.txt", "3 0.1 0.2 0.3 0.4\n")
    assert "b.txt line 1: class 3 has no name, there are 1" in refused(tmp_path, DataSettings(class_names=("cat",)))
    write(tmp_path / "labels" / "b.txt", "cat 0.1 0.2 0.3 0.4\n")
    assert "b.txt line 1 does not start with the number" in refused(tmp_path, DataSettings(class_names=("cat",)))


def test_nothing_that_is_known(tmp_path):
    assert "holds no images" in refused(tmp_path)
    write(tmp_path / "notes.md")
    many(tmp_path, "a.jpg", "b.jpg")
    assert "holds images but no tags" in refused(tmp_path)
    write_index_mask(tmp_path / "masks" / "a.png", np.zeros((3, 4), np.uint8))
    assert "holds images but no tags" in refused(tmp_path)


def test_a_data_set_one_folder_deeper(tmp_path):
    voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert f"did you mean {tmp_path / 'VOCdevkit' / 'VOC2012'}?" in refused(tmp_path / "VOCdevkit")
    roboflow(tmp_path / "more" / "export")
    assert f"did you mean {tmp_path / 'more' / 'export'}?" in refused(tmp_path / "more")


def test_findings_are_one_printable_line():
    assert str(Finding("info", "a\x1b[31m", "do b")) == r"a\x1b[31m: do b"


# ------------------------------------------------------------------------------- photos that show none of the classes


def test_a_folder_of_good_photos_shows_none_of_the_classes(tmp_path):
    many(tmp_path, "crack/1.jpg", "dent/2.jpg", "good/3.jpg", "No Defect/4.jpg")
    opened = data.open_data(tmp_path, DataSettings())
    assert "photos in No Defect, good show none of them" in opened.because
    dataset = data.load(opened)
    assert dataset.classes == ("crack", "dent")
    assert tags(dataset) == {"crack/1": {"crack"}, "dent/2": {"dent"}, "good/3": set(), "No Defect/4": set()}
    write(tmp_path / "classes.txt", "crack\ndent\ngood\n")  # it is a class where the user says so
    assert tags(data.load(tmp_path))["good/3"] == {"good"}
    assert tags(data.load(tmp_path, DataSettings(classes=("dent", "good"))))["good/3"] == {"good"}


def test_good_photos_in_splits(tmp_path):
    many(tmp_path, "train/crack/1.jpg", "train/dent/2.jpg", "train/ok/3.jpg", "val/ok/4.jpg")
    assert tags(data.load(tmp_path))["train/ok/3"] == set()
    assert tags(data.load(tmp_path, split="val")) == {"val/ok/4": set()}


def test_good_photos_alone_teach_nothing(tmp_path):
    many(tmp_path, "good/1.jpg", "good/2.jpg")
    assert "only in good, which means none of the classes" in refused(tmp_path)


def test_an_image_of_coco_without_annotations_shows_none_of_the_classes(tmp_path):
    many(tmp_path, "data/a.jpg", "data/b.jpg")
    content = {
        "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate("ab")],
        "annotations": [{"image_id": 0, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(tmp_path / "labels.json", json.dumps(content))
    assert tags(data.load(tmp_path)) == {"a": {"cat"}, "b": set()}


def test_a_photo_without_a_mask_whose_tag_is_empty_is_background_where_others_have_masks(tmp_path):
    many(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", "images/d.jpg")
    write(tmp_path / "tags.csv", "image,tags,split\na.jpg,cat,train\nb.jpg,,train\nc.jpg,cat,val\nd.jpg,,val\n")
    assert not any(s.has_truth for s in data.load(tmp_path).samples)  # nobody drew anything
    photo(tmp_path / "masks" / "c.png")
    assert {s.id: s.has_truth for s in data.load(tmp_path, split="val").samples} == {"c": True, "d": True}
    assert not any(s.has_truth for s in data.load(tmp_path).samples)  # of the other split nothing is measured
    (only,) = data.load(tmp_path, split="val").samples[1:]  # the slice keeps it
    assert only.all_background and only.mask_path is None


def test_texts_of_yolo_that_are_of_no_photo(tmp_path):
    """Photos without a text show none of the classes: not where the texts are there under other names."""
    write(tmp_path / "data.yaml", "names: [cat]\n")
    for name, text in (("A.jpg", "a"), ("b.jpg", "b_label")):
        photo(tmp_path / "images" / name)
        write(tmp_path / f"labels/{text}.txt", "0 0.5 0.5 0.1 0.1\n")
    found = data.read(data.open_data(tmp_path, DataSettings()), split="train")
    assert tags(found.dataset) == {"A": {"cat"}, "b": set()}  # a.txt is A.jpg's
    (finding,) = found.findings
    assert finding.level == "warning" and "1 text in" in finding.message and "b_label.txt; 1 photo" in finding.message
    (tmp_path / "labels/a.txt").rename(tmp_path / "labels/a_label.txt")
    assert "2 texts" in refused(tmp_path)
