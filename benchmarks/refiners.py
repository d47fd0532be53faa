"""Every refiner on the maps of one finished run: mIoU of the pseudo masks, seconds per photo, peak memory.

    python benchmarks/refiners.py RUN                          # all of them, on every training photo with truth
    python benchmarks/refiners.py RUN --only none crf/irn irn+crf --step 5

RUN must have maps (`tag2mask label` or `train`). WAY+REFINER propagates them first, in a copy of the run next to it
(RUN-refiners), whose method and maps are taken over: those of all photos; with --step n every n-th gets a mask. The
threshold is found on the maps each refiner starts from, without truth; the truth is only compared with. Each row is
measured in a process of its own; seconds are of wall clock with as many photos side by side as there are cores, the
training of affinities apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import compute, concurrency, evaluate, pipeline, pseudo, stages
from tag2mask.data.images import read_image
from tag2mask.plan.execute import begin, execute
from tag2mask.plan.folder import Run
from tag2mask.refine import PRESETS, refiner
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader
from tag2mask.stages.masks import with_background
from tag2mask.stages.thresholds import chosen_threshold
from tag2mask.types import Sample

ALL = (
    "none",
    *(f"crf/{name}" for name in PRESETS),
    "par",
    "par/full",
    "irn+none",
    "irn+crf",
    "psa+none",
    "psa+crf",
    "colours+none",
    "features+none",
)


def row(folder: Path, name: str, step: int, beta: float | None) -> dict[str, Any]:
    """Propagate if asked, then make masks in memory and score them."""
    way, _, pixelwise = name.rpartition("+")
    with Run(folder) as run:
        data = pipeline.reopen(run).data
        settings = replace(data.settings, propagate=way or "none", refine=pixelwise)
        if beta is not None:
            settings = replace(settings, propagation=replace(settings.propagation, beta=beta))
        execution = begin(run, stages.plan(settings), settings, replace(data, settings=settings))
        labelling = stages.labelling(tuple(execution.stages))
        execute(execution, labelling[: labelling.index("masks")])  # what lies before masks
    source = names.final_maps(settings)
    spent = {stage: f.manifest()["seconds"] for stage, f in execution.folders.items()}
    training = spent.get("affinity-labels", 0.0) + spent.get("affinity", 0.0)
    dataset = execution.data.train
    samples = list(dataset.samples)[::step]
    maps_of, sharpen = MapReader(execution.folders[source]), refiner(pixelwise, settings.refine_long_side)
    masks_stage = next(stage for stage in execution.stages if stage.name == "masks")
    threshold = chosen_threshold(execution.context(masks_stage, execution.folders[source]), source)

    def mask(sample: Sample) -> tuple[str, np.ndarray]:
        maps = threshold.levelled(maps_of(sample))
        scores = with_background(sample, maps, threshold.value, settings.pseudo)
        scores = pseudo.refine(read_image(sample.image_path), scores, sharpen)
        return sample.id, pseudo.decide(maps.id, maps.classes, scores, settings.pseudo).mask

    clock = time.perf_counter()
    masks = dict(concurrency.in_order(mask, samples, settings.workers))
    seconds = (time.perf_counter() - clock) / len(samples) + spent.get("propagated", 0.0) / len(dataset)
    scores = evaluate.evaluate_masks(dataset.with_samples(samples), lambda s: masks[s.id])
    return {
        "refiner": name,
        "train_minutes": round(training / 60, 1),
        "seconds_per_photo": seconds,
        "peak_gb": compute.peak_memory_gb(),
        "threshold": threshold,
        "miou": scores.mean_iou,
        "precision": scores.foreground_precision,
        "recall": scores.foreground_recall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", nargs="*", default=ALL)
    parser.add_argument("--step", type=int, default=1, help="every n-th training photo")
    parser.add_argument("--beta", type=float, help="exponent of the affinities in the walk")
    options = parser.parse_args()
    copy = options.run.with_name(f"{options.run.name}-refiners")
    if not copy.exists():
        shutil.copytree(options.run, copy, ignore=shutil.ignore_patterns(".aside", ".lock", "segmenter*", "pred*"))
    print("| refiner | mIoU | foreground precision / recall | threshold | s per photo | peak GB | training minutes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.only:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            found = pool.apply(row, (copy, name, options.step, options.beta))
        print(
            f"| {name} | {found['miou']:.1f} | {found['precision']:.0f} / {found['recall']:.0f} | "
            f"{found['threshold']:.3f} | {found['seconds_per_photo']:.3f} | {found['peak_gb']:.2f} | "
            f"{found['train_minutes'] or ''} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
