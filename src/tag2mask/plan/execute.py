"""Carries out a plan: stage after stage, skipping what is done, making anew what is missing, damaged or decided
otherwise.

Of several processes the main one decides and keeps the run folder; all carry out the stages, each its share.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask import compute, interrupt, processes, progress
from tag2mask.data.samples import keys_of as keys_of_photos
from tag2mask.errors import DamagedArtefact, listed, some
from tag2mask.evaluate import write_classes
from tag2mask.files import digest
from tag2mask.plan.context import Context
from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.plan.keys import content_of, keys_of, reads_of
from tag2mask.plan.photos import Engine, checked_photos, keep_columns, missing, run_photos, samples_of
from tag2mask.plan.stage import PhotoStage, Stage, TrainingStage
from tag2mask.recipes import RunSettings

log = logging.getLogger("tag2mask")


@dataclass
class Execution:
    """A plan while it is carried out, or afterwards: which stages are done, and where.

    Attributes:
        stages: the whole plan, in order; the first one checks the photos.
        folders: of the stages that are done, by name.
        engine: what does the work of per-photo stages; None: this process.
    """

    run: Run
    stages: Sequence[Stage]
    settings: RunSettings
    data: RunData
    folders: dict[str, StageFolder]
    engine: Engine | None = None

    def context(self, stage: Stage, folder: StageFolder) -> Context:
        """What the stage's function may see."""
        reads = {name: self.folders[name] for name in reads_of(stage, self.folders) if name in self.folders}
        return Context(stage, self.settings, self.data, folder, reads)

    def done(self) -> list[Stage]:
        """The stages that are done, in order."""
        return [stage for stage in self.stages if stage.name in self.folders]


def begin(
    run: Run, stages: Sequence[Stage], settings: RunSettings, data: RunData, engine: Engine | None = None
) -> Execution:
    """Carry out the first stage of a plan, which checks the photos.

    Raises:
        InputError: too few photos can be read.
    """
    execution = Execution(run, stages, settings, data, {}, engine)
    _carry_out(execution, stages[0])
    assert isinstance(stages[0], PhotoStage)
    folder = execution.folders[stages[0].name]
    photos = checked_photos(stages[0], folder)
    processes.from_main(lambda: keep_columns(folder, photos))
    execution.data = data.checked(photos)
    _report_set_aside(execution)
    return execution


def execute(execution: Execution, wanted: Collection[str]) -> None:
    """Carry out the ``wanted`` stages of a plan that was begun, in order.

    Results of other settings are moved aside; whatever of this plan lies there is used, wanted or not.

    Raises:
        InputError: anything the user can mend, in one line; what is finished is kept.
    """
    others = execution.stages[1:]
    keys = processes.from_main(lambda: settled(execution))
    for stage in others:
        if processes.from_main(
            lambda stage=stage: stage.name in wanted or _is_done(execution, stage, keys[stage.name])
        ):
            _healed(execution, stage, set())
    processes.from_main(lambda: execution.run.bound_aside(execution.settings.aside_gb))


def settled(execution: Execution) -> dict[str, str]:
    """The keys of the plan, what is of another plan moved aside."""
    others = execution.stages[1:]
    keys = keys_of(execution.stages, execution.settings, execution.data)
    settle(
        execution.run, {stage.name: keys[stage.name] for stage in others if not stage.reads_if_done}, execution.stages
    )
    execution.data.digests.save()
    return keys


def reopened(run: Run, stages: Sequence[Stage], settings: RunSettings, data: RunData) -> Execution:
    """A run as it lies there, for readers: its finished stages that are of this plan. Nothing is made or moved."""
    execution = Execution(run, stages, settings, data, {})
    first, *others = stages
    present = run.current(first.name)
    if present is None or not present.has_manifest:
        return execution
    assert isinstance(first, PhotoStage)
    if missing(first, execution.context(first, present), by_bytes=True):
        return execution  # photos are new or changed: nothing is known to be of them
    execution.folders[first.name] = present
    execution.data = data.checked(checked_photos(first, present))
    for stage in others:
        key = keys_of(stages, settings, execution.data, execution.folders)[stage.name]
        folder = run.current(stage.name)
        if folder is None or folder.key != key or not folder.has_manifest:
            continue
        if not isinstance(stage, PhotoStage) or all(map(folder.as_written, stage.files)):
            execution.folders[stage.name] = folder
    return execution


def settle(run: Run, keys: Mapping[str, str], stages: Sequence[Stage]) -> None:
    """Move aside what is of another plan, and take back what was kept of this one.

    Args:
        keys: of the stages of this plan whose key is known; the others settle when they are opened.
    """
    planned = {stage.name for stage in stages}
    for name in run.stages():
        present = run.current(name)
        if present is not None and (name not in planned or keys.get(name, present.key) != present.key):
            run.set_aside(name)
    for name, key in keys.items():
        run.take_back(name, key)


