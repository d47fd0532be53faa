"""The batches of a whole training, one a step, wherever it starts; read between steps or prefetched."""

from __future__ import annotations

import bisect
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tag2mask import compute
from tag2mask.data.batches import Source, epoch_batches
from tag2mask.errors import InputError
from tag2mask.training.settings import TrainSettings

log = logging.getLogger("tag2mask")

TRIED = 6  # steps, to see how long batches take
LITTLE = 0.25
"""A batch that takes less than this share of a step's time is read between steps instead of prefetched. On two cores,
batches of a tenth of a step's time made prefetched steps a quarter longer (docs/log.md, 2026-11-28)."""


class Steps(Dataset[Any]):
    """A source as a map from step to batch, over all epochs of a training.

    Epochs may differ in length where photos are grouped by size. Of several processes each has a part of every batch,
    in order of their ranks.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.rank, self.world = rank, world
        self.first = [0]  # step of each epoch known so far
        self.epoch, self.batches = -1, [[]]  # the last one used

    def __getitem__(self, step: int) -> Any:
        epoch, whole = self.whole(step)
        indices = self.part(whole) or whole[:1]  # one takes part without counting, where there are too few for all
        try:
            return self.source.collate([self.source.item(epoch, index) for index in indices])
        except InputError as error:
            if get_worker_info() is None:
                raise
            return error  # the loader would make one text of it and its traceback

    def whole(self, step: int) -> tuple[int, list[int]]:
        """The epoch of a step, and the photos of its batch in all processes."""
        epoch = self.epoch_of(step)
        return epoch, self.batches_of(epoch)[step - self.first[epoch]]

    def part(self, whole: list[int]) -> list[int]:
        """Those of them that are this process's."""
        return whole[len(whole) * self.rank // self.world : len(whole) * (self.rank + 1) // self.world]

    def epoch_of(self, step: int) -> int:
        while self.first[-1] <= step:
            self.first.append(self.first[-1] + len(self.batches_of(len(self.first) - 1)))
        return bisect.bisect_right(self.first, step) - 1

    def batches_of(self, epoch: int) -> list[list[int]]:
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, epoch_batches(self.source, self.batch_size, self.seed, epoch)
        return self.batches


def batches(
    steps: Steps, settings: TrainSettings, start: int, end: int, device: torch.device, flags: str = "train"
) -> Iterator[Any]:
    """The batches of the steps from ``start`` to ``end``; ``flags``: how those of the settings begin."""
    workers = _workers(settings, device, end - start, flags)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, end),  # pyright: ignore[reportArgumentType] (any sized iterable of indices will do)
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # forked: sources hold functions, which other ways to start a process cannot hand over
        multiprocessing_context="fork" if workers else None,
    )
    if not workers:
        yield from _prefetched_if_slow(iter(loader))
        return
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"one of the {workers} processes that read photos died ({str(error).partition(chr(10))[0]}), most likely "
            "for want of memory: run the same command again, which goes on from the last checkpoint, with fewer "
            f"--{flags}.workers"
        ) from error


def _workers(settings: TrainSettings, device: torch.device, steps: int, flags: str) -> int:
    """Processes that read ahead: as many as asked for, or one a core on an accelerator; none on a CPU."""
    cores = compute.cores()
    if not sys.platform.startswith("linux"):  # processes cannot be forked there: a thread reads ahead
        if settings.workers:
            log.info("--%s.workers %d: only Linux reads with several processes", flags, settings.workers)
        return 0
    if settings.workers is None:
        return 0 if device.type == "cpu" else min(cores, 16, steps)
    if settings.workers > cores:
        more = "--%s.workers %d: more than the cores of this machine do not help, so %d"
        log.info(more, flags, settings.workers, cores)
    return min(settings.workers, cores, steps)


def _prefetched_if_slow(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, read between steps where that is quick, and otherwise prefetched by a thread, which competes
    with the step's own threads for the cores."""
    reading, learning = [], []
    for _ in range(TRIED):
        begun = time.monotonic()
        if (batch := next(batches, None)) is None:
            return
        read = time.monotonic()
        yield batch
        reading.append(read - begun)
        learning.append(time.monotonic() - read)
    # the first ones also open files and take memory
    yield from batches if min(reading) < LITTLE * min(learning) else _prefetched(batches)


def _prefetched(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, the next one made on a thread while this one is learnt from."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(1,))
    end = object()
    try:
        coming = pool.submit(next, batches, end)
        torch.set_num_threads(threads)  # the thread's own is 1; a later thread would inherit the last one set
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
