"""What APC's parts cost a training step, and what its sums and threshold save, pairwise in one run.

    python benchmarks/apc.py                       # the embedded EfficientNet-Lite0, 256 pixels, batch 16, 20 classes

Steps, forward and backward, on one network and the same photos:

* classifier: patch classes, best patch, tag loss, nothing else;
* all parts: adaptive K, patch contrast, equivariance, online labels by PAR, decoder and its loss (the defaults, after
  the decoder has begun);
* the same without equivariance (as in `apc/e2e`), and without that and PAR.

Functions, on the shapes of that step:

* patch contrast by sums against the cosines of all pairs, and against a loop over photos, classes and pairs' blocks;
* adaptive K by comparison with the maximum against sorting all scores.

Every round times all sides one after another, so that a busy machine slows all of them; ratios are taken within a
round, and their medians over rounds are printed, of wall clock and of processor time.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import BackboneSettings, build
from tag2mask.layers.adaptive_pooling import adaptive_k
from tag2mask.layers.patch_contrast import patch_contrast
from tag2mask.methods.apc import Apc
from tag2mask.methods.apc import build as build_apc
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.types import Batch, Losses

Times = dict[str, tuple[float, float]]


def step(method: Apc, batch: Batch, precision: compute.Precision) -> None:
    method.zero_grad(set_to_none=True)
    with compute.autocast(precision, torch.device("cpu")):
        losses = method.losses(batch, 0.5)
    assert isinstance(losses, Losses)
    losses.total().backward()


def contrast_of_pairs(embeddings: Tensor, scores: Tensor, present: Tensor, confidence: float) -> Tensor:
    """The definition: the cosines of all pairs of patches of each photo."""
    unit = F.normalize(embeddings, dim=1)
    s = (1 + unit.transpose(1, 2) @ unit) / 2  # [batch patches patches]
    high = ((scores > confidence) & present[:, :, None]).float()
    low = ((scores < 1 - confidence) & present[:, :, None]).float()
    other = 1 - torch.eye(s.shape[1])
    n, m = high.sum(2), low.sum(2)
    pulled = torch.einsum("bki,bij,bkj->bk", high, (1 - s) * other, high) / (n * (n - 1)).clamp(min=1)
    pushed = torch.einsum("bki,bij,bkj->bk", high, s, low) / (n * m).clamp(min=1)
    return (pulled + pushed).sum() / present.sum().clamp(min=1)


def contrast_by_loop(embeddings: Tensor, scores: Tensor, present: Tensor, confidence: float) -> Tensor:
    """The definition again, photo by photo and class by class."""
    total = embeddings.new_zeros(())
    for b, k in present.nonzero().tolist():
        unit = F.normalize(embeddings[b], dim=0).T
        high, low = unit[scores[b, k] > confidence], unit[scores[b, k] < 1 - confidence]
        if len(high) > 1:
            apart = (1 - high @ high.T) / 2
            total = total + (apart.sum() - apart.diagonal().sum()) / (len(high) * (len(high) - 1))
        if len(high) and len(low):
            total = total + ((1 + high @ low.T) / 2).mean()
    return total / present.sum().clamp(min=1)


def pool_by_sorting(scores: Tensor, ratio: float) -> Tensor:
    """ratio_to_max, the K best found by a full sort."""
    ordered = scores.sort(2, descending=True).values
    chosen = (ordered >= ratio * ordered[:, :, :1]).detach()
    return torch.where(chosen, ordered, 0.0).sum(2) / chosen.sum(2)


def timed(work: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of one call."""
    start, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times, (time.process_time() - used) / times


def compare(sides: dict[str, Callable[[], object]], rounds: int, times: int = 1) -> list[Times]:
    for side in sides.values():
        side()  # warm-up
    return [{name: timed(side, times) for name, side in sides.items()} for _ in range(rounds)]


