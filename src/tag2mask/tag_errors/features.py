"""One vector a photo: the mean of a pretrained backbone's last features, not trained on any of the photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tag2mask import backbones, compute, concurrency
from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.data.images import open_photo
from tag2mask.errors import UnreadableImage
from tag2mask.progress import track
from tag2mask.types import Sample
from tag2mask.views import view_batch, views

LONG_SIDE = 384  # pixels; at 256 fewer of the tags are found (docs/log.md, 2026-11-26)
TOGETHER = 16  # photos read for one call; those of one size go through the network together


def write_features(samples: Sequence[Sample], settings: BackboneSettings, path: Path) -> np.ndarray:
    """``[photos channels]`` float16 in a file that is read by memory map; NaN for a photo that cannot be read.

    Raises:
        InputError: the backbone's weights cannot be had.
    """
    backbone = backbones.build(settings).eval().to(compute.device())
    features = np.lib.format.open_memmap(path, "w+", np.float16, (len(samples), backbone.channels))

    def forward(rows: Sequence[int], photos: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        return _pooled(backbone, photos)

    def write(row: int, pooled: np.ndarray) -> None:
        features[row] = pooled

    batches = [range(start, min(start + TOGETHER, len(samples))) for start in range(0, len(samples), TOGETHER)]
    done = concurrency.pipelined(
        batches, lambda row: _read(samples[row]), forward, write, cost=lambda row: 3.0 * LONG_SIDE**2
    )
    for _ in track(done, "features of the photos", len(samples)):
        pass
    return features


def _read(sample: Sample) -> np.ndarray | None:
    try:
        with open_photo(sample.image_path) as photo:
            return photo.decode((LONG_SIDE, LONG_SIDE))[0]
    except UnreadableImage:
        return None


@torch.inference_mode()
def _pooled(backbone: Backbone, photos: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    device = next(backbone.parameters()).device
    pooled = [np.full(backbone.channels, np.nan, np.float16) for _ in photos]
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, photo in enumerate(photos):
        if photo is not None:
            by_size.setdefault(photo.shape, []).append(row)
    for (height, width, _), rows in by_size.items():
        (view,) = views(height, width, LONG_SIDE, (1.0,), flip=False, divisor=backbone.size_divisor)
        images = view_batch([photo for row in rows if (photo := photos[row]) is not None], view, backbone)
        with compute.autocast("auto", device):
            features = backbone(images.to(device)).float().mean((2, 3))
        for row, values in zip(rows, features.cpu().numpy().astype(np.float16), strict=True):
            pooled[row] = values
    return pooled
