"""COCO's layout and those of exports: one JSON for many photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import photo, refused, write
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
