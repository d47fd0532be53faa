"""Read any photo as 8-bit RGB, any index mask as class values, any saliency map as numbers in [0, 1].

The only door to files of pixels: :mod:`~tag2mask.data.decode` opens them, :mod:`~tag2mask.data.pixels` converts,
:mod:`~tag2mask.data.masks` has index masks and :mod:`~tag2mask.data.check` checks every photo once. Whatever is wrong
with one file ends as an :class:`~tag2mask.errors.UnreadableImage` that names it, so a caller can set the file aside.
"""

from __future__ import annotations

from tag2mask.data.check import CheckedImage, check_image, check_images, decode_image, file_digest
from tag2mask.data.decode import IMAGE_BYTES, MAX_PIXELS, Photo, image_size, open_photo, read_image, read_saliency
from tag2mask.data.masks import index_mask_size, read_index_mask, voc_palette, write_index_mask
from tag2mask.data.walk import SUFFIXES

__all__ = [
    "IMAGE_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "CheckedImage",
    "Photo",
    "check_image",
    "check_images",
    "decode_image",
    "file_digest",
    "image_size",
    "index_mask_size",
    "open_photo",
    "read_image",
    "read_index_mask",
    "read_saliency",
    "voc_palette",
    "write_index_mask",
]
