r"""The threshold :math:`t` between classes and background, from the maps alone: no mask is seen.

A method that scores background too (EPS, every student of self-training) says itself how much of each photo is object:
the cells where the tags together have more than half of its softmax. So :math:`t` is then such that the maps of a
sample of the training photos exceed it in that share of their cells.

Otherwise it splits the largest scores of that sample into two groups, by default at the geometric mean of two classical
answers: Otsu's (IEEE Trans. SMC 1979) takes the spread in both groups for equal, so the long tail of foreground scores
pulls it up; Li's minimum cross entropy (Li and Lee, Pattern Recognition 1993) takes it to grow with the mean, and falls
low where the maps rest on a haze. Maps lie between.

Maps that come from references have three groups: background, what surrounds objects, and objects. Otsu's two take
the surroundings for object; of his three groups (section IV of his paper), the highest is the objects, but where maps
rest on an object's telling parts alone it is no more than these. How sharply a class stands out from its surroundings
differs from class to class, so these have a threshold each; the photos'
features decide where it lies between the two (:mod:`tag2mask.pseudo.separation`), and where these say nothing it is the
geometric mean of both. Where features want less than the lower one, it is half of the way there (the geometric mean):
of many dogs and cats a classifier knows the faces, and both of Otsu's thresholds part faces from bodies.

Cells see beyond themselves, so what surrounds an object has about the same width in all classes, and in the place of a
thin or tiny object there is more of it than of the object. Where a class covers less than a tenth of its photos, Otsu's
threshold of the scores above the threshold splits once more, and a mask that is not refined is made with one between
both: with their geometric mean at a tenth, with Otsu's where the class covers next to nothing. Refiners want the
surroundings: they cut them back along edges (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tag2mask.pseudo.separation import best_separated, wanted_below
from tag2mask.types import LocalizationMaps

BINS = 256
BY_CLASS = "-by-class"  # the end of the name of a rule that is asked for every class
LEAST_MAPS = 10  # of a class, for a threshold of its own
BY_FEATURES = "features"  # the rule that asks features, of every class
FEW = 0.1  # of the cells of its photos: a class that covers fewer is thin or tiny


@dataclass(frozen=True)
class Threshold:
    """Between classes and background.

    Attributes:
        value: the score in (0, 1) at which a class beats the background.
        origin: where it is from, in words.
        of_class: the score of each class at which that class does, where they differ.
        of_unrefined: the same for masks that are not refined afterwards, where that is another one.
    """

    value: float
    origin: str
    of_class: tuple[float, ...] = ()
    of_unrefined: tuple[float, ...] = ()

    @property
    def unrefined(self) -> Threshold:
        """Of masks that are not refined afterwards."""
        return replace(self, of_class=self.of_unrefined or self.of_class)

    def levelled(self, maps: LocalizationMaps) -> LocalizationMaps:
        """Maps of which ``value`` is the threshold of every class: scores are raised to the power that takes their
        class's there, so their order within a class, 0 and 1 stay."""
        if not self.of_class or not maps.classes:
            return maps
        powers = np.array([math.log(self.value) / math.log(self.of_class[c]) for c in maps.classes], np.float32)
        return replace(maps, scores=maps.scores.astype(np.float32).clip(0, 1) ** powers[:, None, None])

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """For a manifest."""

        def named(of_class: tuple[float, ...]) -> dict[str, float]:
            return {name: round(of, 4) for name, of in zip(classes, of_class, strict=True)} if of_class else {}

        own, alone = named(self.of_class), named(self.of_unrefined)
        return {
            "threshold": round(self.value, 4), "threshold_from": self.origin, "note": f"threshold {self.value:.3f}",
            **({"class_thresholds": own, "note": _note(self.of_class)} if own else {}),
            **({"unrefined_thresholds": alone} if alone else {}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: Sequence[str]) -> Threshold:
        own, alone = content.get("class_thresholds", {}), content.get("unrefined_thresholds", {})
        return cls(
            float(content["threshold"]),
            str(content["threshold_from"]),
            tuple(own[name] for name in classes if own),
            tuple(alone[name] for name in classes if alone),
        )


def _note(of_class: Sequence[float]) -> str:
    return f"thresholds {min(of_class):.3f} to {max(of_class):.3f}, one for each class"


@dataclass
class _Scores:
    """What the rules read of maps, added up map by map. Each map weighs the same."""

    all: np.ndarray = field(default_factory=lambda: np.zeros(BINS))  # histogram of the largest scores
    by_class: dict[int, np.ndarray] = field(default_factory=dict)  # where the class's is the largest
    maps_of: dict[int, int] = field(default_factory=dict)
    shares: list[float | None] = field(default_factory=list)  # of cells that the method itself calls object

    def add(self, maps: LocalizationMaps) -> None:
        if not maps.scores.size:
            return
        scores = maps.scores.astype(np.float32)
        largest, best = scores.max(0), scores.argmax(0)
        self.shares.append(maps.covered)
        self.all += _histogram(largest)
        for number, label in enumerate(maps.classes):
            own = largest[best == number]
            if own.size:
                self.by_class[label] = self.by_class.get(label, 0) + _histogram(own)
                self.maps_of[label] = self.maps_of.get(label, 0) + 1

    def enough(self) -> dict[int, np.ndarray]:
        """Histograms, adding up to one, of the classes that have enough maps."""
        counts = self.maps_of.items()
        return {label: self.by_class[label] / self.by_class[label].sum() for label, n in counts if n >= LEAST_MAPS}


def _histogram(scores: np.ndarray) -> np.ndarray:
    return np.histogram(scores, bins=BINS, range=(0.0, 1.0))[0] / scores.size


def threshold_of(maps: Iterable[LocalizationMaps], rule: str = "auto") -> float:
    """The threshold of these maps in (0, 1) by a rule of :class:`PseudoSettings`, without truth.

    Without any map, or when all scores are equal, 0.5.
    """
    return find_threshold(maps, rule).value


def find_threshold(
    maps: Iterable[LocalizationMaps],
    rule: str = "auto",
    classes: int = 0,
    separations: Mapping[int, Sequence[float]] | None = None,
) -> Threshold:
    """:func:`threshold_of`, with where it is from; by a rule for every class that of each of ``classes``, too. A class
    with fewer than :data:`LEAST_MAPS` maps has that of all.

    Args:
        separations: for the rule "features", of each class the mean of :func:`tag2mask.pseudo.separation.separation`
            over photos; a class that is not in it has the mean of Otsu's thresholds.
    """
    scores = _Scores()
    for of_photo in maps:
        scores.add(of_photo)
    shares = [share for share in scores.shares if share is not None]
    histogram = scores.all / max(scores.all.sum(), 1e-12)
    if rule == "auto" and shares and len(shares) == len(scores.shares):
        value = covering_threshold(histogram, sum(shares) / len(shares))
        return Threshold(value, "by the method's own background, no truth")
    rule = "between" if rule == "auto" else rule
    split = RULES[rule.removesuffix(BY_CLASS)]
    value, of_class, of_unrefined = split(histogram), (), ()
    if rule == BY_FEATURES or rule.endswith(BY_CLASS):
        curves, histograms = separations or {}, scores.enough()
        own_of = {
            label: _by_features(own, curves[label]) if label in curves else split(own)
            for label, own in histograms.items()
        }
        of_class = tuple(own_of.get(label, value) for label in range(classes))
        if rule == BY_FEATURES:
            alone = {label: without_surroundings(histograms[label], own) for label, own in own_of.items()}
            of_unrefined = tuple(alone.get(label, value) for label in range(classes))
    return Threshold(
        value,
        f"rule '{rule}' on the maps, no truth",
        of_class,
        of_unrefined if of_unrefined != of_class else (),
    )


def _by_features(histogram: np.ndarray, separations: Sequence[float]) -> float:
    """The threshold of a class that features choose between Otsu's two, or half of the way to what they want below
    them; where they choose none, the mean of both."""
    least, most = sorted((otsu_threshold(histogram), otsu3_threshold(histogram)))
    if (wanted := wanted_below(separations, least)) is not None:
        return math.sqrt(wanted * least)
    best = best_separated(separations, least, most)
    return otsu23_threshold(histogram) if best is None else best


def without_surroundings(histogram: np.ndarray, threshold: float) -> float:
    """Between a threshold and Otsu's of the scores above it, where these are less than :data:`FEW` of all: at that
    share their geometric mean, and the nearer to Otsu's the fewer they are. Else the threshold."""
    above = np.where(np.arange(len(histogram)) >= round(threshold * len(histogram)), histogram, 0)
    share = above.sum() / max(histogram.sum(), 1e-12)
    if not 0 < share < FEW:
        return threshold
    weight = 1 - 0.5 * share / FEW
    return threshold ** (1 - weight) * otsu_threshold(above) ** weight


def covering_threshold(histogram: np.ndarray, share: float) -> float:
    """The score that this share of the cells exceeds, in [0.02, 0.98]; 0.5 without any cell."""
    if not histogram.sum():
        return 0.5
    below = np.concatenate([[0], np.cumsum(histogram / histogram.sum())])
    return float(np.clip(np.interp(1 - share, below, np.linspace(0, 1, len(below))), 0.02, 0.98))


def score_histogram(maps: Iterable[LocalizationMaps]) -> np.ndarray:
    """``[bins]`` of the largest class score of every cell, over [0, 1], adding up to one; each image weighs the same.
    All zero without any map."""
    scores = _Scores()
    for of_photo in maps:
        scores.add(of_photo)
    return scores.all / max(scores.all.sum(), 1e-12)


def otsu_threshold(histogram: np.ndarray) -> float:
    """Otsu's: the upper edge of the bin after which the variance between the two groups is largest."""
    weight, centres = _below(histogram)
    below, mean_below = np.cumsum(weight), np.cumsum(weight * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean_below[-1] * below - mean_below) ** 2 / (below * (1 - below))
    return _best(between, below)


def otsu3_threshold(histogram: np.ndarray) -> float:
    """Otsu's of three groups: the upper one of the two edges between which and beside which the variance between the
    groups is largest; of two groups where there are scores in two bins only."""
    weight, centres = _below(histogram)
    below, mass = np.cumsum(weight), np.cumsum(weight * centres)
    # rows: last bin of the lowest group, columns: last bin of the middle one
    weights = below[:, None], below[None] - below[:, None], np.broadcast_to(1 - below, (len(below),) * 2)
    masses = mass[:, None], mass[None] - mass[:, None], mass[-1] - mass[None]
    filled = np.logical_and.reduce(np.broadcast_arrays(*(w > 1e-9 for w in weights)))
    if not filled.any():
        return otsu_threshold(histogram)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = sum(m**2 / w for m, w in zip(masses, weights, strict=True))
    of_upper = np.where(filled, between, -np.inf).max(0)
    return _best(of_upper, below)


def otsu23_threshold(histogram: np.ndarray) -> float:
    """The geometric mean of Otsu's of two groups and the upper one of three."""
    return math.sqrt(otsu_threshold(histogram) * otsu3_threshold(histogram))


def li_threshold(histogram: np.ndarray) -> float:
    """Li's: where the cross entropy of the scores and their two groups' means is lowest, i.e. where
    ``m1 log(mean1) + m2 log(mean2)`` is largest, ``m`` being a group's sum of scores."""
    weight, centres = _below(histogram)
    below, mass = np.cumsum(weight), np.cumsum(weight * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = mass * np.log(mass / below) + (mass[-1] - mass) * np.log((mass[-1] - mass) / (1 - below))
    return _best(gained, below)


def between_threshold(histogram: np.ndarray) -> float:
    """The geometric mean of Otsu's and Li's."""
    return math.sqrt(otsu_threshold(histogram) * li_threshold(histogram))


RULES = {
    "between": between_threshold,
    "otsu": otsu_threshold,
    "otsu3": otsu3_threshold,
    "otsu23": otsu23_threshold,
    BY_FEATURES: otsu23_threshold,  # where features say nothing
    "li": li_threshold,
}


def _below(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram adding up to one, and the centres of its bins."""
    bins = len(histogram)
    return histogram / max(histogram.sum(), 1e-12), (np.arange(bins) + 0.5) / bins


def _best(criterion: np.ndarray, below: np.ndarray) -> float:
    """Upper edge of the best bin (the middle one of equals); 0.5 where no bin has scores on both sides."""
    criterion = np.where((below > 1e-9) & (below < 1 - 1e-9), criterion, -np.inf)  # a group of rounding error is none
    if not np.isfinite(criterion).any():
        return 0.5
    best = np.flatnonzero(criterion == criterion.max())
    return float(np.clip((best.mean() + 1) / len(criterion), 0.02, 0.98))
