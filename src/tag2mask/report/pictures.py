"""A photo and what the run made of it, as small pictures within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tag2mask.pseudo import shows_object
from tag2mask.report.colors import class_colors, rgb
from tag2mask.report.data import GalleryRow
from tag2mask.types import BACKGROUND, IGNORE, LocalizationMaps

THUMBNAIL = 320  # pixels of the longer side: sharp in the grid on a dense screen, 15 kB each
JPEG_QUALITY = 82  # below it thin contours fringe
HATCH = 6  # pixels between the stripes that mark undecided pixels


@dataclass(frozen=True)
class Picture:
    caption: str
    uri: str
    width: int
    height: int
    about: str  # for those who do not see it


@dataclass(frozen=True)
class PictureRow:
    id: str
    tags: list[tuple[str, str]] | None  # name, colour
    score: float | None
    note: str
    pictures: list[Picture]


def pictures(row: GalleryRow, classes: Sequence[str]) -> PictureRow:
    colors = class_colors(len(classes))
    photo = thumbnail(row.image)
    pictures = [picture("Photo", photo, f"photo {row.id}")]
    for caption, maps in (("Map", row.maps), ("Propagated map", row.propagated)):
        if maps is not None:
            pictures.append(picture(caption, draw_maps(photo, maps, rgb(colors)), f"{caption.lower()} of {row.id}"))
    masks = (
        ("Unrefined", row.unrefined),
        ("Mask", row.mask),
        ("Relabelled", row.relabelled),
        ("Prediction", row.prediction),
        ("Truth", row.truth),
    )
    for caption, mask in masks:
        if mask is not None:
            shown = [classes[int(label) - 1] for label in np.unique(mask) if label not in (BACKGROUND, IGNORE)]
            about = f"{caption.lower()} of {row.id}: {', '.join(shown) or 'background only'}"
            pictures.append(picture(caption, draw_mask(photo, mask, rgb(colors)), about))
    tags = None if row.tags is None else [(classes[tag], colors[tag]) for tag in sorted(row.tags)]
    return PictureRow(row.id, tags, row.score, row.note, pictures)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A photo ``[height width 3]`` uint8, small."""
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8, (image.shape, image.dtype)
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _grey(photo: np.ndarray, strength: float) -> np.ndarray:
    """``[height width 3]`` float32: the photo without colour, its contrast drawn towards a mid grey."""
    grey = photo @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat((128 + strength * (grey - 128))[..., None], 3, axis=2)


def draw_maps(photo: np.ndarray, maps: LocalizationMaps, colors: np.ndarray) -> np.ndarray:
    """The strongest class's colour, as opaque as its score."""
    if not maps.classes:
        return _grey(photo, 0.7).astype(np.uint8)
    size = (photo.shape[1], photo.shape[0])
    scores = np.stack(
        [
            np.array(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
            for one in maps.scores
        ]
    )
    opaque = np.clip(scores.max(axis=0), 0, 1)[..., None] * 0.85
    color = colors[np.asarray(maps.classes)[scores.argmax(axis=0)]]
    return np.clip(_grey(photo, 0.7) * (1 - opaque) + color * opaque, 0, 255).astype(np.uint8)


def draw_mask(photo: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Classes in their colours with a contour, background the grey photo, undecided pixels striped."""
    height, width = photo.shape[:2]
    labels = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    drawn = _grey(photo, 0.7)
    object_ = shows_object(labels)
    color = colors[labels[object_].astype(np.intp) - 1]
    drawn[object_] = 0.3 * drawn[object_] + 0.7 * color
    contour = np.zeros_like(object_)
    contour[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    contour[1:] |= labels[1:] != labels[:-1]
    drawn[contour] = 250
    y, x = np.mgrid[:height, :width]
    drawn[(labels == IGNORE) & ((x + y) % HATCH < HATCH // 3)] = 235
    return np.clip(drawn, 0, 255).astype(np.uint8)


def picture(caption: str, image: np.ndarray, about: str) -> Picture:
    """An image within the page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(caption, uri, image.shape[1], image.shape[0], about)
