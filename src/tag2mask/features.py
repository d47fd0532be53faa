"""Features of a frozen trunk, computed once per view, kept on disk in half precision, read by memory map.

One ``.npy`` file per (trunk weights, view, photo content): the key holds nothing of a run, so every method, seed,
split and run that looks at the same pixels through the same weights shares them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.augment import fit_size, normalise, resized
from tag2mask.data.images import read_image
from tag2mask.errors import InputError
from tag2mask.run import atomic
from tag2mask.types import Sample


@dataclass(frozen=True)
class FeatureSettings:
    """Where stored features lie and how much room they may take."""

    folder: Path | None = None
    """Default: tag2mask/features in the user's cache folder."""
    limit_gb: float = 30.0
    """A run that would write more than this stops before it writes anything."""


@dataclass(frozen=True)
class View:
    """One look at a photo: its size in pixels and whether mirrored."""

    height: int
    width: int
    flip: bool


def views(height: int, width: int, longest: int, scales: Sequence[float], flip: bool, multiple: int = 1) -> list[View]:
    """The views of a photo of this size, scale by scale, plain before mirrored."""
    sizes = [fit_size(height, width, longest, scale, multiple) for scale in scales]
    return [View(h, w, mirrored) for h, w in sizes for mirrored in ((False, True) if flip else (False,))]


def view_batch(pixels: Sequence[np.ndarray], view: View, backbone: Backbone) -> Tensor:
    """Photos of one size through one view: normalised ``[batch 3 height width]``."""
    images = torch.stack([resized(image, (view.height, view.width)) for image in pixels])
    images = normalise(images.flip(3) if view.flip else images, backbone.mean, backbone.std)
    return images.contiguous(memory_format=torch.channels_last)


def cache_folder() -> Path:
    """The user's cache folder for tag2mask."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tag2mask"


@dataclass(frozen=True)
class Seen:
    """What the check of the images found out about a photo."""

    height: int
    width: int
    digest: str  # of the file's content


class FeatureStore:
    """The stored features of one trunk.

    Args:
        backbone: frozen up to some block.
        seen: size and content digest of every photo, by sample id.
        settings: where and how much.
        precision: of the forward passes; part of the key.
    """

    def __init__(
        self,
        backbone: Backbone,
        seen: Mapping[str, Seen],
        settings: FeatureSettings,
        precision: compute.Precision = "auto",
    ) -> None:
        assert backbone.frozen_until is not None
        self.backbone, self.seen, self.settings = backbone, seen, settings
        self.precision: compute.Precision = precision
        self.block = backbone.frozen_until
        where = next(backbone.parameters()).device
        key = trunk_digest(backbone, self.block) + f"-{self.block}-{compute.resolve(precision, where)}"
        self.folder = (settings.folder or cache_folder() / "features") / key

    def path(self, sample: Sample, view: View) -> Path:
        content = self.seen[sample.id].digest
        side = f"{view.height}x{view.width}" + ("-mirrored" if view.flip else "")
        return self.folder / side / content[:2] / f"{content}.npy"

    def load(self, sample: Sample, view: View) -> Tensor:
        """``[channels rows columns]`` float16, copied out of the memory map."""
        path = self.path(sample, view)
        try:
            return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read stored features {path} ({error}): delete that file and run again") from error

    def fill(self, samples: Sequence[Sample], views_of: Callable[[Sample], list[View]], announce: Any) -> int:
        """Compute what is missing; gives the number of feature maps written.

        ``announce(text)`` is told the size before anything is written.

        Raises:
            InputError: more than the limit, or than the disk has free.
        """
        missing = [(s, v) for s in samples for v in views_of(s) if not self.path(s, v).exists()]
        if not missing:
            return 0
        need = self._bytes(missing) / 1e9
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / 1e9
        announce(f"frozen features: {len(missing)} maps, {need:.2f} GB to be written to {self.folder}")
        if need > self.settings.limit_gb:
            raise InputError(
                f"frozen features need {need:.1f} GB, the limit is {self.settings.limit_gb:g} GB: raise "
                "--features.limit-gb, use fewer --localize.scales, or a smaller --localize.longest"
            )
        if need > free * 0.95:
            raise InputError(f"frozen features need {need:.1f} GB and {self.folder} has {free:.1f} GB free: free some")
        groups: dict[View, list[Sample]] = {}
        for sample, view in missing:
            groups.setdefault(view, []).append(sample)
        where = next(self.backbone.parameters()).device
        for view, members in groups.items():
            for chunk in _chunks(read_ahead(members), 8):
                images = view_batch([pixels for _, pixels in chunk], view, self.backbone).to(where)
                with torch.inference_mode(), compute.autocast(self.precision, where):
                    features = self.backbone.until(images, self.block)
                arrays = features.to(torch.float16).contiguous().cpu().numpy()
                for (sample, _), array in zip(chunk, arrays, strict=True):
                    with atomic(self.path(sample, view), "wb") as file:
                        np.save(file, array, allow_pickle=False)
        return len(missing)

    def _bytes(self, missing: Sequence[tuple[Sample, View]]) -> float:
        """Bytes to be written, from the cells per pixel of one small forward."""
        side = 8 * max(self.backbone.stride, self.backbone.multiple)
        with torch.inference_mode():
            probe = self.backbone.until(
                torch.zeros(1, 3, side, side, device=next(self.backbone.parameters()).device), self.block
            )
        per_pixel = probe.numel() / side**2
        return 2 * per_pixel * sum(view.height * view.width for _, view in missing)


def trunk_digest(backbone: Backbone, block: str) -> str:
    """Sixteen hex digits of the trunk's weights and normalisation."""
    found = hashlib.blake2b(digest_size=8)
    found.update(repr((backbone.mean, backbone.std)).encode())
    for name in backbone.names[: backbone.position(block) + 1]:
        for key, tensor in backbone.blocks[name].state_dict().items():
            found.update(f"{name}.{key}{tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_ahead(samples: Iterable[Sample], depth: int = 16) -> Iterator[tuple[Sample, np.ndarray]]:
    """(sample, pixels) in order, decoded by a thread ``depth`` photos ahead."""
    pending: list[tuple[Sample, Any]] = []
    with ThreadPoolExecutor(1, "read") as pool:
        for sample in samples:
            pending.append((sample, pool.submit(read_image, sample.image_path)))
            if len(pending) > depth:
                first, future = pending.pop(0)
                yield first, future.result()
        for first, future in pending:
            yield first, future.result()


def by_size(samples: Iterable[Sample], batch_size: int, window: int = 256) -> Iterator[list[tuple[Sample, np.ndarray]]]:
    """Decoded photos in lists of equal size, up to ``batch_size`` each.

    At most ``window`` decoded photos wait for company, so memory does not grow with the number of samples.
    """
    waiting: dict[tuple[int, ...], list[tuple[Sample, np.ndarray]]] = {}
    held = 0
    for sample, pixels in read_ahead(samples):
        group = waiting.setdefault(pixels.shape[:2], [])
        group.append((sample, pixels))
        held += 1
        if len(group) == batch_size:
            held -= len(group)
            yield waiting.pop(pixels.shape[:2])
        elif held >= window:
            group = waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
            held -= len(group)
            yield group
    yield from waiting.values()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
