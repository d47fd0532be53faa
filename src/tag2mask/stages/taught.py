"""Masks that people drew or accepted in the place of a run's own, where a run is asked to learn from them.

They teach the segmenter and stand among the relabelled masks. No stage before them sees one: maps, thresholds and
pseudo masks are of tags alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tag2mask.data.images import read_index_mask
from tag2mask.errors import InputError, UnreadableImage, listed, some
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.stage import Fact
from tag2mask.pseudo import mask_values
from tag2mask.recipes import RunSettings
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import IGNORE, Sample, SampleKey

log = logging.getLogger("tag2mask")

FACT: Fact = "corrected masks"


def taught_facts(settings: RunSettings) -> tuple[Fact, ...]:
    """What a stage that learns from corrected masks declares."""
    return (FACT,) if settings.with_masks else ()


def taught(context: Context) -> frozenset[SampleKey]:
    """The photos of which a person's mask stands in the place of the run's own."""
    return frozenset(context.corrected) if FACT in context.stage.facts else frozenset()


def corrected_mask(context: Context, sample: Sample) -> np.ndarray:
    """A person's mask ``[height width]`` uint8.

    Raises:
        InputError: it is gone or damaged, or of another size than the photo, which changed since.
    """
    path = context.corrected[sample.key]
    try:
        mask = read_index_mask(path)
    except UnreadableImage as error:
        raise InputError(_again(path, sample, str(error))) from error
    if mask.shape != context.size(sample):
        raise InputError(_again(path, sample, f"it is {mask.shape[1]}x{mask.shape[0]} pixels and the photo is not"))
    return mask


def _again(path: Path, sample: Sample, why: str) -> str:
    return f"the corrected mask of {sample.id} cannot be used ({why}): remove {path.parent}, or import it again"


def masks_to_learn(context: Context, masks: StageFolder) -> Callable[[Sample], np.ndarray]:
    """Of each photo its mask of a stage or, where there is one, a person's."""
    own, corrected = MaskReader(masks, context.classes), taught(context)
    return lambda sample: corrected_mask(context, sample) if sample.key in corrected else own(sample)


def say_untagged(context: Context, samples: Iterable[Sample]) -> None:
    """Name photos on which people painted classes that their tags leave out."""
    values = mask_values(range(len(context.classes)))[1:]
    odd = []
    for sample in samples:
        tagged = {int(values[c]) for c in sample.labels or ()}
        if set(np.unique(corrected_mask(context, sample)).tolist()) - {0, IGNORE} - tagged:
            odd.append(sample.id)
    if odd:
        log.info("%s with classes that their photos are not tagged with (%s): correct the tags, too",
                 some(len(odd), "corrected mask"), listed(odd))  # fmt: skip
