"""The whole pipeline: photos with tags to masks, or to a segmenter; and masks of new photos. What a run does is its
plan (``stages``); this module reads the data, checks everything that can be checked, and carries the plan out."""

from __future__ import annotations

import itertools
import logging
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from tag2mask import checks, compute, concurrency, data, doctor, processes, stages
from tag2mask.data.images import CheckedImage, image_size, write_index_mask
from tag2mask.data.new_photos import tag_photos
from tag2mask.errors import DamagedArtefact, InputError, UnreadableImage
from tag2mask.evaluate import write_classes
from tag2mask.files import digest
from tag2mask.naming import safe_name
from tag2mask.plan import explain
from tag2mask.plan.execute import Execution, begin, execute, reopened
from tag2mask.plan.explain import Outlook
from tag2mask.plan.facts import DigestCache, RunData
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.plan.photos import read_records
from tag2mask.plan.stage import Fact, Stage
from tag2mask.progress import track
from tag2mask.recipes import RunSettings, settings_from
from tag2mask.settings import plain
from tag2mask.stages import names
from tag2mask.stages.predictions import Predictor, Read
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")


def label(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> Path:
    """Tags to masks for those photos. Gives the folder of masks (``<id>.png``).

    Raises:
        InputError: anything the user can mend, in one line.
    """
    plan = stages.plan(settings or RunSettings())
    return run(Path(path), Path(out), settings or RunSettings(), stages.labelling(plan)) / "masks"


def train(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> Path:
    """Tags to a trained segmenter, with scores where truth is given and a report. Gives the run folder."""
    plan = stages.plan(settings or RunSettings())
    return run(Path(path), Path(out), settings or RunSettings(), [stage.name for stage in plan])


def run(path: Path, out: Path, settings: RunSettings, wanted: Collection[str], extra: Sequence[Stage] = ()) -> Path:
    """Carry out the wanted stages of the plan, and write the report. Gives the run folder.

    Args:
        wanted: names of stages.
        extra: stages of one's own, after those of the plan.

    Raises:
        InputError: anything the user can mend, in one line.
    """
    processes.join()
    surveyed, settings = _surveyed(path, settings, wanted)
    assert surveyed.train is not None
    checks.check_processes(processes.world(), len(surveyed.train), "training photos")
    checks.check_weights(settings, len(surveyed.train.classes), wanted, Run(out))
    began = time.monotonic()
    with Run(out) as folder:
        run_data = _run_data(path, surveyed, settings, folder)
        processes.from_main(lambda: _describe(folder, settings, run_data))
        execution = begin(folder, (*stages.plan(settings), *extra), settings, run_data)
        processes.from_main(lambda: _examine(execution, surveyed))
        execute(execution, wanted)
        processes.from_main(lambda: _record_session(folder, time.monotonic() - began))
        log.info("report: %s", _reported(execution, wanted))
    return out


def _reported(execution: Execution, wanted: Collection[str]) -> Path:
    """The report. Artefacts that only it reads and finds damaged are made anew, as before any stage."""
    damaged: set[Path] = set()
    while True:
        try:
            return processes.from_main(lambda: write_report(execution))
        except DamagedArtefact as error:
            if error.path in damaged:
                raise
            damaged.add(error.path)
            log.info("%s is damaged: it is made anew", error.path)
            execute(execution, wanted)


def _surveyed(path: Path, settings: RunSettings, wanted: Collection[str]) -> tuple[doctor.Survey, RunSettings]:
    """The data set as it is listed, and the settings independent of where the command runs; both checked.

    Raises:
        InputError: what is wrong first, of the data set or of the settings.
    """
    settings = replace(settings, data=settings.data.absolute())
    checks.check_names(settings)
    surveyed = doctor.survey(path.absolute(), settings.data)
    doctor.refuse_errors(surveyed.findings)
    assert surveyed.train is not None
    checks.check_run(settings, surveyed.train, wanted)
    return surveyed, settings


def _run_data(path: Path, surveyed: doctor.Survey, settings: RunSettings, run: Run) -> RunData:
    assert surveyed.train is not None
    digests = DigestCache(run.folder / ".digests.jsonl", verify=settings.verify)
    return RunData(path.absolute(), surveyed.train, surveyed.val, settings, digests)


def _examine(execution: Execution, surveyed: doctor.Survey) -> None:
    """Say what the doctor says of the data set; its errors stop the run before anything is trained.

    The decoded photos, truth and saliency maps are examined once, and again when they change.
    """
    for finding in surveyed.findings:
        if finding.level in ("warning", "note"):
            log.info("%s", finding)
    facts: tuple[Fact, ...] = ("photos", "val photos", "truth", "val truth", "saliency")
    examined = digest([execution.data.fact(name) for name in facts])
    described = execution.run.description()
    if described.get("examined") == examined:
        return
    records = read_records(execution.folders[execution.stages[0].name].records)
    checked = [CheckedImage(**{f.name: r[f.name] for f in fields(CheckedImage) if f.name in r}) for r in records]
    findings = doctor.check_photos(surveyed, checked)
    doctor.refuse_errors(findings)
    said = tuple(record["error"] for record in execution.data.set_aside)  # one by one, when they were set aside
    for finding in findings:
        if finding.level == "warning" and not finding.message.endswith(said):
            log.info("%s", finding)
    described.pop("version")
    execution.run.describe({**described, "examined": examined})


def outlook(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> list[Outlook]:
    """What :func:`train` would do in this run folder: what is done, what would be made anew and why. Changes
    nothing."""
    path, out = Path(path), Path(out)
    settings = settings or RunSettings()
    wanted = [stage.name for stage in stages.plan(settings)]
    surveyed, settings = _surveyed(path, settings, wanted)
    there = (out / "run.json").exists()
    run = Run(out, existing=there)
    run_data = _run_data(path, surveyed, settings, run)
    return explain.outlook(run if there else None, stages.plan(settings), settings, run_data, wanted)


def write_report(execution: Execution) -> Path:
    """``report.html`` of a run whose stages are done.

    Raises:
        InputError: they are not, or they were made of other photos, tags or settings than are there now.
    """
    from tag2mask import report, summary

    check_finished(execution)
    path = execution.run.folder / "report.html"
    report.render(summary.report_data(execution), path)
    return path


def check_finished(execution: Execution) -> None:
    """Whether there are masks and scores of what is there now.

    Raises:
        InputError: not all stages are done, or they were made of other photos, tags or settings.
    """
    if not {"masks", "scores"} <= execution.folders.keys():
        raise InputError(
            f"{execution.run.folder} holds no finished run of the photos, tags and settings that are there now: run "
            "its command again (`tag2mask plan` says what has changed)"
        )


def reopen(run: Run) -> Execution:
    """A run as it lies there, its data read again, nothing redone.

    Raises:
        InputError: the data set is not there any more, or cannot be read.
    """
    described = run.description()
    settings, path = settings_from(described["settings"]), Path(described["data"])
    surveyed = doctor.survey(path, settings.data)
    doctor.refuse_errors(surveyed.findings)
    return reopened(run, stages.plan(settings), settings, _run_data(path, surveyed, settings, run))


def predict(
    run_folder: Path | str,
    images: Path | str | Sequence[Path],
    out: Path | str,
    refine: str | None = None,
    tags: Path | str | None = None,
) -> list[Path]:
    """Masks for new photos with a run's segmenter: ``out/<id>.png``. Gives the paths written.

    Photos that cannot be read are named and passed over. ``refine`` replaces the run's refiner of predictions.

    Args:
        tags: a table of tags (:mod:`tag2mask.data.table`) of some of the photos. Classes outside of a photo's tags are
            switched off, all of them where its tags are empty; photos that it does not name may show any.

    Raises:
        InputError: no such run, no trained segmenter in it, no photos, tags of other photos or classes.
    """
    processes.join()
    run = Run(Path(run_folder), existing=True)
    described = run.description()
    settings = settings_from(described["settings"])
    if refine is not None:
        settings = replace(settings, inference=replace(settings.inference, refine=refine))
    out = Path(out).absolute()
    samples = data.load_images(images, skip=[out])
    checks.check_processes(processes.world(), len(samples), "photos")
    _check_predictions_folder(out, samples)
    if tags is not None:
        samples = tag_photos(samples, Path(tags), described["classes"], selected=bool(settings.data.classes))
    predictor = Predictor(settings, len(described["classes"]), trained_segmenter(run, settings), settings.single_stage)
    written = []

    def read(sample: Sample) -> Read | UnreadableImage:
        try:
            return predictor.read(sample)
        except UnreadableImage as error:
            return error

    def probabilities(batch: Sequence[Sample], inputs: Sequence[Read | UnreadableImage]) -> list[Any]:
        readable = iter(predictor.probabilities([x for x in inputs if not isinstance(x, UnreadableImage)]))
        return [x if isinstance(x, UnreadableImage) else next(readable) for x in inputs]

    def write(sample: Sample, output: Any) -> Path | UnreadableImage:
        if isinstance(output, UnreadableImage):
            return output
        path = out / f"{safe_name(sample.id)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_index_mask(path, predictor.mask(output, sample.labels))
        return path

    every = (batch for part in _parts(samples) for batch in predictor.batches(part, _size))
    batches = itertools.islice(every, processes.rank(), None, processes.world())
    done = concurrency.pipelined(batches, read, probabilities, write, cost=lambda sample: 6e6, workers=settings.workers)
    aside: list[str] = []
    with processes.together():
        for _, result in track(done, "predicting", len(samples) // processes.world()):
            if isinstance(result, UnreadableImage):
                log.info("set aside: %s", result)
                aside.append(str(result))
            else:
                written.append(result)
    for message in itertools.chain.from_iterable(processes.exchange(aside)[1:]):
        log.info("set aside: %s", message)
    written = list(itertools.chain.from_iterable(processes.exchange(written)))
    if not written:
        raise InputError(f"none of the {len(samples)} photos in {images} can be read: give photos in a common format")
    processes.from_main(lambda: write_classes(out, described["classes"]))
    return sorted(written)


def _check_predictions_folder(out: Path, samples: Sequence[Sample]) -> None:
    """Nothing that is there is written over: no run, no photo.

    Raises:
        InputError: it would be.
    """
    inside = next((folder for folder in (out, *out.parents) if (folder / "run.json").exists()), None)
    if inside is not None:
        raise InputError(
            f"--out {out} lies in the run folder {inside}, whose masks it could replace: give another folder"
        )
    for sample in samples:
        if (out / f"{safe_name(sample.id)}.png").resolve() == sample.image_path.resolve():
            raise InputError(
                f"--out {out} holds the photos themselves: the mask of {sample.image_path.name} would replace it; give "
                "another folder"
            )


def _parts(samples: Sequence[Sample], size: int = 512) -> Iterator[Sequence[Sample]]:
    """Parts of many photos in which those of one size are brought together."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _size(sample: Sample) -> tuple[int, int]:
    """(height, width) of a photo by its header; (1, 1) where that cannot be read."""
    try:
        return image_size(sample.image_path)
    except UnreadableImage:
        return 1, 1


def trained_segmenter(run: Run, settings: RunSettings) -> StageFolder:
    """The stage of the run's finished segmenter."""
    name = names.segmenters(settings)[-1]
    stage = run.current(name)
    if stage is None or not stage.has_manifest:
        raise InputError(f"{run.folder} has no finished stage '{name}': run `tag2mask train` to its end first")
    return stage


def _describe(run: Run, settings: RunSettings, run_data: RunData) -> None:
    """Write ``run.json``: what this run is."""
    from tag2mask import __version__

    before = run.description()
    run.describe(
        {
            "tag2mask": __version__,
            "created": before.get("created") or _now(),
            "data": str(run_data.path),
            "command": shlex.join(["tag2mask", *sys.argv[1:]]),
            "classes": list(run_data.train.classes),
            "truth_values": list(run_data.train.truth_values),
            "settings": plain(settings),
            "sessions": before.get("sessions", []),
        }
    )


def _record_session(run: Run, seconds: float) -> None:
    """Add this session to ``run.json``: when, how long, peak memory, the machine."""
    described = run.description()
    session = {
        "ended": _now(),
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(compute.peak_memory_gb(), 2),
        "processes": processes.world(),
        "device": str(compute.device()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    described["sessions"] = [*described.get("sessions", []), session]
    described.pop("version")
    run.describe(described)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
