"""Environments of their own for programs whose needs would change this one's packages (another NumPy, another Pillow).

They are kept in ``TAG2MASK_TEST_CACHE`` (default ``~/.cache/tag2mask-tests``) and made on first use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("TAG2MASK_TEST_CACHE", str(Path.home() / ".cache" / "tag2mask-tests")))


def environment(package: str) -> Path:
    """The folder of the programs of an environment with a package; the test is skipped where it cannot be had."""
    place = CACHE / package
    ready, programs = place / "ready.txt", place / ("Scripts" if sys.platform == "win32" else "bin")
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", package]
        try:
            done = subprocess.run(install, capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{package} takes more than five minutes to install here")
        if done.returncode:
            pytest.skip(f"{package} cannot be installed here")
        ready.touch()
    return programs
