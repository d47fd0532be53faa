"""Damaged files of data sets: whatever their bytes, they are read or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fuzz
from data_sets import photo, write
from tag2mask import data, doctor
from tag2mask.data import DataSettings
from tag2mask.data.annotations import read_annotation
from tag2mask.data.class_file import read_classes
from tag2mask.data.instances import read_instances
from tag2mask.data.label_file import read_label_file
from tag2mask.data.table import rows

NAMES = ("a.jpg", "far/b.png", "c.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        photo(tmp_path / "images" / name)
    return tmp_path


def load_all(root: Path, settings: DataSettings | None = None) -> None:
    """Read every split as a run does, and everything that is said of it before."""
    settings = settings or DataSettings()
    findings = doctor.survey(root, settings).findings
    assert all(str(finding).isprintable() for finding in findings)
    opened = data.open_data(root, settings)
    for split in opened.reader.splits():
        samples = data.read(opened, split=split).dataset.samples
        assert len({sample.key for sample in samples}) == len(samples)


TABLES = [
    b"image,tags,split,domain\na.jpg,cat;dog,train,\nfar/b.png,dog,val,web\nc.jpg,,train,\n",
    b"filename,cat,dog\na.jpg,1,0\nfar/b.png,0,1\nc.jpg,1,1\n",
    b"sep=;\nimage;tags\na.jpg;cat;dog\nc.jpg;dog\n",
    '\ufeffimage\ttags\na.jpg\t"cat"\nfar/b\tCat|dög\n'.encode(),
    "image,tags\na.jpg,cat\nc.jpg,dog\n".encode("utf-16"),
]


@fuzz.cases
def test_tables(root, count):
    outcome = fuzz.survives(lambda path: load_all(root), root / "tags.csv", fuzz.damaged(TABLES, count))
    assert outcome.read > count / 100 and outcome.refused > count / 4


@fuzz.cases
def test_rows_of_tables(tmp_path, count):
    contents = fuzz.damaged(TABLES, count, seed=1)
    outcome = fuzz.survives(lambda path: list(rows(path, "train")), tmp_path / "a.csv", contents)
    assert outcome.read > count / 20 and outcome.refused > count / 20


@fuzz.cases
def test_lists(tmp_path, count):
    for name in ("2007_000032", "2007_000039", "a b"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "Annotations" / f"{name}.xml", "<annotation><object><name>cat</name></object></annotation>")
    seeds = [b"2007_000032\n2007_000039 1\n", b"/JPEGImages/2007_000032.jpg /SegmentationClass/x.png\na b\n"]
    outcome = fuzz.survives(
        lambda path: load_all(tmp_path, DataSettings(classes=("cat",))),
        tmp_path / "ImageSets" / "Segmentation" / "train.txt",
        fuzz.damaged(seeds, count),
    )
    assert outcome.read > count / 100 and outcome.refused > count / 20


@fuzz.cases
def test_lists_of_numbers(tmp_path, count):
    for name in ("a", "b"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
    write(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "a\nb\n")
    chosen = DataSettings(tags=tmp_path / "list.txt", classes=("cat",))
    contents = fuzz.damaged([b"a 7 14 \nb 11\n", b"b\na 0\n"], count)
    outcome = fuzz.survives(lambda path: load_all(tmp_path, chosen), tmp_path / "list.txt", contents)
    assert outcome.read > count / 20 and outcome.refused > count / 20


@fuzz.cases
def test_annotations(tmp_path, count):
    seeds = [
        b"<annotation><filename>a.jpg</filename><object><name>cat</name><part><name>head</name></part></object></annotation>",
        '<?xml version="1.0" encoding="utf-16"?><annotation><object><name>ö</name></object></annotation>'.encode(
            "utf-16"
        ),
        b'<?xml version="1.0" encoding="iso-8859-1"?>\n<annotation>\n<object><name> cow </name></object></annotation>',
    ]
    tags_ = (b"<object>", b"</object>", b"<!DOCTYPE a>", b"<![CDATA[", b'encoding="x"', b"<name>", b"<a>" * 3000)
    tokens = (*fuzz.TOKENS, *tags_)
    outcome = fuzz.survives(read_annotation, tmp_path / "a.xml", fuzz.damaged(seeds, count, tokens))
    assert outcome.read > count / 100 and outcome.refused > count / 4


@fuzz.cases
def test_instances(tmp_path, count):
    content = {
        "info": {"year": 2014},
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": "2", "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2, "segmentation": [[1.5]]}],
        "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}],
    }
    seeds = [json.dumps(content).encode(), json.dumps(content, indent=1).encode(), json.dumps(content).encode("utf-16")]
    tokens = (*fuzz.TOKENS, b'"images":', b'"id": true,', b"1.5", b"[" * 3000, b'{"a":' * 2000, b"true", b"\\ud800")
    outcome = fuzz.survives(read_instances, tmp_path / "a.json", fuzz.damaged(seeds, count, tokens))
    assert outcome.read > count / 100 and outcome.refused > count / 4


@fuzz.cases
def test_exports_of_coco(tmp_path, count):
    photo(tmp_path / "train" / "a.jpg")
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "category_id": 1}],
               "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    seeds = [json.dumps(content).encode()]
    path = tmp_path / "train" / "_annotations.coco.json"
    fuzz.survives(lambda _: load_all(tmp_path), path, fuzz.damaged(seeds, count))


@fuzz.cases
def test_label_files(tmp_path, count):
    vectors = {2007000032: np.zeros(20, np.float32), "a": np.ones(20, np.float32), np.int32(2007000039): np.ones(20)}
    seeds = []
    for content in (vectors, {1: np.ones(3)}, {"b": [1.0, 0.0]}):
        np.save(tmp_path / "seed.npy", np.array(content), allow_pickle=True)
        seeds.append((tmp_path / "seed.npy").read_bytes())
    codes = (b"R", b"(", b"\x85", b"\x86", b"q\x01", b"h\x01", b"cos\nsystem\n", b"]", b"}", b"u", b"b", b".")
    tokens = (*fuzz.TOKENS[:12], *codes)
    outcome = fuzz.survives(read_label_file, tmp_path / "a.npy", fuzz.damaged(seeds, count, tokens))
    assert outcome.refused > count / 4


@fuzz.cases
def test_files_of_classes(tmp_path, count):
    seeds = [b"cat\ndog\n", b"cat 8\ndog = 12\n", b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\n"]
    outcome = fuzz.survives(read_classes, tmp_path / "classes.txt", fuzz.damaged(seeds, count))
    assert outcome.read > count / 20 and outcome.refused > count / 20


@fuzz.cases
def test_yolo(tmp_path, count):
    for name in ("images/train/a.jpg", "images/val/b.jpg"):
        photo(tmp_path / name)
    write(tmp_path / "labels" / "val" / "b.txt", "0 0.1 0.2 0.3 0.4\n")
    label = write(tmp_path / "labels" / "train" / "a.txt", "0 0.1 0.2 0.3 0.4\n")
    names = b"path: x\nnames:\n  0: cat\n  1: dog\n"
    write(tmp_path / "data.yaml", names.decode())
    chosen = DataSettings(layout="yolo")
    fuzz.survives(lambda _: load_all(tmp_path, chosen), label, fuzz.damaged([b"0 0.1 0.2 0.3 0.4\n1 0 0 1 1\n"], count))
    label.write_text("0 0.1 0.2 0.3 0.4\n")
    tokens = (*fuzz.TOKENS, b"&a", b"*a", b"!!python/object:os.system", b"<<: ", b"- ", b"? ")
    fuzz.survives(lambda _: load_all(tmp_path, chosen), tmp_path / "data.yaml", fuzz.damaged([names], count, tokens))
