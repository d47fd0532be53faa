"""The VOC layout, with VOC's classes and with one's own; tags from XML, lists, CSV and cls_labels.npy."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import ids, photo, refused, write
from tag2mask import data
from tag2mask.data import DataSettings, voc
from tag2mask.data.voc_tags import read_tags
from tag2mask.errors import InputError

pytestmark = pytest.mark.usefixtures("nothing_is_opened")

CAT, DOG, PERSON = voc.CLASSES.index("cat"), voc.CLASSES.index("dog"), voc.CLASSES.index("person")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    for id_ in ("2007_000032", "2007_000039", "2007_000063", "2008_000002"):
        photo(root / "JPEGImages" / f"{id_}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "2007_000032\n")
    write(lists / "train_aug.txt", "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n2007_000039 \n")
    write(lists / "val.txt", "/JPEGImages/2007_000063.jpg\n\n2008_000002\n")
    return root


TEXT = "2007_000032 7 14 \n2007_000039 11\n2007_000063 7\n"  # the published lists have such trailing spaces


def test_voc_lists_of_both_styles(devkit):
    chosen = DataSettings(tags=write(devkit / "list.txt", TEXT), classes=("cat", "dog", "person"))
    assert data.splits(devkit) == ("train", "train_aug", "val")
    train = data.load(devkit, chosen)
    assert ids(train) == ["2007_000032", "2007_000039"]
    assert [sample.labels for sample in train.samples] == [frozenset({0, 2}), frozenset({1})]
    assert train.truth_values == (CAT + 1, DOG + 1, PERSON + 1) == (8, 12, 15)
    assert train.samples[0].image_path == devkit / "JPEGImages" / "2007_000032.jpg"
    assert ids(data.read(devkit, chosen, "train.txt").dataset) == ["2007_000032"]
    val = data.load(devkit, chosen, "val")
    assert [sample.labels for sample in val.samples] == [frozenset({0}), None]
    assert "no split 'test' (it has: train, train_aug, val)" in refused(devkit, chosen, "test")


def test_voc_truth_and_saliency(devkit):
    chosen = DataSettings(tags=write(devkit / "list.txt", TEXT), classes=("cat", "dog"))
    write(devkit / "SegmentationClass" / "2007_000032.png")
    write(devkit / "SegmentationClass" / "2007_000039.png")
    write(devkit / "SegmentationClassAug" / "2007_000039.png")
    write(devkit / "SALImages" / "2007_000039.png")
    first, second = data.load(devkit, chosen).samples
    assert first.mask_path == devkit / "SegmentationClass" / "2007_000032.png"
    assert second.mask_path == devkit / "SegmentationClassAug" / "2007_000039.png"
    assert first.saliency_path is None and second.saliency_path == devkit / "SALImages" / "2007_000039.png"


def annotation(*names: str) -> str:
    objects = "".join(
        f"<object><name>{name}</name><part><name>head</name></part><bndbox><xmin>1</xmin></bndbox></object>"
        for name in names
    )
    return f"<annotation><filename>a.jpg</filename>{objects}</annotation>"


def test_voc_annotations(devkit):
    write(devkit / "Annotations" / "2007_000032.xml", annotation("person", "cat", "cat"))
    write(devkit / "Annotations" / "2007_000039.xml", annotation("dog"))
    train = data.load(devkit, DataSettings(classes=("cat", "dog", "person")))
    assert [sample.labels for sample in train.samples] == [frozenset({0, 2}), frozenset({1})]
    write(devkit / "Annotations" / "2007_000039.xml", annotation("dgo"))
    said = refused(devkit)
    assert "2007_000039.xml" in said and "did you mean dog" in said
    write(devkit / "Annotations" / "2007_000039.xml", "<annotation><object>")
    assert "not valid XML" in refused(devkit)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_entities_are_refused(devkit, encoding):
    laughs = '<!DOCTYPE a [<!ENTITY x "dog">]><annotation><object><name>&x;</name></object></annotation>'
    write(devkit / "Annotations" / "2007_000032.xml", "").write_bytes(laughs.encode(encoding))
    assert "declares a document type" in refused(devkit)


def test_voc_tags_from_csv_come_first(devkit):
    write(devkit / "tags.csv", "image,tags\nJPEGImages/2007_000032.jpg,cat;person\n2007_000039.jpg,dog\n")
    write(devkit / "ImageSets" / "Segmentation" / "train_aug_cls.txt", "2007_000032 0\n2007_000039 0\n")
    classes = ("cat", "dog", "person")
    assert data.load(devkit, DataSettings(classes=classes)).samples[0].labels == frozenset({0, 2})
    (devkit / "tags.csv").unlink()
    assert data.load(devkit, DataSettings(classes=("aeroplane",))).samples[1].labels == frozenset({0})


def test_bad_voc(devkit):
    assert "has no tags" in refused(devkit)
    for text, expected in [
        ("2007_000032 7 20\n", "line 1: '20' is not a class number from 0 to 19"),
        ("2007_000032 cat\n", "line 1: 'cat' is not a class number"),
        ("2007_000032 1\n2007_000032 2\n", "on lines 1 and 2"),
    ]:
        assert expected in refused(devkit, DataSettings(tags=write(devkit / "list.txt", text)))
    write(devkit / "list.txt", TEXT)
    write(devkit / "ImageSets" / "Segmentation" / "val.txt", "2007_000032\n/JPEGImages/2007_000032.jpg\n")
    assert "on lines 1 and 2" in refused(devkit, DataSettings(tags=devkit / "list.txt"), "val")
    write(devkit / "ImageSets" / "Segmentation" / "val.txt", "2007_000032\n2009_000001\n")
    said = refused(devkit, DataSettings(tags=devkit / "list.txt"), "val")
    assert "1 of 2 images" in said and "2009_000001" in said
    assert f"did you mean {devkit}?" in refused(devkit.parent)


def labels_in(path: Path):
    return read_tags(path, path.parent, DataSettings()).labels


def label_file(path: Path, keys, protocol: int | None = None) -> dict[str, frozenset[int]]:
    """Vectors as the community's file has them, and what they mean."""
    random = np.random.default_rng(0)
    content, expected = {}, {}
    for key in keys:
        vector = (random.random(20) < 0.2).astype(np.float32)
        content[key] = vector
        number = int(key) if not isinstance(key, str) else 0
        name = key if isinstance(key, str) else f"{number // 10**6}_{number % 10**6:06d}"
        expected[name] = frozenset(np.flatnonzero(vector).tolist())
    if protocol is None:
        np.save(path, np.array(content), allow_pickle=True)
    else:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            pickle.dump(np.array(content), file, protocol=protocol)
    return expected


