"""Geometry and colour of training views. One drawn geometry carries the image, its mask and its maps alike.

Random numbers are a function of (seed, epoch, index), so an interrupted run sees the views it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError
from tag2mask.settings import SHARE, Range, check_values, number
from tag2mask.types import IGNORE


@dataclass(frozen=True)
class AugmentSettings:
    """Random scale, placement, flip and colour of a training view."""

    size: Annotated[int, Range(at_least=16, at_most=8192)] = 256
    """Side of the square training view in pixels."""
    scale: Annotated[tuple[float, float], Range(above=0, at_most=1000)] = (0.7, 1.7)
    """The photo's longer side is drawn log-uniformly between these multiples of `size`."""
    flip: bool = True
    """Mirror half of the views left to right."""
    jitter: Annotated[float, SHARE] = 0.3
    """Strength of random brightness, contrast and saturation; 0: none."""
    hue: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.0
    """Strength of random hue, as a share of the colour circle; 0: none (0.1 in many published codes)."""

    def __post_init__(self) -> None:
        check_values(self, "augment")
        low, high = self.scale
        if low > high:
            raise InputError(f"--augment.scale {low:g} {high:g} must be two growing numbers")
        check_sides(self.size, self.scale, "--augment.size times --augment.scale")


LONGEST = 16_384  # pixels; a photo resized to it takes 800 MB


def check_sides(side: int, scales: Sequence[float], flags: str) -> None:
    """No photo is resized to more pixels than any memory holds.

    Args:
        flags: what the longest side is a product of, for the error.

    Raises:
        InputError: it would be.
    """
    if side * max(scales) > LONGEST:
        raise InputError(f"{flags} is {number(side * max(scales))} pixels: it must be at most {LONGEST}")


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one training view."""
    return np.random.default_rng([seed, epoch, index])


@dataclass(frozen=True)
class Geometry:
    """A resize, a mirror, and where the square view lies on the resized photo (offsets may be negative: padding)."""

    height: int  # of the resized photo
    width: int
    top: int  # of the view, in the resized photo
    left: int
    size: int
    flip: bool

    @staticmethod
    def draw(height: int, width: int, settings: AugmentSettings, random: np.random.Generator) -> Geometry:
        low, high = settings.scale
        size = settings.size
        factor = math.exp(random.uniform(math.log(low), math.log(high))) * size / max(height, width)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
        # along each axis the view lies inside the photo, or the photo inside the view
        top = int(random.integers(min(0, height - size), max(0, height - size) + 1))
        left = int(random.integers(min(0, width - size), max(0, width - size) + 1))
        return Geometry(height, width, top, left, size, settings.flip and random.random() < 0.5)

    def _place(self, resized: Tensor, fill: float) -> Tensor:
        """``[... height width]`` of the resized photo to ``[... size size]``."""
        if self.flip:
            resized = resized.flip(-1)
        top, left = max(self.top, 0), max(self.left, 0)
        part = resized[..., top : top + self.size, left : left + self.size]
        out = torch.full((*resized.shape[:-2], self.size, self.size), fill, dtype=resized.dtype)
        row, column = max(-self.top, 0), max(-self.left, 0)
        out[..., row : row + part.shape[-2], column : column + part.shape[-1]] = part
        return out

    def image(self, image: np.ndarray, colour: Colour | None = None) -> Tensor:
        """``[height width 3]`` uint8 to ``[3 size size]`` uint8; padding is 0 and marked by :meth:`valid`."""
        resized = Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BICUBIC)
        if colour is not None:
            resized = colour.apply(resized)
        if self.flip:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        view = resized.crop((self.left, self.top, self.left + self.size, self.top + self.size))  # pads with 0
        return torch.from_numpy(np.array(view)).permute(2, 0, 1)

    def mask(self, mask: np.ndarray) -> Tensor:
        """``[height width]`` uint8 to ``[size size]`` uint8, nearest; padding is IGNORE."""
        resized = Image.fromarray(mask).resize((self.width, self.height), Image.Resampling.NEAREST)
        return self._place(torch.from_numpy(np.array(resized)), IGNORE)

    def maps(self, maps: Tensor) -> Tensor:
        """``[channels rows columns]`` float to ``[channels size size]``, bilinear; padding is 0."""
        resized = F.interpolate(maps[None], (self.height, self.width), mode="bilinear", align_corners=False)[0]
        return self._place(resized, 0.0)

    def valid(self) -> Tensor:
        """``[size size]`` bool, False on padding."""
        out = torch.zeros(self.size, self.size, dtype=torch.bool)
        row, column = max(-self.top, 0), max(-self.left, 0)
        out[row : self.height - self.top, column : self.width - self.left] = True
        return out


def shrunk(maps: Tensor, stride: int) -> Tensor:
    """``[channels height width]`` to a cell for every ``stride`` pixels, bilinear; the corners stay corners (SMAF)."""
    rows, columns = (max(1, side // stride) for side in maps.shape[-2:])
    return F.interpolate(maps[None], (rows, columns), mode="bilinear", align_corners=True)[0]


@dataclass(frozen=True)
class Colour:
    """Factors of brightness, contrast and saturation, and a turn of the hue."""

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0  # of the colour circle

    @staticmethod
    def draw(settings: AugmentSettings, random: np.random.Generator) -> Colour | None:
        """Each factor in 1 ± ``jitter``, the turn in ± ``hue``; None without either."""
        if not settings.jitter and not settings.hue:
            return None
        factors = random.uniform(1 - settings.jitter, 1 + settings.jitter, 3)
        return Colour(*factors, hue=float(random.uniform(-settings.hue, settings.hue)) if settings.hue else 0.0)

    def apply(self, image: Image.Image) -> Image.Image:
        """By Pillow: on 8-bit pixels ten times faster than tensors."""
        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        return _turned(image, self.hue) if self.hue else image


def _turned(image: Image.Image, turn: float) -> Image.Image:
    """The hue of every pixel turned by this share of the colour circle (torchvision's ``adjust_hue``)."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue).astype(np.int16) + int(turn * 255)).astype(np.uint8)  # around the circle
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def fit_size(height: int, width: int, long_side: int, scale: float = 1.0, size_divisor: int = 1) -> tuple[int, int]:
    """(height, width) with the longer side at ``long_side * scale``, each a multiple of ``size_divisor``."""
    factor = long_side * scale / max(height, width)
    rows, columns = (max(size_divisor, round(side * factor / size_divisor) * size_divisor) for side in (height, width))
    return rows, columns


def resized(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """``[height width 3]`` uint8 to ``[3 *size]`` uint8, bicubic."""
    out = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(out)).permute(2, 0, 1)
