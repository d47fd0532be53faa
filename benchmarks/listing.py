"""How long it takes to list a data set of many photos, and how much memory: names only, no photo is opened.

    python benchmarks/listing.py --photos 1000000 --root /tmp/listing

Writes so many hard links (once; 1,000 a folder), then reads them as each of two layouts in a process of its own:
`folder` (a CSV of 90 % train, 10 % val) and `class-folders`. `load` is what a training needs (both splits), `survey`
adds everything that is said before it. Numbers: docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

MEASURE = """
import json, resource, sys, time
from tag2mask import data, doctor
settings = data.DataSettings()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, busy = time.monotonic(), time.process_time()
if sys.argv[2] == "load":
    opened = data.open_data(sys.argv[1], settings)
    count = len(data.load(opened)) + (len(data.load(opened, split="val")) if "val" in data.splits(opened) else 0)
else:
    surveyed = doctor.survey(sys.argv[1], settings)
    count = sum(map(len, surveyed.datasets.values()))
seconds, cpu = time.monotonic() - start, time.process_time() - busy
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = {"photos": count, "seconds": seconds, "cpu_seconds": cpu, "gb": peak / 1e6, "gb_before": before / 1e6}
print(json.dumps({name: round(value, 2) for name, value in found.items()}))
"""


def make(root: Path, photos: int) -> None:
    """The two data sets, if they are not there."""
    done = root / f"{photos}.done"
    if done.exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number // 1000:04d}/{number:07d}.jpg" for number in range(photos)]
    for folder in range(-(-photos // 1000)):
        (root / "folder" / "images" / f"{folder:04d}").mkdir(parents=True, exist_ok=True)
        (root / "class-folders" / f"class{folder % 20:02d}" / f"{folder:04d}").mkdir(parents=True, exist_ok=True)
    with (root / "folder" / "tags.csv").open("w") as table:
        table.write("image,tags,split\n")
        for number, name in enumerate(names):
            tag = f"class{number % 20:02d}" + (f";class{number % 7:02d}" if number % 3 == 0 else "")
            table.write(f"{name},{tag},{'val' if number % 11 == 9 else 'train'}\n")
            source = root / f"photo{number // 30_000}.jpg"  # a file may have 65,000 links
            if number % 30_000 == 0:
                source.write_bytes(b"one file")
            os.link(source, root / "folder" / "images" / name)
            os.link(source, root / "class-folders" / f"class{number // 1000 % 20:02d}" / name)
    done.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--root", type=Path, required=True)
    arguments = parser.parse_args()
    make(arguments.root, arguments.photos)
    for layout in ("folder", "class-folders"):
        for what in ("load", "survey"):
            command = [sys.executable, "-c", MEASURE, str(arguments.root / layout), what]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(layout, what, json.loads(done.stdout), flush=True)


if __name__ == "__main__":
    main()
