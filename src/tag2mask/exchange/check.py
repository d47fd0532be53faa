"""The contract of every format: what is written comes back, from photos of the kinds that go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tag2mask.exchange.photos import About, Format, MaskedPhoto
from tag2mask.types import IGNORE

CLASSES = ("disc", 'a "b" & <c>')  # names that markup could trip over
MINIMUM = 0.99  # IoU of polygons, of classes of more than 32 x 32 pixels


def check_format(form: Format, out: Path, photos: Path, accept: Callable[[Path], object] = lambda folder: None) -> None:
    """Write odd photos and read them back.

    Args:
        out: an empty folder.
        photos: an empty folder for the photos themselves.
        accept: what the other program does to the folder when a person accepts everything.

    Raises:
        AssertionError: the format does not keep the contract.
    """
    written = list(odd_photos(photos))
    about = About(CLASSES, "tag2mask test", "train", photos)
    notes = list(form.write(out, iter(written), about))
    assert all(note and "\n" not in note for note in notes), notes
    accept(out)
    assert any("undecided" in note for note in notes) or _keeps_undecided(form, out), "what is lost must be said"
    back = {drawn.name: drawn.mask for drawn in form.read(out, CLASSES)}
    for photo in written:
        known = [back[name] for name in (photo.name, photo.id) if name in back]
        assert known, f"{photo.name} did not come back: {sorted(back)}"
        check_same(photo, known[0], exact=form.exact)
    assert len(back) == len(written)


def _keeps_undecided(form: Format, out: Path) -> bool:
    return any((drawn.mask == IGNORE).any() for drawn in form.read(out, CLASSES))


def check_same(photo: MaskedPhoto, back: np.ndarray, *, exact: bool) -> None:
    """Every class of the photo has the same pixels, or nearly where the format has outlines.

    Raises:
        AssertionError: it has not.
    """
    assert back.shape == photo.mask.shape, (photo.name, back.shape)
    for c in range(len(CLASSES)):
        sent, received = photo.mask == c + 1, back == c + 1
        if exact:
            assert np.array_equal(sent, received), f"{photo.name}: class {c}"
        elif sent.sum() > 32 * 32:
            others = (photo.mask > 0) & (photo.mask != IGNORE) & ~sent
            sent = solid(sent) & ~(others & ~received)  # a hole is filled, but for what is drawn over it
            iou = (sent & received).sum() / (sent | received).sum()
            assert iou >= MINIMUM, f"{photo.name}: class {c} came back with IoU {iou:.4f}"


def solid(pixels: np.ndarray) -> np.ndarray:
    """``[height width]`` bool with its holes filled: what no path of background, corners included, leads to."""
    outside = np.zeros((pixels.shape[0] + 2, pixels.shape[1] + 2), bool)
    outside[0, :] = outside[-1, :] = outside[:, 0] = outside[:, -1] = True
    free = np.pad(~pixels, 1, constant_values=True)
    while True:
        near = np.pad(outside, 1)
        height, width = outside.shape
        grown = free & np.any([near[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
        if np.array_equal(grown, outside):
            return ~outside[1:-1, 1:-1]
        outside = grown


def odd_photos(folder: Path) -> Iterator[MaskedPhoto]:
    """Photos with odd names, of odd sizes and with odd masks, none square."""
    random = np.random.default_rng(0)
    masks = {
        "beach": _discs(70, 110),
        "deep/er/beach.2": _discs(64, 53),
        "with blank & ümlaut": np.where(random.random((40, 61)) > 0.6, 2, 0),  # many parts that touch at corners
        "empty": np.zeros((33, 47)),
        "full": np.ones((37, 50)),
        "a pixel": _pixels(31, 45),
        "undecided": np.where(_discs(90, 80) == 2, IGNORE, _discs(90, 80)),
        "turned": _discs(60, 88),  # stored on its side, with EXIF's mark
        "deep": _discs(58, 81),  # grey of 16 bits
    }
    for number, (id_, mask) in enumerate(masks.items()):
        name = f"{id_}.{('png', 'jpg')[number % 2]}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, random.integers(0, 255, (*mask.shape, 3)).astype(np.uint8))
        yield MaskedPhoto(id_, name, path, mask.astype(np.uint8), number / 8)


def _save(path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    if path.stem == "turned":
        exif[ExifTags.Base.Orientation], pixels = 6, np.rot90(pixels)
    elif path.stem == "deep":
        pixels = pixels[..., 0].astype(np.uint16) * 257
    Image.fromarray(pixels).save(path, exif=exif)


def _discs(height: int, width: int) -> np.ndarray:
    """A disc in a larger one, each a class."""
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - height / 2.3) ** 2 + (columns - width / 2.1) ** 2
    return np.where(distance < 12**2, 2, np.where(distance < 25**2, 1, 0))


def _pixels(height: int, width: int) -> np.ndarray:
    """Single pixels in the corners and inside."""
    mask = np.zeros((height, width))
    mask[0, 0] = mask[-1, -1] = mask[7, 9] = 1
    mask[0, -1] = mask[8, 10] = 2
    return mask
