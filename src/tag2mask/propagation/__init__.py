"""Propagation of maps along affinities: networks that learn them, affinities that need no training, the random walk."""

from tag2mask.propagation.affinities import of_colours, of_features, of_network
from tag2mask.propagation.attention import attend, of_attention, of_tokens
from tag2mask.propagation.confident import confident_labels
from tag2mask.propagation.network import AffinityNet, depths, pair_losses
from tag2mask.propagation.propagations import PROPAGATIONS, Propagation, propagate, propagation
from tag2mask.propagation.settings import PropagationSettings

__all__ = [
    "PROPAGATIONS",
    "AffinityNet",
    "Propagation",
    "PropagationSettings",
    "attend",
    "confident_labels",
    "depths",
    "of_attention",
    "of_colours",
    "of_features",
    "of_network",
    "of_tokens",
    "pair_losses",
    "propagate",
    "propagation",
]
