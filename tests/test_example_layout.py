"""The example of a layout of one's own keeps what every layout keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzz
import test_layouts as contract
from data_sets import photo, refused, tags, write
from tag2mask import data
from tag2mask.data import LAYOUTS, DataSettings

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's layout and a writer for it, for one test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = dict(LAYOUTS)
    try:
        import layout

        monkeypatch.setitem(LAYOUTS, "json-lines", LAYOUTS.get("json-lines") or layout.LAYOUTS["json-lines"])
        monkeypatch.setitem(contract.WRITERS, "json-lines", json_lines)
        yield
    finally:
        for name in LAYOUTS.keys() - before.keys():
            del LAYOUTS[name]
        sys.modules.pop("layout", None)


def json_lines(root: Path) -> Path:
    lines = []
    for split, name, shown in contract.PHOTOS:
        photo(root / "photos" / split / f"{name}.jpg")
        photo(root / "masks" / "photos" / split / f"{name}.png")
        row = {"file_name": f"photos/{split}/{name}.jpg", "tags": sorted(shown), "split": split}
        lines.append(json.dumps(row))
    write(root / "metadata.jsonl", "\n".join(lines))
    return root


@pytest.mark.parametrize(
    "check",
    [
        contract.test_a_layout_is_recognised_and_said_why,
        contract.test_the_tags_come_back,
        contract.test_what_every_sample_keeps,
        contract.test_one_class_of_two,
        contract.test_a_survey_finds_no_error,
        contract.test_left_overs_of_systems_and_runs_are_nothing,
        contract.test_an_unknown_split,
        contract.test_photos_of_unknown_kinds_are_named,
    ],
)
def test_it_keeps_the_contract(joined, tmp_path, check):
    check("json-lines", tmp_path)


def test_what_is_wrong_has_a_line(joined, tmp_path):
    json_lines(tmp_path)
    for line in ('{"file_name": 3}', '{"file_name": "a.jpg", "tags": "cat"}', "[]", "{"):
        write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "tags": ["cat"]}\n' + line)
        assert "metadata.jsonl line 2 has no file_name" in refused(tmp_path)
    write(tmp_path / "metadata.jsonl", '{"file_name": "a.jpg", "tags": ["cat"]}\n')
    assert "a.jpg for one" in refused(tmp_path)


@fuzz.cases
def test_damaged_lines(joined, tmp_path, count):
    good = json_lines(tmp_path)
    seeds = [(good / "metadata.jsonl").read_bytes()]

    def read(_: Path) -> None:
        opened = data.open_data(tmp_path, DataSettings())
        for split in opened.reader.splits():
            tags(data.read(opened, split=split).dataset)

    fuzz.survives(read, tmp_path / "metadata.jsonl", fuzz.damaged(seeds, count))


def test_it_runs(tmp_path):
    json_lines(tmp_path / "set")
    command = [sys.executable, str(EXAMPLES / "layout.py"), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is read as json-lines: tags in metadata.jsonl: 4 photos of cat, dog" in done.stdout
