"""What an MCIS training step costs against a pair-by-pair one written from the equations, pairwise in one run.

    python benchmarks/mcis.py                                    # EfficientNet-Lite0, 8 pairs of 256 pixels
    python benchmarks/mcis.py --backbone vgg16 --stride 8 --extra 3 --pairs 5
    python benchmarks/mcis.py --memory                           # peak memory of attention, maps of 32x32 and 64x64

The other side takes one pair after another, in float32: both photos through the network, the affinities, both
attentions, the co-attentive features, the gates, the gated features, the heads, the losses, and backward. Ours takes
all pairs at once. It is timed in float32 too, which shows what is gained without the precision; and attention alone,
from features to their gradients, where the network does not hide it. Both sides are checked to give the same losses.

Every round times all sides one after another, so that a busy machine slows all; ratios are taken within a round, and
their medians over rounds are printed, of wall clock and of processor time. Memory is measured in a process for each
case: the peak of the resident set above what was there before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.layers.cross_attention import AFFINITIES, co_attend
from tag2mask.methods.mcis import Compared
from tag2mask.methods.mcis_released import ReleasedMcis as Mcis
from tag2mask.methods.mcis_settings import paper
from tag2mask.types import Batch, Photos


def pair_by_pair(method: Mcis, batch: Batch) -> Tensor:
    """The losses of the paper's form, a pair after the other, each with its own backward pass."""
    assert batch.pairs is not None
    total = torch.zeros(())
    for m, n in batch.pairs:
        f_m, f_n = (method.features(Photos(batch.images[row : row + 1]))[0] for row in (m, n))
        loss = pair_loss(method, f_m, f_n, batch.labels[[m, n]])
        (loss / len(batch.pairs)).backward()
        total += loss.detach() / len(batch.pairs)
    return total


def pair_loss(method: Mcis, f_m: Tensor, f_n: Tensor, labels: Tensor) -> Tensor:
    """The six terms for features ``[channels rows columns]`` and labels ``[2 classes]``."""
    common = labels[0] * labels[1]
    s_m, s_n = method.head(f_m), method.head(f_n)
    common_m, common_n = co_attentive(method, f_m.flatten(1), f_n.flatten(1))
    common_m, common_n = common_m.view_as(f_m), common_n.view_as(f_n)
    own_m, own_n = (f * (1 - torch.sigmoid(method.gate(c))) for f, c in ((f_m, common_m), (f_n, common_n)))
    terms = (
        (s_m, labels[0]),
        (s_n, labels[1]),
        (method.head(common_m), common),
        (method.head(common_n), common),
        (method.head(own_m), labels[0] - common),
        (method.head(own_n), labels[1] - common),
    )
    losses = [F.multilabel_soft_margin_loss(maps.mean((1, 2))[None], target[None]) for maps, target in terms]
    return torch.stack(losses).sum()


def co_attentive(method: Mcis, f_m: Tensor, f_n: Tensor) -> tuple[Tensor, Tensor]:
    """The common features of m and of n from ``[channels cells]``."""
    p = (method.affinity[0] @ f_m).T @ f_n
    return f_n @ torch.softmax(p.T, 0), f_m @ torch.softmax(p, 0)


def at_once(method: Mcis, batch: Batch) -> Tensor:
    loss = method.losses(batch, 0.0).total()
    loss.backward()
    return loss.detach()


