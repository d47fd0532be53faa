"""What more photos cost: seconds and memory of labelling as the number of photos grows.

    python benchmarks/scale.py --root /tmp/scale --sizes 250 1000 4000 16000

Each size is a folder of hard links to the demo's training photos with their tags (no truth), labelled by
``label --recipe quick`` in a process of its own. Said of each: milliseconds per photo of every stage, processor
seconds of all, processor time of localization's forward passes, peak memory, bytes per photo in the run folder, and
what starting once more takes, when everything is done. Training takes as many steps at every size (``--steps``), so the
cost of a photo is the difference of two sizes' processor seconds over that of their photos; the clock says little on a
busy machine. ``--start 1000000``: what starting takes with a million photos that are checked.
Numbers: docs/log.md, docs/scale.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from tag2mask import cli, localize
seconds = {"forward": 0.0}
forward = localize.forward
def timed(*arguments):
    began = time.thread_time()
    try:
        return forward(*arguments)
    finally:
        seconds["forward"] += time.thread_time() - began
localize.forward = timed
began, busy = time.monotonic(), time.process_time()
try:
    cli.main(sys.argv[2:])
except SystemExit as ended:
    assert not ended.code, ended.code
found = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - busy, **seconds}
found["gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def make(root: Path, photos: int) -> Path:
    """So many photos with tags, hard links to the demo's, if they are not there."""
    from tag2mask.demo import demo_root

    folder = root / f"data-{photos}"
    if (folder / "tags.csv").exists():
        return folder
    source = demo_root()
    with (source / "train.csv").open() as table:
        rows = list(csv.DictReader(table))
    shutil.rmtree(folder, ignore_errors=True)
    lines = ["image,tags"]
    for number in range(photos):
        row = rows[number % len(rows)]
        original = source / "images" / row["image"]
        linked = root / "originals" / f"{number // 30_000}-{row['image']}"  # a file may have 65,000 links
        if not linked.exists():
            linked.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, linked)
        name = f"{number // 1000:04d}/{number:07d}{original.suffix}"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(linked, folder / "images" / name)
        lines.append(f"{name},{row['tags']}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return folder


def measured(data: Path, run: Path, photos: int, steps: int) -> dict[str, float]:
    """One labelling, or starting once more."""
    flags = ["--recipe", "quick", "--epochs", f"{steps * 16 / photos:.6f}", "--train.batch-size", "16"]
    result = run.with_suffix(".json")
    command = [sys.executable, "-c", MEASURE, str(result), "label", str(data), "--out", str(run), *flags]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return json.loads(result.read_text())


def prepared(root: Path, photos: int) -> tuple[Path, Path]:
    """A data set of so many photos and a run in which all of them are checked, as `images` leaves it."""
    from tag2mask.data.images import check_image
    from tag2mask.doctor import survey
    from tag2mask.files import digest
    from tag2mask.plan.facts import DigestCache, RunData, stamp
    from tag2mask.plan.folder import Run
    from tag2mask.plan.keys import content_of
    from tag2mask.recipes import recipe
    from tag2mask.stages.photos import check_photos

    data, out = make(root, photos), root / f"started-{photos}"
    if (out / "images" / ".stage" / "manifest.json").exists():
        return data, out
    settings, stage = recipe("quick"), check_photos(verify=False)
    dataset = survey(data, settings.data).train
    assert dataset is not None
    with Run(out) as run:
        facts = RunData(data, dataset, None, settings, DigestCache(out / ".digests.jsonl"))
        content = content_of(stage, settings, facts, {})
        folder = run.open(stage.name, digest(content), content)
        known: dict[int, dict[str, object]] = {}
        with folder.records.open("w") as file:
            for sample in dataset.samples:
                inode = sample.image_path.stat().st_ino
                if inode not in known:
                    known[inode] = asdict(check_image(sample))
                record = {**known[inode], "id": sample.id, "split": sample.split, "stamp": stamp(sample.image_path)}
                file.write(json.dumps(record) + "\n")
        folder.finish(count=photos, seconds=0.0)
    return data, out


def starting(root: Path, photos: int) -> None:
    """What starting takes when all photos are checked: the first time, when they are examined, and again."""
    data, out = prepared(root, photos)
    for _ in range(2):
        result = out.with_suffix(".json")
        command = [
            sys.executable,
            "-c",
            MEASURE,
            str(result),
            "label",
            str(data),
            "--out",
            str(out),
            "--recipe",
            "quick",
        ]
        subprocess.run([*command, "--until", "images"], check=True, stderr=subprocess.DEVNULL)
        found = {name: round(value, 2) for name, value in json.loads(result.read_text()).items()}
        print(json.dumps({"starting": photos, **found}), flush=True)


def stages(run: Path) -> dict[str, float]:
    """Stage to seconds."""
    paths = run.glob("*/.stage/manifest.json")
    return {path.parent.parent.name: float(json.loads(path.read_text())["seconds"]) for path in paths}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000, 16000])
    parser.add_argument("--steps", type=int, default=20, help="of training, at every size")
    parser.add_argument("--start", type=int, help="only what starting takes with so many photos, all checked")
    arguments = parser.parse_args()
    if arguments.start:
        starting(arguments.root, arguments.start)
        return
    for photos in arguments.sizes:
        run = arguments.root / f"run-{photos}"
        shutil.rmtree(run, ignore_errors=True)
        data = make(arguments.root, photos)
        first = measured(data, run, photos, arguments.steps)
        took = stages(run)
        again = measured(data, run, photos, arguments.steps)
        per_photo = {name: round(1e3 * seconds / photos, 2) for name, seconds in took.items() if name != "method"}
        print(
            json.dumps(
                {
                    "photos": photos,
                    "training_s": took["method"],
                    "ms_per_photo": per_photo,
                    "cpu_s": round(first["cpu_seconds"], 1),
                    "forward_ms_per_photo": round(1e3 * first["forward"] / photos, 2),
                    "gb": round(first["gb"], 2),
                    "bytes_per_photo": round((size_of(run) - size_of(run / "method")) / photos),
                    "again_s": round(again["seconds"], 1),
                    "again_cpu_s": round(again["cpu_seconds"], 1),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
