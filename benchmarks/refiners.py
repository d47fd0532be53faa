"""Every refiner and propagation on the maps of one finished run: mIoU of the pseudo masks, seconds per photo, memory.

    python benchmarks/refiners.py RUN                          # all of them, on every training photo with truth
    python benchmarks/refiners.py RUN --only none crf/irn irn+crf

RUN must have maps (`tag2mask label` or `train`) of data with truth. WAY+REFINER propagates the maps first. All of it is
made in a copy of the run beside it (RUN-refiners), whose method and maps are taken over. The threshold is found on the
maps each refiner starts from, without truth; the truth is only compared with. Each row is labelled in a process of its
own; seconds are of wall clock with as many photos side by side as there are cores, the training of affinities apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tag2mask import compute, pipeline
from tag2mask.evaluate import Scores
from tag2mask.files import read_json
from tag2mask.plan.folder import OWN
from tag2mask.propagation import PROPAGATIONS
from tag2mask.recipes import settings_from
from tag2mask.refine import REFINERS

ALL = ("none", *REFINERS, *(f"{way}+{refine}" for way in PROPAGATIONS for refine in ("none", "crf")))


def row(folder: Path, name: str, beta: float | None) -> dict[str, Any]:
    """Make the masks of one row in the run folder, and read what came of it."""
    way, _, refine = name.rpartition("+")
    described = read_json(folder / "run.json")
    settings = replace(settings_from(described["settings"]), propagate=way or "none", refine=refine)
    if beta is not None:
        settings = replace(settings, propagation=replace(settings.propagation, beta=beta))
    pipeline.label(described["data"], folder, settings)

    def seconds(*stages: str) -> float:
        manifests = [folder / stage / OWN / "manifest.json" for stage in stages if way or stage == "masks"]
        return sum(read_json(path)["seconds"] for path in manifests if path.exists())

    scores = Scores.from_json(read_json(folder / "scores" / "scores.json")["masks"])
    return {
        "scores": scores,
        "threshold": read_json(folder / "masks" / OWN / "manifest.json")["threshold"],
        "seconds": seconds("propagated", "masks") / scores.photos,
        "minutes": seconds("affinity-labels", "affinity") / 60,
        "peak_gb": compute.peak_memory_gb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", nargs="*", default=ALL)
    parser.add_argument("--beta", type=float, help="exponent of the affinities in the walk")
    options = parser.parse_args()
    copy = options.run.with_name(f"{options.run.name}-refiners")
    if not copy.exists():
        shutil.copytree(options.run, copy)
    rows = []
    for name in options.only:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            made = pool.apply(row, (copy, name, options.beta))
        scores: Scores = made["scores"]
        rows.append(
            f"| {name} | {scores.mean_iou:.1f} | {scores.foreground_precision:.0f} / {scores.foreground_recall:.0f} | "
            f"{made['threshold']:.3f} | {made['seconds']:.3f} | {made['peak_gb']:.2f} | {made['minutes']:.1f} |"
        )
    print("| refiner | mIoU | foreground precision / recall | threshold | s per photo | peak GB | training minutes |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
