"""A trained segmenter for programs: one photo in, mask and probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tag2mask import pseudo
from tag2mask.data.images import read_image
from tag2mask.deploy.stored import Stored, open_stored
from tag2mask.errors import InputError
from tag2mask.stages.predictions import Predictor


class Prediction(NamedTuple):
    """What a segmenter says of a photo."""

    mask: np.ndarray
    """``[height width]`` uint8: 0 background, c + 1 class c."""
    probabilities: np.ndarray
    """``[1+classes height width]`` float32, background first, refined as the mask."""


class Segmenter:
    """A trained segmenter with the settings of its inference, as ``tag2mask predict`` uses it.

    Attributes:
        classes: foreground classes; ``classes[c]`` is the value ``c + 1`` of a mask.
        version: which model this is.
    """

    def __init__(self, stored: Stored) -> None:
        self.classes, self.version = stored.classes, stored.version
        settings = stored.settings
        self._predictor = Predictor(settings, len(stored.classes), stored.weights, settings.single_stage)

    def predict(self, image: Path | str | np.ndarray | Image.Image) -> Prediction:
        """Segment one photo.

        Args:
            image: a file, ``[height width 3]`` uint8 RGB, or an image of Pillow (converted to RGB as it stands).

        Raises:
            InputError: the file cannot be read, or the array is no photo.
        """
        pixels = _pixels(image)
        views = self._predictor.photos.read(pixels)
        probabilities, _ = self._predictor.refined(self._predictor.segmented([(pixels, views)])[0])
        return Prediction(pseudo.index_mask(probabilities), probabilities.numpy())


def load(path: Path | str) -> Segmenter:
    """The segmenter of a run, or of a bundle (``tag2mask export RUN --to bundle``).

    Raises:
        InputError: it is neither, is not finished, damaged, or of another version.
    """
    return Segmenter(open_stored(path))


def _pixels(image: Path | str | np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            f"an image of shape {pixels.shape} and type {pixels.dtype}: give [height width 3] uint8 RGB, or a file"
        )
    return np.require(pixels, requirements=["C", "W"])  # torch warns of memory that it must not write to
