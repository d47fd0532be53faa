"""Every file that a run opens, by Python's own audit hook: who opens true masks, and that training does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from world import SMALL

RUN = """
import json, sys, traceback
from pathlib import Path

truth, found = Path(sys.argv[1]).resolve(), []

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and not busy:
        busy.append(1)
        try:
            path = Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0])
            if truth in path.resolve().parents:
                files = [f.filename.replace("\\\\", "/") for f in traceback.extract_stack()]
                found.append([f.rpartition("tag2mask/")[2] for f in files if "/tag2mask/" in f])
        finally:
            busy.clear()

busy = []
sys.addaudithook(hook)
from tag2mask.cli import main
try:
    main(json.loads(sys.argv[2]))
except SystemExit as ended:
    assert not ended.code, ended.code
print("FOUND" + json.dumps(found))
"""

MAY = {"evaluate/truth.py": "measures", "plan/facts.py": "knows truth by its bytes", "doctor/truth.py": "examines"}


def opens(world: Path, *arguments: object, folder: Path | None = None) -> list[list[str]]:
    """For each time that a true mask (or a file below ``folder``) was opened, the files of the package on the stack."""
    command = [sys.executable, "-c", RUN, str(folder or world / "masks"), json.dumps([str(a) for a in arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rpartition("FOUND")[2])


COPIES = "stages/predictions.py"  # makes the masks of --oracle-masks
TEACHES = (
    "training/", "data/training/", "pseudo/", "methods/", "segment/", "layers/", "localize.py", "references.py",
    "stages/method.py", "stages/thresholds.py", "stages/separation.py", "stages/masks.py",
    "stages/segmenter.py", "stages/self_training.py", "stages/held_out.py", COPIES,
)  # fmt: skip


def test_what_teaches_is_named_as_it_is_called() -> None:
    """A renamed file would be watched no more."""
    package = Path(__file__).parents[1] / "src" / "tag2mask"
    assert all((package / name).exists() for name in (*TEACHES, *MAY))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cam", "mcis", "ppl", "apc"])
def test_training_opens_no_mask(method: str, world: Path, tmp_path: Path) -> None:
    """A whole run with a segmenter, relabelling and scores: masks are opened to be known and to measure, never
    below a training source, the pseudo labels, a threshold or the training loop."""
    stacks = opens(world, "train", world, "--out", tmp_path / "run", *SMALL, "--method", method)
    assert len(stacks) >= 12, "the hook saw nothing: this test would pass whatever happens"
    for stack in stacks:
        assert MAY.keys() & set(stack), stack
        taught = [f for f in stack if f.startswith(TEACHES)]
        assert not taught, stack


@pytest.mark.slow
def test_the_hook_sees_the_oracle(world: Path, tmp_path: Path) -> None:
    """Where truth teaches, by name, it is seen: the test above can fail."""
    stacks = opens(world, "train", world, "--out", tmp_path / "run", *SMALL, "--oracle-masks")
    assert [s for s in stacks if COPIES in s]


@pytest.mark.slow
def test_corrected_masks_are_opened_where_they_were_asked_for(world: Path, tmp_path: Path) -> None:
    """Without --with-masks by nobody; with it by the segmenter's stages and what knows them by their bytes."""
    from tag2mask.data.images import read_index_mask, write_index_mask
    from world import run

    out, back = tmp_path / "run", tmp_path / "back"
    assert run("train", world, "--out", out, *SMALL) == 0
    assert run("export", out, "--to", "png", "--out", back) == 0
    drawn = read_index_mask(world / "masks" / "photo00.png").copy()
    drawn[:3] = 1  # the run's own may be the truth
    write_index_mask(back / "photo00.png", drawn)
    assert run("import", out, back, "--from", "png") == 0
    corrected = next((out / "corrections").rglob("photo00.png")).parent
    again = ["train", world, "--out", out, *SMALL, "--seed", "1"]
    assert opens(world, *again, folder=corrected) == []
    stacks = opens(world, *again, "--with-masks", folder=corrected)
    of_mask = [s for s in stacks if "told.py" not in s]  # which reads the manifest
    assert of_mask and all({"stages/taught.py", "plan/facts.py"} & {*s} for s in of_mask)
    maps = ("stages/method.py", "stages/masks.py", "stages/thresholds.py", "localize.py", "methods/", "pseudo/")
    assert not [s for s in of_mask if any(f.startswith(maps) for f in s)]
    taught = [s for s in of_mask if "stages/taught.py" in s]
    assert taught and all({"stages/segmenter.py", "data/training/photos.py"} & {*s} for s in taught)
