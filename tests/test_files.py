"""Files that appear whole or not at all, JSON read with a clear word, digests."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from tag2mask.errors import InputError
from tag2mask.files import atomic, bytes_digest, digest, read_json, read_jsonl, read_object, write_json


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_one_line_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="disk full while writing .*finished work is kept"), atomic(path) as file:
        file.write("half")
        raise OSError(number, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), atomic(tmp_path / "a.json"):
        raise OSError(errno.EIO, "Input/output error")


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".png")
    with atomic(path, "wb") as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("content", ["{", '{"a": ', "\udcff", "[" * 100_000])
def test_json_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"a\.json is not valid JSON .* damaged"):
        read_json(path)
    assert read_object(path) is None and read_jsonl(path) == []


def test_an_object_is_an_object(tmp_path: Path) -> None:
    assert read_object(tmp_path / "absent.json") is None and read_jsonl(tmp_path / "absent.jsonl") == []
    for content in ("[1]", "3", "null", '"text"'):
        (tmp_path / "a.json").write_text(content)
        assert read_object(tmp_path / "a.json") is None and read_jsonl(tmp_path / "a.json") == []
    write_json(tmp_path / "a.json", {"a": [1, "ä"]})
    assert read_object(tmp_path / "a.json") == {"a": [1, "ä"]}


def test_a_line_cut_by_an_interruption_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"a": 2}]


def test_digests(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert digest({"name": "caf\udce9"}) != digest({"name": "caf\udce8"})  # a file name that is not UTF-8
    path, content = tmp_path / "a", bytes(range(256)) * 9000  # larger than it is read at once
    path.write_bytes(content)
    assert bytes_digest(path) == hashlib.blake2b(content, digest_size=16).hexdigest()
