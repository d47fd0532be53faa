"""Do two commits make the same maps, masks, predictions and weights, to the byte? Tiny runs of every method.

    python benchmarks/same_bytes.py BEFORE [AFTER] [--only NAME ...] [--keep FOLDER]

BEFORE and AFTER are commits (AFTER: the working tree). Each is checked out beside the other and makes the same runs on
the same drawn scenes, on the CPU with one thread. Artefacts are compared by folder and name; models tensor by tensor,
so that a renamed tensor is no difference. Settings and folders that were renamed between the two are translated below.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]

SMALL = (
    "--backbone resnet10t --weights none --augment.size 64 --epochs 1 --train.batch-size 4 --localize.longest 72 "
    "--scales 0.5,1 --segmenter-augment.size 64 --segmenter-train.epochs 1 --segmenter-train.batch-size 4 "
    "--segmenter.channels 8 --inference.longest 72 --inference.scales 1 --relabel-train.epochs 1 "
    "--relabel-train.batch-size 4 --student-train.epochs 1 --student-train.batch-size 4 --affinity-train.epochs 1 "
    "--affinity-train.batch-size 4 --train.precision float32 --segmenter-train.precision float32 "
    "--relabel-train.precision float32 --student-train.precision float32 --affinity-train.precision float32 "
    "--localize.precision float32 --inference.precision float32"
)
APC = "--method apc --apc.decoder-width 8 --train.learning-rate 0.001"
RUNS = {
    "cam": f"train {SMALL} --oracle-masks",
    "mcis": f"label {SMALL} --method mcis --mcis.contrast-from 0",
    "mcis-official-form": f"label {SMALL} --method mcis --mcis.aggregation gated --mcis.no-share-head "
    "--mcis.feedback 1 --mcis.reduction mean --mcis.self-pairs --mcis.skip-empty batch --mcis.affinity plain",
    "ppl-implicit": f"label {SMALL} --method ppl",
    "ppl-explicit": f"label {SMALL} --method ppl --ppl.mode explicit --ppl.reconstruction 1",
    "eps": f"label {SMALL} --method eps --background saliency",
    "apc-single-stage": f"train {SMALL} {APC}",
    "apc-multi-stage": f"label {SMALL} {APC} --apc.no-single-stage --apc.context hv_bilstm --apc.context-width 8",
    "self-training": f"label {SMALL} --self-train smaf --self-train.rounds 2 --self-train.denoise prototype",
    "self-training-eps": f"label {SMALL} --method eps --self-train smaf --self-train.denoise saliency "
    "--self-train.teacher ema",
    "irn": f"label {SMALL} --refine irn,crf",
    "psa": f"label {SMALL} --refine psa",
    "walk-colour": f"label {SMALL} --refine walk/colour,par",
    "walk-features": f"label {SMALL} --refine walk/features",
    "frozen": f"train {SMALL} --freeze-until layer3 --segmenter.no-warm-start --relabel.rounds 0",
    "frozen-mcis": f"label {SMALL} --freeze-until layer3 --method mcis",
    "deeplab-v2": f"train {SMALL} --segmenter deeplab-v2 --segmenter.pyramid 0.5 --segmenter-train.optimizer sgd",
    "saliency-rule": f"train {SMALL} --background saliency-rule --refine none",
}

# What was renamed since: flags of the older commit to today's, and folders of a run to today's.
FLAGS = {
    "--localize.longest": "--localize.long-side",
    "--inference.longest": "--inference.long-side",
    "--affinity-train.epochs": "--propagation-train.epochs",
    "--affinity-train.batch-size": "--propagation-train.batch-size",
    "--affinity-train.precision": "--propagation-train.precision",
}
WALKS = {"irn": "irn", "psa": "psa", "walk/colour": "colours", "walk/features": "features"}
FOLDERS = {"walked": "propagated"}


def today(flags: list[str]) -> list[str]:
    """The flags as they are called today."""
    out = [FLAGS.get(flag, flag) for flag in flags]
    if "--refine" in out and out[out.index("--refine") + 1].split(",")[0] in WALKS:
        at = out.index("--refine")
        walk, _, rest = out[at + 1].partition(",")
        out[at : at + 2] = ["--propagate", WALKS[walk], "--refine", rest or "none"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--keep", type=Path, help="keep the runs here; those that are there already are not made again")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (parsed.keep or Path(temporary)).resolve()
        data = draw(folder / "data")
        different = 0
        for name in parsed.only:
            artefacts = [make(commit, name, folder, data) for commit in (parsed.before, parsed.after)]
            different += report(name, *artefacts)
    sys.exit(bool(different))


def draw(folder: Path) -> Path:
    """Fifteen photos of discs and bars with tags, truth and saliency, never square."""
    if folder.exists():
        return folder
    for name in ("images", "masks", "saliency"):
        (folder / name).mkdir(parents=True)
    lines = ["image,tags,split"]
    for index in range(15):
        height, width = (48, 72) if index % 4 else (72, 56)
        random = np.random.default_rng(index)
        image = random.integers(60, 130, (height, width, 3))
        mask = np.zeros((height, width), np.uint8)
        rows, columns = np.mgrid[:height, :width]
        if index % 3 != 1:
            mask[(rows - height // 2) ** 2 + (columns - random.integers(14, 24)) ** 2 < 11**2] = 1
        if index % 3 != 0:
            x = random.integers(width // 2 + 6, width - 12)
            mask[6:-6, x : x + 9] = 2
        image[mask == 1] = np.array((220, 40, 40)) + random.integers(-30, 30, (int((mask == 1).sum()), 3))
        image[mask == 2] = np.array((40, 40, 220)) + random.integers(-30, 30, (int((mask == 2).sum()), 3))
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{index:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index:02d}.png")
        Image.fromarray(((mask > 0) * 200).astype(np.uint8)).save(folder / "saliency" / f"{index:02d}.png")
        tags = ";".join(tag for value, tag in ((1, "disc"), (2, "bar")) if (mask == value).any())
        lines.append(f"{index:02d}.png,{tags},{'train' if index < 11 else 'val'}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("disc\nbar\n")
    return folder


def make(commit: str | None, name: str, folder: Path, data: Path) -> dict[str, str]:
    """Run ``name`` with the sources of a commit (None: the working tree); its artefacts' digests by path."""
    tree = ROOT if commit is None else checked_out(commit, folder)
    out = folder / ("working-tree" if commit is None else commit) / name
    if commit is None and out.exists():
        shutil.rmtree(out)
    if not (out / "report.html").exists():
        flags = RUNS[name].split()
        if (tree / "src" / "tag2mask" / "plan").exists():
            flags = today(flags)
        run_settings = tree / "src" / "tag2mask" / "recipes" / "settings.py"
        if run_settings.exists() and "propagation_augment" in run_settings.read_text():
            flags += ["--propagation-augment.size", "64"]  # earlier IRN saw the segmenter's views
        command = [sys.executable, "-m", "tag2mask", flags[0], str(data), "--out", str(out), *flags[1:]]
        features = folder / "features" / (commit or "working-tree") / name
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, "--features.folder", str(features)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{commit or 'working tree'}: {name} ended with {done.returncode}\n{done.stderr}")
    return digests(out)


