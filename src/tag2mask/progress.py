"""What a person sees while a run works: one console, on standard error, and one way to count images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

from rich.console import Console

T = TypeVar("T")


@cache
def console() -> Console:
    """Standard error: standard output is for results."""
    return Console(stderr=True, highlight=False)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate with a live bar: count, images/s, time left. Silent where standard error is no terminal."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note, TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as bar:
        id = bar.add_task(title, total=total, note="")
        began = time.monotonic()
        for count, item in enumerate(items, 1):
            yield item
            bar.update(id, advance=1, note=f"{count / max(time.monotonic() - began, 1e-9):.1f} images/s")
