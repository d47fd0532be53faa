"""Scenes: what is in them, what they look like, and their truth. A scene is a function of its number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tag2mask.demo.backgrounds import backdrop
from tag2mask.demo.canvas import Canvas
from tag2mask.demo.catalogue import CLASSES, CUTOUTS, GROUNDS, SPLITS, Cutout, DemoSettings, Ground, Split
from tag2mask.demo.placing import AREAS, distractors, one_of, put, put_cat, put_coins

LARGER = {"person": 1.15, "motorcycle": 1.25}  # portraits and vehicles fill more of a photo
MINIMUM_SHARE = 0.03  # of the scene, for each tag: below, a person would not tag it
MINIMUM_SEEN = 0.7  # of each large thing inside the scene that must not be hidden
MINIMUM_BACKGROUND = 0.25  # of the scene
MONOCHROME = 0.04  # share of black-and-white scenes beside half of those with the photographer


@dataclass(frozen=True)
class Scene:
    """A composed image with its truth."""

    image: np.ndarray  # [height width 3] uint8
    mask: np.ndarray  # [height width] uint8, 0 background, c + 1 class c
    tags: tuple[str, ...]  # in the order of CLASSES
    sources: tuple[str, ...]  # names of the cutouts and grounds in it, "cutout:cup", "ground:wood"


def compose(split: Split, index: int, settings: DemoSettings) -> Scene:
    """The scene with this number: a function of its arguments alone."""
    for attempt in range(100):
        random = np.random.default_rng((settings.seed, SPLITS.index(split), index, attempt))
        scene = attempted(split, index, settings, random)
        if scene is not None:
            return scene
    raise AssertionError(f"no scene for {split} {index}: the shares asked for cannot be had")


class Plan(NamedTuple):
    """What a scene is to show, before anything is drawn."""

    size: tuple[int, int]  # width, height
    things: dict[str, Cutout]  # by class, the class that leads first
    kind: str  # seen from above, a room, the sky, or a ledge that the cat looks over
    horizon: int  # row where wall and floor meet


def planned(split: Split, index: int, settings: DemoSettings, random: np.random.Generator) -> Plan:
    """Which classes a scene shows, and in what kind of place."""
    width, height = settings.sizes[random.integers(len(settings.sizes))]
    first = CLASSES[index % len(CLASSES)]  # every class leads equally often
    count = int(random.choice((1, 2, 3), p=(0.35, 0.43, 0.22)))
    others = [name for name in CLASSES if name != first]
    tags = [first, *random.permutation(others)[: count - 1].tolist()]
    things = {name: one_of([c for c in CUTOUTS if c.label == name and split in c.splits], random) for name in tags}
    if "cat" in tags:
        kind = "ledge"
    elif set(tags) <= {"person", "shuttle"}:
        kind = str(random.choice(("above", "room", "sky"), p=(0.1, 0.45, 0.45)))
    else:
        kind = str(random.choice(("above", "room"), p=(0.5, 0.5)))
    horizon = round(height * (random.uniform(0.60, 0.74) if kind == "ledge" else random.uniform(0.40, 0.62)))
    return Plan((width, height), things, kind, horizon)


def attempted(split: Split, index: int, settings: DemoSettings, random: np.random.Generator) -> Scene | None:
    """A scene, or None where something ended up too small or too hidden."""
    plan = planned(split, index, settings, random)
    used: list[str] = []

    def pick(use: str) -> Ground:
        ground = one_of([g for g in GROUNDS if g.split == split and g.use == use], random)
        used.append(f"ground:{ground.name}-{split}")
        return ground

    kind = "room" if plan.kind == "ledge" else plan.kind
    canvas = Canvas(backdrop(kind, plan.horizon, *plan.size, pick, random))
    used += fill(canvas, plan, split, random)
    if not is_clear(canvas, plan.things):
        return None
    grey = random.random() < (0.5 if any(thing.monochrome for thing in plan.things.values()) else MONOCHROME)
    tags = tuple(name for name in CLASSES if name in plan.things)
    return Scene(developed(canvas.image, grey, random), canvas.mask, tags, tuple(sorted(set(used))))


def fill(canvas: Canvas, plan: Plan, split: Split, random: np.random.Generator) -> list[str]:
    """Puts the things of a plan into an empty scene, far ones first. Gives what was used."""
    light = float(random.choice((-1, 1)))  # which side the shadows fall to
    low, high = AREAS[len(plan.things)]
    used = []
    if "cat" in plan.things:
        ledge = canvas.image[plan.horizon :].copy()
        put_cat(canvas, plan.things["cat"], plan.horizon, random)
        canvas.cover(ledge, plan.horizon)
        used.append("cutout:cat")
    for cutout in distractors(split, random):
        area = random.uniform(0.03, 0.07)
        put(canvas, cutout, area, 0, plan.kind, plan.horizon, light, random)
        used.append(f"cutout:{cutout.name}")
    order = ("coin", "shuttle", "motorcycle", "cup", "person")  # on the floor, far, near: a face is never hidden
    for name in (name for name in order if name in plan.things):
        area, value = random.uniform(low, high), CLASSES.index(name) + 1
        if name == "coin":
            used += put_coins(canvas, split, area, value, plan.kind, plan.horizon, light, random)
        else:
            area *= LARGER.get(name, 1.0)
            put(canvas, plan.things[name], area, value, plan.kind, plan.horizon, light, random)
            used.append(f"cutout:{plan.things[name].name}")
    return used


def is_clear(canvas: Canvas, tags: Iterable[str]) -> bool:
    """Whether every tag is there to be seen, and enough background."""
    shares = np.bincount(canvas.mask.ravel(), minlength=len(CLASSES) + 1) / canvas.owner.size
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.labels))
    hidden = any(
        big and label and now < MINIMUM_SEEN * whole
        for now, whole, label, big in zip(seen, canvas.whole, canvas.labels, canvas.large, strict=True)
    )
    small = any(shares[CLASSES.index(name) + 1] < MINIMUM_SHARE for name in tags)
    return not (hidden or small or shares[0] < MINIMUM_BACKGROUND)


def developed(image: np.ndarray, grey: bool, random: np.random.Generator) -> np.ndarray:
    """What a camera does to all of a scene: light from one side, darker corners, white balance, grain. uint8."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + 0.12 * (np.cos(angle) * x + np.sin(angle) * y) - 0.10 * (x**2 + y**2) / 2
    image = image * (light[..., None] * random.uniform(0.97, 1.03, 3))
    if grey:
        image = np.repeat((image @ np.array([0.299, 0.587, 0.114]))[..., None], 3, -1)
    image = image + random.normal(0, 2.2, (height, width, 1))
    return image.clip(0, 255).round().astype(np.uint8)
