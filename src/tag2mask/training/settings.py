"""How a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from tag2mask import compute
from tag2mask.errors import InputError
from tag2mask.settings import NOT_NEGATIVE, SHARE, THREADS, DecidesNothing, Range, check_values, number

AUTO_EPOCHS, AUTO_STEPS = 5.0, 300  # what auto is for methods that count epochs, and for others


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained. The defaults fine-tune an ImageNet backbone in minutes on a laptop."""

    epochs: Annotated[float | Literal["auto"], Range(at_least=0, at_most=1e6)] = 8.0
    """Passes over the training photos (a fraction is allowed; 0, where `--weights` holds a whole method). auto: as many
    as `auto_steps` are, but at least `minimum_epochs`."""
    auto_steps: Annotated[int, Range(at_least=1, at_most=100_000_000)] = AUTO_STEPS
    """Optimiser steps of `--epochs auto`, where these are at least `minimum_epochs`. Of many photos 300 were as good as
    700."""
    minimum_epochs: Annotated[float, Range(at_least=0, at_most=1e6)] = 1.0
    """Of auto: at least so many passes."""
    batch_size: Annotated[int, Range(at_least=1, at_most=65_536)] = 16
    """Photos in a batch."""
    accumulate: Annotated[int, Range(at_least=1)] = 1
    """Batches whose gradients are averaged into one optimiser step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Which optimiser takes the steps."""
    learning_rate: Annotated[float, Range(above=0, at_most=1e6)] = 5e-4
    """Of the pretrained backbone."""
    head_lr_mult: Annotated[float, Range(at_least=0, at_most=1e6)] = 10.0
    """New layers learn this many times faster than the backbone."""
    bias_lr_mult: Annotated[float, Range(at_least=0, at_most=1e6)] = 1.0
    """Biases and norms learn this many times faster than the weights beside them (Caffe's solvers: 2)."""
    weight_decay: Annotated[float, Range(at_least=0, at_most=1e6)] = 1e-2
    """On weights of two and more dimensions."""
    start_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """Draw the backbone's weights back to the pretrained ones, after each step by so many times its learning rate of
    the way (L2-SP, Li et al., ICML 2018): so that it keeps what tells classes of new photos apart. 0: not."""
    decay_biases: bool = False
    """Also on biases and norms, as PyTorch's own optimisers do."""
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.9
    """For sgd."""
    nesterov: bool = False
    """For sgd."""
    warmup: Annotated[float, SHARE] = 0.03
    """Share of the steps over which the learning rate grows from 0."""
    power: Annotated[float, NOT_NEGATIVE] = 0.9
    """Poly schedule: the learning rate falls as (1 - progress)^power."""
    milestones: Annotated[tuple[float, ...], NOT_NEGATIVE] = ()
    """Epochs at whose start the learning rate falls to a tenth; with `power` 0, a schedule in steps."""
    max_grad_norm: Annotated[float, NOT_NEGATIVE] = 5.0
    """Gradients of a larger norm are scaled down to it; 0: never."""
    precision: compute.Precision = "auto"
    """Of the forward pass; auto: bfloat16 where the hardware multiplies it natively, else float32."""
    workers: Annotated[int | None, THREADS, DecidesNothing()] = None
    """Processes that read and augment photos. None: none on a CPU (a thread does it), one a core on an accelerator."""
    compile: Annotated[bool, DecidesNothing()] = False
    """Compile the network (torch.compile): worth it for long trainings on a GPU."""
    shard_weights: Annotated[bool, DecidesNothing()] = False
    """Of several processes: each keeps a part of the backbone's weights, gradients and optimiser state (FSDP), for
    backbones that do not fit one device."""
    checkpoint_minutes: Annotated[float, NOT_NEGATIVE, DecidesNothing()] = 2.0
    """How much work an interruption may cost."""
    tracker: Annotated[str | None, DecidesNothing()] = None
    """Also log to an accelerate tracker (tensorboard, wandb, ...), which must be installed."""

    def __post_init__(self) -> None:
        check_values(self, "train")
        if self.learning_rate * self.start_decay > 1:
            raise InputError(
                f"--train.start-decay {number(self.start_decay)} draws weights beyond those that they started from "
                f"at a learning rate of {number(self.learning_rate)}: give at most {number(1 / self.learning_rate)}"
            )

    def resolved(self, per_epoch: int) -> TrainSettings:
        """The same, with a number of epochs; ``per_epoch`` are steps."""
        if self.epochs != "auto":
            return self
        return replace(self, epochs=max(self.minimum_epochs, self.auto_steps / per_epoch))

    def steps(self, per_epoch: int) -> int:
        """Of a training whose epochs have so many."""
        epochs = self.resolved(per_epoch).epochs
        assert epochs != "auto"
        return max(1 if epochs else 0, round(epochs * per_epoch))

    def times(self, factor: float) -> TrainSettings:
        """The same training, so many times as long; of auto, so many times five epochs, or the share of them that its
        steps are of 300."""
        auto = AUTO_EPOCHS * self.auto_steps / AUTO_STEPS
        return replace(self, epochs=factor * (auto if self.epochs == "auto" else self.epochs))

    def shortened(self, share: float, photos: int) -> tuple[float, TrainSettings]:
        """Its epochs over so many photos, and the same training for that share of them, but at least one epoch (never
        longer than it is)."""
        per_epoch = max(1, round(photos / self.batch_size))
        usual = self.steps(per_epoch) / per_epoch if self.epochs == "auto" else self.epochs
        epochs = min(usual, max(1.0, share * usual))
        factor = epochs / usual if usual else 1.0
        return usual, replace(self, epochs=epochs, milestones=tuple(m * factor for m in self.milestones))
