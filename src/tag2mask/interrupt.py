"""Ending when asked: SIGTERM (schedulers, spot machines) and SIGHUP (a terminal that goes) save the step at hand,
Ctrl-C ends at once.

A handler only notes that the process should end; loops ask :func:`end_if_asked` between two steps, when what they hold
is whole. A step that takes longer than the grace period is cut off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from tag2mask.errors import Terminated

GRACE = 7  # seconds from SIGTERM until the step at hand is cut off; schedulers kill after 10 or more
_asked = threading.Event()
_asked_by = signal.SIGTERM
_error: BaseException | None = None


def handle_signals() -> None:
    """Install the handlers; for programs, in the main thread."""
    signal.signal(signal.SIGINT, _interrupted)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGTERM, _terminated)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it, and so does what it started
            signal.signal(signal.SIGHUP, _terminated)
        signal.signal(signal.SIGALRM, _cut_off)


def asked_to_end() -> bool:
    return _asked.is_set()


def exit_code() -> int:
    """Of a process that ended because it was asked to, as shells have it: 143 by SIGTERM, 129 by SIGHUP."""
    return 128 + _asked_by


def end_with(error: BaseException) -> None:
    """From now on :func:`end_if_asked` raises this: another thread knows that there is no going on."""
    global _error
    _error = error


def end_if_asked() -> None:
    """Raises :class:`~tag2mask.errors.Terminated` when the process was asked to end, or why it cannot go on."""
    if _asked.is_set():
        raise Terminated
    if _error is not None:
        raise _error


def cancel_cut_off() -> None:
    """The process is ending; what is left to do for it may take longer than the grace period."""
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)


def end_process(code: int) -> NoReturn:
    """End at once. Everything is written and closed by now, and to take down torch's threads and libraries takes
    seconds on a busy machine, in which a scheduler may kill."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _interrupted(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the clean end of the first
    raise KeyboardInterrupt


def _terminated(signum: int, frame: FrameType | None) -> None:
    global _asked_by
    _asked_by = signal.Signals(signum)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    _asked.set()
    signal.alarm(GRACE)


def _cut_off(signum: int, frame: FrameType | None) -> None:
    with contextlib.suppress(ValueError):
        signal.alarm(0)
    raise Terminated
