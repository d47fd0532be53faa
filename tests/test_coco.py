"""COCO's layout and those of exports: one JSON for many photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import photo, refused, tags, write
from tag2mask import data
from tag2mask.data import DataSettings
from tag2mask.data.instances import entries

pytestmark = pytest.mark.usefixtures("nothing_is_opened")

INSTANCES = {
    "info": {"description": 'a "quoted ] }" text', "year": 2014},
    "categories": [  # ids with gaps and out of order, as 80 of 90 are
        {"id": 90, "name": "toothbrush"},
        {"id": 1, "name": "person"},
        {"id": 13, "name": "stop sign"},
    ],
    "images": [
        {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 3, "width": 4},
        {"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "height": 3, "width": 4},
        {"id": 6, "file_name": "COCO_train2014_000000000006.jpg", "height": 3, "width": 4},
    ],
    "licenses": [],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "segmentation": [[1, 2, 3]], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "segmentation": {"counts": [1], "size": [1, 1]}, "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 13, "segmentation": [], "iscrowd": 0},
        {"id": 4, "image_id": 5, "category_id": 13, "segmentation": [], "iscrowd": 0},
    ],
}


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    write(tmp_path / "annotations" / "instances_train2014.json", json.dumps(INSTANCES))
    for entry in INSTANCES["images"]:
        photo(tmp_path / "train2014" / entry["file_name"])
    return tmp_path


@pytest.mark.parametrize("indent", [None, 1])
def test_coco(instances, indent):
    write(instances / "annotations" / "instances_train2014.json", json.dumps(INSTANCES, indent=indent))
    dataset = data.load(instances)
    assert dataset.classes == ("person", "stop sign", "toothbrush") and dataset.truth_values == (1, 2, 3)
    assert [(sample.id, sample.labels) for sample in dataset.samples] == [
        ("COCO_train2014_000000000007", frozenset({0, 2})),
        ("COCO_train2014_000000000005", frozenset({1})),
        ("COCO_train2014_000000000006", frozenset()),  # without objects: it shows none of the classes
    ]
    assert dataset.samples[0].mask_path is None
    assert data.splits(instances) == ("train", "train2014")
    assert data.read(instances, DataSettings(negatives="drop"), "train2014").dropped == 1


def test_coco_truth_folder(instances):
    mask = write(instances / "rendered" / "COCO_train2014_000000000005.png")
    dataset = data.load(instances, DataSettings(truth=instances / "rendered"))
    assert [sample.mask_path for sample in dataset.samples] == [None, mask, None]


def test_coco_images_elsewhere_and_missing(instances):
    (instances / "train2014").rename(instances / "elsewhere")
    assert "train2014 is not there" in refused(instances)
    assert len(data.load(instances, DataSettings(images=instances / "elsewhere"))) == 3
    (instances / "elsewhere" / "COCO_train2014_000000000006.jpg").unlink()
    assert "1 of 3 images" in refused(instances, DataSettings(images=instances / "elsewhere"))
    assert "no split 'val' (it has: train, train2014)" in refused(instances, split="val")


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "wanted", "annotations"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
            max_leaves=12,
        ),
    ),
    st.sampled_from([None, 0, 2]),
)
def test_streamed_json_is_json(content, indent):
    text = json.dumps(content, indent=indent)
    expected = [
        (key, entry) for key, value in content.items() if key in ("wanted", "annotations") and isinstance(value, list)
        for entry in value
    ]  # fmt: skip
    assert list(entries(text, ("wanted", "annotations"))) == expected


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"images": [', '{"images": [{}]}', '{"images": [1 2]}', '{"images": []}', '{"categories": [3]}',
     json.dumps({**INSTANCES, "annotations": [{"image_id": 5, "category_id": 12}]}), json.dumps(INSTANCES)[:-30]],
)  # fmt: skip
def test_bad_coco(instances, text):
    write(instances / "annotations" / "instances_train2014.json", text)
    assert "instances_train2014.json" in refused(instances)


# ----------------------------------------------------------------------------------------- what exports get wrong


def content(**changes) -> dict:
    """Two photos, two classes."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}],
        **changes,
    }


def export(root: Path, split: str = "train", **changes) -> Path:
    for name in ("a.jpg", "b.jpg"):
        photo(root / split / name)
    write(root / "annotations" / f"instances_{split}.json", json.dumps(content(**changes)))
    return root


@pytest.mark.parametrize("ids_", [(1, "2"), ("1", 2), ("1", "2"), (1.0, 2)])
@pytest.mark.parametrize("named", [(1, "2"), ("1", 2), (1.0, "2")])
def test_ids_of_mixed_types_are_one(tmp_path, ids_, named):
    images = [{"id": id_, "file_name": f"{name}.jpg"} for id_, name in zip(ids_, "ab", strict=True)]
    categories = [{"id": id_, "name": name} for id_, name in zip(named, ("cat", "dog"), strict=True)]
    annotations = [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}]
    root = export(tmp_path, images=images, categories=categories, annotations=annotations)
    assert tags(data.load(root)) == {"a": {"cat"}, "b": {"dog"}} and data.load(root).classes == ("cat", "dog")


