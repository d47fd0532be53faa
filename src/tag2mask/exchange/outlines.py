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
    """The pixels ``[height width]`` bool whose centre is inside a polygon ``[points 2]`` (x, y).

    Raises:
        InputError: the libraries that do it are not installed.
    """
    try:
        from skimage.draw import polygon
    except ImportError as error:
        raise _missing() from error
    pixels = np.zeros(size, bool)
    rows, columns = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, size)
    pixels[rows, columns] = True
    return pixels


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
