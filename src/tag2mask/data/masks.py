"""Index masks: images whose pixel values are classes."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.decode import opened
from tag2mask.data.pixels import packing_of
from tag2mask.errors import UnreadableImage
from tag2mask.files import atomic


def read_index_mask(path: Path) -> np.ndarray:
    """A mask whose pixel values are classes: ``[height width]`` uint8, from a palette or a grey image.

    Raises:
        UnreadableImage: as :func:`read_image`; a colour image, a JPEG (its compression changes values), or values
            above 255.
    """
    path = Path(path)
    with opened(path) as image:
        _check_kind(image, path)
        packing = packing_of(image)
        if image.mode in ("P", "L", "1"):
            values = np.array(image, dtype=np.uint8)
            # Pillow spreads grey of 2 and 4 bits over 0..255; in a mask the stored number is the class
            return values // {"L;2": 85, "L;4": 17}.get(packing, 1)
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 255:
            raise UnreadableImage(
                f"mask {path} holds values from {wide.min()} to {wide.max()}: classes are 0 to 254, 255 is ignored"
            )
        return wide.astype(np.uint8)


def index_mask_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` of what :func:`read_index_mask` would return, from the header alone.

    Raises:
        UnreadableImage: as that does, as far as the header tells.
    """
    path = Path(path)
    with opened(path) as image:
        _check_kind(image, path)
        return image.height, image.width


def _check_kind(image: Image.Image, path: Path) -> None:
    """Refuse what holds no classes."""
    if image.format in ("JPEG", "MPO"):
        raise UnreadableImage(f"mask {path} is a JPEG, whose compression changes class values: save masks as PNG")
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        kind = "an image of floats" if image.mode == "F" else f"a colour image ({image.mode})"
        raise UnreadableImage(
            f"mask {path} is {kind}: save it as a grey or palette PNG whose pixel values are 0 for background and the "
            "number of the class elsewhere"
        )


@lru_cache(maxsize=1)
def _palette_bytes() -> bytes:
    return voc_palette().tobytes()


def voc_palette() -> np.ndarray:
    """The colour map of PASCAL VOC: ``[256 3]`` uint8.

    Value ``v`` deals its bits, three at a time, to red, green and blue from the highest bit down (``VOClabelcolormap``
    of the VOC development kit), so neighbouring classes look different; 0 is black and 255 nearly white.
    """
    values = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((values >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def write_index_mask(path: Path, mask: np.ndarray) -> None:
    """Write ``[height width]`` uint8 as a palette PNG in VOC colours; the file appears whole or not at all."""
    assert mask.ndim == 2 and mask.dtype == np.uint8, (mask.shape, mask.dtype)
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(_palette_bytes())
    coded = io.BytesIO()
    image.save(coded, format="PNG")
    with atomic(Path(path), "wb") as file:
        file.write(coded.getbuffer())
