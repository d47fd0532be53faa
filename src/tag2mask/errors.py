"""Errors a user can act on: each says what was found, where, and what to do next.

The command line prints an :class:`InputError` as one line and exits with code 2; anything else that
escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path


class InputError(Exception):
    """What the user gave cannot be used. The message is one line: what is wrong, where, what to do next.

    Not a ``ValueError``: the parser of the command line would take that for its own and wrap it in a box.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(" ".join(message.splitlines()))))


class UnreadableImage(InputError):
    """One image cannot be decoded. The pipeline sets such an image aside and goes on with the rest."""


class DamagedArtefact(InputError):
    """A file that a run made cannot be read, or is gone. It is moved aside, so that the run's command makes it anew.

    Args:
        path: the file; afterwards it is there under a hidden name.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        state = f"is damaged ({reason}) and was moved aside" if os.path.lexists(path) else "is missing"
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f".{path.name[:200]}.damaged"))
        super().__init__(f"{path} {state}: run the command of its run again, which makes it anew")

    def __reduce__(self) -> tuple[Callable[[Path, str], DamagedArtefact], tuple[Path, str]]:
        return DamagedArtefact.of, (self.path, str(self))

    @staticmethod
    def of(path: Path, message: str) -> DamagedArtefact:
        """The error as another process raised it; the file is moved aside already."""
        error = DamagedArtefact.__new__(DamagedArtefact)
        InputError.__init__(error, message)
        error.path = path
        return error


class Terminated(BaseException):
    """The process was asked to end (SIGTERM). Not an ``Exception``: nothing may swallow it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a table of ours.

    Args:
        kind: what the name should have been, for instance ``"method"``.
        name: what was asked for.
        known: the names that exist; the nearest ones are suggested first.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "see what exists:"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return InputError(f"unknown {kind} '{name}': {hint} ({shown})")


def printable(text: str) -> str:
    """A text that may be shown anywhere: control characters, bytes that are no text and the like become ``\\x1b``.

    File names and tags are other people's: raw, they could steer a terminal or stop the encoding of a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, limit: int = 2000) -> str:
    """A text without its middle where it is very long, as names in damaged files can be."""
    return text if len(text) <= limit else f"{text[: limit - 300]} ... {text[-295:]}"


def listed(names: Iterable[str], limit: int = 3) -> str:
    """``a, b, c and 4 more``: names for a message, never an endless line."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def some(count: int, thing: str) -> str:
    """``1 photo``, ``2 photos``, ``3 classes``: a number of things for a message."""
    many = thing if count == 1 else thing + ("es" if thing.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{count} {many}"
