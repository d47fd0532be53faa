"""Segmenters by name, their training loss, their inference, and the masks they make of their own training photos."""

from tag2mask.segment.inference import InferenceSettings, refined, segment_photo
from tag2mask.segment.models import SegmenterSettings, SegmenterTask, build, check, known
from tag2mask.segment.relabel import RelabelSettings, gate_by_tags

__all__ = [
    "InferenceSettings",
    "RelabelSettings",
    "SegmenterSettings",
    "SegmenterTask",
    "build",
    "check",
    "gate_by_tags",
    "known",
    "refined",
    "segment_photo",
]
