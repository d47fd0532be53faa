"""What the teacher pass of SMAF costs a photo against the published way, pairwise in one run.

    python benchmarks/smaf.py                       # the embedded EfficientNet-Lite0, 8 views of 16 photos
    python benchmarks/smaf.py --backbone resnet38d --weights none --stride 8 --photos 4

Published: one photo at a time, its eight views (4 sizes, each mirrored) one after another in float32, each map grown to
the photo's size before they are summed, float32 kept. Ours: photos of one size together, in the precision the hardware
multiplies natively, summed on the finest view's grid, half precision kept. Both read the same files and write maps.

Every round times both on the same photos, one after the other and in turn first, so that a busy machine slows both;
ratios are taken within a round, and their medians over rounds are printed, of wall clock and of processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute, concurrency
from tag2mask.backbones import BackboneSettings, build
from tag2mask.data.augment import fit_size, resized
from tag2mask.data.images import image_size, read_image
from tag2mask.localize import Localizer, LocalizeSettings, batches_by
from tag2mask.methods.eps import ClassMapNet
from tag2mask.protocols import Traits
from tag2mask.stages.artefacts import read_maps, write_maps
from tag2mask.types import Photos, Sample, normalise

SIZES = ((375, 500), (333, 500), (500, 375))  # VOC's most frequent ones


def published(network: ClassMapNet, sample: Sample, settings: LocalizeSettings, path: Path) -> None:
    """One photo, view by view."""
    pixels = read_image(sample.image_path)
    size = (pixels.shape[0], pixels.shape[1])
    total: Tensor | None = None
    for scale in settings.scales:
        view = resized(pixels, fit_size(*size, settings.long_side, scale, network.backbone.size_divisor))
        view = normalise(view, (network.backbone.mean, network.backbone.std))[None]
        for mirrored in (False, True):
            with torch.no_grad():
                maps = network.logits(Photos(view.flip(3) if mirrored else view)).softmax(1)[:, :-1]
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
            maps = maps.flip(3) if mirrored else maps
            total = maps if total is None else total + maps
    assert total is not None
    present = sorted(sample.labels or ())
    kept = total[0, present]
    np.save(path, (kept / (kept.amax((1, 2), keepdim=True) + 1e-5)).numpy())


def ours(network: ClassMapNet, samples: list[Sample], settings: LocalizeSettings, folder: Path) -> None:
    """As the stage does it: read ahead and written behind on threads, photos of equal views together."""
    sizes = {sample.id: image_size(sample.image_path) for sample in samples}
    traits = Traits(maps="probabilities")
    localizer = Localizer(network, traits, network.backbone, settings, network.head.fc8.out_channels - 1)
    views = lambda s: tuple(settings.views(*sizes[s.id], network.backbone.size_divisor))  # noqa: E731
    done = concurrency.pipelined(
        batches_by(samples, views, settings.batch_size, torch.device("cpu")),
        lambda sample: localizer.read(sample, sizes[sample.id]),
        lambda batch, inputs: localizer(batch, [sizes[s.id] for s in batch], inputs),
        lambda sample, maps: write_maps(folder / f"{sample.id}.npz", maps),
        cost=lambda sample: 6e6,
    )
    assert sum(1 for _ in done) == len(samples)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall clock and of processor time."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def photos(folder: Path, count: int) -> list[Sample]:
    """Smooth random photos, a third of each size."""
    random = np.random.default_rng(0)
    samples = []
    for number in range(count):
        height, width = SIZES[number % 3 if count >= 12 else 0]
        coarse = Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8))
        path = folder / f"{number}.jpg"
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
        samples.append(Sample(str(number), path, frozenset({number % 20, (7 * number + 3) % 20})))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--longest", type=int, default=384)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    backbone = build(BackboneSettings(args.backbone, weights=args.weights, output_stride=args.stride))
    plain = ClassMapNet(backbone, 20).eval()
    fast = ClassMapNet(build(BackboneSettings(args.backbone, weights="none", output_stride=args.stride)), 20).eval()
    fast.load_state_dict(plain.state_dict())
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = LocalizeSettings(
        long_side=args.longest, scales=(0.5, 1.0, 1.5, 2.0), batch_size=args.batch, precision=args.precision
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        samples = photos(root, args.photos)

        def slow_side() -> None:
            for sample in samples:
                published(plain, sample, settings, root / f"{sample.id}.npy")

        sides = {
            "published": lambda: timed(slow_side),
            "ours": lambda: timed(lambda: ours(fast, samples, settings, root)),
        }
        published(plain, samples[0], settings, root / "0.npy")  # warm-up
        ours(fast, samples[:1], settings, root)
        rounds = []
        for number in range(args.rounds):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            rounds.append({name: sides[name]() for name in order})
        apart = []
        for sample in samples:
            kept = np.load(root / f"{sample.id}.npy")
            small = torch.from_numpy(read_maps(root / f"{sample.id}.npz", sample.id).scores.astype(np.float32))
            grown = F.interpolate(small[None], kept.shape[1:], mode="bilinear", align_corners=False)[0]
            apart.append(float((grown - torch.from_numpy(kept)).abs().mean()))
        sizes = {end: sum(p.stat().st_size for p in root.glob(f"*.{end}")) / len(samples) for end in ("npy", "npz")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    precision = compute.resolve(args.precision, torch.device("cpu"))
    print(
        f"{args.backbone}, stride {args.stride}, {args.photos} photos at {args.longest} pixels, 8 views, {precision}, "
        f"{args.threads} threads, load {load:.1f}"
    )
    for name in sides:
        seconds = statistics.median(r[name][0] for r in rounds) / args.photos
        print(f"{name:9} {seconds:6.3f} s a photo, {sizes['npy' if name == 'published' else 'npz'] / 1e3:8.1f} kB")
    wall, work = (statistics.median(r["published"][i] / r["ours"][i] for r in rounds) for i in (0, 1))
    print(
        f"published / ours: {wall:.2f} in time, {work:.2f} in processor time; {sizes['npy'] / sizes['npz']:.0f} in size"
    )
    print(f"maps differ by {statistics.mean(apart):.4f} on average")


if __name__ == "__main__":
    main()
