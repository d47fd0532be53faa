"""Held-out photos of a method's training: which, and how well their tags are predicted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from tag2mask import compute, processes
from tag2mask.backbones import Backbone
from tag2mask.errors import listed, some
from tag2mask.localize import Localizer, LocalizeSettings, batches_by
from tag2mask.plan.context import Context
from tag2mask.plan.source import HELD_OUT, keep_photos, learned
from tag2mask.protocols import PredictsTags
from tag2mask.stages.networks import feature_store
from tag2mask.training import TagPrecision, hold_out, mean_precision, tag_precision
from tag2mask.types import Dataset, Sample, label_vector

log = logging.getLogger("tag2mask")


def without_held_out(context: Context) -> tuple[Dataset, list[Sample]]:
    """The photos that the method learns from, and those that are held out: with ``--from`` those that the other run
    held out, and of the photos that it has not learned."""
    s, samples = context.settings, context.train.samples
    held: set[int] = set()
    if s.held_out:
        of_photos = learned(samples, context.photos, context.classes)
        source, nothing = context.source, frozenset[str]()
        seen, unseen = (nothing, nothing) if source is None else (source.learned, source.held_out)
        labels = [None if one in seen else sample.labels for one, sample in zip(of_photos, samples, strict=True)]
        held = set(hold_out(labels, s.held_out, s.seed)) | {i for i, one in enumerate(of_photos) if one in unseen}
        processes.from_main(lambda: keep_photos(context.folder, HELD_OUT, [of_photos[i] for i in sorted(held)]))
    learnt = context.train.with_samples([sample for i, sample in enumerate(samples) if i not in held])
    return learnt, [samples[i] for i in sorted(held)]


def measure_tags(context: Context, method: nn.Module, backbone: Backbone, held: list[Sample]) -> list[TagPrecision]:
    """How well the tags of the held-out photos are predicted; nothing where the method predicts none."""
    if not held or not isinstance(method, PredictsTags):
        return []
    scores = _tag_scores(context, method.eval(), backbone, held)
    tags = torch.stack([label_vector(sample.labels or frozenset(), len(context.classes)) for sample in held])
    return processes.from_main(lambda: tag_precision(scores.numpy(), tags.numpy() > 0, context.classes))


def say_tags(rows: Sequence[TagPrecision]) -> dict[str, Any]:
    """Say, and give for the manifest, how well the tags of held-out photos are predicted."""
    if not rows:
        return {}
    photos = some(rows[0].photos, "held-out photo")
    log.info("tags of %s: mean average precision %.2f", photos, mean_precision(rows))
    if missed := [f"{row.name} ({row.average_precision:.2f})" for row in rows if not row.learnt]:
        log.warning(
            "not learnt from its tags: %s. Its maps and masks mean little: train longer (--train.auto-steps), add "
            "photos of it, or check its tags",
            listed(missed),
        )
    return {"held_out": [asdict(row) for row in rows]}


def precision_rows(manifest: dict[str, Any]) -> list[TagPrecision]:
    """What :func:`say_tags` left in a manifest."""
    return [TagPrecision(**row) for row in manifest.get("held_out", ())]


@torch.inference_mode()
def _tag_scores(context: Context, method: nn.Module, backbone: Backbone, held: list[Sample]) -> torch.Tensor:
    """``[photos classes]``, each photo whole, at the size of training views (or of its stored features)."""
    assert isinstance(method, PredictsTags)
    s, store = context.settings, feature_store(context, backbone)
    side = s.augment.size if store is None else s.localize.long_side
    views = LocalizeSettings(long_side=side, scales=(1.0,), flip=False, precision=s.localize.precision)
    localizer = Localizer(method, method.traits, backbone, views, len(context.classes), store)
    if store is not None:
        store.fill(held, lambda sample: localizer.views(context.size(sample)))
    scores: dict[tuple[str, str], torch.Tensor] = {}
    grouped = batches_by(held, lambda x: localizer.group(context.size(x)), None, localizer.device)
    for samples in grouped:
        inputs = [localizer.read(sample, context.size(sample))[0] for sample in samples]
        nothing = torch.zeros(len(samples), len(context.classes), device=localizer.device)
        batch = localizer.batch(samples, inputs, flip=False, labels=nothing)
        with compute.autocast(s.localize.precision, localizer.device):
            found = method.tag_scores(batch).float().cpu()
        scores |= {sample.key: row for sample, row in zip(samples, found, strict=True)}
    return torch.stack([scores[sample.key] for sample in held])
