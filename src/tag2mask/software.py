"""Which software made something."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from functools import cache
from pathlib import Path


@cache
def software() -> dict[str, str | None]:
    """Of this process, as it was when first asked: ``tag2mask``'s version, its ``commit`` (None: not known) and
    ``torch``'s version."""
    import torch

    from tag2mask import __version__

    return {"tag2mask": __version__, "commit": commit(), "torch": str(torch.__version__)}


def commit() -> str | None:
    """Of an installation from a repository, as pip keeps it (PEP 610), or of the repository that it is in; with
    "-dirty" where the package's files are changed. None where neither says."""
    try:
        text = importlib.metadata.distribution("tag2mask").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        text = None
    if text and (known := json.loads(text).get("vcs_info", {}).get("commit_id")):
        return known
    package = Path(__file__).parent
    if not (package.parents[1] / ".git").exists():  # another repository that it happens to lie in says nothing
        return None
    try:
        head = _git(package, "rev-parse", "--short=12", "HEAD")
        changed = _git(package, "status", "--short", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + "-dirty" * bool(changed)


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
