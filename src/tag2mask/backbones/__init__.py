"""Backbones: a name to a feature extractor behind one small interface, and where its weights come from."""

from tag2mask.backbones.build import BACKBONES, build, check_settings, known, repository, weights_digest
from tag2mask.backbones.chain import Backbone
from tag2mask.backbones.settings import BackboneSettings

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSettings",
    "build",
    "check_settings",
    "known",
    "repository",
    "weights_digest",
]
