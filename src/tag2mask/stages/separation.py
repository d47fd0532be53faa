"""How well each score of the maps parts the features of its photo: what the threshold rule "features" asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tag2mask import compute, pseudo
from tag2mask.backbones import Backbone
from tag2mask.data.images import read_image
from tag2mask.layers.fine_maps import finer_block
from tag2mask.localize import LocalizeSettings
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader
from tag2mask.stages.networks import STRUCTURE, load_map_network, own_settings
from tag2mask.types import Sample
from tag2mask.views import view_batch, views

NAME = "separation"
PHOTOS = 40  # of a class
DEPTH = 0.6  # of the backbone: above edges and colours, below what the classes are told apart by


def measure_separation(settings: RunSettings) -> PhotoStage:
    """Photos of a single tag, some of each class, by the block of the method's network that made their maps finer, or
    one in its middle."""
    source = names.final_maps(settings)
    return PhotoStage(
        name=NAME,
        title="thresholds by features",
        reads=tuple(dict.fromkeys(("method", "maps", source))),
        settings=(
            *STRUCTURE, own_settings(settings, inference=True), "localize.long_side", "localize.precision",
            "localize.fine", "localize.references",
        ),
        facts=("photos", "tags"),
        constants={"photos of a class": str(PHOTOS), "depth of the block": str(DEPTH), "asked": "who drew the maps"},
        suffix=None,
        chosen=asked,
        keeps_records=True,
        record={"separation": (list,)},
        start=lambda context: _start(context, source),
    )  # fmt: skip


def separations(context: Context, maps: str) -> dict[int, list[float]]:
    """The mean curve of each class of which anything is known for the maps of this name; none where the stage that
    measures it is not read, or measured others."""
    if not context.has(NAME) or (measured := context.read(NAME).manifest())["maps"] != maps:
        return {}
    curves = measured["separation"]
    return {label: curves[name] for label, name in enumerate(context.classes) if name in curves}


def asked_block(backbone: Backbone, localize: LocalizeSettings) -> str:
    """The block whose features are asked: the one that made the maps finer, where one did (block2 of an EfficientNet,
    stride 8); else one in the middle (block4, layer3 of a ResNet). Maps with borders as fine as those of cells of 16
    pixels cannot be judged by such cells."""
    drew = localize.references and localize.fine and backbone.frozen_until is None
    if drew and (finer := finer_block(backbone)) is not None:
        return finer
    return backbone.names[math.ceil(DEPTH * (len(backbone.names) - 1))]


def asked(samples: Sequence[Sample]) -> list[int]:
    """The places of some photos of a single tag, evenly spread, at most :data:`PHOTOS` of a class. Where a photo shows
    two classes, the other one is no background."""
    of_class: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        if (labels := sample.labels) and len(labels) == 1:
            of_class.setdefault(next(iter(labels)), []).append(place)
    return sorted(p for places in of_class.values() for p in places[:: math.ceil(len(places) / PHOTOS)])


def _start(context: Context, source: str) -> PhotoWork:
    settings, maps_of, device = context.settings, MapReader(context.read(source)), compute.device()
    backbone = load_map_network(context, "method").backbone
    block = asked_block(backbone, settings.localize)

    def read(sample: Sample) -> Tensor:
        pixels = read_image(sample.image_path)
        size = settings.localize.long_side or max(pixels.shape[:2])
        view = views(pixels.shape[0], pixels.shape[1], size, (1.0,), False, backbone.size_divisor)[0]
        return view_batch([pixels], view, backbone)

    def features(samples: Sequence[Sample], inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode(), compute.autocast(settings.localize.precision, device):
            return [dict(backbone.outputs(x.to(device), (block,)))[block][0] for x in inputs]

    def write(sample: Sample, of_photo: Tensor) -> Record:
        curve = pseudo.separation(of_photo, maps_of(sample).scores[0])
        return {"separation": [round(share, 5) for share in curve], "label": _label(sample)}

    return PhotoWork(
        read=read,
        compute=features,
        write=write,
        manifest={"maps": source},
        conclude=lambda records: _mean(records, context.classes),
    )


def _label(sample: Sample) -> int:
    return next(iter(sample.labels or ()))  # its only one


def _mean(records: Sequence[Record], classes: Sequence[str]) -> Mapping[str, Any]:
    """Of each class with enough photos."""
    curves: dict[int, list[list[float]]] = {}
    for record in records:
        curves.setdefault(record["label"], []).append(record["separation"])
    mean = {
        classes[label]: [round(sum(column) / len(rows), 5) for column in zip(*rows, strict=True)]
        for label, rows in sorted(curves.items())
        if len(rows) >= pseudo.LEAST_MAPS
    }
    return {"separation": mean}
