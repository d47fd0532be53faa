"""Where a refined mask is believed, photo by photo, without truth.

A refiner follows the photo's edges. Where colour does not tell the object from its surroundings it floods the photo.
The maps say roughly how large objects are: a refined mask whose objects are much larger than the unrefined one's is
not justified by them, and the unrefined one is kept. A smaller one is believed: maps overflow their objects, and a
refiner that cuts them back is right far more often than not (docs/log.md). But where next to nothing is left, the
objects were smaller than what the refiner smooths away, and the unrefined mask is kept, too.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tag2mask.pseudo.masks import decide, shows_object
from tag2mask.pseudo.settings import PseudoSettings
from tag2mask.types import PseudoMask


def decide_refined(
    id: str, classes: tuple[int, ...], scores: Tensor, refined: Tensor, settings: PseudoSettings
) -> tuple[PseudoMask, bool]:
    """The mask of the refined scores, or of the unrefined ones where those are not believed; and whether they are.

    Args:
        scores, refined: probabilities ``[1+present height width]`` before and after the refiner.
    """
    mask = decide(id, classes, refined, settings)
    if not settings.max_growth and not settings.min_growth:
        return mask, True
    unrefined = decide(id, classes, scores, settings)
    believed = not lost_objects(unrefined.mask, mask.mask, settings.min_growth)
    if settings.max_growth:
        before, after = (float(shows_object(of.mask).mean()) for of in (unrefined, mask))
        believed = believed and after <= before * settings.max_growth
    return (mask, True) if believed else (unrefined, False)


def lost_objects(before: np.ndarray, after: np.ndarray, least: float) -> bool:
    """Whether the objects of a mask ``[height width]`` cover less than ``least`` times their area of before."""
    return float(shows_object(after).mean()) < least * float(shows_object(before).mean())
