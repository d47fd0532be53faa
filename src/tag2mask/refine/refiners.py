"""The refiners by name, alone and one after another. A new one is a file and a line here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError, unknown
from tag2mask.protocols import Refiner
from tag2mask.refine.crf import DenseCrf, LabelCrf
from tag2mask.refine.crf_settings import PRESETS
from tag2mask.refine.par import Par
from tag2mask.refine.par_spread import ParSettings
from tag2mask.refine.proposals import MODELS, ProposalRefiner, SamModel, check_installed, loaded


@dataclass(frozen=True)
class Entry:
    """What makes a refiner, and one line for `tag2mask list refiners`."""

    build: Callable[[], Refiner]
    line: str
    check: Callable[[], object] = lambda: None
    """Raises :class:`~tag2mask.errors.InputError` where it is not installed; loads nothing."""
    load: Callable[[], object] = lambda: None
    """Fetches what it needs, so that a run knows at its start whether it can be had."""
    network: SamModel | None = None
    """The pretrained network that it runs, where it runs one."""

    @property
    def saw(self) -> str:
        """What its network was trained with, for the passport; empty: it runs none."""
        return "" if self.network is None else f"masks of other photos ({self.network.hub})"


def _proposals(name: str) -> Entry:
    return Entry(
        functools.partial(ProposalRefiner, name),
        f"parts exchanged for proposals of {MODELS[name].line}; extra sam, weights from the hub",
        functools.partial(check_installed, name),
        functools.partial(loaded, name),
        MODELS[name],
    )


def _preset(name: str, line: str) -> Entry:
    return Entry(functools.partial(DenseCrf, PRESETS[name]), line)


REFINERS: dict[str, Entry] = {
    "crf": _preset("irn", "dense CRF with the parameters for class activation maps (those of crf/irn)"),
    "crf/psa": _preset("psa", "dense CRF as AffinityNet, SEAM and EPS have it for class activation maps"),
    "crf/irn": _preset("irn", "dense CRF as IRN and SMAF have it"),
    "crf/deeplab": _preset("deeplab", "dense CRF as DeepLab-v2, ViT-PCM and EPS have it for a segmenter's softmax"),
    "crf/toco-seg": _preset("toco-seg", "dense CRF as ToCo has it for its segmenter's softmax"),
    "crf/toco-cam": _preset("toco-cam", "dense CRF as ToCo has it for its maps"),
    "crf/afa": _preset("afa", "dense CRF as AFA has it for its segmenter's softmax"),
    "crf/labels": Entry(
        LabelCrf, "dense CRF on the best label of every pixel, believed at 0.7 (SMAF; crf/irn's parameters)"
    ),
    "par": Entry(
        functools.partial(Par, ParSettings(downscale=2)),  # as in the training codes
        "pixel-adaptive refinement at half resolution (AFA, ToCo)",
    ),
    "par/full": Entry(Par, "pixel-adaptive refinement at full resolution"),
    **{name: _proposals(name) for name in MODELS},
}


@dataclass(frozen=True)
class Chain:
    """Refiners one after another; none at all changes nothing."""

    refiners: Sequence[Refiner]

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities."""
        for one in self.refiners:
            scores = one.refine(images, scores)
        return scores


@dataclass(frozen=True)
class Bounded:
    """A refiner that is given photos of at most ``long_side`` pixels: larger ones are refined small, and the
    probabilities brought back. A CRF on a 12-megapixel photo costs minutes and changes little but the very border."""

    refiner: Refiner
    long_side: int

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """As :meth:`Chain.refine`."""
        height, width = images.shape[2:]
        if max(height, width) <= self.long_side:
            return self.refiner.refine(images, scores)
        factor = self.long_side / max(height, width)
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        fewer = F.interpolate(images.float(), small, mode="area").round().to(torch.uint8)
        refined = self.refiner.refine(fewer, F.interpolate(scores, small, mode="area"))
        return F.interpolate(refined, (height, width), mode="bilinear", align_corners=False)


def entries(name: str) -> list[Entry]:
    """Of the refiners that a name stands for, which is known to be one."""
    return [REFINERS[part] for part in _split(name) if part != "none"]


def saw(name: str) -> list[str]:
    """What the networks of these refiners learned from, as signals of a passport say it; nothing of those that learn
    nothing."""
    return list(dict.fromkeys(entry.saw for entry in entries(name) if entry.saw))


def networks(name: str) -> list[SamModel]:
    """The pretrained networks that these refiners run."""
    return list(dict.fromkeys(entry.network for entry in entries(name) if entry.network is not None))


def refiner(name: str, long_side: int = 0) -> Refiner:
    """The refiner a name stands for: one of :data:`REFINERS`, several joined by commas, or ``none``.

    Args:
        long_side: photos longer than this are refined at this size; 0: never.

    Raises:
        InputError: an unknown or empty name, or ``none`` together with others.
    """
    return Bounded(_named(name), long_side) if long_side else _named(name)


def _named(name: str) -> Refiner:
    names = _split(name)
    if names == ["none"]:
        return Chain(())
    if "none" in names:
        raise InputError(f"refiner '{name}': 'none' stands alone; leave it out of the list")
    for part in names:
        if part not in REFINERS:
            raise unknown("refiner", part, [*REFINERS, "none"])
        REFINERS[part].check()
    if len(names) == 1:
        return REFINERS[names[0]].build()
    return Chain(tuple(REFINERS[part].build() for part in names))


def _split(name: str) -> list[str]:
    return [part.strip() for part in name.split(",")]
