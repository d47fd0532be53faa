"""Tags as people write them: which are one class, which only look so, which are none."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_sets import photo, refused, tags, write
from tag2mask import data
from tag2mask.data import DataSettings, words
from tag2mask.errors import some

SAME = [
    "café", unicodedata.normalize("NFD", "café"), "café ", " café", "café\u00a0", "ca\u200bfé", "\ufeffcafé", "Café",
    "CAFÉ",
]  # fmt: skip


def test_spellings_of_one_word():
    assert {words.folded(spelling) for spelling in SAME} == {"café"}
    classes = words.merge([*SAME, "dog", "traffic\u00a0light", "traffic  light", "traffic light"])
    assert classes.names == ("café", "dog", "traffic light")
    assert {classes.number[spelling] for spelling in SAME} == {0}
    assert classes.merged == (("CAFÉ", "Café", "café"),)  # what nobody sees is not worth a word


def test_the_name_is_the_plain_spelling():
    assert words.merge(["Dog", "dog"]).names == ("dog",) and words.merge(["Dog", "DOG"]).names == ("DOG",)
    assert words.merge(["b", "a"], alphabetical=False).names == ("b", "a")


def test_listed_classes_stay_apart():
    """Letters of both cases, for instance."""
    classes = words.listed_classes(["a", "A", "B"], ["a", "A", "b", "a\u200b", "C"])
    assert classes.names == ("a", "A", "B")
    assert classes.number == {"a": 0, "A": 1, "B": 2, "b": 2, "a\u200b": 0}


@given(st.text(max_size=20))
def test_cleaning_is_done_once(text):
    assert words.clean(words.clean(text)) == words.clean(text)
    assert words.folded(words.folded(text)) == words.folded(text) or len(words.folded(text)) != len(text)


@pytest.mark.parametrize("name", ["Background", "__background__", "_background_", "background ", "BACKGROUND"])
def test_background_is_no_class(name):
    assert "background is no class" in (words.no_class(name) or "")


@pytest.mark.parametrize(
    "name",
    [
        "nan",
        "NaN",
        "None",
        "null",
        "N/A",
        "-",
        "--",
        "?",
        "['cat']",
        '["cat", "dog"]',
        "{cat}",
        "['cat'",
        "'dog'",
        "x" * 201,
    ],
)
def test_what_programs_write_is_no_class(name):
    assert words.no_class(name)


@pytest.mark.parametrize(
    "name", ["cat", "t-shirt", "7", "none of it", "background car", "New York", "猫", "bolt (M4)", "a" * 200]
)
def test_words_are_classes(name):
    assert words.no_class(name) is None


def test_look_alikes():
    names = [
        "bird",
        "bird (1)",
        "tree",
        "tree - Copy",
        "t-shirt",
        "traffic light",
        "traffic_light",
        "cat",
        "с" + "at",
        "dog",
        "dogs",
        "bus",
        "glass",
        "résumé",
        "resume",
    ]
    assert {frozenset(group) for group in words.look_alike(names)} == {
        frozenset({"traffic light", "traffic_light"}),
        frozenset({"cat", "с" + "at"}),  # Cyrillic
        frozenset({"dog", "dogs"}),
        frozenset({"bird", "bird (1)"}),
        frozenset({"tree", "tree - Copy"}),
        frozenset({"résumé", "resume"}),
    }


def test_misspelt():
    counts = {"motorbike": 100, "motorbke": 2, "horse": 90, "house": 80, "cow": 50, "cew": 1}
    assert list(words.misspelt(counts)) == [("motorbke", "motorbike")]


# ---------------------------------------------------------------------------------------------------- in a data set


def table(root, *rows: str, head: str = "image,tags"):
    for row in rows:
        photo(root / "images" / row.split(",")[0])
    write(root / "tags.csv", "\n".join([head, *rows]) + "\n")
    return root


def test_one_class_however_it_is_spelt(tmp_path):
    table(tmp_path, *(f'{number}.jpg,"{spelling}"' for number, spelling in enumerate(SAME)), "x.jpg,dog")
    dataset = data.load(tmp_path)
    assert dataset.classes == ("café", "dog")
    assert [sample.labels for sample in dataset.samples] == [{0}] * len(SAME) + [{1}]
    (finding,) = data.read(tmp_path, DataSettings(), "train").findings
    assert finding.level == "warning" and "'CAFÉ', 'Café', 'café' are taken as one class" in str(finding)


def test_one_class_folder_however_it_is_spelt(tmp_path):
    for name in ("Cat/1.jpg", "cat/2.jpg", "cat /3.jpg", "dog/4.jpg"):
        photo(tmp_path / name)
    dataset = data.load(tmp_path)
    assert dataset.classes == ("cat", "dog") and [sample.labels for sample in dataset.samples] == [{0}, {0}, {0}, {1}]


def test_listed_in_classes_txt_they_are_several(tmp_path):
    table(tmp_path, "1.jpg,a", "2.jpg,A")
    write(tmp_path / "classes.txt", "A\na\n")
    assert tags(data.load(tmp_path)) == {"1": {"a"}, "2": {"A"}}


@pytest.mark.parametrize("tag", ["nan", "None", "-", "['cat']", "N/A", "null"])
def test_tags_that_are_none_are_named_with_their_line(tmp_path, tag):
    said = refused(table(tmp_path, "1.jpg,dog", f'2.jpg,"{tag}"'))
    assert "tags.csv line 3" in said and tag in said
    if tag != "['cat']":
        write(tmp_path / "classes.txt", f"dog\n{tag}\n")
        assert data.load(tmp_path).classes == ("dog", tag)


def test_two_tags_in_one(tmp_path):
    said = refused(table(tmp_path, "1.jpg,cat", "2.jpg,dog", "3.jpg,cat dog"))
    assert "tags.csv line 4: 'cat dog' looks like 2 tags: write cat;dog" in said
    for joined in ("cat/dog", "cat & dog", "cat+dog", "cat and dog", "Cat  Dog"):
        assert "looks like 2 tags: write" in refused(table(tmp_path, "1.jpg,cat", "2.jpg,dog", f"3.jpg,{joined}"))
    said = refused(table(tmp_path, "1.jpg,cat", "2.jpg,dog", "3.jpg,\"['cat', 'dog']\""))
    assert "line 4: ['cat', 'dog'] is in a program's notation" in said
    assert data.load(table(tmp_path, "1.jpg,light", "2.jpg,traffic light")).classes == ("light", "traffic light")
    write(tmp_path / "classes.txt", "cat\ndog\ncat dog\n")
    table(tmp_path, "1.jpg,cat", "2.jpg,dog", "3.jpg,cat dog")
    assert data.load(tmp_path).classes == ("cat", "dog", "cat dog")


def test_background_from_any_reader(tmp_path):
    said = refused(table(tmp_path / "csv", "1.jpg,cat", "2.jpg,Background"))
    assert "tags.csv line 3: background is no class" in said and "--classes" in said
    assert tags(data.load(tmp_path / "csv", DataSettings(classes=("cat",)))) == {"1": {"cat"}, "2": set()}
    for name in ("cat/1.jpg", "__background__/2.jpg"):
        photo(tmp_path / "folders" / name)
    assert "background is no class" in refused(tmp_path / "folders")
    assert tags(data.load(tmp_path / "folders", DataSettings(classes=("cat",)))) == {
        "cat/1": {"cat"},
        "__background__/2": set(),
    }
    write(tmp_path / "csv" / "classes.txt", "cat\nBackground\n")
    assert "classes.txt line 2: background is no class" in refused(tmp_path / "csv")
    assert "background is no class" in refused(tmp_path / "folders", DataSettings(class_names=("cat,background",)))


def test_class_names_by_number(tmp_path):
    table(tmp_path, "1.jpg,1", "2.jpg,0;1")
    dataset = data.load(tmp_path, DataSettings(class_names=("cat,dog",)))
    assert tags(dataset) == {"1": {"dog"}, "2": {"cat", "dog"}} and dataset.classes == ("cat", "dog")
    names = write(tmp_path / "names.txt", "cat\ndog\n")
    assert data.load(tmp_path, DataSettings(class_names=(str(names),))).classes == ("cat", "dog")
    assert "line 3: unknown class '2'" in refused(
        table(tmp_path, "1.jpg,1", "2.jpg,2"), DataSettings(class_names=("cat,dog",))
    )
    assert "--class-names has 'cat' twice" in refused(tmp_path, DataSettings(class_names=("cat,cat",)))


def test_selecting_by_another_spelling(tmp_path):
    table(tmp_path, "1.jpg,Cat", "2.jpg,Dog")
    assert data.load(tmp_path, DataSettings(classes=("cat",))).classes == ("Cat",)


@pytest.mark.parametrize(
    ("first", "second"),
    [("disc", "ｄｉｓｃ"), ("カ", "ｶ"), ("\u2764", "\u2764\ufe0f"), ("Straße", "STRASSE"), ("cat", "cat\u2060")],
)
def test_forms_of_letters_are_one_word(first, second):
    assert words.folded(first) == words.folded(second)


@pytest.mark.parametrize(
    "tag",
    ["“cat”", "“cat", "cat”", "«cat»", "‘cat’", "cat:0.9", "dog:0", "dog = 0", "&lt", "salt &amp", "#REF!", "#DIV/0!"],
)
def test_more_that_programs_write(tag):
    assert words.no_class(tag)


@pytest.mark.parametrize("name", ["mask:2", "'s-Gravenhage", "dogs'", "R&B", "5'", "a:b", "O’Neill"])
def test_more_words_that_are_classes(name):
    assert words.no_class(name) is None


def test_words_joined_to_others():
    assert list(words.joined(["cat", "cat & dog", "house cat", "salt and pepper"])) == [("cat & dog", "cat")]
    assert list(words.joined(["cat", "dog", "cat_dog", "traffic_light", "light"])) == [("cat_dog", "cat")]
    assert list(words.several_words(["cat", "dog", "cat\\dog"])) == [("cat\\dog", ["cat", "dog"])]


def test_separators_of_full_width(tmp_path):
    photo(tmp_path / "images/1.jpg")
    write(tmp_path / "tags.csv", "image,tags\n1.jpg,cat；dog｜cow\n")
    assert tags(data.load(tmp_path)) == {"1": {"cat", "dog", "cow"}}
    write(tmp_path / "tags.csv", "image,tags\n1.jpg,cat、dog\n")
    assert "has a comma in it" in refused(tmp_path)


def test_how_many_of_a_thing():
    things = ("photo", "training photo", "class", "process", "box", "patch")
    assert [some(1, thing) for thing in things] == [f"1 {thing}" for thing in things]
    assert [some(n, thing) for n, thing in enumerate(things, 2)] == [
        "2 photos", "3 training photos", "4 classes", "5 processes", "6 boxes", "7 patches",
    ]  # fmt: skip
    assert some(0, "mask") == "0 masks"


def test_two_columns_of_one_name(tmp_path):
    write(tmp_path / "tags.csv", "image,cat,cat\n1.jpg,1,0\n")
    assert "has two columns 'cat'" in refused(tmp_path)
