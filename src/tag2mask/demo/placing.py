"""Where things go in a scene: on the floor, behind a ledge, at the border that cuts them off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tag2mask.demo.canvas import Canvas
from tag2mask.demo.catalogue import CLASSES, COIN_TINTS, CUTOUTS, SKIN_TINT, Cutout, Split
from tag2mask.demo.sprites import Sprite, cut, placed, repainted, tinted

AREAS = {1: (0.28, 0.42), 2: (0.18, 0.28), 3: (0.11, 0.18)}  # share of the scene for each of so many tagged things
HUES = (0.0, 0.0, 0.09, 0.30, 0.45, 0.58, 0.66, 0.80)  # turns added to red paint; twice as red as any other


def one_of(choices: Sequence, random: np.random.Generator):
    return choices[int(random.integers(len(choices)))]


def distractors(split: Split, random: np.random.Generator) -> list[Cutout]:
    """Things that are no class; in most scenes none."""
    here = [c for c in CUTOUTS if c.label is None and split in c.splits]
    count = int(random.choice((0, 1, 2), p=(0.55, 0.33, 0.12)))
    return [here[i] for i in random.permutation(len(here))[:count]]


def put_cat(canvas: Canvas, cutout: Cutout, horizon: int, random: np.random.Generator) -> None:
    """The cat looks over the ledge: its photograph ends at the ears and at the shoulder, so does the scene."""
    sprite = cut(cutout)
    height = len(sprite.alpha)
    scale = (horizon + 2) / (random.uniform(0.86, 0.98) * height)  # the chin or the chest is behind the ledge
    mirrored = bool(random.random() < 0.5)
    warm = random.uniform(0.9, 1.1) * random.uniform(0.96, 1.04, 3)
    ready = placed(Sprite(sprite.rgb * warm, sprite.alpha), (scale, scale), 0, mirrored)
    scene = canvas.owner.shape[1]
    reach = random.uniform(0.55, 0.85) * scene  # how far into the scene the cat looks
    x = min(0, round(reach - ready.alpha.shape[1]))
    if mirrored:
        x = scene - ready.alpha.shape[1] - x
    canvas.paste(ready, x, 0, CLASSES.index("cat") + 1, (0, 4, 9, 0.35))


def put(
    canvas: Canvas, cutout: Cutout, area: float, value: int, kind: str, horizon: int, light: float,
    random: np.random.Generator,
) -> None:  # fmt: skip
    """Places one thing so that it covers about ``area`` of the scene, where it hides little of the others."""
    sprite = cut(cutout)
    height, width = canvas.owner.shape
    scale = (area * height * width / max(float(sprite.alpha.sum()), 1.0)) ** 0.5
    scale = min(scale, 0.94 * width / sprite.alpha.shape[1], 0.94 * height / sprite.alpha.shape[0])
    gain = random.uniform(0.85, 1.12) * random.uniform(0.95, 1.05, 3)
    rgb = sprite.rgb
    if cutout.paint:
        rgb = repainted(rgb, cutout.paint, random.choice(HUES), random.uniform(cutout.paint.darkest, 1.0))
    if cutout.monochrome:
        rgb = tinted(rgb, SKIN_TINT)  # if the scene is black and white, nobody sees it
    turn = {"anywhere": 25.0, "ground": 7.0}.get(cutout.stands, 0.0)
    if cutout.label == "shuttle" and kind == "sky":
        turn = 40.0  # it flies
    ready = placed(
        Sprite(rgb * gain, sprite.alpha),
        (scale * random.uniform(0.94, 1.06), scale * random.uniform(0.94, 1.06)),
        random.uniform(-turn, turn),
        bool(random.random() < 0.5) if cutout.stands != "bottom corner" else False,
    )
    mirrored = cutout.stands == "bottom corner" and random.random() < 0.5
    if mirrored:
        ready = Sprite(ready.rgb[:, ::-1], ready.alpha[:, ::-1])
    rows, columns = ready.alpha.shape

    def place() -> tuple[int, int]:
        x = round(random.uniform(-0.04 * columns, width - 0.96 * columns))
        if cutout.stands == "bottom edge":
            return x, height - rows + 2
        if cutout.stands == "bottom corner":
            return (width - columns + 2 if mirrored else -2), height - rows + 2
        if kind in ("above", "sky"):
            return x, round(random.uniform(0.0, max(0.0, height - rows)))
        foot = random.uniform(max(horizon + 0.35 * (height - horizon), 0.8 * rows), height)  # stands on the floor
        return x, round(foot - rows)

    choices = [place() for _ in range(16)]
    x, y = min(choices, key=lambda at: canvas.hidden(ready, *at))
    blur = 0.03 * (rows + columns) / 2 + 1.5
    shadow = (light * 0.04 * columns, 0.03 * rows, blur, random.uniform(0.3, 0.45))
    if cutout.cut_off or kind == "sky":
        shadow = (light * 0.05 * columns, 0.0, blur * 2.5, 0.25)
    canvas.paste(ready, x, y, value, shadow)


def put_coins(
    canvas: Canvas, split: Split, area: float, value: int, kind: str, horizon: int, light: float,
    random: np.random.Generator,
) -> list[str]:  # fmt: skip
    """A handful of coins, some over others. Returns what was used."""
    stock = [c for c in CUTOUTS if c.label == "coin" and split in c.splits]
    height, width = canvas.owner.shape
    flat = random.uniform(0.72, 0.88) if kind in ("room", "ledge") else 1.0  # lying on a floor seen at a slant
    count = int(random.integers(4, 9)) + (3 if area > AREAS[2][1] else 0)
    across = (1.5 * area * height * width / (count * 0.785 * flat)) ** 0.5
    across = float(np.clip(across, 48, 100))  # a coin of the photograph has 40 to 64 pixels
    spread = across * count**0.5 * 0.36
    top = horizon + across * flat * 0.3 if kind in ("room", "ledge") else across / 2

    def centre() -> tuple[float, float]:
        x = random.uniform(min(0.4 * width, spread), max(0.6 * width, width - spread))
        return x, random.uniform(min(top, height - across / 2), height - across / 2)

    def crowd(at: tuple[float, float]) -> int:
        half = (spread, max(spread * flat, 1))
        rows, columns = np.ogrid[:height, :width]
        near = ((columns - at[0]) / half[0]) ** 2 + ((rows - at[1]) / half[1]) ** 2 < 1
        return int((near & (canvas.owner > 0)).sum())

    middle = min((centre() for _ in range(10)), key=crowd)
    metal = COIN_TINTS[random.integers(len(COIN_TINTS))]
    spots: list[tuple[float, float]] = []
    for _ in range(60):
        angle, away = random.uniform(0, 2 * np.pi), spread * random.uniform(0, 1.25) ** 0.7
        spot = (middle[0] + away * np.cos(angle), middle[1] + away * flat * np.sin(angle))
        if all(np.hypot(spot[0] - x, (spot[1] - y) / flat) > 0.55 * across for x, y in spots):
            spots.append(spot)
        if len(spots) == count:
            break
    used = []
    for x, y in sorted(spots, key=lambda spot: spot[1]):
        cutout = one_of(stock, random)
        sprite = cut(cutout)
        scale = across * random.uniform(0.9, 1.1) / sprite.alpha.shape[1]
        turned = placed(sprite, (scale, scale), random.uniform(-180, 180), False)
        turned = placed(turned, (1.0, flat), 0, False) if flat < 1 else turned
        rgb = tinted(turned.rgb, metal) * random.uniform(0.85, 1.1)
        rows, columns = turned.alpha.shape
        ready = Sprite(rgb.astype(np.float32), turned.alpha)
        shadow = (light * 3, 3, 2.5, 0.5)
        canvas.paste(ready, round(x - columns / 2), round(y - rows / 2), value, shadow, large=False)
        used.append(f"cutout:{cutout.name}")
    return used
