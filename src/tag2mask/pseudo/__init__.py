"""Localization maps to pseudo masks. No truth is seen."""

from tag2mask.pseudo.masks import (
    at_pixels,
    best_labels,
    decide,
    index_mask,
    label_scores,
    mask_values,
    missing_classes,
    refine,
    shows_object,
)
from tag2mask.pseudo.refined import decide_refined, lost_objects
from tag2mask.pseudo.saliency import by_saliency_rule
from tag2mask.pseudo.separation import best_separated, separation, wanted_below
from tag2mask.pseudo.settings import SALIENCY, PseudoSettings, SaliencyRule
from tag2mask.pseudo.sizes import cells_above, hardly_shown, small_on_large
from tag2mask.pseudo.thresholds import (
    BY_FEATURES,
    LEAST_MAPS,
    Threshold,
    between_threshold,
    covering_threshold,
    find_threshold,
    li_threshold,
    otsu3_threshold,
    otsu_threshold,
    score_histogram,
    threshold_of,
)

__all__ = [
    "BY_FEATURES",
    "LEAST_MAPS",
    "SALIENCY",
    "PseudoSettings",
    "SaliencyRule",
    "Threshold",
    "at_pixels",
    "best_labels",
    "best_separated",
    "between_threshold",
    "by_saliency_rule",
    "cells_above",
    "covering_threshold",
    "decide",
    "decide_refined",
    "find_threshold",
    "hardly_shown",
    "index_mask",
    "label_scores",
    "li_threshold",
    "lost_objects",
    "mask_values",
    "missing_classes",
    "otsu3_threshold",
    "otsu_threshold",
    "refine",
    "score_histogram",
    "separation",
    "shows_object",
    "small_on_large",
    "threshold_of",
    "wanted_below",
]