def test_ids_in_the_order_of_numbers(tmp_path):
    categories = [{"id": id_, "name": name} for id_, name in (("10", "ten"), (9, "nine"), ("x", "letter"))]
    root = export(tmp_path, categories=categories, annotations=[{"image_id": 1, "category_id": 9}])
    assert data.read(root).dataset.classes == ("nine", "ten", "letter")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": [{"id": 1, "name": None}]}, "a category is called None, which is no text in categories"),
        ({"categories": [{"id": 1, "name": ["cat"]}]}, "which is no text"),
        ({"categories": [{"id": None, "name": "cat"}]}, "an id is None"),
        ({"categories": [{"id": True, "name": "cat"}]}, "an id is True"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": "1", "name": "dog"}]}, "id 1 stands for cat and for dog"),
        ({"categories": [{"id": 1}]}, "no 'name' in categories"),
        ({"images": [{"id": 1, "file_name": None}]}, "a file_name is 'None', which names no file"),
        ({"images": [{"id": 1, "file_name": 7}]}, "a file_name is '7'"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "id 1 stands for a.jpg and"),
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, "no image_id is among the images"),
        ({"annotations": [{"image_id": 1, "category_id": 3}]}, "category_id 3 is not among the categories"),
        ({"annotations": [[1]]}, "in annotations"),
        ({"images": []}, "no images"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, changes, said):
    message = refused(export(tmp_path, **changes))
    assert said in message and "instances_train.json is not a COCO instances file" in message


def test_a_class_that_is_a_number(tmp_path):
    root = export(tmp_path, categories=[{"id": 1, "name": 7}, {"id": 2, "name": "dog"}])
    assert data.load(root).classes == ("7", "dog")


@pytest.mark.parametrize("name", ["background", "Background", "__background__", "_background_"])
def test_a_category_called_background(tmp_path, name):
    categories = [{"id": 0, "name": name}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    root = export(tmp_path, categories=categories)
    assert data.load(root).classes == ("cat", "dog")  # nothing shows it: exports list it
    annotations = [{"image_id": i, "category_id": c} for i, c in ((1, 1), (2, 0), (2, 2))]
    export(tmp_path, categories=categories, annotations=annotations)
    assert "category 0 of" in refused(root) and "background is no class" in refused(root)
    assert tags(data.load(root, DataSettings(classes=("cat", "dog")))) == {"a": {"cat"}, "b": {"dog"}}


def test_categories_of_one_name_are_one_class(tmp_path):
    root = export(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat "}])
    assert data.load(root).classes == ("cat",) and tags(data.load(root)) == {"a": {"cat"}, "b": {"cat"}}


def test_classes_have_the_same_numbers_in_every_split(tmp_path):
    export(tmp_path)
    export(tmp_path, "val", categories=[{"id": 5, "name": "dog"}], annotations=[{"image_id": 1, "category_id": 5}])
    train, val = data.load(tmp_path), data.load(tmp_path, split="val")
    assert train.classes == val.classes == ("cat", "dog") and tags(val) == {"a": {"dog"}, "b": set()}
    export(tmp_path, "test", categories=[{"id": 1, "name": "emu"}], annotations=[{"image_id": 1, "category_id": 1}])
    assert "unknown class 'emu'" in refused(tmp_path, split="test")


def test_annotations_of_photos_that_are_not_listed(tmp_path):
    annotations = [{"image_id": i, "category_id": c} for i, c in ((1, 1), (8, 1), (9, 2))]
    (finding,) = data.read(export(tmp_path, annotations=annotations)).findings
    assert finding.level == "warning" and "annotations of 2 photos that are not among its images" in str(finding)


def test_a_photo_listed_under_two_ids(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}]
    assert tags(data.load(export(tmp_path, images=images))) == {"a": {"cat", "dog"}, "b": set()}


@pytest.mark.parametrize("place", ["train", "images/train", "images", "photos", "elsewhere"])
def test_where_photos_lie_is_searched(tmp_path, place):
    export(tmp_path / "set")
    (tmp_path / "set" / "train").rename(tmp_path / "moved")
    (tmp_path / "set" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / "set" / place)
    if place == "elsewhere":
        assert f"the folder of images {tmp_path / 'set' / 'train'} is not there" in refused(tmp_path / "set")
    else:
        assert data.load(tmp_path / "set").samples[0].image_path == tmp_path / "set" / place / "a.jpg"


def test_other_json_is_not_coco(tmp_path):
    photo(tmp_path / "cat" / "1.jpg")
    photo(tmp_path / "dog" / "1.jpg")
    write(tmp_path / "annotations.json", '{"version": "4.5", "shapes": []}')
    write(tmp_path / "labels.json", "[1, 2]")
    assert data.open_data(tmp_path, DataSettings()).layout == "class-folders"
