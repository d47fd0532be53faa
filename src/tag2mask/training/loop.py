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

from tag2mask import compute, interrupt, processes, progress
from tag2mask.data.batches import Source
from tag2mask.errors import InputError, Terminated
from tag2mask.files import digest
from tag2mask.protocols import Trainable
from tag2mask.settings import deciding
from tag2mask.training import sharding
from tag2mask.training.batches import Steps, batches
from tag2mask.training.checkpoint import channels_last, restore_checkpoint, save_checkpoint, save_model
from tag2mask.training.near_start import NearStart
from tag2mask.training.optimizer import clipped_together, optimizer_of, schedule
from tag2mask.training.record import TrainingLog
from tag2mask.training.settings import TrainSettings
from tag2mask.types import Losses

VIEWS_OF = {  # flags of a training to those of its views, where they are not augment
    "segmenter-train": "segmenter-augment",
    "relabel-train": "segmenter-augment",
    "propagation-train": "propagation-augment",
}


def fit(
    task: nn.Module,
    source: Source,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    title: str,
    flags: str = "train",
) -> None:
    """Train ``task`` (a :class:`tag2mask.protocols.Trainable`) on ``source``.

    Leaves ``model.safetensors`` and ``log.jsonl`` in ``folder``; while it works, ``checkpoint.safetensors``, from
    which the same call continues.

    Args:
        flags: how the flags of ``settings`` begin, for errors that say which to change.

    Raises:
        InputError: a loss that is not finite (with what to change); a full disk.
        Terminated: the process was asked to end; the step it stopped at is saved.
    """
    training = _Training.begin(task, source, settings, folder, seed, title, flags)
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
    """`losses` behind `forward`, for what accelerate and torch.compile do around it."""

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
    flags: str
    key: str
    steps: int
    start: int
    rates: list[float]
    clipped: Sequence[Sequence[Tensor]]
    log: TrainingLog
    saved: float  # when, by the monotonic clock
    split: Sequence[sharding.SplitBlock]
    near: NearStart | None

    @classmethod
    def begin(
        cls, task: nn.Module, source: Source, settings: TrainSettings, folder: Path, seed: int, title: str, flags: str
    ) -> _Training:
        from accelerate.utils import set_seed

        compute.keep_memory()
        accelerator = _accelerator(settings, folder)
        set_seed(seed)
        steps = Steps(source, settings.batch_size, seed, processes.rank(), processes.world())
        per_epoch = len(steps.batches_of(0))
        settings = settings.resolved(per_epoch)
        count = settings.steps(per_epoch)
        assert isinstance(task, Trainable)
        channels_last(task.to(accelerator.device))
        for tensor in task.state_dict().values():
            processes.from_main_tensor(tensor)
        split = sharding.split_backbones(task) if settings.shard_weights else []
        losses: nn.Module = _Losses(task)
        if settings.compile:
            losses.compile()
        optimizer = optimizer_of(task, settings)
        rates = [group["lr"] for group in optimizer.param_groups]
        # gradients are added up by processes.sum_gradients, so nothing is wrapped for it ("evaluation mode")
        losses = accelerator.prepare_model(losses, evaluation_mode=True)
        optimizer = accelerator.prepare_optimizer(optimizer)
        if settings.tracker:
            accelerator.init_trackers("tag2mask", config=asdict(settings))
        key = digest([deciding(settings), seed, len(source)])
        start = _restored(folder / "checkpoint.safetensors", key, task, optimizer)
        log = TrainingLog(folder / "log.jsonl", start, processes.is_main())
        return cls(
            task, losses, optimizer, accelerator, steps, settings, folder, seed, title, flags, key, count, start, rates,
            clipped_together(task), log, time.monotonic(), split, NearStart.of(task) if settings.start_decay else None,
        )  # fmt: skip

    def batches(self) -> Iterator[tuple[int, Any]]:
        """(step, batch) of the steps that are left; where one process cannot read its part, all raise its error."""
        left = batches(self.source, self.settings, self.start, self.steps, self.accelerator.device, self.flags)
        if processes.world() == 1:
            yield from zip(range(self.start, self.steps), left, strict=True)
            return
        for step in range(self.start, self.steps):
            batch, error = None, None
            try:
                batch = next(left)
            except InputError as raised:
                error = raised
            if processes.all_sum(torch.tensor(error is not None, dtype=torch.int64)):
                processes.exchange(None, error)
            yield step, batch

    def step(self, step: int, batch: Any) -> None:
        """Forward, backward and, at the end of an accumulation, the optimiser."""
        torch.manual_seed(self.seed * 1_000_003 + step + processes.rank() * 2**54)
        factor = schedule(step, self.steps, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        photos, share = self._shared(step, batch)
        update = (step + 1) % self.settings.accumulate == 0 or step + 1 == self.steps
        terms: dict[str, Tensor] = {}
        try:
            batch = batch.to(self.accelerator.device)
            for losses in self._in_turn(batch, step / self.steps):
                self.accelerator.backward(share * losses.total() / self.settings.accumulate)
                terms |= {name: share * value.detach() for name, value in losses.items()}
                if update:
                    self._update(self.settings.learning_rate * factor)
        except torch.OutOfMemoryError as error:
            size = self.settings.batch_size
            raise InputError(
                f"{self.title}: the device's memory does not hold a step of {size} photos: give half the batch twice "
                f"(--{self.flags}.batch-size {max(1, size // 2)} --{self.flags}.accumulate "
                f"{2 * self.settings.accumulate}), or smaller views (--{VIEWS_OF.get(self.flags, 'augment')}.size)"
            ) from error
        self.log.add(terms, photos)

    def _shared(self, step: int, batch: Any) -> tuple[int, float]:
        """How many photos the batch has in all processes, and the share of this one's part."""
        if processes.world() == 1:
            return len(batch.ids), processes.set_share(1, 1)
        own = len(batch.ids) if self.source.part(self.source.whole(step)[1]) else 0
        photos = int(processes.all_sum(torch.tensor(own)))
        return photos, processes.set_share(own, photos)

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

    def _update(self, rate: float) -> None:
        every = (p for group in self.optimizer.param_groups for p in group["params"])
        processes.sum_gradients(p for p in every if not sharding.is_split(p))
        if self.settings.max_grad_norm > 0:
            self.accelerator.unscale_gradients()
            for part in self.clipped:
                sharding.clip_norm(part, self.settings.max_grad_norm)
        self.optimizer.step()
        if self.near is not None:
            self.near.draw(rate * self.settings.start_decay)
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
                f"{self.title}: the loss is not finite ({parts}): lower --{self.flags}.learning-rate or use float32"
            )
        if self.settings.tracker:
            self.accelerator.log(terms, step=step)
        return f"loss {total:.3f}"

    def save_now_and_then(self, step: int) -> None:
        """A checkpoint, every few minutes and when the process is asked to end."""
        ends = interrupt.asked_to_end()
        due = ends or time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes
        if processes.world() > 1:  # any of them may be asked; the main one's clock counts
            due = due and (ends or processes.is_main())
            ends, due = processes.all_sum(torch.tensor([ends, due], dtype=torch.int64)).tolist()
        if not due or (step + 1) % self.settings.accumulate or step + 1 == self.steps:
            return
        if self.log.count:
            self.report(step)  # a loss that is not finite is not worth keeping
        save_checkpoint(self.folder / "checkpoint.safetensors", self.key, step + 1, self.task, self.optimizer)
        self.saved = time.monotonic()
        if ends:
            raise Terminated

    def end(self) -> None:
        """The trained weights, in the place of the checkpoint."""
        if self.settings.tracker:
            self.accelerator.end_training()
        for block in self.split:
            block.gather()
        channels_last(self.task)
        self._check_finite()
        save_model(self.task, self.folder / "model.safetensors")
        with processes.together():
            if processes.is_main():
                (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)

    def _check_finite(self) -> None:
        """The last step's loss says nothing of the weights that it left."""
        for name, tensor in self.task.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(
                    f"{self.title}: the trained weights are not finite ({name}): lower --{self.flags}.learning-rate "
                    "or use float32"
                )


def _restored(checkpoint: Path, key: str, task: nn.Module, optimizer: Any) -> int:
    """The step to go on from, the same in all processes.

    Raises:
        InputError: they do not see the same checkpoint.
    """
    start = restore_checkpoint(checkpoint, key, task, optimizer)
    starts = processes.exchange(start)
    if len(set(starts)) > 1:
        raise InputError(
            f"the processes see different checkpoints in {checkpoint.parent} (of steps {sorted(set(starts))}): give an "
            "--out on a file system that all machines share"
        )
    return start


def _accelerator(settings: TrainSettings, folder: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # a run's trainings may differ in precision; accelerate keeps the first one's
    precision = compute.resolve(settings.precision, compute.device())
    return Accelerator(
        # a card that torch sees and cannot use: accelerate would take it all the same
        cpu=processes.world() == 1 and compute.device().type == "cpu",
        mixed_precision={"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision],
        log_with=settings.tracker,
        project_dir=folder if settings.tracker else None,
    )
