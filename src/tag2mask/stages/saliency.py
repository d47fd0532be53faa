"""Saliency maps of the training photos, made in the run by a packaged network (``--saliency auto``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tag2mask.data.images import read_image
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Fact, PhotoStage, PhotoWork, Record
from tag2mask.recipes import RunSettings
from tag2mask.saliency import SaliencyDetector, SaliencyModel, write_saliency
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")

STANDS_OUT = 0.5  # saliency from which on a cell stands out
MUCH = 0.5  # share of a photo that stands out, above which the map tells nothing of objects


def saliency_inputs(settings: RunSettings, *, used: bool) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    """Facts and stages that a stage depends on where it uses saliency maps: the user's, or those made in the run."""
    if not used:
        return (), ()
    return ((), ("saliency",)) if settings.data.makes_saliency else (("saliency",), ())


def make_saliency() -> PhotoStage:
    """A map of each training photo, and what share of it stands out.

    Raises:
        InputError: the extra is not installed.
    """
    model = SaliencyModel.installed()
    return PhotoStage(
        name="saliency",
        title="saliency maps",
        facts=("photos",),
        constants={"saliency network": model.line},
        keeps_records=True,
        shows_classes=False,
        start=lambda context: _start(context, model),
    )


def _start(context: Context, model: SaliencyModel) -> PhotoWork:
    detector = SaliencyDetector(model)

    def write(sample: Sample, found: np.ndarray) -> Record:
        write_saliency(context.folder.path(sample.id, ".png"), found)
        return {"stands_out": round(float((found > STANDS_OUT).mean()), 4)}

    return PhotoWork(
        read=lambda sample: read_image(sample.image_path),
        compute=lambda samples, photos: [detector(pixels) for pixels in photos],
        write=write,
        manifest={"network": model.line},
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
