"""Masks against the truth of a data set: of one photo, and of all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tag2mask.errors import InputError
from tag2mask.evaluate.scores import Scores
from tag2mask.evaluate.truth import read_truth, size_text, with_truth
from tag2mask.types import IGNORE, Dataset, Sample


def score_photo(sample: Sample, dataset: Dataset, mask: np.ndarray | None) -> Scores:
    """The scores of one photo's mask. Those of several photos add up, in any order.

    Args:
        sample: a photo of the data set with a truth mask.
        mask: ``[height width]`` uint8 in our label convention; ``None`` counts as a mask that decides nothing.

    Raises:
        InputError: the truth cannot be read, the mask is not of its size, or a value is no class's.
    """
    truth = read_truth(sample, dataset)
    if mask is None:
        mask = np.full_like(truth, IGNORE)
    if mask.shape != truth.shape:
        raise InputError(
            f"the mask of '{sample.id}' is {size_text(mask.shape)} pixels but its truth is {size_text(truth.shape)}: "
            "make the masks from the same images"
        )
    try:
        return Scores.of(truth, mask, dataset.classes)
    except InputError as error:
        raise InputError(f"'{sample.id}': {error}") from error


def evaluate_masks(
    dataset: Dataset,
    mask_of: Callable[[Sample], np.ndarray | None],
    per_photo: Callable[[str, Scores], object] | None = None,
) -> Scores:
    """Score masks against a data set's truth, one photo in memory at a time.

    Args:
        dataset: photos without a truth mask are passed over.
        mask_of: as ``mask`` of :func:`score_photo`.
        per_photo: called with the id and the scores of every photo, to find the best and the worst.

    Raises:
        InputError: as :func:`score_photo` and :func:`check_truth`; no photo has a truth mask.
    """
    scores = Scores.none(dataset.classes)
    for sample in with_truth(dataset):
        of_photo = score_photo(sample, dataset, mask_of(sample))
        if per_photo is not None:
            per_photo(sample.id, of_photo)
        scores = scores + of_photo
    check_truth(scores, f"the truth masks of data set '{dataset.name}'")
    return scores


UNSEEN = 1e-4  # share of the pixels; of truth without any class that much of 255 is no border


def check_truth(scores: Scores, name: str) -> None:
    """The truth of all photos together shows a class, or nothing but background.

    The commonest masks of one class hold 0 and 255, and 255 is "do not care" here: masks that find nothing would
    score 100.

    Args:
        scores: summed over all photos.
        name: of the truth, for the error.

    Raises:
        InputError: no class occurs, and a part of the truth is 255 or of no class.
    """
    total = scores.pixels + scores.ignored
    if scores.truth_pixels[1:].any() or scores.ignored < max(1.0, UNSEEN * total):
        return
    share = 100 * scores.ignored / total
    raise InputError(
        f"{name} show no class: their pixels are 0 (background) or, {share:.3g} % of them, 255 or another value that "
        "is skipped; if it marks the object, write 1 instead (2 for the second class, ...), or say which values stand "
        "for the classes with --truth-values"
    )
