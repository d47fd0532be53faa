"""The demo data: scenes composed from photographs that installed packages already carry. No network.

Six classes, one to three tags an image, exact truth: objects are cut out of photographs by masks drawn once (they are
packaged in ``demo_assets/``), then scaled, turned, mirrored, re-coloured, lit, shadowed and laid over photographs of
brick, grass, gravel, wood and sky, some behind others, among things that are no class (a helmet, boxes, paper).
The pixels come from scikit-image's and Matplotlib's wheels; only the 1-bit outlines are ours.

It is a demo, not a benchmark: there are few source photographs. Coins, persons, the two views of the motorcycle and all
backgrounds of ``val`` never occur in ``train``; cat, cup and shuttle are the same photograph in both (see ``NOTICE``).
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tag2mask.errors import InputError

CLASSES = ("cat", "coin", "cup", "motorcycle", "person", "shuttle")
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
BOTH: tuple[Split, ...] = SPLITS
ASSETS = Path(__file__).with_name("demo_assets")

NOTICE = """\
tag2mask demo data
==================
Composed on this computer by tag2mask from photographs that the packages scikit-image and Matplotlib carry; nothing was
downloaded. Masks are exact: they are the alpha masks with which the objects were pasted. 0 is background, c + 1 is the
c-th line of classes.txt. sources.json names, for every image, the objects and backgrounds in it.

It is a demonstration, not a benchmark. There are few source photographs, and scores on it say little about your photos.
What train and val share, and what they do not:
- coin: 18 coins in train, 6 others in val.
- person: Eileen Collins and a photographer in train, Grace Hopper in val.
- motorcycle: the left view of a stereo pair in train, the right view in val (the same motorcycle).
- cat, cup, shuttle: one photograph each, in both; only size, place, light, colour and company differ.
- backgrounds and things that are no class: different photographs, or parts of them that do not overlap.

Sources and licences
--------------------
astronaut.png          Eileen Collins, NASA. Public domain.                          person, shuttle, helmet, backdrop
brick.png              CC0Textures "Bricks25". CC0 1.0.                              background
camera.png             Lav Varshney. CC0 1.0.                                        person
chelsea.png            Stefan van der Walt. CC0 1.0.                                 cat
coffee.png             Rachel Michetti, courtesy of Pikolo Espresso Bar. CC0 1.0.    cup, wooden table
coins.png              Brooklyn Museum, Greek coins from Pompeii. No known copyright restrictions.   coin
grass.png              linolafett, "Grass 01". CC0 1.0.                              background
gravel.png             CC0Textures "Gravel04". CC0 1.0.                              background
hubble_deep_field.jpg  NASA, ESA, Hubble. Public domain.                             background
motorcycle_left.png,   Middlebury 2014 stereo benchmark, N. Nesic, P. Westling, X. Wang, Y. Kitajima, G. Krathwohl,
motorcycle_right.png   D. Scharstein; the authors permit use and publication and ask to be cited (Scharstein et al.,
                       GCPR 2014).                                                   motorcycle, boxes, garage
