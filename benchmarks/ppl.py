"""What an explicit PPL step costs against as many separate passes as it has paths, pairwise in one run.

    python benchmarks/ppl.py                       # the embedded EfficientNet-Lite0, 3 cuts, 256 pixels, batch 16

One explicit step with n cuts sees the photos n + 1 times, each cut's patches once and the uncut map. Sharing the
trunk below the cuts, detaching the cut maps, and running the patches of all cuts together must make it cheaper than
n + 1 passes. Measured against it, all forward and backward:

* separate: n + 1 plain passes of the whole network, each with its own classifier and loss;
* unshared: the same explicit model computed path after path, each from the photos on, patches in a loop.

Every round times all sides on the same photos, one after another, so that a busy machine slows all of them; ratios are
taken within a round, and their medians over rounds are printed, of wall clock and of processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.layers.patchwise import merge, split
from tag2mask.methods.cam import Cam
from tag2mask.methods.ppl import Ppl, PplSettings
from tag2mask.types import Batch, Losses


def separate(method: Cam, batch: Batch, times: int) -> None:
    """``times`` plain passes, forward and backward."""
    for _ in range(times):
        method.losses(batch, 0.0).total().backward()


def together(method: Ppl, batch: Batch) -> None:
    """The explicit step."""
    losses = method.losses(batch, 0.0)
    assert isinstance(losses, Losses)
    losses.total().backward()


def unshared_maps(method: Ppl, batch: Batch) -> Tensor:
    """The explicit model's class maps, every path on its own."""
    backbone, merged = method.backbone, []
    for cut in method.cuts:
        cells = backbone.until(batch.images, cut.block).detach()
        patches = split(cells, backbone, cut)
        merged.append(merge([[backbone.forward_from(p, cut.block) for p in row] for row in patches]))
    return method.classifiers[0](torch.cat([*merged, backbone(batch.images)], 1))


def unshared(method: Ppl, batch: Batch) -> None:
    scores = unshared_maps(method, batch).float().mean((2, 3))
    F.multilabel_soft_margin_loss(scores, batch.labels).backward()


def timed(work: Callable[[], None], model: nn.Module, precision: compute.Precision) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of one step."""
    model.zero_grad(set_to_none=True)
    start, used = time.perf_counter(), time.process_time()
    with compute.autocast(precision, torch.device("cpu")):
        work()
    return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--cuts", nargs="*", default=[], help="default: the method's")
    parser.add_argument("--grids", nargs="+", type=int, default=[2])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    args = parser.parse_args()
    compute.keep_memory()  # as training does
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    backbone: Backbone = build(BackboneSettings(args.backbone, weights=args.weights))
    settings = PplSettings("explicit", tuple(args.cuts), grids=tuple(args.grids))
    ppl, cam = Ppl(backbone, 20, settings), Cam(backbone, 20)
    for model in (ppl, cam):
        model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.randn(args.batch, 3, args.size, args.size).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(args.batch, 20) < 0.1).float()
    valid = torch.ones(args.batch, args.size, args.size, dtype=torch.bool)
    batch = Batch(tuple(map(str, range(args.batch))), images, labels, valid)
    with torch.no_grad():
        ppl.eval()
        torch.testing.assert_close(ppl.score_maps(batch), unshared_maps(ppl, batch), rtol=1e-3, atol=1e-3)
        ppl.train()
    paths = len(ppl.cuts) + 1
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "explicit": lambda: timed(lambda: together(ppl, batch), ppl, args.precision),
        "separate": lambda: timed(lambda: separate(cam, batch, paths), cam, args.precision),
        "unshared": lambda: timed(lambda: unshared(ppl, batch), ppl, args.precision),
    }
    for side in sides.values():
        side()  # warm-up
    rounds = [{name: side() for name, side in sides.items()} for _ in range(args.rounds)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    precision = compute.resolve(args.precision, torch.device("cpu"))
    print(
        f"{args.backbone}, {args.batch} photos of {args.size} pixels, {precision}, {args.threads} threads, load "
        f"{load:.1f}; cuts " + ", ".join(f"{c.block} {c.grid}x{c.grid}" for c in ppl.cuts)
    )
    for name in sides:
        print(f"{name:9} {statistics.median(r[name][0] for r in rounds):7.2f} s a step")
    for name in ("separate", "unshared"):
        wall, work = (statistics.median(r["explicit"][i] / r[name][i] for r in rounds) for i in (0, 1))
        what = f"{paths} separate passes" if name == "separate" else f"the same {paths} paths unshared"
        print(f"explicit step / {what}: {wall:.2f} of the time ({work:.2f} of the processor time)")


if __name__ == "__main__":
    main()