def checked_out(commit: str, folder: Path) -> Path:
    tree = folder / "sources" / commit
    if not tree.exists():
        tree.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x"], input=archive, cwd=tree, check=True)
    return tree


def digests(run: Path) -> dict[str, str]:
    """Of maps, masks, predictions and weights: path in the run (with today's folder names) to digest."""
    kinds = {".png": of_file, ".npz": of_arrays, ".safetensors": of_tensors}
    out = {}
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        if path.suffix in kinds and not any(part.startswith(".") for part in parts):
            folder = FOLDERS.get(parts[0], parts[0])
            if folder == "affinity" and path.suffix == ".png":
                folder = "affinity-labels"
            out["/".join((folder, *parts[1:]))] = kinds[path.suffix](path)
    return out


def of_file(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def of_arrays(path: Path) -> str:
    with np.load(path, allow_pickle=False) as file:
        return hashlib.blake2b(b"".join(file[name].tobytes() for name in sorted(file)), digest_size=8).hexdigest()


def of_tensors(path: Path) -> str:
    """Of the tensors' bytes whatever their names."""
    from safetensors.numpy import load_file

    each = sorted(hashlib.blake2b(tensor.tobytes(), digest_size=8).hexdigest() for tensor in load_file(path).values())
    return hashlib.blake2b("".join(each).encode(), digest_size=8).hexdigest()


def report(name: str, before: dict[str, str], after: dict[str, str]) -> bool:
    """Print one line for a run, and the artefacts that differ; whether any does."""
    missing = sorted(set(before) - set(after))
    changed = sorted(path for path in before if path in after and before[path] != after[path])
    equal = len(before) - len(missing) - len(changed)
    print(f"{name}: {equal} of {len(before)} artefacts equal", flush=True)
    for title, paths in (("missing", missing), ("different", changed)):
        for path in paths[:8]:
            print(f"  {title}: {path}")
    return bool(missing or changed)


if __name__ == "__main__":
    main()
