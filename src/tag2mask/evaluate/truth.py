"""The truth of a data set. The only module that opens ground-truth masks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.data import images
from tag2mask.errors import InputError
from tag2mask.types import BACKGROUND, IGNORE, Dataset, Sample


def has_truth(dataset: Dataset) -> bool:
    """Whether any photo comes with a truth mask. Opens none."""
    return any(sample.has_truth for sample in dataset.samples)


def read_truth(sample: Sample, dataset: Dataset) -> np.ndarray:
    """The truth of one photo, ``[height width]`` uint8 in our label convention.

    ``dataset.truth_values`` gives each class's value in the file; 0 is background, any other value (classes that
    were not selected, borders) becomes 255. Selecting some of VOC's classes thus ignores the others' objects. A photo
    without a mask whose tags say that it shows none of the classes is background.

    Raises:
        InputError: the mask is not of the photo's size, or is no index mask.
    """
    assert sample.has_truth, sample.id
    size = images.image_size(sample.image_path)
    if sample.mask_path is None:
        return np.full(size, BACKGROUND, np.uint8)
    mask = images.read_index_mask(sample.mask_path)
    if mask.shape != size:
        raise InputError(
            f"truth mask {sample.mask_path} is {size_text(mask.shape)} pixels but its image {sample.image_path} is "
            f"{size_text(size)}: give masks of the images' size"
        )
    return label_of_value(dataset.truth_values)[mask]


@functools.lru_cache(maxsize=8)
def label_of_value(truth_values: tuple[int, ...]) -> np.ndarray:
    labels = np.full(256, IGNORE, np.uint8)
    labels[BACKGROUND] = BACKGROUND
    labels[list(truth_values)] = np.arange(1, len(truth_values) + 1)
    labels.flags.writeable = False  # it is shared
    return labels


def size_text(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"  # width first, as people say it


def with_truth(dataset: Dataset) -> list[Sample]:
    samples = [sample for sample in dataset.samples if sample.has_truth]
    if not samples:
        raise InputError(f"data set '{dataset.name}' has no truth masks to measure against: give them with --truth")
    return samples


def write_truth_for_oracle_training(sample: Sample, dataset: Dataset, path: Path) -> None:
    """Write a photo's truth as an index mask, for ``--oracle-masks``.

    The only door through which truth reaches a segmenter. It exists to measure what full supervision would give;
    whatever is trained on these masks is not weakly supervised and must be named so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_index_mask(path, read_truth(sample, dataset))
