"""Connected parts of masks and their outlines; and polygons filled. Pixel ``i`` reaches from ``i`` to ``i + 1``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tag2mask.errors import InputError


def parts(pixels: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """The connected parts of ``[height width]`` bool, a step up, down or aside joining two pixels: top, left, and the
    part within its box ``[height width]`` bool."""
    label, regionprops = _measure("label"), _measure("regionprops")
    for region in regionprops(label(pixels, connectivity=1)):
        top, left = region.bbox[:2]
        yield int(top), int(left), region.image


def outline(part: np.ndarray) -> tuple[np.ndarray, int]:
    """The outer outline ``[points 2]`` (x, y) of one connected part ``[height width]`` bool, and the pixels of its
    holes, which the outline also holds.

    The outline runs between pixels' centres (marching squares at one half), so exactly the centres of the part and of
    its holes are inside.
    """
    from scipy.ndimage import binary_fill_holes

    padded = np.pad(part, 1)
    filled = np.asarray(binary_fill_holes(padded, structure=np.ones((3, 3), bool)))
    contours = _measure("find_contours")(filled.astype(np.float32), 0.5, fully_connected="low")
    longest = max(contours, key=len)
    return longest[:-1, ::-1] - 0.5, int(filled.sum() - padded.sum())


def filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels ``[height width]`` bool whose centre is inside a polygon ``[points 2]`` (x, y), or on its border.
    Where sides cross, inside is what an odd number of them surrounds.

    The rule for a point is O'Rourke's (Computational Geometry in C, 1998, 7.4), as in ``skimage.draw.polygon``, which
    asks all sides for every pixel of the box. Here each side is asked in the rows that it passes alone.
    """
    pixels = np.zeros(size, bool)
    with np.errstate(all="ignore"):  # of coordinates beyond all photos
        x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
        top, left = (int(np.clip(np.floor(v.min()), 0, side)) for v, side in ((y, size[0]), (x, size[1])))
        bottom, right = (int(np.clip(np.ceil(v.max()) + 1, 0, side)) for v, side in ((y, size[0]), (x, size[1])))
        if top < bottom and left < right:
            pixels[top:bottom, left:right] = _inside(x, y, (top, left), (bottom - top, right - left))
    return pixels


def _inside(x: np.ndarray, y: np.ndarray, start: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Of the pixels of a box ``[height width]`` bool, by its top left pixel and size, those whose ``(column, row)`` is
    inside the polygon of these corners, or on its border."""
    (top, left), (height, width) = start, size
    following = np.roll(np.arange(len(x)), 1)
    low, high = np.minimum(y, y[following]) - top, np.maximum(y, y[following]) - top
    # a side is crossed by a ray to the right in rows from its lower end on, without its upper one; to the left likewise
    to_right = _crossed(x, y, following, np.ceil(low), np.ceil(high), start, size, right=True)
    to_left = _crossed(x, y, following, np.floor(low) + 1, np.floor(high) + 1, start, size, right=False)
    inside = to_right | to_left  # they differ on the border
    column, row = np.rint(x), np.rint(y)
    corner = (abs(x - column) < _NEAR) & (abs(y - row) < _NEAR)
    column, row = column[corner] - left, row[corner] - top
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside[row[within].astype(int), column[within].astype(int)] = True
    return inside


_NEAR = 1e-12  # a pixel so close to a corner is on the border
_AT_ONCE = 1 << 18  # crossings of sides and rows that are in memory


def _crossed(
    x: np.ndarray, y: np.ndarray, following: np.ndarray, first: np.ndarray, end: np.ndarray,
    start: tuple[int, int], size: tuple[int, int], *, right: bool,
) -> np.ndarray:  # fmt: skip
    """Whether a ray from each pixel of the box, to the right or left, crosses an odd number of sides.

    Args:
        first, end: the rows of the box, from 0, in which each side is crossed; they may lie outside of it.
    """
    (top, left), (height, width) = start, size
    first, end = (np.clip(rows, 0, height).astype(int) for rows in (first, end))
    counts = np.maximum(end - first, 0)
    changes = np.zeros((height, width + 1), np.uint8)  # odd: the answer is another one than in the column before
    totals, begin = np.cumsum(counts), 0
    while begin < len(counts):
        before = totals[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(totals, before + _AT_ONCE, "right")))
        side = np.repeat(np.arange(begin, stop), counts[begin:stop])
        row = np.arange(len(side)) - np.repeat(totals[begin:stop] - counts[begin:stop] - before, counts[begin:stop])
        row += first[side]
        column = _change(x[side], y[side] - (row + top), x[following[side]], y[following[side]] - (row + top), right)
        place = row * (width + 1) + np.clip(np.nan_to_num(column - left), 0, width).astype(int)
        if right:  # from the first column of the box to there, else from there on
            changes[:, 0] += (np.bincount(row, minlength=height) % 2).astype(np.uint8)
        np.add.at(changes.ravel(), place, np.uint8(1))  # beyond 255 from 0 again, as odd as before
        begin = stop
    return np.bitwise_xor.accumulate(changes & 1, axis=1)[:, :-1] == 1


def _change(x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray, right: bool) -> np.ndarray:
    """The first column from which a ray to the right misses each side (``right``), or one to the left meets it.

    ``x0, y0, x1, y1``: the sides' ends, seen from column 0 of the row. The columns next to a crossing are decided by
    the very formula of the rule, so that rounding falls the same way.
    """
    near = np.rint((x0 * y1 - x1 * y0) / (y1 - y0))
    found = near + 2
    for column in (near + 1, near, near - 1):
        offset = ((x0 - column) * y1 - (x1 - column) * y0) / (y1 - y0)
        found = np.where(offset <= 0 if right else offset < 0, column, found)
    return found


def points_of(numbers: Sequence[float]) -> np.ndarray:
    """``x1, y1, x2, y2, ...`` as ``[points 2]``.

    Raises:
        ValueError: fewer than three points, half a point, or a number that is not finite.
    """
    values = np.asarray(numbers, np.float64)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise ValueError("a polygon needs at least three points of two finite numbers")
    return values.reshape(-1, 2)


def _measure(name: str) -> Any:
    """A function of ``skimage.measure``."""
    try:
        from skimage import measure
    except ImportError as error:
        raise _missing() from error
    return getattr(measure, name)


def _missing() -> InputError:
    return InputError("outlines and parts need scikit-image, which is not installed: pip install 'tag2mask[export]'")
