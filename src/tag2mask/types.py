"""The nouns that flow through the pipeline, the protocols its parts promise, and the label convention.

Label convention, the only one in the code: foreground class ``c`` is column ``c`` of label vectors and of
localization maps. In masks 0 is background, ``c + 1`` is class ``c`` and 255 is "do not care".

Dimension words, one meaning each: ``batch``, ``classes`` (foreground), ``present`` (foreground classes of this
image), ``height width`` (pixels), ``rows columns`` (feature grid), ``channels``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError

BACKGROUND = 0
IGNORE = 255

Domain = Literal["target", "single-label", "web"]
DOMAINS: tuple[Domain, ...] = ("target", "single-label", "web")
"""The more a photo's tags can be relied on, the earlier."""

SampleKey = tuple[str, str]
"""(split, id): the identity of a photo in a run."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo and what is known about it. Holds paths, never pixels."""

    id: str  # unique in its split; may contain "/" (naming.safe_name makes the artefacts' relative path of it)
    image_path: Path
    labels: frozenset[int] | None  # foreground classes from the tags; empty: it shows none of them; None: not known
    domain: Domain = "target"
    saliency_path: Path | None = None
    mask_path: Path | None = None  # truth, for evaluation only: nobody but evaluate.py opens it
    split: str = ""  # the split it was read from; "" for photos to predict

    @property
    def key(self) -> SampleKey:
        """What a photo is known by in a run: photos of two splits may share an id."""
        return self.split, self.id


@dataclass(frozen=True)
class Dataset:
    """A named list of samples over an ordered set of foreground classes."""

    name: str
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    truth_values: tuple[int, ...] = ()  # value of each class in the truth masks; empty: c + 1 for class c

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError(f"data set '{self.name}' has no classes")
        if len(self.classes) > 254:
            raise InputError(
                f"data set '{self.name}' has {len(self.classes)} classes; an 8-bit mask holds at most 254 "
                "beside background and ignore: select some with --classes"
            )
        if not self.truth_values:
            object.__setattr__(self, "truth_values", tuple(range(1, len(self.classes) + 1)))
        assert len(self.truth_values) == len(self.classes)

    def __len__(self) -> int:
        return len(self.samples)

    def with_samples(self, samples: Sequence[Sample]) -> Dataset:
        """The same classes over other samples."""
        return Dataset(self.name, self.classes, samples, self.truth_values)


def label_vector(labels: frozenset[int], classes: int) -> Tensor:
    """Multi-hot ``[classes]`` float32 of a set of foreground classes."""
    vector = torch.zeros(classes)
    vector[sorted(labels)] = 1.0
    return vector


@dataclass(frozen=True)
class Batch:
    """What a method trains on. It has no mask field: weak supervision is visible in the type."""

    ids: tuple[str, ...]
    images: Tensor  # [batch 3 height width] float32, normalised as the backbone asks; or stored features, see `stored`
    labels: Tensor  # [batch classes] float32 multi-hot
    valid: Tensor  # [batch height width] bool, False on padding
    stored: bool = False  # True: `images` holds the frozen trunk's output [batch channels rows columns]
    saliency: Tensor | None = None  # [batch height width] float32 in [0, 1], for methods that ask for it
    domains: tuple[Domain, ...] = ()
    maps: Tensor | None = None  # [batch classes rows columns] in [0, 1], an earlier network's maps of these very views
    pairs: tuple[tuple[int, int], ...] | None = None
    # rows (m, n) of photos to compare, for methods that ask for it; None: nobody drew partners, () none was to be had

    def to(self, device: torch.device) -> Batch:
        saliency = None if self.saliency is None else self.saliency.to(device)
        maps = None if self.maps is None else self.maps.to(device)
        images, labels, valid = self.images.to(device), self.labels.to(device), self.valid.to(device)
        return replace(self, images=images, labels=labels, valid=valid, saliency=saliency, maps=maps)


