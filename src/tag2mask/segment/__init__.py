"""Segmenters by name, their training loss, and their inference."""

from tag2mask.segment.inference import InferenceSettings, segment_image
from tag2mask.segment.models import SegmenterSettings, SegmenterTask, build, check, known

__all__ = ["InferenceSettings", "SegmenterSettings", "SegmenterTask", "build", "check", "known", "segment_image"]
