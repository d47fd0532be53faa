"""CSV files of tags as spreadsheets, programs and people write them: read, or explained rightly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_sets import ids, photo, refused, tags, write
from tag2mask import data
from tag2mask.data import DataSettings
from tag2mask.data.class_file import read_classes
from tag2mask.data.table import form_of

pytestmark = pytest.mark.usefixtures("nothing_is_opened")

SHOWN = {"a": {"cat", "dog"}, "b": {"dog"}, "c": set()}


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(tmp_path / "images" / name)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "image,tags\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n",
        "image,tags\na.jpg,cat|dog\nb.jpg,dog\nc.jpg,\n",
        "\ufeffImage ; Tags\na.jpg;cat|dog\nb.jpg;dog\nc.jpg;\n",
        "image;tags\na.jpg;cat;dog\nb.jpg;dog\nc.jpg;\n",  # tags separated as the columns are
        "image;tags\na;cat;dog\nb;dog\nc;\n",
        "image;tags\r\na.jpg;cat;dog;;\r\nb.jpg;dog;;;\r\nc.jpg;;;;\r\n",  # a spreadsheet's
        "image|tags\na.jpg|cat|dog\nb.jpg|dog\nc.jpg|\n",
        "image\ttags\na.jpg\tcat;dog\nb.jpg\tdog\nc.jpg\t\n",
        "sep=;\nimage;tags\na.jpg;cat;dog\nb.jpg;dog\nc.jpg;\n",
        '"sep=,"\nimage,tags\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n',
        "filename,cat,dog\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n",  # a column a class
        "filename,dog,cat\na.jpg,1.0,True\nb.jpg,1,\nc.jpg,0,False\n",
        ",image_id,cat,dog\n0,a,1,1\n1,b,0,1\n2,c,0,0\n",  # pandas with its index
        "Unnamed: 0,path,cat,dog\n0,images/a.jpg,1,1\n1,images/b.jpg,0,1\n2,images/c.jpg,0,0\n",
        "file_name,labels,width\na.jpg,cat;dog,3\nb.jpg,dog,3\nc.jpg,,3\n",
        "image,tags\ra.jpg,cat;dog\rb.jpg,dog\rc.jpg,\r",  # line ends of an old Macintosh
        'image,tags\n"a.jpg","cat; dog ;; cat"\n\n b.jpg , dog \nc.jpg\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_forms(photos, text, encoding):
    if encoding != "utf-8":
        text = text.lstrip("\ufeff")
    (photos / "tags.csv").write_bytes(text.encode(encoding))
    dataset = data.load(photos)
    assert sorted(dataset.classes) == ["cat", "dog"] and tags(dataset) == SHOWN


def test_a_line_for_each_tag(photos):
    lines = ("image,tag,split", "a.jpg,cat,train", "b.jpg,dog,train", "a.jpg,dog,train", "a.jpg,cat,train", "c.jpg,,")
    write(photos / "tags.csv", "\n".join(lines))
    assert tags(data.load(photos)) == SHOWN
    (finding,) = data.read(photos, DataSettings(), "train").findings
    assert finding.level == "note" and "1 photo on several lines" in finding.message


def test_cells_beyond_the_last_column(photos):
    write(photos / "tags.csv", "image,tags\na.jpg,cat,dog\n")
    said = refused(photos)
    assert "line 2 has 3 cells where the first line has 2" in said and "separate tags by ;" in said
    write(photos / "tags.csv", "image,tags\na.jpg,cat,,\nb.jpg,dog,\n")
    assert tags(data.load(photos)) == {"a": {"cat"}, "b": {"dog"}}  # empty ones, as spreadsheets add
    write(photos / "tags.csv", "image;tags;split\na.jpg;cat;dog;train\n")
    assert "line 2 has 4 cells" in refused(photos)  # the tags are not last: nobody knows which cell is what


def test_a_column_a_class_with_other_numbers(photos):
    write(photos / "tags.csv", "filename,cat,width\na.jpg,1,640\n")
    said = refused(photos)
    assert "line 2" in said and "column 'width' has '640'" in said and "1 where the photo shows it and 0" in said
    write(photos / "tags.csv", "filename,cat,dog\na.jpg,1,-1\n")
    assert "column 'dog' has '-1'" in refused(photos)


def test_not_text(photos):
    (photos / "tags.csv").write_bytes(b"image,tags\na.jpg,\xe4\n")
    assert "not UTF-8" in refused(photos)
    (photos / "tags.csv").write_bytes("image,tags\na.jpg,cat\n".encode("utf-16")[:-1])
    assert "not UTF-8 text" in refused(photos)
    (photos / "tags.csv").write_bytes(b"PK\3\4 a spreadsheet under another name")
    assert "tags.csv is a spreadsheet or an archive: save it as CSV UTF-8" in refused(photos)
    (photos / "tags.csv").rename(photos / "tags.xlsx")
    assert "tags.xlsx is a spreadsheet: if it holds the tags, save it as CSV UTF-8" in refused(photos)
    (photos / "tags.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    assert "tags.csv" in refused(photos)


def test_tables_that_are_no_files(photos):
    os.mkfifo(photos / "pipe.csv")
    (photos / "gone.csv").symlink_to(photos / "nowhere.csv")
    (photos / "folder.csv").mkdir()
    with (photos / "huge.csv").open("wb") as file:
        file.truncate(20 << 30)
    for path, said in (
        (photos / "pipe.csv", "is a device or a pipe, not a file"),
        (Path("/dev/zero"), "is a device or a pipe, not a file"),
        (photos / "gone.csv", "is not there"),
        (photos / "folder.csv", "is a folder"),
        (photos / "huge.csv", "has 21475 MB, more than the 4295 MB that are read"),
    ):
        assert said in refused(photos, DataSettings(tags=path))
    (photos / "huge.csv").unlink()
    write(photos / "tags.csv", "image,tags\na.jpg,cat\nb.jpg,dog\n")  # what is no file is no table beside it
    assert tags(data.load(photos)) == {"a": {"cat"}, "b": {"dog"}}


def test_photos_that_are_no_files(photos):
    os.mkfifo(photos / "images" / "pipe.jpg")
    (photos / "images" / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "images" / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "gone.jpg", "folder.jpg", "/dev/zero", "/etc", "images"):
        write(photos / "tags.csv", f"image,tags\na.jpg,cat\n{name},dog\n")
        said = refused(photos)
        assert "1 of 2 images" in said and name in said


def test_endless_lines(photos):
    (photos / "tags.csv").write_text("image,tags\n" + "a" * (2 << 20))
    assert "line 1 has more than" in refused(photos)
    (photos / "tags.csv").write_text("a" * (2 << 20))
    assert "line 1 has more than" in refused(photos)


def test_a_quote_that_never_ends(photos):
    (photos / "tags.csv").write_text('image,tags\n"a.jpg,cat\n' + "b.jpg,dog\n" * 50_000)
    assert "tags.csv line 2" in refused(photos) or "field" in refused(photos)


def test_splits_by_their_usual_names(photos):
    write(photos / "tags.csv", "image,tags,split\na.jpg,cat;dog,Training\nb.jpg,dog, VALID \nc.jpg,,testing\n")
    assert data.splits(photos) == ("train", "val", "test")
    assert tags(data.load(photos, split="val")) == {"b": {"dog"}} == tags(data.load(photos, split="validation"))
    assert data.load(photos).samples[0].split == "train"


def test_one_table_called_otherwise_is_for_training(photos):
    write(photos / "labels.csv", "image,tags\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n")
    assert tags(data.load(photos)) == SHOWN and data.splits(photos) == ("train",)


def test_tables_that_are_none_are_passed_over(photos):
    write(photos / "train.csv", "image,tags\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n")
    write(photos / "exif.csv", "camera,lens\nx,y\n")
    assert tags(data.load(photos)) == SHOWN and data.splits(photos) == ("train",)


def test_tables_in_the_folders_of_splits(tmp_path):
    for name in ("train/a.jpg", "train/b.jpg", "valid/a.jpg"):
        photo(tmp_path / name)
    write(tmp_path / "train" / "_classes.csv", "filename, cat, dog\na.jpg, 1, 1\nb.jpg, 0, 1\n")
    write(tmp_path / "valid" / "_classes.csv", "filename, cat, dog\na.jpg, 1, 0\n")
    assert data.splits(tmp_path) == ("train", "val")
    assert tags(data.load(tmp_path)) == {"train/a": {"cat", "dog"}, "train/b": {"dog"}}
    assert tags(data.load(tmp_path, split="val")) == {"valid/a": {"cat"}}


def test_the_image_column_by_rank(photos):
    write(photos / "tags.csv", "id,image,tags\n1,a.jpg,cat\n")
    form = form_of(photos / "tags.csv")
    assert form.at == {"image": 1, "tags": 2} and form.one_hot == ()


def test_photos_that_no_line_names_are_counted(photos):
    write(photos / "tags.csv", "image,tags\na.jpg,cat\n")
    photo(photos / "images" / "d.heic")
    photo(photos / "images" / "e.jfif")
    found = [str(finding) for finding in data.open_data(photos, DataSettings()).reader.left_out()]
    assert any("3 photos in" in line and "b.jpg, c.jpg, e.jfif" in line and "not used" in line for line in found)
    assert any("1 file .heic" in line and "d.heic" in line for line in found)


def many(root, *names):
    for name in names:
        photo(root / name)


@pytest.mark.parametrize("base", ["", "images/"])
def test_splits_are_those_of_the_photos_folders(tmp_path, base):
    """Hugging Face's metadata.csv: train on test/, and the figures mean nothing."""
    names = ("train/1.jpg", "train/2.jpg", "test/3.jpg")
    many(tmp_path, *(base + name for name in names))
    rows_ = "".join(f"{base}{name},cat\n" for name in names)
    write(tmp_path / "metadata.csv", f"file_name,label\n{rows_}")
    assert ids(data.load(tmp_path)) == ["train/1", "train/2"] and data.splits(tmp_path) == ("train", "test")
    notes = [str(finding) for finding in data.open_data(tmp_path, data.DataSettings()).reader.left_out()]
    assert any("no column split: photos are of the splits whose folders they are in (train, test)" in n for n in notes)


