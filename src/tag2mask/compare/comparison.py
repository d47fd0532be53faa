"""Rows of runs that differ by their seed alone, and how each row differs from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.compare.measured import WHAT, MeasuredRun, open_run
from tag2mask.compare.statistics import (
    Interval,
    class_iou,
    draws,
    interval,
    mean_iou,
    paired_difference,
    runs_resampled,
)
from tag2mask.errors import InputError, listed, some


@dataclass(frozen=True)
class Figure:
    """One kind of masks of one row. All in percent of mean IoU.

    Attributes:
        seeds: of each run.
        mean: over the runs, with the interval of the photos.
        spread: standard deviation over the seeds; None for one.
        classes: IoU of background and each class, mean over the runs.
        difference: to the first row, on the same photos; None for the first itself.
        seed_error: standard error of that difference by the seeds of both rows; None where one has a single seed.
    """

    seeds: tuple[float, ...]
    mean: Interval
    spread: float | None
    classes: Mapping[str, float]
    difference: Interval | None
    seed_error: float | None = None

    @property
    def said(self) -> str:
        """``+2.3 [+0.4, +4.1]``, and whether that is more than noise; nothing of the first row."""
        if self.difference is None:
            return ""
        text = f"{self.difference.value:+.1f} [{self.difference.low:+.1f}, {self.difference.high:+.1f}]"
        if not self.difference.excludes_zero:
            return f"{text} within the noise of the photos"
        within = self.seed_error is not None and abs(self.difference.value) <= 2 * self.seed_error
        return f"{text} within the noise of the seeds" if within else text


@dataclass(frozen=True)
class Row:
    """Runs that differ by their seed alone, one of each seed."""

    name: str
    runs: tuple[MeasuredRun, ...]
    differs: Mapping[str, str]  # settings in which it is not as the first row, and their values
    figures: Mapping[str, Figure]

    @property
    def minutes(self) -> float:
        return float(np.mean([run.minutes for run in self.runs]))

    @property
    def signals(self) -> tuple[str, ...]:
        return self.runs[0].signals


@dataclass(frozen=True)
class Comparison:
    rows: tuple[Row, ...]
    taught: int = 0  # photos left out, since a person's mask of them taught a run

    @property
    def kinds(self) -> tuple[str, ...]:
        """What every row has."""
        return tuple(kind for kind in WHAT if all(kind in row.figures for row in self.rows))

    @property
    def one_supervision(self) -> bool:
        """Whether all rows learned from the same; if not, no difference is one of methods alone."""
        return len({row.signals for row in self.rows}) == 1

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before the numbers."""
        lines = [] if self.one_supervision else [UNEQUAL]
        if self.taught:
            lines.append(f"{some(self.taught, 'photo')} {'is' if self.taught == 1 else 'are'} left out: {TAUGHT}")
        lines += [REPEATED] if len({row.runs[0].alike for row in self.rows}) < len(self.rows) else []
        return [*lines, *([ONE_SEED] if any(len(row.runs) == 1 for row in self.rows) else [])]

    def to_json(self) -> dict[str, Any]:
        """Plain data, percent."""
        return {
            "unit": "percent mean IoU",
            "one_supervision": self.one_supervision,
            "cautions": self.cautions,
            "rows": [
                {
                    "name": row.name,
                    "runs": [{"folder": run.name, "seed": run.seed, "minutes": run.minutes} for run in row.runs],
                    "supervision": list(row.signals),
                    "minutes": row.minutes,
                    "settings": dict(row.differs),
                    **{kind: _plain(asdict(row.figures[kind])) for kind in self.kinds},
                }
                for row in self.rows
            ],
        }

    def to_text(self) -> str:
        """A table for a terminal."""
        lines = []
        width = max(len(row.name) for row in self.rows)
        for kind in self.kinds:
            lines.append(f"{WHAT[kind]}, {some(len(self.rows[0].runs[0].photos[kind]), 'photo')}: mIoU")
            for row in self.rows:
                figure = row.figures[kind]
                text = f"  {row.name:<{width}}  {_mean(figure)}"
                lines.append(f"{text}   {figure.said}".rstrip())
        lines += [f"{row.name}: {row.minutes:.1f} min, learned from {listed(row.signals)}" for row in self.rows]
        return "\n".join([*lines, *self.cautions])


