"""What a stage of a run is: data. Its name, what it reads, what decides it, and a function that does only the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tag2mask.types import Sample

if TYPE_CHECKING:
    from tag2mask.plan.context import Context

Fact = Literal[
    "files",  # sizes and times of all photos' files
    "photos",  # the training photos, by content
    "tags",  # their tags and domains
    "saliency",  # their saliency maps, by content
    "truth",  # the true masks of the training photos, by content, and what their values mean
    "corrected masks",  # masks of training photos that people drew or accepted, if a run is to learn from them
    "val photos",
    "val truth",
    "weights",  # the file of the backbone's weights, by content
    "segmenter weights",
    "propagation weights",
    "method code",  # of a method from outside of the package
    "method files",  # that the method's settings name, by content
    "source",  # the weights of the run to start from, and what they learned
]
"""What a stage may depend on apart from settings and other stages."""

Record = dict[str, Any]
"""What a stage remembers of a photo, as JSON data: at least its ``id`` and ``split``."""


@dataclass(frozen=True)
class Part:
    """A setting that is a dataclass, without some of its fields: those read as their defaults."""

    path: str
    without: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """How an artefact is scored where truth is there, and shown in the report."""

    what: Literal["maps", "masks", "predictions"]
    title: str  # "Pseudo masks"
    split: Literal["train", "val"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage, declared. Its key is the digest of what is declared here."""

    name: str
    """Also the name of its folder in the run."""
    title: str
    """What a person is told: "maps of the training photos"."""
    reads: tuple[str, ...] = ()
    """Names of the stages whose artefacts it reads."""
    reads_if_done: tuple[str, ...] = ()
    """Those that it reads where they are there (scores measure what there is)."""
    settings: tuple[str | Part, ...] = ()
    """Dotted paths of the settings that decide it; a path to a dataclass stands for all of it."""
    facts: tuple[Fact, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    """What else decides it: parameter sets that the code brings."""
    measured: Measured | None = None
    oracle: bool = False
    """True masks took part: a yardstick, kept apart and named so wherever it shows."""


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """Trains one network; leaves ``model.safetensors``."""

    train: Callable[[Context], Mapping[str, Any] | None]
    """Does the work; what it gives is kept in the stage's manifest."""


@dataclass(frozen=True)
class PhotoWork:
    """How a per-photo stage treats a photo: read on a thread ahead, compute on the device, write on a thread behind."""

    write: Callable[[Sample, Any], Any]
    """Writes the photo's artefact; what is to be remembered of the photo (:data:`Record`), or to be added up."""
    read: Callable[[Sample], Any] = lambda sample: None
    """What computing needs of the photo."""
    compute: Callable[[Sequence[Sample], Sequence[Any]], Sequence[Any]] = lambda samples, inputs: inputs
    """Of samples that are computed together: inputs to outputs, one each."""
    batches: Callable[[Sequence[Sample]], Sequence[Sequence[Sample]]] | None = None
    """Which samples are computed together: a function of the samples alone. None: each by itself."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """For the stage's manifest."""
    zero: Any = None
    """Where what ``write`` gives is not to be kept but added up: the sum of no photos."""
    conclude: Callable[[Any], Mapping[str, Any]] | None = None
    """Of that sum, or of the records of all photos in their order (an iterable, as often as wanted), once all are done:
    more for the manifest."""


@dataclass(frozen=True, kw_only=True)
class PhotoStage(Stage):
    """Makes an artefact of each photo, or remembers something of it."""

    start: Callable[[Context], PhotoWork]
    """What the work needs (networks, thresholds) is loaded here, once."""
    suffix: str | None = ".png"
    """Of the artefacts, ``<id><suffix>``; None: records alone."""
    shows_classes: bool = True
    """Whether ``.png`` artefacts are masks of classes: the classes' names are written into the same folder."""
    split: Literal["train", "val", "all"] = "train"
    chosen: Callable[[Sequence[Sample]], Sequence[int]] | None = None
    """The places of those photos of the split that it is about, ascending; None: all."""
    files: tuple[str, ...] = ()
    """Other files that it leaves in its folder."""
    keeps_records: bool = False
    """Whether records are kept on disk (``records.jsonl``): then a photo without one is not done."""
    record: Mapping[str, tuple[type, ...]] = field(default_factory=dict)
    """What a record holds, and of which types: one that does not is damaged, and its photo not done."""
    stamp: Callable[[str], list[int]] | None = None
    """Of a photo's file: what shows, without reading it, that the photo's record is out of date."""
