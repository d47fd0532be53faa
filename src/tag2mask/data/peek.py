"""The first bytes of files, where names alone do not say what a folder holds. No pixels are decoded."""

from __future__ import annotations

from pathlib import Path

from tag2mask.data.reading import open_regular

_ENOUGH = 1 << 40  # a peek reads some bytes, however large the file is


def start_of(path: Path, count: int) -> bytes:
    """The first bytes of a regular file; none where it cannot be read."""
    try:
        with open_regular(path, _ENOUGH) as file:
            return file.read(count)
    except OSError:
        return b""


def is_colour(path: Path) -> bool:
    """Whether a file is a PNG in colours of its own, as photos are: no grey and no palette, as index masks have."""
    start = start_of(path, 26)
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[25:26] in (b"\x02", b"\x06")  # PNG, 11.2.1: colour types
