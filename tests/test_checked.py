"""What is known of a million photos without an object each: columns of records, digests and orders made in passing."""

from __future__ import annotations

import json
import posixpath
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tag2mask.data.check import CheckedImage, check_image
from tag2mask.data.checked import CheckedPhotos, stamps_of
from tag2mask.data.ids import sample_id, tidy
from tag2mask.data.samples import Chosen, Joined, Samples, keys_of, paths_of
from tag2mask.files import digest, digest_of_rows
from tag2mask.plan.records import put_in_order, read_records
from tag2mask.stages.photos import RECORD
from world import SMALL, run

CHECKED = [
    CheckedImage("a", 3, 5, "ab" * 16, split="train", signs="0123456789abcdef"),
    CheckedImage("b/\udce4\n", 70_000, 2, "cd" * 16, split="val", note="12 bits"),
    CheckedImage("c", error="c.jpg ist keine Datei \u00e4", split="train"),
    CheckedImage("b/\udce4\n", 4, 6, "ef" * 16, split="train"),
]
STAMPS = [[1, 2, 3], [2**62, 5, 6, 7], [], [9, 9, 9]]


def records() -> list[dict[str, object]]:
    return [{**asdict(check), "stamp": stamp} for check, stamp in zip(CHECKED, STAMPS, strict=True)]


def test_columns_hold_what_records_hold(tmp_path: Path) -> None:
    photos = CheckedPhotos.of(records())
    photos.write(tmp_path / ".columns.npz", [7, 8])
    kept = CheckedPhotos.read(tmp_path / ".columns.npz", [7, 8])
    assert kept is not None and CheckedPhotos.read(tmp_path / ".columns.npz", [7, 9]) is None
    for one in (photos, kept):
        assert [one.check(place) for place in range(4)] == CHECKED and [*one.unreadable()] == [CHECKED[2]]
        assert (one.rows["stamp"] == stamps_of(STAMPS)).all()
        assert (
            dict(one) == {check.key: one[check.key] for check in CHECKED if check.error is None}
            and one["val", "b/\udce4\n"].height == 70_000
        )
        for key in (("train", "c"), ("val", "a"), ("test", "a")):
            assert key not in one and one.get(key) is None
    assert CheckedPhotos.of(()).get(("train", "a")) is None


def test_photos_are_found_in_any_order_and_the_last_record_counts() -> None:
    photos = CheckedPhotos.of([*records(), {**records()[0], "height": 8}])
    assert photos.ids == ["b/\udce4\n", "c", "b/\udce4\n", "a"] and photos["train", "a"].height == 8
    keys = [photos.check(place).key for place in range(4)]
    assert photos.places(keys).tolist() == [0, 1, 2, 3]
    assert photos.places([keys[0], ("train", "new"), *keys[1:]]).tolist() == [0, -1, 1, 2, 3]
    assert photos.places(reversed(keys)).tolist() == [3, 2, 1, 0] and photos.places(keys[:2]).tolist() == [0, 1]
    assert [*photos.digests(np.array([3, 0]))] == ["ab" * 16, "cd" * 16]
    assert photos.readable(np.array([0, 1, -1])).tolist() == [True, False, False]


@pytest.mark.parametrize("change", [{"height": 10**30}, {"stamp": ["x"]}, {"stamp": [2**70]}, {"width": -(2**40)}])
def test_a_record_of_what_no_photo_has_is_passed_over(change: dict[str, object]) -> None:
    assert CheckedPhotos.of([records()[0] | change, records()[3]]).ids == ["b/\udce4\n"]


