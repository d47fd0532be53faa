"""Photos to predict: of folders, lists and files; what is left out is said, and tags name photos in any spelling."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_sets import write
from tag2mask import data
from tag2mask.data.new_photos import tag_photos
from tag2mask.errors import InputError


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path)


def mask(path: Path, mode: str = "P") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:20, 9:30] = 1
    Image.fromarray(pixels, "P" if mode == "P" else "L").convert(mode).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "Sub/c.png"):
        photo(tmp_path / "new" / name)
    return tmp_path / "new"


def ids(*places: Path) -> list[str]:
    return [sample.id for sample in data.load_images(places if len(places) > 1 else places[0])]


LISTS = {
    "names": ("list.txt", "a.jpg\nSub/c.png\n"),
    "other spellings, twice": ("list.txt", "./A.JPG\nsub\\C.PNG\n\na.jpg\n"),
    "a table": ("list.csv", "file_name,width,height\na.jpg,60,40\nSub/c.png,60,40\n"),
    "a table of tags": ("list.tsv", "image\ttags\na.jpg\tdisc;bar\nSub/c.png\t\n"),
}


@pytest.mark.parametrize("how", LISTS)
def test_lists_of_photos(how: str, photos: Path) -> None:
    name, text = LISTS[how]
    found = data.load_images(write(photos / name, text))
    assert [sample.image_path for sample in found] == [photos / "a.jpg", photos / "Sub" / "c.png"]
    assert [sample.id for sample in found] == ["a", "Sub/c"]


def test_a_list_of_photos_elsewhere(photos: Path, tmp_path: Path) -> None:
    places = write(tmp_path / "list.txt", f"{photos}/a.jpg\nnew/b.jpg\n")
    assert ids(places) == ["a", "b"]
    assert ids(places, photos / "Sub") == ["a", "b", "Sub/c"]


BAD_LISTS = {
    "photos that are not there": ("a.jpg\n7.jpg\nb.png\n", "2 of 3 images named in .*: 7.jpg, b.png"),
    "nothing": ("\n \n", "no images in"),
    "an address": ("https://example.com/a.jpg\n", "1 of 1 image named in .* a.jpg is there"),
}


@pytest.mark.parametrize("how", BAD_LISTS)
def test_lists_that_name_no_photos(how: str, photos: Path) -> None:
    text, message = BAD_LISTS[how]
    with pytest.raises(InputError, match=message):
        data.load_images(write(photos / "list.txt", text))


def test_masks_of_photos_are_no_photos(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Next to them or in a folder of masks, with colours or without; but what has a photo's colours is one."""
    mask(photos / "a_mask.png")
    mask(photos / "b.png", "RGB")
    mask(photos / "Sub" / "masks" / "c.png", "L")
    photo(photos / "masks" / "a.png")
    with caplog.at_level(logging.INFO, "tag2mask"):
        assert ids(photos) == ["Sub/c", "a", "b", "masks/a"]
    assert "3 files in" in caplog.text and "named like masks of photos left out" in caplog.text


def test_a_data_set_with_its_masks(tmp_path: Path) -> None:
    """Its masks are not predicted on."""
    photo(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a.png")
    assert ids(tmp_path) == ["images/a"]


def test_what_is_no_photo_is_said(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "d.heic").write_bytes(b"x")
    (photos / "e.png").symlink_to(photos / "nowhere.png")
    with caplog.at_level(logging.INFO, "tag2mask"):
        assert ids(photos) == ["Sub/c", "a", "b"]
    assert "1 file .heic" in caplog.text and "lead to no file: e.png" in caplog.text


@pytest.mark.parametrize(
    "name", ["A.JPG", "./a.jpg", "new/a.jpg", "a", '"a.jpg"', " a.jpg ", "new\\a.jpg", "{photos}/a.jpg"]
)
def test_tables_name_photos_in_any_spelling(name: str, photos: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "tags.csv", f"image,tags\n{name.format(photos=photos)},disc\n")
    found = {sample.id: sample.labels for sample in tag_photos(data.load_images(photos), table, ("disc", "bar"))}
    assert found == {"a": {0}, "b": None, "Sub/c": None}


BAD_TAGS = {
    "c.png,disc": "Sub/c.png is there: write names as they stand in the folder that holds them",
    "b.png,disc": "b.jpg is there",
    "a.jpg,background": "background is no class",
    "a.jpg,nan": "how programs write an empty cell",
    'a.jpg,"disc,bar"': "has a comma in it: separate tags by ;",
    "a.jpg,[disc]": "a program's notation",
    "a.jpg,disc:0": "a program's notation",
}


@pytest.mark.parametrize("line", BAD_TAGS)
@pytest.mark.parametrize("selected", [False, True])
def test_tags_that_are_none(line: str, selected: bool, photos: Path, tmp_path: Path) -> None:
    """Also where tags that are none of the run's classes are passed over."""
    table = write(tmp_path / "tags.csv", f"image,tags\n{line}\n")
    with pytest.raises(InputError) as refused:
        tag_photos(data.load_images(photos), table, ("disc", "bar"), selected=selected)
    assert BAD_TAGS[line] in str(refused.value)
