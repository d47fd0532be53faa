"""Saliency maps by a packaged network, for methods that learn from them when people have only photos and tags."""

from tag2mask.saliency.folder import make_saliency_maps
from tag2mask.saliency.network import SaliencyDetector, SaliencyModel, write_saliency

__all__ = ["SaliencyDetector", "SaliencyModel", "make_saliency_maps", "write_saliency"]
