"""The stages of a run: what each is made from, and the function that does its work. :func:`plan` is their order.

Truth enters in two places only: the scores, and the segmenter of an ``oracle_masks`` run, kept and named apart.
"""

from __future__ import annotations

from tag2mask.plan.stage import Stage
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.masks import make_masks
from tag2mask.stages.method import make_maps, train_method
from tag2mask.stages.photos import check_photos
from tag2mask.stages.predictions import make_oracle_masks, predict_validation
from tag2mask.stages.propagation import propagate_maps
from tag2mask.stages.saliency import saliency_stages
from tag2mask.stages.scores import make_scores
from tag2mask.stages.segmenter import relabel, train_segmenter
from tag2mask.stages.self_training import train_student
from tag2mask.stages.thresholds import threshold_stages


def plan(settings: RunSettings) -> tuple[Stage, ...]:
    """All stages of a run with these settings, in order: photos -> method -> maps -> (what their threshold asks) ->
    masks -> segmenter -> predictions -> scores. A single-stage method is the segmenter; after it none is trained."""
    stages: list[Stage] = [check_photos(verify=settings.verify)]
    stages += saliency_stages(settings)
    stages += [train_method(settings), make_maps(settings)]
    for turn in range(1, settings.self_train.students + 1):
        stages += [train_student(settings, turn), make_maps(settings, turn)]
    stages += [*propagate_maps(settings), *threshold_stages(settings), make_masks(settings)]
    for turn in range(len(names.segmenters(settings)) if not settings.single_stage else 0):
        stages += [relabel(settings, turn)] if turn else []
        stages += [train_segmenter(settings, turn)]
    stages += [predict_validation(settings)]
    if settings.oracle_masks and not settings.single_stage:  # together they are refused (checks.py)
        stages += [make_oracle_masks(settings)]
        stages += [train_segmenter(settings, t, oracle=True) for t in range(settings.relabel.rounds + 1)]
        stages += [predict_validation(settings, oracle=True)]
    return (*stages, make_scores(settings, stages))


def labelling(stages: tuple[Stage, ...]) -> list[str]:
    """Names of the stages that end in masks of the training photos, and of what measures them."""
    end = [stage.name for stage in stages].index("masks")
    return [*(stage.name for stage in stages[: end + 1]), "scores"]
