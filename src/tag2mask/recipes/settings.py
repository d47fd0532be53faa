"""What a run is: one frozen dataclass of settings. Each part is defined next to the code it sets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tag2mask import methods
from tag2mask.backbones import BackboneSettings
from tag2mask.data import DataSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.errors import InputError
from tag2mask.feature_store import FeatureSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.propagation import PropagationSettings
from tag2mask.protocols import Traits
from tag2mask.pseudo import PseudoSettings
from tag2mask.saliency import SelfSupervisedSettings
from tag2mask.segment import InferenceSettings, RelabelSettings, SegmenterSettings
from tag2mask.settings import NOT_NEGATIVE, SEED, SHARE, THREADS, DecidesNothing, Range, check_values
from tag2mask.training import TrainSettings


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides a run's outcome, stage by stage."""

    method: str = "cam"
    """How objects are found in tagged photos (`tag2mask list methods`), or package.module:Class."""
    options: object = field(default_factory=CamSettings)
    """The method's own settings."""
    data: Annotated[DataSettings, DecidesNothing()] = DataSettings()
    """How the data set is read: what is read decides, as facts."""
    backbone: BackboneSettings = BackboneSettings()
    augment: AugmentSettings = AugmentSettings()
    train: TrainSettings = TrainSettings(epochs="auto")
    held_out: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.1
    """Share of the photos of each class that the method does not learn from: how well it predicts their tags says
    whether it has learnt a class. Classes of fewer than 26 photos give none (at 0.1); the segmenter learns from all."""
    balance: Annotated[float, SHARE] = 1.0
    """How much more often the method is shown photos of rare classes: 1: each class as often as the most frequent one,
    but a photo at most ten times; 0.5: the root of that factor; 0: every photo once. 1 for cam, 0 for other methods.
    An epoch has more photos then."""
    localize: LocalizeSettings = LocalizeSettings(references=5)
    self_train: SelfTrainSettings = SelfTrainSettings()
    """Students that learn from the method's maps."""
    self_supervised: SelfSupervisedSettings = SelfSupervisedSettings()
    """Of `--saliency self-supervised`."""
    student_train: TrainSettings = TrainSettings(epochs=5.0)
    """Of each student; it goes on from the network whose maps it learns, but most get a new head."""
    propagate: str = "none"
    """Random walk that propagates the maps before there is a background (`tag2mask list propagations`), or none."""
    propagation: PropagationSettings = PropagationSettings()
    """Of the random walks."""
    propagation_train: TrainSettings = TrainSettings(epochs=3.0, learning_rate=1e-3)
    """Of the network that learns affinities."""
    propagation_augment: AugmentSettings = AugmentSettings(scale=(0.8, 2.0))
    """Of its views."""
    pseudo: PseudoSettings = PseudoSettings(max_growth=1.5, min_growth=0.1)
    refine: str = "crf"
    """Refiners of the masks of the maps, in order, joined by commas (`tag2mask list refiners`), or none; relabelled
    masks and those of new photos have theirs (`--relabel.refine`, `--inference.refine`)."""
    refine_long_side: Annotated[int, NOT_NEGATIVE] = 1024
    """Larger photos are refined at this many pixels a side: a CRF on 12 megapixels takes minutes. 0: as they are."""
    features: FeatureSettings = FeatureSettings()
    segmenter: SegmenterSettings = SegmenterSettings(balance=0.5)
    segmenter_augment: AugmentSettings = AugmentSettings(scale=(0.8, 2.0))
    """Larger than for the classifier: borders are learnt from detail."""
    segmenter_train: TrainSettings = TrainSettings(epochs="auto", auto_steps=150, minimum_epochs=5.0, start_decay=40.0)
    """Of the segmenter's first round."""
    relabel: RelabelSettings = RelabelSettings()
    relabel_train: TrainSettings = TrainSettings(
        epochs="auto", auto_steps=200, minimum_epochs=2.5, learning_rate=2.5e-4, start_decay=40.0
    )
    """Of each round on relabelled masks; it goes on from the weights of the round before, so half as long will do for
    many photos."""
    inference: InferenceSettings = InferenceSettings(min_growth=0.1)
    start_from: Annotated[Path | None, DecidesNothing()] = None
    """A finished run whose weights every training starts from, for the share of the epochs that the share of new photos
    is, but at least one (`--from`); what decides is what lies there, as a fact."""
    seed: Annotated[int, SEED] = 0
    """Of all random numbers."""
    with_masks: Annotated[bool, DecidesNothing()] = False
    """Also learn from the masks that people drew or accepted (`tag2mask import`): they teach the segmenter in the place
    of the run's own, and the run is no longer of tags alone, which it says; what decides is their bytes, as a fact."""
    oracle_masks: Annotated[bool, DecidesNothing()] = False
    """Also train the same segmenter on the true masks, for measuring only: what tags cost against full supervision."""
    workers: Annotated[int, THREADS, DecidesNothing()] = 0
    """Threads that decode photos and refine masks; 0: one a core, at most 16."""
    verify: Annotated[bool, DecidesNothing()] = False
    """Read the bytes of every photo again, rather than trust sizes and times of files."""
    aside_gb: Annotated[float, NOT_NEGATIVE, DecidesNothing()] = 5.0
    """Disk space for results of other settings: kept in the run, not deleted; beyond it the oldest goes first."""

    def __post_init__(self) -> None:
        check_values(self, "")

    @property
    def frozen(self) -> bool:
        """Whether a part of the backbone is not trained and its output kept on disk."""
        return self.backbone.freeze or self.backbone.freeze_until is not None

    @property
    def traits(self) -> Traits:
        """What the method, so set, needs and gives."""
        return methods.traits(self.options)

    @property
    def single_stage(self) -> bool:
        """Whether the method is the segmenter, so that no other is trained."""
        return self.traits.single_stage


