"""Maps and a saliency map to an index mask by fixed thresholds, without refinement: the rule of OAA and MCIS."""

from __future__ import annotations

import numpy as np

from tag2mask.pseudo.masks import at_pixels, mask_values, shows_object
from tag2mask.pseudo.settings import SaliencyRule
from tag2mask.types import IGNORE, LocalizationMaps, PseudoMask

MCIS_RULE = SaliencyRule()


def by_saliency_rule(maps: LocalizationMaps, saliency: np.ndarray, rule: SaliencyRule = MCIS_RULE) -> PseudoMask:
    """Maps and a saliency map to an index mask, as the released codes of OAA and MCIS do.

    With each class's map stretched to [0, 1] and the background's score ``1 - saliency``, a pixel takes the best label
    of those at or above ``foreground``, background where there is none. It is 255 where two labels conflict, and where
    the background won although the pixel stands out. So foreground lies within salient regions, unless a class
    outbids the background's score.

    Args:
        saliency: ``[height width]`` in [0, 1].
    """
    grey = np.rint(saliency * 255).astype(np.float32)  # the published thresholds are of 8-bit maps
    scores = at_pixels(maps)
    low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
    attention = ((scores - low) / (high - low + 1e-8)).numpy()
    labels = np.concatenate([1 - grey[None] / 255, attention])
    labels[labels < rule.foreground] = 0
    best = labels.argmax(0)  # the first of equals, so background where nothing counts
    mask = mask_values(maps.classes)[best]
    mask[(labels > rule.conflict).sum(0) > 1] = IGNORE
    stands_out = (grey >= rule.salient) | (attention > rule.attention).any(0)
    mask[(best == 0) & stands_out] = IGNORE
    if shows_object(mask).mean() < rule.minimum:
        mask[:] = IGNORE
    return PseudoMask(maps.id, mask)