rocket.jpg             SpaceX. Public domain (CC0 1.0).                              evening sky
text.png               Wikipedia "Corner.png". Public domain.                        sheet of paper
grace_hopper.jpg       Grace Hopper, James S. Davis, United States Navy. Public domain. Carried by Matplotlib.   person
The others are carried by scikit-image (BSD-3-Clause), whose documentation states the licences above.
The outlines in tag2mask (demo_assets/) are part of tag2mask, Apache-2.0.
"""


@dataclass(frozen=True)
class DemoSettings:
    """How many scenes, and of what size."""

    train: int = 160  # enough for a fine-tuned classifier to learn six tags in about a minute on two cores
    val: int = 40  # every class about twelve times
    sizes: tuple[tuple[int, int], ...] = ((256, 192), (192, 256), (256, 208), (240, 176))  # (width, height), no square
    seed: int = 20  # of everything random; change it for other scenes from the same photographs
    jpeg_quality: int = 93  # the compression of a good camera: artefacts do not mark pasted edges


@dataclass(frozen=True)
class Paint:
    """Pixels of strong colour near red, which may take other colours. Hues and saturations as in 8-bit HSV."""

    reach: int = 13  # from pure red (0) to both sides: farther lie skin, wood and coffee
    saturation: int = 90  # the least; skin has less than a space suit
    darkest: float = 1.0  # factor of brightness the paint may be given; dark clothes need it


@dataclass(frozen=True)
class Cutout:
    """One thing cut out of one photograph."""

    name: str
    label: str | None  # its class; None: a thing that is no class
    photo: str
    splits: tuple[Split, ...]
    mask: str = ""  # file in demo_assets
    value: int = 0  # of the thing in that file; 0: all that is not 0
    outline: tuple[tuple[int, int], ...] = ()  # instead of a file: polygon of (x, y)
    stands: Literal["anywhere", "ground", "bottom edge", "bottom corner", "behind ledge"] = "ground"
    paint: Paint | None = None  # what of it may be given another colour
    monochrome: bool = False  # a black-and-white photograph: its scene becomes one, too, or it is tinted by hand

    @property
    def cut_off(self) -> bool:
        """Whether the photograph's border cuts it off, so that the scene's border must do the same."""
        return self.stands in ("bottom edge", "bottom corner", "behind ledge")


@dataclass(frozen=True)
class Ground:
    """A part of a photograph that serves as background."""

    name: str
    photo: str
    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels
    split: Split
    use: Literal["floor", "wall", "sky"]
    tints: tuple[tuple[tuple[int, int, int], ...], ...] = ()  # for grey photographs: colours of dark, middle and light


SKIN_TINT = ((12, 13, 18), (176, 122, 96), (252, 238, 222))  # for a person on a black-and-white photograph
COIN_TINTS = (((24, 24, 27), (150, 150, 150), (248, 246, 240)), ((30, 16, 8), (168, 112, 66), (255, 226, 190)),
              ((32, 22, 6), (186, 146, 62), (255, 242, 190)))  # fmt: skip
BRICK_TINTS = (((70, 42, 34), (152, 92, 72), (226, 198, 178)), ((58, 56, 56), (138, 134, 128), (222, 218, 210)),
               ((84, 68, 46), (182, 154, 112), (240, 226, 196)))  # fmt: skip
GRASS_TINTS = (((14, 28, 8), (84, 122, 44), (206, 220, 140)), ((30, 30, 10), (132, 128, 62), (232, 222, 160)))
GRAVEL_TINTS = (((34, 32, 34), (124, 120, 120), (228, 226, 226)), ((42, 32, 24), (146, 124, 102), (238, 224, 204)))

COINS_OF_VAL = frozenset({4, 7, 10, 15, 17, 24})  # one or two of each row of the photograph, large and small ones

CUTOUTS: tuple[Cutout, ...] = (
    Cutout("cat", "cat", "chelsea.png", BOTH, "cat.png", stands="behind ledge"),
    *(
        Cutout(
            f"coin-{n:02}", "coin", "coins.png", ("val",) if n in COINS_OF_VAL else ("train",), "coins.png", n,
            stands="anywhere",
        )
        for n in range(1, 25)
    ),
    Cutout("cup", "cup", "coffee.png", BOTH, "cup.png", paint=Paint()),
    Cutout("motorcycle-left", "motorcycle", "motorcycle_left.png", ("train",), "motorcycle_left.png", paint=Paint()),
    Cutout("motorcycle-right", "motorcycle", "motorcycle_right.png", ("val",), "motorcycle_right.png", paint=Paint()),
    Cutout("collins", "person", "astronaut.png", ("train",), "collins.png",
           stands="bottom edge", paint=Paint(26, 125, 0.2)),
    Cutout("photographer", "person", "camera.png", ("train",), "cameraman.png",
           stands="bottom corner", monochrome=True),
    Cutout("hopper", "person", "grace_hopper.jpg", ("val",), "hopper.png", stands="bottom edge"),
    Cutout("shuttle", "shuttle", "astronaut.png", BOTH, "shuttle.png"),
    Cutout("helmet", None, "astronaut.png", ("train",), "helmet.png", stands="bottom edge"),
    Cutout("box", None, "motorcycle_left.png", ("train",),
           outline=((530, 33), (592, 32), (587, 97), (529, 96))),
    Cutout("tall-box", None, "motorcycle_right.png", ("val",),
           outline=((595, 188), (659, 191), (655, 273), (595, 270))),
    Cutout("paper-left", None, "text.png", ("train",),
           outline=((0, 0), (200, 0), (200, 171), (0, 171)), stands="anywhere"),
    Cutout("paper-right", None, "text.png", ("val",),
           outline=((240, 0), (447, 0), (447, 171), (240, 171)), stands="anywhere"),
)  # fmt: skip

GROUNDS: tuple[Ground, ...] = (
    Ground("brick", "brick.png", (0, 0, 290, 512), "train", "wall", BRICK_TINTS),
    Ground("brick", "brick.png", (300, 0, 512, 512), "val", "wall", BRICK_TINTS),
    Ground("paving", "brick.png", (0, 0, 290, 512), "train", "floor", BRICK_TINTS),
    Ground("paving", "brick.png", (300, 0, 512, 512), "val", "floor", BRICK_TINTS),
    Ground("grass", "grass.png", (0, 0, 290, 512), "train", "floor", GRASS_TINTS),
    Ground("grass", "grass.png", (300, 0, 512, 512), "val", "floor", GRASS_TINTS),
    Ground("gravel", "gravel.png", (0, 0, 290, 512), "train", "floor", GRAVEL_TINTS),
    Ground("gravel", "gravel.png", (300, 0, 512, 512), "val", "floor", GRAVEL_TINTS),
    Ground("wood", "coffee.png", (488, 20, 600, 400), "train", "floor"),
    Ground("wood", "coffee.png", (0, 110, 74, 330), "val", "floor"),
    Ground("garage", "motorcycle_left.png", (0, 0, 176, 104), "train", "wall"),
    Ground("garage", "motorcycle_right.png", (536, 0, 741, 180), "val", "wall"),
    Ground("studio", "astronaut.png", (312, 0, 352, 225), "train", "sky"),
    Ground("studio", "grace_hopper.jpg", (385, 0, 512, 320), "val", "sky"),
    Ground("evening", "rocket.jpg", (92, 0, 168, 300), "train", "sky"),
    Ground("evening", "rocket.jpg", (345, 0, 436, 330), "val", "sky"),
    Ground("stars", "hubble_deep_field.jpg", (0, 0, 1000, 430), "train", "sky"),
    Ground("stars", "hubble_deep_field.jpg", (0, 440, 1000, 872), "val", "sky"),
)  # fmt: skip

AREAS = {1: (0.28, 0.42), 2: (0.18, 0.28), 3: (0.11, 0.18)}  # share of the scene for each of so many tagged things
LARGER = {"person": 1.15, "motorcycle": 1.25}  # portraits and vehicles fill more of a photo
LEAST_SHARE = 0.03  # of the scene, for each tag: below, a person would not tag it
LEAST_SEEN = 0.7  # of each large thing inside the scene that must not be hidden
LEAST_BACKGROUND = 0.25  # of the scene
HUES = (0.0, 0.0, 0.09, 0.30, 0.45, 0.58, 0.66, 0.80)  # turns added to red paint; twice as red as any other
MONOCHROME = 0.04  # share of black-and-white scenes beside half of those with the photographer


@dataclass(frozen=True)
class Scene:
    """A composed image with its truth."""

    image: np.ndarray  # [height width 3] uint8
    mask: np.ndarray  # [height width] uint8, 0 background, c + 1 class c
    tags: tuple[str, ...]  # in the order of CLASSES
    sources: tuple[str, ...]  # names of the cutouts and grounds in it, "cutout:cup", "ground:wood"


@dataclass(frozen=True)
class Sprite:
    """A cutout ready to be pasted."""

    rgb: np.ndarray  # [height width 3] float32 in 0 .. 255, the thing's colours also around it, so that no halo shows
    alpha: np.ndarray  # [height width] float32 in [0, 1]


def cache_dir() -> Path:
    """The folder for data this user's programs can make again: as each system wants it."""
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "tag2mask"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tag2mask"


