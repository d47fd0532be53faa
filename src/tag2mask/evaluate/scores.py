"""Scores: everything measured of masks against truth, as sums that add up.

All figures are percent. The mean IoU is the one of PASCAL VOC (Everingham et al., IJCV 2010; devkit ``VOCevalseg``):
one confusion matrix over the whole split, background is a class, pixels whose truth is 255 are skipped. It is not
the mean of per-image values.

A mask may leave pixels undecided (255). They are counted both ways: ``mean_iou`` takes an undecided pixel for a miss
of its true class, ``decided_mean_iou`` leaves it out; ``coverage`` says how many pixels that concerns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask.errors import InputError, listed
from tag2mask.evaluate.classes import with_background
from tag2mask.evaluate.counting import boundary_counts, confusion_matrix
from tag2mask.evaluate.false_alarms import FalseAlarms
from tag2mask.evaluate.figures import mean, percent, plain
from tag2mask.types import IGNORE


@dataclass(frozen=True, eq=False)
class Scores:
    """Counts over photos. Everything else is a property, in percent; NaN where nothing was counted.

    Attributes:
        class_names: background first.
        confusion: ``[n n+1]`` int64, truth in rows, prediction in columns, undecided pixels in the last column.
        boundary: ``[2 n]`` int64, intersections and unions of boundary bands, summed over images.
        photos: masks compared.
        left_out: photos with truth that were left out, having no mask.
        ignored: pixels of the masks compared whose truth is 255 or no class of these.
        false_alarms: what is shown on photos whose truth is background alone.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    boundary: np.ndarray
    photos: int = 0
    left_out: int = 0
    ignored: int = 0
    false_alarms: FalseAlarms = FalseAlarms()

    def __post_init__(self) -> None:
        n = len(self.class_names)
        assert self.confusion.shape == (n, n + 1) and self.boundary.shape == (2, n), (self.confusion.shape, n)

    @classmethod
    def none(cls, classes: Sequence[str], left_out: int = 0) -> Scores:
        """Nothing counted yet. ``classes`` are the foreground classes."""
        names = with_background(classes)
        n = len(names)
        return cls(names, np.zeros((n, n + 1), np.int64), np.zeros((2, n), np.int64), left_out=left_out)

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Scores:
        """Of one image: two ``[height width]`` uint8 masks."""
        names = with_background(classes)
        n = len(names)
        confusion = confusion_matrix(truth, predicted, n)
        return cls(
            names,
            confusion,
            boundary_counts(truth, predicted, n),
            photos=1,
            ignored=int((truth == IGNORE).sum()),
            false_alarms=FalseAlarms.of(confusion),
        )

    def __add__(self, other: Scores) -> Scores:
        """The scores of both together: counts add, so this is the same as one pass over all images."""
        if self.class_names != other.class_names:
            raise InputError(
                f"scores over different classes cannot be merged: ({listed(self.class_names)}) and "
                f"({listed(other.class_names)})"
            )
        return Scores(
            self.class_names,
            self.confusion + other.confusion,
            self.boundary + other.boundary,
            self.photos + other.photos,
            self.left_out + other.left_out,
            self.ignored + other.ignored,
            self.false_alarms + other.false_alarms,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        counts = [(s.class_names, s.photos, s.left_out, s.ignored, s.false_alarms) for s in (self, other)]
        return (
            counts[0] == counts[1]
            and np.array_equal(self.confusion, other.confusion)
            and np.array_equal(self.boundary, other.boundary)
        )

    @property
    def pixels(self) -> int:
        """Pixels whose truth is known."""
        return int(self.confusion.sum())

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Classes that never occur in the truth: nothing says how well they are shown."""
        counted = zip(self.class_names[1:], self.truth_pixels[1:].tolist(), strict=True)
        return tuple(name for name, pixels in counted if not pixels)

    @property
    def hits(self) -> np.ndarray:
        """``[n]`` pixels of each label predicted as it."""
        return np.diagonal(self.confusion)

    @property
    def truth_pixels(self) -> np.ndarray:
        """``[n]`` pixels that are each label."""
        return self.confusion.sum(axis=1)

    @property
    def predicted_pixels(self) -> np.ndarray:
        """``[n]`` pixels predicted as each label."""
        return self.confusion[:, :-1].sum(axis=0)

    @property
    def iou(self) -> np.ndarray:
        """``[n]``; an undecided pixel is a miss. NaN for a label that is neither in the truth nor predicted."""
        return percent(self.hits, self.truth_pixels + self.predicted_pixels - self.hits)

    @property
    def decided_iou(self) -> np.ndarray:
        """``[n]``, over the pixels the masks decide."""
        truth = self.confusion[:, :-1].sum(axis=1)
        return percent(self.hits, truth + self.predicted_pixels - self.hits)

    @property
    def mean_iou(self) -> float:
        """PASCAL's mean IoU over background and the classes that occur; an undecided pixel is a miss."""
        return mean(self.iou)

    @property
    def decided_mean_iou(self) -> float:
        """Mean IoU over the pixels the masks decide; says nothing without ``coverage``."""
        return mean(self.decided_iou)

    @property
    def boundary_iou(self) -> np.ndarray:
        """``[n]``, intersections and unions summed over all images before the division, as for ``iou``."""
        return percent(self.boundary[0], self.boundary[1])

    @property
    def mean_boundary_iou(self) -> float:
        return mean(self.boundary_iou)

    @property
    def precision(self) -> np.ndarray:
        """``[n]`` share of the pixels predicted as a label that are it."""
        return percent(self.hits, self.predicted_pixels)

    @property
    def recall(self) -> np.ndarray:
        """``[n]`` share of a label's pixels that are predicted as it; an undecided pixel is a miss."""
        return percent(self.hits, self.truth_pixels)

    @property
    def foreground_precision(self) -> float:
        """Share of the pixels predicted as any class that are some class: object or not, whichever object."""
        return float(percent(self.confusion[1:, 1:-1].sum(), self.confusion[:, 1:-1].sum()))

    @property
    def foreground_recall(self) -> float:
        """Share of the classes' pixels that are predicted as some class."""
        return float(percent(self.confusion[1:, 1:-1].sum(), self.confusion[1:].sum()))

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels that are right; an undecided pixel is wrong."""
        return float(percent(self.hits.sum(), self.confusion.sum()))

    @property
    def coverage(self) -> float:
        """Share of all pixels that are decided."""
        return float(percent(self.confusion[:, :-1].sum(), self.confusion.sum()))

    def to_json(self) -> dict[str, Any]:
        """Plain data, percent with four decimals; ``null`` where nothing was counted."""
        single = {
            "mean_iou": self.mean_iou,
            "decided_mean_iou": self.decided_mean_iou,
            "mean_boundary_iou": self.mean_boundary_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "coverage": self.coverage,
            "foreground_precision": self.foreground_precision,
            "foreground_recall": self.foreground_recall,
        }
        by_class = {
            "iou": self.iou,
            "decided_iou": self.decided_iou,
            "precision": self.precision,
            "recall": self.recall,
            "boundary_iou": self.boundary_iou,
        }
        return {
            **{key: plain(value) for key, value in single.items()},
            **{k: {c: plain(v) for c, v in zip(self.class_names, vs, strict=True)} for k, vs in by_class.items()},
            "unit": "percent",
            "photos": self.photos,
            "photos_with_truth": self.photos + self.left_out,
            "missing_classes": list(self.missing_classes),
            "false_alarms": self.false_alarms.to_json(),
            "pixels": self.pixels,
            "ignored_pixels": self.ignored,
            "confusion": self.confusion.tolist(),
            "boundary": self.boundary.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """Back from :meth:`to_json`: the counts are read, the figures follow from them."""
        try:
            names = tuple(content["iou"])
            confusion, boundary = (np.array(content[key], dtype=np.int64) for key in ("confusion", "boundary"))
            photos, with_truth, ignored = (int(content[k]) for k in ("photos", "photos_with_truth", "ignored_pixels"))
            alarms = FalseAlarms.from_json(content["false_alarms"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these are not scores written by tag2mask ({error!r}): evaluate again") from error
        if confusion.shape != (len(names), len(names) + 1) or boundary.shape != (2, len(names)):
            raise InputError(f"the scores' counts do not fit their {len(names)} classes: evaluate again")
        return cls(names, confusion, boundary, photos, with_truth - photos, ignored, alarms)
