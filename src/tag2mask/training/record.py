"""What is remembered and shown of a training: losses and speed, read from the device now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tag2mask import processes
from tag2mask.files import atomic, read_jsonl

EVERY = 5  # steps that a line of the log is the mean of


class TrainingLog:
    """``log.jsonl``: a line for every few steps. Losses stay on the device in between, so that no step waits for it.

    Args:
        path: of the file; lines of steps from ``start`` on are dropped from it.
        writes: whether this process writes it.
    """

    def __init__(self, path: Path, start: int, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.sums: dict[str, Tensor] = {}
        self.count, self.photos, self.since = 0, 0, time.monotonic()
        if writes:
            lines = [line for line in read_jsonl(path) if line.get("step", start) < start] if start else []
            with atomic(path) as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)

    def add(self, terms: Mapping[str, Tensor], photos: int) -> None:
        """Losses of one step, without gradient: this process's share of them; ``photos`` of all."""
        for name, value in terms.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.photos += photos

    @property
    def full(self) -> bool:
        return self.count >= EVERY

    def flush(self, step: int, rate: float) -> dict[str, float]:
        """Write a line, the mean of the steps since the last one; gives it."""
        values = processes.all_sum(torch.stack(list(self.sums.values()))).tolist() if self.sums else []
        means = {name: total / self.count for name, total in zip(self.sums, values, strict=True)}
        speed = self.photos / max(time.monotonic() - self.since, 1e-9)
        if self.writes:
            line = {"step": step, **{name: round(mean, 6) for name, mean in means.items()}, "lr": rate}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "images_per_s": round(speed, 2)}) + "\n")
        self.sums, self.count, self.photos, self.since = {}, 0, 0, time.monotonic()
        return means
