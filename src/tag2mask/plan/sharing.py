"""A plan's per-photo stages by shards that only share a file system: each does its share of a stage, the one that
finishes last marks the stage done; where others are not done, a shard ends and says so.

Networks are trained by one command without shards before, which several processes may carry out.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tag2mask import compute, shards
from tag2mask.data.samples import keys_of
from tag2mask.errors import InputError, listed, some
from tag2mask.evaluate import write_classes
from tag2mask.files import digest, read_object, write_json
from tag2mask.plan.context import Context
from tag2mask.plan.execute import Execution, opened, settled
from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import Run
from tag2mask.plan.photos import batches_of, checked_photos, concluded, do_share, keep_columns, missing, samples_of
from tag2mask.plan.stage import PhotoStage, Stage
from tag2mask.recipes import RunSettings
from tag2mask.settings import deciding
from tag2mask.shards import Shard

log = logging.getLogger("tag2mask")


@contextlib.contextmanager
def shared(run: Run, shard: Shard, settings: RunSettings) -> Iterator[None]:
    """A run folder in which shards of the same settings work.

    Raises:
        InputError: the whole run, the same shard, or shards of other settings are being worked on.
    """
    path, mine = run.folder / shards.FOLDER / "settings.json", digest(deciding(settings))
    with shards.deciding(run.folder):
        run.check_free()
        others = shards.held_by_others(run.folder)
        if others and (read_object(path) or {}).get("settings") != mine:
            raise InputError(
                f"shards of {run.folder} with other settings are being worked on ({listed(others)}): wait for them, or "
                "give the same settings"
            )
        write_json(path, {"settings": mine})
        stack = contextlib.ExitStack()
        stack.enter_context(shards.held(run.folder, shard))
    with stack:
        yield


def carry_out_share(
    run: Run,
    stages: Sequence[Stage],
    settings: RunSettings,
    data: RunData,
    wanted: Collection[str],
    shard: Shard,
    examine: Callable[[Execution], None],
) -> str | None:
    """Do a shard's share of the wanted per-photo stages that are not done, in order, as far as they can be done.

    Args:
        examine: called once the photos are checked, by one shard at a time.

    Returns:
        Why it ended early, None where all is done.

    Raises:
        InputError: a network that a stage needs is not trained; anything else the user can mend.
    """
    execution = Execution(run, stages, settings, data, {})
    for stage in stages:
        if stage.name not in wanted:
            continue
        waiting = _share_of(execution, stage, shard)
        if waiting is not None:
            return waiting
        if stage is stages[0]:
            assert isinstance(stage, PhotoStage)
            folder = execution.folders[stage.name]
            photos = checked_photos(stage, folder)
            execution.data = execution.data.checked(photos)
            with shards.deciding(run.folder):
                keep_columns(folder, photos)
                examine(execution)
                settled(execution)
    return None


def _share_of(execution: Execution, stage: Stage, shard: Shard) -> str | None:
    with shards.deciding(execution.run.folder):
        folder, done = opened(execution, stage, tidy=False)
    if not done:
        if not isinstance(stage, PhotoStage):
            raise InputError(
                f"shard {shard} needs the stage '{stage.name}' ({stage.title}), which is not done: run the same "
                f"command with --until {stage.name} in the place of --shard first"
            )
        _do(stage, execution.context(stage, folder), shard, execution.settings.workers)
        with shards.deciding(execution.run.folder):
            if not folder.has_manifest:  # another one was quicker
                lacking = _finished(stage, execution.context(stage, folder), shard)
                if lacking:
                    return (
                        f"{stage.title}: shard {shard} is done, {lacking} others are not: run all again when they are"
                    )
    execution.folders[stage.name] = folder
    return None


def _do(stage: PhotoStage, context: Context, shard: Shard, workers: int) -> None:
    """A shard's share of a stage, and its manifest."""
    folder, began = context.folder, time.monotonic()
    shards.begin(folder.own, shard)
    if stage.suffix == ".png":
        write_classes(folder.folder, context.classes)
    work = stage.start(context)
    todo = {*keys_of(missing(stage, context, shard.name))}
    own = shard.own(batches_of(work, samples_of(stage, context)))
    batches = [batch for batch in own if any(sample.key in todo for sample in batch)]
    do_share(stage, work, batches, context, workers, shard.name)
    content = {"key": folder.key, "photos": sum(map(len, own)), "seconds": round(time.monotonic() - began, 2)}
    shards.finish(folder.own, shard, content)
    log.info("%s: shard %s, %s", stage.title, shard, some(content["photos"], "photo"))


def _finished(stage: PhotoStage, context: Context, shard: Shard) -> int:
    """Mark the stage done, if all shards are; how many are not."""
    folder = context.folder
    done = [m for m in shards.manifests(folder.own, folder.key) if m["count"] == shard.count]
    if len(done) < shard.count:
        return shard.count - len(done)
    samples = samples_of(stage, context)
    work = stage.start(context)
    manifest: dict[str, Any] = {**work.manifest, **concluded(stage, work, samples, context)}
    peak = round(compute.peak_memory_gb(), 2)
    seconds = sum(float(m.get("seconds", 0)) for m in done)
    folder.finish(seconds=seconds, count=len(samples), files=stage.files, peak_memory_gb=peak, **manifest)
    log.info("%s: %s by %s", stage.title, some(len(samples), "photo"), some(shard.count, "shard"))
    return 0


def check_shards(run: Run, stages: Sequence[Stage], wanted: Collection[str]) -> None:
    """Every wanted stage is done.

    Raises:
        InputError: one is not, and which shards of it are missing or overlap.
    """
    for stage in stages:
        present = run.current(stage.name)
        if stage.name not in wanted or (present is not None and present.has_manifest):
            continue
        if not isinstance(stage, PhotoStage):
            raise InputError(
                f"{run.folder}: the stage '{stage.name}' ({stage.title}) is not done: run `tag2mask label` with "
                f"--until {stage.name}"
            )
        done = [] if present is None else shards.manifests(present.own, present.key)
        shards.check_complete(run.folder / stage.name, done, "`tag2mask label` with the same arguments and")
        raise InputError(f"{run.folder}: all shards of '{stage.name}' are done: run one again, which concludes it")
