"""A small world for tests: photos of textured discs and bars with exact masks, in the folder layout. Never square.

And photos and scores for refiners alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.cli import main

CLASSES = ("disc", "bar")
HEIGHT, WIDTH = 48, 72


def scene(index: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Photo ``[height width 3]`` uint8 and mask ``[height width]`` uint8: a red disc, a blue bar, or both."""
    random = np.random.default_rng(index)
    image = random.integers(60, 130, (height, width, 3)).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    if index % 3 != 1:
        y, x = random.integers(14, height - 14), random.integers(14, width // 2 - 6)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < 11**2] = 1
    if index % 3 != 0:
        x = random.integers(width // 2 + 8, width - 14)
        mask[6:-6, x : x + 9] = 2
    image[mask == 1] = np.array((220, 40, 40)) + random.integers(-30, 30, (int((mask == 1).sum()), 3))
    image[mask == 2] = np.array((40, 40, 220)) + random.integers(-30, 30, (int((mask == 2).sum()), 3))
    return image, mask


def tags(mask: np.ndarray) -> str:
    return ";".join(name for c, name in enumerate(CLASSES) if (mask == c + 1).any())


def make(root: Path, train: int = 9, val: int = 3, truth: bool = True) -> Path:
    """Write the data set and give its folder."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    lines = ["image,tags,split"]
    for index in range(train + val):
        image, mask = scene(index)
        name = f"photo{index:02d}"
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        if truth:
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
        lines.append(f"{name}.png,{tags(mask)},{'train' if index < train else 'val'}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    if not truth:
        (root / "masks").rmdir()
    return root


SMALL = (  # noqa: SIM905 (a command line reads best as one)  # flags of a run that takes seconds: a small random network and one epoch
    "--backbone resnet10t --weights none --augment.size 64 --epochs 1 --train.batch-size 4 --localize.long-side 72 "
    "--scales 1 --segmenter-augment.size 64 --propagation-augment.size 64 --segmenter-train.epochs 1 "
    "--segmenter-train.batch-size 4 "
    "--segmenter.channels 8 --inference.long-side 72 --inference.scales 1 --train.precision float32 "
    "--segmenter-train.precision float32 --relabel-train.epochs 1 --relabel-train.batch-size 4 "
    "--relabel.rounds 1 --relabel-train.precision float32 --localize.precision float32 --inference.precision float32"
).split()


def run(*arguments: object) -> int:
    """The command line, in this process: its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line of a command that must end in exit code 2 and one clear line, whatever it reported on the way."""
    capsys.readouterr()
    assert run(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("tag2mask: ") and not any("Traceback" in line for line in said)
    return said[-1]


def manifest(out: Path, stage: str) -> dict[str, Any]:
    """The manifest of a finished stage of a run."""
    return json.loads((out / stage / ".stage" / "manifest.json").read_text())


def made_of(out: Path, stage: str) -> dict[str, Any]:
    """What a stage of a run is made of: its key, settings, facts, the keys of the stages that it reads."""
    return json.loads((out / stage / ".stage" / "key.json").read_text())


def keys(out: Path) -> dict[str, str]:
    """Stage to key, of the stages of a run."""
    found = {path.parent.parent.name: json.loads(path.read_text())["key"] for path in out.glob("*/.stage/key.json")}
    assert found, f"{out} holds no stage"
    return found


def stamps(folder: Path) -> dict[str, int]:
    """File to when it was written, without what is kept aside."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".aside" not in path.parts)
    found = {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}
    assert found, f"{folder} holds no file"
    return found


def redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The stages of a run that were written to between two :func:`stamps`, or lost something."""
    names = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return {name.split("/")[0] for name in names} - {
        "run.json",
        "report.html",
        "passport.json",
        ".lock",
        ".digests.jsonl",
    }


def two_tones(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Two tones with a slanted border and noise: ``[height width 3]`` uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    tones = np.array([[40, 90, 160], [200, 170, 60]])
    image = tones[(2 * y + 3 * x > height + 1.5 * width).astype(int)]
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


def probabilities(labels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).gamma(0.7, size=(labels, height, width)) + 1e-3
    return (scores / scores.sum(0)).astype(np.float32)
