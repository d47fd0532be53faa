"""The colours of classes, on the page and in its pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

# Told apart on a grey photograph, light enough for dark text; beyond them hues follow the golden angle.
_COLORS = (
    "#ef5350", "#42a5f5", "#66bb6a", "#ffa726", "#ab47bc", "#26c6da", "#ec407a", "#d4e157",
    "#8d6e63", "#5c6bc0", "#26a69a", "#ffee58", "#78909c", "#ff7043", "#9ccc65", "#7e57c2",
)  # fmt: skip


def class_colors(count: int) -> list[str]:
    """``#rrggbb`` of each foreground class, on the page and in its pictures."""
    more = (
        colorsys.hls_to_rgb((0.11 + 0.618034 * at) % 1, (0.5, 0.66, 0.4)[at % 3], 0.65)
        for at in range(max(0, count - len(_COLORS)))
    )
    return [*_COLORS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in rgb) for rgb in more)]


def rgb(colors: Sequence[str]) -> np.ndarray:
    return np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in colors], np.float32).reshape(-1, 3)
