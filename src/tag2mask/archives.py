"""Zip archives that numpy and torch keep arrays in: refused when they would unpack to far more than they take."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tag2mask.errors import InputError

UNPACKED = 2**28  # bytes that any archive may unpack to
RATIO = 8  # beyond that, times its own size: weights and half-precision maps hardly compress


def check_archive(path: Path) -> None:
    """Nothing is unpacked. A file that is no zip archive is passed over.

    Raises:
        InputError: its members claim more than 256 MB and more than eight times the file's size.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # a damaged directory raises many types
        raise InputError(f"{path} is a damaged archive ({error}): fetch or make it again") from error
    size = path.stat().st_size
    if unpacked > max(UNPACKED, RATIO * size):
        raise InputError(
            f"{path} takes {size / 1e6:.1f} MB and would unpack to {unpacked / 1e9:.1f} GB, as no honest file of "
            "arrays does: fetch or make it again"
        )
