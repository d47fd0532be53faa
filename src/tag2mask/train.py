"""The one training loop: methods and segmenters alike, on accelerate (devices, precision, processes, trackers).

Random numbers of step k are seeded from (seed, k) and batches are a function of (seed, epoch), so a run interrupted
anywhere continues from its last checkpoint as if nothing had happened: to the bit on a CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tag2mask import compute
from tag2mask.data.batches import Source, epoch_batches
from tag2mask.errors import InputError
from tag2mask.run import atomic, digest, read_jsonl
from tag2mask.types import Losses


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained. The defaults fine-tune an ImageNet backbone in minutes on a laptop."""

    epochs: float = 8.0
    """Passes over the training photos (a fraction is allowed; 0, where `--weights` holds a whole method)."""
    batch_size: int = 16
    accumulate: int = 1
    """Batches whose gradients are averaged into one optimiser step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 5e-4
    """Of the pretrained backbone."""
    head_factor: float = 10.0
    """New layers learn this many times faster than the backbone."""
    bias_factor: float = 1.0
    """Biases and norms learn this many times faster than the weights beside them (Caffe's solvers: 2)."""
    weight_decay: float = 1e-2
    """On weights of two and more dimensions."""
    decay_biases: bool = False
    """Also on biases and norms, as PyTorch's own optimisers do."""
    momentum: float = 0.9
    """For sgd."""
    nesterov: bool = False
    """For sgd."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate grows from 0."""
    power: float = 0.9
    """Poly schedule: the learning rate falls as (1 - progress)^power."""
    milestones: tuple[float, ...] = ()
    """Epochs at whose start the learning rate falls to a tenth; with `power` 0, a schedule in steps."""
    clip: float = 5.0
    """Gradients of a larger norm are scaled down to it; 0: never."""
    precision: compute.Precision = "auto"
    workers: int = 0
    """Processes that read and augment photos beside the training one."""
    checkpoint_minutes: float = 2.0
    """How much work an interruption may cost."""
    tracker: str | None = None
    """Also log to an accelerate tracker (tensorboard, wandb, ...), if it is installed."""

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"train.epochs is {self.epochs}: it must be above 0")
        for name in ("batch_size", "accumulate", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"train.{name} is {getattr(self, name)}: it must be above 0")


class _Epoch(torch.utils.data.Dataset[Any]):
    """A source at one epoch, as a map-style data set whose index is a whole batch."""

    def __init__(self, source: Source, epoch: int, batches: Sequence[Sequence[int]]) -> None:
        self.source, self.epoch, self.batches = source, epoch, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.source.collate([self.source.item(self.epoch, i) for i in self.batches[index]])


