"""What a report shows, as plain data that whoever made a run fills. What is empty is left out of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tag2mask.evaluate import OracleSweep, Scores, TagAgreement
from tag2mask.training import TagPrecision
from tag2mask.types import LocalizationMaps


@dataclass(frozen=True)
class StageTime:
    """A stage of the run, as done."""

    name: str
    seconds: float
    images: int | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores with a name. The last one of a report that is no oracle is taken for the run's product."""

    name: str  # of what was scored: "Maps", "Pseudo masks", "Segmenter"
    scores: Scores
    photos: str = ""  # on what: "222 val photos, no tags given"
    oracle: bool = False  # of something trained on true masks: a yardstick, stamped so and kept out of the headline


@dataclass(frozen=True)
class GalleryRow:
    """One photo with what the run made of it. Absent pictures are left out of the page."""

    id: str
    image: np.ndarray  # [height width 3] uint8
    tags: Sequence[int] | frozenset[int] | None = None  # foreground classes; None: untagged
    maps: LocalizationMaps | None = None
    propagated: LocalizationMaps | None = None  # the maps after propagation
    unrefined: np.ndarray | None = None  # [height width] uint8, the mask straight from the maps
    mask: np.ndarray | None = None  # [height width] uint8, the pseudo mask
    relabelled: np.ndarray | None = None  # [height width] uint8, the segmenter's own, tags known
    prediction: np.ndarray | None = None  # [height width] uint8, the segmenter's
    truth: np.ndarray | None = None  # [height width] uint8
    score: float | None = None  # percent mean IoU of this photo
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. Only the first three are needed; what is empty is left out of the page."""

    title: str
    classes: tuple[str, ...]  # foreground
    created: str  # date and time, as it is to be read
    command: str = ""
    supervision: Sequence[str] = ()  # what the run was told: "tags of 584 photos"
    oracle: bool = False  # true masks took part: a loud banner, the run is no weakly supervised one
    scores: Sequence[ScoreTable] = ()
    agreements: Sequence[tuple[str, TagAgreement]] = ()  # name, masks against tags
    tag_precision: Sequence[TagPrecision] = ()  # of the method, on photos held out of its training
    doubted_tags: tuple[int, int, int] | None = None
    # tags that look wrong, that look missing, photos judged; None: nobody judged them
    photos: Mapping[str, int] = field(default_factory=dict)  # split -> photos
    class_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)  # split -> photos tagged, by class
    background_photos: Mapping[str, int] = field(default_factory=dict)  # split -> photos tagged with no class
    galleries: Mapping[str, Sequence[GalleryRow]] = field(default_factory=dict)  # "Worst" -> rows
    stages: Sequence[StageTime] = ()
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    # training -> loss -> (step, value)
    sweep: OracleSweep | None = None
    risk: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    # split -> (percent of the photos, those of least need first; mean of their own mean IoU)
    settings: Mapping[str, Any] = field(default_factory=dict)
    passport: Mapping[str, Any] = field(default_factory=dict)  # what the run knew, for programs
    warnings: Sequence[str] = ()  # photos set aside, and the like
    environment: Mapping[str, str] = field(default_factory=dict)  # name -> version
    peak_memory: int | None = None  # bytes

    @property
    def product(self) -> ScoreTable | None:
        """The scores that the run is about: the last that are of no oracle."""
        own = [table for table in self.scores if not table.oracle]
        return own[-1] if own else None
