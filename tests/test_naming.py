"""Ids of photos: different within a split, whatever their files are called, and safe as names of files."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import ids, photo, refused, write
from tag2mask import data, naming
from tag2mask.data.ids import distinct_ids, sample_id, tidy
from tag2mask.errors import InputError, printable
from tag2mask.naming import LIMIT, levels, safe_name, spread_name

names = st.text(
    alphabet=st.sampled_from("ab./\\:%~ \x1b\n\0éß猫\u200b\u202e\udcff\ud800") | st.characters(exclude_categories=()),
    max_size=300,
)


@pytest.mark.parametrize("photos", [100_001, 128_001])
def test_no_folder_of_very_many_photos_holds_a_thousand(photos):
    """Below the limit names are plain; above it a name is found again from id and number of photos alone."""
    assert levels(100_000) == 0 and spread_name("a/b", 0) == "a/b"
    assert levels(10_000_000) == 2 and levels(10**9) == 3
    depth = levels(photos)
    inside = Counter(spread_name(f"{number:07d}", depth).rpartition("/")[0] for number in range(photos))
    assert max(inside.values()) < 1000 and len(inside) <= 256**depth
    assert all(len(folder.split("/")) == depth for folder in inside)


PLAIN = ["cat_01", "beach/7", "2007_000032", "COCO_train2014_000000000007", "猫/写真 1", "a.b.c", "12:30", "Straße/é"]


@pytest.mark.parametrize("id_", PLAIN)
def test_plain_ids_stay_as_they_are(id_):
    assert safe_name(id_) == id_


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        ("key.json/2", "key%2Ejson/2"),  # a folder called like a file of a run
        ("a.png/b", "a%2Epng/b"),  # or like the artefact of the photo `a`
        ("2024.05.01/b", "2024.05.01/b"),
        (".hidden", "%2Ehidden"),
        ("..", "%2E%2E"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("100%", "100%25"),
        ("a%20b", "a%2520b"),
        ("con", "%63on"),
        ("NUL.x/lpt1", "%4EUL%2Ex/%6Cpt1"),
        ("a\x1b[31m", "a%1B[31m"),
        ("a\nb", "a%0Ab"),
        ("bad\udcff", "bad%ED%B3%BF"),
        ("a ", "a%20"),
        ("", "%~cae66941d9efbd404e4d88758ea67670"),
    ],
)
def test_other_ids_are_written_out(id_, expected):
    assert safe_name(id_) == expected


@settings(max_examples=400, deadline=None)
@given(names)
def test_safe_names_can_be_written_and_read(id_):
    name = safe_name(id_)
    parts = name.split("/")
    assert len(parts) == id_.count("/") + 1
    for part in parts:
        assert 0 < len(part.encode()) <= LIMIT and part.isprintable()
        assert not part.startswith(".") and not part.endswith((" ", "."))
    if "%~" not in name:
        assert unquote(name, errors="surrogatepass") == id_


@settings(max_examples=400, deadline=None)
@given(names, names)
def test_no_two_ids_share_a_name(one, other):
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_names_as_long_as_can_be(tmp_path):
    one, other = "x" * 245, "x" * 244 + "y"
    assert safe_name(one) != safe_name(other)
    for id_ in (one, other, "ü" * 122, "猫" * 81):
        path = tmp_path / (safe_name(id_) + ".safetensors")
        path.write_bytes(b"1")
        assert path.read_bytes() == b"1"


def test_nothing_steers_a_terminal():
    said = str(InputError("tag 'a\x1b[2J\x07' \udcff\u202e of a\nb"))
    assert said == r"tag 'a\x1b[2J\x07' \udcff\u202e of a b" and said.isprintable()
    assert printable("Straße 猫") == "Straße 猫"


# -------------------------------------------------------------------------------------------------- from file names


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab./:\\", min_size=1, max_size=12))
def test_ids_stay_inside(name):
    id_ = sample_id(tidy(name))
    assert not id_.startswith(("/", "../")) and id_ != ".." and "/../" not in id_


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab./", min_size=1, max_size=8).map(tidy), min_size=1, max_size=12, unique=True))
def test_ids_of_named_photos_differ(many):
    many = [name for name in many if name not in (".", "..", "/", "//") and not name.startswith("//")]
    try:
        ids_of = distinct_ids(many, explicit=True, place="here")
    except InputError:  # `a` here and `/a` in the root: there is no folder more to tell them apart
        assert any(name.startswith("/") for name in many)
    else:
        assert len({ids_of(name) for name in many}) == len(many)


def test_photos_of_two_splits_may_share_an_id(tmp_path):
    photo(tmp_path / "0.jpg")
    photo(tmp_path / "0.png")
    write(tmp_path / "train.csv", "image,tags\n0.jpg,a\n")
    write(tmp_path / "val.csv", "image,tags\n0.png,a\n")
    (train,), (val,) = data.load(tmp_path).samples, data.load(tmp_path, split="val").samples
    assert train.id == val.id == "0" and train.key != val.key
    assert (train.image_path.name, val.image_path.name) == ("0.jpg", "0.png")


def test_one_photo_elsewhere_goes_by_its_name(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    photo(elsewhere / "x.jpg")
    write(tmp_path / "tags.csv", f"image,tags\n{elsewhere / 'x.jpg'},a\n")
    sample = data.load(tmp_path).samples[0]
    assert (sample.id, sample.image_path) == ("x", elsewhere / "x.jpg")


def test_photos_of_two_folders_elsewhere_are_told_apart(tmp_path, tmp_path_factory):
    disks = tmp_path_factory.mktemp("disks")
    for name in ("one/a/7.jpg", "two/a/7.jpg", "two/b/8.jpg"):
        photo(disks / name)
    write(tmp_path / "tags.csv", "image,tags\n" + "".join(f"{path},x\n" for path in sorted(disks.rglob("*.jpg"))))
    samples = data.load(tmp_path).samples
    assert [sample.id for sample in samples] == ["one/a/7", "two/a/7", "two/b/8"]
    assert all(sample.image_path.is_file() for sample in samples)
    assert [s.id for s in data.load_images([disks / "one", disks / "two"])] == ["one/a/7", "two/a/7", "two/b/8"]


def test_a_photo_elsewhere_and_one_inside_are_told_apart(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    photo(elsewhere / "7.jpg")
    photo(tmp_path / "7.jpg")
    write(tmp_path / "tags.csv", f"image,tags\n7.jpg,a\n{elsewhere / '7.jpg'},b\n")
    assert ids(data.load(tmp_path)) == ["7", f"{elsewhere.name}/7"]


def test_names_that_lead_outside_have_ids_inside(tmp_path):
    photo(tmp_path / "more" / "x.jpg")
    photo(tmp_path / "images" / "a.jpg")
    write(tmp_path / "tags.csv", "image,tags\n../more/x.jpg,a\nmore/../a.jpg,b\n")
    assert ids(data.load(tmp_path)) == ["x", "a"]


def test_names_that_differ_in_suffix_keep_it_where_both_were_asked_for(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        photo(tmp_path / name)
    write(tmp_path / "tags.csv", "image,tags\na.jpg,x\na.png,y\nb.jpg,x\n")
    assert ids(data.load(tmp_path)) == ["a.jpg", "a.png", "b"]
    with pytest.raises(InputError, match=r"a\.jpg and a\.png differ only in suffix"):  # one may be the other's mask
        data.load_images(tmp_path)


def test_a_photo_given_twice(tmp_path):
    photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="one name"):
        data.load_images([tmp_path / "a.jpg"] * 2)


def test_names_that_are_no_text_and_very_long_ones(tmp_path):
    folder = os.fsencode(tmp_path / "cat")
    os.mkdir(folder)  # noqa: PTH102 - bytes
    for name in (b"\xff\xfe.jpg", b"y" * 245 + b".jpg", b"a\x1b[31m.jpg"):
        with open(folder + b"/" + name, "wb"):  # noqa: PTH123 - bytes
            pass
    samples = data.load(tmp_path).samples
    assert len({safe_name(sample.id) for sample in samples}) == 3
    for sample in samples:
        out = tmp_path / "out" / (safe_name(sample.id) + ".png")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"mask")
        assert sample.image_path.is_file()
    assert len(list((tmp_path / "out" / "cat").iterdir())) == 3


def test_hostile_names_reach_no_message_raw(tmp_path):
    photo(tmp_path / "a.jpg")
    write(tmp_path / "tags.csv", "image,tags\na.jpg,x\n\x1b[31mgone\x07.jpg,x\n")
    assert r"\x1b[31mgone\x07.jpg" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 5000 + ".jpg", "y/" * 3000 + "z.jpg"])
def test_names_that_no_file_can_have(tmp_path, name):
    photo(tmp_path / "a.jpg")
    write(tmp_path / "tags.csv", f"image,tags\na.jpg,x\n{name},x\n")
    said = refused(tmp_path)
    assert "1 of 2 images" in said or "NUL" in said
    write(tmp_path / "JPEGImages" / "a.jpg")
    write(tmp_path / "ImageSets" / "Segmentation" / "train.txt", f"a\n{name}\n")
    assert "1 of 2 images" in refused(tmp_path)


def test_a_folder_to_leave_out(tmp_path):
    for name in ("a.jpg", "out/a.png", "deep/out/b.png"):
        photo(tmp_path / name)
    assert [s.id for s in data.load_images(tmp_path, skip=[tmp_path / "out"])] == ["a", "deep/out/b"]
    assert [s.id for s in data.load_images(tmp_path, skip=[tmp_path / "deep" / "out"])] == ["a", "out/a"]
    assert len(data.load_images(tmp_path / "deep", skip=[tmp_path, Path("elsewhere")])) == 1


def test_the_quick_way_of_plain_ids_is_the_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    parts = ("a", "B", "/", "con", "nul", "com1", "-", "_", ".", "lpt9", "7", "prnx", "\u00e4", "\u0661")
    ids = ["".join(draw.choice(parts) for _ in range(draw.randrange(6))) for _ in range(3000)] + ["a" * 229, "a" * 231]
    quick = [safe_name(id_) for id_ in ids]
    assert sum(map(naming._is_plain, ids)) > 300
    monkeypatch.setattr(naming, "_is_plain", lambda id_: False)
    assert [safe_name(id_) for id_ in ids] == quick
