"""Trainings of a few steps of everything that is trained, for one process or several: run by test_processes_losses.py.

    python tests/process_cases.py OUT [--sharded] [CASE ...]

Each case leaves a log with a line a step and the trained weights in OUT/CASE.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask import methods, processes, propagation, segment
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.data.batches import Pairs
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.eps import EpsSettings
from tag2mask.methods.mcis_settings import McisSettings, official
from tag2mask.methods.ppl import PplSettings
from tag2mask.methods.smaf import SelfTrainSettings, Student, student_of
from tag2mask.segment import SegmenterSettings
from tag2mask.training import TrainSettings, fit, record
from tag2mask.types import IGNORE, Batch, Dataset, MaskedBatch, Sample

CLASSES, HEIGHT, WIDTH = 3, 32, 48
PHOTOS = 10
TRAIN = TrainSettings(
    epochs=2, batch_size=5, optimizer="sgd", learning_rate=2e-3, precision="float32", max_grad_norm=1.0
)


def _labels(index: int) -> frozenset[int]:
    """The last photos are alone with their group's classes, so that some find no partner."""
    return frozenset({index % CLASSES, (index // 2) % CLASSES} if index < 8 else {index % CLASSES})


@dataclass(frozen=True)
class Photos:
    """Photos out of nothing, with all that a batch can hold; a function of (epoch, index). The right of odd ones is
    padding."""

    masked: bool = False
    grouped: bool = False

    @property
    def dataset(self) -> Dataset:
        domains = ("target", "web")
        samples = [Sample(f"p{i}", Path(f"p{i}"), _labels(i), domains[i % 4 == 3]) for i in range(PHOTOS)]
        return Dataset("out of nothing", tuple("abc"), samples)

    def __len__(self) -> int:
        return PHOTOS

    def groups(self) -> Sequence[object] | None:
        return [index >= 8 for index in range(PHOTOS)] if self.grouped else None

    def item(self, epoch: int, index: int) -> dict[str, Any]:
        random = np.random.default_rng([epoch, index])
        valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        if index % 2:
            valid[:, 32:] = False
        image = torch.tensor(random.normal(size=(3, HEIGHT, WIDTH)), dtype=torch.float32)
        for label in _labels(index):
            image[label, 8:20, 8 + 8 * label : 20 + 8 * label] += 2
        mask = torch.tensor(random.integers(0, CLASSES + 1, (HEIGHT, WIDTH)), dtype=torch.uint8)
        mask[: 2 * index] = IGNORE  # very different numbers of decided pixels
        return {
            "index": index,
            "image": image * valid,
            "valid": valid,
            "mask": torch.where(valid, mask, IGNORE),
            "saliency": torch.tensor(random.random((HEIGHT, WIDTH)), dtype=torch.float32),
            "maps": torch.tensor(random.random((CLASSES, HEIGHT // 4, WIDTH // 4)), dtype=torch.float32),
        }

    def collate(self, items: Sequence[dict[str, Any]]) -> Batch | MaskedBatch:
        samples = [self.dataset.samples[item["index"]] for item in items]
        stacked: dict[str, Tensor] = {n: torch.stack([i[n] for i in items]) for n in items[0] if n != "index"}
        labels = torch.zeros(len(items), CLASSES)
        for row, sample in enumerate(samples):
            labels[row, sorted(sample.labels or ())] = 1
        ids = tuple(sample.id for sample in samples)
        if self.masked:
            return MaskedBatch(ids, stacked["image"], stacked["mask"], labels, stacked["valid"])
        return Batch(
            ids,
            stacked["image"],
            labels,
            stacked["valid"],
            saliency=stacked["saliency"],
            domains=tuple(sample.domain for sample in samples),
            maps=stacked["maps"],
        )


def backbone(*, pretrained: bool = False) -> Backbone:
    torch.manual_seed(0)
    return build(BackboneSettings() if pretrained else BackboneSettings("resnet10t", weights="none", output_stride=8))


def method(name: str, options: object, *, pretrained: bool = False) -> nn.Module:
    return methods.build(name, backbone(pretrained=pretrained), CLASSES, options)


def student(**changes: Any) -> nn.Module:
    own = student_of(method("eps", EpsSettings(head="feature", channels=8)), backbone(), CLASSES)
    return Student(own, replace(SelfTrainSettings("smaf"), **changes), 0.2)


def segmenter(**changes: Any) -> nn.Module:
    settings = replace(SegmenterSettings(channels=8, dropout=0.0), **changes)
    body = backbone()
    network = segment.build(settings, body, CLASSES, BackboneSettings("resnet10t", weights="none"))
    return segment.SegmenterTask(network, settings.balance)


def affinity(name: str, **changes: Any) -> nn.Module:
    return propagation.AffinityNet(backbone(), name, replace(propagation.PropagationSettings(), **changes))


TAGGED, MASKED = Photos(), Photos(masked=True)
APC = ApcSettings(confidence=0.3, dropout=0.0, equivariance=0.0, heads_first=0.0, segmentation_from=0.0)
CASES: dict[str, Callable[[], tuple[nn.Module, Any, TrainSettings]]] = {
    "cam": lambda: (method("cam", CamSettings()), TAGGED, TRAIN),
    "cam, one photo a step": lambda: (method("cam", CamSettings()), TAGGED, replace(TRAIN, batch_size=1)),
    "cam, accumulated": lambda: (method("cam", CamSettings()), TAGGED, replace(TRAIN, accumulate=2)),
    "cam, drawn to the start": lambda: (
        method("cam", CamSettings(), pretrained=True),
        TAGGED,
        replace(TRAIN, start_decay=50.0),
    ),
    "eps": lambda: (method("eps", EpsSettings()), TAGGED, TRAIN),
    "ppl": lambda: (method("ppl", PplSettings(reconstruction=1.0)), TAGGED, TRAIN),
    "ppl explicit": lambda: (method("ppl", PplSettings(mode="explicit")), TAGGED, TRAIN),
    "mcis": lambda: (method("mcis", McisSettings(contrast_from=0.0)), Pairs(TAGGED, 0), TRAIN),  # type: ignore[arg-type]
    "mcis, photos without a partner": lambda: (
        method("mcis", McisSettings(contrast_from=0.3, web_tolerance=0.0)),
        Pairs(Photos(grouped=True), 0),  # type: ignore[arg-type]
        replace(TRAIN, batch_size=4),
    ),
    "mcis official": lambda: (
        method("mcis", replace(official(2), contrast_from=0.0, channels=16)),
        Pairs(TAGGED, 0),
        TRAIN,
    ),  # type: ignore[arg-type]
    "smaf": lambda: (student(), TAGGED, TRAIN),
    "smaf, everything": lambda: (
        student(denoise=("prototype", "saliency"), teacher="ema", decay=0.5, padding="left-out", classification=1.0),
        TAGGED,
        TRAIN,
    ),
    "apc": lambda: (method("apc", replace(APC, single_stage=False)), TAGGED, TRAIN),
    "apc, batches": lambda: (method("apc", replace(APC, scope="batch", single_stage=True)), TAGGED, TRAIN),
    "segmenter": lambda: (segmenter(), MASKED, TRAIN),
    "segmenter, scales": lambda: (segmenter(pyramid=(0.5,)), MASKED, TRAIN),
    "segmenter, adam": lambda: (segmenter(), MASKED, replace(TRAIN, optimizer="adamw")),
    "segmenter, balanced": lambda: (segmenter(balance=0.5), MASKED, TRAIN),
    "irn": lambda: (affinity("irn"), MASKED, TRAIN),
    "psa": lambda: (affinity("psa", pairs=6), MASKED, TRAIN),
}


def main(out: Path, names: Sequence[str], *, sharded: bool = False) -> None:
    torch.set_num_threads(1)
    processes.join()
    record.EVERY = 1
    for name in names or CASES:
        task, source, settings = CASES[name]()
        fit(task, source, replace(settings, shard_weights=sharded), out / name, seed=0, title=name)
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [name for name in sys.argv[2:] if name != "--sharded"], sharded="--sharded" in sys.argv)