def _is_done(execution: Execution, stage: Stage, key: str) -> bool:
    """Whether a stage that is not wanted is there nevertheless, with all that it reads."""
    folder = execution.run.current(stage.name)
    readable = all(name in execution.folders for name in stage.reads)
    return readable and folder is not None and folder.key == key and folder.has_manifest


def _healed(execution: Execution, stage: Stage, seen: set[Path]) -> None:
    """Carry out a stage; where it meets a damaged artefact of an earlier one, that is made anew first."""
    while True:
        try:
            _carry_out(execution, stage)
            return
        except DamagedArtefact as damaged:
            if damaged.path in seen:
                raise
            seen.add(damaged.path)
            log.info("%s is damaged or gone: it is made anew", damaged.path)
            for earlier in execution.stages:
                if execution.run.folder / earlier.name in damaged.path.parents and earlier is not stage:
                    _healed(execution, earlier, seen)


def _carry_out(execution: Execution, stage: Stage) -> None:
    """Make what is missing of a stage."""
    interrupt.end_if_asked()
    folder, done = processes.from_main(lambda: opened(execution, stage))
    if not done:
        _made(execution, stage, folder)
    execution.folders[stage.name] = folder


def opened(execution: Execution, stage: Stage, *, tidy: bool = True) -> tuple[StageFolder, bool]:
    """The folder of a stage to work in; and whether it is done.

    Args:
        tidy: as of :meth:`Run.open`.
    """
    reads = {name: execution.folders[name].key for name in reads_of(stage, execution.folders)}
    content = content_of(stage, execution.settings, execution.data, reads)
    folder = execution.run.open(stage.name, digest(content), content, photos=_artefacts(execution, stage), tidy=tidy)
    if not folder.has_manifest:
        return folder, False
    gone = lacking(stage, execution.context(stage, folder))
    if gone:
        log.info("%s: %s, made anew", stage.title, gone)
        folder.reopen()
    return folder, not gone


def _artefacts(execution: Execution, stage: Stage) -> int:
    """Of how many photos a stage makes an artefact."""
    if not isinstance(stage, PhotoStage) or stage.suffix is None:
        return 0
    return len(samples_of(stage, execution.context(stage, StageFolder(execution.run.folder / stage.name, ""))))


def _made(execution: Execution, stage: Stage, folder: StageFolder) -> None:
    """Do what is missing of a stage whose folder is open, and mark it done."""
    began = time.monotonic()
    progress.tell("stage", state="begins", name=stage.name, title=stage.title)
    try:
        with processes.together():
            manifest = _work(stage, execution.context(stage, folder), execution.settings.workers, execution.engine)
    finally:
        if processes.is_main() and folder.folder.exists():
            folder.pause(time.monotonic() - began)
    peak = max(processes.exchange(compute.peak_memory_gb()))
    processes.from_main(lambda: folder.finish(seconds=0, peak_memory_gb=round(peak, 2), **manifest))
    note = manifest.get("note", "")
    seconds = round(time.monotonic() - began, 1)
    progress.tell("stage", state="ends", name=stage.name, photos=manifest["count"], note=note, seconds=seconds)
    log.info(
        "%s: %s%s (%.1f min)",
        stage.title,
        some(manifest["count"], "photo"),
        note and f", {note}",
        folder.manifest()["seconds"] / 60,
    )


def _work(stage: Stage, context: Context, workers: int, engine: Engine | None) -> dict[str, Any]:
    if isinstance(stage, PhotoStage):
        if stage.suffix == ".png" and stage.shows_classes and processes.is_main():  # masks say what their values mean
            write_classes(context.folder.folder, context.classes)
        manifest = run_photos(stage, context, workers, engine)
        return {"count": len(samples_of(stage, context)), "files": stage.files, **manifest}
    assert isinstance(stage, TrainingStage)
    return {"count": len(context.train), **(stage.train(context) or {})}


def lacking(stage: Stage, context: Context) -> str:
    """What a stage's manifest promises and is not there, in words."""
    if isinstance(stage, TrainingStage):
        return "" if is_whole(context.folder.model) else "the model is missing or damaged"
    assert isinstance(stage, PhotoStage)
    files = [name for name in stage.files if not context.folder.as_written(name)]
    gone = listed([*files, *(id_ for _, id_ in keys_of_photos(missing(stage, context)))])
    if not gone:
        return ""
    return f"new or changed photos: {gone}" if stage.stamp is not None else f"missing or damaged: {gone}"


def is_whole(model: Path) -> bool:
    """Whether a safetensors file is as long as its header says; its numbers are looked at when it is loaded."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model, "pt") as file:
            return bool(file.keys())
    except (OSError, SafetensorError):
        return False


def _report_set_aside(execution: Execution, limit: int = 20) -> None:
    records = execution.data.set_aside
    for record in records[:limit]:
        log.info("set aside: %s", record.error)
    if len(records) > limit:
        file = execution.folders[execution.stages[0].name].records
        log.info("set aside: %d more, named in %s", len(records) - limit, file)