def _plain(value: Any) -> Any:
    """None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value


UNEQUAL = "These runs did not learn from the same: a difference may be that of what they were told, not of the method."
TAUGHT = "a person's mask taught one of these runs, and says nothing of its own."
REPEATED = (
    "Runs of one seed and the same settings stand in rows of their own: a difference comes from the machine, or the "
    "version of the code."
)
ONE_SEED = "Intervals are over photos. A row of one seed does not know what other seeds give: train with --seeds 0 1 2."


def _mean(figure: Figure) -> str:
    text = f"{figure.mean.value:.1f}"
    if figure.spread is not None:
        text += f" ± {figure.spread:.1f} over {len(figure.seeds)} seeds"
    return f"{text} [{figure.mean.low:.1f}, {figure.mean.high:.1f}]"


def compare(folders: Sequence[Path], *, mixed: bool = False) -> Comparison:
    """Compare finished runs of the same photos and classes.

    Intervals are of a paired bootstrap over photos (2,000 draws): what other photos of the same kind would have
    given. They know nothing of other seeds; that is what ``spread`` is for. Photos of which a person's mask taught one
    of the runs are left out of all.

    Args:
        mixed: whether runs that learned from different things may stand in one table, which then says so.

    Raises:
        InputError: fewer than two runs, one that is not finished, other classes or photos, other supervision.
    """
    if len(folders) < 2:
        raise InputError("compare needs at least two runs: tag2mask compare RUN RUN ...")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a run is named twice: compare different runs")
    runs = [open_run(folder, name) for folder, name in zip(folders, short_names(folders), strict=True)]
    taught = frozenset().union(*(run.taught for run in runs))
    runs = [run.without(taught) for run in runs] if taught else runs  # all on the same photos
    _check_alike(runs)
    if not mixed:
        _check_supervision(runs)
    groups = _grouped(runs)
    return Comparison(tuple(_row(group, groups[0]) for group in groups), len(taught))


def _grouped(runs: Sequence[MeasuredRun]) -> list[list[MeasuredRun]]:
    """Runs that differ by their seed alone. A seed that was run again goes to another group: it is no other draw."""
    groups: list[list[MeasuredRun]] = []
    for run in runs:
        fitting = (of for of in groups if of[0].alike == run.alike and run.seed not in {one.seed for one in of})
        if (group := next(fitting, None)) is None:
            groups.append(group := [])
        group.append(run)
    return groups


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    named = (["/".join(of[-length:]) for of in parts] for length in lengths)
    return next((names for names in named if len(set(names)) == len(names)), [str(folder) for folder in folders])


def _check_alike(runs: Sequence[MeasuredRun]) -> None:
    first, *others = runs
    for run in others:
        if run.classes != first.classes:
            raise InputError(
                f"{run.name} has the classes {listed(run.classes)} and {first.name} {listed(first.classes)}: only runs "
                "of the same classes, in the same order, can be compared"
            )
        kinds = first.photos.keys() & run.photos.keys()
        if not kinds:
            raise InputError(f"{run.name} and {first.name} have nothing that was measured in both")
        for kind in sorted(kinds):
            one, other = set(first.photos[kind]), set(run.photos[kind])
            if one != other:
                raise InputError(
                    f"{run.name} and {first.name} were measured on different photos: {len(one - other)} in "
                    f"{first.name} alone, {len(other - one)} in {run.name} alone; compare runs of the same split"
                )
            known, seen = first.execution.data.photos, run.execution.data.photos
            if odd := [key[1] for key in first.photos[kind] if known[key].digest != seen[key].digest]:
                raise InputError(
                    f"{len(odd)} photos of {first.name} and {run.name} have the same names and are not the same: "
                    f"{listed(odd)}"
                )
            place = {key: number for number, key in enumerate(first.photos[kind])}
            order = [place[key] for key in run.photos[kind]]
            if not np.array_equal(first.confusions[kind][order].sum(2), run.confusions[kind].sum(2)):
                raise InputError(f"{run.name} and {first.name} were measured against different true masks")
    in_all = frozenset(first.photos).intersection(*(run.photos for run in others))
    if not in_all:
        raise InputError("nothing was measured in all of these runs (masks, predictions): compare fewer of them")
    if all(len(first.photos[kind]) == 1 for kind in in_all):
        raise InputError("only one photo was measured: an interval over photos needs two or more with true masks")


def _check_supervision(runs: Sequence[MeasuredRun]) -> None:
    first, *others = runs
    for run in others:
        if run.signals != first.signals:
            raise InputError(
                f"{first.name} learned from {listed(first.signals)} and {run.name} from {listed(run.signals)}: their "
                "difference is not one of methods; to see them in one table all the same, say --mixed"
            )


def _row(runs: Sequence[MeasuredRun], first: Sequence[MeasuredRun]) -> Row:
    base, own = first[0].settings, runs[0].settings
    differs = {k: str(own.get(k, "none")) for k in {**base, **own} if own.get(k) != base.get(k)}
    kinds = [kind for kind in WHAT if all(kind in run.confusions for run in (*runs, *first))]
    figures = {kind: _figure([run.confusions[kind] for run in runs], _of(runs, first, kind), runs[0]) for kind in kinds}
    name = runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"
    return Row(name, tuple(runs), differs, figures)


def _of(runs: Sequence[MeasuredRun], first: Sequence[MeasuredRun], kind: str) -> list[np.ndarray] | None:
    """The first row's matrices, their photos in this row's order; None where this is the first row."""
    if runs[0] is first[0]:
        return None
    place = {key: number for number, key in enumerate(first[0].photos[kind])}
    order = [place[key] for key in runs[0].photos[kind]]
    return [run.confusions[kind][order] for run in first]


def _figure(confusions: list[np.ndarray], first: list[np.ndarray] | None, run: MeasuredRun) -> Figure:
    totals = [matrix.sum(0) for matrix in confusions]
    seeds = tuple(float(mean_iou(total)) for total in totals)
    counts = draws(len(confusions[0]))
    mean = interval(float(np.mean(seeds)), runs_resampled(confusions, counts).mean(0))
    names = ("background", *run.classes)
    by_class = np.mean([class_iou(total) for total in totals], 0)
    return Figure(
        seeds,
        mean,
        float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        dict(zip(names, by_class.tolist(), strict=True)),
        None if first is None else paired_difference(confusions, first, counts),
        None if first is None else _seed_error(seeds, [float(mean_iou(matrix.sum(0))) for matrix in first]),
    )


def _seed_error(ones: Sequence[float], others: Sequence[float]) -> float | None:
    if min(len(ones), len(others)) < 2:
        return None
    return float(np.sqrt(np.var(ones, ddof=1) / len(ones) + np.var(others, ddof=1) / len(others)))
