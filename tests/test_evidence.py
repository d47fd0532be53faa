"""What tables, annotations and folders say that is easily passed over: read rightly, or said in a warning.

Each input is a form that a public data set or another program writes; read without a second look, it gives wrong tags
without a word.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_sets import ids, photo, refused, tags, write
from tag2mask import data, doctor
from tag2mask.data import DataSettings
from tag2mask.data.annotations import read_annotation
from tag2mask.data.class_file import read_classes
from tag2mask.data.peek import is_colour


def many(root: Path, *names: str) -> Path:
    for name in names:
        photo(root / name)
    return root


def table(root: Path, text: str, photos: str = "abc") -> Path:
    many(root, *(f"images/{name}.jpg" for name in photos))
    write(root / "tags.csv", text)
    return root


def warnings(root: Path, level: str = "warning") -> str:
    return "\n".join(str(f) for f in doctor.survey(root, DataSettings()).findings if f.level == level)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_tag_of_confidence_zero_is_none(tmp_path):
    """Open Images writes what people denied, too: read as tags, every such line teaches the opposite."""
    table(tmp_path, "ImageID,LabelName,Confidence\na,cat,1\na,dog,0\nb,dog,1\n")
    write(tmp_path / "tags.csv", "image,label,Confidence\na.jpg,cat,1\na.jpg,dog,0.0\nb.jpg,dog,1\n")
    assert "tags.csv line 3 gives image a.jpg a tag of Confidence 0" in refused(tmp_path)


def test_doubtful_tags_count_and_that_is_said(tmp_path):
    table(tmp_path, "image,label,score\na.jpg,cat,0.9\na.jpg,dog,0.1\nb.jpg,dog,1\n")
    assert tags(data.load(tmp_path)) == {"a": {"cat", "dog"}, "b": {"dog"}}
    assert "column 'score' is not read: a tag counts however doubtful it is there" in warnings(tmp_path)


@pytest.mark.parametrize("name", ["is_valid", "fold", "Usage", "is_test"])
def test_splits_in_other_words_are_said(tmp_path, name):
    """fastai's tables: all their photos would be trained on, those for measuring among them."""
    table(tmp_path, f"image,tags,{name}\na.jpg,cat,0\nb.jpg,dog,1\n")
    assert f"column '{name}' is not read, so no photo is for measuring by it: call it split" in warnings(tmp_path)


def test_splits_in_other_words_are_no_classes(tmp_path):
    table(tmp_path, "image,cat,dog,fold,is_valid\na.jpg,1,0,0,0\nb.jpg,0,1,1,1\n")
    assert tags(data.load(tmp_path)) == {"a": {"cat"}, "b": {"dog"}}


def test_a_second_column_of_tags_is_said(tmp_path):
    table(tmp_path, "image,tags,tags2,label_id\na.jpg,cat,dog,7\nb.jpg,dog,,8\n")
    assert "column 'tags2' is not read: the tags are those of 'tags'" in warnings(tmp_path)
    assert "columns that are not read: label_id" in warnings(tmp_path, "note")


def test_columns_that_are_read_are_not_said(tmp_path):
    table(tmp_path, ",image,tags,split,domain\n0,a.jpg,cat,train,\n1,b.jpg,dog,val,web\n")
    assert "not read" not in warnings(tmp_path) + warnings(tmp_path, "note")


def test_photos_of_other_splits_are_said(tmp_path):
    table(tmp_path, "image,tags,split\na.jpg,cat,train\nb.jpg,dog,val\nc.jpg,dog,holdout\n")
    assert "photos of other splits are not used: holdout" in warnings(tmp_path, "note")


def test_longer_lists_of_the_same_photos_are_no_other_splits(tmp_path):
    own_voc(tmp_path, a=xml("<name>crack</name>"), b=xml("<name>hole</name>"))
    for name, text in {"train": "a\n", "val": "b\n", "trainval": "a\nb\n", "test": "b\n"}.items():
        write(tmp_path / "ImageSets" / "Main" / f"{name}.txt", text)
    assert "other splits are not used: test" in warnings(tmp_path, "note").splitlines()[1]


@pytest.mark.parametrize("name", ["disc absent", "not disc", "disc_none", "BACKGROUND_Google"])
def test_classes_that_say_what_is_not_there(tmp_path, name):
    table(tmp_path, f"image,tags\na.jpg,disc\nb.jpg,{name}\n")
    assert f"class '{name}' sounds as if its photos showed none of the classes" in warnings(tmp_path)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_test1_next_to_train_is_a_split(tmp_path):
    """Kaggle's dogs and cats: the class stands in the names of files, and test1 and train would be two classes."""
    many(tmp_path, "train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg")
    assert "holds images but no tags" in refused(tmp_path)


def test_a_class_may_be_called_test1(tmp_path):
    assert data.load(many(tmp_path, "test1/1.jpg", "test2/2.jpg")).classes == ("test1", "test2")


def test_the_same_folders_in_each_class_may_be_the_classes(tmp_path):
    many(tmp_path, *(f"{fold}/{name}/{fold}{name}.jpg" for fold in ("fold1", "fold2") for name in ("cat", "dog")))
    assert "each of fold1, fold2 holds such folders: if the inner folders are the classes" in warnings(tmp_path)
    write(tmp_path / "classes.txt", "fold1\nfold2\n")
    assert "inner folders" not in warnings(tmp_path)


