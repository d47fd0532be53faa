"""The commands on data sets: `doctor`, `tags`, `saliency`, `download`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tag2mask.cli.flags import say, show_progress, spell_out
from tag2mask.cli.parsing import parse
from tag2mask.errors import InputError, some
from tag2mask.settings import NOT_NEGATIVE, SEED, check_values

if TYPE_CHECKING:
    from tag2mask.backbones import BackboneSettings
    from tag2mask.data import DataSettings
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
        limit: Annotated[int, NOT_NEGATIVE] = 20
        """How many photos are printed."""
        seed: Annotated[int, SEED] = 0
        backbone: BackboneSettings = BackboneSettings()
        data: DataSettings = DataSettings()

    parsed = parse(Tags, spell_out(arguments), "tags")
    check_values(parsed, "")
    show_progress()
    if parsed.out is not None and parsed.out.exists():
        from tag2mask.tag_errors.table import refuse_existing

        refuse_existing(parsed.out)
    to_write = parsed.out is not None
    if (parsed.DATA / "run.json").exists():
        if parsed.seed != Tags.seed:
            raise InputError(f"{parsed.DATA} is a run, whose own seed counts: leave --seed out, or give the data")
        errors, datasets = _tags_of_run(parsed.DATA, parsed.data, parsed.backbone, to_write=to_write)
    else:
        errors, datasets = _tags_of_data(parsed.DATA, parsed.data, parsed.backbone, parsed.seed, to_write=to_write)
    print(errors.to_text(parsed.limit))
    if parsed.out is not None:
        from tag2mask.tag_errors.table import photo_folder, write_table

        write_table(parsed.out, datasets, errors)
        print(
            f"all tags in {parsed.out}: correct the column tags, then train with --layout folder --tags {parsed.out} "
            f"--data.images {photo_folder(datasets[0])}"
        )
    return 0


def _tags_of_data(
    path: Path, settings: "DataSettings", backbone: "BackboneSettings", seed: int, *, to_write: bool
) -> tuple["TagErrors", list["Dataset"]]:
    from tag2mask import doctor, tag_errors
    from tag2mask.data.tag_changes import check_writable

    surveyed = doctor.survey(path, settings)
    doctor.refuse_errors(surveyed.findings)
    assert surveyed.train is not None
    if to_write:
        check_writable(surveyed.train.classes)
    others = [] if surveyed.val is None else [surveyed.val]
    return tag_errors.find(surveyed.train, backbone, seed), [surveyed.train, *others]


def _tags_of_run(
    path: Path, settings: "DataSettings", backbone: "BackboneSettings", *, to_write: bool
) -> tuple["TagErrors", list["Dataset"]]:
    from tag2mask import pipeline, run_tags
    from tag2mask.data.tag_changes import check_writable
    from tag2mask.plan.folder import Run

    if settings != type(settings)() or backbone != type(backbone)():
        raise InputError(f"{path} is a run, which has its own data and backbone: leave the flags out, or give the data")
    with Run(path, existing=True) as opened:
        execution = pipeline.reopen(opened)
        if not execution.folders:
            raise InputError(f"the photos of {path} have changed or were never checked: run its command again")
        if to_write:
            check_writable(execution.data.train.classes)
        errors = run_tags.judge(execution)
        if {"masks", "scores"} <= execution.folders.keys():
            pipeline.write_report(execution)
    val = execution.data.val
    return errors, [execution.data.train, *([] if val is None else [val])]


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

    say(f"{some(len(make_saliency_maps(parsed.DATA, parsed.out, parsed.data)), 'saliency map')} in {parsed.out}")
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
