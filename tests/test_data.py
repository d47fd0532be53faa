"""Data sets in every layout, and every way they can be wrong: one clear line each."""

from __future__ import annotations

import json
import os
import pickle
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask import data
from tag2mask.data import DataSettings, coco, download, folder, listing, voc
from tag2mask.data.batches import domains_of
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.errors import InputError
from tag2mask.types import Sample


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def photo(path: Path) -> None:
    """A file of that name: reading a data set opens no photo, so it need not be one."""
    write(path, "never opened")


def refused(root: Path, settings: DataSettings | None = None, split: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        data.load(root, settings, split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def barn(tmp_path: Path) -> Path:
    """Five photos of three classes in the layout *folder*."""
    for name in ("a.jpg", "b.JPG", "far/c.png", "d.jpg", "e.jpg"):
        photo(tmp_path / "images" / name)
    write(
        tmp_path / "tags.csv",
        "image,tags,split,domain\n"
        "a.jpg,dog,train,\n"
        "images/b.JPG,cow; dog,train,web\n"
        "far\\c.png,sheep|cow,train,single-label\n"
        "d.jpg,cow,val,\n"
        "e,,val,\n",
    )
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_opened(monkeypatch):
    """Reading a data set touches no pixels, least of all truth."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))


# -------------------------------------------------------------------------------------------------- folder


def test_folder(barn):
    dataset = data.load(barn)
    assert dataset.classes == ("cow", "dog", "sheep") and dataset.truth_values == (1, 2, 3)
    assert dataset.name == barn.name
    assert list(dataset.samples) == [
        Sample("a", barn / "images" / "a.jpg", frozenset({1})),
        Sample("b", barn / "images" / "b.JPG", frozenset({0, 1}), "web"),
        Sample("far/c", barn / "images" / "far" / "c.png", frozenset({0, 2}), "single-label"),
    ]
    assert list(domains_of(dataset)) == ["target", "web", "single-label"]
    assert list(domains_of(data.load(barn, split="val"))) == ["target", "target"]
    assert data.splits(barn) == ("train", "val")


def test_photos_of_other_splits_may_have_no_tags(barn):
    val = data.load(barn, split="val")
    assert [(sample.id, sample.labels) for sample in val.samples] == [("d", frozenset({0})), ("e", None)]


def test_leaving_photos_out_keeps_the_untagged_ones(barn):
    """Of an untagged photo nobody knows that it shows none of the classes."""
    selection = data.read(barn, DataSettings(classes=("sheep",)), "val")
    assert ids(selection.dataset) == ["e"] and selection.dropped == 1 and selection.untagged == ("e",)


def test_truth_and_saliency_beside(barn):
    write(barn / "masks" / "far" / "c.png")
    write(barn / "saliency" / "a.jpg")
    write(barn / "other" / "a.png")
    first, _, third = data.load(barn).samples
    assert first.mask_path is None and third.mask_path == barn / "masks" / "far" / "c.png"
    assert first.saliency_path == barn / "saliency" / "a.jpg" and third.saliency_path is None
    first, _, third = data.load(barn, DataSettings(truth=barn / "other")).samples
    assert first.mask_path == barn / "other" / "a.png" and third.mask_path is None


def test_one_csv_a_split_and_photos_in_the_folder_itself(tmp_path):
    photo(tmp_path / "1.jpg")
    photo(tmp_path / "2.jpg")
    write(tmp_path / "train.csv", "\ufeffImage; Tags\n1.jpg;b|a\n")  # a BOM, capitals, semicolons: a spreadsheet's
    write(tmp_path / "val.csv", "image,tags\n2.jpg,c\n")
    assert data.splits(tmp_path) == ("train", "val")
    train, val = data.read(tmp_path, DataSettings(), "train").dataset, data.load(tmp_path, split="val")
    assert train.classes == val.classes == ("a", "b", "c")  # of all splits, so that columns agree
    assert train.samples[0].labels == frozenset({0, 1}) and val.samples[0].labels == frozenset({2})


def test_a_csv_may_be_given_itself_or_by_setting(barn, tmp_path_factory):
    assert len(data.load(barn / "tags.csv")) == 3
    elsewhere = write(tmp_path_factory.mktemp("elsewhere") / "some.csv", "image,tags\nd.jpg,cow\n")
    dataset = data.load(barn, DataSettings(tags=elsewhere))
    assert dataset.classes == ("cow",) and [sample.id for sample in dataset.samples] == ["d"]
    only_photos = data.load(barn / "images", DataSettings(tags=elsewhere))
    assert only_photos.samples[0].image_path == barn / "images" / "d.jpg"
    dataset = data.load(elsewhere.parent, DataSettings(images=barn / "images", tags=elsewhere))
    assert dataset.samples[0].id == "d"


def test_absolute_names(tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    photo(elsewhere / "x.jpg")
    write(tmp_path / "tags.csv", f"image,tags\n{elsewhere / 'x.jpg'},a\n")
    sample = data.load(tmp_path).samples[0]
    assert (sample.id, sample.image_path) == ("x", elsewhere / "x.jpg")  # an id never leads out of a run's folder


def test_names_that_lead_outside_have_plain_ids(barn):
    photo(barn / "more" / "x.jpg")
    write(barn / "tags.csv", "image,tags\n../more/x.jpg,a\nmore/../a.jpg,b\n")
    assert [sample.id for sample in data.load(barn).samples] == ["x", "a"]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab./:\\", min_size=1, max_size=12))
def test_ids_stay_inside(name):
    id_ = listing.sample_id(listing.tidy(name))
    assert not id_.startswith(("/", "../")) and id_ != ".." and "/../" not in id_


def test_classes_file_orders_and_gives_values(barn):
    write(barn / "classes.txt", "sheep 17\npotted plant\t3\ncow = 10\ndog 12\n\n")
    with pytest.raises(InputError, match="has the tag potted plant"):
        data.load(barn)
    dataset = data.load(barn, DataSettings(classes=("cow,dog", "sheep")))
    assert dataset.classes == ("sheep", "cow", "dog") and dataset.truth_values == (17, 10, 12)
    write(barn / "classes.txt", "sheep\ncow\ndog\n")
    dataset = data.load(barn, DataSettings(truth_values=("dog=12", "cow=8,sheep=250")))
    assert dataset.truth_values == (250, 8, 12)


def test_a_subset_keeps_the_order_and_the_truth_values_of_all(barn):
    dataset = data.load(barn, DataSettings(classes=("sheep", "cow")))
    assert dataset.classes == ("cow", "sheep") and dataset.truth_values == (1, 3)
    assert [(sample.id, sample.labels) for sample in dataset.samples] == [
        ("b", frozenset({0})),
        ("far/c", frozenset({0, 1})),
    ]
    assert data.read(barn, DataSettings(classes=("sheep", "cow")), "train").dropped == 1
    kept = data.load(barn, DataSettings(classes=("sheep", "cow"), keep_untagged=True))
    assert kept.samples[0].id == "a" and kept.samples[0].labels == frozenset()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_selection_is_renumbering(tmp_path_factory, draw):
    """Against the plain way: names instead of numbers."""
    names = ("ant", "bee", "cat", "dog")
    tags = draw.draw(st.lists(st.sets(st.sampled_from(names), min_size=1), min_size=1, max_size=8))
    wanted = draw.draw(st.sets(st.sampled_from(names), min_size=1))
    samples = data.Samples(
        Path("photos"),
        [f"{number}.jpg" for number in range(len(tags))],
        [frozenset(map(names.index, present)) for present in tags],
    )
    everything = listing.Listing("x", names, (9, 7, 5, 3), samples, "")
    chosen = listing.select(everything, DataSettings(classes=tuple(sorted(wanted, reverse=True))))
    dataset = chosen.dataset
    assert dataset.classes == tuple(name for name in names if name in wanted)
    assert (
        dict(zip(dataset.classes, dataset.truth_values, strict=True)).items()
        <= dict(zip(names, (9, 7, 5, 3), strict=True)).items()
    )
    got = {sample.id: {dataset.classes[label] for label in sample.labels or ()} for sample in dataset.samples}
    assert got == {str(number): present & wanted for number, present in enumerate(tags) if present & wanted}
    assert chosen.dropped == len(tags) - len(got)


# ------------------------------------------------------------------------------------------------ bad input


def test_missing_folder(tmp_path):
    assert "the data set" in refused(tmp_path / "nowhere") and "is not there" in refused(tmp_path / "nowhere")
    assert "is a file" in refused(write(tmp_path / "notes.txt"))
    assert "truth folder" in refused_with(tmp_path, truth=tmp_path / "nothing")
    assert "saliency folder" in refused_with(tmp_path, saliency=tmp_path / "nothing")
    assert "folder of images" in refused_with(tmp_path, images=tmp_path / "nothing")


def refused_with(root: Path, **settings) -> str:
    photo(root / "1.jpg")
    write(root / "tags.csv", "image,tags\n1.jpg,a\n")
    return refused(root, DataSettings(**settings))


def test_csv_without_the_column(barn):
    write(barn / "tags.csv", "file,labels\na.jpg,dog\n")
    said = refused(barn)
    assert "no column 'image'" in said and "file, labels" in said
    write(barn / "tags.csv", "image,labels\na.jpg,dog\n")
    assert "no column 'tags'" in refused(barn)
    write(barn / "tags.csv", "")
    assert "nothing" in refused(barn)


def test_csv_of_another_form(barn):
    write(barn / "tags.csv", "image,tags\na.jpg,dog,cow\n")
    assert "line 2 has 3 cells" in refused(barn)
    write(barn / "tags.csv", 'image,tags\na.jpg,"dog,cow"\n')
    assert "line 2: tag 'dog,cow' has a comma" in refused(barn)
    write(barn / "tags.csv", "image,tags\n\n ,dog\n")
    assert "line 3 names no image" in refused(barn)
    (barn / "tags.csv").write_bytes(b"image,tags\na.jpg,\xe4\n")
    assert "not UTF-8" in refused(barn)
    write(barn / "tags.csv", "image,tags,domain\na.jpg,dog,webb\n")
    said = refused(barn)
    assert "line 2: unknown domain 'webb'" in said and "did you mean web" in said


def test_columns_in_any_order_and_short_rows(barn):
    write(barn / "tags.csv", "tags,note,image\ndog,seen twice,a.jpg\n")
    assert ids(data.load(barn)) == ["a"]
    write(barn / "tags.csv", "tags,note,image\ndog\n")
    assert "line 2 names no image" in refused(barn)


def test_unknown_class(barn):
    said = refused(barn, DataSettings(classes=("dgo",)))
    assert "unknown class 'dgo': did you mean dog" in said
    write(barn / "classes.txt", "cow\ndog\nsleep\n")
    said = refused(barn)
    assert "tags.csv line 4: unknown class 'sheep'" in said and "did you mean sleep" in said


def test_image_listed_twice(barn):
    write(barn / "tags.csv", "image,tags\na.jpg,dog\nd.jpg,dog\nimages/a.jpg,cow\n")
    said = refused(barn)
    assert "images/a.jpg on lines 2 and 4" in said


def test_image_that_is_not_there(barn):
    write(barn / "tags.csv", "image,tags\na.jpg,dog\nz.jpg,dog\ny.jpg,dog\na,dog\n")
    (barn / "images" / "a.jpg").unlink()
    write(barn / "tags.csv", "image,tags\nd.jpg,dog\nz.jpg,dog\ny,dog\n")
    said = refused(barn)
    assert "2 of 3 images" in said and "z.jpg, y" in said and str(barn / "tags.csv") in said


def test_empty_data_sets(tmp_path, barn):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in refused(empty)
    photo(empty / "1.jpg")
    assert "no tags" in refused(empty)
    write(barn / "tags.csv", "image,tags\n")
    assert "empty data set" in refused(barn)
    write(barn / "tags.csv", "image,tags\na.jpg,\n")
    assert "no tags at all" in refused(barn)


def test_unknown_split(barn):
    said = refused(barn, split="test")
    assert "no split 'test' (it has: train, val)" in said


def test_tags_csv_and_train_csv(barn):
    write(barn / "train.csv", "image,tags\na.jpg,dog\n")
    assert "both tags.csv and train.csv" in refused(barn)
    assert len(data.load(barn, DataSettings(tags=barn / "train.csv"))) == 1


def test_class_without_a_photo(barn):
    write(barn / "classes.txt", "cow\ndog\nsheep\nunicorn\n")
    said = refused(barn)
    assert "has the tag unicorn" in said and "--classes" in said
    assert len(data.load(barn, split="val")) == 2  # only training asks for all


def test_images_without_tags(barn):
    write(barn / "tags.csv", "image,tags\na.jpg,dog\nb.JPG,\nd.jpg, ; \n")
    said = refused(barn)
    assert "2 of 3 photos" in said and "(b, d)" in said and "--keep-untagged" in said
    kept = data.load(barn, DataSettings(keep_untagged=True))
    assert [sample.labels for sample in kept.samples] == [frozenset({0}), frozenset(), frozenset()]


def test_bad_classes_file(barn):
    for text, expected in [
        ("cow\ncow\n", "line 2: class 'cow' is already on line 1"),
        ("background\ncow\n", "line 1: background is no class"),
        ("cow 1\ndog\n", "1 of 2 classes a value"),
        ("cow 300\n", "line 1: value 300"),
        ("\n", "names no class"),
    ]:
        write(barn / "classes.txt", text)
        assert expected in refused(barn)


def test_bad_truth_values(barn):
    for value, expected in [
        ("dog", "not name=value"),
        ("dog=x", "not name=value"),
        ("dgo=3", "did you mean dog"),
        ("dog=0", "outside 1..254"),
        ("dog=1", "'cow' and 'dog' both have value 1"),
    ]:
        assert expected in refused(barn, DataSettings(truth_values=(value,)))


def test_background_is_no_tag(barn):
    write(barn / "tags.csv", "image,tags\na.jpg,background\n")
    assert "'background' is used as a tag" in refused(barn)


# ------------------------------------------------------------------------------------------- class folders


def test_class_folders(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.png", "train/1.jpg", ".hidden/1.jpg", "cat/notes.txt", "masks/cat/1.png"):
        photo(tmp_path / name)
    dataset = data.load(tmp_path)
    assert dataset.classes == ("cat", "train")  # a class may be called as a split is
    assert [(sample.id, sample.labels) for sample in dataset.samples] == [
        ("cat/1", frozenset({0})),
        ("cat/deep/2", frozenset({0})),
        ("train/1", frozenset({1})),
    ]
    assert dataset.samples[0].mask_path == tmp_path / "masks" / "cat" / "1.png"
    assert data.splits(tmp_path) == ("train",)


def test_class_folders_under_splits(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "val/dog/9.jpg"):
        photo(tmp_path / name)
    assert data.splits(tmp_path) == ("train", "val")
    train, val = data.load(tmp_path), data.load(tmp_path, split="val")
    assert train.classes == val.classes == ("cat", "dog")
    assert [sample.id for sample in train.samples] == ["train/cat/1", "train/dog/1"]
    assert list(val.samples) == [Sample("val/dog/9", tmp_path / "val" / "dog" / "9.jpg", frozenset({1}))]
    (tmp_path / "train" / "emu").mkdir()
    assert "has the tag emu" in refused(tmp_path)
    write(tmp_path / "classes.txt", "dog\ncat\n")
    assert "unknown class 'emu'" in refused(tmp_path)
    assert "no split 'test'" in refused(tmp_path, split="test")


def test_two_photos_with_one_name(tmp_path):
    photo(tmp_path / "cat" / "1.jpg")
    photo(tmp_path / "cat" / "1.png")
    assert "cat/1.jpg and cat/1.png" in refused(tmp_path)


def test_links_in_circles(tmp_path):
    photo(tmp_path / "cat" / "1.jpg")
    try:
        (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert [sample.id for sample in data.load(tmp_path).samples] == ["cat/1"]


# ---------------------------------------------------------------------------------------------------- VOC

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


def ids(dataset) -> list[str]:
    return [sample.id for sample in dataset.samples]


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
        ("2007_000032 cat\n", "line 1: 'cat'"),
        ("2007_000032 1\n2007_000032 2\n", "on lines 1 and 2"),
        ("2007_000032 7\n", "1 of 2 photos of split 'train'"),
    ]:
        assert expected in refused(devkit, DataSettings(tags=write(devkit / "list.txt", text)))
    write(devkit / "list.txt", TEXT)
    write(devkit / "ImageSets" / "Segmentation" / "val.txt", "2007_000032\n/JPEGImages/2007_000032.jpg\n")
    assert "on lines 1 and 2" in refused(devkit, DataSettings(tags=devkit / "list.txt"), "val")
    write(devkit / "ImageSets" / "Segmentation" / "val.txt", "2007_000032\n2009_000001\n")
    said = refused(devkit, DataSettings(tags=devkit / "list.txt"), "val")
    assert "1 of 2 images" in said and "2009_000001" in said
    assert f"did you mean {devkit}?" in refused(devkit.parent)


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
    assert voc.read_tags(tmp_path / "cls_labels.npy") == expected
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
    assert voc.read_tags(tmp_path / "a.npy") == {"2007_000032": frozenset({14})}


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
        voc.read_tags(tmp_path / "evil.npy")
    assert not evidence.exists()
    pickle.loads(pickle.dumps(evil))  # the evidence would have shown
    assert evidence.exists()


def test_label_file_cannot_call_numpy_either(tmp_path):
    with (tmp_path / "evil.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(b"\x80\x02cnumpy\nfromfile\nX\x01\x00\x00\x00a\x85R.")
    with pytest.raises(InputError, match=r"it asks to run numpy\.fromfile"):
        voc.read_tags(tmp_path / "evil.npy")


def test_other_label_files(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 20)))
    with pytest.raises(InputError, match=r"array \[3, 20\] of float64"):
        voc.read_tags(path)
    np.save(path, np.array({1: np.zeros(21, np.float32)}), allow_pickle=True)
    with pytest.raises(InputError, match="21 numbers"):
        voc.read_tags(path)
    with pytest.raises(InputError, match="is not there"):
        voc.read_tags(tmp_path / "b.npy")
    nested = b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s."  # hashing this key would exhaust the stack
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(nested)
    with pytest.raises(InputError, match="neither texts nor numbers"):
        voc.read_tags(path)


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
        assert all(label < 20 for labels in voc.read_tags(path).values() for label in labels)
    except InputError as error:
        assert "damaged.npy" in str(error) and "\n" not in str(error)


SHARED = Path(os.environ.get("TAG2MASK_VOC", "no such folder"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="set TAG2MASK_VOC to a VOC2012 folder to read the real thing")
def test_real_voc():
    counts = Counter(
        label for labels in voc.read_tags(next(SHARED.rglob("cls_labels.npy"))).values() for label in labels
    )
    assert sum(counts.values()) > 12_031 and len(counts) == 20
    dataset = data.load(SHARED, DataSettings(classes=("cat", "cow", "dog", "horse", "person", "sheep")), "val")
    assert dataset.truth_values == (8, 10, 12, 13, 15, 17)


# --------------------------------------------------------------------------------------------------- COCO

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
    ]
    assert dataset.samples[0].mask_path is None
    assert data.splits(instances) == ("train", "train2014")
    assert data.read(instances, DataSettings(), "train2014").dropped == 1
    assert len(data.load(instances, DataSettings(keep_untagged=True))) == 3


def test_coco_truth_folder(instances):
    mask = write(instances / "rendered" / "COCO_train2014_000000000005.png")
    dataset = data.load(instances, DataSettings(truth=instances / "rendered"))
    assert [sample.mask_path for sample in dataset.samples] == [None, mask]


def test_coco_images_elsewhere_and_missing(instances):
    (instances / "train2014").rename(instances / "photos")
    assert "train2014 is not there" in refused(instances)
    assert len(data.load(instances, DataSettings(images=instances / "photos"))) == 2
    (instances / "photos" / "COCO_train2014_000000000006.jpg").unlink()
    assert "1 of 3 images" in refused(instances, DataSettings(images=instances / "photos"))
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
    assert list(coco._entries(text, ("wanted", "annotations"))) == expected


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"images": [', '{"images": [{}]}', '{"images": [1 2]}', '{"images": []}', '{"categories": [3]}',
     json.dumps({**INSTANCES, "annotations": [{"image_id": 5, "category_id": 12}]}), json.dumps(INSTANCES)[:-30]],
)  # fmt: skip
def test_bad_coco(instances, text):
    write(instances / "annotations" / "instances_train2014.json", text)
    assert "instances_train2014.json" in refused(instances)


# ------------------------------------------------------------------------------------------------- laziness


def test_a_photo_costs_about_a_hundred_bytes(tmp_path, monkeypatch):
    count = 4_000
    names = [f"images/folder_{number // 1000}/photo_{number:07d}.jpg" for number in range(count)]
    write(
        tmp_path / "tags.csv",
        "image,tags\n" + "".join(f"{name},{'abc'[number % 3]}\n" for number, name in enumerate(names)),
    )
    monkeypatch.setattr(listing.Present, "__call__", lambda self, path: "/images/images" not in path)
    (tmp_path / "images").mkdir()
    data.load(tmp_path)  # what is imported or cached once does not count
    tracemalloc.start()
    dataset = data.load(tmp_path)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(dataset) == count
    assert size / count < 160, f"{size / count:.0f} bytes a photo"
    assert dataset.samples[0].labels is dataset.samples[3].labels  # shared, not copied
    assert dataset.samples[1234].image_path == tmp_path / "images" / "folder_1" / "photo_0001234.jpg"


def test_samples_are_a_sequence(barn):
    samples = data.load(barn).samples
    assert isinstance(samples, data.Samples)
    plain = list(samples)
    assert samples[-1] == plain[-1] and list(samples[::-1]) == plain[::-1] and list(samples[1:]) == plain[1:]
    assert list(samples.take([2, 0])) == [plain[2], plain[0]] and plain[1] in samples
    assert list(samples.ids()) == [sample.id for sample in plain]
    with pytest.raises(IndexError):
        samples[3]
    assert list(pickle.loads(pickle.dumps(samples))) == plain  # loader processes get a copy


# ------------------------------------------------------------------------------------------------ prediction


def test_load_images(barn):
    found = data.load_images(barn / "images")
    assert [sample.id for sample in found] == ["a", "b", "d", "e", "far/c"]
    assert all(sample.labels is None and sample.image_path.is_file() for sample in found)
    assert [sample.id for sample in data.load_images(str(barn / "images" / "a.jpg"))] == ["a"]
    assert [sample.id for sample in data.load_images([barn / "images" / "d.jpg", barn / "images" / "far"])] == [
        "d",
        "c",
    ]
    for wrong, said in [
        (barn / "nothing", "is not there"),
        (write(barn / "text" / "notes.txt").parent, "holds no images"),
        ([], "no images"),
        ([barn / "images" / "a.jpg"] * 2, "one name"),
    ]:
        with pytest.raises(InputError, match=re.escape(said)):
            data.load_images(wrong)


# -------------------------------------------------------------------------------------------------- download


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
    monkeypatch.undo()  # trimaps are opened here
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
    monkeypatch.undo()
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


def test_coco_is_checked(instances):
    with pytest.raises(InputError) as error:
        download.download("coco2014", instances)
    assert "val2014.zip" in str(error.value) and "train2014.zip" not in str(error.value)
    write(instances / "annotations" / "instances_val2014.json", json.dumps(INSTANCES))
    (instances / "val2014").mkdir()
    assert download.download("coco2014", instances) == instances
    with pytest.raises(InputError, match="did you mean coco2014"):
        download.download("coco", instances)


def test_rows_of_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        next(folder.rows(tmp_path / "nothing.csv", "train"))
