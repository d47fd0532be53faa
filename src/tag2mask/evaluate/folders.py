"""One folder of index masks against another, with no data set to tell what they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tag2mask.data import images
from tag2mask.errors import InputError, listed, some
from tag2mask.evaluate.classes import CLASSES_FILE, classes_in
from tag2mask.evaluate.datasets import check_truth
from tag2mask.evaluate.matching import mask_files, match
from tag2mask.evaluate.scores import Scores
from tag2mask.evaluate.truth import label_of_value, size_text


def evaluate_folders(
    predicted: Path | str,
    truth: Path | str,
    classes: Sequence[str] | None = None,
    allow_missing: bool = False,
    values: Sequence[int] = (),
) -> Scores:
    """Score a folder of index masks against another, matched by name (:func:`tag2mask.evaluate.matching.match`).

    Args:
        predicted: masks in our label convention: 0 background, ``c + 1`` class ``c``, 255 undecided.
        truth: likewise; 255 is skipped. Predictions without a truth are passed over.
        classes: foreground classes in the order of their values; None: those of ``classes.txt`` in either folder.
        allow_missing: leave truths without a prediction out instead of stopping.
        values: value of each class in the truth masks, others than 0 are skipped; empty: ``c + 1``, no others.

    Raises:
        InputError: no common file, a prediction is missing, sizes differ, a value is no class's, truth that shows no
            class and is 255 in part, no classes, or other ones than in ``classes.txt``.
    """
    predicted, truth = Path(predicted), Path(truth)
    classes = settled_classes(classes, predicted, truth)
    _check_values(values, classes)
    predictions, truths = mask_files(predicted), mask_files(truth)
    pairs = match(truths, predictions)
    _check_missing(truths, predictions, pairs, predicted, truth, allow_missing)
    scores = Scores.none(classes, left_out=len(truths) - len(pairs))
    for name in sorted(pairs):
        scores = scores + _of_pair(truths[name], predictions[pairs[name]], classes, tuple(values))
    check_truth(scores, f"the truth masks in {truth}")
    return scores


def settled_classes(classes: Sequence[str] | None, *folders: Path) -> tuple[str, ...]:
    """The classes of masks in these folders: those given, or those that the folders' ``classes.txt`` name.

    Raises:
        InputError: none, or two that differ: the same values would mean other classes.
    """
    named = {"--classes": tuple(classes)} if classes is not None else {}
    for folder in folders:
        of_folder = classes_in(folder)
        if of_folder is not None:
            named[str(folder / CLASSES_FILE)] = of_folder
    if not named:
        raise InputError(
            f"nothing says which classes the values 1, 2, ... in {folders[0]} are: give --classes a,b,c or a file of "
            f"them, or put a {CLASSES_FILE} with one name a line in their folder"
        )
    (first, classes), *others = named.items()
    for other, names in others:
        if names != classes:
            raise InputError(
                f"{first} says ({listed(classes, 8)}) and {other} says ({listed(names, 8)}): values would be compared "
                "that mean different classes; give the classes in the order of the masks' values"
            )
    return classes


def _check_values(values: Sequence[int], classes: Sequence[str]) -> None:
    possible = set(values) <= set(range(1, 256)) and len(set(values)) == len(values)
    if values and not (possible and len(values) == len(classes)):
        raise InputError(
            f"truth values {listed(map(str, values), 8)} for {some(len(classes), 'class')}: give one for each class, "
            "all different, from 1 to 255"
        )


def _check_missing(
    truths: Mapping[str, Path],
    predictions: Mapping[str, Path],
    pairs: Mapping[str, str],
    predicted: Path,
    truth: Path,
    allow_missing: bool,
) -> None:
    missing = sorted(set(truths) - set(pairs))
    if len(missing) == len(truths):
        raise InputError(
            f"no mask in {predicted} has the name of one in {truth} (for instance {listed(predictions, 1)} against "
            f"{listed(truths, 1)}): names are compared with their subfolder, without suffix and words such as _mask"
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {some(len(truths), 'truth mask')} without a prediction in {predicted}: "
            f"{listed(missing)}; predict them, or leave them out with --allow-missing"
        )


def _of_pair(truth: Path, predicted: Path, classes: Sequence[str], values: tuple[int, ...]) -> Scores:
    true_mask, mask = images.read_index_mask(truth), images.read_index_mask(predicted)
    if mask.shape != true_mask.shape:
        raise InputError(
            f"sizes differ: {predicted} is {size_text(mask.shape)} pixels, {truth} is {size_text(true_mask.shape)}; "
            "masks must have the size of their truth"
        )
    if values:
        true_mask = label_of_value(values)[true_mask]
    try:
        return Scores.of(true_mask, mask, classes)
    except InputError as error:
        raise InputError(f"{truth if str(error).startswith('truth') else predicted}: {error}") from error
