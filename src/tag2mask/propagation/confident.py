"""The parts of localization maps that can be relied on: what a network of affinities learns from. No truth is seen."""

from __future__ import annotations

import numpy as np
import torch

from tag2mask import pseudo
from tag2mask.propagation.settings import PropagationSettings
from tag2mask.refine import dense_crf_from_labels
from tag2mask.types import IGNORE, LocalizationMaps


def confident_labels(maps: LocalizationMaps, image: np.ndarray, settings: PropagationSettings) -> np.ndarray:
    """Index mask ``[height width]`` uint8 of the regions to learn from (IRN, Sec. 5.1 and its code).

    Foreground where a class beats the constant background ``settings.foreground`` after a CRF on labels; background
    where nothing beats ``settings.background`` after another; 255 elsewhere.

    Args:
        image: ``[height width 3]`` uint8 RGB.
    """
    present = len(maps.classes)
    if not present:
        return np.zeros(maps.size, np.uint8)

    def at(threshold: float) -> np.ndarray:
        scores = pseudo.label_scores(maps, threshold, pseudo.PseudoSettings(background="constant"))
        labels = pseudo.best_labels(scores).to(torch.uint8).numpy()
        return dense_crf_from_labels(image, labels, 1 + present, gt_prob=0.7, preset="irn").argmax(0)

    sure, loose = at(settings.foreground), at(settings.background)
    out = pseudo.mask_values(maps.classes)[sure]
    out[(sure == 0) & (loose != 0)] = IGNORE
    return out
