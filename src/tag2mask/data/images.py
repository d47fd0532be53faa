"""Read any photo as 8-bit RGB, any index mask as class values, any saliency map as numbers in [0, 1].

The only module that decodes files of pixels. Whatever is wrong with one file ends as an
:class:`~tag2mask.errors.UnreadableImage` that names it, so a caller can set the file aside and go on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tag2mask.errors import InputError, UnreadableImage
from tag2mask.files import atomic
from tag2mask.types import Sample

MAX_PIXELS = 64_000_000
"""Larger images are refused: decoded they cost 4 bytes a pixel several times over, and a few kilobytes of
file can claim any size (a decompression bomb)."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm")
"""File names that are taken for photos when a folder is read."""

# Only formats that hold photos. Pillow knows more, and some of them start other programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF", "PPM")

# The eight EXIF orientations and what undoes them (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The wanted formats this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Everything a decoder can raise becomes one line that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(f"image {path} is not there: was it moved or deleted?") from error
    except IsADirectoryError as error:
        raise UnreadableImage(f"{path} is a folder, not an image") from error
    except PermissionError as error:
        raise UnreadableImage(f"image {path} may not be read: check its permissions") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(
            f"image {path} has more than the {MAX_PIXELS / 1e6:.0f} million pixels that are read: "
            "shrink it or cut it into tiles"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"{path} is not an image{_start_of(path)}: replace or remove it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"image {path} cannot be decoded ({reason}): replace or remove it") from error


def _start_of(path: Path) -> str:
    """What a file holds instead of an image, for the message."""
    try:
        with path.open("rb") as file:
            start = file.read(24)
    except OSError:
        return ""
    if not start:
        return " (the file is empty)"
    text = start.decode("latin-1")
    return f" (it is text: '{text.strip()}')" if text.isascii() and text.strip().isprintable() else ""


@contextlib.contextmanager
def _opened(path: Path, content: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The image with its header read and its size checked, errors explained while it is in use."""
    with (
        _explained(path),
        Image.open(path if content is None else io.BytesIO(content), formats=_formats()) as image,
    ):
        if image.width * image.height > max_pixels:
            raise UnreadableImage(
                f"image {path} has {image.width * image.height / 1e6:.0f} million pixels "
                f"({image.width} x {image.height}), more than the {max_pixels / 1e6:.0f} million that are read: "
                "shrink it or cut it into tiles"
            )
        yield image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) when there is none or it makes no sense. Called before pixels are decoded."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # asking a PNG for EXIF decodes all of it, in search of a chunk after the pixels
    if image.format == "TIFF":
        image.load()  # Pillow turns a TIFF itself while loading (when depends on its version); then 1 is left
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block is no reason to lose the photo
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep grey (16-bit, 32-bit, float) brought to 8 bits by its range; other modes unchanged."""
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ValueError("pixels that are not finite numbers")
        low, high = values.min(), values.max()  # floats have no range of their own
    else:
        low, high = 0.0, 65535.0 if values.max() <= 65535 else float(values.max())
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))