def test_damaged_columns_are_none(tmp_path: Path) -> None:
    """Any byte of them: what is read is what was written, or nothing."""
    path = tmp_path / ".columns.npz"
    photos = CheckedPhotos.of(records())
    photos.write(path, [1])
    content, draw = path.read_bytes(), random.Random(0)
    for place in draw.sample(range(len(content)), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        read = CheckedPhotos.read(path, [1])
        assert read is None or [read.check(place) for place in range(4)] == CHECKED
    for part in (content[:0], content[: len(content) // 2], content[:-1]):
        path.write_bytes(part)
        assert CheckedPhotos.read(path, [1]) is None
    path.unlink()
    assert CheckedPhotos.read(path, [1]) is None


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 9000])
def test_a_digest_of_rows_is_that_of_their_list(count: int) -> None:
    rows = [(f"p{number}\u00e4\udce4", [number, None], {"b": 1, "a": 2}) for number in range(count)]
    assert digest_of_rows(iter(rows)) == digest(rows)
    assert digest_of_rows(iter(rows), ("cat", "dog"), 3) == digest([rows, ("cat", "dog"), 3])


def test_records_are_put_in_order(tmp_path: Path) -> None:
    """The last of each photo, without what is damaged or of no photo; a file that was cut, too."""
    path = tmp_path / "records.jsonl"
    lines = [json.dumps(record) for record in records()]
    newer = json.dumps(records()[0] | {"artefact": False})
    path.write_text("\n".join([lines[3], lines[0], '{"id": "c", "spl', "[]", lines[1], newer, lines[2]]))
    keys = [check.key for check in CHECKED]
    assert put_in_order(path, RECORD, [*keys[:3], ("train", "new")]) == ["a"]
    assert path.read_text() == f"{newer}\n{lines[1]}\n{lines[2]}\n"
    assert [record["id"] for record in read_records(path, RECORD)] == [check.id for check in CHECKED[:3]]
    assert put_in_order(tmp_path / "none.jsonl", RECORD, keys) == []


def test_names_of_photos_are_tidied_as_the_library_does() -> None:
    """The quick way and the slow one agree."""
    draw = random.Random(1)
    for _ in range(4000):
        name = "".join(draw.choice("ab./\\ ") for _ in range(draw.randrange(9)))
        assert tidy(name) == posixpath.normpath(name.replace("\\", "/"))
        inside = name.rpartition("/")[2] if name.startswith(("/", "../")) else name
        folder, slash, last = inside.rpartition("/")
        stem = last.rpartition(".")[0] or last
        assert sample_id(name) == folder + slash + (stem if stem.strip(".") else last.replace(".", "_"))


def test_some_of_the_samples_of_several_sequences() -> None:
    train = Samples(Path("/data"), ["a.jpg", "/other/b.jpg"], [None, None], split="train")
    joined = Joined(train, Samples(Path("/data"), ["a.jpg"], [None], split="val"))
    assert [*paths_of(joined)] == [str(sample.image_path) for sample in joined] == [*paths_of([*joined])]
    chosen = Chosen(joined, [2, 0, 1])
    assert [*keys_of(chosen)] == [("val", "a"), ("train", "a"), ("train", "b")] == [s.key for s in chosen]
    assert [s.key for s in chosen[1:]] == [("train", "a"), ("train", "b")] == [s.key for s in joined[:2]]
    assert chosen[-1].key == ("train", "b") and len(chosen[::2]) == 2


def test_checking_goes_on_where_it_was_cut_and_needs_no_columns(world: Path, tmp_path: Path) -> None:
    """Half of the records and a piece of one; then columns that are damaged: nothing is read twice, the same bytes."""
    command, own = (
        ["label", world, "--out", tmp_path / "run", *SMALL, "--until", "images"],
        tmp_path / "run/images/.stage",
    )
    assert run(*command) == 0
    whole, columns = (own / "records.jsonl").read_bytes(), (own / ".columns.npz").read_bytes()
    lines = whole.splitlines(keepends=True)
    (own / "records.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
    (own / "manifest.json").unlink()
    with pytest.MonkeyPatch.context() as patched:
        checked: list[str] = []
        patched.setattr(
            "tag2mask.stages.photos.check_image", lambda sample: (checked.append(sample.id), check_image(sample))[1]
        )
        assert run(*command) == 0
    assert len(checked) == len(lines) - 5 and (own / "records.jsonl").read_bytes() == whole
    written = (own / "records.jsonl").stat().st_mtime_ns
    (own / ".columns.npz").write_bytes(columns[:200])
    assert run(*command) == 0
    assert (own / "records.jsonl").stat().st_mtime_ns == written and CheckedPhotos.is_kept(
        own / ".columns.npz", [len(whole), written]
    )
