"""Truth masks that a data set has and that fit: what the doctor says of the rest, function by function."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_sets import write
from tag2mask import data
from tag2mask.data.images import index_mask_size
from tag2mask.doctor.tags import _words
from tag2mask.doctor.truth import examine_truth, examine_truth_files
from tag2mask.errors import UnreadableImage
from tag2mask.types import PhotoFacts


def small(root, mask=None, orientation=None):
    """One photo of 12 x 8 pixels, and its mask."""
    (root / "images").mkdir()
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new("RGB", (12, 8), "red").save(root / "images/7.jpg", exif=exif)
    if mask is not None:
        (root / "masks").mkdir()
        Image.fromarray(mask).save(root / "masks/7.png")
    write(root / "tags.csv", "image,tags\n7.jpg,cat\n")
    return root


def values(root):
    dataset = data.load(root)
    sizes = {sample.key: PhotoFacts(8, 12, "") for sample in dataset.samples}
    return [str(f) for f in examine_truth("train", dataset, frozenset({1}), sizes) if f.level != "info"]


def files(root, **settings):
    chosen = data.DataSettings(**settings)
    found = examine_truth_files({"train": data.load(root, chosen)}, chosen, all_splits=True)
    return [(finding.level, str(finding)) for finding in found]


MASK = np.eye(8, 12, dtype=np.uint8)


def test_a_healthy_mask(tmp_path):
    assert values(small(tmp_path, MASK)) == [] and files(tmp_path) == []


def test_masks_of_photos_that_are_turned(tmp_path):
    """Half a turn leaves the size: nothing but the mark tells that a mask may be drawn on the stored pixels."""
    (line,) = values(small(tmp_path, MASK, orientation=3))
    assert "1 of 1 photo with truth looked at turned by their EXIF mark: 7" in line and "upright" in line


def test_masks_without_background(tmp_path):
    (line,) = values(small(tmp_path, np.where(MASK, 255, 1).astype(np.uint8)))
    assert "no pixel of background (0)" in line


@pytest.mark.parametrize("name", ["7.npy", "7.mat", "7.nii.gz"])
def test_masks_in_files_that_are_no_images(tmp_path, name):
    write(small(tmp_path) / "masks" / name, "x")
    ((level, line),) = files(tmp_path)
    assert level == "warning" and "not read" in line and "save them as PNG" in line
    assert "error" in dict(files(tmp_path, truth=tmp_path / "masks"))


def test_tables_in_folders_of_masks_are_not_spoken_of(tmp_path):
    for name in ("labels/7.txt", "annotations/7.xml", "masks/readme.md"):
        write(tmp_path / name, "x")
    assert files(small(tmp_path)) == []


def test_masks_in_webp_and_floats(tmp_path):
    small(tmp_path)
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.dstack([MASK] * 3)).save(tmp_path / "masks/7.webp", lossless=True)
    assert "7.webp is a colour image" in values(tmp_path)[0]
    Image.fromarray(MASK.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="an image of floats: save it as a grey or palette PNG"):
        index_mask_size(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["disc", "no disc"], "'no disc' sounds as if its photos showed none"),
        (["masks", "no_masks"], "'no_masks' sounds"),
        (["disc", "!disc"], "'!disc' sounds"),
        (["yes", "no"], "'no' sounds"),
        (["disc", "unknown"], "'unknown' sounds as if nobody knew"),
        (["disc", "disc & bar"], "'disc & bar' looks like several tags, 'disc' among them"),
    ],
)
def test_classes_that_sound_like_none(names, words):
    assert any(words in str(finding) for finding in _words(dict.fromkeys(names, 5)))


@pytest.mark.parametrize(
    "names", [["disc", "bar"], ["salt & pepper", "sugar"], ["notebook", "book"], ["house cat", "cat"]]
)
def test_classes_that_do_not(names):
    assert list(_words(dict.fromkeys(names, 5))) == []
