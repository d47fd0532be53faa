"""Every process of a run says now and then that it is alive, so that the others end soon after one that died.

A process that dies closes its connections, which ends what waits for it in gloo; but not what waits in NCCL, what works
for itself, nor what waits for a process that was stopped or whose machine is gone. A thread of each process therefore
counts up a number in the store through which the processes met, and reads those of the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

BEAT = 1.0  # seconds between two signs of life
SILENT = 15.0  # seconds without one after which a process counts as dead
GRACE = 4.0  # seconds for the main thread to end by itself before the process is ended
HEARING = 2.0  # seconds that the process which says why a run ends waits for the others to hear that it did
STORE = 10.0  # seconds that the store may take to answer
AGAIN = "run the same command again to go on; finished work is kept"


class Liveness:
    """This process's signs of life, and its ear for those of the others.

    Args:
        store: a connection of its own to the store.
        on_loss: called on the thread as soon as another process has failed or died, with a line that says so.
        on_grace: called :data:`GRACE` seconds later, if this process is still there.
    """

    def __init__(
        self, store: Any, rank: int, world: int, on_loss: Callable[[str], None], on_grace: Callable[[str], None]
    ) -> None:
        self.store, self.rank, self.world = store, rank, world
        self.on_loss, self.on_grace = on_loss, on_grace
        self.loss: str | None = None
        self._noticed, self._ended, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self.beat(0)

    def start(self) -> None:
        """Once every process has called :meth:`beat`."""
        threading.Thread(target=self._listen, name="liveness", daemon=True).start()

    def beat(self, count: int) -> None:
        with self._lock:
            self.store.set(f"alive/{self.rank}", str(count))

    def wait_for_loss(self, seconds: float) -> str | None:
        """What is known of a failed process, or None after so many seconds."""
        self._noticed.wait(seconds)
        return self.loss

    def tell_failure(self, message: str) -> None:
        """Tell the others why this process ends. The first to fail is heard."""
        with self._lock:
            if not self.store.check(["failed"]):
                self.store.set("failed", message)

    def tell_said(self) -> None:
        """Tell the others that the user has been told, and wait a little for them to hear it: the store may end with
        this process, and they would say it again."""
        with self._lock:
            self.store.set("said", "")
        heard = [f"heard/{rank}" for rank in range(self.world) if rank != self.rank]
        until = time.monotonic() + HEARING
        while time.monotonic() < until:
            with self._lock:
                if self.store.check(heard):
                    return
            time.sleep(0.05)

    def is_said(self) -> bool:
        with self._lock:
            said = bool(self.store.check(["said"]))
            if said:
                self.store.set(f"heard/{self.rank}", "")
        return said

    def end(self) -> None:
        """This process is done and will be silent."""
        if not self._ended.is_set():
            self._ended.set()
            with self._lock:
                self.store.set(f"alive/{self.rank}", "done")

    def _listen(self) -> None:
        seen = {rank: (b"", time.monotonic()) for rank in range(self.world) if rank != self.rank}
        count = 0
        while not self._ended.wait(BEAT):
            count += 1
            try:
                self.beat(count)
                loss = self._failure() or self._silence(seen)
            except RuntimeError as error:  # the store lives in torchrun or in the main process
                loss = (
                    f"the main process, or what started it, is gone ({str(error).partition(chr(10))[0][:200]}): {AGAIN}"
                )
            if loss is not None:
                self._lose(loss)
                return

    def _failure(self) -> str | None:
        with self._lock:
            return self.store.get("failed").decode() if self.store.check(["failed"]) else None

    def _silence(self, seen: dict[int, tuple[bytes, float]]) -> str | None:
        with self._lock:
            values = self.store.multi_get([f"alive/{rank}" for rank in seen])
        now = time.monotonic()
        for rank, value in zip(list(seen), values, strict=True):
            if seen[rank][0] != value or value == b"done":
                seen[rank] = (value, now)
            elif now - seen[rank][1] > SILENT:
                return f"process {rank} of {self.world} has given no sign of life for {SILENT:.0f} seconds: {AGAIN}"
        return None

    def _lose(self, loss: str) -> None:
        self.loss = loss
        self._noticed.set()
        self.on_loss(loss)
        if not self._ended.wait(GRACE):
            self.on_grace(loss)
