"""Everything of a run that has truth, measured. Nothing before this stage depends on what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tag2mask import evaluate
from tag2mask.run import Clock, digest, write_json
from tag2mask.stages.label import maps_of, unrefined
from tag2mask.stages.work import Work, map_names, mask_if_any, mask_names, mask_of, say, stamp
from tag2mask.types import Dataset, Sample


def make_scores(work: Work) -> None:
    """Measure everything that has truth. Nothing before this function's call depends on what it finds."""
    reads = [stage for name, stage in work.stages.items() if name != "images"]
    truth = digest(
        [
            (s.id, str(s.mask_path), stamp(s.mask_path))
            for dataset in (work.train, work.val)
            if dataset is not None
            for s in dataset.samples
            if s.mask_path is not None
        ]
    )
    stage = work.stages["scores"] = work.run.stage("scores", {"truth": truth}, reads)
    if stage.done:
        return
    clock = Clock()
    found: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    named = {"masks": "pseudo masks (train)"}
    named |= {name: f"relabelled masks, round {name[6:]} (train)" for name in mask_names(work.settings)[1:]}
    best = work.best_masks
    found["tags"] = evaluate.compare_with_tags(work.train, lambda s: mask_if_any(best, s)).to_json()
    if evaluate.has_truth(work.train):
        for name in [n for n in (*map_names(work.settings), "walked") if n in work.stages]:
            found[name] = _score(work.train, unrefined(work, name), f"{name} (train, tags known)", each)
        for name in [n for n in named if n in work.stages]:
            masks = work.stages[name]
            found[name] = _score(work.train, lambda s, m=masks: mask_if_any(m, s), named[name], each, name)
        found["sweep"] = evaluate.sweep_thresholds(work.train, lambda s: maps_of(work, s)).to_json()
    if work.val is not None and evaluate.has_truth(work.val):
        for name in ("predictions", "predictions-oracle"):
            if name in work.stages:
                predicted = work.stages[name]
                title = "segmenter (val, no tags)" + (", ORACLE masks" if name.endswith("oracle") else "")
                found[name] = _score(work.val, lambda s, p=predicted: mask_of(p, s), title, each, name)
    write_json(stage.folder / "scores.json", found)
    write_json(stage.folder / "images.json", each)
    stage.finish(count=len(found), seconds=clock.seconds)


def _score(
    dataset: Dataset,
    mask: Callable[[Sample], np.ndarray | None],
    title: str,
    each: dict[str, list[Any]],
    keep: str | None = None,
) -> dict[str, Any]:
    images: list[list[Any]] = []

    def add(id: str, of_photo: evaluate.Scores) -> None:
        images.append([id, None if np.isnan(of_photo.mean_iou) else round(of_photo.mean_iou, 2)])

    scores = evaluate.evaluate_masks(dataset, mask, add)
    if keep is not None:
        each[keep] = images
    say(f"{title}: {scores.mean_iou:.1f} mIoU")
    return scores.to_json()
