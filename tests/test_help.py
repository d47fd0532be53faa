"""Help that is read, settings that explain themselves, output for people, for log files and for programs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import logging
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tag2mask import methods, progress
from tag2mask.cli.completion import FLAG, SHELLS, flags_of_commands
from tag2mask.cli.flags import SHORT
from tag2mask.cli.help import GROUPS, first_screen
from tag2mask.cli.parsing import field_texts
from tag2mask.recipes import RunSettings, recipe
from world import SMALL, run

FIRST = [flag.split()[0] for flags in GROUPS.values() for flag in flags]
OWN = {"--quiet", "--json", "--help-all", "--recipe", "--method", "--seeds"}  # of the command, not of its settings


def test_the_first_screen_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "label", "plan"):
        assert run(command, "--help") == 0
        shown = capsys.readouterr().out
        assert shown == first_screen(command) and f"tag2mask {command} DATA" in shown
        lines = shown.splitlines()
        assert len(lines) <= 50 and max(map(len, lines)) <= 113
        assert ("--shard" in shown) == (command == "label") != ("--segmenter" in shown)
        assert ("--seeds" in shown) == ("--json" in shown) == (command != "plan")  # which refuses them
    assert 18 <= len(FIRST) <= 30 and len({*FIRST}) == len(FIRST)


def test_the_first_screen_imports_nothing_heavy() -> None:
    code = "import sys; from tag2mask.cli import dispatch; dispatch(['train', '--help']); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [heavy for heavy in ("torch", "timm", "numpy", "tyro", "rich", "PIL") if f"'{heavy}'" in out]


def test_every_flag_of_the_first_screen_is_one_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help-all") == 0
    shown = capsys.readouterr().out
    words = " ".join(word for word in shown.split() if word != "│")
    texts = field_texts(RunSettings)
    assert len(texts) >= 20 and {"seed", "balance", "refine", "aside_gb"} <= texts.keys()
    for name in ("held_out", "balance", "propagate", "refine", "seed", "with_masks", "workers", "verify", "aside_gb"):
        assert texts[name] in words, name
    every = set(FLAG.findall(shown))
    for flag in set(FIRST) - OWN:
        long = SHORT.get(flag, flag)
        assert long in every or long.replace(".freeze", ".no-freeze") in every, flag
    assert len(every) > 100


def test_the_first_screen_tells_the_defaults() -> None:
    written = {"all": (), "default": "default"}
    settings, seen = recipe("default"), 0
    for flag, line in {k: v for flags in GROUPS.values() for k, v in flags.items()}.items():
        if (told := re.fullmatch(r".*\[(.+)\]", line)) is None or flag.split()[0] in ("--recipe", "--seeds"):
            continue
        value: Any = settings
        for part in SHORT.get(flag.split()[0], flag.split()[0]).removeprefix("--").replace("-", "_").split("."):
            value = getattr(value, part)
        assert value == written.get(told[1], told[1]) or str(value) == told[1], flag
        seen += 1
    assert seen >= 12


def _documented(cls: type) -> set[str]:
    """Fields that a text follows, in the class or those it builds on."""
    found: set[str] = set()
    for base in cls.__mro__:
        if dataclasses.is_dataclass(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, text in zip(tree.body, tree.body[1:], strict=False):
                said = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and text.value.value
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and said:
                    found.add(field.target.id)
    return found


def _settings(settings: Any, path: str) -> Iterator[tuple[str, bool]]:
    """Every setting, and whether it says what it is; one that is a group says so in its class."""
    known = _documented(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield f"{path}.{field.name}", bool(field.name in known or type(value).__doc__)
            yield from _settings(value, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", field.name in known


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_setting_says_what_it_is(name: str) -> None:
    every = dict(_settings(dataclasses.replace(RunSettings(), method=name, options=methods.entry(name).settings()), ""))
    assert len(every) > 90 and [path for path, said in every.items() if not said] == []


# --- output


def label(world: Path, out: Path, *flags: str) -> list[str]:
    return ["label", str(world), "--out", str(out), *SMALL, "--refine", "none", *flags]


STAGES = ("images", "method", "maps", "separation", "masks")


def test_json_is_one_event_a_line(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*label(world, tmp_path / "run", "--json")) == 0
    said = capfd.readouterr()
    events = [json.loads(line) for line in said.out.splitlines()]
    assert said.err == "" and {e["event"] for e in events} == {"stage", "progress", "log", "result"}
    stages = [(e["state"], e["name"]) for e in events if e["event"] == "stage"]
    assert stages == [(s, n) for n in (*STAGES, "scores") for s in ("begins", "ends")]
    done = [e for e in events if e["event"] == "progress" and e["title"] == "pseudo masks"]
    assert done[-1]["done"] == done[-1]["total"] == 9
    assert events[-1]["event"] == "result" and 0 <= events[-1]["mean_iou"]["masks"] <= 100
    assert Path(events[-1]["report"]).is_file()
    for flags, last in (
        (("--shard", "1/1"), {"waiting": None}),
        (("--until", "maps"), {"report": ANY, "mean_iou": ANY}),
    ):
        assert run(*label(world, tmp_path / "run", *flags, "--json")) == 0
        lines = capfd.readouterr().out.splitlines()
        assert json.loads(lines[-1]) == {"event": "result", "run": str(tmp_path / "run"), **last}


def test_an_error_is_an_event_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*label(tmp_path / "nothing", tmp_path / "run", "--json")) == 2
    said = capfd.readouterr()
    event = json.loads(said.out.splitlines()[-1])
    assert event["event"] == "error" and said.err.strip() == f"tag2mask: {event['message']}"


def test_quiet_says_errors_alone(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*label(world, tmp_path / "run", "--quiet")) == 0
    assert capfd.readouterr() == ("", "")
    assert run(*label(world / "images", tmp_path / "other", "--quiet")) == 2
    assert capfd.readouterr().err.startswith("tag2mask: ")


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """By a clock of its own: 100 photos, one a second, so three lines; and never a carriage return."""
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    progress.show()
    progress.listen(None)  # not as an earlier test left it
    caplog.set_level(logging.INFO, "tag2mask")
    monkeypatch.setattr(logging.getLogger("tag2mask"), "handlers", [])  # of another test
    logging.getLogger("tag2mask").propagate = True
    with progress.bar("training", 100) as update:
        for count in range(1, 101):
            update(count, "loss 0.5")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "training: 30 of 100 (30 %), loss 0.5, 1.2 min left" and len(lines) == 3
    assert not any("\r" in line for line in lines)


# --- the shell


def test_completion_knows_every_command_and_flag() -> None:
    from tag2mask.cli import commands

    table = flags_of_commands(commands())
    assert table.keys() == commands().keys()
    assert {"--classes", "--method", "--cam.dropout", "--train.epochs", "--help-all", "--out"} <= {*table["train"]}
    assert {"--shard", "--until"} <= {*table["label"]}
    assert {"--to", "--first", "--limit"} <= {*table["export"]} and {"--from", "--accepted"} <= {*table["import"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(shell: str, tmp_path: Path) -> None:
    """Bash really completes; the others at least read it, where they are installed."""
    table = {"train": ["--classes", "--class-names", "--help"], "export": ["--to"]}
    script = tmp_path / "script"
    script.write_text(SHELLS[shell](table))
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    if shell != "bash":
        subprocess.run([shell, "-n", str(script)], check=True)
        return
    ask = f"source {script}; COMP_WORDS=(tag2mask {{}}); COMP_CWORD={{}}; _tag2mask; echo ${{{{COMPREPLY[@]}}}}"
    for words, place, expected in (
        ("tr", 1, "train"),
        ("train --cla", 2, "--classes --class-names"),
        ("train ph", 2, ""),
    ):
        done = subprocess.run([shell, "-c", ask.format(words, place)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