def digest(settings: DemoSettings) -> str:
    """Names a version of the demo data: other code, outlines or settings give another folder."""
    found = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for path in (Path(__file__), *sorted(ASSETS.glob("*.png"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def demo_root(cache: Path | None = None, settings: DemoSettings | None = None) -> Path:
    """The folder of the demo data set, composed when first asked for (seconds), in the folder layout:
    ``images/*.jpg``, ``masks/*.png``, ``train.csv``, ``val.csv``, ``classes.txt``, ``LICENSES.txt``, ``sources.json``.

    Several processes may ask at once: each composes in a folder of its own, the first to finish gives its folder the
    final name, and a folder of that name is always complete.

    Args:
        cache: where to keep it; by default this user's cache folder.
        settings: how many scenes; by default those of the demo.

    Raises:
        InputError: the cache cannot be written, or an installed package lacks a photograph.
    """
    settings = settings or DemoSettings()
    cache = cache or cache_dir()
    root = cache / f"demo-{digest(settings)}"
    if root.is_dir():
        return root
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".demo-", dir=cache))
        try:
            write(building, settings)
            building.chmod(0o755)  # mkdtemp made it private
            try:
                building.rename(root)
            except OSError:
                if not root.is_dir():  # not because another process was faster
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)  # gone already if all went well
    except OSError as error:
        raise InputError(
            f"the demo data cannot be written to {cache} ({error.strerror or error}): free some space there or name "
            "another folder in the environment variable XDG_CACHE_HOME"
        ) from error
    return root