class _Step(nn.Module):
    """`losses` behind `forward`, so that gradient synchronisation between processes sees the call."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any, progress: float) -> Any:
        return self.task.losses(batch, progress)  # type: ignore[operator]


def parameter_groups(task: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Learnable parameters by learning rate (backbone, new layers) and weight decay. A task may bring its own."""
    if hasattr(task, "parameter_groups"):
        return task.parameter_groups(settings)  # type: ignore[operator]
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(("backbone." in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate
            * (1.0 if pretrained else settings.head_factor)
            * (1.0 if weights else settings.bias_factor),
            "weight_decay": settings.weight_decay if weights or settings.decay_biases else 0.0,
        }
        for (pretrained, weights), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def clipped_together(task: nn.Module) -> list[list[nn.Parameter]]:
    """Learnable parameters in parts whose gradients are clipped by the norm of the part: all in one, unless a task says
    which are ``learnt_apart``, by losses that teach nothing else."""
    apart: list[nn.Parameter] = task.learnt_apart() if hasattr(task, "learnt_apart") else []  # type: ignore[operator]
    known = set(map(id, apart))
    rest = [p for p in task.parameters() if p.requires_grad and id(p) not in known]
    return [part for part in (rest, apart) if part]


def schedule(step: int, steps: int, settings: TrainSettings) -> float:
    """Factor on every learning rate before step ``step`` of ``steps``: warm-up times poly decay times milestones."""
    warm = max(1, round(settings.warmup * steps))
    passed = sum(step * settings.epochs >= milestone * steps for milestone in settings.milestones)
    return min(1.0, (step + 1) / warm) * (1 - step / steps) ** settings.power * 0.1**passed


def fit(task: nn.Module, source: Source, settings: TrainSettings, folder: Path, *, seed: int, title: str) -> None:
    """Train ``task`` (it has ``losses(batch, progress)``) on ``source``.

    Leaves ``model.safetensors`` and ``log.jsonl`` in ``folder``; while it works, ``checkpoint.safetensors``, from
    which the same call continues.

    Raises:
        InputError: a loss that is not finite (with what to change); a full disk.
    """
    from accelerate.utils import set_seed

    compute.keep_memory()
    accelerator = _accelerator(settings, folder)
    set_seed(seed)
    step_module: nn.Module = _Step(task.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    optimizer = _optimizer(task, settings)
    rates = [group["lr"] for group in optimizer.param_groups]
    step_module, optimizer = accelerator.prepare(step_module, optimizer)
    if settings.tracker:
        accelerator.init_trackers("tag2mask", config=asdict(settings))

    per_epoch = len(_share(epoch_batches(source, settings.batch_size, seed, 0), accelerator))
    if per_epoch == 0:
        raise InputError(f"{title}: fewer photos than processes; use fewer processes or more photos")
    steps = max(1 if settings.epochs else 0, round(settings.epochs * per_epoch))
    key = digest([asdict(settings), seed, len(source)])
    checkpoint = folder / "checkpoint.safetensors"
    start = _restore(checkpoint, key, task, optimizer)
    log = _Log(folder / "log.jsonl", start, accelerator.is_main_process)
    clipped = clipped_together(task)
    saved = time.monotonic()
    task.train()
    with _progress(title, steps, start, accelerator.is_main_process) as advance:
        for step, batch in _batches(source, settings, seed, start, steps, accelerator):
            torch.manual_seed(seed * 1_000_003 + step)
            factor = schedule(step, steps, settings)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            update = (step + 1) % settings.accumulate == 0 or step + 1 == steps
            terms = _step(step_module, optimizer, accelerator, batch, step / steps, settings, clipped, update, title)
            photos = len(batch.ids) * accelerator.num_processes
            log.add(step, terms, rates[0] * factor, photos, last=step + 1 == steps)
            if settings.tracker:
                accelerator.log(terms, step=step)
            advance(terms, photos)
            if update and time.monotonic() - saved > 60 * settings.checkpoint_minutes and accelerator.is_main_process:
                _save(checkpoint, key, step + 1, task, optimizer)
                saved = time.monotonic()
    if settings.tracker:
        accelerator.end_training()
    if accelerator.is_main_process:
        save_model(task, folder / "model.safetensors")
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    task.eval()


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


def _step(
    module: nn.Module,
    optimizer: Any,
    accelerator: Any,
    batch: Any,
    progress: float,
    settings: TrainSettings,
    clipped: Sequence[Sequence[Tensor]],
    update: bool,
    title: str,
) -> dict[str, float]:
    """Forward, backward and, when ``update``, the optimiser; a task that gives several losses in turn gets an
    optimiser step for each (PPL's per-iteration schedule). ``clipped``: :func:`clipped_together`."""
    batch = batch.to(accelerator.device)
    images = batch.images
    if images.ndim == 4:
        object.__setattr__(batch, "images", images.contiguous(memory_format=torch.channels_last))
    with accelerator.autocast():
        result = module(batch, progress)
    terms: dict[str, float] = {}
    in_turn: Iterator[Losses] = iter([result]) if isinstance(result, Losses) else result
    while True:
        with accelerator.autocast():  # losses given in turn do their forward here
            losses = next(in_turn, None)
        if losses is None:
            return terms
        total = losses.total()
        if not torch.isfinite(total):
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
            raise InputError(f"{title}: the loss is not finite ({parts}): lower --train.learning-rate or use float32")
        accelerator.backward(total / settings.accumulate)
        terms |= {name: float(value.detach()) for name, value in losses.items()}
        if update:
            if settings.clip > 0:
                accelerator.unscale_gradients()
                for part in clipped:
                    nn.utils.clip_grad_norm_(part, settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _optimizer(task: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    groups = parameter_groups(task, settings)
    if not groups:
        raise InputError("nothing is left to train: unfreeze some of the backbone")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _share(batches: list[list[int]], accelerator: Any) -> list[list[int]]:
    """This process's batches: every process has equally many."""
    n = accelerator.num_processes
    return batches[accelerator.process_index : len(batches) - len(batches) % n : n]


def _batches(
    source: Source, settings: TrainSettings, seed: int, start: int, steps: int, accelerator: Any
) -> Iterator[tuple[int, Any]]:
    """(step, batch) from ``start``; epochs may differ in length when photos are grouped by size."""
    step, epoch = 0, 0
    while step < steps:
        batches = _share(epoch_batches(source, settings.batch_size, seed, epoch), accelerator)[: steps - step]
        skip = min(max(start - step, 0), len(batches))
        step += skip
        if skip < len(batches):
            loader = DataLoader(
                _Epoch(source, epoch, batches[skip:]), batch_size=None, num_workers=settings.workers, shuffle=False
            )
            for batch in loader if settings.workers else _one_ahead(iter(loader)):
                yield step, batch
                step += 1
        epoch += 1


def _one_ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, the next one made on a thread while this one is learnt from."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(1,))
    end = object()
    try:
        coming = pool.submit(next, batches, end)
        torch.set_num_threads(threads)  # the thread's own is 1; a later thread would inherit the last one set
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, batches, end)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def save_model(module: nn.Module, path: Path) -> None:
    """Weights as safetensors, atomically."""
    from safetensors.torch import save

    with atomic(path, "wb") as file:
        file.write(save({n: t.detach().contiguous().cpu() for n, t in module.state_dict().items()}))


def load_model(module: nn.Module, path: Path) -> None:
    """Weights written by :func:`save_model`; anything missing or left over is an error that names it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the model {path} ({error}): delete it and run again") from error
    except RuntimeError as error:
        raise InputError(f"{path} does not fit this model: {' '.join(str(error).split())[:300]}") from error
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _save(path: Path, key: str, step: int, task: nn.Module, optimizer: Any) -> None:
    """Model, optimiser state and step in one safetensors file: everything needed to continue, nothing pickled."""
    from safetensors.torch import save

    tensors = {f"model.{n}": t for n, t in task.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{n}": torch.as_tensor(v) for n, v in state.items()}
    content = {n: t.detach().contiguous().cpu() for n, t in tensors.items()}
    with atomic(path, "wb") as file:
        file.write(save(content, metadata={"key": key, "step": str(step)}))


def _restore(path: Path, key: str, task: nn.Module, optimizer: Any) -> int:
    """The step to go on from; 0 when there is no checkpoint of these settings."""
    from safetensors import safe_open

    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["key"] != key:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    task.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".", 2)
            state.setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])


class _Log:
    """``log.jsonl``: about two hundred lines a training, each the mean of the steps since the last."""

    def __init__(self, path: Path, start: int, writes: bool) -> None:
        self.path, self.writes = path, writes
        self.sums: dict[str, float] = {}
        self.count, self.photos, self.since = 0, 0, time.monotonic()
        if not writes:
            return
        kept = [line for line in read_jsonl(path) if line["step"] < start] if start else []
        with atomic(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)

    def add(self, step: int, terms: dict[str, float], rate: float, photos: int, last: bool) -> None:
        if not self.writes:
            return
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.photos += photos
        if self.count < 5 and not last:
            return
        line = {name: round(total / self.count, 6) for name, total in self.sums.items()}
        speed = self.photos / max(time.monotonic() - self.since, 1e-9)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line, "lr": rate, "images_per_s": round(speed, 2)}) + "\n")
        self.sums, self.count, self.photos, self.since = {}, 0, 0, time.monotonic()


def _progress(title: str, steps: int, start: int, shown: bool) -> Any:
    """Live progress on a terminal: a bar with loss, images/s and time left."""
    import contextlib

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tag2mask.progress import console

    @contextlib.contextmanager
    def shown_progress() -> Iterator[Any]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=console(), disable=not (shown and console().is_terminal), transient=True
        ) as bar:
            id = bar.add_task(title, total=steps, completed=start, note="")
            began, seen = time.monotonic(), 0

            def advance(terms: dict[str, float], photos: int) -> None:
                nonlocal seen
                seen += photos
                speed = seen / max(time.monotonic() - began, 1e-9)
                bar.update(id, advance=1, note=f"loss {sum(terms.values()):.3f}  {speed:.1f} images/s")

            yield advance

    return shown_progress()
