"""Masks against truth -> Scores. The only module that opens ground-truth masks.

All figures are percent. The mean IoU is the one of PASCAL VOC (Everingham et al., IJCV 2010; devkit ``VOCevalseg``):
one confusion matrix over the whole split, background is a class, pixels whose truth is 255 are skipped. It is not
the mean of per-image values.

A mask may leave pixels undecided (255). They are counted both ways: ``mean_iou`` takes an undecided pixel for a miss
of its true class, ``decided_mean_iou`` leaves it out; ``coverage`` says how many pixels that concerns.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tag2mask.data import images
from tag2mask.errors import InputError, listed
from tag2mask.types import BACKGROUND, IGNORE, Dataset, LocalizationMaps, Sample

BACKGROUND_NAME = "background"
BOUNDARY_RATIO = 0.02  # of the image diagonal; the value of Cheng et al. 2021 for images of VOC's and COCO's size
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless ones: a JPEG cannot hold indices
SWEEP = tuple(round(0.01 * step, 2) for step in range(1, 100))  # of scores in [0, 1]; a hundredth is below their noise


# --- counting: pure functions ---------------------------------------------------------------------------------


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n: int) -> np.ndarray:
    """Count pixels by true and predicted label; pixels whose truth is 255 are skipped.

    Args:
        truth: ``[height width]`` uint8.
        predicted: ``[height width]`` uint8; 255 is undecided.
        n: number of labels, background included.

    Returns:
        ``[n n+1]`` int64, truth in rows, prediction in columns; the last column is the undecided pixels.

    Raises:
        InputError: a value that is neither below ``n`` nor 255.
    """
    assert truth.shape == predicted.shape and truth.dtype == predicted.dtype == np.uint8, (truth, predicted)
    pairs = truth.astype(np.intp) * 256
    pairs += predicted
    counts = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
    if counts[n:IGNORE].any():
        raise InputError(f"truth {_outside(counts.sum(axis=1), n)}")
    if counts[:, n:IGNORE].any():
        raise InputError(f"prediction {_outside(counts.sum(axis=0), n)}")
    return counts[:n, [*range(n), IGNORE]].astype(np.int64)


def _outside(histogram: np.ndarray, n: int) -> str:
    value = n + int(np.flatnonzero(histogram[n:IGNORE])[0])
    return f"holds the value {value}, but {n - 1} classes end at {n - 1} (and 255 is ignored): check the classes"


def boundary_counts(truth: np.ndarray, predicted: np.ndarray, n: int, ratio: float = BOUNDARY_RATIO) -> np.ndarray:
    """Intersection and union of the inner boundary bands of each label (Cheng et al., Boundary IoU, CVPR 2021).

    The band of a label is what an erosion by ``d`` pixels takes from its region, ``d`` being ``ratio`` of the image
    diagonal and the image's edge counting as a boundary, as in the authors' code. A pixel is outside the band exactly
    when its whole ``2d+1`` square carries one label, so one minimum and one maximum filter serve all labels at once.
    Pixels whose truth is 255 belong to no label on either side: what is predicted there changes nothing.

    Args:
        truth: ``[height width]`` uint8.
        predicted: ``[height width]`` uint8; 255 is undecided.
        n: number of labels, background included.
        ratio: band width as a share of the image diagonal.

    Returns:
        ``[2 n]`` int64: intersections, unions.
    """
    distance = max(1, round(ratio * float(np.hypot(*truth.shape))))
    truth_band = _inner_band(truth, distance)
    predicted_band = _inner_band(np.where(truth == IGNORE, np.uint8(IGNORE), predicted), distance)
    common = np.bincount(truth_band[truth_band == predicted_band], minlength=256)[:n]
    truth_size, predicted_size = (np.bincount(band.ravel(), minlength=256)[:n] for band in (truth_band, predicted_band))
    return np.stack([common, truth_size + predicted_size - common]).astype(np.int64)


def _inner_band(labels: np.ndarray, distance: int) -> np.ndarray:
    """``labels`` where another label (or the image's edge) is within ``distance``, 255 elsewhere."""
    low = high = np.pad(labels, distance, constant_values=IGNORE)
    for axis in (0, 1):
        low, high = (_running(np.minimum, low, distance, axis), _running(np.maximum, high, distance, axis))
    return np.where(low == high, np.uint8(IGNORE), labels)


def _running(extreme: np.ufunc, values: np.ndarray, distance: int, axis: int) -> np.ndarray:
    """Minimum or maximum over windows of ``2 distance + 1`` along an axis, in log2 steps by doubling the window."""
    values = np.moveaxis(values, axis, 0)
    width, window = 1, 2 * distance + 1
    while width < window:
        step = min(width, window - width)
        values = extreme(values[:-step], values[step:])
        width += step
    return np.moveaxis(values, 0, axis)


# --- Scores ---------------------------------------------------------------------------------------------------


def with_background(classes: Sequence[str]) -> tuple[str, ...]:
    """The labels' names: background, then the classes."""
    if BACKGROUND_NAME in classes:
        raise InputError(
            f"a class is called '{BACKGROUND_NAME}': background is always label 0, leave it out of the classes"
        )
    return (BACKGROUND_NAME, *classes)


@dataclass(frozen=True, eq=False)
class Scores:
    """A confusion matrix with its names. Everything else is a property, in percent; NaN where nothing was counted.

    Attributes:
        class_names: background first.
        confusion: ``[n n+1]`` int64, truth in rows, prediction in columns, undecided pixels in the last column.
        boundary: ``[2 n]`` int64, intersections and unions of boundary bands, summed over images.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    boundary: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.class_names)
        assert self.confusion.shape == (n, n + 1) and self.boundary.shape == (2, n), (self.confusion.shape, n)

    @classmethod
    def none(cls, classes: Sequence[str]) -> Scores:
        """Nothing counted yet. ``classes`` are the foreground classes."""
        names = with_background(classes)
        n = len(names)
        return cls(names, np.zeros((n, n + 1), np.int64), np.zeros((2, n), np.int64))

    @classmethod
    def of(cls, truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Scores:
        """Of one image: two ``[height width]`` uint8 masks."""
        names = with_background(classes)
        n = len(names)
        return cls(names, confusion_matrix(truth, predicted, n), boundary_counts(truth, predicted, n))

    def __add__(self, other: Scores) -> Scores:
        """The scores of both together: counts add, so this is the same as one pass over all images."""
        if self.class_names != other.class_names:
            raise InputError(
                f"scores over different classes cannot be merged: ({listed(self.class_names)}) and "
                f"({listed(other.class_names)})"
            )
        return Scores(self.class_names, self.confusion + other.confusion, self.boundary + other.boundary)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return (
            self.class_names == other.class_names
            and np.array_equal(self.confusion, other.confusion)
            and np.array_equal(self.boundary, other.boundary)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    @property
    def pixels(self) -> int:
        """Pixels whose truth is known."""
        return int(self.confusion.sum())

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
        return _percent(self.hits, self.truth_pixels + self.predicted_pixels - self.hits)

    @property
    def decided_iou(self) -> np.ndarray:
        """``[n]``, over the pixels the masks decide."""
        truth = self.confusion[:, :-1].sum(axis=1)
        return _percent(self.hits, truth + self.predicted_pixels - self.hits)

    @property
    def mean_iou(self) -> float:
        """PASCAL's mean IoU over background and the classes that occur; an undecided pixel is a miss."""
        return _mean(self.iou)

    @property
    def decided_mean_iou(self) -> float:
        """Mean IoU over the pixels the masks decide; says nothing without ``coverage`` beside it."""
        return _mean(self.decided_iou)

    @property
    def boundary_iou(self) -> np.ndarray:
        """``[n]``, intersections and unions summed over all images before the division, as for ``iou``."""
        return _percent(self.boundary[0], self.boundary[1])

    @property
    def mean_boundary_iou(self) -> float:
        return _mean(self.boundary_iou)

    @property
    def precision(self) -> np.ndarray:
        """``[n]`` share of the pixels predicted as a label that are it."""
        return _percent(self.hits, self.predicted_pixels)

    @property
    def recall(self) -> np.ndarray:
        """``[n]`` share of a label's pixels that are predicted as it; an undecided pixel is a miss."""
        return _percent(self.hits, self.truth_pixels)

    @property
    def foreground_precision(self) -> float:
        """Share of the pixels predicted as any class that are some class: object or not, whichever object."""
        return float(_percent(self.confusion[1:, 1:-1].sum(), self.confusion[:, 1:-1].sum()))

    @property
    def foreground_recall(self) -> float:
        """Share of the classes' pixels that are predicted as some class."""
        return float(_percent(self.confusion[1:, 1:-1].sum(), self.confusion[1:].sum()))

    @property
    def pixel_accuracy(self) -> float:
        """Share of all pixels that are right; an undecided pixel is wrong."""
        return float(_percent(self.hits.sum(), self.confusion.sum()))

    @property
    def coverage(self) -> float:
        """Share of all pixels that are decided."""
        return float(_percent(self.confusion[:, :-1].sum(), self.confusion.sum()))

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
        each = {
            "iou": self.iou,
            "decided_iou": self.decided_iou,
            "precision": self.precision,
            "recall": self.recall,
            "boundary_iou": self.boundary_iou,
        }
        return {
            **{key: _plain(value) for key, value in single.items()},
            **{k: {c: _plain(v) for c, v in zip(self.class_names, vs, strict=True)} for k, vs in each.items()},
            "unit": "percent",
            "pixels": self.pixels,
            "confusion": self.confusion.tolist(),
            "boundary": self.boundary.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Scores:
        """Back from :meth:`to_json`: the counts are read, the figures follow from them."""
        try:
            names = tuple(content["iou"])
            confusion, boundary = (np.array(content[key], dtype=np.int64) for key in ("confusion", "boundary"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these are not scores written by tag2mask ({error!r}): evaluate again") from error
        if confusion.shape != (len(names), len(names) + 1) or boundary.shape != (2, len(names)):
            raise InputError(f"the scores' counts do not fit their {len(names)} classes: evaluate again")
        return cls(names, confusion, boundary)


def _percent(part: npt.ArrayLike, whole: npt.ArrayLike) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * np.asarray(part, np.float64) / np.asarray(whole, np.float64)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


# --- data sets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageScore:
    """Mean IoU of one image over the labels that occur in it: to find the best and the worst, not to be averaged."""

    id: str
    mean_iou: float  # percent; NaN when all of the image's truth is 255


def has_truth(dataset: Dataset) -> bool:
    """Whether any photo comes with a truth mask. Opens none."""
    return any(sample.mask_path is not None for sample in dataset.samples)


def read_truth(sample: Sample, dataset: Dataset) -> np.ndarray:
    """The truth of one photo, ``[height width]`` uint8 in our label convention.

    ``dataset.truth_values`` gives each class's value in the file; 0 is background, any other value (classes that
    were not selected, borders) becomes 255. Selecting some of VOC's classes thus ignores the others' objects.

    Raises:
        InputError: the mask is not of the photo's size, or is no index mask.
    """
    assert sample.mask_path is not None, sample.id
    mask = images.read_index_mask(sample.mask_path)
    size = images.image_size(sample.image_path)
    if mask.shape != size:
        raise InputError(
            f"truth mask {sample.mask_path} is {_size(mask.shape)} pixels but its image {sample.image_path} is "
            f"{_size(size)}: give masks of the images' size"
        )
    return _label_of_value(dataset.truth_values)[mask]


@functools.lru_cache(maxsize=8)
def _label_of_value(truth_values: tuple[int, ...]) -> np.ndarray:
    labels = np.full(256, IGNORE, np.uint8)
    labels[BACKGROUND] = BACKGROUND
    labels[list(truth_values)] = np.arange(1, len(truth_values) + 1)
    labels.flags.writeable = False  # it is kept and shared
    return labels


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"  # width first, as people say it


def evaluate_masks(
    dataset: Dataset,
    mask_of: Callable[[Sample], np.ndarray | None],
    each: Callable[[ImageScore], object] | None = None,
) -> Scores:
    """Score masks against a data set's truth, one image in memory at a time.

    Args:
        dataset: photos without a truth mask are passed over.
        mask_of: ``[height width]`` uint8 in our label convention; ``None`` when there is no mask for a photo, which
            counts as a mask that decides nothing.
        each: called with every image's own score, for instance ``list.append``.

    Raises:
        InputError: no photo has a truth mask, or a mask is not of its truth's size.
    """
    scores = Scores.none(dataset.classes)
    for sample in _with_truth(dataset):
        truth = read_truth(sample, dataset)
        mask = mask_of(sample)
        if mask is None:
            mask = np.full_like(truth, IGNORE)
        if mask.shape != truth.shape:
            raise InputError(
                f"the mask of '{sample.id}' is {_size(mask.shape)} pixels but its truth is {_size(truth.shape)}: "
                "make the masks from the same images"
            )
        try:
            of_image = Scores.of(truth, mask, dataset.classes)
        except InputError as error:
            raise InputError(f"'{sample.id}': {error}") from error
        if each is not None:
            each(ImageScore(sample.id, of_image.mean_iou))
        scores = scores + of_image
    return scores


def _with_truth(dataset: Dataset) -> list[Sample]:
    samples = [sample for sample in dataset.samples if sample.mask_path is not None]
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


# --- two folders ----------------------------------------------------------------------------------------------


def read_classes(text: str) -> tuple[str, ...]:
    """The classes from a file with one name per line, or from ``a,b,c``. A leading "background" is taken off.

    Names may hold spaces. Masks given to :func:`evaluate_folders` count their classes from 1 in this order.

    Raises:
        InputError: no such file, no name, a name twice, or a file whose every line carries a value (``cat 8``).
    """
    path = Path(text)
    try:
        is_file = path.is_file()
    except OSError:  # 80 names in a row are longer than a file name may be
        is_file = False
    if is_file:
        try:
            content = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the classes in {text} ({error}): give one class a line") from error
        names = content.splitlines() if "\n" in content else content.split(",")
    elif "," not in text and (path.suffix in (".txt", ".csv", ".names") or len(path.parts) > 1):
        raise InputError(f"no file {text} to read the classes from: give a file with one class a line, or a,b,c")
    else:
        names = text.split(",")
    names = [name.strip() for name in names if name.strip()]
    if is_file and names and all(re.fullmatch(r".*\s\d+", name) for name in names):
        raise InputError(f"{text} has values behind its classes ('{names[0]}'): give the names alone")
    if names and names[0].lower() == BACKGROUND_NAME:
        names = names[1:]
    if not names:
        raise InputError(f"no classes in '{text}': give a file with one class a line, or a,b,c")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"class {listed(twice)} is given twice in '{text}': name each class once")
    if len(names) > 254:
        raise InputError(f"{len(names)} classes in '{text}': an 8-bit mask holds at most 254 beside background")
    return tuple(names)


def evaluate_folders(
    predicted: Path, truth: Path, classes: Sequence[str], allow_missing: bool = False, values: Sequence[int] = ()
) -> Scores:
    """Score a folder of index masks against another, matched by relative path without suffix.

    Args:
        predicted: masks in our label convention: 0 background, ``c + 1`` class ``c``, 255 undecided.
        truth: likewise; 255 is skipped. Predictions without a truth are passed over.
        classes: foreground classes in the order of their values.
        allow_missing: leave truths without a prediction out instead of stopping.
        values: value of each class in the truth masks, others than 0 are skipped; empty: ``c + 1``, no others.

    Raises:
        InputError: no common file, a prediction is missing, sizes differ, or a value is no class's.
    """
    found, wanted = _mask_files(predicted), _mask_files(truth)
    missing = sorted(set(wanted) - set(found))
    if len(missing) == len(wanted):
        raise InputError(
            f"no mask in {predicted} has the name of one in {truth} (for instance {listed(found, 1)} against "
            f"{listed(wanted, 1)}): names are compared with their subfolder, without suffix"
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} truth masks have no prediction in {predicted}: {listed(missing)}; "
            "predict them, or leave them out with --allow-missing"
        )
    scores = Scores.none(classes)
    for name in sorted(set(wanted) & set(found)):
        true_mask, mask = images.read_index_mask(wanted[name]), images.read_index_mask(found[name])
        if mask.shape != true_mask.shape:
            raise InputError(
                f"sizes differ: {found[name]} is {_size(mask.shape)} pixels, {wanted[name]} is "
                f"{_size(true_mask.shape)}; masks must have the size of their truth"
            )
        if values:
            true_mask = _label_of_value(tuple(values))[true_mask]
        try:
            scores = scores + Scores.of(true_mask, mask, classes)
        except InputError as error:
            file = wanted[name] if str(error).startswith("truth") else found[name]
            raise InputError(f"{file}: {error}") from error
    return scores


def _mask_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is {'a file' if folder.exists() else 'missing'}: give a folder of index masks")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in MASK_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        name = relative.with_suffix("").as_posix()
        if name in files:
            raise InputError(f"two masks for one image: {files[name]} and {path}; keep one of them")
        files[name] = path
    if not files:
        raise InputError(f"no index masks in {folder}: they are lossless images ({', '.join(MASK_SUFFIXES)})")
    return files


# --- the oracle sweep -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OracleSweep:
    """Mean IoU of "best class where its score exceeds a threshold" for many thresholds.

    An oracle: it looks at the truth. It tells how good the maps could be with the best constant, and is shown in
    the report only; no threshold that is used may come from here.
    """

    _figures: ClassVar = ("mean_iou", "foreground_precision", "foreground_recall")

    thresholds: tuple[float, ...]  # ascending
    mean_iou: tuple[float, ...]  # percent, as the two below
    foreground_precision: tuple[float, ...] = ()  # NaN where a threshold leaves no foreground; none in older runs
    foreground_recall: tuple[float, ...] = ()

    @property
    def best(self) -> tuple[float, float]:
        """Threshold and mean IoU of the best constant."""
        at = int(np.nanargmax(self.mean_iou))
        return self.thresholds[at], self.mean_iou[at]

    def recall_at(self, precision: float) -> float:
        """Foreground recall, percent, of the lowest threshold that is as precise: what compares maps of different
        coverage. Between two thresholds in proportion; NaN where none is as precise."""
        precise = np.asarray(self.foreground_precision)
        enough = np.flatnonzero(precise >= precision)
        if not len(enough):
            return float("nan")
        at = int(enough[0])
        if at == 0:
            return self.foreground_recall[0]
        share = (precision - precise[at - 1]) / (precise[at] - precise[at - 1])
        before, after = self.foreground_recall[at - 1 : at + 1]
        return float(before + share * (after - before))

    def to_json(self) -> dict[str, Any]:
        threshold, mean_iou = self.best
        return {
            "oracle": True,
            "best_threshold": threshold,
            "best_mean_iou": _plain(mean_iou),
            "thresholds": list(self.thresholds),
            **{name: [_plain(value) for value in getattr(self, name)] for name in self._figures},
            "unit": "percent",
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OracleSweep:
        """Back from :meth:`to_json`."""

        def figures(name: str) -> tuple[float, ...]:
            return tuple(float("nan") if value is None else value for value in content.get(name, ()))

        return cls(tuple(content["thresholds"]), *map(figures, cls._figures))


def sweep_thresholds(
    dataset: Dataset,
    maps_of: Callable[[Sample], LocalizationMaps | None],
    thresholds: Sequence[float] = SWEEP,
) -> OracleSweep:
    """Mean IoU of maps under many constant thresholds, in one pass over the images.

    Every pixel enters one histogram over (truth, best class, number of thresholds its score exceeds); the confusion
    matrix of each threshold is a cumulative sum of it, so the cost does not grow with the number of thresholds.

    Args:
        dataset: photos without a truth mask are passed over.
        maps_of: one photo's maps, brought to its pixels bilinearly here; ``None`` counts as undecided everywhere.
        thresholds: a pixel is foreground where its best score is larger.
    """
    ordered = np.unique(np.asarray(thresholds, np.float32))
    assert len(ordered), "at least one threshold"
    n, steps = len(dataset.classes) + 1, len(ordered) + 1
    above = np.zeros((n, n, steps), np.int64)  # truth, best class, thresholds exceeded
    totals = np.zeros(n, np.int64)
    undecided = np.zeros(n, np.int64)
    for sample in _with_truth(dataset):
        truth = read_truth(sample, dataset)
        valid = truth != IGNORE
        labels = truth[valid].astype(np.intp)
        count = np.bincount(labels, minlength=n)
        totals += count
        maps = maps_of(sample)
        if maps is None:
            undecided += count
        elif maps.classes:
            scores = _at_pixels(maps, truth.shape)
            best = np.asarray(maps.classes)[scores.argmax(axis=0)] + 1
            exceeded = np.searchsorted(ordered, scores.max(axis=0)[valid], side="left")
            cells = (labels * n + best[valid]) * steps + exceeded
            above += np.bincount(cells, minlength=above.size).reshape(above.shape)
    # foreground at threshold j: those that exceed more than j thresholds
    foreground = above[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]
    background = (totals - undecided)[:, None] - foreground.sum(axis=1)  # truth, threshold
    predicted = foreground.sum(axis=0)
    predicted[0] = background.sum(axis=0)
    hits = np.diagonal(foreground).T.copy()  # label, threshold
    hits[0] = background[0]
    iou = _percent(hits, totals[:, None] + predicted - hits)
    right, found = foreground[1:, 1:].sum(axis=(0, 1)), foreground[:, 1:].sum(axis=(0, 1))
    return OracleSweep(
        tuple(round(float(t), 6) for t in ordered),
        tuple(_mean(column) for column in iou.T),
        tuple(_percent(right, found).tolist()),
        tuple(_percent(right, totals[1:].sum()).tolist()),
    )


def _at_pixels(maps: LocalizationMaps, size: Sequence[int]) -> np.ndarray:
    """``[present height width]`` float32."""
    import torch
    import torch.nn.functional as F

    assert maps.size == tuple(size), (maps.id, maps.size, size)
    scores = torch.from_numpy(maps.scores.astype(np.float32))
    if scores.shape[1:] != maps.size:
        scores = F.interpolate(scores[None], size=maps.size, mode="bilinear", align_corners=False)[0]
    return scores.numpy()


# --- against the tags: what can be said without truth -----------------------------------------------------------


@dataclass(frozen=True)
class TagAgreement:
    """Whether masks show what the photos' tags say. Opens no truth, so it can be had for any data set.

    A sign, not a measure: masks of the wrong shape agree with the tags as well as right ones.
    """

    classes: tuple[str, ...]  # foreground
    photos: int  # tagged photos that have a mask
    empty: int  # of these, with a tag but no foreground pixel
    pixels: tuple[int, ...]  # of background, of each class, undecided
    found: tuple[int, ...]  # photos per class: tagged and shown
    missed: tuple[int, ...]  # tagged but not shown
    extra: tuple[int, ...]  # shown but not tagged

    @property
    def undecided(self) -> float:
        """Percent of the masks' pixels."""
        return float(_percent(self.pixels[-1], sum(self.pixels)))

    @property
    def background(self) -> float:
        """Percent of the masks' pixels."""
        return float(_percent(self.pixels[0], sum(self.pixels)))

    @property
    def shown(self) -> float:
        """Percent of all tags that their photo's mask shows."""
        return float(_percent(sum(self.found), sum(self.found) + sum(self.missed)))

    @property
    def tagged(self) -> float:
        """Percent of the classes shown in masks that their photo's tags name."""
        return float(_percent(sum(self.found), sum(self.found) + sum(self.extra)))

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TagAgreement:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)


def compare_with_tags(
    dataset: Dataset, mask_of: Callable[[Sample], np.ndarray | None], least: float = 0.005
) -> TagAgreement:
    """Compare masks with the tags of their photos.

    Args:
        dataset: photos without tags are passed over.
        mask_of: ``[height width]`` uint8 in our label convention; ``None``: the photo is passed over.
        least: share of a photo from which on a class counts as shown; below it lie stray specks.
    """
    n = len(dataset.classes)
    photos = empty = 0
    pixels = np.zeros(256, np.int64)
    found, missed, extra = np.zeros((3, n), np.int64)
    for sample in dataset.samples:
        if sample.labels is None:
            continue
        mask = mask_of(sample)
        if mask is None:
            continue
        counts = np.bincount(mask.ravel(), minlength=256)
        shown = counts[1 : n + 1] >= max(1.0, least * mask.size)
        tagged = np.isin(np.arange(n), list(sample.labels))
        found += shown & tagged
        missed += tagged & ~shown
        extra += shown & ~tagged
        pixels += counts
        photos += 1
        empty += int(bool(sample.labels) and not counts[1 : n + 1].any())
    return TagAgreement(
        dataset.classes,
        photos,
        empty,
        (*pixels[: n + 1].tolist(), int(pixels[IGNORE])),
        *(tuple(counts.tolist()) for counts in (found, missed, extra)),
    )
