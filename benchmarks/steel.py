"""A data set of drawn steel surfaces: inclusions, patches and scratches, a defect on every photo, all truth known.

    python benchmarks/steel.py DATA
    tag2mask train DATA --out RUN

Real public sets of steel defects (NEU) look like this: grey, 200 pixels, scratches of 3 pixels, patches of a third of
the photo, and no photo without a defect from which a classifier could learn what background is. Methods that are good
on animals label half of every photo here. So it is a third domain to develop on, beside photos and tiles; drawn photos
are easier than real ones, and what is good here alone proves nothing.

720 photos, always the same ones: 540 to learn from, 180 to measure on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

CLASSES = ("inclusion", "patches", "scratches")
INCLUSION, PATCHES, SCRATCHES = range(3)
GREY = (150, 120, 110)  # of the steel on which each kind is most often found: real ones come from different batches
SIDE = 200
PHOTOS = {"train": 540, "val": 180}


class Drawing:
    """Draws photos, one after the other."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.rows, self.columns = np.mgrid[:SIDE, :SIDE].astype(float)

    def noise(self, sigma: float | tuple[float, float]) -> np.ndarray:
        """Smooth noise of deviation 1."""
        smooth = gaussian_filter(self.random.normal(0, 1, (SIDE, SIDE)), sigma)
        return smooth / smooth.std()

    def surface(self, kind: int) -> np.ndarray:
        """Rolled steel: streaks along the rolling direction, uneven light, grain."""
        random = self.random
        grey, length = GREY[kind] + random.normal(0, 22), random.uniform(3, 12)
        streaks, light, grain = self.noise((length, 0.8)), self.noise(40), self.noise(0.5)
        return grey + streaks * random.uniform(2, 7) + light * random.uniform(3, 14) + grain * random.uniform(2, 6)

    def defect(self, kind: int) -> tuple[np.ndarray, float]:
        """Where it is, and how much brighter than the steel."""
        random = self.random
        if kind == PATCHES:
            raw = random.normal(0, 1, (SIDE, SIDE))
            blots = gaussian_filter(raw, random.uniform(9, 18))
            return blots > np.quantile(blots, 1 - random.uniform(0.12, 0.45)), -random.uniform(20, 45)
        one = self.inclusion if kind == INCLUSION else self.scratch
        where = np.zeros((SIDE, SIDE), bool)
        for _ in range(random.integers(1, 4)):
            where |= one()
        if kind == INCLUSION:
            return where, -random.uniform(25, 60)
        return where, random.uniform(30, 75) * (1 if random.random() < 0.85 else -1)

    def inclusion(self) -> np.ndarray:
        """An uneven dark ellipse along the streaks."""
        random = self.random
        row, column = random.uniform(20, 180), random.uniform(15, 185)
        half_length, half_width, angle = random.uniform(12, 60), random.uniform(3, 8), random.normal(0, 0.12)
        along, across = self.turned(row, column, angle)
        return (along / half_length) ** 2 + (across / half_width) ** 2 + 0.25 * self.noise(3) < 1

    def scratch(self) -> np.ndarray:
        """A thin arc, most often along the streaks."""
        random = self.random
        angle = random.normal(0, 0.12) + (np.pi / 2 if random.random() < 0.25 else 0)
        row, column = random.uniform(20, 180, 2)
        along, across = self.turned(row, column, angle)
        across = across + random.uniform(0, 0.0015) * along**2 * random.choice([-1, 1])
        return (abs(along) < random.uniform(25, 110)) & (abs(across) < random.uniform(1.2, 3.2))

    def turned(self, row: float, column: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates along and across a line through a point."""
        y, x, cos, sin = self.rows - row, self.columns - column, np.cos(angle), np.sin(angle)
        return cos * y + sin * x, -sin * y + cos * x

    def photo(self, kinds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Photo and mask ``[200 200]`` uint8, defects in order, the last one on top."""
        image, mask = self.surface(kinds[0]), np.zeros((SIDE, SIDE), np.uint8)
        for kind in kinds:
            where, brighter = self.defect(kind)
            soft = gaussian_filter(where.astype(float), self.random.uniform(0.6, 1.4))
            uneven = 1 + 0.9 * gaussian_filter(self.random.normal(0, 1, (SIDE, SIDE)), 1.5)
            image += brighter * soft * uneven
            mask[where] = kind + 1
        return np.clip(image, 0, 255).astype(np.uint8), mask


def draw(root: Path) -> None:
    """Draw the data set: images, masks, a CSV of tags for each split, the classes."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    drawing = Drawing(7)
    for split, count in PHOTOS.items():
        rows = []
        for number in range(count):
            kinds = [number % 3]
            if drawing.random.random() < 0.1:
                kinds.append(int((number + 1 + drawing.random.integers(2)) % 3))
            image, mask = drawing.photo(kinds)
            name = f"{split}{number:04d}"
            Image.fromarray(image).save(root / "images" / f"{name}.jpg", quality=92)
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
            rows.append((f"{name}.jpg", ";".join(CLASSES[value - 1] for value in np.unique(mask) if value)))
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "tags"), *rows])
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder to draw into")
    draw(parser.parse_args().data)


if __name__ == "__main__":
    main()
