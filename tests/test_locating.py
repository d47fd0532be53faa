"""Photos that tables name in another spelling, from another machine, or from where they lie in other layouts."""

from __future__ import annotations

import json
import unicodedata

import pytest

from data_sets import ids, photo, refused, tags, write
from tag2mask import data
from tag2mask.data.walk import Present


@pytest.mark.parametrize(
    ("on_disk", "in_table"),
    [
        ("0.JPG", "0.jpg"),
        ("Sub/0.jpg", "sub/0.jpg"),
        ("Sub/Deep/0.jpg", "SUB/deep/0.JPG"),
        (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
        (unicodedata.normalize("NFD", "ä/é.jpg"), unicodedata.normalize("NFC", "Ä/é.jpg")),
    ],
)
def test_spellings_that_other_systems_take_for_one(tmp_path, on_disk, in_table):
    photo(tmp_path / "images" / on_disk)
    write(tmp_path / "tags.csv", f"image,tags\n{in_table},cat\n")
    assert [sample.image_path.name for sample in data.load(tmp_path).samples] == [on_disk.rpartition("/")[2]]


def test_two_files_of_one_spelling_are_not_guessed(tmp_path):
    for name in ("a.JPG", "A.jpg"):
        photo(tmp_path / "images" / name)
    write(tmp_path / "tags.csv", "image,tags\na.jpg,cat\n")
    if Present()(str(tmp_path / "images/a.jpg")):
        pytest.skip("this system sees no capitals")
    assert "1 of 1 image " in refused(tmp_path)


def test_two_spellings_of_one_photo_are_one_photo(tmp_path):
    photo(tmp_path / "images/a.jpg")
    write(tmp_path / "tags.csv", "image,tags\na.jpg,cat\n./A.jpg,dog\nimages/a.jpg,cow\n")
    assert tags(data.load(tmp_path)) == {"a": {"cat", "dog", "cow"}}
    write(tmp_path / "tags.csv", "image,tags\na.jpg,cat\nA.JPG,cat;dog\n")
    assert "different tags on lines 2 and 3" in refused(tmp_path)


@pytest.mark.parametrize(
    "name", [r"C:\Users\me\sub\a b.jpg", "/data/x/a b.jpg", "https://x.org/a%20b.jpg", "'a b.jpg'", "a b.png"]
)
def test_names_of_other_machines_are_explained(tmp_path, name):
    photo(tmp_path / "images/sub/a b.jpg")
    write(tmp_path / "tags.csv", f"image,tags\n{name},cat\n")
    assert "sub/a b.jpg is there: write names as they stand in that folder" in refused(tmp_path)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("train.csv", "train"),  # Kaggle
        ("train.csv", "train_images"),
        ("train.csv", "images/train"),
        ("labels.csv", "images"),
        ("train/_classes.csv", "train"),  # Roboflow
        ("train/_classes.csv", "train/images"),
        ("annotations/labels.csv", "images"),
        ("annotations/train.csv", "images"),
    ],
)
def test_where_photos_lie_for_a_table(tmp_path, table, place):
    photo(tmp_path / place / "7.jpg")
    write(tmp_path / table, "id,label\n7,cat\n")
    assert [sample.image_path for sample in data.load(tmp_path).samples] == [tmp_path / place / "7.jpg"]


def test_a_table_of_no_split_next_to_those_of_splits_is_passed_over(tmp_path):
    photo(tmp_path / "train/7.jpg")
    write(tmp_path / "train.csv", "id,label\n7,cat\n")
    write(tmp_path / "sample_submission.csv", "id,label\n9,unheard\n")
    assert data.load(tmp_path).classes == ("cat",)
    assert data.open_data(tmp_path, data.DataSettings()).because == "tags in train.csv"


def test_several_tables_that_are_no_splits(tmp_path):
    photo(tmp_path / "images/7.jpg")
    for name in ("labels.csv", "labels_old.csv"):
        write(tmp_path / name, "image,tags\n7.jpg,cat\n")
    assert "has several tables of tags, labels.csv, labels_old.csv: say which with --tags FILE" in refused(tmp_path)
    assert ids(data.load(tmp_path, data.DataSettings(tags=tmp_path / "labels.csv"))) == ["7"]


def test_photos_of_coco_in_another_spelling_and_in_cvats_folders(tmp_path):
    photo(tmp_path / "images/default/A.JPG")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1}],
    }
    write(tmp_path / "annotations/instances_default.json", json.dumps(content))
    assert tags(data.load(tmp_path)) == {"A": {"cat"}}
    assert not [str(finding) for finding in data.open_data(tmp_path, data.DataSettings()).reader.left_out()]


def test_voc_with_images_and_annotations_and_with_one_list_of_any_name(tmp_path):
    xml = "<annotation><object><name>sign</name></object></annotation>"
    for name in ("7", "8"):
        photo(tmp_path / f"images/{name}.png")
        write(tmp_path / f"annotations/{name}.xml", xml)
    assert tags(data.load(tmp_path)) == {"7": {"sign"}, "8": {"sign"}}
    write(tmp_path / "ImageSets/Segmentation/default.txt", "8\n")
    assert tags(data.load(tmp_path)) == {"8": {"sign"}}
    asked = data.DataSettings(train_split="default")
    assert tags(data.load(tmp_path, asked, "default")) == {"8": {"sign"}}
