"""What a source of training promises, and the order in which its items are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Items by (epoch, index), and how to put a list of them into a batch."""

    def __len__(self) -> int: ...

    def item(self, epoch: int, index: int) -> Any: ...

    def collate(self, items: Sequence[Any]) -> Any: ...

    def groups(self) -> Sequence[object] | None:
        """A key for each index; only indices of equal key share a batch. None: any may."""
        ...


def epoch_batches(source: Source, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled index batches of one epoch.

    A last batch of under half the size joins none and is dropped, unless it is the only one of its group: a step on
    two images would weigh as much as one on sixteen.
    """
    random = np.random.default_rng([seed, epoch, 1_000_003])
    order = random.permutation(len(source))
    keys = source.groups()
    pools: dict[object, list[int]] = {}
    for index in order:
        pools.setdefault(None if keys is None else keys[index], []).append(int(index))
    batches = []
    for pool in pools.values():
        cut = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        if len(cut) > 1 and len(cut[-1]) * 2 < batch_size:
            cut.pop()
        batches += cut
    return [batches[i] for i in random.permutation(len(batches))]
