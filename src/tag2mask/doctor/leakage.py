"""Photos to measure on that were learned from, saved again, mirrored or taken twice: their scores are too good."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from tag2mask.data import DataSettings
from tag2mask.data.check import CheckedImage
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.finding import Finding
from tag2mask.data.likeness import detail, near_duplicates, same_detail
from tag2mask.errors import UnreadableImage, listed, some
from tag2mask.types import Dataset, SampleKey

Pair = tuple[CheckedImage, CheckedImage, int]
KEPT = 8192  # photos whose pixels are kept, 16 kB each
LIMIT = 2000  # photos of the second split that are compared with all of the first


def shared_photos(message: str, settings: DataSettings) -> Finding:
    """Photos that are learned from and measured on."""
    advice = "what is measured on them says how well photos are learned by heart"
    if settings.shared_photos == "measure":
        return Finding("warning", message, advice)
    return Finding("error", message, f"{advice}: remove them from one split, or say --data.shared-photos measure")


def examine_leakage(checked: Mapping[str, CheckedPhotos], datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Near duplicates between splits. Equal files are an error already (:mod:`tag2mask.doctor.photos`).

    Args:
        checked: the photos of each split, the one to learn from first.
        datasets: of the same splits.
    """
    for first, second in combinations(checked, 2):
        ones, others = _with_signs(checked[first]), _with_signs(checked[second])
        whole = len(others.ids)
        others = others.take(range(0, whole, max(1, -(-whole // LIMIT))))
        if ones.ids and others.ids:
            pairs = [
                (others.check(number), ones.check(other), symmetry)
                for number, other, symmetry in near_duplicates(_signs(others), _signs(ones))
                if others.rows["digest"][number] != ones.rows["digest"][other]
            ]
            twins = _twins(pairs, _paths(pairs, (datasets[first], datasets[second])))
            if twins:
                sample = f" looked at, of {whole}," if len(others.ids) < whole else ""
                yield Finding(
                    "warning",
                    f"{len(twins)} of {some(len(others.ids), 'photo')}{sample} of '{second}' show nearly the same as a "
                    f"photo of '{first}': {listed(twins)}",
                    "scores on them are too good: keep photos of one thing in one split",
                )


def _with_signs(photos: CheckedPhotos) -> CheckedPhotos:
    return photos.take(np.flatnonzero(photos.rows["signs"] != b""))


def _signs(photos: CheckedPhotos) -> list[str]:
    return [signs.decode() for signs in photos.rows["signs"].tolist()]


def _paths(pairs: Sequence[Pair], datasets: Sequence[Dataset]) -> dict[SampleKey, Path]:
    wanted = {check.key for pair in pairs for check in pair[:2]}
    if not wanted:
        return {}
    return {sample.key: sample.image_path for dataset in datasets for sample in dataset.samples if sample.key in wanted}


def _twins(pairs: Sequence[Pair], paths: Mapping[SampleKey, Path]) -> list[str]:
    """A line for every photo that has a twin."""
    lines: dict[SampleKey, str] = {}
    read = functools.lru_cache(KEPT)(_detail)
    for one, other, symmetry in pairs:
        if one.key in lines:
            continue
        a, b = read(paths[one.key]), read(paths[other.key])
        if a is not None and b is not None and same_detail(a, b, symmetry):
            lines[one.key] = f"{one.split}/{one.id} ~ {other.split}/{other.id}"
    return [*lines.values()]


def _detail(path: Path) -> np.ndarray | None:
    try:
        return detail(path)
    except UnreadableImage:  # gone since it was checked
        return None
