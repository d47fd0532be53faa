"""What annotations of boxes (XML, COCO, YOLO) say that is easily passed over: read rightly, or said in a warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_sets import ids, photo, refused, tags, write
from tag2mask import data
from tag2mask.data.annotations import read_annotation
from test_evidence import many, warnings

# --- annotations ------------------------------------------------------------------------------------------------------


def xml(*objects: str, filename: str = "") -> str:
    return (
        f"<annotation><filename>{filename}</filename>{''.join(f'<object>{o}</object>' for o in objects)}</annotation>"
    )


@pytest.mark.parametrize("order", ["{}<name>dog</name>", "<name>dog</name>{}"])
def test_deleted_objects_of_labelme_are_none(tmp_path, order):
    """LabelMe keeps what was deleted, and marks it."""
    objects = [
        order.format(f"<deleted>{mark}</deleted>").replace("dog", name) for name, mark in (("dog", 1), ("cat", 0))
    ]
    assert read_annotation(write(tmp_path / "a.xml", xml(*objects))) == {"cat"}


def test_capitals_of_elements_do_not_matter(tmp_path):
    """Otherwise the photo would count as showing none of the classes."""
    text = "<Annotation><Object><Name>cat</Name></Object></Annotation>"
    assert read_annotation(write(tmp_path / "a.xml", text)) == {"cat"}


def own_voc(root: Path, **annotations: str) -> Path:
    for name in "ab":
        photo(root / "JPEGImages" / f"{name}.jpg")
    for name, text in annotations.items():
        write(root / "Annotations" / f"{name}.xml", text)
    return root


def test_annotations_named_like_no_photo(tmp_path):
    own_voc(tmp_path, a=xml("<name>crack</name>"))
    write(tmp_path / "Annotations" / "b.jpg.xml", xml("<name>hole</name>"))
    assert "1 annotation in" in warnings(tmp_path) and "named like no photo: b.jpg; 1 photo without one" in warnings(
        tmp_path
    )


def test_annotations_that_name_another_photo(tmp_path):
    own_voc(tmp_path, a=xml("<name>crack</name>", filename="b.jpg"), b=xml("<name>hole</name>", filename="b.jpg"))
    assert tags(data.load(tmp_path)) == {"a": {"crack"}, "b": {"hole"}}
    assert "1 annotation in" in warnings(tmp_path) and "with another photo's <filename>: a:" in warnings(tmp_path)


def test_longer_lists_of_the_same_photos_are_no_other_splits(tmp_path):
    own_voc(tmp_path, a=xml("<name>crack</name>"), b=xml("<name>hole</name>"))
    for name, text in {"train": "a\n", "val": "b\n", "trainval": "a\nb\n", "test": "b\n"}.items():
        write(tmp_path / "ImageSets" / "Main" / f"{name}.txt", text)
    assert "other splits are not used: test" in warnings(tmp_path, "note").splitlines()[1]


def test_names_of_coco_with_a_folder_of_another_system(tmp_path):
    many(tmp_path, "images/a.jpg", "images/sub/c.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "Sub\\c.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    write(tmp_path / "annotations.json", json.dumps(content))
    assert tags(data.load(tmp_path)) == {"a": {"cat"}, "sub/c": {"dog"}}


# --- YOLO -------------------------------------------------------------------------------------------------------------


def yolo(root: Path, yaml: str, **numbers: int) -> Path:
    """Photos in folders of images/ by name and class, ``train__a=0``."""
    for name, number in numbers.items():
        name = name.replace("__", "/")
        photo(root / "images" / f"{name}.jpg")
        write(root / "labels" / f"{name}.txt", f"{number} 0.5 0.5 0.1 0.1\n")
    write(root / "data.yaml", yaml)
    return root


def test_yaml_s_words_for_yes_and_no_are_names(tmp_path):
    """YAML reads no, on and 012 as False, True and ten."""
    assert data.load(yolo(tmp_path, "names: [no, on, 012, 1.0]\n", a=0, b=1, c=2, d=3)).classes == (
        "no",
        "on",
        "012",
        "1.0",
    )


def test_lists_of_photos_in_data_yaml_are_the_splits(tmp_path):
    root = yolo(tmp_path, "path: .\ntrain: train.txt\nval: val.txt\nnames: [cat, dog]\n", a=0, b=1, c=0)
    write(root / "train.txt", "./images/a.jpg\n./images/b.jpg\n")
    write(root / "val.txt", "images/c.jpg\n")
    assert tags(data.load(root)) == {"a": {"cat"}, "b": {"dog"}}
    assert ids(data.load(root, split="val")) == ["c"]
    write(root / "val.txt", "images/gone.jpg\n")
    assert "val.txt line 1: images/gone.jpg is not in" in refused(root)


def test_several_folders_in_data_yaml_are_one_split(tmp_path):
    """Without data.yaml these folders are no splits, and were three classes."""
    yaml = "train: [images/p, images/q]\nval: images/v\ntest:\nnames:\n  0: cat\n  1: dog\n"
    root = yolo(tmp_path, yaml, p__a=0, q__b=1, v__c=1)
    assert tags(data.load(root)) == {"p/a": {"cat"}, "q/b": {"dog"}}
    assert tags(data.load(root, split="val")) == {"v/c": {"dog"}}


def test_data_yaml_and_folders_that_say_different_things(tmp_path):
    """coco128 measures on its training photos: that is an error, not two splits."""
    root = yolo(tmp_path, "train: images/train\nval: images/train\nnames: [cat]\n", train__a=0, val__b=0)
    assert "1 photo in both 'train' and 'val'" in warnings(root, "error")


def test_data_yaml_of_another_machine_says_nothing_of_splits(tmp_path):
    root = yolo(tmp_path, "path: /mnt/x\ntrain: images/a1\nnames: [cat]\n", train__a=0, val__b=0)
    assert data.splits(root) == ("train", "val")


def test_numbers_of_classes_with_gaps(tmp_path):
    assert "numbers its classes 1, 2: number them 0 to 1" in refused(yolo(tmp_path, "names: {1: cat, 2: dog}\n", a=1))


@pytest.mark.parametrize("folder", ["", "obj_train_data/", "train/"])
def test_texts_next_to_the_photos(tmp_path, folder):
    """LabelImg, CVAT's YOLO 1.1, Darknet."""
    for number, name in enumerate("ab"):
        photo(tmp_path / f"{folder}{name}.jpg")
        write(tmp_path / f"{folder}{name}.txt", f"{number} 0.5 0.5 0.1 0.1\n")
    write(tmp_path / ("obj.names" if "obj" in folder else f"{folder}classes.txt"), "cat\ndog\n")
    assert tags(data.load(tmp_path)) == {"a": {"cat"}, "b": {"dog"}}
