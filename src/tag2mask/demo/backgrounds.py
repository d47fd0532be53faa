"""Empty scenes: floors, walls and skies from parts of photographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from tag2mask.demo.catalogue import Ground
from tag2mask.demo.sprites import photograph, tinted


def texture(ground: Ground, width: int, height: int, random: np.random.Generator, blur: float = 0) -> np.ndarray:
    """``[height width 3]`` float32: a random part of a ground."""
    left, top, right, bottom = ground.box
    rgb = photograph(ground.photo)[top:bottom, left:right].astype(np.float32)
    if ground.tints:
        rgb = tinted(rgb, ground.tints[random.integers(len(ground.tints))])
    if ground.use == "floor" and random.random() < 0.5:
        rgb = rgb.transpose(1, 0, 2)
    if random.random() < 0.5:
        rgb = rgb[:, ::-1]
    if ground.use == "sky" and ground.name != "stars":
        window = (rgb.shape[1], rgb.shape[0])  # smooth: all of it, stretched
    else:
        zoom = random.uniform(0.75, 1.15) * max(1, 190 / min(rgb.shape[:2]))
        window = (max(8, round(width / zoom)), max(8, round(height / zoom)))
        rows, columns = (max(0, need - have) for need, have in zip(window[::-1], rgb.shape[:2], strict=True))
        if rows or columns:  # too small for this window: go on with its mirror image
            rgb = np.pad(rgb, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
    x = random.integers(rgb.shape[1] - window[0] + 1)
    y = random.integers(rgb.shape[0] - window[1] + 1)
    part = Image.fromarray(rgb[y : y + window[1], x : x + window[0]].clip(0, 255).astype(np.uint8))
    part = part.resize((width, height), Image.Resampling.BICUBIC)
    if blur:
        part = part.filter(ImageFilter.GaussianBlur(blur))
    gain = random.uniform(0.85, 1.15) * random.uniform(0.95, 1.05, 3)
    return (np.asarray(part, np.float32) * gain).clip(0, 255).astype(np.float32)


def receding(flat: np.ndarray, width: int, height: int) -> np.ndarray:
    """A floor seen at a slant: ``flat`` [h w 3] drawn in perspective, far at the top, ``[height width 3]``."""
    source_height, source_width = flat.shape[:2]
    narrow = 0.27 * source_width  # what is cut away on each side of the near edge
    image = Image.fromarray(flat.clip(0, 255).astype(np.uint8))
    corners = [(0, 0), (source_width, 0), (source_width - narrow, source_height), (narrow, source_height)]
    target = [(0, 0), (width, 0), (width, height), (0, height)]
    system = []
    for (x, y), (u, v) in zip(target, corners, strict=True):
        system += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    coefficients = np.linalg.solve(np.array(system, float), np.array(corners, float).ravel())
    drawn = image.transform(
        (width, height), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BICUBIC
    )
    return np.asarray(drawn, np.float32)


def backdrop(
    kind: str, horizon: int, width: int, height: int, pick: Callable[[str], Ground], random: np.random.Generator
) -> np.ndarray:
    """The empty scene ``[height width 3]`` float32: seen from above, a wall over a floor, or the sky."""
    if kind == "above":
        return texture(pick("floor"), width, height, random)
    if kind == "sky":
        return texture(pick("sky"), width, height, random)
    blur = random.uniform(0.6, 2.2)  # the far wall is a little out of focus
    far = pick("wall" if random.random() < 0.75 else "sky")
    wall = texture(far, width, horizon + 2, random, blur)
    floor = receding(
        texture(pick("floor"), width * 3 // 2, round((height - horizon) * 1.6), random), width, height - horizon
    )
    scene = np.concatenate([wall[:horizon], floor])
    shade = np.exp(-(((np.arange(height) - horizon) / 7.0) ** 2))  # where wall and floor meet it is darker
    return scene * (1 - 0.35 * shade[:, None, None]).astype(np.float32)
