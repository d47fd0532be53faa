"""Files that appear whole or not at all, JSON read with a clear word, digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tag2mask.compare.page import check_page
from tag2mask.data.download import download
from tag2mask.errors import InputError
from tag2mask.files import (
    atomic,
    bytes_digest,
    check_outside_runs,
    check_own_folder,
    digest,
    read_json,
    read_jsonl,
    read_object,
    whole_folder,
    write_json,
)


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
    with pytest.raises(InputError, match=r"disk full while writing .*finished work is kept"), atomic(path) as file:
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


def test_one_file_written_by_several_threads_is_that_of_one_of_them(tmp_path: Path) -> None:
    """All have it open at once; and what a kill would leave is found by the pattern that a stage clears away."""
    path, at_once, several = tmp_path / "a.bin", threading.Barrier(4), range(4)

    def write(number: int) -> None:
        with atomic(path, "wb") as file:
            file.write(bytes([number]) * 1000)
            at_once.wait(10)
            if number == 0:
                open_then.extend(place.name for place in tmp_path.glob(".*.tmp"))
            at_once.wait(10)
            file.write(bytes([number]) * 1000)

    open_then: list[str] = []
    with ThreadPoolExecutor(len(several)) as pool:
        list(pool.map(write, several))  # raises what they raise
    assert len(open_then) == len(several) and [place.name for place in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() in {bytes([number]) * 2000 for number in several}


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


def test_nothing_is_written_into_a_run_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "run" / "masks").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "run" / "masks")
    for out in ("run", "run/masks", "run/deeper/than/that", "link", "link/deeper", "other/../run/x"):
        with pytest.raises(InputError, match="lies in the run folder"):
            check_outside_runs(tmp_path / out)
    check_outside_runs(tmp_path / "other")


def test_links_that_lead_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for out in ("a", "a/deeper"):
        for is_run in (False, True):
            with pytest.raises(InputError, match="links lead in a circle; give another folder"):
                check_outside_runs(tmp_path / out, is_run=is_run)


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be asked for there")
def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as own:
        left = own.with_name(own.name.replace(f"-{os.getpid()}.", "-4194305."))  # above any number of a process
        running = own.with_name(own.name.replace(f"-{os.getpid()}.", f"-{os.getppid()}."))
        elsewhere = tmp_path / ".out.another-machine-4194305.writing"
        for place in (left, running, elsewhere):
            place.mkdir()
            (place / "file").write_text("half")
    with whole_folder(tmp_path / "out"):
        pass
    assert not left.exists() and running.exists() and elsewhere.exists() and (tmp_path / "out").is_dir()


def test_a_folder_where_a_file_is_to_be(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html is a folder, and a file is to be written there"):
        write_json(tmp_path / "report.html", {})
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_a_folder_of_other_files_is_not_written_into(tmp_path: Path) -> None:
    """Truth in ``masks/``, photos elsewhere: masks under the same names would replace them."""
    check_own_folder(tmp_path / "new" / "deep", ".mark")
    (tmp_path / ".DS_Store").write_text("")
    check_own_folder(tmp_path, ".mark")  # nothing that is seen
    (tmp_path / "photo.png").write_text("mine")
    with pytest.raises(InputError, match=r"no earlier such command wrote \(photo.png\)"):
        check_own_folder(tmp_path, ".mark")
    (tmp_path / ".mark").write_text("{}")
    check_own_folder(tmp_path, ".mark")  # an earlier call began there
    with pytest.raises(InputError, match="png is a file"):
        check_own_folder(tmp_path / "photo.png" / "below", ".mark")


def test_a_comparison_replaces_no_other_file(tmp_path: Path) -> None:
    check_page(tmp_path / "new.html")
    (tmp_path / "page.html").write_text("<title>2 ways compared</title>")
    check_page(tmp_path / "page.html")
    (tmp_path / "report.html").write_text("<title>a report</title>")
    for path in (tmp_path / "report.html", tmp_path):
        with pytest.raises(InputError, match="is no page of a comparison"):
            check_page(path)


def test_a_download_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        download("voc2012", tmp_path / "file" / "below")
