"""The examples keep what their kinds keep, and run as their first lines say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fuzz
import test_layouts as contract
from data_sets import photo, refused, tags, write
from tag2mask import data
from tag2mask.cli.runs import parse_run
from tag2mask.data import LAYOUTS, DataSettings
from tag2mask.methods.check import check_method
from tag2mask.refine import REFINERS
from tag2mask.refine.check import check_refiner
from test_methods import small_backbone
from world import SMALL, fails, redone, run, stamps

EXAMPLES = Path(__file__).parents[1] / "examples"


LABEL = [*SMALL[: SMALL.index("--segmenter-augment.size")], "--localize.precision", "float32"]  # what label has of it


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports an example by name; what it joined is forgotten after the test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = dict(REFINERS)
    yield importlib.import_module
    for name in ("method", "refiner", "stage"):
        sys.modules.pop(name, None)
    for name in REFINERS.keys() - before.keys():
        del REFINERS[name]


def test_the_method_keeps_the_contract(example):
    method = example("method")
    check_method(
        method.SoftMaxPooling,
        method.Settings(),
        small_backbone,
    )


def test_the_method_by_its_name(world, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))
    name = ("--method", "examples.method:SoftMaxPooling")
    assert run("label", world, "--out", tmp_path / "run", *LABEL, *name, "--soft_max_pooling.sharpness", 8) == 0
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    said = fails(capsys, "label", world, "--out", tmp_path / "no", *LABEL, *name, "--soft_max_pooling.sharpness", 0)
    assert "sharpness is 0: it must be above 0" in said


def test_the_refiner_keeps_the_contract(example):
    check_refiner(example("refiner").GuidedFilter)


def test_the_refiner_follows_edges(example):
    """Scores that end three pixels off the photo's edge end at the edge; without contrast nothing moves there."""
    image = torch.full((1, 3, 24, 40), 40, dtype=torch.uint8)
    image[..., 20:] = 220
    scores = torch.zeros(1, 2, 24, 40)
    scores[:, 0, :, 17:], scores[:, 1, :, :17] = 1, 1
    refiner = example("refiner").GuidedFilter()
    assert (refiner.refine(image, scores)[0, 1, :, 17:20] > 0.5).all()
    assert not (refiner.refine(torch.full_like(image, 90), scores)[0, 1, :, 18:20] > 0.5).any()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "made"), [("refiner", "masks/photo00.png"), ("stage", "areas/areas.csv")])
def test_it_runs_on_photos(example, world, tmp_path, name, made):
    """With the small network; a second time nothing is made again."""
    _, out, settings = parse_run([str(world), "--out", str(tmp_path / "run"), *LABEL], "label")
    main = example(name).main
    assert Path(main(str(world), str(out), settings)).exists()
    before = stamps(out)
    assert made in before
    main(str(world), str(out), settings)
    assert redone(before, stamps(out)) == set()


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


@pytest.mark.slow
def test_it_runs(tmp_path):
    json_lines(tmp_path / "set")
    command = [sys.executable, str(EXAMPLES / "layout.py"), str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "is read as json-lines: tags in metadata.jsonl: 4 photos of cat, dog" in done.stdout
