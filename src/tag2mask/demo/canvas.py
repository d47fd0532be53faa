"""A scene in the making, and which thing is seen at each of its pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from tag2mask.demo.sprites import Sprite


class Canvas:
    """A scene in the making: what is seen at each pixel, and which of the pasted things that is."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image.astype(np.float32)
        self.owner: np.ndarray = np.zeros(image.shape[:2], np.int32)  # 0 background, n the n-th pasted thing
        self.whole: list[int] = [0]  # pixels of each thing inside the scene, before others hid it
        self.labels: list[int] = [0]  # mask value of each
        self.large: list[bool] = [False]  # must stay visible for the most part

    @property
    def mask(self) -> np.ndarray:
        return np.array(self.labels, np.uint8)[self.owner]

    def inside(self, sprite: Sprite, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
        """The sprite's colours and alpha on the whole canvas, its top left corner at (x, y)."""
        height, width = self.owner.shape
        rgb, alpha = np.zeros_like(self.image), np.zeros((height, width), np.float32)
        rows, columns = sprite.alpha.shape
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + rows, height), min(x + columns, width)
        if top < bottom and left < right:
            there, here = np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]
            rgb[there], alpha[there] = sprite.rgb[here], sprite.alpha[here]
        return rgb, alpha

    def paste(
        self, sprite: Sprite, x: int, y: int, label: int, shadow: tuple[float, float, float, float], large: bool = True
    ) -> None:
        """Lays a sprite over the scene. ``shadow``: shift across and down, blur (pixels), depth in [0, 1]."""
        rgb, alpha = self.inside(sprite, x, y)
        across, down, blur, depth = shadow
        _, shade = self.inside(sprite, round(x + across), round(y + down))
        soft = Image.fromarray((shade * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
        self.image *= 1 - depth * np.asarray(soft, np.float32)[..., None] / 255
        self.image += alpha[..., None] * (rgb - self.image)
        seen = alpha >= 0.5
        self.labels.append(label)
        self.whole.append(int(seen.sum()))
        self.large.append(large)
        self.owner[seen] = len(self.labels) - 1

    def hidden(self, sprite: Sprite, x: int, y: int) -> int:
        """How many pixels of things that are there already a sprite would hide."""
        return int(((self.inside(sprite, x, y)[1] >= 0.5) & (self.owner > 0)).sum())

    def cover(self, image: np.ndarray, top: int) -> None:
        """Lays a ledge over everything from row ``top`` downwards; it is background."""
        self.image[top:] = image
        self.owner[top:] = 0
        self.whole = np.bincount(self.owner.ravel(), minlength=len(self.labels)).tolist()