def test_one_split_inside_of_each_class(tmp_path):
    """Cityscapes without val: leftImg8bit and gtFine would be two classes."""
    many(tmp_path, "leftImg8bit/train/ulm/1.png", "gtFine/train/ulm/1.png")
    assert "hold one for each split (train)" in refused(tmp_path)


@pytest.mark.parametrize(("kind", "mode"), [("bmp", "L"), ("bmp", "P"), ("tif", "L"), ("tiff", "P"), ("png", "1")])
def test_masks_among_photos_in_other_formats(tmp_path, kind, mode):
    """KolektorSDD: kos01/Part0.jpg and kos01/Part0_label.bmp."""
    many(tmp_path, "kos01/Part0.jpg", "kos02/Part1.jpg")
    Image.new(mode, (5, 4)).save(tmp_path / f"kos01/Part0_label.{kind}")
    assert ids(data.load(tmp_path)) == ["kos01/Part0", "kos02/Part1"]


@pytest.mark.parametrize("kind", ["bmp", "tif", "png", "jpg"])
def test_colour_is_told_from_the_start_of_a_file(tmp_path, kind):
    for mode in ("RGB", "L"):
        Image.new(mode, (40, 30)).save(tmp_path / f"{mode}.{kind}")
    assert is_colour(tmp_path / f"RGB.{kind}") is True and is_colour(tmp_path / f"L.{kind}") is False


def test_folders_of_camvid(tmp_path):
    """train and trainannot, and no tags: trainannot would be a class."""
    for name in ("train/1.png", "val/2.png"):
        photo(tmp_path / name)
    for name in ("trainannot/1.png", "valannot/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert "holds images but no tags" in refused(tmp_path)


def test_classes_that_programs_write(tmp_path):
    many(tmp_path, "cat/1.jpg", "dog/2.jpg", "heatmaps/3.jpg", "predictions/4.jpg")
    assert "classes called heatmaps, predictions: that sounds like what a program wrote" in warnings(tmp_path)


@pytest.mark.parametrize("text", ["0 cat\n1 dog\n", "1: cat\n2: dog\n", "1\tcat\n2\tdog\n", "0,cat\n1,dog\n"])
def test_classes_may_be_numbered(tmp_path, text):
    assert read_classes(write(tmp_path / "classes.txt", text)) == (("cat", "dog"), ())


def test_names_that_start_with_numbers_stay(tmp_path):
    """CUB numbers its classes, and their names start with numbers, too; other names are only called so."""
    assert read_classes(write(tmp_path / "cub.txt", "1 001.Albatross\n2 002.Auk\n"))[0] == ("001.Albatross", "002.Auk")
    names = ("101 dalmatians", "7 dwarfs")
    assert read_classes(write(tmp_path / "classes.txt", "\n".join(names)))[0] == names
    assert read_classes(write(tmp_path / "values.txt", "cat 8\ndog 12\n")) == (("cat", "dog"), (8, 12))


def test_truth_in_another_order_than_the_classes(tmp_path):
    """Photos of both classes hide it: their masks show both values, whichever is which."""
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 90, 9)).save(photo(tmp_path / "images" / f"{number}.png"))
        mask = Image.new("L", (8, 8))
        values = {"disc": 1, "bar": 2}
        shown = ("disc", "bar", "disc;bar")[number % 3].split(";")
        for place, name in enumerate(shown):
            mask.putpixel((place, 3), values[name])
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{number}.png")
        with (tmp_path / "tags.csv").open("a") as file:
            file.write("image,tags\n" * (not number) + f"{number}.png,{';'.join(shown)}\n")
    said = "\n".join(str(f) for f in doctor.diagnose(tmp_path, DataSettings()) if f.level == "error")
    assert (
        "in 4 of 4 photos of one class the truth mask shows others only: its values are taken as bar=1, disc=2" in said
    )
    write(tmp_path / "classes.txt", "disc\nbar\n")
    assert "shows others only" not in "\n".join(map(str, doctor.diagnose(tmp_path, DataSettings())))


def two_classes_with_truth(root, folder="masks"):
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 90, 9)).save(photo(root / "images" / f"{number}.png"))
        mask = Image.new("L", (8, 8))
        mask.putpixel((2, 3), 1)
        (root / folder).mkdir(parents=True, exist_ok=True)
        mask.save(root / folder / f"{number}.png")
    write(root / "tags.csv", "image,tags\n" + "".join(f"{n}.png,{('bar', 'disc')[n % 2]}\n" for n in range(6)))
    return "\n".join(map(str, doctor.diagnose(root, DataSettings())))


def test_truth_with_one_value_for_all_classes(tmp_path):
    """Objects against background: no --truth-values can mend that."""
    said = two_classes_with_truth(tmp_path)
    assert "never show disc where the tags do: objects of every class have the value 1" in said


def test_masks_that_belong_to_no_photo_are_named_with_their_folder(tmp_path):
    assert "named like a photo: cat/0.png, cat/1.png" in two_classes_with_truth(tmp_path, "masks/cat")


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
