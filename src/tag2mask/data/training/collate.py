"""Items put together: tags, domains, maps and whatever else each of them brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.types import Dataset, Domain, LocalizationMaps, Sample, label_vector


class Item(Protocol):
    """A photo and what lies at hand of it."""

    @property
    def sample(self) -> Sample: ...

    @property
    def maps(self) -> Tensor | None:
        """``[present rows columns]`` of its tagged classes."""
        ...


def stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Stacked, when no item lacks it."""
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(there) if len(there) == len(tensors) else None


def scores_of(maps: LocalizationMaps, sample: Sample) -> Tensor:
    """``[present rows columns]`` float32, a row for each tag of the sample in ascending order."""
    if set(maps.classes) != (sample.labels or frozenset()):
        raise InputError(
            f"the maps of '{sample.id}' are of other tags than the photo has now: delete their folder and run again"
        )
    return torch.from_numpy(maps.scores.astype(np.float32))


def dense_maps(items: Sequence[Item], dataset: Dataset) -> Tensor | None:
    """Maps of present classes as ``[batch classes rows columns]``, zero where a class is not tagged."""
    if items[0].maps is None:
        return None
    out = torch.zeros(len(items), len(dataset.classes), *items[0].maps.shape[1:])
    for row, item in zip(out, items, strict=True):
        assert item.maps is not None
        row[sorted(item.sample.labels or ())] = item.maps
    return out


def label_matrix(samples: Sequence[Sample], dataset: Dataset) -> Tensor:
    return torch.stack([label_vector(s.labels or frozenset(), len(dataset.classes)) for s in samples])


def domains_of_items(items: Sequence[Item]) -> tuple[Domain, ...]:
    return tuple(i.sample.domain for i in items)
