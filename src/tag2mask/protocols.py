"""What the parts of the pipeline promise each other, as types that are checked by ``isinstance``.

A method declares what it needs once, in :class:`Traits`; nothing else of it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from tag2mask.types import Batch, Losses, Pretrained, Reference, Views


@dataclass(frozen=True)
class Traits:
    """What a method with certain settings needs of the pipeline, and what it gives. Known before it is built."""

    trains: bool = True
    """It learns from the photos (:class:`Trainable`). False: it has all it needs before; it is shown photos, never
    stored features."""
    class_names: bool = False
    """What it needs before all else are the classes' names (:class:`UsesClassNames`)."""
    files: tuple[Path, ...] = ()
    """Files and folders that its settings name: their content decides what comes out."""
    signals: tuple[str, ...] = ()
    """What it knows beside photos and tags: runs of which this differs do not stand in one column."""
    saliency: bool = False
    """It learns from saliency maps (:attr:`Batch.saliency`); every training photo must have one."""
    pairs: bool = False
    """It learns from pairs of photos that share a class (:attr:`Batch.pairs`)."""
    references: int = 0
    """Photos of each class that it is shown before it localizes (:class:`UsesReferences`)."""
    class_maps: bool = False
    """It scores classes cell by cell on features of the same cells (:class:`ClassMaps`)."""
    single_stage: bool = False
    """It is a segmenter, too (:class:`Segmenter`): no other is trained after it."""
    maps: Literal["evidence", "probabilities"] = "evidence"
    """evidence: at least 0, of no particular scale. probabilities: of a softmax over the classes and background, which
    has what the classes lack of one; that sets the threshold."""
    threshold_rule: str = "auto"
    """The label-free rule that suits its maps, unless the user says (:class:`tag2mask.pseudo.PseudoSettings`)."""
    whole_views: bool = False
    """It takes sums over all of a view in localization, or mirrors it: photos are not padded to share a batch."""
    inference_settings: tuple[str, ...] = ()
    """Names of its settings that training does not depend on: changing one makes the maps anew and trains nothing."""
    tuned_on_truth: tuple[str, ...] = ()
    """What of its settings was chosen by looking at true masks, one sentence each: the report says so."""


@runtime_checkable
class MethodSettings(Protocol):
    """The settings of a method: a frozen dataclass that also says what a method so set needs."""

    @property
    def traits(self) -> Traits: ...


@runtime_checkable
class Trainable(Protocol):
    """What the training loop trains: an ``nn.Module`` with losses."""

    def losses(self, batch: Any, progress: float) -> Losses | Iterator[Losses]:
        """Losses of one step; ``progress`` runs from 0 to 1 over the training. Several in turn: an optimiser step for
        each, computed when it is asked for."""
        ...


@runtime_checkable
class Localizes(Protocol):
    """A network that says where classes are: a method, or a student of its maps."""

    def localize(self, batch: Batch) -> Tensor:
        """Raw class maps ``[batch classes rows columns]`` float, larger where the class is more likely, at least 0."""
        ...


@runtime_checkable
class Method(Localizes, Protocol):
    """A weakly supervised method, an ``nn.Module``. It says where the tagged classes are; most learn it from tags
    (:class:`Trainable`)."""

    @property
    def traits(self) -> Traits: ...


@runtime_checkable
class UsesClassNames(Protocol):
    """A method that knows what its classes are called (:attr:`Traits.class_names`)."""

    def check_class_names(self, names: Sequence[str]) -> None:
        """Raises :class:`~tag2mask.errors.InputError` where these names do not go with its settings; loads nothing."""
        ...

    def take_class_names(self, names: Sequence[str]) -> Pretrained | None:
        """Keep in its state what it needs of the names, once for all photos.

        Returns:
            The pretrained network that it asked about them, for the passport; None: it asked none.

        Raises:
            InputError: what it needs for that cannot be had or does not fit.
        """
        ...


@runtime_checkable
class UsesReferences(Protocol):
    """A method that compares the photos to be localized with reference photos (:attr:`Traits.references`)."""

    def prepare_localization(self, references: Iterable[Reference]) -> None:
        """Take in the references, in the place of any before, once for all photos to come."""
        ...


@runtime_checkable
class ClassMaps(Protocol):
    """A method whose class scores are read off features, cell by cell (:attr:`Traits.class_maps`). Any such method can
    compare photos with references (:mod:`tag2mask.layers.class_references`)."""

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """Features ``[batch channels rows columns]`` and scores ``[batch classes rows columns]`` of the same cells;
        above 0 a score speaks for the class. Of each photo alone: tags play no part."""
        ...


@runtime_checkable
class PredictsTags(Method, Protocol):
    """A method that predicts a photo's tags, as it learns them."""

    def tag_scores(self, batch: Batch) -> Tensor:
        """``[batch classes]``, larger where the photo more likely shows the class. The batch's labels play no part."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Anything that gives every pixel a class, an ``nn.Module``."""

    def segment(self, views: Views) -> Tensor:
        """Logits ``[batch 1+classes rows columns]``, background first, on a grid of the model's choosing."""
        ...


@runtime_checkable
class ChecksViews(Protocol):
    """A method that cannot learn from training views of every size."""

    def check_views(self, height: int, width: int) -> None:
        """Raises :class:`~tag2mask.errors.InputError` where views of so many pixels will not do."""
        ...


@runtime_checkable
class LoadsReleased(Protocol):
    """A method of which whole networks were published."""

    def is_released(self, state: Mapping[str, Tensor]) -> bool:
        """Whether these tensors (their names as published) are a whole network of this method, not a backbone alone."""
        ...

    def load_released(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take all of them over.

        Raises:
            InputError: they are of other settings, classes or another backbone; ``source`` is named.
        """
        ...


@runtime_checkable
class DeclaresPretrained(Protocol):
    """A network with pretrained parameters outside of any :class:`~tag2mask.backbones.Backbone`."""

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """They learn at the backbone's rate, all others at that of new layers."""
        ...


@runtime_checkable
class ClipsApart(Protocol):
    """A network some of whose parameters are taught by losses that teach nothing else."""

    def clipped_apart(self) -> list[nn.Parameter]:
        """Their gradients are clipped by their own norm, so that they do not scale the others' down."""
        ...


class Refiner(Protocol):
    """Sharpens scores along image edges; the same code serves offline stages and training steps."""

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB and probabilities ``[batch labels height width]`` to probabilities."""
        ...
