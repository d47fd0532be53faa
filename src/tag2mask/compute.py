"""Which device, which precision, how many cores: asked once, here."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch

from tag2mask import processes
from tag2mask.errors import InputError

log = logging.getLogger("tag2mask")

Item = TypeVar("Item")
Result = TypeVar("Result")

NVIDIA = Path("/dev/nvidiactl")  # is there where NVIDIA's driver is
NOT_USED = "%s cannot be used (%s): going on with the CPU, which is much slower"
CGROUPS = Path("/sys/fs/cgroup")

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@functools.cache
def device() -> torch.device:
    """The accelerator torch can use, else the CPU. One that is there and cannot be used is said, once."""
    wanted = _accelerator()
    if wanted is None:
        if NVIDIA.exists():
            log.warning(NOT_USED, "a GPU", _why_not())
        return torch.device("cpu")
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:  # a driver that is too old, a card that is taken
        log.warning(NOT_USED, wanted, _first_line(error))
        return torch.device("cpu")
    return wanted


def _why_not() -> str:
    """What torch says when it is asked for the GPU: a driver that is too old, or a torch that knows none."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return _first_line(error)
    return "torch finds none"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _accelerator() -> torch.device | None:
    if torch.cuda.is_available():
        return torch.device("cuda", processes.local_place().local_rank)
    return torch.device("mps") if torch.backends.mps.is_available() else None


def cores() -> int:
    """Processor cores that this process may use: its affinity mask, its control group's quota and the run's other
    processes on this machine count."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = min([allowed, *quotas(CGROUPS)])
    return max(1, allowed // processes.local_place().local_world)


def quotas(root: Path) -> Iterator[int]:
    """Cores that a control group allows, of version 2 (``cpu.max``) or 1; none where there is no limit."""
    v1 = [root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    for files in ([root / "cpu.max"], v1):
        try:
            quota, period = (int(part) for file in files for part in file.read_text().split())
        except (OSError, ValueError):  # no such group, or no quota ("max")
            continue
        if quota > 0:  # -1: none
            yield max(1, round(quota / period))


def resolve(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """``auto`` is bfloat16 where the hardware multiplies it natively (about twice as fast), else float32."""
    if precision == "float16" and device.type == "cpu":
        raise InputError("float16 autocast is not for the CPU: use --precision bfloat16, float32 or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return "bfloat16"
    return "float32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The autocast context of :func:`resolve`'s answer."""
    name = resolve(precision, device)
    return contextlib.nullcontext() if name == "float32" else torch.autocast(device.type, getattr(torch, name))


def autocast_dtype(device: torch.device) -> torch.dtype:
    """What an open :func:`autocast` computes products in on this device; float32 where none is open."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    flags = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(flags())


def peak_memory_gb() -> float:
    """Peak resident memory of this process so far, in GB; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving every large tensor back to the system.

    A training step frees and takes the same gigabytes again; fetching them as fresh zeroed pages took a fifth of the
    processor's time (1.6 against 1.25 s a step of 16 photos, one core; of maps a twelfth) for 0.2 GB less at the peak.
    Elsewhere than on Linux with glibc nothing happens.
    """
    import ctypes
    import sys

    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return
    limit = ctypes.c_int(2**31 - 1)
    mallopt(-3, limit)  # M_MMAP_THRESHOLD: large blocks from the heap, too
    mallopt(-1, limit)  # M_TRIM_THRESHOLD: the heap's end stays


def by_halves(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], advice: str) -> list[Result]:
    """One result for each item of a batch, half as many at a time wherever the device's memory does not hold them.

    Args:
        advice: what to do where it does not hold one.

    Raises:
        InputError: it does not hold one.
    """
    try:
        return work(items)
    except torch.OutOfMemoryError as error:
        if len(items) < 2:
            raise InputError(f"the device's memory does not hold a single photo in its views: {advice}") from error
    torch.cuda.empty_cache()
    half = len(items) // 2
    log.info("the device's memory does not hold %d photos at once: %d at a time", len(items), half)
    return [*by_halves(work, items[:half], advice), *by_halves(work, items[half:], advice)]