def _rgb(image: Image.Image) -> np.ndarray:
    image = _eight_bit(image)
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        page = Image.new("RGBA", clear.size, "white")
        image = Image.alpha_composite(page, clear)
    # np.array, not asarray: torch warns about arrays that cannot be written to
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _decoded(path: Path, content: bytes | None, max_pixels: int) -> np.ndarray:
    with _opened(path, content, max_pixels) as image:
        orientation = _orientation(image)
        return _rgb(_upright(image, orientation))


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as people see it: ``[height width 3]`` uint8 RGB.

    Turned upright by its EXIF orientation; grey, palette, CMYK and 16-bit images are converted, transparent ones
    laid on white; of an animation the first frame is read.

    Raises:
        UnreadableImage: missing, truncated, not an image, or more than ``max_pixels`` pixels; names the file.
    """
    return _decoded(Path(path), None, max_pixels)


def decode_image(path: Path, digest: str) -> np.ndarray:
    """As :func:`read_image`, of exactly the bytes that have this digest (:attr:`CheckedImage.digest`).

    Raises:
        UnreadableImage: also when the file's content has changed.
    """
    with _explained(path):
        content = path.read_bytes()
    if _digest(content) != digest:
        raise UnreadableImage(f"image {path} changed while the run was working: run the same command again")
    return _decoded(path, content, MAX_PIXELS)


def image_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` in pixels of what :func:`read_image` would return, from the header alone."""
    with _opened(Path(path)) as image:
        turned = _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def read_index_mask(path: Path) -> np.ndarray:
    """A mask whose pixel values are classes: ``[height width]`` uint8, from a palette or a grey image.

    Raises:
        UnreadableImage: as :func:`read_image`; a colour image, a JPEG (its compression changes values), or values
            above 255.
    """
    path = Path(path)
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise UnreadableImage(f"mask {path} is a JPEG, whose compression changes class values: save masks as PNG")
        tiles = getattr(image, "tile", None)  # how the decoder was told to unpack, from the header
        packed = tiles[0][3] if tiles else None
        if image.mode in ("P", "L", "1"):
            values = np.array(image, dtype=np.uint8)
            # Pillow spreads grey of 2 and 4 bits over 0..255; in a mask the stored number is the class
            return values // {"L;2": 85, "L;4": 17}.get(packed if isinstance(packed, str) else "", 1)
        if image.mode.startswith("I"):
            wide = np.asarray(image)
            if wide.min() < 0 or wide.max() > 255:
                raise UnreadableImage(
                    f"mask {path} holds values from {wide.min()} to {wide.max()}: classes are 0 to 254, 255 is ignored"
                )
            return wide.astype(np.uint8)
        raise UnreadableImage(
            f"mask {path} is a colour image ({image.mode}): save it as a grey or palette PNG whose pixel values are "
            "0 for background and the number of the class elsewhere"
        )


def read_saliency(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A saliency map at the photo's size: ``[height width]`` float32 in [0, 1], resized bilinearly.

    Args:
        path: a grey image of any size, dark where nothing stands out.
        size: ``(height, width)`` of the photo.
    """
    with _opened(Path(path)) as image:
        grey = _eight_bit(image).convert("L").convert("F")
        if grey.size != (size[1], size[0]):
            grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return (np.array(grey, dtype=np.float32) / 255.0).clip(0.0, 1.0)


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


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """One photo decoded once: either its size and digest, or why it cannot be used."""

    id: str
    height: int = 0  # pixels, upright
    width: int = 0
    digest: str = ""  # blake2b of the file's bytes, 32 hex digits: equal files, equal digests
    error: str | None = None


def check_image(sample: Sample) -> CheckedImage:
    """Decode one photo; problems become the record's ``error``."""
    try:
        with _explained(sample.image_path):
            content = sample.image_path.read_bytes()
        height, width, _ = _decoded(sample.image_path, content, MAX_PIXELS).shape
    except UnreadableImage as error:
        return CheckedImage(sample.id, error=str(error))
    return CheckedImage(sample.id, height, width, _digest(content))


def file_digest(path: Path) -> str:
    """blake2b of an image file's bytes, 32 hex digits, without decoding it."""
    with _explained(path):
        return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_images(samples: Iterable[Sample], workers: int | None = None) -> Iterator[CheckedImage]:
    """Decode every photo once, in order. Only a few are in memory at a time, however many there are.

    Args:
        samples: any iterable; read as far as needed to keep the workers busy.
        workers: threads (decoding releases the GIL); by default as many as cores, at most 8.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="check-images")
    waiting: deque[concurrent.futures.Future[CheckedImage]] = deque()
    remaining = iter(samples)
    try:
        for sample in itertools.islice(remaining, 4 * workers):
            waiting.append(pool.submit(check_image, sample))
        while waiting:
            done = waiting.popleft().result()
            for sample in itertools.islice(remaining, 1):
                waiting.append(pool.submit(check_image, sample))
            yield done
    finally:  # also when the caller stops early or presses Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
