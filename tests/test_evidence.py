"""What tables and folders say that is easily passed over: read rightly, or said in a warning.

Each input is a form that a public data set or another program writes; read without a second look, it gives wrong tags
without a word.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from data_sets import ids, photo, refused, tags, write
from tag2mask import data, doctor
from tag2mask.data import DataSettings
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
