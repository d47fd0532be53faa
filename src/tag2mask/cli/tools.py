"""The commands that need no run's settings: `doctor`, `tags`, `predict`, `evaluate`, `report`, `download`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tag2mask.cli import exchange
from tag2mask.cli.flags import say, show_progress, spell_out
from tag2mask.cli.parsing import parse

if TYPE_CHECKING:
    from tag2mask.backbones import BackboneSettings
    from tag2mask.data import DataSettings
    from tag2mask.evaluate import Scores
    from tag2mask.tag_errors import TagErrors
    from tag2mask.types import Dataset


def doctor(arguments: list[str]) -> int:
    import tyro

    from tag2mask.data import DataSettings

    @dataclasses.dataclass(frozen=True)
    class Doctor:
        """What is wrong with a data set, before hours are spent on it."""

        DATA: tyro.conf.Positional[Path]
        data: DataSettings = DataSettings()

    parsed = parse(Doctor, spell_out(arguments), "doctor")
    show_progress()
    from tag2mask.doctor import diagnose, render

    findings = diagnose(parsed.DATA, parsed.data)
    print(render(findings))
    return 2 if any(f.level == "error" for f in findings) else 0


def tags(arguments: list[str]) -> int:
    import tyro

    from tag2mask.backbones import BackboneSettings
    from tag2mask.data import DataSettings

    @dataclasses.dataclass(frozen=True)
    class Tags:
        """Tags that look wrong or missing, most doubtful first, by classifiers that did not learn from the photo."""

        DATA: tyro.conf.Positional[Path]
        """A data set; or a run, whose report and `serve` then show what was found."""
        out: Path | None = None
        """A CSV of all tags, most doubtful first, to correct and give back with --tags."""
        limit: int = 20
        """How many photos are printed."""
        seed: int = 0
        backbone: BackboneSettings = BackboneSettings()
        data: DataSettings = DataSettings()

    parsed = parse(Tags, spell_out(arguments), "tags")
    show_progress()
    if parsed.out is not None and parsed.out.exists():
        from tag2mask.tag_errors.table import refuse_existing

        refuse_existing(parsed.out)
    if (parsed.DATA / "run.json").exists():
        errors, datasets = _tags_of_run(parsed.DATA, parsed.data, parsed.backbone)
    else:
        errors, datasets = _tags_of_data(parsed.DATA, parsed.data, parsed.backbone, parsed.seed)
    print(errors.to_text(max(parsed.limit, 0)))
    if parsed.out is not None:
        from tag2mask.tag_errors.table import photo_folder, write_table

        write_table(parsed.out, datasets, errors)
        print(
            f"all tags in {parsed.out}: correct the column tags, then train with --layout folder --tags {parsed.out} "
            f"--data.images {photo_folder(datasets[0])}"
        )
    return 0


def _tags_of_data(
    path: Path, settings: "DataSettings", backbone: "BackboneSettings", seed: int
) -> tuple["TagErrors", list["Dataset"]]:
    from tag2mask import doctor, tag_errors

    surveyed = doctor.survey(path, settings)
    doctor.refuse_errors(surveyed.findings)
    assert surveyed.train is not None
    others = [] if surveyed.val is None else [surveyed.val]
    return tag_errors.find(surveyed.train, backbone, seed), [surveyed.train, *others]


def _tags_of_run(
    path: Path, settings: "DataSettings", backbone: "BackboneSettings"
) -> tuple["TagErrors", list["Dataset"]]:
    from tag2mask import pipeline, run_tags
    from tag2mask.errors import InputError
    from tag2mask.plan.folder import Run

    if settings != type(settings)() or backbone != type(backbone)():
        raise InputError(f"{path} is a run, which has its own data and backbone: leave the flags out, or give the data")
    with Run(path, existing=True) as opened:
        execution = pipeline.reopen(opened)
        if not execution.folders:
            raise InputError(f"the photos of {path} have changed or were never checked: run its command again")
        errors = run_tags.judge(execution)
        if {"masks", "scores"} <= execution.folders.keys():
            pipeline.write_report(execution)
    val = execution.data.val
    return errors, [execution.data.train, *([] if val is None else [val])]


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


def predict(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Predict:
        """Masks for new photos with a run's segmenter; no tags are needed."""

        RUN: tyro.conf.Positional[Path]
        IMAGES: tyro.conf.Positional[Path]
        out: Path
        """Folder for the masks: index PNG, 0 background, c + 1 class c, in the palette of VOC."""
        refine: str | None = None
        """Another refiner than the run's (`tag2mask list refiners`), or none."""
        tags: Path | None = None
        """Tags of some of the photos (a CSV image,tags): classes outside of a photo's tags are switched off, all of
        them where its tags are empty; a photo without a line may show any."""
        shard: str = "1/1"
        """Only this share of the photos, 3/10: of ten tasks the third. `tag2mask merge DIR` checks that all are
        there."""
        engine: Literal["local", "ray"] = "local"
        """ray: on the Ray cluster at RAY_ADDRESS, or a local one."""

    parsed = parse(Predict, arguments, "predict")
    show_progress()
    from tag2mask import prediction, processes
    from tag2mask.progress import tell
    from tag2mask.shards import Shard

    shard = Shard.of(parsed.shard)
    engine = None
    if parsed.engine == "ray":
        from tag2mask.ray_engine import made_on_ray as engine
    written = prediction.predict(parsed.RUN, parsed.IMAGES, parsed.out, parsed.refine, parsed.tags, shard, engine)
    if processes.is_main():
        tell("result", masks=str(parsed.out), photos=len(written))
        say(f"{len(written)} masks in {parsed.out}")
    return 0


def saliency(arguments: list[str]) -> int:
    import tyro

    from tag2mask.data import DataSettings

    @dataclasses.dataclass(frozen=True)
    class Saliency:
        """A saliency map of every photo, by a packaged network that was trained with masks (extra `saliency`)."""

        DATA: tyro.conf.Positional[Path]
        out: Path
        """Folder for the maps: grey PNG, one a photo under its id, bright where something stands out. `DATA/saliency`
        is found by itself, another one by --saliency."""
        data: DataSettings = DataSettings()

    parsed = parse(Saliency, spell_out(arguments), "saliency")
    show_progress()
    from tag2mask.saliency import make_saliency_maps

    say(f"{len(make_saliency_maps(parsed.DATA, parsed.out, parsed.data))} saliency maps in {parsed.out}")
    return 0


def merge(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Merge:
        """Check that every shard of `predict --shard` or `label --shard` is done and nothing is missing."""

        DIR: tyro.conf.Positional[Path]
        """The --out of the shards."""

    parsed = parse(Merge, arguments, "merge")
    if (parsed.DIR / "run.json").exists():
        from tag2mask import pipeline

        print(pipeline.merge_run(parsed.DIR))
        return 0
    from tag2mask import prediction

    masks, aside = prediction.merge_predictions(parsed.DIR)
    for error in aside.values():
        print(f"set aside: {error}")
    print(f"{masks} masks in {parsed.DIR}" + (f", {len(aside)} photos set aside" if aside else ""))
    return 0


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


def download(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Download:
        """Fetch a public data set with checksums."""

        NAME: tyro.conf.Positional[str]
        to: Path

    parsed = parse(Download, arguments, "download")
    show_progress()
    from tag2mask.data.download import download as fetch

    print(fetch(parsed.NAME, parsed.to))
    return 0
