"""The batches of a whole training, one a step, wherever it starts; read ahead by a thread or by processes."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tag2mask import compute
from tag2mask.data.batches import Source, epoch_batches
from tag2mask.train.settings import TrainSettings


class Steps(Dataset[Any]):
    """A source as a map from step to batch, over all epochs of a training.

    Epochs may differ in length where photos are grouped by size.
    """

    def __init__(self, source: Source, batch_size: int, seed: int) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.first = [0]  # step of each epoch known so far
        self.epoch, self.batches = -1, [[]]  # the last one used

    def __getitem__(self, step: int) -> Any:
        epoch = self.epoch_of(step)
        indices = self.batches_of(epoch)[step - self.first[epoch]]
        return self.source.collate([self.source.item(epoch, index) for index in indices])

    def epoch_of(self, step: int) -> int:
        while self.first[-1] <= step:
            self.first.append(self.first[-1] + len(self.batches_of(len(self.first) - 1)))
        return bisect.bisect_right(self.first, step) - 1

    def batches_of(self, epoch: int) -> list[list[int]]:
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, epoch_batches(self.source, self.batch_size, self.seed, epoch)
        return self.batches


def batches(steps: Steps, settings: TrainSettings, start: int, end: int, device: torch.device) -> Iterator[Any]:
    """The batches of the steps from ``start`` to ``end``."""
    workers = settings.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else min(compute.cores(), 16)
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, end),  # pyright: ignore[reportArgumentType] (any sized iterable of indices will do)
        num_workers=min(workers, end - start),
        pin_memory=device.type == "cuda",
    )
    return iter(loader) if workers else _one_ahead(iter(loader))


def _one_ahead(batches: Iterator[Any]) -> Iterator[Any]:
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
