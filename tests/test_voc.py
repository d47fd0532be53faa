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

from data_sets import ids, photo, refused, tags, write
from tag2mask import data
from tag2mask.data import DataSettings, voc
from tag2mask.data.label_file import read_label_file
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


# ------------------------------------------------------------------------------------------------ classes of one's own


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Photos of cracks and holes in the VOC layout."""
    for name in ("a", "b", "c"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        photo(tmp_path / "SegmentationClass" / f"{name}.png")
    write(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "a\nb\n")
    write(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "c\n")
    return tmp_path


def annotate(root: Path, **objects: tuple[str, ...]) -> Path:
    for name, shown in objects.items():
        write(root / "Annotations" / f"{name}.xml", annotation(*shown))
    return root


def test_own_classes_from_xml(own):
    annotate(own, a=("hole", "crack"), b=(), c=("rust", "crack"))
    dataset = data.load(own, DataSettings(classes=("hole", "crack")))
    assert dataset.classes == ("crack", "hole") and dataset.truth_values == (1, 2)
    assert tags(dataset) == {"a": {"crack", "hole"}, "b": set()}
    assert data.read(own).dataset.classes == ("crack", "hole", "rust")  # of all splits, so that columns agree
    assert data.load(own, split="val").classes == ("crack", "hole", "rust")


@pytest.mark.parametrize(
    ("file", "text", "values"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhole:1,2,3::\ncrack:4,5,6::\n", (1, 2)),
        ("classes.txt", "hole\ncrack\n", (1, 2)),
        ("classes.txt", "hole 7\ncrack 3\n", (7, 3)),
    ],
)
def test_own_classes_from_a_file(own, file, text, values):
    annotate(own, a=("hole", "crack"), b=("Crack",), c=("hole",))
    write(own / file, text)
    dataset = data.load(own)
    assert dataset.classes == ("hole", "crack") and dataset.truth_values == values
    annotate(own, b=("rust",))
    assert "b.xml: unknown class 'rust'" in refused(own) and file in refused(own)


def test_own_classes_with_names_of_voc_among_them(own):
    annotate(own, a=("person", "helmet"), b=("cat", "crack", "dog"), c=())
    assert data.load(own).classes == ("cat", "crack", "dog", "helmet", "person")
    annotate(own, a=("cat",), b=("dgo", "dog"))
    said = refused(own)
    assert "b.xml: unknown class 'dgo': did you mean dog" in said and "--class-names cat,dgo,dog" in said
    assert data.load(own, DataSettings(class_names=("cat,dgo,dog",))).classes == ("cat", "dgo", "dog")


def test_voc_classes_stay_vocs(own):
    annotate(own, a=("person",), b=("cat",), c=("dog",))
    dataset = data.load(own, DataSettings(classes=("cat", "person")))
    assert dataset.classes == ("cat", "person") and dataset.truth_values == (CAT + 1, PERSON + 1)


def test_own_lists_of_numbers(own):
    write(own / "ImageSets" / "Segmentation" / "train_cls.txt", "a 0 1\nb\n")
    write(own / "ImageSets" / "Segmentation" / "val_cls.txt", "c 1\n")
    dataset = data.load(own, DataSettings(class_names=("crack", "hole")))
    assert dataset.classes == ("crack", "hole") and tags(dataset) == {"a": {"crack", "hole"}, "b": set()}
    write(own / "ImageSets" / "Segmentation" / "train_cls.txt", "a 0 1\nb 25\n")
    said = refused(own)
    assert "train_cls.txt line 2: '25' is not a class number from 0 to 19" in said and "--class-names a,b,c" in said
    assert "line 2: '25' is not a class number from 0 to 1" in refused(own, DataSettings(class_names=("crack,hole",)))


def test_own_cls_labels(own):
    content = {"a": np.array([1, 0, 1], np.float32), "b": np.zeros(3, np.float32), "c": np.array([0, 1, 0], np.float32)}
    np.save(own / "cls_labels.npy", np.array(content), allow_pickle=True)
    said = refused(own)
    assert "cls_labels.npy has 3 numbers a photo for 20 classes in VOC" in said and "--class-names" in said
    chosen = DataSettings(class_names=("crack,hole,rust",), classes=("crack", "rust"))
    assert tags(data.load(own, chosen)) == {"a": {"crack", "rust"}, "b": set()}
    write(own / "classes.txt", "crack\nhole\n")
    assert "3 numbers a photo for 2 classes in" in refused(own)


def test_own_tags_csv_with_domains(own):
    write(own / "tags.csv", "image,tags,domain\na.jpg,crack;hole,web\nb,,\nc,hole,\n")
    dataset = data.load(own)
    assert tags(dataset) == {"a": {"crack", "hole"}, "b": set()}
    assert [sample.domain for sample in dataset.samples] == ["web", "target"]
    write(own / "tags.csv", "image,tags\na.jpg,crack\na.jpg,hole\nb,hole\n")
    assert tags(data.load(own)) == {"a": {"crack", "hole"}, "b": {"hole"}}
    write(own / "tags.csv", "image,tags\na.jpg,background\nb,hole\n")
    assert "tags.csv line 2: background is no class" in refused(own)


def test_photos_without_an_annotation_are_untagged(own):
    annotate(own, a=("crack",), c=("crack",))
    selection = data.read(own)
    assert ids(selection.dataset) == ["a", "b"] and selection.untagged == ("b",)
    assert ids(data.load(own)) == ["a"] == ids(selection.tagged())


def test_voc_without_lists(own):
    for path in sorted((own / "ImageSets").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (own / "ImageSets").rmdir()
    annotate(own, a=("crack",), b=("hole",))
    assert data.splits(own) == ("train",) and tags(data.load(own)) == {"a": {"crack"}, "b": {"hole"}}
    assert data.read(own).untagged == ("c",)


def test_xml_next_to_the_photos(tmp_path):
    for name, shown in (("train/a", ("crack",)), ("train/b", ("hole",)), ("valid/c", ("crack",))):
        photo(tmp_path / f"{name}.jpg")
        write(tmp_path / f"{name}.xml", annotation(*shown))
    assert data.open_data(tmp_path, DataSettings()).layout == "voc" and data.splits(tmp_path) == ("train", "val")
    assert tags(data.load(tmp_path)) == {"train/a": {"crack"}, "train/b": {"hole"}}
    assert tags(data.load(tmp_path, split="val")) == {"valid/c": {"crack"}}
    for name in ("a", "b"):
        photo(tmp_path / "flat" / f"{name}.jpg")
        write(tmp_path / "flat" / f"{name}.xml", annotation("crack"))
    assert tags(data.load(tmp_path / "flat")) == {"a": {"crack"}, "b": {"crack"}}


def test_lists_of_the_main_task(tmp_path):
    for name in ("a", "b 1", "c"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "Annotations" / f"{name}.xml", annotation("crack"))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nb 1\n")  # a name with a blank
    write(tmp_path / "ImageSets" / "Main" / "crack_train.txt", "a 1\nc -1\n")
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "c\n")
    assert data.splits(tmp_path) == ("train", "test") or set(data.splits(tmp_path)) == {"train", "test"}
    assert ids(data.load(tmp_path)) == ["a", "b 1"]


@pytest.mark.parametrize(
    "content",
    [
        b'<?xml version="1.0" encoding="no-such"?><annotation/>',
        b'<?xml version="1.0" encoding="shift_jis"?><annotation/>',
        b'<?xml version="1.0" encoding="utf-16"?><annotation/>',
        b'<?xml version="1.0" encoding="gb2312"?><annotation>\xc4\xe3</annotation>',
        b"\xff\xfe\0",
        b"",
        b"<annotation>\xe9</annotation>",
        b"<annotation>\0</annotation>",
    ],
)
def test_xml_in_encodings_that_are_not_known(own, content):
    annotate(own, b=("crack",), c=("crack",))
    (own / "Annotations" / "a.xml").write_bytes(content)
    assert "a.xml is not valid XML" in refused(own)


def test_xml_in_latin_1_and_utf_16(own):
    text = '<?xml version="1.0" encoding="{}"?><annotation><object><name>façade</name></object></annotation>'
    annotate(own, c=())
    for name, encoding in (("a", "iso-8859-1"), ("b", "utf-16")):
        (own / "Annotations" / f"{name}.xml").write_bytes(text.format(encoding).encode(encoding))
    assert tags(data.load(own)) == {"a": {"façade"}, "b": {"façade"}}


def test_other_xml(own):
    annotate(own, b=("crack",), c=("crack",))
    write(own / "Annotations" / "a.xml", "<kml><object><name>cat</name></object></kml>")
    assert "a.xml is no annotation of VOC's kind, its first element is <kml>" in refused(own)
    write(own / "Annotations" / "a.xml", "<annotation><object><name> </name></object></annotation>")
    assert "a.xml has an object without a name" in refused(own)
    os.mkfifo(own / "Annotations" / "d.xml")
    (own / "Annotations" / "d.xml").rename(own / "Annotations" / "a.xml")
    assert "a.xml is a device or a pipe" in refused(own)


def test_label_vectors_must_agree(tmp_path):
    for content, said in (
        ({"a": np.zeros(3), "b": np.zeros(4)}, "vectors of 3 and 4 numbers"),
        ({}, "vectors of no numbers"),
        ({"a": np.array([1, np.nan])}, "not a row of finite numbers"),
    ):
        np.save(tmp_path / "a.npy", np.array(content), allow_pickle=True)
        with pytest.raises(InputError, match=said):
            read_label_file(tmp_path / "a.npy")
