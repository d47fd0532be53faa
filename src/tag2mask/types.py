"""The nouns that flow through the pipeline, and the label convention.

Label convention, the only one in the code: foreground class ``c`` is column ``c`` of label vectors and of
localization maps. In masks 0 is background, ``c + 1`` is class ``c`` and 255 is "do not care".

Dimension words, one meaning each: ``batch``, ``classes`` (foreground), ``present`` (foreground classes of this
image), ``height width`` (pixels), ``rows columns`` (feature grid), ``channels``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar

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
class PhotoFacts:
    """What the check of a photo found out."""

    height: int  # pixels, upright
    width: int
    digest: str  # of the file's bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo and what is known about it. Holds paths, never pixels."""

    id: str  # unique in its split; may contain "/" (naming.safe_name makes the artefacts' relative path of it)
    image_path: Path
    labels: frozenset[int] | None  # foreground classes from the tags; empty: it shows none of them; None: not known
    domain: Domain = "target"
    saliency_path: Path | None = None
    mask_path: Path | None = None  # truth, for evaluation only: nobody but evaluate.py opens it
    all_background: bool = False  # truth too: nobody drew a mask, and the tags say that it shows none of the classes
    split: str = ""  # the split it was read from; "" for photos to predict

    @property
    def has_truth(self) -> bool:
        """Whether it can be measured on."""
        return self.mask_path is not None or self.all_background

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


class Views(Protocol):
    """What a network is given: views of photos or, in their place, what a frozen trunk made of them."""

    @property
    def images(self) -> Tensor:
        """``[batch 3 height width]`` float32, normalised as the backbone asks; or the stored output of the frozen
        trunk, ``[batch channels rows columns]``."""
        ...

    @property
    def stored(self) -> bool:
        """Whether ``images`` holds the frozen trunk's output."""
        ...

    @property
    def valid(self) -> Tensor | None:
        """``[batch height width]`` bool, False on padding; None: there is none."""
        ...


@dataclass(frozen=True)
class Photos:
    """Views of photos of which nothing else is known."""

    images: Tensor  # as of Views
    stored: bool = False
    valid: Tensor | None = None


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixels in [0, 1]."""


def normalise(images: Tensor, normalisation: Normalisation) -> Tensor:
    """``[... 3 height width]`` uint8 to float32 with the backbone's mean and standard deviation."""
    mean, std = _constants(normalisation, images.device)
    return images.float().sub_(mean).div_(std)


