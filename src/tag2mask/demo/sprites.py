"""Photographs that installed packages carry, and things cut out of them, ready to be pasted."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tag2mask.demo.catalogue import ASSETS, Cutout, Paint
from tag2mask.errors import InputError


@dataclass(frozen=True)
class Sprite:
    """A cutout ready to be pasted."""

    rgb: np.ndarray  # [height width 3] float32 in 0 .. 255, the thing's colours also around it, so that no halo shows
    alpha: np.ndarray  # [height width] float32 in [0, 1]


@functools.cache
def photograph(name: str) -> np.ndarray:
    """``[height width 3]`` uint8 of a photograph an installed package carries.

    Raises:
        InputError: the installation lacks it.
    """
    package, inside = ("matplotlib", "mpl-data/sample_data") if name == "grace_hopper.jpg" else ("skimage", "data")
    spec = importlib.util.find_spec(package)  # finds the folder without the seconds an import may take
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        path = Path(place) / inside / name
        if path.is_file():
            with Image.open(path) as file:
                return np.asarray(file.convert("RGB"))
    distribution = "scikit-image" if package == "skimage" else package
    raise InputError(
        f"the demo needs the photograph {name} that {distribution} carries, and this installation of {distribution} "
        f"lacks it: reinstall it with 'python -m pip install --force-reinstall {distribution}'"
    )


@functools.cache
def cut(cutout: Cutout) -> Sprite:
    """The thing at the size it has in its photograph."""
    from scipy import ndimage

    rgb = photograph(cutout.photo)
    if cutout.mask:
        with Image.open(ASSETS / cutout.mask) as file:
            values = np.asarray(file.convert("L"))
        inside = values == cutout.value if cutout.value else values > 0
    else:
        drawn = Image.new("L", (rgb.shape[1], rgb.shape[0]))
        ImageDraw.Draw(drawn).polygon([*cutout.outline], fill=1)
        inside = np.asarray(drawn) > 0
    assert inside.shape == rgb.shape[:2], (cutout.name, inside.shape, rgb.shape)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    pad = 0 if cutout.cut_off else 6  # where the photograph ends, the thing must end sharply
    crop = np.s_[top:bottom, left:right]
    inside = np.pad(inside[crop], pad)
    rgb = np.pad(rgb[crop], ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    # Colours one pixel inside the outline are the thing's own for certain; carry them outwards.
    outside = ~np.asarray(ndimage.binary_erosion(inside, iterations=1, border_value=1), bool)
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    assert isinstance(nearest, np.ndarray)
    rgb = rgb[nearest[0], nearest[1]].astype(np.float32)
    return Sprite(rgb, inside.astype(np.float32))


def placed(sprite: Sprite, scale: tuple[float, float], angle: float, mirrored: bool) -> Sprite:
    """Scaled (across, down), mirrored and turned (degrees, counter-clockwise), the edge feathered by a pixel."""
    height, width = sprite.alpha.shape
    size = (max(3, round(width * scale[0])), max(3, round(height * scale[1])))
    colours = Image.fromarray(sprite.rgb.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    alpha = Image.fromarray((sprite.alpha * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    if mirrored:
        colours = colours.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        alpha = alpha.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        colours = colours.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        alpha = alpha.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    soft = alpha.filter(ImageFilter.GaussianBlur(0.6))
    return Sprite(np.asarray(colours, np.float32), np.asarray(soft, np.float32) / 255)


def repainted(rgb: np.ndarray, paint: Paint, turn: float, brightness: float) -> np.ndarray:
    """Gives what is painted red another hue (``turn`` of the colour circle) and brightness; leaves the rest alone."""
    hsv = np.asarray(Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).convert("HSV")).astype(np.int16)
    hue, saturation = hsv[..., 0], hsv[..., 1]
    from_red = np.minimum(hue, 256 - hue)
    red = ((paint.reach - from_red) / 4).clip(0, 1) * ((saturation - paint.saturation) / 50).clip(0, 1)
    hsv[..., 0] = (hue + round(turn * 256)) % 256
    bands = [Image.fromarray(hsv[..., band].astype(np.uint8)) for band in range(3)]
    turned = np.asarray(Image.merge("HSV", bands).convert("RGB"), np.float32) * brightness
    return rgb * (1 - red[..., None]) + turned * red[..., None]


def tinted(grey: np.ndarray, tint: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours of dark, middle and light for a grey photograph ``[height width 3]``."""
    level = grey.mean(-1)
    low, high = np.percentile(level, (2, 98))
    level = ((level - low) / max(high - low, 1)).clip(0, 1)
    return np.stack([np.interp(level, (0, 0.5, 1), [stop[c] for stop in tint]) for c in range(3)], -1)
