"""Refiners: sharpen class scores along the edges of a photo. Each is also a plain function to use alone."""

from tag2mask.refine.crf import DenseCrf, LabelCrf, dense_crf, dense_crf_from_labels
from tag2mask.refine.crf_settings import PRESETS, CrfSettings
from tag2mask.refine.par import Par, par, pixel_adaptive
from tag2mask.refine.par_spread import ParSettings
from tag2mask.refine.proposals import ProposalRefiner, Proposer
from tag2mask.refine.refiners import REFINERS, Bounded, Chain, Entry, entries, networks, refiner, saw
from tag2mask.refine.walk import random_walk

__all__ = [
    "PRESETS",
    "REFINERS",
    "Bounded",
    "Chain",
    "CrfSettings",
    "DenseCrf",
    "Entry",
    "LabelCrf",
    "Par",
    "ParSettings",
    "ProposalRefiner",
    "Proposer",
    "dense_crf",
    "dense_crf_from_labels",
    "entries",
    "networks",
    "par",
    "pixel_adaptive",
    "random_walk",
    "refiner",
    "saw",
]
