"""Photos and masks at the size that the page works at, and back to the photo's own."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.decode import open_photo

WORK_PIXELS = 1_000_000
"""The page shows, segments and paints a photo of more pixels at this many."""
QUALITY = 88  # of the JPEGs that the page shows

Size = tuple[int, int]  # (height, width)


def work_size(size: Size, pixels: int = WORK_PIXELS) -> Size:
    """The size at which the page works on a photo of this size: its own up to a million pixels."""
    scale = min(1.0, math.sqrt(pixels / (size[0] * size[1])))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def thumbnail_size(size: Size, side: int) -> Size:
    """The size of a photo of which the longer side is ``side`` at most."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_photo(path: Path, side: int | None = None, content: bytes | None = None) -> tuple[np.ndarray, Size]:
    """A photo ``[height width 3]`` uint8 at the page's size, or with a longer side of ``side``; and its own size.

    Raises:
        UnreadableImage: as :func:`tag2mask.data.images.read_image`.
    """
    with open_photo(path, content) as photo:
        size = work_size(photo.size) if side is None else thumbnail_size(photo.size, side)
        pixels, _ = photo.decode(size)
        if pixels.shape[:2] != size:
            pixels = np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BOX))
        return pixels, photo.size


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def nearest(mask: np.ndarray, size: Size) -> np.ndarray:
    """A mask ``[height width]`` uint8 at another size."""
    if mask.shape == size:
        return mask
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def painted(mask: np.ndarray, work: np.ndarray) -> np.ndarray:
    """A photo's mask with what was changed on the page; what was not changed keeps every pixel.

    Args:
        mask: ``[height width]`` uint8 at the photo's size, as it was before.
        work: ``[height width]`` uint8 as the page shows it, at the page's size.
    """
    changed = nearest((work != nearest(mask, work.shape[:2])).astype(np.uint8), mask.shape[:2])
    return np.where(changed != 0, nearest(work, mask.shape[:2]), mask).astype(np.uint8)