@pytest.mark.parametrize(
    "table",
    ["image,tags\ntrain/1.jpg,cat\n3.jpg,cat\n", "image,tags,split\ntrain/1.jpg,cat,train\ntest/2.jpg,cat,train\n"],
)
def test_splits_that_folders_do_not_say(tmp_path, table):
    """Some photos lie elsewhere, or the table says it itself."""
    many(tmp_path, "train/1.jpg", "test/2.jpg", "3.jpg")
    write(tmp_path / "tags.csv", table)
    assert data.splits(tmp_path) == ("train",) and len(data.load(tmp_path)) == 2


@pytest.mark.parametrize("text", ["cat,dog", "cat; dog;", "cat,\ndog,\n", "- cat\n- dog\n", "# mine\ncat , dog\n"])
def test_classes_in_a_list(photos, text):
    write(photos / "classes.txt", text)
    assert read_classes(photos / "classes.txt")[0] == ("cat", "dog")


def test_a_class_with_a_comma_among_others(photos):
    write(photos / "classes.txt", "bowl, large\nbowl, small\n")
    assert read_classes(photos / "classes.txt")[0] == ("bowl, large", "bowl, small")
    write(photos / "classes.txt", "cat:128,0,0::\n")  # CVAT's, with its colour
    assert read_classes(photos / "classes.txt")[0] == ("cat",)
