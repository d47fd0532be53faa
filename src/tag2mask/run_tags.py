"""The tags of a run's training photos, judged, and the judgement kept with the run (:mod:`tag2mask.tag_errors`)."""

from __future__ import annotations

from tag2mask import tag_errors
from tag2mask.plan.execute import Execution
from tag2mask.tag_errors import TagErrors


def judge(execution: Execution) -> TagErrors:
    """Judge the tags with the run's pretrained backbone, and keep that in the run folder.

    Raises:
        InputError: too few photos, or weights that cannot be had.
    """
    errors = tag_errors.find(execution.data.train, execution.settings.backbone, execution.settings.seed)
    tag_errors.keep(execution.run.folder, errors, _made_of(execution))
    return errors


def judged(execution: Execution) -> TagErrors | None:
    """What was kept of the photos and tags that are there now, if anything."""
    if not (execution.run.folder / tag_errors.FILE).exists():
        return None
    return tag_errors.kept(execution.run.folder, _made_of(execution))


def _made_of(execution: Execution) -> list[str]:
    return [execution.data.fact("photos"), execution.data.fact("tags")]
