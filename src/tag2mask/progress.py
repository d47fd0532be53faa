"""What a person sees while a run works: one console, on standard error, and bars. Silent unless a program asks for it.

The library logs to the logger ``tag2mask``; the command line shows that log and these bars.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
Update = Callable[[int, str], None]
"""Called with the number of items done, and a note."""

_shown = False


@cache
def console() -> Console:
    """Standard error: standard output is for results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show(wanted: bool = True) -> None:
    """From now on bars are drawn, where standard error is a terminal."""
    global _shown
    _shown = wanted


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Update]:
    """A live bar: count, note, images/s or loss, time left."""
    if not (_shown and shown and console().is_terminal):
        yield lambda count, note: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    note_column = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note_column, TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield lambda count, note: progress.update(task, completed=count, note=note)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """The items, with a live bar: count, items/s, time left."""
    began = time.monotonic()
    with bar(title, total) as update:
        for count, item in enumerate(items, 1):
            yield item
            update(count, f"{count / max(time.monotonic() - began, 1e-9):.1f}/s")
