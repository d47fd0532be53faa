"""Who gains, small objects or large ones? IoU of a run's masks and maps, split by how much of the photo a class covers.

    python benchmarks/object_sizes.py RUN [RUN ...]          # runs on data with truth, finished
    python benchmarks/object_sizes.py RUN --edge 0.05 --stages maps self-maps-1 masks

A region is one class in one training photo. It is small when the truth of it covers less than ``--edge`` of the photo.
Intersections and unions are added up over the regions of a class, small and large apart, and the classes' IoU averaged;
classes that a photo is not tagged with do not count, so numbers are higher than mIoU. Maps are cut at the threshold
found on them, as in the report.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tag2mask import evaluate
from tag2mask.pipeline import reopen
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from tag2mask.stages.artefacts import MapReader, MaskReader
from tag2mask.stages.masks import unrefined
from tag2mask.stages.thresholds import chosen_threshold
from tag2mask.types import IGNORE, Dataset, Sample


def by_size(dataset: Dataset, mask: Callable[[Sample], np.ndarray], edge: float) -> dict[str, tuple[float, int]]:
    """Mean IoU in percent and number of regions, of small and of large ones."""
    sums = np.zeros((2, len(dataset.classes), 3))  # size, class; intersection, union, regions
    for sample in dataset.samples:
        if sample.mask_path is None:
            continue
        truth, found = evaluate.read_truth(sample, dataset), mask(sample)
        decided = truth != IGNORE
        for c in sample.labels or ():
            here, there = (truth == c + 1) & decided, (found == c + 1) & decided
            if here.any():
                size = int(here.sum() >= edge * decided.sum())
                sums[size, c] += (here & there).sum(), (here | there).sum(), 1
    named = {}
    for name, part in zip(("small", "large"), sums, strict=True):
        seen = part[:, 2] > 0
        named[name] = (
            float(100 * (part[seen, 0] / part[seen, 1]).mean()) if seen.any() else np.nan,
            int(part[:, 2].sum()),
        )
    return named


def masks_of(execution: Execution, stage: str) -> Callable[[Sample], np.ndarray]:
    """The masks of a stage; maps are cut at the threshold found on them."""
    measured = next(s.measured for s in execution.stages if s.name == stage)
    assert measured is not None, f"{stage} holds neither maps nor masks"
    if measured.what != "maps":
        return MaskReader(execution.folders[stage], execution.data.train.classes)
    scores = next(s for s in execution.stages if s.name == "scores")
    threshold = chosen_threshold(execution.context(scores, execution.folders["scores"]), stage)
    return unrefined(MapReader(execution.folders[stage]), threshold, execution.settings.pseudo)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--edge", type=float, default=0.1, help="share of the photo from which a region is large")
    parser.add_argument("--stages", nargs="*", default=[], help="default: all maps and masks of the run")
    args = parser.parse_args()
    for folder in args.runs:
        execution = reopen(Run(folder, existing=True))
        measured = [s.name for s in execution.done() if s.measured is not None and s.measured.split == "train"]
        for name in args.stages or measured:
            found = by_size(execution.data.train, masks_of(execution, name), args.edge)
            shown = "  ".join(f"{size} {iou:5.1f} (of {count})" for size, (iou, count) in found.items())
            print(f"{folder.name:24} {name:14} {shown}")


if __name__ == "__main__":
    main()
