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


def is_colour(path: Path) -> bool | None:
    """Whether a PNG or JPEG has colours of its own, as photos have: no grey and no palette, as index masks have.

    None where the start of the file does not tell.
    """
    start = start_of(path, 1 << 16)
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return start[25:26] in (b"\x02", b"\x06")  # PNG, 11.2.1: colour types
    at = 2
    while start[:2] == b"\xff\xd8" and start[at : at + 1] == b"\xff" and at + 9 < len(start):
        if start[at + 1] in (0xC0, 0xC1, 0xC2):  # JPEG, B.2.2: the frame header, with its number of components
            return start[at + 9] > 1
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return None
