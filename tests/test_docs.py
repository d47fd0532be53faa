"""The site is built without a warning, and every command of the README and of the guide runs. Slow."""

from __future__ import annotations

import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import tag2mask
from tag2mask import cli, methods
from tag2mask.cli.completion import flags_of_commands
from tag2mask.review import Review
from test_exchange import submit
from world import CLASSES, SMALL, make, run

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))
OTHERS = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("serve", "scale", "foundation"))]
RUN = ("train", "label", "plan")  # get the flags that make a run take seconds; all else is run as it stands


def commands(page: Path) -> list[list[str]]:
    """Of the page's blocks ``sh``, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


def blocks(page: Path) -> list[str]:
    """All code of a page, each block with its language before it."""
    return re.findall(r"^```(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_every_page_is_found_and_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert len(PAGES) >= 8 and all(f"guide/{page.name}" in navigation for page in PAGES)
    assert all(line[0] == "tag2mask" for page in PAGES for line in commands(page))
    assert sum(len(commands(page)) for page in PAGES) >= 15


@pytest.mark.slow
def test_every_flag_of_a_command_in_the_docs_exists() -> None:
    """Also of those that no test runs: other machines, weights of a hub."""
    known, seen = flags_of_commands(cli.commands()), 0
    own = {(methods.flag(name), f.name) for name in methods.METHODS for f in fields(methods.entry(name).settings())}
    of_methods = {f"--{name}.{setting}".replace("_", "-") for name, setting in own}
    for page in [*PAGES, *OTHERS]:
        code = "\n".join(blocks(page)).replace("\\\n", " ")
        for command, rest in re.findall(r"^(?:.* -m )?tag2mask (\w+)(.*)", code, re.MULTILINE):
            flags = {word.partition("=")[0] for word in shlex.split(rest, comments=True) if word.startswith("--")}
            assert flags <= {*known[command], *of_methods}, (page.name, command, flags - {*known[command]})
            seen += 1
    assert seen > 50


def test_python_in_the_docs_names_what_is_there() -> None:
    code = [b.removeprefix("python\n") for page in [*PAGES, *OTHERS] for b in blocks(page) if b.startswith("python\n")]
    names = {name for text in code if compile(text, "docs", "exec") for name in re.findall(r"tag2mask\.(\w+)", text)}
    assert {"load", "train"} <= names and all(hasattr(tag2mask, name) for name in names)
    for name in tag2mask.__all__:  # no package of the same name takes its place once that is imported
        assert name not in {module.name for module in pkgutil.iter_modules(tag2mask.__path__)}, name
        assert callable(getattr(tag2mask, name))


def prepare(word: str) -> None:
    """What a person or another program leaves between two commands of a page."""
    if word in ("tasks.json", "export.json"):
        submit(Path("tasks"))
        shutil.copy("tasks/tasks.json", word)
    elif word == "annotations.xml":
        first, _, rest = Path("cvat/annotations.xml").read_text().partition("<mask")
        Path(word).write_text(first + rest.partition("</mask>")[2])
    elif word == "truth":
        shutil.copytree("photos/masks", word)
    elif word == "other":
        shutil.copytree("run", word)
    elif word == "review":
        Review(Path("run"), CLASSES).decide(("train", "photo00"), "accepted", mask=np.zeros((48, 72), np.uint8))


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", ["../../README.md", *(page.name for page in PAGES if commands(page))])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with photos, new photos, and (but for pages that make it) a finished run."""
    monkeypatch.chdir(tmp_path)
    listed = [line for line in commands(ROOT / "docs" / "guide" / page) if line[0] == "tag2mask" and line[1] != "serve"]
    make(tmp_path / "photos", train=30 if any(line[1] == "tags" for line in listed) else 9)  # tags are judged by many
    shutil.copytree(tmp_path / "photos" / "images", tmp_path / "new_photos")
    if not any(line[1] in ("train", "label") and "--with-masks" not in line for line in listed):
        assert run("train", "photos", "--out", "run", *SMALL) == 0
    for line in listed:
        for word in line:
            if not Path(word).exists():
                prepare(word)
        words = [word.replace("dog,person", "disc,bar") for word in line[1:]]
        assert run(*words, *(SMALL if line[1] in RUN else [])) == 0, line


PLACES = {"data": "photos", "run": "run", "photos": "new_photos", "masks": "masks"}
SHARD = "$SLURM_ARRAY_TASK_ID/100"


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", ["serve", "scale"])
def test_the_commands_of_the_reference_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of many machines as the only process and the only shard; servers and Ray have tests of their own."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos" / "images", tmp_path / "new_photos")
    assert run("train", "photos", "--out", "run", *SMALL) == 0
    if page == "serve":
        prepare("review")
    code = "\n".join(blocks(ROOT / "docs" / f"{page}.md")).replace("\\\n", " ")
    seen = set()
    for rest in re.findall(r"^(?:\S.* -m )?tag2mask (\w+ .*)", code, re.MULTILINE):
        given = shlex.split(rest, comments=True)
        words = given[:1] + [PLACES.get(w.removeprefix("/shared/").lower(), w) for w in given[1:]]
        if words[0] == "serve" or "ray" in words:
            continue
        flags = SMALL if words[0] in RUN else []
        tasks = [[w.replace(SHARD, f"{n}/2") for w in words] for n in (1, 2)] if SHARD in words else [words]
        if words[0] == "label" and len(tasks) > 1:  # each stage waits for the one before
            shutil.rmtree("run/maps")
            tasks *= 3
        for task in tasks:
            assert run(*task, *flags) == 0, task
        seen.add(words[0])
    assert seen == (
        {"import", "evaluate", "review", "train"} if page == "serve" else {"train", "label", "merge", "predict"}
    )


@pytest.mark.exhaustive
def test_the_site_is_built(tmp_path: Path) -> None:
    """Every page is there, the interface has its texts, and nothing is fetched from elsewhere."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in PAGES:
        place = tmp_path / "site" / "guide" / ("" if page.stem == "index" else page.stem)
        text = (place / "index.html").read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://[^"]+\.(?:js|css)', text), page
    page = (tmp_path / "site" / "guide" / "add-a-method" / "index.html").read_text()
    assert "dataclass" in page and "examples/method.py" not in page, "the example is not in the page"
    assert "The segmenter of a run, or of a bundle" in (tmp_path / "site" / "guide" / "api" / "index.html").read_text()
