"""Segmenters by name, their training loss, their inference, and the masks they make of their own training photos."""

from tag2mask.segment.balance import LabelBalance, balance_of, decided_logits
from tag2mask.segment.build import backbone_of, build, check_settings, known
from tag2mask.segment.deeplab import DeepLab, teaches_empty, weigh_classes
from tag2mask.segment.inference import InferenceSettings, PhotoSegmenter, Segmented, folded, refined, segment_photo
from tag2mask.segment.pyramid import saw_empty
from tag2mask.segment.relabel import RelabelSettings, gate_by_tags
from tag2mask.segment.settings import SegmenterSettings
from tag2mask.segment.task import SegmenterTask

__all__ = [
    "DeepLab",
    "InferenceSettings",
    "LabelBalance",
    "PhotoSegmenter",
    "RelabelSettings",
    "Segmented",
    "SegmenterSettings",
    "SegmenterTask",
    "backbone_of",
    "balance_of",
    "build",
    "check_settings",
    "decided_logits",
    "folded",
    "gate_by_tags",
    "known",
    "refined",
    "saw_empty",
    "segment_photo",
    "teaches_empty",
    "weigh_classes",
]
