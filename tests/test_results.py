"""The table of docs/results.md: made by one command on a tiny world, whole, and without doing anything twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from world import SMALL

FILE = Path(__file__).parents[1] / "benchmarks" / "results.py"


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_results", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setenv("PYTHONPATH", "")  # the benchmark sets it
    spec.loader.exec_module(module)
    return module


def figures(seed: int, signals: list[str], **values: float | None) -> dict[str, Any]:
    weights = [{"backbone": "b", "digest": "0123456789ab"}]
    passport = {"signals": signals, "weights": weights, "chosen_on_truth": ["x"]}
    return {"seed": seed, "minutes": 2.0, "passport": passport, "commit": "abc", **values}


def test_every_method_has_a_row_and_paper_scale_has_none(results: ModuleType) -> None:
    rows = results.known_rows("maps")
    assert set(results.METHODS) <= rows.keys() and {"quick", "frozen", "ppl/agree"} <= rows.keys()
    assert not {"mcis/paper", "apc/e2e", "smaf", "demo"} & rows.keys()
    assert rows["eps"].flags == ("--method", "eps", "--saliency", "maps") and "--saliency" not in rows["cam"].flags


def test_a_recipe_takes_no_methods_row(results: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = results.recipe
    monkeypatch.setattr(results, "RECIPES", (*results.RECIPES, "ppl"))
    monkeypatch.setattr(results, "recipe", lambda name: plain("quick" if name == "ppl" else name))
    with pytest.raises(AssertionError, match="the recipe ppl would take the row of the method"):
        results.known_rows("auto")


def test_the_table_by_hand(results: ModuleType) -> None:
    """Mean and deviation over seeds, share of the ceiling, a dash for what was not measured, a table a supervision."""
    tags = [figures(0, ["tags"], maps=50.0, refined=40.0), figures(1, ["tags"], maps=53.0, refined=44.0)]
    other = [figures(0, ["tags", "saliency maps"], maps=60.0, refined=None)]
    text = results.table({"cam": tags, "eps": other}, 80.0, ["a note"])
    first, second = (line for line in text.splitlines() if line.startswith(("| cam", "| eps")))
    assert first == "| cam | 0, 1 | 51.5 ± 2.1 | - | - | - | - | 42.0 ± 2.8 | 52.5 ± 3.5 | 2.0 ± 0.0 | " + (
        "b 01234567; 1 choices made on truth; commit abc |"
    )
    assert second.startswith("| eps | 0 | 60.0 | - | - | - | - | - | - | 2.0 |")
    assert text.index("| cam") < text.index("Learned from tags, saliency maps:") < text.index("| eps")


def test_figures_of_another_day_stand_in_the_table_those_of_other_photos_do_not(
    results: ModuleType, tmp_path: Path
) -> None:
    row = results.known_rows("auto")["cam"]
    voc, tiles = (results.Measurements(tmp_path, (name, "--train-split", "train")) for name in ("voc", "tiles"))
    for seed in (10, 2):
        voc.write(row, seed, figures(seed, ["tags"], maps=50.0 + seed))
    assert [(found["seed"], found["maps"]) for found in voc.of(row)] == [(2, 52.0), (10, 60.0)]
    assert voc.read(row, 2)["maps"] == 52.0 and voc.read(row, 0) is None
    assert tiles.of(row) == [] and tiles.read(row, 2) is None and voc.of(results.known_rows("auto")["ppl"]) == []


def test_only_what_is_between_the_marks_changes(results: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    results.write(page, "new")
    assert page.read_text() == f"before\n{results.BEGIN}\n\nnew\n\n{results.END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="nothing was written"):
        results.write(page, "new")
    assert page.read_text() == "nothing"
    assert results.BEGIN in (FILE.parents[1] / "docs" / "results.md").read_text()


def test_the_ceiling_is_measured_once_whichever_seeds_are_asked_for(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, asked = tmp_path / "page.md", []
    page.write_text(f"{results.BEGIN}\n{results.END}\n")

    def measure(row: Any, data: Path, run: Path, seed: int, flags: list[str]) -> dict[str, Any]:
        oracle = "--oracle-masks" in flags
        asked.append((row.name, seed, oracle))
        return figures(seed, ["tags"]) | {"ceiling": 70.0 if oracle else None}

    monkeypatch.setattr(results, "measure", measure)
    for seeds in ("2", "0", "1"):
        with pytest.raises(SystemExit, match="0"):
            results.main(["voc", "--out", str(tmp_path), "--page", str(page), "--rows", "ppl,cam", "--seeds", seeds])
    assert asked == [(name, seed, (name, seed) == ("cam", 2)) for seed in (2, 0, 1) for name in ("ppl", "cam")]


@pytest.mark.slow
def test_two_methods_and_two_seeds(
    results: ModuleType, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, measured, written; a second call trains nothing; a row that fails is named and the rest is written."""
    page = tmp_path / "page.md"
    page.write_text(f"{results.BEGIN}\n{results.END}\n")
    call = [str(world), "--out", str(tmp_path / "runs"), "--seeds", "0", "1", "--page", str(page)]

    def made(rows: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            results.main([*call, "--rows", rows, "--", *SMALL])
        return int(ended.value.code or 0), page.read_text()

    code, text = made("cam,ppl")
    assert code == 0
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith(("| cam", "| ppl"))]
    assert [line[0] for line in lines] == ["| cam", "| ppl"]
    for _, seeds, *cells in lines:
        assert seeds == "0, 1" and all("±" in cell for cell in cells[:-1])
    assert "on true masks" in text and "Learned from image-level tags:" in text

    started = []

    def failing(command: list[str], **more: Any) -> None:
        started.append(command)
        raise subprocess.CalledProcessError(2, command)

    monkeypatch.setattr(results.subprocess, "run", failing)
    assert made("cam,ppl")[0] == 0 and not started
    code, text = made("cam,quick")
    assert code == 1 and len(started) == 2 and "Failed: quick, seed 0 (exit code 2); quick, seed 1" in text
    assert "| cam |" in text and "| ppl |" in text  # which was not asked for this time, but is measured
