"""Image files opened and read.

Whatever is wrong with one ends as an :class:`~tag2mask.errors.UnreadableImage` that names it and quotes nothing of it.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from tag2mask.data.ids import INSIDE
from tag2mask.data.packed import file_of, open_member
from tag2mask.data.pixels import packing_of, to_grey, to_rgb
from tag2mask.data.reading import NotRegular, open_regular
from tag2mask.data.walk import SUFFIXES
from tag2mask.errors import InputError, UnreadableImage

MAX_PIXELS = 64_000_000
"""Larger images are refused: decoded they cost 4 bytes a pixel several times over, and a few kilobytes of
file can claim any size (a decompression bomb)."""

IMAGE_BYTES = 512 << 20
"""Larger files are refused: as many pixels need no more."""

# Only formats that hold photos. Pillow knows more, and some of them start other programs (EPS runs Ghostscript).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF", "PPM")

# What undoes the EXIF orientations (EXIF 2.32, tag 0x0112) of `[height width 3]`.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """The wanted formats this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Everything a decoder can raise becomes one line that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(f"image {path} is not there: was it moved or deleted?") from error
    except IsADirectoryError as error:
        raise UnreadableImage(f"{path} is a folder, not an image") from error
    except NotRegular as error:
        raise UnreadableImage(f"image {path} {error.strerror}: replace or remove it") from error
    except PermissionError as error:
        raise UnreadableImage(f"image {path} may not be read: check its permissions") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(
            f"image {path} has more than the {MAX_PIXELS / 1e6:.0f} million pixels that are read: "
            "shrink it or cut it into tiles"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"{path} is not an image{_instead(path)}: replace or remove it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise UnreadableImage(f"image {path} cannot be decoded ({_reason(error)}): replace or remove it") from error


def _reason(error: Exception) -> str:
    """Why a decoder gave up. Some quote the file in other errors than these."""
    if isinstance(error, (OSError, SyntaxError, FloatingPointError)):
        return " ".join(str(error).split()) or type(error).__name__
    return type(error).__name__


def _instead(path: Path) -> str:
    """What a file is that is no image, without a word of what it holds."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            return " (the file is empty)"
    if path.suffix and not path.name.lower().endswith(SUFFIXES):
        return f" of a format that is read ({path.suffix.lower()}; save photos as JPEG or PNG)"
    return ""


@contextlib.contextmanager
def opened(path: Path, content: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read and its size checked, errors explained while it is in use."""
    with explained(path), _image(path, content) as image:
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


REDUCING_GAP = 1.5
"""A JPEG decoded small is at least so many times as large as what it is resized to."""


class Photo:
    """A photo whose header is read: its size is known, its pixels are not decoded yet."""

    def __init__(self, path: Path, content: bytes | None, image: ImageFile.ImageFile) -> None:
        self._path, self._content, self._image = path, content, image
        self._packing, self._orientation = packing_of(image), _orientation(image)
        self.size = _upright(image.height, image.width, self._orientation)  # (height, width)
        self.turned = self._orientation in _UPRIGHT  # its EXIF mark says that the stored pixels are not upright

    def decode(self, view: tuple[int, int] | None = None) -> tuple[np.ndarray, str]:
        """Pixels as of :func:`read_image`, and what is odd about them, as of :func:`~tag2mask.data.pixels.to_rgb`.

        Args:
            view: (height, width) to which the whole photo will be resized. A JPEG much larger than that is decoded at
                1/2, 1/4 or 1/8 of its size, from its low frequencies alone, in a fraction of the time.
        """
        if view is not None and self._image.format in ("JPEG", "MPO"):
            height, width = _upright(*view, self._orientation)
            self._image.draft(None, (math.ceil(REDUCING_GAP * width), math.ceil(REDUCING_GAP * height)))
        pixels, note = to_rgb(self._image, self._packing, lambda: _image(self._path, self._content))
        if self._orientation in _UPRIGHT:
            pixels = np.ascontiguousarray(_UPRIGHT[self._orientation](pixels))
        return pixels, note


@contextlib.contextmanager
def open_photo(path: Path, content: bytes | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[Photo]:
    """A photo of which only the header is read yet.

    Raises:
        UnreadableImage: as :func:`read_image`, here or while it is decoded.
    """
    with opened(path, content, max_pixels) as image:
        yield Photo(path, content, image)


def _upright(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) as people see it, or back."""
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def decoded(path: Path, content: bytes | None, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str]:
    """A photo, as of :func:`read_image`, and what is odd about it, as of :func:`~tag2mask.data.pixels.to_rgb`."""
    with open_photo(path, content, max_pixels) as photo:
        return photo.decode()


@contextlib.contextmanager
def _image(path: Path, content: bytes | None) -> Iterator[ImageFile.ImageFile]:
    if content is not None:
        file = io.BytesIO(content)
    else:
        packed, name = file_of(path) if INSIDE.search(path.as_posix()) else (path, "")
        file = open_member(packed, name, IMAGE_BYTES) if name else open_regular(path, IMAGE_BYTES)
    with file, Image.open(file, formats=_formats()) as image:
        yield image


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as people see it: ``[height width 3]`` uint8 RGB.

    Turned upright by its EXIF orientation; grey, palette, CMYK and deep images (10 to 16 bits) are converted,
    transparent ones laid on white; of an animation the first frame is read.

    Raises:
        UnreadableImage: missing, truncated, not an image, or more than ``max_pixels`` pixels; names the file.
    """
    return decoded(Path(path), None, max_pixels)[0]


def image_size(path: Path) -> tuple[int, int]:
    """``(height, width)`` in pixels of what :func:`read_image` would return, from the header alone."""
    with opened(Path(path)) as image:
        return _upright(image.height, image.width, _orientation(image))


def read_saliency(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A saliency map at the photo's size: ``[height width]`` float32 in [0, 1], resized bilinearly.

    Args:
        path: a grey image of any size, dark where nothing stands out.
        size: ``(height, width)`` of the photo.
    """
    with opened(Path(path)) as image:
        grey = to_grey(image).convert("F")
        if grey.size != (size[1], size[0]):
            grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return (np.array(grey, dtype=np.float32) / 255.0).clip(0.0, 1.0)
