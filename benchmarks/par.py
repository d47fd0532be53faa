"""PAR against the straightforward version, pairwise in one run: time, peak memory, and how far the results agree.

    python benchmarks/par.py                       # photographs that come with scikit-image
    python benchmarks/par.py --gather conv         # the published code's way alone

The straightforward version is the published code (AFA's and ToCo's ``PAR``) line by line: it gathers the 48 neighbours
of the image and, in each iteration, of the scores. They gather with a convolution (``conv``); ``unfold`` does it with
``torch.nn.functional.unfold``, and ``slices`` by stacking shifted slices, the quickest of the three. It gets all labels
it is given, as there. (With the 3 present of 21 picked out by hand it costs what the 3-label row says.)

Every round times all sides on the same images, one after another, so that a busy machine slows all of them; the ratio
is taken within a round and its median over rounds is printed, of wall clock and of processor time.

Peak memory is what one call adds to the resident memory of a fresh process that has imported everything, made the
input and run both sides once on a tiny image: the kernel's high-water mark (``VmHWM``), reset just before the call.
Where it cannot be reset (not Linux) the memory is not printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from crf import photographs, random_scores, timed
from torch import Tensor
from torch.nn import functional as F

from tag2mask.refine import par

DILATIONS = (1, 2, 4, 8, 12, 24)
CELLS = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]


def conv(x: Tensor, d: int) -> Tensor:
    """The 8 neighbours at dilation ``d``: ``[batch channels height width]`` to ``[batch channels 8 height width]``."""
    b, c, h, w = x.shape
    kernel = torch.zeros(8, 1, 3, 3)
    for k, (row, column) in enumerate(CELLS):
        kernel[k, 0, row, column] = 1
    padded = F.pad(x, [d] * 4, mode="replicate").reshape(b * c, 1, h + 2 * d, w + 2 * d)
    return F.conv2d(padded, kernel, dilation=d).view(b, c, 8, h, w)


def unfold(x: Tensor, d: int) -> Tensor:
    """As :func:`conv`."""
    b, c, h, w = x.shape
    nine = F.unfold(F.pad(x, [d] * 4, mode="replicate"), 3, dilation=d).view(b, c, 9, h, w)
    return torch.cat([nine[:, :, :4], nine[:, :, 5:]], 2)


def slices(x: Tensor, d: int) -> Tensor:
    """As :func:`conv`."""
    h, w = x.shape[2:]
    padded = F.pad(x, [d] * 4, mode="replicate")
    return torch.stack([padded[:, :, y * d : y * d + h, z * d : z * d + w] for y, z in CELLS], 2)


GATHER = {"unfold": unfold, "conv": conv, "slices": slices}


@torch.no_grad()
def reference(image: np.ndarray, scores: np.ndarray, gather: str) -> np.ndarray:
    """The published PAR. ``[height width 3]`` uint8, ``[labels height width]`` float32 to ``[labels height width]``."""

    def neighbours(x: Tensor) -> Tensor:
        return torch.cat([GATHER[gather](x, d) for d in DILATIONS], 2)

    images = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    masks = torch.from_numpy(scores)[None]
    b, _, h, w = images.shape
    distance = torch.tensor([d * (2**0.5 if y != 1 and x != 1 else 1.0) for d in DILATIONS for y, x in CELLS])
    near = neighbours(images)
    far = distance.view(1, 1, -1, 1, 1).repeat(b, 1, 1, h, w)
    difference = torch.abs(near - images.unsqueeze(2).repeat(1, 1, near.shape[2], 1, 1))
    near_std = torch.std(near, dim=2, keepdim=True)
    far_std = torch.std(far, dim=2, keepdim=True)
    colour = (-((difference / (near_std + 1e-8) / 0.3) ** 2)).mean(dim=1, keepdim=True)
    position = -((far / (far_std + 1e-8) / 0.3) ** 2)
    weights = F.softmax(colour, dim=2) + 0.01 * F.softmax(position, dim=2)
    for _ in range(10):
        masks = (neighbours(masks) * weights).sum(2)
    return masks[0].numpy()


def call(side: str, image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return par(image, scores) if side == "tag2mask" else reference(image, scores, side)


def added_memory(side: str, labels: int, present: int, size: tuple[int, int], threads: int) -> float:
    """MB that one call adds at its peak; to be called in a fresh process. NaN where that cannot be measured."""
    torch.set_num_threads(threads)
    image = photographs(None, 1, *size)[0]
    scores = random_scores(labels, present, *size, 0)
    call(side, image[:30, :40].copy(), scores[:, :30, :40].copy())
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return float("nan")
    reset.write_text("5")  # sets the high-water mark to what is resident now
    before = _high_water(status)
    call(side, image, scores)
    return _high_water(status) - before


def _high_water(status: Path) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def interleaved(sides: list[str], inputs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """One round: seconds of wall clock and of processor time of each side over all inputs."""
    return {side: timed(lambda side=side: [call(side, *each) for each in inputs]) for side in sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1, help="images a round")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gather", nargs="+", default=["unfold", "slices"], choices=sorted(GATHER))
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    size = (args.size[0], args.size[1])
    torch.set_num_threads(args.cores)
    images = photographs(None, args.count, *size)
    start_load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"{len(images)} images of {size[0]} x {size[1]}, {args.cores} cores, load before {start_load:.1f}", flush=True
    )
    sides = [*args.gather, "tag2mask"]
    for labels, present in ((3, 3), (21, 3)):
        inputs = [(image, random_scores(labels, present, *size, seed)) for seed, image in enumerate(images)]
        results = {side: call(side, *inputs[0]) for side in sides}  # warm-up, and the results to compare
        rounds = [interleaved(sides, inputs) for _ in range(args.rounds)]
        memory = {}
        for side in sides:
            with get_context("spawn").Pool(1) as pool:
                memory[side] = pool.apply(added_memory, (side, labels, present, size, args.cores))
        mine = statistics.median(each["tag2mask"][0] for each in rounds) / len(images)
        print(
            f"{labels:2} labels, {present} present: tag2mask {mine:.3f} s an image, "
            f"{memory['tag2mask']:.0f} MB at its peak"
        )
        for side in args.gather:
            seconds = statistics.median(each[side][0] for each in rounds) / len(images)
            wall, work = (
                statistics.median(each[side][clock] / each["tag2mask"][clock] for each in rounds) for clock in (0, 1)
            )
            here, there = results["tag2mask"][:present], results[side][:present]
            print(
                f"    against {side:6}: {seconds:.3f} s, {memory[side]:.0f} MB; "
                f"time {wall:.1f} times less (processor time {work:.1f}), "
                f"memory {memory[side] / memory['tag2mask']:.1f} times less; "
                f"largest relative difference {np.abs(here / there - 1).max():.1e}",
                flush=True,
            )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"took {time.perf_counter() - started:.0f} s")
