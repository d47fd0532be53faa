"""Exports read by the programs that they are for, in an environment of their own. Slow: the first run installs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from readers.environment import environment
from tag2mask.exchange import FORMATS, About
from tag2mask.exchange.check import CLASSES, odd_photos

PACKAGES = {"label-studio": "label-studio-sdk", "cvat": "datumaro", "labelme": "labelme", "voc": "datumaro"}


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", PACKAGES)
def test_a_formats_own_reader_finds_the_same_pixels(name: str, tmp_path: Path) -> None:
    python = environment(PACKAGES[name]) / "python"
    photos, out = list(odd_photos(tmp_path / "photos")), tmp_path / "out"
    out.mkdir()
    FORMATS[name].write(out, iter(photos), About(CLASSES, "tag2mask test", "train", tmp_path / "photos"))
    if name == "cvat":
        (out / "images").symlink_to(tmp_path / "photos")  # as in CVAT's exports with photos, which datumaro wants
    script = Path(__file__).parent / "readers" / "read.py"
    subprocess.run([str(python), str(script), name, str(out), str(tmp_path / "read.npz")], check=True)
    with np.load(tmp_path / "read.npz") as read:
        layers = [(*pair, read[str(i)]) for i, pair in enumerate(json.loads(str(read["index"])))]
    for photo in photos:
        for c, of_class in enumerate(CLASSES):
            known = [x for n, k, x in layers if k == of_class and n in (photo.name, photo.id)]
            back = np.any(known, axis=0) if known else np.zeros(photo.size, bool)
            assert np.array_equal(back, photo.mask == c + 1), (photo.name, of_class)
    assert {k for _, k, _ in layers} >= set(CLASSES)
