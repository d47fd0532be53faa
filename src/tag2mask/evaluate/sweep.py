"""The oracle sweep: how good maps could be with the best constant threshold. It sees the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask.errors import InputError
from tag2mask.evaluate.figures import mean, percent, plain
from tag2mask.evaluate.truth import read_truth, with_truth
from tag2mask.pseudo import at_pixels
from tag2mask.types import IGNORE, Dataset, LocalizationMaps, Sample

SWEEP = tuple(round(0.01 * step, 2) for step in range(1, 100))  # of scores in [0, 1]; a hundredth is below their noise


@dataclass(frozen=True, eq=False)
class OracleSweep:
    """Figures of "best class where its score exceeds a threshold" for many thresholds, from counts that add up.

    Every pixel with known truth is counted once, by the number of thresholds that its best score exceeds; what each
    threshold makes of it is a cumulative sum, so the cost does not grow with the number of thresholds.

    An oracle: no threshold that is used may come from here.

    Attributes:
        thresholds: ascending; T of them.
        truth: ``[n]`` int64, pixels that are each label, background first.
        undecided: ``[n]``, those of them on photos without maps.
        best: ``[n-1 T+1]``, pixels of each best class by the number of thresholds exceeded.
        hits: ``[n-1 T+1]``, those of them that are this class.
        objects: ``[T+1]``, those of them that are any class.
    """

    thresholds: tuple[float, ...]
    truth: np.ndarray
    undecided: np.ndarray
    best: np.ndarray
    hits: np.ndarray
    objects: np.ndarray

    COUNTS = ("truth", "undecided", "best", "hits", "objects")
    FIGURES = ("mean_iou", "foreground_precision", "foreground_recall")

    @classmethod
    def none(cls, classes: int, thresholds: Sequence[float] = SWEEP) -> OracleSweep:
        """Nothing counted yet, over so many foreground classes."""
        ordered = tuple(sorted({round(float(t), 6) for t in thresholds}))
        assert ordered, "at least one threshold"
        labels, steps = classes + 1, len(ordered) + 1
        shapes = ((labels,), (labels,), (classes, steps), (classes, steps), (steps,))
        return cls(ordered, *(np.zeros(shape, np.int64) for shape in shapes))

    def __add__(self, other: OracleSweep) -> OracleSweep:
        """Of both together."""
        if self.thresholds != other.thresholds or self.truth.shape != other.truth.shape:
            raise InputError("sweeps over different thresholds or classes cannot be added up")
        return OracleSweep(self.thresholds, *(getattr(self, c) + getattr(other, c) for c in self.COUNTS))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OracleSweep):
            return NotImplemented
        equal = (np.array_equal(getattr(self, c), getattr(other, c)) for c in self.COUNTS)
        return self.thresholds == other.thresholds and all(equal)

    @property
    def mean_iou(self) -> tuple[float, ...]:
        """Percent, at each threshold."""
        shown, hits, objects = (_above(counts) for counts in (self.best, self.hits, self.objects))
        decided = self.truth - self.undecided
        background = decided.sum() - shown.sum(axis=0)
        background_hits = decided[0] - (shown.sum(axis=0) - objects)
        predicted, right = np.vstack([background, shown]), np.vstack([background_hits, hits])
        iou = percent(right, self.truth[:, None] + predicted - right)
        return tuple(mean(column) for column in iou.T)

    @property
    def foreground_precision(self) -> tuple[float, ...]:
        """Percent, at each threshold; NaN where one leaves no foreground."""
        return tuple(percent(_above(self.objects), _above(self.best).sum(axis=0)).tolist())

    @property
    def foreground_recall(self) -> tuple[float, ...]:
        """Percent, at each threshold."""
        return tuple(percent(_above(self.objects), self.truth[1:].sum()).tolist())

    @property
    def best_constant(self) -> tuple[float, float]:
        """Threshold and mean IoU of the best one; NaN where nothing was counted."""
        mean_iou = self.mean_iou
        at = int(np.nanargmax(mean_iou)) if not np.isnan(mean_iou).all() else 0
        return self.thresholds[at], mean_iou[at]

    def recall_at(self, precision: float) -> float:
        """Foreground recall, percent, of the lowest threshold that is as precise: what compares maps of different
        coverage. Between two thresholds in proportion; NaN where none is as precise."""
        return recall_at(self.foreground_precision, self.foreground_recall, precision)

    def to_json(self) -> dict[str, Any]:
        threshold, mean_iou = self.best_constant
        return {
            "oracle": True,
            "best_threshold": threshold,
            "best_mean_iou": plain(mean_iou),
            "thresholds": list(self.thresholds),
            **{name: [plain(value) for value in getattr(self, name)] for name in self.FIGURES},
            "unit": "percent",
            "counts": {name: getattr(self, name).tolist() for name in self.COUNTS},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OracleSweep:
        """Back from :meth:`to_json`: the counts are read, the figures follow from them."""
        try:
            thresholds = tuple(map(float, content["thresholds"]))
            sweep = cls(thresholds, *(np.array(content["counts"][name], np.int64) for name in cls.COUNTS))
            empty = cls.none(len(sweep.truth) - 1, thresholds)
            fits = all(getattr(sweep, c).shape == getattr(empty, c).shape for c in cls.COUNTS)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no sweep written by tag2mask ({error!r}): evaluate again") from error
        if not fits:
            raise InputError("the counts of this sweep do not fit its thresholds: evaluate again")
        return sweep


def recall_at(precisions: Sequence[float], recalls: Sequence[float], precision: float) -> float:
    """Recall of the first point of a curve that is as precise, between two points in proportion; NaN where none is."""
    curve = np.asarray(precisions)
    enough = np.flatnonzero(curve >= precision)
    if not len(enough):
        return float("nan")
    at = int(enough[0])
    if at == 0:
        return recalls[0]
    share = (precision - curve[at - 1]) / (curve[at] - curve[at - 1])
    before, after = recalls[at - 1 : at + 1]
    return float(before + share * (after - before))


def _above(counts: np.ndarray) -> np.ndarray:
    """Counts ``[.. T+1]`` by thresholds exceeded to counts ``[.. T]`` above each threshold."""
    return counts[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]


def sweep_photo(
    sample: Sample, dataset: Dataset, maps: LocalizationMaps | None, thresholds: Sequence[float] = SWEEP
) -> OracleSweep:
    """The sweep over one photo's maps. Those of several photos add up, in any order.

    Args:
        sample: a photo of the data set with a truth mask.
        maps: brought to the photo's pixels bilinearly here; ``None`` counts as undecided everywhere.
        thresholds: a pixel is foreground where its best score is larger.
    """
    sweep = OracleSweep.none(len(dataset.classes), thresholds)
    truth = read_truth(sample, dataset)
    valid = truth != IGNORE
    labels = truth[valid].astype(np.intp)
    sweep.truth[:] = np.bincount(labels, minlength=len(sweep.truth))
    if maps is None:
        sweep.undecided[:] = sweep.truth
    elif maps.classes:
        assert maps.size == truth.shape, (maps.id, maps.size, truth.shape)
        scores = at_pixels(maps).numpy()[:, valid]
        best = np.asarray(maps.classes)[scores.argmax(axis=0)]
        exceeded = np.searchsorted(np.asarray(sweep.thresholds, np.float32), scores.max(axis=0), side="left")
        cells, steps = best * sweep.best.shape[1] + exceeded, len(sweep.objects)
        sweep.best.flat[:] = np.bincount(cells, minlength=sweep.best.size)
        sweep.hits.flat[:] = np.bincount(cells[best + 1 == labels], minlength=sweep.hits.size)
        sweep.objects[:] = np.bincount(exceeded[labels > 0], minlength=steps)
    return sweep


def sweep_thresholds(
    dataset: Dataset,
    maps_of: Callable[[Sample], LocalizationMaps | None],
    thresholds: Sequence[float] = SWEEP,
) -> OracleSweep:
    """The sweep over the maps of a data set, in one pass; photos without a truth mask are passed over.

    Args:
        maps_of, thresholds: as of :func:`sweep_photo`.
    """
    sweep = OracleSweep.none(len(dataset.classes), thresholds)
    for sample in with_truth(dataset):
        sweep = sweep + sweep_photo(sample, dataset, maps_of(sample), thresholds)
    return sweep
