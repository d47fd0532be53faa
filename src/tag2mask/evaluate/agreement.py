"""Masks against the tags of their photos: what can be said without truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask.errors import InputError, listed
from tag2mask.evaluate.figures import percent
from tag2mask.types import IGNORE, Dataset, Sample

SPECK = 0.005  # share of a photo below which a class counts as not shown


@dataclass(frozen=True)
class TagAgreement:
    """Whether masks show what the photos' tags say, as counts that add up. Opens no truth, so it can be had for any
    data set.

    A sign, not a measure: masks of the wrong shape agree with the tags as well as right ones.
    """

    classes: tuple[str, ...]  # foreground
    photos: int  # tagged photos that have a mask
    empty: int  # of these, with a tag but no foreground pixel
    background_photos: int  # of these, tagged as showing none of the classes
    false_alarms: int  # of those in turn, whose mask shows a class
    pixels: tuple[int, ...]  # of background, of each class, undecided
    tagged_shown: tuple[int, ...]  # photos per class: tagged and shown
    tagged_missing: tuple[int, ...]  # tagged but not shown
    untagged_shown: tuple[int, ...]  # shown but not tagged

    @classmethod
    def none(cls, classes: Sequence[str]) -> TagAgreement:
        """Nothing counted yet."""
        zeros = (0,) * len(classes)
        return cls(tuple(classes), 0, 0, 0, 0, (0, *zeros, 0), zeros, zeros, zeros)

    def __add__(self, other: TagAgreement) -> TagAgreement:
        """Of both together."""
        if self.classes != other.classes:
            raise InputError(
                f"agreements over different classes cannot be added up: ({listed(self.classes)}) and "
                f"({listed(other.classes)})"
            )
        counts: dict[str, Any] = {n: _sum(v, getattr(other, n)) for n, v in vars(self).items() if n != "classes"}
        return TagAgreement(self.classes, **counts)

    @property
    def undecided(self) -> float:
        """Percent of the masks' pixels."""
        return float(percent(self.pixels[-1], sum(self.pixels)))

    @property
    def background(self) -> float:
        """Percent of the masks' pixels."""
        return float(percent(self.pixels[0], sum(self.pixels)))

    @property
    def recall(self) -> float:
        """Percent of all tags that their photo's mask shows."""
        return float(percent(sum(self.tagged_shown), sum(self.tagged_shown) + sum(self.tagged_missing)))

    @property
    def precision(self) -> float:
        """Percent of the classes shown in masks that their photo's tags name."""
        return float(percent(sum(self.tagged_shown), sum(self.tagged_shown) + sum(self.untagged_shown)))

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TagAgreement:
        """Back from :meth:`to_json`."""
        counts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        try:
            return cls(**counts)
        except TypeError as error:
            raise InputError(f"this is no agreement written by tag2mask ({error}): evaluate again") from error


def _sum(one: Any, other: Any) -> Any:
    return tuple(map(sum, zip(one, other, strict=True))) if isinstance(one, tuple) else one + other


def agreement_photo(
    sample: Sample, classes: Sequence[str], mask: np.ndarray | None, minimum: float = SPECK
) -> TagAgreement:
    """One photo's mask against its tags. Those of several photos add up, in any order.

    Args:
        sample: a photo without tags counts for nothing.
        mask: ``[height width]`` uint8 in our label convention; ``None``: the photo counts for nothing.
        minimum: share of a photo from which on a class counts as shown; below it lie stray specks.
    """
    n = len(classes)
    if sample.labels is None or mask is None:
        return TagAgreement.none(classes)
    pixels = np.bincount(mask.ravel(), minlength=256)
    shown = pixels[1 : n + 1] >= max(1.0, minimum * mask.size)
    tagged = np.isin(np.arange(n), list(sample.labels))
    return TagAgreement(
        tuple(classes),
        photos=1,
        empty=int(bool(sample.labels) and not pixels[1 : n + 1].any()),
        background_photos=int(not sample.labels),
        false_alarms=int(not sample.labels and bool(shown.any())),
        pixels=(*pixels[: n + 1].tolist(), int(pixels[IGNORE])),
        tagged_shown=tuple((shown & tagged).astype(int).tolist()),
        tagged_missing=tuple((tagged & ~shown).astype(int).tolist()),
        untagged_shown=tuple((shown & ~tagged).astype(int).tolist()),
    )


def compare_with_tags(
    dataset: Dataset, mask_of: Callable[[Sample], np.ndarray | None], minimum: float = SPECK
) -> TagAgreement:
    """Compare the masks of a data set with the tags of their photos.

    Args:
        mask_of, minimum: as ``mask`` and ``minimum`` of :func:`agreement_photo`.
    """
    agreement = TagAgreement.none(dataset.classes)
    for sample in dataset.samples:
        mask = None if sample.labels is None else mask_of(sample)
        agreement = agreement + agreement_photo(sample, dataset.classes, mask, minimum)
    return agreement
