"""The tags of a data set as a table for a person to correct, and to give back with ``--tags``::

    image,tags,split,domain,looks_wrong,looks_missing,doubt
    beach/7.jpg,cow,train,target,cow,dog,0.91

Photos whose tags are doubted most come first; the last three columns are not read back.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from tag2mask.data.samples import Samples
from tag2mask.data.tag_changes import check_writable
from tag2mask.errors import InputError
from tag2mask.files import atomic
from tag2mask.tag_errors import TagErrors
from tag2mask.types import Dataset, Sample

COLUMNS = ("image", "tags", "split", "domain", "looks_wrong", "looks_missing", "doubt")


def write_table(path: Path, datasets: Sequence[Dataset], errors: TagErrors) -> None:
    """Write the photos of these data sets: whole, and never over a file that somebody may have corrected.

    Args:
        datasets: of the same classes; the photos to learn from first.

    Raises:
        InputError: the file is there already, or a class whose name holds what separates tags.
    """
    refuse_existing(path)
    check_writable(datasets[0].classes)
    with atomic(path) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *_rows(datasets, errors)])


def refuse_existing(path: Path) -> None:
    """
    Raises:
        InputError: the file is there already.
    """
    if path.exists():
        raise InputError(f"{path} is there already and may hold corrections: give another --out, or remove it")


def photo_folder(dataset: Dataset) -> Path:
    """What the names of photos in the table are relative to."""
    samples = dataset.samples
    return samples.base if isinstance(samples, Samples) else samples[0].image_path.parent


def _rows(datasets: Sequence[Dataset], errors: TagErrors) -> Iterator[tuple[str, ...]]:
    base, classes = photo_folder(datasets[0]), datasets[0].classes
    samples = {sample.key: sample for dataset in datasets for sample in dataset.samples if sample.labels is not None}
    for photo in errors.photos:
        sample = samples.pop(photo.key)
        said = ";".join(photo.wrong), ";".join(photo.missing), f"{photo.doubt:.3f}"
        yield (*_of(sample, base, classes), *said)
    for sample in samples.values():
        yield (*_of(sample, base, classes), "", "", "")


def _of(sample: Sample, base: Path, classes: Sequence[str]) -> tuple[str, str, str, str]:
    inside = base in sample.image_path.parents
    name = (sample.image_path.relative_to(base) if inside else sample.image_path).as_posix()
    return name, ";".join(classes[c] for c in sorted(sample.labels or ())), sample.split, sample.domain
