"""The processes of a run: how they meet, tell each other small things, and end together.

Everything that is not a tensor of a training goes through :func:`exchange`: each process gives a value or an
:class:`~tag2mask.errors.InputError` and gets everybody's values, or raises the first error, as all the others do. So a
process that fails between two exchanges is not waited for.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from tag2mask import interrupt
from tag2mask.errors import InputError
from tag2mask.processes.environment import Place, place
from tag2mask.processes.liveness import AGAIN, STORE, Liveness

T = TypeVar("T")

MEETING = timedelta(minutes=5)  # that processes wait for each other at the start
WORKING = timedelta(days=30)  # that one may work while the others wait: liveness.py notices a dead one
SAYING = 6.0  # seconds that a process which failed waits for the main one to say so


class ProcessLost(InputError):
    """Another process of the run has failed or died, so that this one cannot go on."""


@dataclass
class _Group:
    place: Place
    control: Any  # process group of messages, on the CPU
    liveness: Liveness
    started: int
    failed: bool = False


_group: _Group | None = None
_imported = time.time_ns()


def rank() -> int:
    """Of this process among those of the run, from 0."""
    return 0 if _group is None else _group.place.rank


def world() -> int:
    """How many processes work on the run."""
    return 1 if _group is None else _group.place.world


def is_main() -> bool:
    """Whether this process is the one that decides and writes what there is one of."""
    return rank() == 0


def local_place() -> Place:
    """Of this process on its machine; one process, until it has joined others."""
    return Place() if _group is None else _group.place


def started() -> int:
    """When the run began, in nanoseconds since 1970: the same number in all its processes."""
    return _imported if _group is None else _group.started


def own(items: Sequence[T]) -> Sequence[T]:
    """The share of this process: every n-th of n processes."""
    return items[rank() :: world()] if world() > 1 else items


def own_block(items: Sequence[T]) -> Sequence[T]:
    """The share of this process: neighbours, so that the shares of all in order are the items in order."""
    return items[len(items) * rank() // world() : len(items) * (rank() + 1) // world()]


# --- meeting and parting ----------------------------------------------------------------------------------------------


def join(on_loss: Callable[[str], None] | None = None) -> None:
    """Meet the other processes that were started with this one. Alone, or when they have met, nothing happens.

    Args:
        on_loss: what ends this process, some seconds after another one failed or died, if nothing else has; by default
            the line is written to standard error and the exit code is 2.

    Raises:
        InputError: the environment makes no sense, the others do not come, or there are more of them than GPUs.
    """
    global _group
    here = place()
    if _group is not None or here.world == 1:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(here)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cuda = torch.cuda.is_available()
    if cuda and here.local_world > torch.cuda.device_count():
        raise InputError(
            f"{here.local_world} processes were started on a machine with {torch.cuda.device_count()} GPUs: start one "
            "for each GPU (torchrun --nproc-per-node)"
        )
    if cuda:
        torch.cuda.set_device(here.local_rank)
    store, liveness_store = _stores(here)
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=here.rank, world_size=here.world, timeout=WORKING
    )
    control = dist.new_group(backend="gloo", timeout=WORKING) if cuda else dist.group.WORLD
    liveness = Liveness(liveness_store, here.rank, here.world, _note_loss, on_loss or _end_process)
    _group = _Group(here, control, liveness, _imported)
    _group.started = exchange(_imported)[0]
    liveness.start()
    atexit.register(leave)


def leave() -> None:
    """Part from the other processes."""
    global _group
    if _group is None:
        return
    parting, _group = _group, None
    with contextlib.suppress(RuntimeError):
        parting.liveness.end()
    if dist.is_initialized() and not (parting.failed and torch.cuda.is_available()):  # NCCL would wait for the lost
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _threads(here: Place) -> int:
    """Of torch in each process, where nobody said (torchrun says 1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // here.local_world)


def _stores(here: Place) -> tuple[Any, Any]:
    """The store in which processes meet, and another connection to it for their signs of life."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdigit():
        raise InputError(
            f"WORLD_SIZE is {here.world} and MASTER_ADDR and MASTER_PORT do not say where the processes meet: start "
            "`torchrun` or `accelerate launch`, which set them"
        )
    attempt = f"tag2mask/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        hosts = here.is_main and not of_agent
        store: Any = TCPStore(address, int(port), is_master=hosts, wait_for_workers=False, timeout=MEETING)
        store.set(f"{attempt}/here/{here.rank}", "")
        store.wait([f"{attempt}/here/{rank}" for rank in range(here.world)], MEETING)
        other: Any = TCPStore(address, int(port), wait_for_workers=False, timeout=timedelta(seconds=STORE))
    except RuntimeError as error:
        raise InputError(
            f"process {here.rank} of {here.world} waited {MEETING.seconds // 60} minutes for the others at "
            f"{address}:{port} ({str(error).partition(chr(10))[0][:200]}): start as many as WORLD_SIZE says, where "
            "that address can be reached"
        ) from error
    return PrefixStore(f"{attempt}/group", store), PrefixStore(f"{attempt}/life", other)


# --- telling each other -----------------------------------------------------------------------------------------------


def exchange(value: T, error: InputError | None = None) -> list[T]:
    """Everybody's values, by rank. Waits for all.

    Raises:
        InputError: the first error of any process, in all of them.
        ProcessLost: a process is gone.
    """
    if _group is None:
        if error is not None:
            raise error
        return [value]
    gathered: list[Any] = [None] * _group.place.world
    with noticing_loss():
        dist.all_gather_object(gathered, (value, error), group=_group.control)
    for _, of_other in gathered:
        if of_other is not None:
            of_other.known_to_all = True
            raise of_other
    return [of_other for of_other, _ in gathered]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work that processes do without telling each other anything; it ends when all of them are done.

    Raises:
        InputError: what any of them raised, in all of them.
    """
    if _group is None:
        yield
        return
    try:
        yield
    except InputError as error:
        if isinstance(error, ProcessLost) or getattr(error, "known_to_all", False):
            raise
        exchange(None, error)
    else:
        exchange(None)


def from_main(function: Callable[[], T]) -> T:
    """What the function gives in the main process, or the InputError that it raises there; the others wait."""
    if _group is None:
        return function()
    value: Any = None
    error: InputError | None = None
    if is_main():
        try:
            value = function()
        except InputError as raised:
            if isinstance(raised, ProcessLost) or getattr(raised, "known_to_all", False):
                raise
            error = raised
    return exchange(value, error)[0]


@contextlib.contextmanager
def noticing_loss() -> Iterator[None]:
    """Processes talk to each other here: a connection that breaks means that another one is gone.

    Raises:
        ProcessLost: it is, with why, as far as it is known.
    """
    try:
        yield
    except RuntimeError as error:
        if _group is None:
            raise
        said = str(error).partition("\n")[0]
        _group.liveness.wait_for_loss(2.0)  # a process that failed has said why, or is about to
        raise ProcessLost(
            _group.liveness.loss or f"another of the {world()} processes has died ({said[:300]}): {AGAIN}"
        ) from error


def _note_loss(reason: str) -> None:
    interrupt.end_with(ProcessLost(reason))


def _end_process(reason: str) -> None:
    """The main thread waits for a process that is gone, or works on without knowing."""
    if tell_failure(reason):
        os.write(2, f"tag2mask: {ProcessLost(reason)}\n".encode(sys.stderr.encoding or "utf-8", "backslashreplace"))
    os._exit(2)


def group_of(tensor: Any) -> Any:
    """The process group that carries tensors of this device."""
    return None if _group is None or tensor.is_cuda else _group.control


# --- failing ----------------------------------------------------------------------------------------------------------


def tell_failure(message: str) -> bool:
    """This process ends because of an error. Gives whether it should say so itself: the main process does, for all."""
    if _group is None:
        return True
    liveness, _group.failed = _group.liveness, True
    try:
        liveness.tell_failure(message)
        if is_main():
            return True
        until = time.monotonic() + SAYING
        while time.monotonic() < until:
            if liveness.is_said():
                return False
            time.sleep(0.1)
    except RuntimeError:  # the store is gone, and the main process with it
        pass
    return True


def tell_said() -> None:
    """The main process has said why the run ends."""
    if _group is not None:
        with contextlib.suppress(RuntimeError):
            _group.liveness.tell_said()