def timed(work: Callable[[], object], model: nn.Module, precision: compute.Precision) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of one step."""
    model.zero_grad(set_to_none=True)
    start, used = time.perf_counter(), time.process_time()
    with compute.autocast(precision, torch.device("cpu")):
        work()
    return time.perf_counter() - start, time.process_time() - used


def attention(method: Mcis, features: Tensor, pairs: int, together: bool) -> None:
    """From features to what is common, and the gradient back to the features."""
    features = features.detach().requires_grad_()
    m, n = features[:pairs], features[pairs:]
    if together:
        values = torch.cat([F.conv2d(features, method.head.weight), method.gate(features)], 1)
        found = method.compare(Compared(m, values[:pairs]), Compared(n, values[pairs:]), [0] * pairs)
        torch.stack([found.common_m.sum(), found.common_n.square().sum()]).sum().backward()
        return
    for row in range(pairs):
        common = co_attentive(method, m[row].flatten(1), n[row].flatten(1))
        maps = [method.head(c.view_as(m[row])) for c in common]
        (maps[0].sum() + maps[1].square().sum()).backward(inputs=[features])


def compare_speed(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    backbone: Backbone = build(BackboneSettings(args.backbone, weights=args.weights, output_stride=args.stride))
    # the paper's form, from whose equations the other side is written; one domain, as VOC alone has
    settings = replace(paper(), by_domain=False, extra_convs=args.extra)
    method = Mcis(backbone, 20, settings).train()
    nn.init.normal_(method.affinity, std=1e-3)
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = 2 * args.pairs
    images = torch.randn(count, 3, args.size, args.size).contiguous(memory_format=torch.channels_last)
    labels = torch.eye(20)[torch.arange(count) % args.pairs]
    labels[: args.pairs, 19] = 1
    valid = torch.ones(count, args.size, args.size, dtype=torch.bool)
    pairs = tuple((row, args.pairs + row) for row in range(args.pairs))
    batch = Batch(tuple(map(str, range(count))), images, labels, valid, pairs=pairs)
    features = method.features(batch).detach()
    ratio = at_once(method, batch) / pair_by_pair(method, batch)
    maps = tuple(features.shape[2:])
    print(f"{args.backbone}, {args.pairs} pairs of {args.size} pixels, {args.threads} threads, maps {maps}")
    print(f"losses at once / pair by pair, float32: {ratio:.6f}")
    sides: dict[str, tuple[Callable[[], object], compute.Precision]] = {
        "pair by pair, float32": (lambda: pair_by_pair(method, batch), "float32"),
        "at once, float32": (lambda: at_once(method, batch), "float32"),
        f"at once, {compute.resolve('auto', torch.device('cpu'))}": (lambda: at_once(method, batch), "auto"),
        "attention pair by pair": (lambda: attention(method, features, args.pairs, False), "float32"),
        "attention at once": (lambda: attention(method, features, args.pairs, True), "float32"),
    }
    rounds = [{name: timed(work, method, how) for name, (work, how) in sides.items()} for _ in range(args.rounds + 1)]
    del rounds[0]  # everything is warm after it
    for name in sides:
        print(f"{name:26} {statistics.median(r[name][0] for r in rounds):7.3f} s")
    for ours in (name for name in sides if "at once" in name):
        other = "attention pair by pair" if ours.startswith("attention") else "pair by pair, float32"
        wall, work = (statistics.median(r[other][i] / r[ours][i] for r in rounds) for i in (0, 1))
        print(f"{ours}: {wall:.2f} times as fast ({work:.2f} by processor time)")


# --- memory -----------------------------------------------------------------------------------------------------


def peak_of(side: int, pairs: int, channels: int, way: str) -> float:
    """MB at the peak of one forward and backward pass of the attention."""
    import resource

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    make = lambda: torch.randn(pairs, channels, side * side, generator=generator).mul_(0.05).requires_grad_()  # noqa: E731
    f_m, f_n = make(), make()
    values = torch.nn.Conv1d(channels, 21, 1, bias=False)
    q, k, v_m, v_n = (x[:, :, :4] for x in (f_m, f_n, values(f_m), values(f_n)))
    co_attend(q, k, v_m, v_n)  # libraries are loaded before the count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "features":  # the co-attentive features themselves, all affinities held
        found = co_attend(f_m, f_n, f_m, f_n, limit=2**62)
        found = (values(found[0]), values(found[1]))
    else:
        found = co_attend(f_m, f_n, values(f_m), values(f_n), limit=2**62 if way == "whole" else AFFINITIES)
    (found[0].sum() + found[1].square().sum()).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1e6 if sys.platform == "darwin" else 1e3)


def compare_memory(args: argparse.Namespace) -> None:
    print(f"{args.pairs} pairs, 512 channels, float32, peak MB above features and weights, forward and backward")
    print(f"{'maps':>8} {'affinities':>11} {'features formed':>16} {'values, whole':>14} {'as the method does':>19}")
    for side in (32, 64):
        found = []
        for way in ("features", "whole", "parts"):
            code = f"import mcis; print(mcis.peak_of({side}, {args.pairs}, 512, {way!r}))"
            paths = os.pathsep.join([str(Path(__file__).parent.resolve()), *sys.path])
            environment = {**os.environ, "PYTHONPATH": paths}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
            found.append(f"{float(done.stdout):.0f}" if done.returncode == 0 else "failed")
        one = args.pairs * side**4 * 4 / 1e6
        print(f"{side:>5}x{side:<2} {one:>8.0f} MB {found[0]:>16} {found[1]:>14} {found[2]:>19}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="none", help="speed does not depend on them")
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--extra", type=int, default=0, help="new convolutions between backbone and co-attention")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    if args.memory:
        compare_memory(args)
    else:
        compare_speed(args)


if __name__ == "__main__":
    main()
