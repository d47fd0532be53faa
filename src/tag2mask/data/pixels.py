"""Pixels of any kind as 8-bit RGB: deep grey and colour, transparency. Large images go strip by strip."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image, ImageFile

Reopen = Callable[[], AbstractContextManager[ImageFile.ImageFile]]

STRIP = 1 << 22  # pixels handled at a time

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners give; files hold them in 16."""

_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}  # how Pillow unpacks 16-bit colour, keeping the high byte; and how it would keep the low one


def to_rgb(image: Image.Image, packing: str, reopen: Reopen) -> tuple[np.ndarray, str]:
    """An image as ``[height width 3]`` uint8, and what is odd about it (else ""): ``transparent``, ``10 bits``, ...

    Values of 16 bits are stretched by the smallest of :data:`DEPTHS` that holds them: many files hold 10 or 12 bits and
    would be black otherwise. Transparent pixels are laid on white, unless all are.

    Args:
        packing: how its file holds pixels, of :func:`packing_of` before they were decoded.
        reopen: gives the same image again, not yet decoded, for deep colour.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if packing in _OTHER_BYTE:
        deep = _deep_colour(image, _OTHER_BYTE[packing], reopen)
        if deep is not None:
            return deep
    if image.has_transparency_data:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        if clear.getchannel("A").getextrema() == (0, 0):  # a mistake, or there is nothing to see: the colours decide
            return _filled(clear, lambda part: np.asarray(part)[..., :3]), "transparent"
        return _filled(clear, _on_white), ""
    return _filled(image, lambda part: np.asarray(part if part.mode == "RGB" else part.convert("RGB"))), ""


def to_grey(image: Image.Image) -> Image.Image:
    """A map whose values mean something, as 8-bit grey: 16 bits are scaled by their whole range."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_grey(image, depths=(16,))[0][..., 0])
    return image.convert("L")


def _strips(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    rows = max(1, STRIP // max(image.width, 1))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, bottom, image if rows >= image.height else image.crop((0, top, image.width, bottom))


def _filled(image: Image.Image, rgb: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """``[height width 3]`` uint8, each strip by ``rgb``, which may give ``[height width 1]``."""
    image.load()  # before the first strip, so that a palette or a mode that loading changes is known
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top, bottom, part in _strips(image):
        out[top:bottom] = rgb(part)
    return out


def _on_white(part: Image.Image) -> np.ndarray:
    page = Image.new("RGBA", part.size, "white")
    return np.asarray(Image.alpha_composite(page, part))[..., :3]


def _deep_grey(image: Image.Image, depths: tuple[int, ...] = DEPTHS) -> tuple[np.ndarray, str]:
    low, high, integers = _range(image)
    if integers and low >= 0 and high < 1 << 16:
        bits = depth_of(high, depths)
        table = _table(bits)
        rgb = _filled(image, lambda part: table[np.asarray(part)][..., None])
        return rgb, f"{bits} bits"
    if integers:
        low = 0
    scale = np.float32(255.0 / max(high - low, 1e-12))

    def scaled(part: Image.Image) -> np.ndarray:
        values = (np.asarray(part).astype(np.float32) - np.float32(low)) * scale
        return np.rint(values.clip(0, 255)).astype(np.uint8)[..., None]

    return _filled(image, scaled), ""  # floats and 32-bit integers have no range of their own


def depth_of(highest: float, depths: tuple[int, ...] = DEPTHS) -> int:
    """The smallest usual number of bits that holds a value."""
    return next(bits for bits in depths if highest < 1 << bits)


def _table(bits: int) -> np.ndarray:
    """The 8-bit value of each value of so many bits."""
    values = np.arange(1 << bits, dtype=np.float64)
    return np.rint(values * (255.0 / ((1 << bits) - 1))).astype(np.uint8)


def _range(image: Image.Image) -> tuple[float, float, bool]:
    """The lowest and the highest value, and whether they are integers."""
    image.load()
    low, high, integers = np.inf, -np.inf, True
    for _, _, part in _strips(image):
        values = np.asarray(part)
        integers = values.dtype.kind in "iu"
        if not integers and not np.isfinite(values).all():
            raise FloatingPointError("pixels that are not finite numbers")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high, integers


def _deep_colour(image: Image.Image, other: str, reopen: Reopen) -> tuple[np.ndarray, str] | None:
    """Colour of 16 bits of which few are used: Pillow keeps the high byte, in which 12 bits are nearly black.

    None where it is bright enough.

    Args:
        other: the packing that keeps the low byte.
    """
    image.load()
    highest = max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands()[:3])
    bits = depth_of(highest << 8 | 255)
    if bits == 16:  # nothing is lost that 8 bits could show
        return None
    with reopen() as second:
        arguments = second.tile[0].args
        args = (other, *arguments[1:]) if isinstance(arguments, tuple) else other
        second.tile = [part._replace(args=args) for part in second.tile]
        second.load()
        return _joined(image, second, bits), f"{bits} bits"


def packing_of(image: ImageFile.ImageFile) -> str:
    """How the file of an image that is not yet decoded holds pixels, in Pillow's words: ``RGB;16B``."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _joined(high: Image.Image, low: Image.Image, bits: int) -> np.ndarray:
    """RGB of so many bits from high and low bytes."""
    table = _table(bits)
    out = np.empty((high.height, high.width, 3), np.uint8)
    for (top, bottom, above), (_, _, below) in zip(_strips(high), _strips(low), strict=True):
        values = np.asarray(above)[..., :3].astype(np.uint16) << 8 | np.asarray(below)[..., :3]
        out[top:bottom] = table[values.clip(max=len(table) - 1)]
    return out
