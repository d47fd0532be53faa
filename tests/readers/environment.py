"""Environments of their own for programs whose needs would change this one's packages (another NumPy, another Pillow).

They are kept in ``TAG2MASK_TEST_CACHE`` (default ``~/.cache/tag2mask-tests``) and made on first use, which takes
minutes: 25 to 160 packages each, 0.5 to 1 GB. An installation that was interrupted is gone on with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LONGEST = 1200  # seconds that an installation may take
CACHE = Path(os.environ.get("TAG2MASK_TEST_CACHE", str(Path.home() / ".cache" / "tag2mask-tests")))


def environment(package: str) -> Path:
    """The folder of the programs of an environment with a package; the test is skipped where it cannot be had."""
    place = CACHE / package
    ready, programs = place / "ready.txt", place / ("Scripts" if sys.platform == "win32" else "bin")
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", package]
        try:
            done = subprocess.run(install, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{package} takes more than {LONGEST // 60} minutes to install here")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            pytest.skip(f"{package} cannot be installed here: {said[-1] if said else done.returncode}")
        ready.touch()
    return programs
