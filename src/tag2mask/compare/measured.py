"""A finished run as it is compared: its masks' confusion matrices photo by photo, its minutes, what it was told."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import evaluate, passport, pipeline
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from tag2mask.plan.stage import Fact
from tag2mask.settings import deciding, plain
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader
from tag2mask.stages.scores import is_measured
from tag2mask.types import SampleKey

OF_MEASURING: frozenset[Fact] = frozenset(["files", "truth", "val photos", "val truth"])  # nothing learns from these
WHAT = {"masks": "Masks of training photos, tags known", "predictions": "New photos, no tags given"}


@dataclass(frozen=True)
class MeasuredRun:
    """A run, measured.

    Attributes:
        confusions: by kind (:data:`WHAT`), ``[photos n n+1]`` uint32 (pixels), as of :class:`tag2mask.evaluate.Scores`.
        photos: by kind, what was measured, in the order of the matrices.
        settings: dotted name to value of all that decides a result, without the seed; of what decides by its content
            (weights, photos, tags, ...) its digest.
        signals: what it learned from, :func:`tag2mask.passport.signals`.
        taught: photos that have truth and are not measured, since a person's mask of them taught the run.
    """

    name: str
    execution: Execution
    confusions: Mapping[str, np.ndarray]
    photos: Mapping[str, tuple[SampleKey, ...]]
    settings: Mapping[str, Any]
    seed: int
    minutes: float
    signals: tuple[str, ...]
    taught: frozenset[SampleKey]

    def without(self, left_out: Container[SampleKey]) -> MeasuredRun:
        """The same run, measured on fewer photos; a kind of masks of which none is left is not there."""
        kept = {kind: [n for n, key in enumerate(keys) if key not in left_out] for kind, keys in self.photos.items()}
        kept = {kind: places for kind, places in kept.items() if places}
        confusions = {kind: self.confusions[kind][places] for kind, places in kept.items()}
        photos = {kind: tuple(self.photos[kind][n] for n in places) for kind, places in kept.items()}
        return replace(self, confusions=confusions, photos=photos)

    @property
    def alike(self) -> str:
        """Equal for runs that differ by their seed alone."""
        return json.dumps([self.settings, self.signals], sort_keys=True, default=str)

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
        raise InputError(
            f"the photos of {folder} have no true masks to compare by: run `tag2mask train|label DATA --out {folder} "
            "--truth DIR` again, with the folder of the true masks; what is done is kept"
        )
    s = execution.settings
    decides = {**deciding(s), "data": plain(s.data), "start_from": plain(s.start_from)}  # these decide as facts
    settings = dict(_flat("", decides))
    settings.pop("seed")
    settings |= _facts(execution)
    oracles = {stage.name for stage in execution.stages if stage.oracle}  # which only measure
    done = (of for name, of in execution.folders.items() if name not in oracles)
    seconds = sum(float(of.manifest()["seconds"]) for of in done)
    learned, samples = execution.data.corrected, execution.data.train.samples
    taught = frozenset(x.key for x in samples if x.key in learned and x.has_truth) if learned else frozenset()
    signals = passport.signals(execution)
    return MeasuredRun(name, execution, confusions, photos, settings, s.seed, seconds / 60, signals, taught)


def _facts(execution: Execution) -> dict[str, str]:
    """Digests of what decides the run's result by its content, as far as there is any; settings only name it."""
    stages = [stage for stage in execution.stages if not stage.oracle]
    facts: list[Fact] = [fact for stage in stages for fact in stage.facts if fact not in OF_MEASURING]
    digests = {f"{fact}, by content": execution.data.fact(fact) for fact in dict.fromkeys(facts)}
    return {name: digest for name, digest in digests.items() if digest}


def _measured(execution: Execution, stage: str, kind: str) -> list[tuple[SampleKey, np.ndarray]]:
    dataset = execution.data.train if kind == "masks" else execution.data.val
    if dataset is None:
        return []
    masks = MaskReader(execution.folders[stage], dataset.classes)
    return [
        (sample.key, evaluate.score_photo(sample, dataset, masks.if_any(sample)).confusion.astype(np.uint32))
        for sample in dataset.samples
        if is_measured(sample, execution.data.corrected)
    ]


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}.{key}" if prefix else key, inner)]
    return [(prefix, value)]
