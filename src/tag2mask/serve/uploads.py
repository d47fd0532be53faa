"""Photos that are dropped on the page: decoded within limits, kept in memory alone."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from tag2mask import pseudo
from tag2mask.data.masks import voc_palette
from tag2mask.serve.answers import Refused
from tag2mask.serve.pixels import nearest, read_photo
from tag2mask.serve.segmenting import Segmented, Segmenting

UPLOAD_BYTES = 64 << 20
"""Larger files are for ``tag2mask predict``. Pixels are bounded as those of any photo (``data.decode.MAX_PIXELS``)."""


@dataclass(frozen=True)
class Uploads:
    """Uploads live with their probabilities, until newer ones need the memory."""

    segmenting: Segmenting

    def add(self, name: str, content: bytes) -> tuple[str, str, Segmented]:
        """Segment a photo. Gives its address, its name without folders, and what the segmenter says.

        Raises:
            Refused: an empty file.
            UnreadableImage: no photo, or too many pixels.
            InputError: the run has no segmenter.
        """
        plain = PurePosixPath(name.replace("\\", "/")).name[:200] or "photo"
        if not content:
            raise Refused(422, f"{plain} is empty (0 bytes): choose the photo itself")
        key = secrets.token_hex(8)
        photo = self.segmenting.of(key, lambda: read_photo(Path("upload") / plain, content=content))
        return key, plain, photo

    def of(self, key: str) -> Segmented:
        """
        Raises:
            Refused: it is not kept any more.
        """
        photo = self.segmenting.kept(key)
        if photo is None:
            raise Refused(410, "this photo made room for newer ones: drop it again")
        return photo

    def shown_classes(self, photo: Segmented) -> list[int]:
        """Foreground classes of the photo's mask without tags, not sharpened."""
        mask = self.segmenting.mask(photo, None, refine=False)
        values = pseudo.mask_values(range(photo.probabilities.shape[0] - 1))[1:]
        present = set(np.unique(mask).tolist())
        return [c for c, value in enumerate(values.tolist()) if value in present]


def mask_png(work: np.ndarray, size: tuple[int, int]) -> bytes:
    """The index mask as palette PNG at the photo's own size ``(height, width)``."""
    image = Image.fromarray(nearest(work, size))
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