def propagation_backbone(settings: RunSettings) -> BackboneSettings | None:
    """The network of its own that a propagation has; None: it has none."""
    own = settings.propagation
    return None if own.backbone is None else BackboneSettings(own.backbone, own.weights)


def with_method(settings: RunSettings, method: str) -> RunSettings:
    """The same run with another method at its default settings, trained as that method wants, on its own maps: the
    default run's balance and references are CAM's. On the backbone that the method asks for, where the run has the
    default one."""
    if method == settings.method:
        return settings
    entry = methods.entry(method)
    localize = replace(settings.localize, references=0)
    backbone = settings.backbone
    if entry.backbone is not None and backbone.name == BackboneSettings().name:
        backbone = replace(backbone, name=entry.backbone)
    return replace(
        settings,
        method=method,
        options=entry.settings(),
        train=entry.train(settings.train),
        balance=0.0,
        localize=localize,
        backbone=backbone,
    )


def settings_from(content: dict[str, Any]) -> RunSettings:
    """The settings a run stored.

    Raises:
        InputError: they are not settings of this version.
    """
    try:
        return _fill(RunSettings(), {k: v for k, v in content.items() if k != "options"}, content)
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(
            f"the run's stored settings cannot be read ({error}): run its command again, which writes them anew"
        ) from error


def _fill(default: Any, content: dict[str, Any], whole: dict[str, Any]) -> Any:
    if not isinstance(content, dict):
        raise TypeError(f"{content!r} stands for {type(default).__name__}")
    changed: dict[str, Any] = {}
    hints = get_type_hints(type(default))
    for f in fields(default):
        if f.name == "options" and isinstance(default, RunSettings):
            changed["options"] = _fill(methods.entry(whole["method"]).settings(), whole["options"], {})
        elif f.name in content:
            now, value = getattr(default, f.name), content[f.name]
            if is_dataclass(now):
                value = _fill(now, value, {})
            elif isinstance(value, list):
                value = tuple(value)
            elif value is not None and "Path" in str(f.type):
                value = Path(value)
            if not _fits(value, hints[f.name]):
                raise TypeError(f"{f.name} is {value!r}")
            changed[f.name] = value
    return replace(default, **changed)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value that was stored is of the kind that a setting takes."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    kind = get_origin(hint) or hint
    return type(value) is kind if kind in (int, bool) else not isinstance(kind, type) or isinstance(value, kind)
