"""How much each photo needs a person. The full score reads every mask of the run, so it is computed once and kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from tag2mask import need
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.plan.records import read_records
from tag2mask.types import SampleKey

log = logging.getLogger("tag2mask")

AT_ONCE = 300  # photos up to which the score is computed before the page opens: a few seconds


def need_of(execution: Execution) -> Mapping[SampleKey, float]:
    """The need of photos, in [0, 1], of :func:`tag2mask.need.scores`.

    For a large run that is not scored yet: the uncertainty that is recorded with its masks; meanwhile the score is
    computed on a thread and kept for the next start.
    """
    if "masks" not in execution.folders:
        return {}
    if (known := need.kept(execution)) is not None:
        return known
    records = [record for stage in need.judged(execution) for record in read_records(stage.records)]
    if len(records) <= AT_ONCE:
        return need.keep(execution)
    log.info("photos in order of their masks' uncertainty; a better order is computed now, for the next start")
    threading.Thread(target=_in_background, args=(execution,), daemon=True).start()
    return {(r["split"], r["id"]): float(r["uncertainty"]) for r in records if "uncertainty" in r}


def _in_background(execution: Execution) -> None:
    try:
        need.keep(execution)
    except (InputError, OSError) as error:  # the run is gone, or damaged
        log.info("the order of photos stays as it is: %s", error)
