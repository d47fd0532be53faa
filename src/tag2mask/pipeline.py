"""The whole road, stage by stage: photos with tags -> method -> maps -> masks -> segmenter -> predictions -> scores ->
report. What each stage does is in ``stages/``. A single-stage method is the segmenter; after it none is trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tag2mask import backbones, data, methods, propagation, segment, stages
from tag2mask.data.batches import check_pairs
from tag2mask.data.images import write_index_mask
from tag2mask.errors import InputError, UnreadableImage, listed
from tag2mask.progress import track
from tag2mask.recipes import RunSettings, settings_from
from tag2mask.refine import refiner
from tag2mask.run import Clock, Run
from tag2mask.stages import Work, say
from tag2mask.types import Dataset


def label(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> Path:
    """Tags to masks for those photos. Gives the folder of masks (``<id>.png``).

    Raises:
        InputError: anything the user can mend, in one line.
    """
    return _run(Path(path), Path(out), settings or RunSettings(), train_segmenter=False) / "masks"


def train(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> Path:
    """Tags to a trained segmenter, with scores where truth is given and a report. Gives the run folder."""
    return _run(Path(path), Path(out), settings or RunSettings(), train_segmenter=True)


def _run(path: Path, out: Path, settings: RunSettings, *, train_segmenter: bool) -> Path:
    check_settings(settings)
    train_set = data.load(path, settings.data)
    check_saliency(train_set, settings)
    stages.check_network(settings, len(train_set.classes))
    if getattr(settings.options, "pairs", False):
        check_pairs(train_set)
    val = validation_set(path, settings)
    with Run(out) as run:
        clock = Clock()
        work = stages.prepare(run, settings, train_set, val, path)
        stages.train_method(work)
        stages.make_maps(work)
        stages.train_students(work)
        stages.train_affinity(work)
        stages.walk_maps(work)
        stages.make_masks(work)
        if train_segmenter and not settings.single_stage:
            stages.train_segmenter(work, oracle=False)
            if settings.oracle_masks:
                stages.make_oracle_masks(work)
                stages.train_segmenter(work, oracle=True)
        if train_segmenter:
            stages.predict_validation(work)
        stages.make_scores(work)
        stages.record_sitting(work, clock)
        say(f"report: {write_report(work)}")
    return out


def write_report(work: Work) -> Path:
    """``report.html`` of a run whose stages are done."""
    from tag2mask import report, summary

    path = work.run.folder / "report.html"
    report.render(summary.report_data(work), path)
    return path


def reopen(run: Run) -> Work:
    """A finished run, its data read again, nothing redone."""
    described = run.description()
    settings = settings_from(described["settings"])
    path = Path(described["data"])
    train_set, val = data.load(path, settings.data), validation_set(path, settings)
    masks, trained = stages.mask_names(settings), stages.segmenter_names(settings)
    measured = ("oracle-masks", *stages.segmenter_names(settings, oracle=True), "predictions", "predictions-oracle")
    made = [n for pair in zip(stages.network_names(settings), stages.map_names(settings), strict=True) for n in pair]
    names = ("images", *made, "affinity", "walked", *masks, *trained, *measured)
    there = [name for name in names if (run.folder / name / "manifest.json").exists()]
    found = {name: run.open_stage(name) for name in (*there, "scores")}
    seen, quarantined = stages.read_images_stage(found["images"])
    val = None if val is None else stages.readable(val, seen)
    return Work(run, settings, stages.readable(train_set, seen), val, seen, quarantined, found)


def check_settings(settings: RunSettings) -> None:
    """Every name in the settings exists, before any work is done."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a run folder is worked on by one process and this was started as several (torchrun, accelerate launch): "
            "start `tag2mask` itself"
        )
    methods.entry(settings.method)
    if settings.oracle_masks and settings.single_stage:
        raise InputError(
            f"--oracle-masks trains the run's segmenter on true masks, and --method {settings.method} is itself the "
            f"segmenter: leave it out, or measure another run's (--{settings.method}.no-single-stage, --method cam)"
        )
    backbones.check_settings(settings.backbone)
    trainings = (settings.train, settings.propagation_train, settings.segmenter_train, settings.relabel_train)
    if any(training.epochs == 0 for training in trainings[1:]) or (
        settings.train.epochs == 0 and methods.released(settings.backbone.weights) is None
    ):
        raise InputError(
            "a training of 0 epochs: it must be above 0 (only --epochs may be 0, where --weights holds a whole method, "
            "to use it as it is)"
        )
    way = propagation.propagation(settings.propagate)
    refiner(settings.refine)
    if settings.pseudo.background == "saliency-rule" and settings.refine != "none":
        raise InputError(
            f"--background saliency-rule sets its thresholds on the maps themselves, and --refine {settings.refine} "
            f"would move them: use --refine none, or --background saliency"
        )
    if way is not None and way.network is not None and settings.frozen:
        raise InputError(f"--propagate {settings.propagate} reads the backbone's blocks: leave out --freeze")
    refiner(settings.inference.refine)
    refiner(settings.relabel.refine)
    own = stages.segmenter_backbone(settings)
    if own is not settings.backbone:
        backbones.check_settings(own)
    segment.check_settings(settings.segmenter, frozen=own.freeze or own.freeze_until is not None)