def write(root: Path, settings: DemoSettings) -> None:
    """Composes all scenes into an empty folder."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    (root / "LICENSES.txt").write_text(NOTICE, encoding="utf-8")
    palette = voc_palette()
    sources: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        count = settings.train if split == "train" else settings.val
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("image", "tags"))
            for index in range(count):
                scene = compose(split, index, settings)
                name = f"{split}_{index:03}"
                Image.fromarray(scene.image).save(
                    root / "images" / f"{name}.jpg", quality=settings.jpeg_quality, subsampling=0
                )
                mask = Image.fromarray(scene.mask)
                mask.putpalette(palette)  # the values stay what they are; a viewer shows colours
                mask.save(root / "masks" / f"{name}.png", optimize=True)
                table.writerow((f"{name}.jpg", ";".join(scene.tags)))
                sources[name] = scene.sources
    (root / "sources.json").write_text(json.dumps(sources, indent=1), encoding="utf-8")


def voc_palette() -> bytes:
    """The colours PASCAL VOC gives its mask values: bits of the value spread over red, green and blue."""
    colours = np.zeros((256, 3), np.uint8)
    for value in range(256):
        for bit in range(8):
            for channel in range(3):
                colours[value, channel] |= ((value >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tobytes()


# --- photographs and cutouts ------------------------------------------------------------------------------------------


@functools.cache
def photograph(name: str) -> np.ndarray:
    """``[height width 3]`` uint8 of a photograph an installed package carries.

    Raises:
        InputError: the installation lacks it.
    """
    package, inside = ("matplotlib", "mpl-data/sample_data") if name == "grace_hopper.jpg" else ("skimage", "data")
    spec = importlib.util.find_spec(package)  # finds the folder without the seconds an import may take
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        path = Path(place) / inside / name
        if path.is_file():
            with Image.open(path) as file:
                return np.asarray(file.convert("RGB"))
    distribution = "scikit-image" if package == "skimage" else package
    raise InputError(
        f"the demo needs the photograph {name} that {distribution} carries, and this installation of {distribution} "
        f"lacks it: reinstall it with 'python -m pip install --force-reinstall {distribution}'"
    )


@functools.cache
def cut(cutout: Cutout) -> Sprite:
    """The thing at the size it has in its photograph."""
    from scipy import ndimage

    rgb = photograph(cutout.photo)
    if cutout.mask:
        with Image.open(ASSETS / cutout.mask) as file:
            values = np.asarray(file.convert("L"))
        inside = values == cutout.value if cutout.value else values > 0
    else:
        drawn = Image.new("L", (rgb.shape[1], rgb.shape[0]))
        ImageDraw.Draw(drawn).polygon([*cutout.outline], fill=1)
        inside = np.asarray(drawn) > 0
    assert inside.shape == rgb.shape[:2], (cutout.name, inside.shape, rgb.shape)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    pad = 0 if cutout.cut_off else 6  # where the photograph ends, the thing must end sharply
    crop = np.s_[top:bottom, left:right]
    inside = np.pad(inside[crop], pad)
    rgb = np.pad(rgb[crop], ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    # Colours one pixel inside the outline are the thing's own for certain; carry them outwards.
    outside = ~np.asarray(ndimage.binary_erosion(inside, iterations=1, border_value=1), bool)
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    assert isinstance(nearest, np.ndarray)
    rgb = rgb[nearest[0], nearest[1]].astype(np.float32)
    return Sprite(rgb, inside.astype(np.float32))


def placed(sprite: Sprite, scale: tuple[float, float], angle: float, mirrored: bool) -> Sprite:
    """Scaled (across, down), mirrored and turned (degrees, counter-clockwise), the edge feathered by a pixel."""
    height, width = sprite.alpha.shape
    size = (max(3, round(width * scale[0])), max(3, round(height * scale[1])))
    colours = Image.fromarray(sprite.rgb.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    alpha = Image.fromarray((sprite.alpha * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    if mirrored:
        colours = colours.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        alpha = alpha.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        colours = colours.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        alpha = alpha.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    soft = alpha.filter(ImageFilter.GaussianBlur(0.6))
    return Sprite(np.asarray(colours, np.float32), np.asarray(soft, np.float32) / 255)


def repainted(rgb: np.ndarray, paint: Paint, turn: float, brightness: float) -> np.ndarray:
    """Gives what is painted red another hue (``turn`` of the colour circle) and brightness; leaves the rest alone."""
    hsv = np.asarray(Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).convert("HSV")).astype(np.int16)
    hue, saturation = hsv[..., 0], hsv[..., 1]
    from_red = np.minimum(hue, 256 - hue)
    red = ((paint.reach - from_red) / 4).clip(0, 1) * ((saturation - paint.saturation) / 50).clip(0, 1)
    hsv[..., 0] = (hue + round(turn * 256)) % 256
    bands = [Image.fromarray(hsv[..., band].astype(np.uint8)) for band in range(3)]
    turned = np.asarray(Image.merge("HSV", bands).convert("RGB"), np.float32) * brightness
    return rgb * (1 - red[..., None]) + turned * red[..., None]


def tinted(grey: np.ndarray, tint: Sequence[Sequence[int]]) -> np.ndarray:
    """Colours of dark, middle and light for a grey photograph ``[height width 3]``."""
    level = grey.mean(-1)
    low, high = np.percentile(level, (2, 98))
    level = ((level - low) / max(high - low, 1)).clip(0, 1)
    return np.stack([np.interp(level, (0, 0.5, 1), [stop[c] for stop in tint]) for c in range(3)], -1)


# --- backgrounds ------------------------------------------------------------------------------------------------------


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


# --- composing --------------------------------------------------------------------------------------------------------


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


def compose(split: Split, index: int, settings: DemoSettings) -> Scene:
    """The scene with this number: a function of its arguments alone."""
    for attempt in range(100):
        random = np.random.default_rng((settings.seed, SPLITS.index(split), index, attempt))
        scene = attempted(split, index, settings, random)
        if scene is not None:
            return scene
    raise AssertionError(f"no scene for {split} {index}: the shares asked for cannot be had")


def attempted(split: Split, index: int, settings: DemoSettings, random: np.random.Generator) -> Scene | None:
    """A scene, or None where something ended up too small or too hidden."""
    width, height = settings.sizes[random.integers(len(settings.sizes))]
    first = CLASSES[index % len(CLASSES)]  # every class leads equally often
    count = int(random.choice((1, 2, 3), p=(0.35, 0.43, 0.22)))
    others = [name for name in CLASSES if name != first]
    tags = [first, *random.permutation(others)[: count - 1].tolist()]
    things = {name: one_of([c for c in CUTOUTS if c.label == name and split in c.splits], random) for name in tags}

    used: list[str] = []

    def pick(use: str) -> Ground:
        ground = one_of([g for g in GROUNDS if g.split == split and g.use == use], random)
        used.append(f"ground:{ground.name}-{split}")
        return ground

    behind = "cat" in tags
    if behind:
        kind = "ledge"
    elif set(tags) <= {"person", "shuttle"}:
        kind = str(random.choice(("above", "room", "sky"), p=(0.1, 0.45, 0.45)))
    else:
        kind = str(random.choice(("above", "room"), p=(0.5, 0.5)))
    horizon = round(height * (random.uniform(0.60, 0.74) if behind else random.uniform(0.40, 0.62)))
    canvas = Canvas(backdrop("room" if behind else kind, horizon, width, height, pick, random))
    light = float(random.choice((-1, 1)))  # which side the shadows fall to
    low, high = AREAS[count]

    if behind:
        ledge = canvas.image[horizon:].copy()
        put_cat(canvas, things["cat"], horizon, random)
        canvas.cover(ledge, horizon)
        used.append("cutout:cat")

    for cutout in distractors(split, random):
        area = random.uniform(0.03, 0.07)
        put(canvas, cutout, area, 0, kind, horizon, light, random)
        used.append(f"cutout:{cutout.name}")

    order = ("coin", "shuttle", "motorcycle", "cup", "person")  # on the floor, far, near: a face is never hidden
    for name in (name for name in order if name in tags):
        area, value = random.uniform(low, high), CLASSES.index(name) + 1
        if name == "coin":
            used += put_coins(canvas, split, area, value, kind, horizon, light, random)
        else:
            put(canvas, things[name], area * LARGER.get(name, 1.0), value, kind, horizon, light, random)
            used.append(f"cutout:{things[name].name}")

    mask = canvas.mask
    shares = np.bincount(mask.ravel(), minlength=len(CLASSES) + 1) / mask.size
    seen = np.bincount(canvas.owner.ravel(), minlength=len(canvas.labels))
    hidden = any(
        big and label and now < LEAST_SEEN * whole
        for now, whole, label, big in zip(seen, canvas.whole, canvas.labels, canvas.large, strict=True)
    )
    small = any(shares[CLASSES.index(name) + 1] < LEAST_SHARE for name in tags)
    if hidden or small or shares[0] < LEAST_BACKGROUND:
        return None
    grey = random.random() < (0.5 if any(thing.monochrome for thing in things.values()) else MONOCHROME)
    return Scene(
        developed(canvas.image, grey, random),
        mask,
        tuple(name for name in CLASSES if name in tags),
        tuple(sorted(set(used))),
    )


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
