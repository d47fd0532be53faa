"""The methods by name: one paper, one page. A new method is one file and one line here.

A method may also live outside of this package: ``--method some_package.some_module:MyMethod`` names a class with an
attribute ``Settings``, or an :class:`Entry`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tag2mask.backbones import Backbone
from tag2mask.errors import InputError, unknown
from tag2mask.methods import apc
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.methods.cam import Cam, CamSettings
from tag2mask.methods.eps import Eps, EpsSettings
from tag2mask.methods.mcis_released import ReleasedMcis
from tag2mask.methods.mcis_settings import McisSettings
from tag2mask.methods.ppl import Ppl, PplSettings
from tag2mask.methods.text import TextMaps
from tag2mask.methods.text_settings import TOWERS, TextSettings
from tag2mask.protocols import MethodSettings, Traits
from tag2mask.training import TrainSettings


@dataclass(frozen=True)
class Entry:
    """How a method is built, set and trained."""

    build: Callable[[Backbone, int, Any], nn.Module]
    """(backbone, number of foreground classes, settings) to the method."""
    settings: type
    """The class of its settings (:class:`tag2mask.protocols.MethodSettings`)."""
    line: str
    """For `tag2mask list methods`."""
    train: Callable[[TrainSettings], TrainSettings] = lambda settings: settings
    """From the training of a classifier to this method's, where its loss wants another."""
    backbone: str | None = None
    """The backbone in the place of the default one, where the method needs one of another kind."""


def _some_epochs(train: TrainSettings) -> TrainSettings:
    """With many photos, more than one epoch: five, of a shorter training fewer."""
    return replace(train, minimum_epochs=train.times(1).epochs) if train.epochs == "auto" else train


METHODS: dict[str, Entry] = {
    "cam": Entry(Cam, CamSettings, "class activation maps of a multi-label classifier (Zhou et al., CVPR 2016)"),
    "eps": Entry(
        Eps,
        EpsSettings,
        "softmax maps taught by saliency maps, which it needs (Lee et al., CVPR 2021)",
        _some_epochs,
    ),
    "mcis": Entry(
        ReleasedMcis,
        McisSettings,
        "mining cross-image semantics, co-attention of photos (Sun et al., ECCV 2020)",
        # a pair is two photos: as many photos and steps as a classifier's; twice that gains nothing (docs/log.md)
        lambda train: replace(train.times(1 / 2), batch_size=max(1, train.batch_size // 2)),
    ),
    "ppl": Entry(
        Ppl,
        PplSettings,
        "progressive patch learning, implicit or explicit (Li et al., TMM 2022)",
        _some_epochs,
    ),
    "apc": Entry(
        apc.build,
        ApcSettings,
        "adaptive patch contrast, itself a segmenter (Wu et al., EAAI 2025)",
        # single patches carry the gradient: at a classifier's rate the tags are never learnt (docs/log.md)
        lambda train: replace(train.times(2), learning_rate=train.learning_rate / 5),
    ),
    "text": Entry(
        TextMaps,
        TextSettings,
        "maps of the tags' words by CLIP or SigLIP 2, nothing is trained (Lin et al., CVPR 2023)",
        backbone=next(iter(TOWERS)),
    ),
}


def entry(name: str) -> Entry:
    """The entry of a method: one of :data:`METHODS`, or ``package.module:Class`` from anywhere.

    Raises:
        InputError: there is no such method; the nearest ones are in the message.
    """
    if name == "smaf":
        raise InputError(
            "smaf trains students on a method's maps: give --recipe smaf for the paper's pipeline (EPS, then smaf), or "
            "--self-train smaf with any --method"
        )
    if ":" in name:
        return _imported(name)
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def _imported(name: str) -> Entry:
    module, _, attribute = name.partition(":")
    try:
        imported = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"--method {name}: {error}; give package.module:Class of something that Python can import from here"
        ) from error
    if isinstance(imported, Entry):
        return imported
    settings = vars(imported).get("Settings") if isinstance(imported, type) else None
    if not (isinstance(settings, type) and is_dataclass(settings) and isinstance(settings(), MethodSettings)):
        raise InputError(
            f"--method {name}: give an Entry of tag2mask.methods, or a class whose attribute Settings is a frozen "
            "dataclass with a property traits"
        )
    return Entry(imported, settings, (imported.__doc__ or "").strip().partition("\n")[0])


def flag(name: str) -> str:
    """How the flags of a method's own settings begin: ``cam``, or ``my_method`` for ``package.module:MyMethod``."""
    own = name.rpartition(":")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", own).lower()


def source(name: str) -> Path | None:
    """The file of a method from outside of this package: what is in it decides what comes out."""
    if ":" not in name:
        return None
    file = importlib.import_module(name.partition(":")[0]).__file__
    return None if file is None else Path(file)


def traits(settings: object) -> Traits:
    """What a method with these settings of its own needs and gives."""
    assert isinstance(settings, MethodSettings), type(settings)
    return settings.traits


def build(name: str, backbone: Backbone, classes: int, settings: object | None = None) -> nn.Module:
    """The method ``name`` on this backbone.

    Raises:
        InputError: an unknown name, or settings that do not go with the backbone.
    """
    method = entry(name)
    return method.build(backbone, classes, method.settings() if settings is None else settings)
