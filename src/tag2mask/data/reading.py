"""How files of a data set are opened: regular files up to a size, and as text what is text.

A list may name anything: a pipe waits for ever, ``/dev/zero`` never ends, and a file without content can claim 20 GB.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tag2mask.errors import InputError

TABLE_BYTES = 4 << 30  # of a CSV or a list, read line by line
TEXT_BYTES = 256 << 20  # of a text that is read whole
LINE_CHARACTERS = 1 << 20  # of one line of a table

# Opening a pipe must not wait for a writer, a terminal must not become ours.
_FLAGS = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _FLAGS |= getattr(os, _name, 0)


class NotRegular(OSError):
    """What a path leads to is no regular file, or too large a one. ``strerror`` says which."""


def open_regular(path: Path | str, limit: int) -> io.BufferedReader:
    """A regular file of at most ``limit`` bytes, to be read.

    Raises:
        OSError: as ``open`` does, :class:`NotRegular` included. A path that no file can have is ``FileNotFoundError``.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise FileNotFoundError(2, "no such file", str(path)) from error
    try:
        state = os.fstat(descriptor)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(21, "is a folder", str(path))
        if not stat.S_ISREG(state.st_mode):
            raise NotRegular(22, "is a device or a pipe, not a file", str(path))
        if state.st_size > limit:
            said = f"has {state.st_size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that are read"
            raise NotRegular(27, said, str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def explained(path: Path, what: str = "") -> Iterator[None]:
    """What can go wrong with a text file, as one line that names it."""
    name = f"{what} {path}".strip()
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{name} is not there: check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: {what or 'a text file'} is needed") from error
    except NotRegular as error:
        raise InputError(f"{name} {error.strerror}: give a text file") from error
    except PermissionError as error:
        raise InputError(f"{name} may not be read: check its permissions") from error
    except UnicodeError as error:
        raise InputError(f"{name} is not UTF-8 text ({_place(error)}): save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}): check the path") from error


def _place(error: UnicodeError) -> str:
    return f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else "it ends in half a character"


@contextlib.contextmanager
def opened_text(path: Path, what: str = "", limit: int = TABLE_BYTES) -> Iterator[TextIO]:
    """A text file in UTF-8, or in UTF-16 as spreadsheets save it; errors are explained while it is in use."""
    with (
        explained(path, what),
        open_regular(path, limit) as file,
        io.TextIOWrapper(file, _encoding(file, path), newline="") as text,
    ):
        yield text


def _encoding(file: io.BufferedReader, path: Path) -> str:
    start = file.peek(4)[:4]
    if start == b"PK\3\4":
        raise InputError(f"{path} is a spreadsheet or an archive: save it as CSV UTF-8")
    return encoding_of(start)


def encoding_of(start: bytes) -> str:
    """From the first four bytes of a text, its mark or where its zero bytes are."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(start) == 4 and start[1] == start[3] == 0 != start[0]:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0 != start[1]:
        return "utf-16-be"
    return "utf-8-sig"


def read_text(path: Path, what: str = "", limit: int = TEXT_BYTES) -> str:
    """A text file, whole, every line ended by ``\\n``. Raises :class:`~tag2mask.errors.InputError`."""
    with opened_text(path, what, limit) as file:
        return file.read().replace("\r\n", "\n").replace("\r", "\n")


def text_lines(path: Path, what: str = "") -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1, as they are asked for."""
    with opened_text(path, what) as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
            if line.strip():
                yield number, line.strip()


def bounded_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Lines with their ends, none longer than :data:`LINE_CHARACTERS`."""
    number = 0
    while line := file.readline(LINE_CHARACTERS):
        number += 1
        if len(line) == LINE_CHARACTERS and not line.endswith(("\n", "\r")):
            raise InputError(f"{path} line {number} has more than {LINE_CHARACTERS} characters: is it a text file?")
        yield line
