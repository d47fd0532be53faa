r"""Photos that show the same though their bytes differ: saved again, resized, mirrored, turned.

A photo's signs are those of the low frequencies of its cosine transform (pHash, Zauner 2010, with 0 in the place of the
median): 63 of them, brightness left out. Mirroring negates the odd frequencies of one axis and transposing swaps the
axes, so the signs of all eight symmetries follow from those of the photo. Photos whose signs nearly agree are then
compared by their pixels: signs alone would take all photos of steel under one lamp for the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.decode import open_photo

LOW = 8  # frequencies a side
SIDE = 32  # pixels a side of the photo that is transformed
AGREEING = 53  # of 63 signs: 10 may differ
AT_ONCE = 1 << 23  # pairs whose signs are compared at once
CORRELATION = 0.95  # of the pixels without their brightness and its slow changes

Symmetry = Callable[[np.ndarray], np.ndarray]
SYMMETRIES: tuple[Symmetry, ...] = tuple(
    (lambda x, k=k, flip=flip: np.rot90(x[:, ::-1] if flip else x, k)) for flip in (False, True) for k in range(4)
)
"""The eight ways to turn and mirror ``[rows columns]``."""


def signs(pixels: np.ndarray) -> str:
    """16 hex digits of a photo ``[height width 3]`` uint8: a bit a frequency, row by row, 1 above zero."""
    low = _COSINES @ _thumbnail(pixels, SIDE) @ _COSINES.T
    low[0, 0] = 0
    return np.packbits(low.ravel() > 0).tobytes().hex()


def near_duplicates(ones: Sequence[str], others: Sequence[str], most: int = 20) -> Iterator[tuple[int, int, int]]:
    """(index of one, index of the other, index of the symmetry that turns the other into the one) of pairs of nearly
    equal signs, for each one the likeliest first.

    Args:
        ones, others: signs of photos, of :func:`signs`.
        most: others given for each one. Where a thing lies in the same place of all photos, the signs of all agree.
    """
    left, right = _plus_minus(ones), _plus_minus(others)
    part = max(1, AT_ONCE // max(1, len(right)))
    turns = [_turned(np.eye(LOW * LOW, dtype=np.float32), symmetry) for symmetry in SYMMETRIES]  # signed permutations
    for start in range(0, len(left), part):
        agreeing = np.full((len(left[start : start + part]), len(right)), -1, np.float32)
        best = np.zeros(agreeing.shape, np.int8)
        for number, turn in enumerate(turns):  # ones are turned back: they are few
            of_this = (left[start : start + part] @ turn.T @ right.T + LOW * LOW - 1) / 2
            best[of_this > agreeing] = number
            np.maximum(agreeing, of_this, out=agreeing)
        for row, of_row in enumerate(agreeing):
            columns = np.flatnonzero(of_row >= AGREEING)
            for column in columns[np.argsort(-of_row[columns], kind="stable")][:most].tolist():
                yield start + row, column, int(best[row, column])


def same_detail(one: np.ndarray, other: np.ndarray, symmetry: int) -> bool:
    """Whether two photos show the same once the other is turned, by their :func:`detail`: it correlates."""
    other = SYMMETRIES[symmetry](other)
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return norm > 0 and float((one * other).sum()) / norm > CORRELATION


def detail(path: Path, side: int = 64) -> np.ndarray:
    """What of a photo is finer than an eighth of it: ``[side side]`` float32 grey."""
    with open_photo(path) as photo:
        return _detail(_thumbnail(photo.decode((4 * side, 4 * side))[0], side)).astype(np.float32)


def _detail(grey: np.ndarray, cells: int = 8) -> np.ndarray:
    """Without the mean of every of ``cells x cells`` parts."""
    side = len(grey) // cells
    means = grey.reshape(cells, side, cells, side).mean((1, 3))
    return grey - np.kron(means, np.ones((side, side)))


def _thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    """``[side side]`` float64 grey, whatever the photo's proportions."""
    step = max(1, min(pixels.shape[:2]) // (8 * side))  # enough pixels are left to average
    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    return np.asarray(small.convert("L").resize((side, side), Image.Resampling.BOX), np.float64)


def _plus_minus(hexadecimal: Sequence[str]) -> np.ndarray:
    """``[photos 64]`` float32 of 1 and -1, brightness 0."""
    bits = np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, LOW * LOW // 8)
    values = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    values[:, 0] = 0
    return values


def _turned(values: np.ndarray, symmetry: Symmetry) -> np.ndarray:
    """The signs of photos that are turned so: what the symmetry does to a base function, it does to its sign."""
    grid = np.arange(LOW * LOW).reshape(LOW, LOW)
    place, sign = np.empty(LOW * LOW, int), np.empty(LOW * LOW, np.float32)
    for index in range(LOW * LOW):
        u, v = divmod(index, LOW)
        wave = symmetry(np.outer(_COSINES[u], _COSINES[v]))
        u2, v2 = (v, u) if not np.allclose(np.abs(_COSINES[u] @ wave @ _COSINES[v]), 1) else (u, v)
        place[grid[u2, v2]] = index
        sign[grid[u2, v2]] = np.sign(_COSINES[u2] @ wave @ _COSINES[v2])
    return values[:, place] * sign


def _cosines() -> np.ndarray:
    """``[LOW SIDE]``, the first base functions of the orthonormal DCT-II."""
    k, x = np.mgrid[:LOW, :SIDE]
    base = np.cos(np.pi * k * (2 * x + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    base[0] /= np.sqrt(2)
    return base


_COSINES = _cosines()
