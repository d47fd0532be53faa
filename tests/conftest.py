from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True)  # a push fails for what it changed, not for a new draw
settings.load_profile("steady")

sys.path.insert(0, str(Path(__file__).parent))  # tests share world.py, localizing.py, portable.py

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they give
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never reach for a hub
os.environ["TQDM_DISABLE"] = "1"
os.fsync = lambda file: None  # no test here cuts the power; waiting for the disk is a tenth of the time


@pytest.hookimpl(tryfirst=True)  # before marks choose what runs
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is exhaustive is slow, too."""
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set; read only."""
    import world as small

    return small.make(tmp_path_factory.mktemp("world") / "data")


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a data set touches no pixels, least of all truth."""
    from PIL import Image

    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or left in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that ran in this process leaves its log and its bars to no other test."""
    from tag2mask import progress

    log, shown = logging.getLogger("tag2mask"), progress._shown
    before = (log.level, log.handlers[:], log.propagate)
    yield
    log.handlers[:], log.propagate = before[1:]
    log.setLevel(before[0])
    progress._shown = shown