@pytest.mark.parametrize("protocol", [None, 2, 3, 4, 5])
def test_label_file(tmp_path, protocol):
    keys = [np.int32(2007000032), np.int64(2011003276), 2008000001, "2009_000007"]
    expected = label_file(tmp_path / "cls_labels.npy", keys, protocol)
    assert labels_in(tmp_path / "cls_labels.npy") == expected
    assert set(expected) == {"2007_000032", "2011_003276", "2008_000001", "2009_000007"}


def test_label_file_of_python_2(tmp_path):
    """Protocol 2 as numpy of old wrote it: byte strings, and the array inside the dict without an array around it."""
    vector = np.zeros(20, "<f4")
    vector[14] = 1
    text = vector.tobytes()
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R(K\x01)"
        b"cnumpy\ndtype\nq\x03U\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]"
        b"}U\x0b2007_000032h\x01h\x02K\x00\x85U\x01b\x87R(K\x01K\x14\x85h\x03U\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(text)]) + text + b"tbsatb."
    )
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    assert labels_in(tmp_path / "a.npy") == {"2007_000032": frozenset({14})}


class Hostile:
    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("where", ["array", "key", "value", "alone"])
def test_hostile_label_file_runs_nothing(tmp_path, where):
    evidence = tmp_path / "was_here"
    evil = Hostile(os.mkdir, str(evidence))
    content = {"array": [evil], "key": {evil: np.zeros(20)}, "value": {1: evil}, "alone": evil}[where]
    with (tmp_path / "evil.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(content, file, protocol=2)
    with pytest.raises(InputError, match=r"evil\.npy.*it asks to run (posix|nt)\.mkdir"):
        labels_in(tmp_path / "evil.npy")
    assert not evidence.exists()
    pickle.loads(pickle.dumps(evil))  # the evidence would have shown
    assert evidence.exists()


def test_label_file_cannot_call_numpy_either(tmp_path):
    with (tmp_path / "evil.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(b"\x80\x02cnumpy\nfromfile\nX\x01\x00\x00\x00a\x85R.")
    with pytest.raises(InputError, match=r"it asks to run numpy\.fromfile"):
        labels_in(tmp_path / "evil.npy")


def test_other_label_files(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 20)))
    with pytest.raises(InputError, match=r"array \[3, 20\] of float64"):
        labels_in(path)
    np.save(path, np.array({1: np.zeros(21, np.float32)}), allow_pickle=True)
    with pytest.raises(InputError, match="21 numbers"):
        labels_in(path)
    with pytest.raises(InputError, match="is not there"):
        labels_in(tmp_path / "b.npy")
    nested = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # hashing this key would exhaust the stack
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(nested)
    with pytest.raises(InputError, match="neither texts nor numbers"):
        labels_in(path)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=6))
def test_damaged_label_files_are_errors(tmp_path_factory, place, noise):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    label_file(path, [2007000032, 2007000039], protocol=3)
    content = bytearray(path.read_bytes())
    place = 80 + place % (len(content) - 80)
    content[place : place + len(noise)] = noise
    path.write_bytes(content)
    try:
        assert all(label < 20 for labels in labels_in(path).values() for label in labels)
    except InputError as error:
        assert "damaged.npy" in str(error) and "\n" not in str(error)


SHARED = Path(os.environ.get("TAG2MASK_VOC", "no such folder"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="set TAG2MASK_VOC to a VOC2012 folder to read the real thing")
def test_real_voc():
    counts = Counter(label for labels in labels_in(next(SHARED.rglob("cls_labels.npy"))).values() for label in labels)
    assert sum(counts.values()) > 12_031 and len(counts) == 20
    dataset = data.load(SHARED, DataSettings(classes=("cat", "cow", "dog", "horse", "person", "sheep")), "val")
    assert dataset.truth_values == (8, 10, 12, 13, 15, 17)
