"""Public data sets: fetched once, arranged, checked; no connection is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_sets import ids, photo, write
from tag2mask import data
from tag2mask.data import download
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.errors import InputError
from test_coco import INSTANCES


def fake_pets(root: Path) -> Path:
    base = root / "oxford-iiit-pet"
    write(base / "annotations" / "trainval.txt", "american_bulldog_9 2 2 1\nAbyssinian_1 1 1 1\n")
    write(base / "annotations" / "test.txt", "Abyssinian_2 1 1 1\n")
    trimap = np.array([[2, 2, 3, 1, 1], [2, 3, 1, 1, 1], [2, 2, 3, 3, 1]], np.uint8)
    for id_ in ("american_bulldog_9", "Abyssinian_1", "Abyssinian_2"):
        (base / "images").mkdir(exist_ok=True)
        (base / "annotations" / "trimaps").mkdir(exist_ok=True)
        Image.new("RGB", (5, 3)).save(base / "images" / f"{id_}.jpg")
        Image.fromarray(trimap).save(base / "annotations" / "trimaps" / f"{id_}.png")
    return base


def test_pets(tmp_path, monkeypatch):
    import torchvision.datasets

    fetched = []
    monkeypatch.setattr(torchvision.datasets, "OxfordIIITPet", lambda to, download: fetched.append(fake_pets(Path(to))))
    Image.new("RGB", (4, 3)).save(write(tmp_path / "broken.png"))
    root = download.download("pets", tmp_path)
    dataset = data.load(root)
    assert dataset.classes == ("Abyssinian", "american_bulldog")
    assert [(sample.id, sample.labels) for sample in dataset.samples] == [
        ("american_bulldog_9", frozenset({1})),
        ("Abyssinian_1", frozenset({0})),
    ]
    mask = dataset.samples[0].mask_path
    assert mask is not None
    expected = [[0, 0, 255, 2, 2], [0, 255, 2, 2, 2], [0, 0, 255, 255, 2]]
    assert read_index_mask(mask).tolist() == expected
    assert ids(data.load(root, split="val")) == ["Abyssinian_2"]
    assert download.download("pets", tmp_path) == root and len(fetched) == 1  # once


def test_a_pet_whose_trimap_does_not_fit_has_no_truth(tmp_path, monkeypatch):
    root = fake_pets(tmp_path)
    write_index_mask(root / "annotations" / "trimaps" / "Abyssinian_1.png", np.ones((5, 3), np.uint8))
    download.arrange_pets(root)
    assert [sample.mask_path is None for sample in data.load(root).samples] == [False, True]


def test_no_connection(tmp_path, monkeypatch):
    import torchvision.datasets

    def offline(*_, **__):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    for name, dataset in [("pets", "OxfordIIITPet"), ("voc2012", "VOCSegmentation")]:
        monkeypatch.setattr(torchvision.datasets, dataset, offline)
        with pytest.raises(InputError, match=f"{name} could not be downloaded.*Name or service.*check the connection"):
            download.download(name, tmp_path)


def test_coco_is_checked(tmp_path):
    instances = tmp_path
    write(instances / "annotations" / "instances_train2014.json", json.dumps(INSTANCES))
    for entry in INSTANCES["images"]:
        photo(instances / "train2014" / entry["file_name"])
    with pytest.raises(InputError) as error:
        download.download("coco2014", instances)
    assert "val2014.zip" in str(error.value) and "train2014.zip" not in str(error.value)
    write(instances / "annotations" / "instances_val2014.json", json.dumps(INSTANCES))
    (instances / "val2014").mkdir()
    assert download.download("coco2014", instances) == instances
    with pytest.raises(InputError, match="did you mean coco2014"):
        download.download("coco", instances)
