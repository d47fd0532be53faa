"""How well signs without truth find the worst fifth of a run's masks: AUROC of each sign and of their mean.

    python benchmarks/need.py RUN [RUN ...]

The worst fifth is by the photos' own mean IoU, so truth is needed: this measures the signs, it sets nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tag2mask import evaluate, need, pipeline
from tag2mask.plan.folder import Run
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=0.2, help="of the photos that count as worst (0.2)")
    parsed = parser.parse_args()
    for folder in parsed.runs:
        execution = pipeline.reopen(Run(folder, existing=True))
        together = need.scores(execution)
        last = names.last_masks(execution.settings, execution.folders)
        stages = {last: execution.data.train, "predictions": execution.data.val}
        for (stage, dataset), (samples, signs) in zip(stages.items(), need.signs(execution), strict=False):
            assert dataset is not None
            masks = MaskReader(execution.folders[stage], execution.data.train.classes)
            chosen = [i for i, sample in enumerate(samples) if sample.mask_path is not None]
            scores = [evaluate.score_photo(samples[i], dataset, masks.if_any(samples[i])) for i in chosen]
            values = np.array([score.mean_iou for score in scores])
            worst = values <= np.quantile(values, parsed.share)
            rows = {name: need.auroc(of[chosen], worst) for name, of in signs.items()}
            rows["need"] = need.auroc(np.array([together[samples[i].key] for i in chosen]), worst)
            said = ", ".join(f"{name} {value:.2f}" for name, value in rows.items())
            print(f"{folder} {stage}: {len(chosen)} photos, worst {int(worst.sum())}: AUROC {said}")


if __name__ == "__main__":
    main()
