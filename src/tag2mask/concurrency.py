"""Threads: how many, with how many of torch's threads in each, and how far they may run ahead. Nowhere else."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tag2mask import compute, interrupt

Item = TypeVar("Item")
Input = TypeVar("Input")
Output = TypeVar("Output")
Result = TypeVar("Result")

AHEAD_BYTES = 256e6
"""Decoded photos that wait for the device hold at most about this much memory, whatever their sizes."""
BEHIND_BYTES = 1e9
"""What was computed and waits to be written holds at most about this much memory, or is one item."""


def threads(wanted: int = 0) -> int:
    """How many threads to start: as wanted, or (0) one a core, at most 16."""
    return wanted or min(16, compute.cores())


@contextlib.contextmanager
def pool(workers: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch uses its share of the cores. Left early, what has not begun is dropped."""
    import torch

    own = torch.get_num_threads()
    executor = ThreadPoolExecutor(workers, name, initializer=torch.set_num_threads, initargs=(max(1, own // workers),))
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(own)  # a thread that is started later would inherit the last number set


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> Iterator[Result]:
    """Results in the order of the items, a few items ahead, on threads."""
    workers = threads(workers)
    pending: deque[Future[Result]] = deque()
    with pool(workers, "work") as executor:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def pipelined(
    batches: Iterable[Sequence[Item]],
    read: Callable[[Item], Input],
    compute_batch: Callable[[Sequence[Item], Sequence[Input]], Sequence[Output]],
    write: Callable[[Item, Output], Result],
    *,
    cost: Callable[[Item], float],
    workers: int = 0,
) -> Iterator[tuple[Item, Result]]:
    """Read on threads ahead, compute here, write on threads behind; (item, result of writing) in order.

    Args:
        batches: items that are computed together.
        compute_batch: items and inputs to outputs, one each; runs in the calling thread.
        cost: bytes that the input of an item holds while it waits.
        workers: threads that read, and as many that write; 0: one a core.
    """
    compute.keep_memory()
    workers = threads(workers)
    remaining = iter(batches)
    reading: deque[tuple[Sequence[Item], list[Future[Input]]]] = deque()
    writing: deque[tuple[Item, Future[Result], float]] = deque()
    held = behind = 0.0
    with pool(workers, "read") as readers, pool(workers, "write") as writers:

        def read_more() -> None:
            nonlocal held
            while len(reading) < 2 or held < AHEAD_BYTES:
                batch = next(remaining, None)
                if batch is None:
                    return
                reading.append((batch, [readers.submit(read, item) for item in batch]))
                held += sum(map(cost, batch))

        read_more()
        while reading:
            batch, inputs = reading.popleft()
            outputs = compute_batch(batch, [future.result() for future in inputs])
            held -= sum(map(cost, batch))
            read_more()
            for item, output in zip(batch, outputs, strict=True):
                writing.append((item, writers.submit(write, item, output), held_by(output)))
                behind += writing[-1][-1]
            while len(writing) > 4 * workers or (behind > BEHIND_BYTES and len(writing) > 1):
                item, result, size = writing.popleft()
                behind -= size
                yield item, result.result()
            interrupt.end_if_asked()
        while writing:
            item, result, _ = writing.popleft()
            yield item, result.result()


def held_by(output: object) -> float:
    """Bytes of the tensors and arrays in an output, and in tuples and lists of it."""
    if isinstance(output, (tuple, list)):
        return sum(map(held_by, output))
    return float(getattr(output, "nbytes", 0))
