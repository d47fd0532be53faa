"""How much each photo needs a person. The full score reads every mask of the run, so it is computed once and kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from tag2mask import need, tag_errors
from tag2mask.errors import InputError
from tag2mask.files import bytes_digest, digest, read_object, write_json
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.photos import read_records
from tag2mask.types import SampleKey

log = logging.getLogger("tag2mask")

FILE = ".need.json"  # in the run folder
AT_ONCE = 300  # photos up to which the score is computed before the page opens: a few seconds


def need_of(execution: Execution, stages: Sequence[StageFolder]) -> Mapping[SampleKey, float]:
    """The need of photos, in [0, 1], of :func:`tag2mask.need.scores`.

    For a large run that is not scored yet: the uncertainty that is recorded with its masks; meanwhile the score is
    computed on a thread and kept for the next start.

    Args:
        stages: of the masks and predictions.
    """
    if not stages or "masks" not in execution.folders:
        return {}
    judged = execution.run.folder / tag_errors.FILE
    made_of = digest([[stage.key for stage in stages], bytes_digest(judged) if judged.exists() else ""])
    kept = read_object(execution.run.folder / FILE) or {}
    if kept.get("made of") == made_of:
        return {(split, id_): score for split, id_, score in kept["needs"]}
    records = [record for stage in stages for record in read_records(stage.records)]
    if len(records) <= AT_ONCE:
        return _scored(execution, made_of)
    log.info("photos in order of their masks' uncertainty; a better order is computed now, for the next start")
    threading.Thread(target=_in_background, args=(execution, made_of), daemon=True).start()
    return {(r["split"], r["id"]): float(r["uncertainty"]) for r in records if "uncertainty" in r}


def _scored(execution: Execution, made_of: str) -> Mapping[SampleKey, float]:
    needs = need.scores(execution)
    kept = {"made of": made_of, "needs": [[*key, round(score, 4)] for key, score in needs.items()]}
    try:
        write_json(execution.run.folder / FILE, kept)
    except (InputError, OSError) as error:  # a run may be looked at where nothing can be written
        log.info("the order of photos is not kept: %s", error)
    return needs


def _in_background(execution: Execution, made_of: str) -> None:
    try:
        _scored(execution, made_of)
    except (InputError, OSError) as error:  # the run is gone, or damaged
        log.info("the order of photos stays as it is: %s", error)
