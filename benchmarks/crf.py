"""The dense CRF against pydensecrf2, pairwise in one run: images per second, and how far the results agree.

    python benchmarks/crf.py                       # photographs that come with scikit-image
    python benchmarks/crf.py --images FOLDER       # the first --count JPEGs of a folder

Needs ``pip install tag2mask[bench,fast]``. Every round times all sides on the same images, one after another, so that a
busy machine slows all of them; the ratio is taken within a round and its median over rounds is printed. pydensecrf2
computes one image on one core, so it is run twice: as people run it, in a loop, and in one process per core.

Times are of wall clock; the ratio of processor time, which other programs on the machine hardly change, is printed too.
The compiled functions are warmed up first. What the first image of a new size costs more (the spatial kernel's lattice,
kept per size) is printed apart.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tag2mask.refine import PRESETS, crf, dense_crf


def photographs(folder: Path | None, count: int, height: int, width: int) -> list[np.ndarray]:
    """``[height width 3]`` uint8 each."""
    if folder is None:
        import skimage.data

        names = ("chelsea", "coffee", "astronaut", "rocket")
        photos = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
        photos = [photos[i % len(photos)] for i in range(count)]
    else:
        photos = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:count]]
    return [np.array(photo.resize((width, height), Image.Resampling.BICUBIC)) for photo in photos]


def random_scores(labels: int, present: int, height: int, width: int, seed: int, absent: float = 0.0) -> np.ndarray:
    """Smooth blobs of ``present`` labels among ``labels``: ``[labels height width]`` float32, adding up to one but for
    the ``absent`` probability of each other label."""
    rng = np.random.default_rng(seed)
    coarse = 2 * rng.standard_normal((present, height // 16 + 1, width // 16 + 1)).astype(np.float32)
    logits = np.stack([np.array(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse])
    scores = np.full((labels, height, width), absent, np.float32)
    scores[:present] = np.exp(logits) / np.exp(logits).sum(0)
    return scores


def reference(task: tuple[np.ndarray, np.ndarray, str]) -> np.ndarray:
    """pydensecrf2 on one image, as the codes of the lineage call it: all labels, absent ones clipped to the floor."""
    densecrf = importlib.import_module("pydensecrf.densecrf")
    image, scores, preset = task
    settings = PRESETS[preset]
    labels, height, width = scores.shape
    model = densecrf.DenseCRF2D(width, height, labels)
    energies = -np.log(np.clip(scores, settings.floor, 1)).reshape(labels, -1)
    model.setUnaryEnergy(np.ascontiguousarray(energies))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=image, compat=settings.bilateral_compat
    )
    return np.array(model.inference(settings.iterations)).reshape(scores.shape)


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall clock, and of processor time over all threads of this process."""
    start, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: photographs of scikit-image")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presets", nargs="+", default=["psa", "deeplab"], choices=sorted(PRESETS))
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--portable", action="store_true", help="the plain torch path even where numba is installed")
    args = parser.parse_args()
    height, width = args.size
    torch.set_num_threads(args.cores)
    if args.portable:
        crf._fast = lambda: None  # type: ignore[assignment]
    path = "plain torch" if crf._fast() is None else "numba"
    images = photographs(args.images, args.count, height, width)
    batch = np.stack(images)
    start_load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{len(images)} images of {height} x {width}, {args.cores} cores, {path}, load before {start_load:.1f}")
    pool = get_context("spawn").Pool(args.cores)
    for preset in args.presets:
        for labels, present, absent in (
            (3, 3, 0.0),
            (21, 3, 0.0),
            (21, 3, 1e-13),
        ):  # last: a softmax
            scores = np.stack(
                [random_scores(labels, present, height, width, seed, absent) for seed in range(len(images))]
            )
            tasks = [(image, each, preset) for image, each in zip(images, scores, strict=True)]
            ours = dense_crf(batch, scores, preset)  # warm-up, and the results to compare
            theirs = np.stack([reference(task) for task in tasks])
            pool.map(len, tasks)
            rounds = []
            for _ in range(args.rounds):
                loop = timed(lambda tasks=tasks: [reference(task) for task in tasks])
                processes = timed(lambda tasks=tasks: pool.map(_discard, tasks, chunksize=1))
                mine = timed(lambda scores=scores, preset=preset: dense_crf(batch, scores, preset))
                rounds.append((loop, processes, mine))
            speed = [len(images) / statistics.median(t[0] for t in times) for times in zip(*rounds, strict=True)]
            against_loop = statistics.median(loop[0] / mine[0] for loop, _, mine in rounds)
            against_processes = statistics.median(processes[0] / mine[0] for _, processes, mine in rounds)
            work = statistics.median(loop[1] / mine[1] for loop, _, mine in rounds)
            agree = (ours.argmax(1) == theirs.argmax(1)).mean()
            print(
                f"{preset:9} {labels:2} labels, {present} present, others {absent:g}: images/s "
                f"pydensecrf2 {speed[0]:.2f} "
                f"(one process per core {speed[1]:.2f}), tag2mask {speed[2]:.2f}; ratio {against_loop:.2f} "
                f"(against processes {against_processes:.2f}, processor time {work:.2f}); "
                f"labels agree {100 * agree:.4f} %, "
                f"largest difference {np.abs(ours - theirs).max():.1e}",
                flush=True,
            )
    pool.close()
    pool.join()
    if path == "numba":
        module = crf._fast()
        assert module is not None
        settings = PRESETS["psa"]
        module._gaussian.cache_clear()
        spatial = timed(lambda: module._gaussian(height, width, settings.gaussian_sxy, settings.gaussian_compat))
        print(f"first image of a size: {1000 * spatial[1]:.0f} ms more for the spatial kernel")


def _discard(task: tuple[np.ndarray, np.ndarray, str]) -> None:
    reference(task)  # the result is not sent back: its way between processes is not the CRF's time


if __name__ == "__main__":
    main()
