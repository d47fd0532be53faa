"""Data sets of people's own photos, and every way they can be wrong: one clear line each."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import ids, photo, refused, write
from tag2mask import data
from tag2mask.data import DataSettings, listing
from tag2mask.data.class_file import read_classes
from tag2mask.data.samples import domains_of
from tag2mask.errors import InputError
from tag2mask.types import Sample


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


pytestmark = pytest.mark.usefixtures("nothing_is_opened")

# -------------------------------------------------------------------------------------------------- folder


def test_folder(barn):
    dataset = data.load(barn)
    assert dataset.classes == ("cow", "dog", "sheep") and dataset.truth_values == (1, 2, 3)
    assert dataset.name == barn.name
    assert list(dataset.samples) == [
        Sample("a", barn / "images" / "a.jpg", frozenset({1}), split="train"),
        Sample("b", barn / "images" / "b.JPG", frozenset({0, 1}), "web", split="train"),
        Sample("far/c", barn / "images" / "far" / "c.png", frozenset({0, 2}), "single-label", split="train"),
    ]
    assert dataset.samples[0].key == ("train", "a")
    assert list(domains_of(dataset)) == ["target", "web", "single-label"]
    assert list(domains_of(data.load(barn, split="val"))) == ["target", "target"]
    assert data.splits(barn) == ("train", "val")


def test_an_empty_tag_says_that_none_of_the_classes_is_shown(barn):
    val = data.load(barn, split="val")
    assert [(sample.id, sample.labels) for sample in val.samples] == [("d", frozenset({0})), ("e", frozenset())]
    write(barn / "tags.csv", "image,tags,split\na.jpg,dog,train\nb.JPG,,train\nd.jpg,cow,val\n")
    train = data.load(barn, DataSettings(classes=("dog",)))
    assert [(sample.id, sample.labels) for sample in train.samples] == [("a", frozenset({0})), ("b", frozenset())]


def test_a_split_without_any_tag_is_untagged(barn):
    """Nobody tagged it: that says nothing of its photos."""
    write(barn / "tags.csv", "image,tags,split\na.jpg,dog,train\nd.jpg,,val\ne,,val\n")
    assert [sample.labels for sample in data.load(barn, split="val").samples] == [None, None]
    write(barn / "tags.csv", "image,tags,split\na.jpg,,train\nd.jpg,dog,val\n")
    assert "holds 1 photo and none with tags" in refused(barn)


def test_a_table_of_photos_alone_has_no_tags(barn):
    (barn / "tags.csv").unlink()
    write(barn / "train.csv", "image,tags\na.jpg,dog\nb.JPG,cow\n")
    write(barn / "val.csv", "image\nd.jpg\n")
    assert [sample.labels for sample in data.load(barn).samples] == [{1}, {0}]
    assert [sample.labels for sample in data.load(barn, split="val").samples] == [None]


def test_selected_classes_keep_the_other_photos_as_photos_without_them(barn):
    selection = data.read(barn, DataSettings(classes=("sheep",)), "train")
    assert [(s.id, s.labels) for s in selection.dataset.samples] == [("a", set()), ("b", set()), ("far/c", {0})]
    assert selection.dropped == 0 and selection.untagged == ()
    selection = data.read(barn, DataSettings(classes=("sheep",), negatives="drop"), "train")
    assert ids(selection.dataset) == ["far/c"] and selection.dropped == 2


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
    dataset = data.load(barn, DataSettings(classes=("sheep", "cow"), negatives="drop"))
    assert dataset.classes == ("cow", "sheep") and dataset.truth_values == (1, 3)
    assert [(sample.id, sample.labels) for sample in dataset.samples] == [
        ("b", frozenset({0})),
        ("far/c", frozenset({0, 1})),
    ]


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
    classes = tuple(sorted(wanted, reverse=True))
    assert len(listing.select(everything, DataSettings(classes=classes)).dataset) == len(tags)
    chosen = listing.select(everything, DataSettings(classes=classes, negatives="drop"))
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
    write(barn / "tags.csv", "what,labels\na.jpg,dog\n")
    said = refused(barn)
    assert "no column 'image'" in said and "what, labels" in said
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
    write(barn / "tags.csv", "image,tags\na.jpg,dog;cow\nd.jpg,dog\nimages/a.jpg,cow;dog\n")
    assert "lists image images/a.jpg on lines 2 and 4: remove one" in refused(barn)
    for first, second in (("dog;cow", "sheep"), ("dog", "cow;sheep"), ("", "sheep"), ("dog", "")):
        write(barn / "tags.csv", f"image,tags\na.jpg,{first}\nd.jpg,dog\nimages/a.jpg,{second}\n")
        said = refused(barn)
        assert "different tags on lines 2 and 4" in said and "join them in one line" in said
    write(barn / "tags.csv", "image,tags,domain\na.jpg,dog,web\nd.jpg,dog,\na.jpg,cow,\n")
    assert "lines 2 and 4 give image a.jpg two domains" in refused(barn)


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


def test_names_of_classes_that_end_in_numbers(tmp_path):
    write(tmp_path / "classes.txt", "defect 1\n# remark\ndefect 2\n")
    assert read_classes(tmp_path / "classes.txt") == (("defect 1", "defect 2"), ())
    write(tmp_path / "classes.txt", "defect 1\nscratch 2\n")
    assert read_classes(tmp_path / "classes.txt") == (("defect", "scratch"), (1, 2))


def test_bad_truth_values(barn):
    for value, expected in [
        ("dog", "not name=value"),
        ("dog=x", "not name=value"),
        ("dgo=3", "did you mean dog"),
        ("dog=0", "outside 1..254"),
        ("dog=1", "'cow' and 'dog' both have value 1"),
    ]:
        assert expected in refused(barn, DataSettings(truth_values=(value,)))


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
    assert list(val.samples) == [Sample("val/dog/9", tmp_path / "val" / "dog" / "9.jpg", frozenset({1}), split="val")]
    photo(tmp_path / "val" / "emu" / "1.jpg")
    assert "has the tag emu" in refused(tmp_path)
    write(tmp_path / "classes.txt", "dog\ncat\n")
    assert "unknown class 'emu'" in refused(tmp_path)
    (tmp_path / "classes.txt").unlink()
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
        "far/c",
    ]
    for wrong, said in [
        (barn / "nothing", "is not there"),
        (write(barn / "text" / "notes.txt").parent, "holds no images"),
        ([], "no images"),
        ([barn / "images" / "a.jpg"] * 2, "one name"),
    ]:
        with pytest.raises(InputError, match=re.escape(said)):
            data.load_images(wrong)
