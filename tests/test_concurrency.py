"""Threads that read ahead and write behind: in order, bounded, and what goes wrong in one comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tag2mask import concurrency, interrupt
from tag2mask.concurrency import in_order, pipelined, threads
from tag2mask.errors import InputError, Terminated


def test_results_come_in_the_order_of_the_items() -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_order(slow, range(40), 4)) == [i * i for i in range(40)]
    assert list(in_order(slow, iter(()), 4)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_read_compute_write_in_order_whatever_the_batches(workers: int) -> None:
    batches = [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9]]
    computed: list[Sequence[int]] = []
    main = threading.current_thread()

    def compute(batch: Sequence[int], inputs: Sequence[int]) -> list[int]:
        assert threading.current_thread() is main  # the device's
        computed.append(batch)
        return [value + 1 for value in inputs]

    def write(item: int, output: int) -> tuple[int, str]:
        assert threading.current_thread() is not main
        return output, f"{item}"

    done = pipelined(batches, lambda item: 10 * item, compute, write, cost=lambda item: 1.0, workers=workers)
    assert list(done) == [(i, (10 * i + 1, f"{i}")) for i in range(10)]
    assert computed == batches


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many items there are: two batches, or as many as fit."""
    monkeypatch.setattr(concurrency, "AHEAD_BYTES", 100.0)
    read, computed, most = [0], [0], [0]
    lock = threading.Lock()

    def reading(item: int) -> int:
        with lock:
            read[0] += 1
            most[0] = max(most[0], read[0] - computed[0])
        return item

    def compute(batch: Sequence[int], inputs: Sequence[int]) -> Sequence[int]:
        time.sleep(0.01)
        with lock:
            computed[0] += len(batch)
        return inputs

    work = {"read": reading, "compute_batch": compute, "write": lambda item, output: None, "workers": 4}
    assert sum(1 for _ in pipelined(([i] for i in range(60)), cost=lambda item: 30.0, **work)) == 60
    assert most[0] <= 5  # 100 bytes are four items, and the one that is computed
    most[0] = read[0] = computed[0] = 0
    assert sum(1 for _ in pipelined(([i] for i in range(30)), cost=lambda item: 1e9, **work)) == 30
    assert most[0] <= 3


def test_what_waits_to_be_written_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities of photos of any size: as many as fit, or one."""
    monkeypatch.setattr(concurrency, "BEHIND_BYTES", 10_000)
    held, most = [0], [0]
    lock = threading.Lock()

    def compute(batch: Sequence[int], inputs: Sequence[int]) -> Sequence[tuple[int, list[np.ndarray]]]:
        with lock:
            held[0] += len(batch)
            most[0] = max(most[0], held[0])
        return [(0, [np.zeros(size, np.uint8)]) for size in inputs]

    def write(item: int, output: object) -> None:
        time.sleep(0.005)
        with lock:
            held[0] -= 1

    def most_held(size: int) -> int:
        most[0] = 0
        found = pipelined(([i] for i in range(20)), lambda i: size, compute, write, cost=lambda i: 1.0, workers=4)
        assert sum(1 for _ in found) == 20
        return most[0]

    assert most_held(50_000) <= 2  # one that waits, one that was computed just now
    assert most_held(4_000) <= 4
    assert most_held(10) > 5


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_what_goes_wrong_comes_out_and_nothing_goes_on(where: str) -> None:
    begun: list[int] = []

    def failing(name: str, item: int) -> int:
        if name == where and item == 5:
            raise InputError("photo 5")
        if name == "read":
            begun.append(item)
        return item

    done = pipelined(
        ([i] for i in range(1000)), lambda item: failing("read", item),
        lambda batch, inputs: [failing("compute", batch[0])], lambda item, output: failing("write", item),
        cost=lambda item: 6e6, workers=2,
    )  # fmt: skip
    with pytest.raises(InputError, match="photo 5"):
        list(done)
    assert len(begun) < 200
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "write"))]


def test_left_early_nothing_goes_on_and_threads_are_given_back() -> None:
    torch.set_num_threads(2)
    begun: list[int] = []
    done = pipelined(
        ([i] for i in range(1000)), begun.append, lambda batch, inputs: inputs, lambda item, output: None,
        cost=lambda item: 6e6, workers=2,
    )  # fmt: skip
    assert next(done)[0] == 0
    done.close()
    assert len(begun) < 200 and torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_asked_to_end_between_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    asked = threading.Event()
    monkeypatch.setattr(interrupt, "_asked", asked)

    def compute(batch: Sequence[int], inputs: Sequence[object]) -> Sequence[object]:
        if batch == [3]:
            asked.set()
        return inputs

    done = pipelined(
        ([i] for i in range(100)), lambda item: None, compute, lambda item, output: written.append(item),
        cost=lambda item: 1.0, workers=1,
    )  # fmt: skip
    with pytest.raises(Terminated):
        list(done)
    assert written == [0, 1, 2, 3][: len(written)]  # in order, and nothing that was not computed


def test_how_many_threads() -> None:
    assert threads(3) == 3 and 1 <= threads() <= 16
