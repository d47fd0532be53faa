"""Features of a frozen trunk, computed once per view, kept on disk in half precision, read by memory map.

One ``.npy`` file per (trunk weights, view, photo content): the key holds nothing of a run, so every method, seed,
split and run that shows the same pixels to the same weights shares them. A file is written only after the bytes that
were decoded were found to have the digest in its name.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tag2mask import compute, concurrency, processes
from tag2mask.backbones import Backbone
from tag2mask.data.images import decode_image
from tag2mask.errors import DamagedArtefact, InputError
from tag2mask.files import atomic, cache_folder
from tag2mask.settings import POSITIVE, DecidesNothing, check_values
from tag2mask.types import PhotoFacts, Sample, SampleKey
from tag2mask.views import View, view_batch

log = logging.getLogger("tag2mask")

LAYOUT = "v3"  # what is not believed: v1, decoded bytes were not checked; v2, trunks of other strides shared a key
BATCH = 8  # photos in a forward pass


@dataclass(frozen=True)
class FeatureSettings:
    """Where stored features lie and how much space they may take."""

    folder: Annotated[Path | None, DecidesNothing()] = None
    """Default: tag2mask/features in the user's cache folder."""
    limit_gb: Annotated[float, POSITIVE, DecidesNothing()] = 30.0
    """A run that would write more than this stops before it writes anything."""

    def __post_init__(self) -> None:
        check_values(self, "features")


class FeatureStore:
    """The stored features of one trunk.

    Args:
        backbone: frozen up to some block.
        facts: size and content digest of every photo.
        settings: where and how much.
        precision: of the forward passes; part of the key.
    """

    def __init__(
        self,
        backbone: Backbone,
        facts: Mapping[SampleKey, PhotoFacts],
        settings: FeatureSettings,
        precision: compute.Precision = "auto",
    ) -> None:
        assert backbone.frozen_until is not None
        self.backbone, self.facts, self.settings = backbone, facts, settings
        self.precision: compute.Precision = precision
        self.block = backbone.frozen_until
        self.device = next(backbone.parameters()).device
        key = trunk_digest(backbone, self.block) + f"-{self.block}-{compute.resolve(precision, self.device)}-{LAYOUT}"
        self.folder = (settings.folder or cache_folder() / "features") / key

    def path(self, sample: Sample, view: View) -> Path:
        content = self.facts[sample.key].digest
        side = f"{view.height}x{view.width}" + ("-mirrored" if view.flip else "")
        return self.folder / side / content[:2] / f"{content}.npy"

    def load(self, sample: Sample, view: View) -> Tensor:
        """``[channels rows columns]`` float16, copied out of the memory map.

        Raises:
            DamagedArtefact: the file cannot be read; it is moved aside.
        """
        path = self.path(sample, view)
        try:
            features = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        except (MemoryError, PermissionError):
            raise  # says nothing of the file
        except Exception as error:  # numpy parses the header as Python, which raises many types
            raise DamagedArtefact(path, str(error) or type(error).__name__) from error
        if features.ndim != 3 or features.dtype != np.float16 or not np.isfinite(features).all():
            raise DamagedArtefact(path, "it does not hold finite half-precision features of a photo")
        return torch.from_numpy(features)

    def fill(self, samples: Sequence[Sample], views_of: Callable[[Sample], list[View]]) -> int:
        """Compute what is missing; gives the number of feature maps written. Several processes share it: first all,
        then those of each machine what their own cache folder still lacks.

        Raises:
            InputError: more than the limit, or than the disk has free.
        """
        here = processes.local_place()
        written = self._fill(samples, views_of, here.rank, here.world)
        if here.world > here.local_world:
            written += self._fill(samples, views_of, here.local_rank, here.local_world)
        return written

    def _fill(self, samples: Sequence[Sample], views_of: Callable[[Sample], list[View]], rank: int, world: int) -> int:
        with processes.together():  # by file: a balanced training set has photos several times, others are copies
            missing = {path: (s, v) for s in samples for v in views_of(s) if not (path := self.path(s, v)).exists()}
        with processes.together():
            return self._write_features([*missing.values()], rank, world)

    def _write_features(self, missing: Sequence[tuple[Sample, View]], rank: int, world: int) -> int:
        """Those of the share of process ``rank`` of ``world``."""
        if not missing:
            return 0
        self._check_space(missing)
        groups: dict[View, list[Sample]] = {}
        for sample, view in missing:
            groups.setdefault(view, []).append(sample)
        batches = [[(s, view) for s in chunk] for view, members in groups.items() for chunk in _chunks(members, BATCH)]
        cost = lambda item: 3.0 * self.facts[item[0].key].height * self.facts[item[0].key].width  # noqa: E731
        own = batches[rank::world]
        written = concurrency.pipelined(own, self._read, self._forward, self._write, cost=cost)
        return sum(1 for _ in written)

    def _read(self, item: tuple[Sample, View]) -> np.ndarray:
        sample, _ = item
        return decode_image(sample.image_path, self.facts[sample.key].digest)

    def _forward(self, items: Sequence[tuple[Sample, View]], pixels: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        images = view_batch(pixels, items[0][1], self.backbone).to(self.device)
        with torch.inference_mode(), compute.autocast(self.precision, self.device):
            features = self.backbone.until(images, self.block)
        return list(features.to(torch.float16).contiguous().cpu().numpy())

    def _write(self, item: tuple[Sample, View], features: np.ndarray) -> None:
        with atomic(self.path(*item), "wb") as file:
            np.save(file, features, allow_pickle=False)

    def _check_space(self, missing: Sequence[tuple[Sample, View]]) -> None:
        need = self._bytes(missing) / 1e9
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / 1e9
        log.info("frozen features: %d maps, %.2f GB to be written to %s", len(missing), need, self.folder)
        if need > self.settings.limit_gb:
            raise InputError(
                f"frozen features need {need:.1f} GB, the limit is {self.settings.limit_gb:g} GB: raise "
                "--features.limit-gb, use fewer --localize.scales, or a smaller --localize.long-side"
            )
        if need > free * 0.95:
            raise InputError(f"frozen features need {need:.1f} GB and {self.folder} has {free:.1f} GB free: free some")

    def _bytes(self, missing: Sequence[tuple[Sample, View]]) -> float:
        """Bytes to be written, from the cells per pixel of one small forward."""
        side = 8 * max(self.backbone.stride, self.backbone.size_divisor)
        with torch.inference_mode():
            probe = self.backbone.until(torch.zeros(1, 3, side, side, device=self.device), self.block)
        per_pixel = probe.numel() / side**2
        return 2 * per_pixel * sum(view.height * view.width for _, view in missing)


def trunk_digest(backbone: Backbone, block: str) -> str:
    """Sixteen hex digits of the trunk's weights, normalisation and strides: a finer output stride turns strides into
    dilations, and no weight shows it."""
    names = backbone.names[: backbone.position(block) + 1]
    strides = [backbone.strides.get(name) for name in names]
    content = hashlib.blake2b(digest_size=8)
    content.update(repr((backbone.mean, backbone.std, strides)).encode())
    for name in names:
        for key, tensor in backbone.blocks[name].state_dict().items():
            content.update(f"{name}.{key}{tuple(tensor.shape)}".encode())
            content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _chunks(items: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk
