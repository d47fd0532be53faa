"""What the numbers of a run allow one to believe, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tag2mask.errors import listed, some
from tag2mask.evaluate import Scores, TagAgreement
from tag2mask.report.data import ReportData
from tag2mask.report.words import counted, percent
from tag2mask.training import TagPrecision

FEW_PHOTOS = 20  # a class tagged on fewer is called thin: its classifier sees each object only a few times
WEAK_IOU = 40.0  # percent; below it a mask shares less of its area with the object than it gets wrong
CONFUSED = 10.0  # percent of a class's pixels that go to one other class before it is worth a line
MANY_ALARMS = 5.0  # percent of the photos without a class whose masks show one, above which that is no good sign
MANY_DOUBTS = 0.05  # doubted tags per photo above which that is worth a caution: tags that are right give 0.02 to 0.05
DISAGREES = 80.0  # percent of a class's tags shown in the masks, below which the class is named


@dataclass(frozen=True)
class Remark:
    """A line of the section on trust."""

    level: Literal["good", "note", "caution"]
    text: str


def trust(data: ReportData) -> list[Remark]:
    """What the numbers allow one to believe."""
    learnt = _of_learning(data.tag_precision)
    return [
        *_of_measures(data),
        *learnt,
        *(r for name, tags in data.agreements for r in _of_tags(name, tags)),
        *_of_doubted_tags(data.doubted_tags),
        *_of_data(data),
    ]


def _of_measures(data: ReportData) -> Iterator[Remark]:
    if data.oracle:
        yield Remark(
            "caution", "True masks were used for training. These numbers are a yardstick, not a result from tags."
        )
    table = data.product
    if table is None:
        yield Remark(
            "caution",
            "No masks made from tags were compared with the truth. The signs below need none, and can look fine "
            "although outlines are wrong: look at the photos, or give a few true masks to measure.",
        )
        return
    scores = table.scores
    photos = f" on {table.photos}" if table.photos else ""
    yield Remark(
        "good",
        f"{table.name} was measured{photos}, on {counted(scores.pixels)} pixels with known truth: "
        f"{percent(scores.pixel_accuracy, 0)} % of them are right, mIoU {percent(scores.mean_iou)}.",
    )
    for other in data.scores:
        if other.oracle and other.scores.mean_iou > 0:
            share = percent(100 * scores.mean_iou / other.scores.mean_iou, 0)
            yield Remark("note", f"That is {share} % of the {percent(other.scores.mean_iou)} mIoU of: {other.name}.")
    yield from (*_of_size(scores), *_of_false_alarms(scores), *_of_classes(scores), *_of_undecided(scores))


def _of_size(scores: Scores) -> Iterator[Remark]:
    recall, precision = scores.foreground_recall, scores.foreground_precision
    if recall + 10 < precision:
        yield Remark("note", f"Masks are too small: {percent(recall, 0)} % of the objects' pixels are marked.")
    elif precision + 10 < recall:
        yield Remark("note", f"Masks spill over: {percent(100 - precision, 0)} % of what they mark is background.")
    elif math.isnan(precision) and recall == 0:
        yield Remark("caution", "Everything is called background: no mask shows an object.")


def _of_false_alarms(scores: Scores) -> Iterator[Remark]:
    alarms = scores.false_alarms
    if alarms.photos:
        level = "good" if alarms.share_of_photos <= MANY_ALARMS else "caution"
        yield Remark(level, f"False alarms: {alarms}.")


def _of_classes(scores: Scores) -> Iterator[Remark]:
    if scores.missing_classes:
        names = listed(scores.missing_classes, 8)
        yield Remark("note", f"Never in the truth, so nothing says how well it is shown: {names}.")
    iou = zip(scores.class_names[1:], scores.iou[1:], strict=True)
    weak = [f"{name} ({percent(value, 0)})" for name, value in iou if value < WEAK_IOU]
    if weak:
        yield Remark("caution", f"Do not rely on masks of {', '.join(weak)}: IoU under {WEAK_IOU:.0f}.")
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 100 * scores.confusion[1:, 1:-1] / scores.truth_pixels[1:, None]
    np.fill_diagonal(shares, 0)
    for true, guess in np.argwhere(shares >= CONFUSED).tolist():
        names = scores.class_names[1 + true], scores.class_names[1 + guess]
        share = percent(shares[true, guess], 0)
        yield Remark("caution", f"{share} % of the pixels of {names[0]} are taken for {names[1]}.")


def _of_undecided(scores: Scores) -> Iterator[Remark]:
    if scores.coverage < 99.5:
        yield Remark(
            "note",
            f"{percent(100 - scores.coverage, 0)} % of the pixels are undecided and count as wrong; without them the "
            f"mIoU is {percent(scores.decided_mean_iou)}.",
        )


def _of_learning(rows: Sequence[TagPrecision]) -> Iterator[Remark]:
    if not rows:
        return
    each = ", ".join(f"{row.name} {row.average_precision:.2f}" for row in rows)
    yield Remark(
        "note",
        f"Tags of {some(rows[0].photos, 'photo')} that the method did not learn from are predicted with these average "
        f"precisions (1: always right): {each}.",
    )
    if missed := [
        f"{row.name} ({row.average_precision:.2f}; guessing: {row.share:.2f})" for row in rows if not row.learnt
    ]:
        yield Remark("caution", f"Not learnt from its tags, so its maps and masks mean little: {', '.join(missed)}.")


def _of_tags(name: str, agreement: TagAgreement) -> Iterator[Remark]:
    if agreement.photos:
        steady = agreement.recall >= 90 and agreement.precision >= 90
        yield Remark(
            "good" if steady else "note",
            f"{name} and tags: {percent(agreement.recall, 0)} % of the tags are shown in their photo's mask, and "
            f"{percent(agreement.precision, 0)} % of what masks show is tagged ({some(agreement.photos, 'photo')}).",
        )
    if agreement.empty:
        yield Remark("caution", f"{name}: {agreement.empty} tagged photos have a mask without any object.")
    if agreement.false_alarms:
        yield Remark(
            "caution",
            f"{name}: {agreement.false_alarms} of {some(agreement.background_photos, 'photo')} tagged with none of the "
            "classes show one.",
        )
    if agreement.undecided >= 20:
        yield Remark("note", f"{name}: {percent(agreement.undecided, 0)} % of the pixels are undecided.")
    counts = zip(agreement.classes, agreement.tagged_shown, agreement.tagged_missing, strict=True)
    seldom = [
        f"{kind} (in {shown} of {shown + missing} photos)"
        for kind, shown, missing in counts
        if 100 * shown < DISAGREES * (shown + missing)
    ]
    if seldom:
        yield Remark("caution", f"{name}: tagged but often not shown: {', '.join(seldom)}.")


def _of_doubted_tags(counts: tuple[int, int, int] | None) -> Iterator[Remark]:
    if counts is None:
        return
    wrong, missing, photos = counts
    yield Remark(
        "caution" if wrong + missing > MANY_DOUBTS * photos else "note",
        f"Of the tags of {some(photos, 'training photo')}, {wrong} look wrong and {missing} look missing to "
        "classifiers that did not learn from the photo (`tag2mask tags`). They may err: look before you correct.",
    )


def _of_data(data: ReportData) -> Iterator[Remark]:
    for split, counts in data.class_counts.items():
        thin = [f"{name} ({count})" for name, count in zip(data.classes, counts, strict=True) if count < FEW_PHOTOS]
        if thin and "train" in split:
            yield Remark("caution", f"Few photos to learn from in {split}, under {FEW_PHOTOS}: {', '.join(thin)}.")
