"""A finished run as it is compared: its masks' confusion matrices photo by photo, its minutes, what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import evaluate, passport, pipeline
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from tag2mask.settings import deciding, plain
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import SampleKey

WHAT = {"masks": "Masks of training photos, tags known", "predictions": "New photos, no tags given"}


@dataclass(frozen=True)
class MeasuredRun:
    """A run, measured.

    Attributes:
        confusions: by kind (:data:`WHAT`), ``[photos n n+1]`` int64, as of :class:`tag2mask.evaluate.Scores`.
        photos: by kind, what was measured, in the order of the matrices.
        settings: dotted name to value of all that decides a result, without the seed.
        signals: what it learned from, :func:`tag2mask.passport.signals`.
    """

    name: str
    execution: Execution
    confusions: Mapping[str, np.ndarray]
    photos: Mapping[str, tuple[SampleKey, ...]]
    settings: Mapping[str, Any]
    seed: int
    minutes: float
    signals: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.execution.data.train.classes


def open_run(folder: Path, name: str) -> MeasuredRun:
    """Open a finished run and measure its last masks and its predictions against the truth that its data set has.

    Raises:
        InputError: no run, not finished, its photos or tags have changed since, or no truth.
    """
    execution = pipeline.reopen(Run(folder, existing=True))
    if "masks" not in execution.folders:
        raise InputError(
            f"{folder} holds no finished masks of the photos and tags that are there now: run its command again"
        )
    confusions, photos = {}, {}
    stages = {"masks": names.last_masks(execution.settings, execution.folders), "predictions": "predictions"}
    for kind, stage in stages.items():
        if stage in execution.folders:
            measured = _measured(execution, stage, kind)
            if measured:
                photos[kind], matrices = zip(*measured, strict=True)
                confusions[kind] = np.stack(matrices)
    if not confusions:
        raise InputError(f"the photos of {folder} have no true masks to compare by: give them with --truth")
    s = execution.settings
    decides = {**deciding(s), "data": plain(s.data), "start_from": plain(s.start_from)}  # these decide as facts
    settings = dict(_flat("", decides))
    settings.pop("seed")
    seconds = sum(float(of.manifest()["seconds"]) for of in execution.folders.values())
    return MeasuredRun(name, execution, confusions, photos, settings, s.seed, seconds / 60, passport.signals(execution))


def _measured(execution: Execution, stage: str, kind: str) -> list[tuple[SampleKey, np.ndarray]]:
    dataset = execution.data.train if kind == "masks" else execution.data.val
    if dataset is None:
        return []
    masks = MaskReader(execution.folders[stage], dataset.classes)
    return [
        (sample.key, evaluate.score_photo(sample, dataset, masks.if_any(sample)).confusion)
        for sample in dataset.samples
        if sample.mask_path is not None
    ]


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}" if prefix else key, inner)]
    return [(prefix, value)]
