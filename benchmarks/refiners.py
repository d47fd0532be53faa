"""Every refiner on the maps of one finished run: mIoU of the pseudo masks, seconds per photo, peak memory.

    python benchmarks/refiners.py RUN                          # all of them, on every training photo with truth
    python benchmarks/refiners.py RUN --only none crf/irn irn+crf --step 5

RUN must have maps (`tag2mask label` or `train`). WAY+REFINER propagates them first. What learns affinities (irn, psa)
trains in a copy of the run beside it (RUN-refiners-STEP), whose method and maps are taken over. The threshold is found
on the maps each refiner starts from, without truth; the truth is only compared with. Each row is measured in a process
of its own; seconds are of wall clock with as many photos side by side as there are cores, the training of affinities
apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tag2mask import compute, evaluate, pipeline, pseudo, stages
from tag2mask.data.images import read_image
from tag2mask.refine import PRESETS, refiner
from tag2mask.run import Run, read_maps
from tag2mask.stages.label import chosen_threshold
from tag2mask.stages.work import in_parallel

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
    run = Run(folder, resume=True)
    work = pipeline.reopen(run)
    way, _, pixelwise = name.rpartition("+")
    settings = replace(work.settings, propagate=way or "none", refine=pixelwise)
    if beta is not None:
        settings = replace(settings, propagation=replace(settings.propagation, beta=beta))
    work.settings = settings
    found: dict[str, Any] = {"refiner": name, "train_minutes": 0.0}
    samples = list(work.train.samples)[::step]
    clock = time.perf_counter()
    if way:
        stages.train_affinity(work)
        found["train_minutes"] = round((time.perf_counter() - clock) / 60, 1)
        clock = time.perf_counter()
        work.train = work.train.with_samples(samples)
        stages.walk_maps(work)
    source = work.stages["walked" if way else "maps"]
    maps_of = lambda s: read_maps(source.path(s.id, ".npz"), s.id)  # noqa: E731
    work.train = work.train.with_samples(samples)
    threshold, _ = chosen_threshold(work, source)
    sharpen = refiner(pixelwise, settings.refine_longest)

    def mask(sample: Any) -> tuple[str, Any]:
        maps = maps_of(sample)
        scores = pseudo.label_scores(maps, threshold, settings.pseudo)
        scores = pseudo.refine(read_image(sample.image_path), scores, sharpen)
        return sample.id, pseudo.decide(maps.id, maps.classes, scores, settings.pseudo).mask

    masks = dict(in_parallel(mask, samples, settings.workers))
    found["seconds_per_photo"] = (time.perf_counter() - clock) / len(samples)
    found["peak_gb"] = compute.peak_memory_gb()
    scores = evaluate.evaluate_masks(work.train, lambda s: masks[s.id])
    found |= {"threshold": threshold, "miou": scores.mean_iou}
    found |= {"precision": scores.foreground_precision, "recall": scores.foreground_recall}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", nargs="*", default=ALL)
    parser.add_argument("--step", type=int, default=1, help="every n-th training photo")
    parser.add_argument("--beta", type=float, help="exponent of the affinities in the walk")
    options = parser.parse_args()
    copy = options.run.with_name(f"{options.run.name}-refiners-{options.step}")
    if not copy.exists():
        copy.mkdir()
        for name in ("run.json", "images", "method", "maps", "masks", "scores"):
            source = options.run / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
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