@functools.lru_cache(maxsize=16)
def _constants(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of 8-bit pixels on the device: made once, since a copy to a GPU waits for it."""
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in normalisation)
    return mean.to(device), std.to(device)


@dataclass(frozen=True)
class Batch:
    """What a method trains on. It has no mask field: weak supervision is visible in the type.

    A source of training views gives 8-bit pixels and how they are to be normalised, which is done on the device
    (:meth:`to`); what a method sees is normalised.
    """

    ids: tuple[str, ...]
    images: Tensor  # as of Views; or uint8, where there is a normalisation
    labels: Tensor  # [batch classes] float32 multi-hot
    valid: Tensor  # [batch height width] bool, False on padding
    stored: bool = False  # as of Views
    saliency: Tensor | None = None  # [batch height width] float32 in [0, 1], for methods that ask for it
    domains: tuple[Domain, ...] = ()
    maps: Tensor | None = None  # [batch classes rows columns] in [0, 1], an earlier network's maps of these very views
    pairs: tuple[tuple[int, int], ...] | None = None
    # rows (m, n) of photos to compare, for methods that ask for it; None: nobody drew partners, () none was to be had
    normalisation: Normalisation | None = None

    def pin_memory(self) -> Batch:
        """In memory from which the copy to a GPU runs beside its work."""
        return _pinned(self)

    def to(self, device: torch.device) -> Batch:
        """On the device, normalised."""
        images, valid = _images_to(self, device), self.valid.to(device, non_blocking=True)
        optional = {"saliency": self.saliency, "maps": self.maps}
        moved = {name: None if x is None else x.to(device, non_blocking=True) for name, x in optional.items()}
        labels = self.labels.to(device, non_blocking=True)
        return replace(self, images=images, labels=labels, valid=valid, normalisation=None, **moved)


@dataclass(frozen=True)
class MaskedBatch:
    """What a segmenter trains on: images with pseudo masks (or with truth, only under ``--oracle-masks``) and tags."""

    ids: tuple[str, ...]
    images: Tensor  # as in Batch
    masks: Tensor  # [batch height width] int64 (a source gives uint8); IGNORE on padding
    labels: Tensor  # [batch classes] float32 multi-hot
    valid: Tensor  # [batch height width] bool, False on padding
    stored: bool = False
    normalisation: Normalisation | None = None  # as in Batch

    def pin_memory(self) -> MaskedBatch:
        """As of :class:`Batch`."""
        return _pinned(self)

    def to(self, device: torch.device) -> MaskedBatch:
        """On the device, normalised."""
        images, masks = _images_to(self, device), self.masks.to(device, non_blocking=True).long()
        labels, valid = (x.to(device, non_blocking=True) for x in (self.labels, self.valid))
        return MaskedBatch(self.ids, images, masks, labels, valid, self.stored)


AnyBatch = TypeVar("AnyBatch", Batch, MaskedBatch)


def _pinned(batch: AnyBatch) -> AnyBatch:
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: x.pin_memory() for name, x in tensors.items() if isinstance(x, Tensor)})


def _images_to(batch: Batch | MaskedBatch, device: torch.device) -> Tensor:
    """Images on the device, normalised there, padding at the backbone's mean colour; channels last, which is faster."""
    images = batch.images.to(device, non_blocking=True)
    if batch.normalisation is not None:
        valid = batch.valid.to(device, non_blocking=True)
        images = normalise(images, batch.normalisation).mul_(valid[:, None])
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def masked_mean(maps: Tensor, valid: Tensor) -> Tensor:
    """Mean over the cells inside the photo: ``[batch classes rows columns]`` and ``[batch height width]`` to
    ``[batch classes]``. A cell counts by its share of valid pixels."""
    weight = torch.nn.functional.adaptive_avg_pool2d(valid[:, None].float(), (maps.shape[-2], maps.shape[-1]))
    return (maps.float() * weight).sum((2, 3)) / weight.sum((2, 3)).clamp(min=1e-6)


@dataclass(frozen=True)
class LocalizationMaps:
    """Where a method sees each tagged class of one image, at feature stride."""

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


CARD = "see its card on the hub"
"""The licence of weights of which the libraries that fetch them say none."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network that took part, as a passport names it (:mod:`tag2mask.passport`)."""

    network: str
    """Its part in the run: method, text tower, refiner."""
    backbone: str
    """Which network it is."""
    source: str
    """Where its weights are from: ``package NAME``, ``hub, REPOSITORY``, ``file PATH``; ``random``."""
    digest: str | None
    """Of its weights' bytes; None: not known."""
    licence: str | None
    """Of its weights; None: not known."""
    saw_masks: bool | None
    """Whether it learned from masks; None: not known."""


@dataclass(frozen=True)
class Reference:
    """A training photo with which the photos to be localized are compared."""

    images: Tensor  # this one photo, as of Views: [1 3 height width], or its stored features [1 channels rows columns]
    classes: tuple[int, ...]  # the classes it stands for
    domain: Domain = "target"
    stored: bool = False
    valid: Tensor | None = None


def drawn_on(digest: str, key: SampleKey, photos: Mapping[SampleKey, PhotoFacts]) -> bool:
    """Whether a corrected mask is of the photo that is there now, as far as the digest of its photo was kept."""
    return not digest or (key in photos and photos[key].digest == digest)
