"""Folders that hold more than photos of classes: masks among them, splits inside them, other programs' annotations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from data_sets import ids, photo, refused, write
from tag2mask import data
from tag2mask.data.foreign import FORMS


def grey(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def said(root):
    return [str(finding) for finding in data.open_data(root, data.DataSettings()).reader.left_out()]


@pytest.mark.parametrize(
    "mask", ["cat/7_mask.png", "cat/7.jpg.png", "cat/masks/7.png", "cat/masks/7_mask.png", "cat/Ground Truth/7.png"]
)
def test_masks_in_the_folder_of_a_class_are_no_photos(tmp_path, mask):
    for name in ("cat/7.jpg", "dog/8.jpg"):
        photo(tmp_path / name)
    grey(tmp_path / mask)
    assert ids(data.load(tmp_path)) == ["cat/7", "dog/8"]
    assert any(f"1 file in {tmp_path} named like masks of photos left out: {mask}" in line for line in said(tmp_path))


def test_masks_next_to_the_folder_of_a_class_s_photos(tmp_path):
    for name in ("cat/images/7.jpg", "dog/images/8.jpg"):
        photo(tmp_path / name)
    grey(tmp_path / "cat/masks/7.png")
    assert ids(data.load(tmp_path)) == ["cat/images/7", "dog/images/8"]


def test_a_folder_of_masks_for_each_class(tmp_path):
    for name in ("cat", "dog"):
        photo(tmp_path / name / "7.jpg")
        grey(tmp_path / f"{name}_mask" / "7.png")
    assert data.load(tmp_path).classes == ("cat", "dog")
    assert any("cat_mask taken for masks of photos" in line for line in said(tmp_path))


def test_photos_that_are_called_as_masks_are(tmp_path):
    """In colour and of no other photo, or without one: they are photos."""
    for name in ("shoe/7.png", "shoe/7_label.png", "hat/8_mask.png", "hat/9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert len(data.load(tmp_path)) == 4


def noisy(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def flat(path, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (60, 40))
    image.paste((128, 0, 0), (5, 5, 30, 30))
    image.convert(mode).save(path)


@pytest.mark.parametrize(
    ("photo_", "mask", "mode"),
    [
        ("cat/7.png", "cat/7_mask.png", "RGB"), ("cat/7.png", "cat/7_label.png", "RGBA"),
        ("cat/7.jpg", "cat/7.png", "RGB"), ("cat/7.jpg", "cat/7.png", "P"), ("cat/7.jpg", "cat/mask_7.png", "L"),
        ("cat/7.png", "cat/7_mask_1.png", "L"), ("cat/cat (7).png", "cat/cat (7)_mask.png", "1"),
    ],
)  # fmt: skip
def test_masks_in_colour_or_of_the_photo_s_name(tmp_path, photo_, mask, mode):
    """A palette or flat colours (BUSI: 7_mask_1.png for a second object)."""
    noisy(tmp_path / photo_)
    noisy(tmp_path / "dog/8.jpg")
    flat(tmp_path / mask, mode)
    assert len(data.load(tmp_path)) == 2
    assert any(f"1 file in {tmp_path} named like masks of photos left out: {mask}" in line for line in said(tmp_path))


@pytest.mark.parametrize("name", ["cat/7_mask.png", "cat/mask_7.png", "cat/7_seg.png", "cat/7.png"])
def test_photos_of_that_name_stay_photos(tmp_path, name):
    """With as much in them as photos have."""
    noisy(tmp_path / "cat/7.jpg")
    noisy(tmp_path / name)
    if name == "cat/7.png":
        assert "differ only in suffix" in refused(tmp_path)
    else:
        assert len(data.load(tmp_path)) == 2


def test_drawings_are_as_flat_as_masks(tmp_path):
    for name in ("icons/7.png", "icons/7_label.png"):
        flat(tmp_path / name, "RGB")
    assert len(data.load(tmp_path)) == 2


def test_masks_among_the_photos_of_yolo_are_no_negatives(tmp_path):
    for name in ("a", "b"):
        noisy(tmp_path / f"images/{name}.jpg")
        flat(tmp_path / f"images/{name}_mask.png", "L")
        write(tmp_path / f"labels/{name}.txt", "0 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "classes.txt", "cat,dog\n")
    assert ids(data.load(tmp_path, data.DataSettings(classes=("cat",)))) == ["a", "b"]
    assert any("2 files in" in line and "a_mask.png" in line for line in said(tmp_path))


def test_masks_next_to_photos_of_a_table(tmp_path):
    photo(tmp_path / "images/7.jpg")
    grey(tmp_path / "images/7_mask.png")
    write(tmp_path / "tags.csv", "image,tags\n7.jpg,cat\n")
    (line,) = said(tmp_path)
    assert "7_mask.png" in line and "move them to a folder masks" in line


def test_splits_inside_of_classes_are_refused(tmp_path):
    """Cityscapes, and class folders with the splits inside: train and val would be learned alike."""
    for name in ("leftImg8bit", "gtFine"):
        for split in ("train", "val"):
            photo(tmp_path / name / split / f"{split}7.png")
    assert "hold one for each split (train, val)" in refused(tmp_path)


@pytest.mark.parametrize("inner", ["images/train", "images", "train"])
def test_a_data_set_in_a_folder_is_no_class(tmp_path, inner):
    photo(tmp_path / "dataset" / inner / "7.jpg")
    assert f"did you mean {tmp_path / 'dataset'}?" in refused(tmp_path)


def test_folders_inside_of_classes_are_said(tmp_path):
    for name in ("animals/cat/1.jpg", "animals/dog/2.jpg", "plants/oak/3.jpg"):
        photo(tmp_path / name)
    assert data.load(tmp_path).classes == ("animals", "plants")
    assert any("animals/cat, animals/dog are all of class 'animals'" in line for line in said(tmp_path))


OTHERS = {
    "annotations.xml": "<?xml version='1.0'?>\n<annotations><version>1.1</version><meta/><image name='7.jpg'/>",
    "images/7.json": json.dumps({"version": "5", "shapes": [], "imagePath": "7.jpg"}),
    "via_region_data.json": json.dumps({"7.jpg12": {"filename": "7.jpg", "regions": []}}),
    "project.json": json.dumps([{"id": 1, "data": {"image": "7.jpg"}, "annotations": [{"result": []}]}]),
    "ann/7.jpg.json": json.dumps({"objects": [{"classTitle": "cat"}]}),
    "annotations/default.json": json.dumps({"info": {}, "categories": {"label": {}}, "items": [{"annotations": []}]}),
    "metadata.jsonl": json.dumps({"file_name": "7.jpg", "label": "cat"}),
    "export.ndjson": json.dumps({"data_row": {"id": 1}}),
    "tags.json": json.dumps({"7.jpg": ["cat"]}),
    "labels.txt": "7.jpg cat\n",
    "data.zip": "PK",
    "data.parquet": "PAR1",
    "tags.xlsx": "PK",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_programs_write_is_named_with_what_to_do(tmp_path, name):
    photo(tmp_path / "images/7.jpg")
    write(tmp_path / name, OTHERS[name])
    message = refused(tmp_path)
    assert f"{name} is " in message and message.count(": ") >= 1
    words = {
        "annotations.xml": "CVAT",
        "images/7.json": "LabelMe",
        "via_region_data.json": "VIA",
        "labels.txt": "a list",
        "annotations/default.json": "Datumaro",
    }
    assert words.get(name, "") in message


def test_every_form_has_an_example():
    assert len(OTHERS) >= len(FORMS)


def test_datumaro_s_folder_of_all_photos_is_no_class(tmp_path):
    photo(tmp_path / "images/default/7.jpg")
    write(tmp_path / "annotations/default.json", OTHERS["annotations/default.json"])
    assert "is of Datumaro: such annotations are not read; export them as COCO" in refused(tmp_path)


def test_roboflow_s_masks_come_without_tags(tmp_path):
    for split in ("train", "valid"):
        photo(tmp_path / split / "7.jpg")
        grey(tmp_path / split / "7_mask.png")
        write(tmp_path / split / "_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n")
    assert "is of Roboflow's masks, which come without tags: export the data set as COCO" in refused(tmp_path)
