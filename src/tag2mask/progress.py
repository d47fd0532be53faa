"""What a person sees while a run works: one console, on standard error, and bars. Silent unless a program asks for it.

The library logs to the logger ``tag2mask``; the command line shows that log and these bars.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from tag2mask import interrupt

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("tag2mask")

T = TypeVar("T")
Update = Callable[[int, str], None]
"""Called with the number of items done, and a note."""

Event = dict[str, Any]
"""What happened, as JSON data: ``event`` (stage, progress, log, result, error) and what belongs to it."""

LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal: a log file stays readable
EVENT_EVERY = 1.0  # seconds between events of progress

_shown = False
_listener: Callable[[Event], None] | None = None


@cache
def console() -> Console:
    """Standard error: standard output is for results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show(wanted: bool = True) -> None:
    """From now on bars are drawn, where standard error is a terminal."""
    global _shown
    _shown = wanted


def listen(function: Callable[[Event], None] | None) -> None:
    """From now on every event goes to this function, and no bar is drawn; None: to nobody."""
    global _listener
    _listener = function


def tell(event: str, **content: Any) -> None:
    """Something happened that a program that runs us may want to know."""
    if _listener is not None:
        _listener({"event": event, **content})


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Update]:
    """A live bar: count, note, images/s or loss, time left."""
    if not (_shown and shown):
        yield lambda count, note: None
        return
    if _listener is not None or not console().is_terminal:
        yield _Steady(title, total, done)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    note_column = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note_column, TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda count, note: progress.update(task, completed=count, note=note)


class _Steady:
    """Progress for those who do not look at a terminal: events, or now and then a line of the log."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.first = title, total, done
        self.began = self.last = time.monotonic()

    def __call__(self, count: int, note: str) -> None:
        now = time.monotonic()
        if now - self.last < (LINE_EVERY if _listener is None else EVENT_EVERY) and count < self.total:
            return
        if _listener is not None:
            self.last = now
            tell("progress", title=self.title, done=count, total=self.total, note=note)
        elif now - self.last >= LINE_EVERY:
            self.last = now
            left = (now - self.began) / max(count - self.first, 1) * (self.total - count)
            share = 100 * count / max(self.total, 1)
            log.info("%s: %d of %d (%.0f %%), %s, %.1f min left", self.title, count, self.total, share, note, left / 60)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """The items, with a live bar: count, items/s, time left. Ends between two where the process is asked to."""
    began = time.monotonic()
    with bar(title, total) as update:
        for count, item in enumerate(items, 1):
            yield item
            update(count, f"{count / max(time.monotonic() - began, 1e-9):.1f}/s")
            interrupt.end_if_asked()
