"""Self-training: a student learns from the maps so far, then makes its own; as often as asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tag2mask import compute
from tag2mask.methods.smaf import Student, student_of
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Fact, TrainingStage
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.networks import (
    STRUCTURE,
    STUDENTS,
    from_source,
    frozen_settings,
    load_map_network,
    own_settings,
    source_fact,
    tagged_source,
)
from tag2mask.stages.saliency import saliency_inputs
from tag2mask.stages.thresholds import ruled_threshold, threshold_rule
from tag2mask.training import fit, save_model


def train_student(settings: RunSettings, turn: int) -> TrainingStage:
    """Student number ``turn``, counted from 1."""
    teacher, taught = names.networks(settings)[turn - 1], names.maps(settings)[turn - 1]
    background, sharpness = settings.self_train.constant, settings.self_train.exponent
    rule = threshold_rule(settings, taught)
    asked = {"threshold rule": rule} if background is None else {}
    # drawn to its pretrained weights, it must know them; else it starts from the teacher, which does
    start: tuple[Fact, ...] = ("weights",) if settings.student_train.start_decay else ()
    saliency, made = saliency_inputs(settings, used="saliency" in settings.self_train.denoise)
    return TrainingStage(
        name=names.networks(settings)[turn],
        title=f"training student {turn}",
        reads=(teacher, taught, *made),
        settings=(
            *STRUCTURE, own_settings(settings, inference=False), STUDENTS, "augment", "student_train", "seed",
            *frozen_settings(settings),
        ),
        facts=("photos", "tags", *start, *saliency, *source_fact(settings)),
        constants={"background": str(background), "sharpness": str(sharpness), **asked},
        train=lambda context: _train(context, turn, teacher, taught, rule, background, sharpness),
    )  # fmt: skip


def _train(
    context: Context, turn: int, teacher: str, taught: str, rule: str, background: float | None, sharpness: float
) -> dict[str, Any]:
    s = context.settings
    if background is None:
        background = ruled_threshold(context, taught, rule).value
    seed = s.seed + turn
    torch.manual_seed(seed)
    network = load_map_network(context, teacher)
    own = student_of(network.network, network.backbone, len(context.classes))
    student = Student(own, replace(s.self_train, sharpness=sharpness), background)
    source = tagged_source(
        context,
        network.backbone,
        replace(s.augment, jitter=s.self_train.jitter, hue=0.0),
        seed,
        saliency="saliency" in s.self_train.denoise,
        maps=context.read(taught),
        map_stride=s.self_train.stride,
    )
    train = from_source(context, student.network, s.student_train)
    fit(
        student.to(compute.device()), source, train, context.folder.folder, seed=seed,
        title=context.stage.title, flags="student-train",
    )  # fmt: skip
    save_model(student.network, context.folder.model)  # without the task around it
    return {"background": round(background, 4)}
