"""The commands that measure finished work and show it: `evaluate`, `compare`, `report`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.cli import exchange
from tag2mask.cli.parsing import parse

if TYPE_CHECKING:
    from tag2mask.evaluate import Scores


def evaluate(arguments: list[str]) -> int:
    if "--check" in arguments:
        return exchange.check([argument for argument in arguments if argument != "--check"])
    import json

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Evaluate:
        """A folder of index masks against another: PASCAL mIoU from one confusion matrix.

        `tag2mask evaluate RUN --check` measures a run on corrected masks (`tag2mask import`)."""

        PREDICTED: tyro.conf.Positional[Path]
        TRUTH: tyro.conf.Positional[Path]
        classes: str | None = None
        """Foreground classes in the order of their values 1, 2, ...: a file of names, or a,b,c. Left out: those of
        classes.txt beside the masks."""
        truth_values: str = ""
        """Value of each class in the truth, where these are others: 8,12."""
        json: bool = False
        """Print JSON."""
        allow_missing: bool = False
        """Pass over truth masks without a prediction, rather than stop."""

    parsed = parse(Evaluate, arguments, "evaluate")
    from tag2mask.errors import InputError, listed
    from tag2mask.evaluate import evaluate_folders, read_classes

    try:
        values = [int(value) for value in parsed.truth_values.split(",") if value.strip()]
    except ValueError as error:
        raise InputError(f"--truth-values '{parsed.truth_values}': give whole numbers such as 8,12") from error
    classes = None if parsed.classes is None else read_classes(parsed.classes)
    scores = evaluate_folders(parsed.PREDICTED, parsed.TRUTH, classes, parsed.allow_missing, values)
    from tag2mask.passport import signals_of_masks

    if parsed.PREDICTED.resolve() == parsed.TRUTH.resolve():
        print(f"{parsed.PREDICTED} and {parsed.TRUTH} are one folder, which agrees with itself", file=sys.stderr)
    signals = signals_of_masks(parsed.PREDICTED)
    if parsed.json:
        print(json.dumps({**scores.to_json(), "supervision": signals}, indent=1))
    else:
        _print_scores(scores)
        print(f"learned from: {'not known, no passport lies with the masks' if signals is None else listed(signals)}")
    return 0


def _print_scores(scores: "Scores") -> None:
    from tag2mask.evaluate import notes

    print(
        f"mean IoU {scores.mean_iou:.2f}   pixel accuracy {scores.pixel_accuracy:.2f}   coverage {scores.coverage:.2f}"
    )
    width = max(map(len, scores.class_names))
    print(f"{'class':<{width}}    IoU  precision  recall")
    for row in zip(scores.class_names, scores.iou, scores.precision, scores.recall, strict=True):
        print(f"{row[0]:<{width}} {row[1]:6.2f}     {row[2]:6.2f}  {row[3]:6.2f}")
    print("\n".join(notes(scores)))


def compare(arguments: list[str]) -> int:
    import json

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Compare:
        """Runs side by side on the same photos: scores with intervals, classes, minutes, supervision, photos."""

        RUNS: tyro.conf.Positional[tuple[Path, ...]]
        """Finished runs; those of equal settings and other seeds are one row."""
        mixed: bool = False
        """Runs that learned from different things (tags, saliency) may stand in one table, which says so."""
        out: Path | None = None
        """Also write a page with the photos on which they differ most."""
        json: bool = False
        """Print JSON."""

    parsed = parse(Compare, arguments, "compare")
    from tag2mask.compare import compare as compared

    if parsed.out is not None:
        from tag2mask.compare.page import check_page

        check_page(parsed.out)
    comparison = compared(parsed.RUNS, mixed=parsed.mixed)
    if parsed.out is not None:
        from tag2mask.compare.page import render

        render(comparison, parsed.out)
    print(json.dumps(comparison.to_json(), indent=2) if parsed.json else comparison.to_text())
    return 0


def report(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Report:
        """Write a run's report again."""

        RUN: tyro.conf.Positional[Path]

    parsed = parse(Report, arguments, "report")
    from tag2mask import pipeline
    from tag2mask.plan.folder import Run

    with Run(parsed.RUN, existing=True) as opened:
        print(pipeline.write_report(pipeline.reopen(opened)))
    return 0
