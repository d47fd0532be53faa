"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask import compute, interrupt, progress
from tag2mask.data.batches import Source
from tag2mask.errors import InputError
from tag2mask.files import digest
from tag2mask.protocols import Trainable
from tag2mask.settings import deciding
from tag2mask.train.batches import Steps, batches
from tag2mask.train.checkpoint import channels_last, restore_checkpoint, save_checkpoint, save_model
from tag2mask.train.optimizer import clipped_together, optimizer_of, schedule
from tag2mask.train.record import TrainingLog
from tag2mask.train.settings import TrainSettings
from tag2mask.types import Losses


def fit(task: nn.Module, source: Source, settings: TrainSettings, folder: Path, *, seed: int, title: str) -> None:
    """Train ``task`` (a :class:`tag2mask.protocols.Trainable`) on ``source``.

    Leaves ``model.safetensors`` and ``log.jsonl`` in ``folder``; while it works, ``checkpoint.safetensors``, from
    which the same call continues.

    Raises:
        InputError: a loss that is not finite (with what to change); a full disk.
        Terminated: the process was asked to end; the step it stopped at is saved.
    """
    training = _Training.begin(task, source, settings, folder, seed, title)
    task.train()
    with progress.bar(title, training.steps, training.start, shown=training.accelerator.is_main_process) as update:
        for step, batch in training.batches():
            training.step(step, batch)
            if training.log.full or step + 1 == training.steps:
                update(step + 1, training.report(step))
            training.save_now_and_then(step)
    training.end()
    task.eval()


class _Losses(nn.Module):
    """`losses` behind `forward`, so that gradient synchronisation between processes sees the call."""

    def __init__(self, task: Trainable) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any, progress: float) -> Losses | Iterator[Losses]:
        return self.task.losses(batch, progress)


@dataclass
class _Training:
    """A training while it runs."""

    task: nn.Module
    losses: nn.Module
    optimizer: Any
    accelerator: Any
    source: Steps
    settings: TrainSettings
    folder: Path
    seed: int
    title: str
    key: str
    steps: int
    start: int
    rates: list[float]
    clipped: Sequence[Sequence[Tensor]]
    log: TrainingLog
    saved: float  # when, by the monotonic clock

    @classmethod
    def begin(
        cls, task: nn.Module, source: Source, settings: TrainSettings, folder: Path, seed: int, title: str
    ) -> _Training:
        from accelerate.utils import set_seed

        compute.keep_memory()
        accelerator = _accelerator(settings, folder)
        set_seed(seed)
        steps = Steps(source, settings.batch_size, seed)
        per_epoch = len(steps.batches_of(0))
        count = settings.steps(per_epoch)
        assert isinstance(task, Trainable)
        channels_last(task.to(accelerator.device))
        losses: nn.Module = _Losses(task)
        if settings.compile:
            losses.compile()
        optimizer = optimizer_of(task, settings)
        rates = [group["lr"] for group in optimizer.param_groups]
        losses, optimizer = accelerator.prepare(losses, optimizer)
        if settings.tracker:
            accelerator.init_trackers("tag2mask", config=asdict(settings))
        key = digest([deciding(settings), seed, len(source)])
        start = restore_checkpoint(folder / "checkpoint.safetensors", key, task, optimizer)
        log = TrainingLog(folder / "log.jsonl", start, accelerator.is_main_process)
        return cls(
            task, losses, optimizer, accelerator, steps, settings, folder, seed, title, key, count, start, rates,
            clipped_together(task), log, time.monotonic(),
        )  # fmt: skip

    def batches(self) -> Iterator[tuple[int, Any]]:
        """(step, batch) of the steps that are left."""
        found = batches(self.source, self.settings, self.start, self.steps, self.accelerator.device)
        return zip(range(self.start, self.steps), found, strict=True)

    def step(self, step: int, batch: Any) -> None:
        """Forward, backward and, at the end of an accumulation, the optimiser."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        factor = schedule(step, self.steps, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        batch = batch.to(self.accelerator.device)
        update = (step + 1) % self.settings.accumulate == 0 or step + 1 == self.steps
        terms: dict[str, Tensor] = {}
        try:
            for losses in self._in_turn(batch, step / self.steps):
                self.accelerator.backward(losses.total() / self.settings.accumulate)
                terms |= {name: value.detach() for name, value in losses.items()}
                if update:
                    self._update()
        except torch.OutOfMemoryError as error:
            size = self.settings.batch_size
            raise InputError(
                f"{self.title}: the device's memory does not hold a step of {size} photos: give half the batch twice "
                f"(--train.batch-size {max(1, size // 2)} --train.accumulate {2 * self.settings.accumulate}), or "
                "smaller views (--augment.size)"
            ) from error
        self.log.add(terms, len(batch.ids) * self.accelerator.num_processes)

    def _in_turn(self, batch: Any, progress: float) -> Iterator[Losses]:
        """The losses of a step: several in turn get an optimiser step each (PPL's per-iteration schedule)."""
        with self.accelerator.autocast():
            result = self.losses(batch, progress)
        if isinstance(result, Losses):
            yield result
            return
        while True:
            with self.accelerator.autocast():  # losses given in turn do their forward here
                losses = next(result, None)
            if losses is None:
                return
            yield losses

    def _update(self) -> None:
        if self.settings.max_grad_norm > 0:
            self.accelerator.unscale_gradients()
            for part in self.clipped:
                nn.utils.clip_grad_norm_(part, self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def report(self, step: int) -> str:
        """Write the log; what the progress bar says.

        Raises:
            InputError: a loss was not finite.
        """
        terms = self.log.flush(step, self.rates[0] * schedule(step, self.steps, self.settings))
        total = sum(terms.values())
        if not math.isfinite(total):
            parts = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
            raise InputError(
                f"{self.title}: the loss is not finite ({parts}): lower --train.learning-rate or use float32"
            )
        if self.settings.tracker:
            self.accelerator.log(terms, step=step)
        return f"loss {total:.3f}"

    def save_now_and_then(self, step: int) -> None:
        """A checkpoint, every few minutes and when the process is asked to end."""
        ends = interrupt.asked_to_end()
        due = ends or time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes
        if not due or (step + 1) % self.settings.accumulate or step + 1 == self.steps:
            return
        if self.log.count:
            self.report(step)  # a loss that is not finite is not worth keeping
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "checkpoint.safetensors", self.key, step + 1, self.task, self.optimizer)
        self.saved = time.monotonic()
        interrupt.end_if_asked()

    def end(self) -> None:
        """The trained weights, in the place of the checkpoint."""
        if self.settings.tracker:
            self.accelerator.end_training()
        if self.accelerator.is_main_process:
            save_model(self.task, self.folder / "model.safetensors")
            (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()


def _accelerator(settings: TrainSettings, folder: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # a run's trainings may differ in precision; accelerate keeps the first one's
    precision = compute.resolve(settings.precision, compute.device())
    return Accelerator(
        mixed_precision={"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision],
        log_with=settings.tracker,
        project_dir=folder if settings.tracker else None,
    )
