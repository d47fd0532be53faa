"""Backbones: a name to a feature extractor behind one small interface, and where its weights come from."""

from tag2mask.backbones.backbone import Backbone, BackboneSettings, build, check, known

__all__ = ["Backbone", "BackboneSettings", "build", "check", "known"]