def check_saliency(dataset: Dataset, settings: RunSettings) -> None:
    """Saliency maps are there for every photo, where the settings ask for them."""
    asking = {
        f"--method {settings.method}": (methods.needs_saliency(settings.method), "a method without, --method cam"),
        "--self-train.denoise saliency": (
            settings.self_train.students > 0 and "saliency" in settings.self_train.denoise, "leave it out"
        ),
        "--background saliency": (settings.pseudo.background == "saliency", "another background"),
        "--background saliency-rule": (settings.pseudo.background == "saliency-rule", "another background"),
    }  # fmt: skip
    lacking: list[str] | None = None
    for what, (asks, otherwise) in asking.items():
        if not asks:
            continue
        if lacking is None:
            lacking = [s.id for s in dataset.samples if s.saliency_path is None]
        if what == "--background saliency-rule":
            if len(lacking) < len(dataset):
                continue  # photos without one get no mask by the rule; they are counted and named
            found = f"saliency maps and none of the {len(dataset)} photos has one"
        else:
            found = f"a saliency map for every photo; {len(lacking)} have none ({listed(lacking)})"
        if lacking:
            raise InputError(
                f"{what} needs {found}: give --saliency FOLDER (grey images, one a photo under its name, bright where "
                f"something stands out, by any saliency detector), or {otherwise}"
            )


def validation_set(path: Path, settings: RunSettings) -> Dataset | None:
    """The validation split, if the data set has one."""
    if settings.data.val_split not in data.splits(path, settings.data):
        return None
    return data.load(path, settings.data, settings.data.val_split)


def predict(
    run_folder: Path | str,
    images: Path | str | Sequence[Path],
    out: Path | str,
    refine: str | None = None,
) -> list[Path]:
    """Masks for new, untagged photos with a run's segmenter: ``out/<id>.png``. Gives the paths written.

    Photos that cannot be read are named and passed over. ``refine`` replaces the run's refiner of predictions.

    Raises:
        InputError: no such run, no trained segmenter in it, no photos.
    """
    run = Run(Path(run_folder), resume=True)
    described = run.description()
    settings = settings_from(described["settings"])
    if refine is not None:
        settings = replace(settings, inference=replace(settings.inference, refine=refine))
    samples = data.load_images(images)
    segmenter, backbone = stages.load_segmenter(run, settings, len(described["classes"]))
    written, bad = [], []
    for sample in track(samples, "predicting", len(samples)):
        try:
            pairs = list(stages.predictions(segmenter, backbone, [sample], settings))
        except UnreadableImage as error:
            say(f"set aside: {error}")
            bad.append(sample.id)
            continue
        path = Path(out) / f"{sample.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(path, pairs[0][1])
        written.append(path)
    if not written:
        raise InputError(f"none of the {len(bad)} photos in {images} can be read: give photos in a common format")
    return written
