"""Reads MXNet's ``.params`` files (a list of named arrays) without MXNet, and trusts nothing in them.

All numbers are little-endian. The file is the magic 0x112, eight reserved bytes, the number of arrays (uint64), the
arrays, the number of names (uint64), and the names, each its length (uint64) and its bytes. There are four forms of an
array, told apart by their first four bytes:

* legacy (before 2017, most ImageNet models of that time): the number of dimensions itself, then uint32 dimensions;
* 0xF993FAC8: number of dimensions (uint32), int64 dimensions;
* 0xF993FAC9: a storage type (int32, 0 for dense) before them;
* 0xF993FACA: as the last; no dimensions mean one number there, and an empty array is -1 dimensions.

Then the device (two int32), the type (int32, see :data:`TYPES`) and the values; an array without dimensions ends before
them.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tag2mask.errors import InputError, listed

MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}  # mshadow's type flags
MOST_DIMENSIONS = 32  # numpy's own limit was 32; weights have four


class _Bad(Exception):
    """What is wrong with the file."""


class _Bytes:
    """Takes bytes off the front; never past the end, whatever lengths the file claims."""

    def __init__(self, content: np.ndarray) -> None:
        self.content, self.position = content, 0

    @property
    def left(self) -> int:
        return len(self.content) - self.position

    def take(self, count: int, what: str) -> np.ndarray:
        if count > self.left:
            raise _Bad(f"{what} needs {count} bytes at byte {self.position} and {self.left} are left: it is cut short")
        self.position += count
        return self.content[self.position - count : self.position]

    def number(self, kind: str, what: str) -> int:
        return int(self.take(np.dtype(kind).itemsize, what).view(kind)[0])


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Name (``arg:conv1a_weight``) to array, in the file's order. Arrays are views of a memory map: copy what is kept.

    Raises:
        InputError: no such file; not of this format; truncated, or lengths in it that cannot be.
    """
    if not path.is_file():
        raise InputError(f"no weights file at {path}: give an existing .params file")
    try:
        # a memory map: sizes are compared with the file's before anything of that size is made
        content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        return _read(_Bytes(content))
    except (_Bad, OSError) as error:
        raise InputError(f"cannot read the MXNet weights {path}: {error}; fetch the file again") from error


def _read(content: _Bytes) -> dict[str, np.ndarray]:
    if content.left < 8 or content.number("<u8", "the magic number") != MAGIC:
        raise _Bad("it does not begin as MXNet's parameter files do")
    content.take(8, "the header")
    count = content.number("<u8", "the number of arrays")
    if count > content.left // 4:  # an array takes as much at least
        raise _Bad(f"it claims {count} arrays in {content.left} bytes")
    arrays = [_array(content, number) for number in range(count)]
    names = content.number("<u8", "the number of names")
    if names != count:
        raise _Bad(f"it holds {count} arrays and {names} names")
    named: dict[str, np.ndarray] = {}
    for number, array in enumerate(arrays):
        length = content.number("<u8", f"the length of name {number}")
        try:
            name = content.take(length, f"name {number}").tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Bad(f"name {number} is not text") from error
        if name in named:
            raise _Bad(f"the name {name[:60]!r} comes twice")
        named[name] = array
    if content.left:
        raise _Bad(f"{content.left} bytes follow its end")
    return named


def _array(content: _Bytes, number: int) -> np.ndarray:
    what = f"array {number}"
    magic = content.number("<u4", what)
    if magic in (V2, V3) and (storage := content.number("<i4", what)) != 0:
        raise _Bad(f"{what} is not stored densely (storage type {storage})")
    if magic in (V1, V2, V3):
        dimensions, kind = content.number("<i4", what), "<i8"
    else:
        dimensions, kind = magic, "<u4"
    none = -1 if magic == V3 else 0
    if dimensions == none:
        return np.zeros(0, np.float32)
    if not 0 <= dimensions <= MOST_DIMENSIONS:
        raise _Bad(f"{what} claims {dimensions} dimensions")
    shape = tuple(content.number(kind, what) for _ in range(dimensions))
    if min(shape, default=0) < 0:
        raise _Bad(f"{what} has a negative side: {_shown(shape)}")
    content.take(8, what)  # the device it lay on
    flag = content.number("<i4", what)
    if flag not in TYPES:
        raise _Bad(f"{what} is of an unknown type ({flag})")
    # Python's numbers: nothing overflows. numpy multiplies the other sides of an array of no size all the same
    if not all(shape) and math.prod(side or 1 for side in shape) > len(content.content):
        raise _Bad(f"{what} claims the shape {_shown(shape)}, which nothing in this file can have")
    size = math.prod(shape) * np.dtype(TYPES[flag]).itemsize
    return content.take(size, f"{what}, of shape {_shown(shape)},").view(TYPES[flag]).reshape(shape)


def _shown(shape: tuple[int, ...]) -> str:
    return f"({listed(map(str, shape), 6)})"
