"""The whole pipeline: photos with tags to masks, or to a segmenter; and masks of new photos. What a run does is its
plan (``stages``); this module reads the data, checks everything that can be checked, and carries the plan out."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from tag2mask import checks, compute, data, doctor, processes, stages
from tag2mask.data import tag_changes
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.tag_changes import TagChanges, Written
from tag2mask.errors import DamagedArtefact, listed, some, unknown
from tag2mask.files import digest, write_json
from tag2mask.plan import explain, sharing
from tag2mask.plan.execute import Execution, begin, execute, reopened, settled
from tag2mask.plan.explain import Outlook
from tag2mask.plan.facts import OUTSIDE, DigestCache, RunData
from tag2mask.plan.folder import Run
from tag2mask.plan.photos import Engine
from tag2mask.plan.stage import Fact, Stage
from tag2mask.recipes import RunSettings, settings_from
from tag2mask.review import VERDICTS, Review
from tag2mask.settings import plain
from tag2mask.shards import Shard
from tag2mask.stages.saliency import saliency_line
from tag2mask.told import Told

log = logging.getLogger("tag2mask")


def label(
    path: Path | str,
    out: Path | str,
    settings: RunSettings | None = None,
    *,
    until: str = "scores",
    engine: Engine | None = None,
) -> Path:
    """Tags to masks for those photos. Gives the folder of masks (``<id>.png``).

    Args:
        until: name of the last stage to carry out.
        engine: what does the work of per-photo stages (:mod:`tag2mask.ray_labelling`); None: this process.

    Raises:
        InputError: anything the user can mend, in one line.
    """
    settings = settings or RunSettings()
    if engine is not None:
        checks.check_engine(settings)
    return run(Path(path), Path(out), settings, _until(settings, until), engine=engine) / "masks"


def _until(settings: RunSettings, last: str) -> list[str]:
    wanted = stages.labelling(stages.plan(settings))
    if last not in wanted:
        raise unknown("stage", last, wanted)
    return wanted[: wanted.index(last) + 1]


def label_shard(path: Path | str, out: Path | str, settings: RunSettings, shard: Shard) -> str | None:
    """A shard's share of what :func:`label` does after its network is trained (:mod:`tag2mask.plan.sharing`); without
    scores and report. Gives why it ended early, None where the masks are all there.

    Raises:
        InputError: anything the user can mend, in one line.
    """
    wanted = _until(settings, "masks")
    folder = Run(Path(out))
    told = Told.kept(folder.folder, folder.description())  # as all of its shards
    surveyed, settings = _surveyed(Path(path), settings, wanted, told.changes)
    assert surveyed.train is not None
    checks.check_shards(settings, shard, len(surveyed.train))
    with sharing.shared(folder, shard, settings):
        run_data = _run_data(Path(path), surveyed, settings, folder, told)

        def examine(execution: Execution) -> None:
            _examine(execution, surveyed)
            keys = settled(execution)
            _describe(folder, settings, run_data, told)
            _forget_passport(folder, keys, wanted)

        return sharing.carry_out_share(folder, stages.plan(settings), settings, run_data, wanted, shard, examine)


def merge_run(out: Path | str) -> str:
    """Check that the masks of a run made by shards are all there; says how many.

    Raises:
        InputError: shards are missing or overlap.
    """
    folder = Run(Path(out), existing=True)
    settings = settings_from(folder.described()["settings"])
    sharing.check_shards(folder, stages.plan(settings), _until(settings, "masks"))
    _write_passport(reopen(folder))
    masks = folder.current("masks")
    assert masks is not None
    manifest = masks.manifest()
    without = manifest.get("without", ())
    more = f", {some(len(without), 'photo')} without one ({listed(without)})" if without else ""
    return f"{some(manifest['count'] - len(without), 'mask')} in {masks.folder}{more}"


def train(path: Path | str, out: Path | str, settings: RunSettings | None = None) -> Path:
    """Tags to a trained segmenter, with scores where truth is given and a report. Gives the run folder."""
    plan = stages.plan(settings or RunSettings())
    return run(Path(path), Path(out), settings or RunSettings(), [stage.name for stage in plan])


def run(
    path: Path,
    out: Path,
    settings: RunSettings,
    wanted: Collection[str],
    extra: Sequence[Stage] = (),
    engine: Engine | None = None,
) -> Path:
    """Carry out the wanted stages of the plan, and write the report. Gives the run folder.

    Args:
        wanted: names of stages.
        extra: stages of one's own, after those of the plan.
        engine: as of :func:`label`.

    Raises:
        InputError: anything the user can mend, in one line.
    """
    processes.join()
    told = processes.from_main(lambda: Told.now(Run(out).folder, with_masks=settings.with_masks))
    surveyed, settings = _surveyed(path, settings, wanted, told.changes)
    assert surveyed.train is not None
    checks.check_source(settings, out)
    checks.check_processes(processes.world(), len(surveyed.train), "training photo")
    checks.check_weights(settings, surveyed.train.classes, wanted, Run(out))
    began = time.monotonic()
    with Run(out) as folder:
        run_data = _run_data(path, surveyed, settings, folder, told)
        checks.check_taught(run_data)
        execution = begin(folder, (*stages.plan(settings), *extra), settings, run_data, engine)
        processes.from_main(lambda: _examine(execution, surveyed))
        keys = processes.from_main(lambda: settled(execution))
        # last: until what is of other settings or classes is aside, run.json says what lies there
        processes.from_main(lambda: _describe(folder, settings, run_data, told))
        processes.from_main(lambda: _forget_passport(folder, keys, wanted))
        execute(execution, wanted)
        processes.from_main(lambda: _record_session(folder, time.monotonic() - began))
        if "scores" in wanted:
            log.info("report: %s", _reported(execution, wanted))
        else:
            processes.from_main(lambda: _write_passport(execution))
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
            log.info("%s is damaged or gone: it is made anew", error.path)
            execute(execution, wanted)


def _surveyed(
    path: Path, settings: RunSettings, wanted: Collection[str], changes: TagChanges
) -> tuple[doctor.Survey, RunSettings]:
    """The data set as it is listed, tags changed, and the settings independent of where the command runs; both
    checked.

    Raises:
        InputError: what is wrong first, of the data set or of the settings.
    """
    start = None if settings.start_from is None else settings.start_from.absolute()
    settings = replace(settings, data=settings.data.absolute(), start_from=start)
    checks.check_names(settings)
    surveyed = doctor.survey(path.absolute(), settings.data, changes)
    doctor.refuse_errors(surveyed.findings)
    assert surveyed.train is not None
    checks.check_run(settings, surveyed.train, wanted)
    return surveyed, settings


def _run_data(path: Path, surveyed: doctor.Survey, settings: RunSettings, run: Run, told: Told) -> RunData:
    assert surveyed.train is not None
    drawn = told.masks(run.folder, surveyed.train)
    digests = DigestCache(run.folder / ".digests.jsonl", verify=settings.verify)
    return RunData(
        path.absolute(),
        surveyed.train,
        surveyed.val,
        settings,
        digests,
        own_tags=surveyed.own_tags,
        corrected={key: mask.path for key, mask in drawn.items()},
        drawn_on={key: mask.digest for key, mask in drawn.items()},
    )


def _examine(execution: Execution, surveyed: doctor.Survey) -> None:
    """Say what the doctor says of the data set; its errors stop the run before anything is trained.

    The decoded photos, truth and saliency maps are examined once, and again when they change.
    """
    for finding in surveyed.findings:
        if finding.level in ("warning", "note"):
            log.info("%s", finding)
    facts: tuple[Fact, ...] = ("photos", "val photos", "tags", "truth", "val truth", "saliency")
    examined = digest([execution.settings.data.shared_photos, *(execution.data.fact(name) for name in facts)])
    described = execution.run.description()
    if described.get("examined") == examined:
        return
    assert isinstance(execution.data.photos, CheckedPhotos)
    findings = doctor.check_photos(surveyed, execution.data.photos)
    doctor.refuse_errors(findings)
    said = tuple(str(photo.error) for photo in execution.data.set_aside)  # one by one, when they were set aside
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
    run = Run(out)
    told = Told.now(out, with_masks=settings.with_masks)
    surveyed, settings = _surveyed(path, settings, wanted, told.changes)
    run_data = _run_data(path, surveyed, settings, run, told)
    checks.check_taught(run_data)
    return explain.outlook(run, stages.plan(settings), settings, run_data, wanted)


def write_report(execution: Execution) -> Path:
    """``report.html`` and ``passport.json`` of a run whose stages are done; gives the path of the report.

    Raises:
        InputError: they are not, or they were made of other photos, tags or settings than are there now.
    """
    from tag2mask import passport, report, summary

    check_finished(execution)
    path = execution.run.folder / "report.html"
    block = passport.passport(execution)
    report.render(replace(summary.report_data(execution), passport=block), path)
    write_json(execution.run.folder / passport.FILE, block)
    return path


def _write_passport(execution: Execution) -> None:
    """Where masks are done and no report is asked for."""
    from tag2mask import passport

    if not passport.missing(execution):
        write_json(execution.run.folder / passport.FILE, passport.passport(execution))


def _forget_passport(run: Run, keys: Mapping[str, str], wanted: Collection[str]) -> None:
    """Where something is to be made, the passport that lies there is of what was there before: it is written again at
    the end.

    Args:
        keys: of the stages of the plan whose key is known.
    """
    from tag2mask import passport

    for name in keys.keys() & {*wanted}:
        stage = run.current(name)
        if stage is None or stage.key != keys[name] or not stage.has_manifest:
            (run.folder / passport.FILE).unlink(missing_ok=True)


def check_finished(execution: Execution) -> None:
    """Whether there are masks and scores of what is there now.

    Raises:
        InputError: not all stages are done, or they were made of other photos, tags or settings.
    """
    from tag2mask import passport

    passport.check_whole(execution, "scores")


def reopen(run: Run) -> Execution:
    """A run as it lies there, its data read again, nothing redone.

    Raises:
        InputError: the data set is not there any more, or cannot be read.
    """
    described = run.described()
    settings, path = replace(settings_from(described["settings"]), verify=False), Path(described["data"])
    told = Told.kept(run.folder, described)
    surveyed = doctor.survey(path, settings.data, told.changes)
    doctor.refuse_errors(surveyed.findings)
    run_data = replace(_run_data(path, surveyed, settings, run, told), as_made=run.facts(OUTSIDE))
    return reopened(run, stages.plan(settings), settings, run_data)


def reviewed(run: Run, tags: Path | None = None) -> tuple[dict[str, int], Written | None]:
    """How many photos of a run people accepted, corrected and rejected, and of how many they changed the tags.

    Args:
        tags: a new file for the data set's tags, as corrected.

    Raises:
        InputError: the data set is not there any more, or cannot be read; the file is there already.
    """
    described, review = run.described(), Review(run.folder, ())
    verdicts = [decision.decision for decision in review.latest().values()]
    changes = review.tag_changes()
    counts = {what: verdicts.count(what) for what in VERDICTS if what != "withdrawn"} | {
        "with other tags": len(changes)
    }
    if tags is None:
        return counts, None
    opened = data.open_data(Path(described["data"]), settings_from(described["settings"]).data)
    return counts, tag_changes.write_tags(tags, opened, changes)


def _describe(run: Run, settings: RunSettings, run_data: RunData, told: Told) -> None:
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
            **told.to_json(),
            **({"saliency_network": saliency_line(settings)} if settings.data.makes_saliency else {}),
            "sessions": before.get("sessions", []),
            "examined": before.get("examined"),
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
