"""Do maps cover more of the objects at equal precision? Foreground recall where maps are as precise as a baseline's.

    python benchmarks/map_coverage.py BASELINE RUN [RUN ...]   # runs on data with truth, finished
    python benchmarks/map_coverage.py --domain target RUN ...  # of these training photos alone (tags.py makes domains)

Precision and recall depend on the threshold, so runs are compared on their whole curve: the baseline's maps are cut at
the threshold found on them, without truth, and every other run's at the constant that makes them as precise. That
constant, like the best one (*oracle*), is chosen on truth: it compares maps and is of no use for making masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tag2mask import evaluate
from tag2mask.pipeline import reopen
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from tag2mask.pseudo import Threshold
from tag2mask.stages.artefacts import MapReader
from tag2mask.stages.masks import unrefined
from tag2mask.stages.thresholds import chosen_threshold


def threshold_of(execution: Execution, name: str) -> Threshold:
    """The threshold found on the maps of a stage of a finished run, without truth."""
    scores = next(stage for stage in execution.stages if stage.name == "scores")
    return chosen_threshold(execution.context(scores, execution.folders["scores"]), name)


def measure(folder: Path, domain: str | None) -> tuple[evaluate.Scores, evaluate.OracleSweep]:
    """The maps of a run's method, not of its students, cut at the threshold found on them and at every one."""
    execution = reopen(Run(folder, existing=True))
    dataset, maps_of = execution.data.train, MapReader(execution.folders["maps"])
    photos = dataset.with_samples([s for s in dataset.samples if domain in (None, s.domain)])
    masks = unrefined(maps_of, threshold_of(execution, "maps"), execution.settings.pseudo)
    return evaluate.evaluate_masks(photos, masks), evaluate.sweep_thresholds(photos, maps_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="the first is the baseline")
    parser.add_argument("--domain", choices=["target", "single-label", "web"])
    args = parser.parse_args()
    precision: float | None = None
    for folder in args.runs:
        cut, sweep = measure(folder, args.domain)
        precision = cut.foreground_precision if precision is None else precision
        print(
            f"{folder.name:24} mIoU {cut.mean_iou:5.1f} (oracle {sweep.best_constant[1]:5.1f})  "
            f"precision {cut.foreground_precision:4.1f} recall {cut.foreground_recall:4.1f}  "
            f"recall at precision {precision:.1f}: {sweep.recall_at(precision):4.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
