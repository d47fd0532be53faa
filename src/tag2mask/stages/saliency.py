"""Saliency maps of the training photos, made in the run: by a packaged network (``--saliency auto``), or by a
classifier on the backbone's keys that is trained first, without labels (``--saliency self-supervised``)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tag2mask import backbones, compute
from tag2mask.backbones import Backbone
from tag2mask.data.images import read_image
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Fact, PhotoStage, PhotoWork, Record, Stage, TrainingStage
from tag2mask.recipes import RunSettings
from tag2mask.saliency import (
    SaliencyDetector,
    SaliencyModel,
    SelfSupervisedDetector,
    SelfSupervisedSaliency,
    write_saliency,
)
from tag2mask.saliency.self_supervised import key_channels
from tag2mask.saliency.self_supervised import train as train_saliency
from tag2mask.training import load_model, save_model
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")

STANDS_OUT = 0.5  # saliency from which on a cell stands out
MUCH = 0.5  # share of a photo that stands out, above which the map tells nothing of objects


def saliency_inputs(settings: RunSettings, *, used: bool) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    """Facts and stages that a stage depends on where it uses saliency maps: the user's, or those made in the run."""
    if not used:
        return (), ()
    return ((), ("saliency",)) if settings.data.makes_saliency else (("saliency",), ())


def saliency_stages(settings: RunSettings) -> list[Stage]:
    """The stages that make maps; none where the run makes none.

    Raises:
        InputError: the extra is not installed.
    """
    if not settings.data.makes_saliency:
        return []
    return _self_supervised() if settings.data.learns_saliency else [_by_package()]


def _by_package() -> PhotoStage:
    """A map of each training photo, and what share of it stands out."""
    model = SaliencyModel.installed()
    return PhotoStage(
        name="saliency",
        title="saliency maps",
        facts=("photos",),
        constants={"saliency network": model.line},
        keeps_records=True,
        shows_classes=False,
        start=lambda context: _start(context, SaliencyDetector(model), model.line),
    )


LEARNT = "a linear classifier on the frozen keys of {}, trained without labels"


def saliency_line(settings: RunSettings) -> str:
    """What makes the run's maps, for people."""
    if settings.data.learns_saliency:
        return LEARNT.format(settings.backbone.name)
    return SaliencyModel.installed().line


def _self_supervised() -> list[Stage]:
    decides = ("backbone", "self_supervised")
    trained = TrainingStage(
        name="saliency-network",
        title="training saliency without labels",
        settings=(*decides, "seed"),
        facts=("photos", "weights"),
        train=_train,
    )

    def start(context: Context) -> PhotoWork:
        s, backbone = context.settings, _backbone(context)
        network = SelfSupervisedSaliency(key_channels(backbone)).to(compute.device())
        load_model(network, context.read(trained.name).model)
        detector = SelfSupervisedDetector(network.eval(), backbone, s.self_supervised)
        return _start(context, detector, LEARNT.format(s.backbone.name))

    maps = PhotoStage(
        name="saliency",
        title="saliency maps",
        reads=(trained.name,),
        settings=decides,
        facts=("photos", "weights"),
        keeps_records=True,
        shows_classes=False,
        start=start,
    )
    return [trained, maps]


def _train(context: Context) -> None:
    s = context.settings
    photos = [functools.partial(read_image, sample.image_path) for sample in context.train.samples]
    network = train_saliency(_backbone(context), photos, s.self_supervised, s.seed)
    save_model(network, context.folder.model)


def _backbone(context: Context) -> Backbone:
    return backbones.build(context.settings.backbone).to(compute.device()).eval()


def _start(context: Context, detector: Callable[[np.ndarray], np.ndarray], line: str) -> PhotoWork:
    def write(sample: Sample, found: np.ndarray) -> Record:
        write_saliency(context.folder.path(sample.id, ".png"), found)
        return {"stands_out": round(float((found > STANDS_OUT).mean()), 4)}

    return PhotoWork(
        read=lambda sample: read_image(sample.image_path),
        compute=lambda samples, photos: [detector(pixels) for pixels in photos],
        write=write,
        manifest={"network": line},
        conclude=_conclude,
    )


def _conclude(records: Sequence[Record]) -> dict[str, Any]:
    """Say when the maps call most of most photos salient: then they know nothing of these photos' objects."""
    share = float(np.median([record["stands_out"] for record in records])) if records else 0.0
    if share <= MUCH:
        return {}
    line = (
        f"saliency maps: {100 * share:.0f} % of a typical photo stands out, so they hardly tell objects from "
        "background here; compare with a run without them (--method cam)"
    )
    log.info("%s", line)
    return {"salient": line}