@dataclass(frozen=True)
class MaskedBatch:
    """What a segmenter trains on: images with pseudo masks (or with truth, only under ``--oracle-masks``) and tags."""

    ids: tuple[str, ...]
    images: Tensor  # as in Batch
    masks: Tensor  # [batch height width] int64; IGNORE on padding
    labels: Tensor  # [batch classes] float32 multi-hot
    valid: Tensor  # [batch height width] bool, False on padding
    stored: bool = False

    def to(self, device: torch.device) -> MaskedBatch:
        images, masks = self.images.to(device), self.masks.to(device)
        return MaskedBatch(self.ids, images, masks, self.labels.to(device), self.valid.to(device), self.stored)


def masked_mean(maps: Tensor, valid: Tensor) -> Tensor:
    """Mean over the cells inside the photo: ``[batch classes rows columns]`` and ``[batch height width]`` to
    ``[batch classes]``. A cell counts by its share of valid pixels."""
    weight = torch.nn.functional.adaptive_avg_pool2d(valid[:, None].float(), (maps.shape[-2], maps.shape[-1]))
    return (maps.float() * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)


@dataclass(frozen=True)
class LocalizationMaps:
    """Where a method looks for each tagged class of one image, at feature stride."""

    id: str
    classes: tuple[int, ...]  # the present foreground classes, ascending
    scores: np.ndarray  # [present rows columns] float16 in [0, 1]
    size: tuple[int, int]  # (height, width) of the image in pixels
    covered: float | None = None
    # of a method that scores background too: the share of cells where tags are likelier than not; else None

    def __post_init__(self) -> None:
        assert self.scores.ndim == 3 and len(self.scores) == len(self.classes), (self.scores.shape, self.classes)


@dataclass(frozen=True)
class PseudoMask:
    """An index mask that no person drew."""

    id: str
    mask: np.ndarray  # [height width] uint8, the label convention above


@dataclass(frozen=True)
class Losses(Mapping[str, Tensor]):
    """Named scalar losses, already weighted; the training loop minimises their sum and logs each."""

    terms: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.terms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def total(self) -> Tensor:
        return torch.stack(tuple(self.terms.values())).sum()


@runtime_checkable
class Method(Protocol):
    """A weakly supervised method. An ``nn.Module`` that promises these two, and may say how it wants to be taught
    (``parameter_groups``, ``learnt_apart``: :mod:`tag2mask.train`)."""

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Losses of one step; ``progress`` runs from 0 to 1 over the training."""
        ...

    def localize(self, images: Tensor, labels: Tensor, *, stored: bool = False) -> Tensor:
        """Raw class maps ``[batch classes rows columns]``, larger where the class is more likely, at least 0."""
        ...


@dataclass(frozen=True)
class Reference:
    """A photo beside which others are looked at."""

    images: Tensor  # this one photo [1 3 height width], normalised; or its stored features [1 channels rows columns]
    classes: tuple[int, ...]  # the classes it stands for
    domain: Domain = "target"


@runtime_checkable
class Compares(Protocol):
    """A method that may look at a photo beside others. Its ``localize`` also takes ``domains``, one a photo.

    Its settings say what it wants: ``pairs`` (True: batches with :attr:`Batch.pairs`), ``beside`` (how many references
    of each class), ``looks_only`` (names of the settings that change where it looks and nothing that it learns).
    """

    def prepare_localization(self, references: Iterable[Reference], *, stored: bool = False) -> None:
        """Look at the references, in the place of any before, once for all photos to come."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Anything that gives every pixel a class. A method that promises this too is single-stage."""

    def segment(self, images: Tensor, *, stored: bool = False) -> Tensor:
        """Logits ``[batch 1+classes rows columns]``, background first, on a grid of the model's choosing."""
        ...


class Refiner(Protocol):
    """Sharpens scores along image edges; the same code serves offline stages and training steps."""

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB and probabilities ``[batch labels height width]`` to probabilities."""
        ...
