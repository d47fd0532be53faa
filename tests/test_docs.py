"""The site is built without a warning, and every command on its pages runs. Slow."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from world import SMALL, make, run

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "guide").glob("*.md"))
RUN = ("train", "label", "plan")  # get the flags that make a run take seconds; all else is run as it stands


def commands(page: Path) -> list[list[str]]:
    """Of the page's blocks ``sh``, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def test_every_page_is_found_and_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert len(PAGES) >= 8 and all(f"guide/{page.name}" in navigation for page in PAGES)
    assert all(line[0] == "tag2mask" for page in PAGES for line in commands(page))
    assert sum(len(commands(page)) for page in PAGES) >= 15


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [page.name for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with photos, new photos, and (but for pages that make it) a finished run."""
    monkeypatch.chdir(tmp_path)
    listed = commands(ROOT / "docs" / "guide" / page)
    make(tmp_path / "photos", train=30 if any(line[1] == "tags" for line in listed) else 9)  # tags are judged by many
    shutil.copytree(tmp_path / "photos" / "images", tmp_path / "new_photos")
    if not any(line[1] in ("train", "label") for line in listed):
        assert run("train", "photos", "--out", "run", *SMALL) == 0
    for line in listed:
        assert run(*line[1:], *(SMALL if line[1] in RUN else [])) == 0, line


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
    assert "The segmenter of a run, or of a bundle" in (tmp_path / "site" / "guide" / "api" / "index.html").read_text()
