"""Saliency maps by a packaged network, or by a classifier that the run trains without labels; for methods that learn
from them when people have only photos and tags."""

from tag2mask.saliency.folder import make_saliency_maps
from tag2mask.saliency.network import SaliencyDetector, SaliencyModel, write_saliency
from tag2mask.saliency.self_supervised import SelfSupervisedDetector, SelfSupervisedSaliency, SelfSupervisedSettings

__all__ = [
    "SaliencyDetector",
    "SaliencyModel",
    "SelfSupervisedDetector",
    "SelfSupervisedSaliency",
    "SelfSupervisedSettings",
    "make_saliency_maps",
    "write_saliency",
]
