"""The methods by name: one paper, one page. A new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tag2mask.backbones import Backbone, vgg16
from tag2mask.backbones.weights import read_state_dict
from tag2mask.errors import InputError, unknown
from tag2mask.methods import apc
from tag2mask.methods.apc import ApcSettings
from tag2mask.methods.cam import Cam, CamSettings
from tag2mask.methods.eps import Eps, EpsSettings
from tag2mask.methods.mcis import Mcis, McisSettings
from tag2mask.methods.ppl import Ppl, PplSettings
from tag2mask.train import TrainSettings


@dataclass(frozen=True)
class Entry:
    """What builds a method, its settings' class, and one line for `tag2mask list methods`."""

    build: Any
    settings: type
    line: str
    train: Callable[[TrainSettings], TrainSettings] = lambda settings: settings
    """From the training of a classifier to this method's, where its loss wants another."""
    chosen_on_truth: bool = False
    """Whether defaults of its own, or of its training, were chosen on VOC's truth: the report says so."""


METHODS: dict[str, Entry] = {
    "cam": Entry(Cam, CamSettings, "class activation maps of a multi-label classifier (Zhou et al., CVPR 2016)"),
    "eps": Entry(Eps, EpsSettings, "softmax maps taught by saliency maps, which it needs (Lee et al., CVPR 2021)"),
    "mcis": Entry(
        Mcis,
        McisSettings,
        "mining cross-image semantics, co-attention of photos (Sun et al., ECCV 2020)",
        # a pair is two photos: as many photos and steps as a classifier's; twice that gains nothing (docs/log.md)
        lambda train: replace(train, epochs=train.epochs / 2, batch_size=max(1, train.batch_size // 2)),
        chosen_on_truth=True,  # whom the co-attention losses teach, and when the contrastive ones begin
    ),
    "ppl": Entry(Ppl, PplSettings, "progressive patch learning, implicit or explicit (Li et al., TMM 2022)"),
    "apc": Entry(
        apc.build,
        ApcSettings,
        "adaptive patch contrast, itself a segmenter (Wu et al., EAAI 2025)",
        # single patches carry the gradient: at a classifier's rate the tags are never learnt (docs/log.md)
        lambda train: replace(train, epochs=2 * train.epochs, learning_rate=train.learning_rate / 5),
        chosen_on_truth=True,
    ),
}


def single_stage(settings: object) -> bool:
    """Whether a method with these settings of its own is a segmenter (:class:`tag2mask.types.Segmenter`)."""
    return bool(getattr(settings, "single_stage", False))


def entry(name: str) -> Entry:
    if name == "smaf":
        raise InputError(
            "smaf trains students on a method's maps: give --recipe smaf for the paper's road (EPS, then smaf), or "
            "--self-train smaf with any --method"
        )
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def needs_saliency(name: str) -> bool:
    """Whether the method learns from saliency maps: it says so in its class (``needs_saliency = True``)."""
    return bool(getattr(entry(name).build, "needs_saliency", False))


def build(name: str, backbone: Backbone, classes: int, settings: object | None = None) -> nn.Module:
    """The method ``name`` on this backbone.

    Raises:
        InputError: an unknown name; the nearest ones are in the message.
    """
    found = entry(name)
    return found.build(backbone, classes, found.settings() if settings is None else settings)


def released(weights: str) -> dict[str, Tensor] | None:
    """The tensors of ``--weights``, if that is a file of a whole released method, not of a backbone alone."""
    if not Path(weights).is_file():
        return None
    state = read_state_dict(Path(weights))
    return state if any(name.startswith(vgg16.RELEASED) for name in state) else None


def load_released(method: Any, weights: str) -> None:
    """Where ``weights`` holds a whole released method, what of it is not the backbone's.

    Raises:
        InputError: it is of a method that this one is not.
    """
    state = released(weights)
    if state is None:
        return
    if not hasattr(method, "load_released"):
        raise InputError(
            f"{weights} is a checkpoint of a whole released method and {type(method).__name__} is another: "
            "use --recipe mcis/official, or the weights of a backbone alone"
        )
    method.load_released(state, weights)
