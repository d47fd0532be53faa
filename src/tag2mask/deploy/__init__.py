"""A trained segmenter without its run: opened from Python, kept as a bundle, exported to ONNX."""

from tag2mask.deploy.bundle import write_bundle
from tag2mask.deploy.segmenter import Prediction, Segmenter, load

__all__ = ["Prediction", "Segmenter", "load", "write_bundle"]
