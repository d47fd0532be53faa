"""What maps cost with norms and activations folded into the convolutions before them, against as they are, in one run.

    python benchmarks/maps.py                                    # the default's maps of 8 drawn photos of 500 x 375
    python benchmarks/maps.py --backbone resnet50 --photos 4

Maps as `tag2mask train` makes them: three scales, mirrored, compared with five reference photos of each class, borders
by the gradients of a finer block (tag2mask/layers/folded.py). Every round times both sides one after the other, so that
a busy machine slows both; the median of the ratios is printed. That they are the same is tested (tests/test_folded.py).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tag2mask import backbones, compute, methods
from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import resized
from tag2mask.localize import Localizer
from tag2mask.protocols import UsesReferences
from tag2mask.recipes import recipe
from tag2mask.stages.networks import MapNetwork
from tag2mask.types import Reference, Sample

SIZE = 375, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=BackboneSettings().name)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()
    compute.keep_memory()
    torch.manual_seed(0)
    settings, device = recipe("default").localize, compute.device()
    weights = "auto" if parsed.backbone == BackboneSettings().name else "none"
    backbone = backbones.build(BackboneSettings(parsed.backbone, weights=weights)).to(device)
    network = methods.build("cam", backbone, 3).to(device).eval()
    plain = MapNetwork(network, methods.traits(methods.METHODS["cam"].settings()), backbone)
    other = copy.deepcopy(plain).folded()
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(parsed.photos)]
    samples = [Sample(str(number), Path("drawn"), frozenset({0})) for number in range(parsed.photos)]
    sides = {}
    for name, one in (("as it is", plain), ("folded", other)):
        compared = one.compared(settings)
        assert isinstance(compared.network, UsesReferences)
        with torch.no_grad(), compute.autocast(settings.precision, device):
            compared.network.prepare_localization(references(device))
        localizer = Localizer(compared.network, compared.traits, compared.backbone, settings, 3)
        views = [[resized(image, (v.height, v.width)) for v in localizer.views(SIZE)] for image in images]
        sides[name] = partial(localizer, samples, [SIZE] * len(samples), views)
    for side in sides.values():
        side()  # warms up
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(parsed.rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            took[name].append(time.perf_counter() - began)
    for name, seconds in took.items():
        print(f"{name:9} {parsed.photos / statistics.median(seconds):6.2f} photos/s")
    ratios = [before / after for before, after in zip(*took.values(), strict=True)]
    print(f"folded: {statistics.median(ratios):.2f} times as fast")


def references(device: torch.device) -> list[Reference]:
    """Five of each class, of the size that views at scale 1 have."""
    images = [torch.randn(1, 3, 288, 384, device=device) for _ in range(15)]
    return [Reference(image, (number % 3,), "target") for number, image in enumerate(images)]


if __name__ == "__main__":
    main()
