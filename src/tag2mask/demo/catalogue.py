"""What scenes are composed of: things cut out of photographs, and parts of photographs that serve as background."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CLASSES = ("cat", "coin", "cup", "motorcycle", "person", "shuttle")
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
BOTH: tuple[Split, ...] = SPLITS
ASSETS = Path(__file__).with_name("assets")


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
    mask: str = ""  # file in assets
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