def tell(found: list[Times], ours: str, other: str) -> None:
    wall, work = (statistics.median(r[ours][i] / r[other][i] for r in found) for i in (0, 1))
    print(f"{ours} / {other}: {wall:.2f} of the time ({work:.2f} of the processor time)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--width", type=int, default=ApcSettings().decoder_width, help="of the decoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    args = parser.parse_args()
    logging.getLogger("tag2mask").setLevel(logging.ERROR)  # one batch again and again has no confident patch
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    whole = ApcSettings(decoder_width=args.width, weight_penalty=0.01)
    variants = {
        "classifier": ApcSettings(
            single_stage=False, pooling="max", contrast=0.0, weight_penalty=0.0, equivariance=0.0
        ),
        "nor PAR": replace(whole, refine="none", equivariance=0.0),
        "no equivariance": replace(whole, equivariance=0.0),
        "all parts": whole,
    }
    backbone = build(BackboneSettings(args.backbone, weights=args.weights))
    methods = {name: build_apc(backbone, args.classes, settings) for name, settings in variants.items()}
    images = torch.randn(args.batch, 3, args.size, args.size).contiguous(memory_format=torch.channels_last)
    labels = F.one_hot(torch.arange(args.batch) % args.classes, args.classes).float()
    labels[::3, 0] = 1  # a third of the photos show two classes
    valid = torch.ones(args.batch, args.size, args.size, dtype=torch.bool)
    batch = Batch(tuple(map(str, range(args.batch))), images, labels, valid)
    sides: dict[str, Callable[[], object]] = {}
    for name, method in methods.items():
        method.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        sides[name] = lambda m=method: step(m, batch, args.precision)
    found = compare(sides, args.rounds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    precision = compute.resolve(args.precision, torch.device("cpu"))
    print(
        f"{args.backbone}, {args.batch} photos of {args.size} pixels, {args.classes} classes, decoder {args.width}, "
        f"{precision}, {args.threads} threads, load {load:.1f}"
    )
    for name in sides:
        print(f"{name:17} {statistics.median(r[name][0] for r in found):7.3f} s a step")
    for name in ("nor PAR", "no equivariance", "all parts"):
        tell(found, name, "classifier")

    patches = (args.size // backbone.stride) ** 2
    embeddings = torch.randn(args.batch, patches, backbone.channels).transpose(1, 2)  # as the network leaves them
    scores = torch.randn(args.batch, 1 + args.classes, patches).mul_(6).softmax(1)
    present = F.pad(labels > 0, (1, 0))
    confidence = whole.confidence

    def backward(of: Callable[[Tensor], Tensor], x: Tensor) -> None:
        leaf = x.detach().requires_grad_()
        of(leaf).backward()

    by_sums = lambda x: patch_contrast(x, scores, present, confidence)[0]  # noqa: E731
    by_pairs = lambda x: contrast_of_pairs(x, scores, present, confidence)  # noqa: E731
    by_loop = lambda x: contrast_by_loop(x, scores, present, confidence)  # noqa: E731
    torch.testing.assert_close(by_sums(embeddings), by_pairs(embeddings), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(by_sums(embeddings), by_loop(embeddings), rtol=1e-3, atol=1e-4)
    functions: dict[str, Callable[[], object]] = {
        "contrast by sums": lambda: backward(by_sums, embeddings),
        "all pairs": lambda: backward(by_pairs, embeddings),
        "a loop": lambda: backward(by_loop, embeddings),
    }
    found = compare(functions, args.rounds, 3)
    print(f"patch contrast of {args.batch} x {patches} patches, {backbone.channels} channels:")
    for name in ("all pairs", "a loop"):
        tell(found, "contrast by sums", name)

    by_threshold = lambda x: adaptive_k(x, "ratio_to_max", 0.9)[0].sum()  # noqa: E731
    by_sort = lambda x: pool_by_sorting(x, 0.9).sum()  # noqa: E731
    torch.testing.assert_close(by_threshold(scores), by_sort(scores))
    functions = {
        "AKP by comparison": lambda: backward(by_threshold, scores),
        "sorting": lambda: backward(by_sort, scores),
    }
    tell(compare(functions, args.rounds, 10), "AKP by comparison", "sorting")


if __name__ == "__main__":
    main()
