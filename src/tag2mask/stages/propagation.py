"""Maps propagated by a random walk, along affinities that a network learnt from their confident regions, or along
colours and features without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tag2mask import backbones, compute, propagation
from tag2mask.backbones import Backbone
from tag2mask.data.batches import MaskedImages
from tag2mask.data.images import read_image
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Measured, Part, PhotoStage, PhotoWork, Stage, TrainingStage
from tag2mask.recipes import RunSettings, propagation_backbone
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader, write_maps, write_mask
from tag2mask.stages.networks import (
    STRUCTURE,
    STUDENTS,
    fitting,
    from_source,
    load_map_network,
    own_settings,
    source_fact,
)
from tag2mask.training import fit, load_model
from tag2mask.types import LocalizationMaps, Sample

LEARNT = Part("propagation", ("beta", "steps", "sigma", "cosine", "token_cosine", "blocks", "box"))
"""Settings of propagation without those of the walk alone, on which no network depends."""


def propagate_maps(settings: RunSettings) -> list[Stage]:
    """The stages of ``--propagate``, none without it."""
    way = propagation.propagation(settings.propagate)
    if way is None:
        return []
    learnt = [_confident_regions(settings), _train_affinity(settings)] if way.network == "trained" else []
    return [*learnt, _propagate(settings, way)]


def _confident_regions(settings: RunSettings) -> PhotoStage:
    source = names.maps(settings)[-1]

    def start(context: Context) -> PhotoWork:
        maps, s = MapReader(context.read(source)), context.settings.propagation

        def write(sample: Sample, pixels: np.ndarray) -> None:
            write_mask(context.folder, sample, propagation.confident_labels(maps(sample), pixels, s))

        return PhotoWork(read=lambda sample: read_image(sample.image_path), write=write)

    return PhotoStage(
        name="affinity-labels",
        title="confident regions",
        reads=(source,),
        settings=(LEARNT,),
        facts=("photos",),
        start=start,
    )


def _train_affinity(settings: RunSettings) -> TrainingStage:
    return TrainingStage(
        name="affinity",
        title=f"training {settings.propagate}",
        reads=("affinity-labels",),
        settings=("propagate", LEARNT, "propagation_augment", "propagation_train", "backbone", "seed"),
        facts=("photos", "tags", "weights", *source_fact(settings)),
        train=_train,
    )


def _train(context: Context) -> None:
    s = context.settings
    torch.manual_seed(s.seed)
    network, backbone = _network(context)
    augment, normalisation = fitting(s.propagation_augment, backbone), (backbone.mean, backbone.std)
    labels = MaskReader(context.read("affinity-labels"), context.classes)
    source = MaskedImages(context.train, labels, augment, normalisation, s.seed)
    train = from_source(context, network, s.propagation_train)
    fit(
        network, source, train, context.folder.folder, seed=s.seed, title=context.stage.title, flags="propagation-train"
    )


def _network(context: Context) -> tuple[propagation.AffinityNet, Backbone]:
    s = context.settings
    backbone = backbones.build(s.backbone).to(compute.device())
    return propagation.AffinityNet(backbone, s.propagate, s.propagation).to(compute.device()), backbone


def _propagate(settings: RunSettings, way: propagation.Propagation) -> PhotoStage:
    source, network = names.maps(settings)[-1], names.networks(settings)[-1]
    own = way.network == "backbone" and propagation_backbone(settings) is not None
    of_maps = way.network == "backbone" and not own
    reads = ("affinity",) if way.network == "trained" else (network,) if of_maps else ()
    structure = (*STRUCTURE, own_settings(settings, inference=False), STUDENTS) if of_maps else ()
    along = way.along or propagation.propagate

    def start(context: Context) -> PhotoWork:
        maps, s = MapReader(context.read(source)), context.settings.propagation
        affinities = _affinities(context, way, network)

        def write(sample: Sample, inputs: tuple[LocalizationMaps, Tensor]) -> None:
            write_maps(context.folder.path(sample.id, ".npz"), along(*inputs, s))

        return PhotoWork(
            read=lambda sample: (maps(sample), read_image(sample.image_path)),
            compute=lambda samples, inputs: [(of_photo, affinities(pixels)) for of_photo, pixels in inputs],
            write=write,
        )

    return PhotoStage(
        name="propagated",
        title="propagated maps",
        reads=(source, *reads),
        settings=("propagate", "propagation", "localize", *(structure or ("backbone",))),
        facts=("photos", *(("propagation weights",) if own else ())),
        suffix=".npz",
        measured=Measured("maps", "Maps after propagation", "train"),
        start=start,
    )


def _affinities(context: Context, way: propagation.Propagation, maps_by: str) -> Callable[[np.ndarray], Tensor]:
    """What gives the affinities of a photo ``[height width 3]`` uint8 (:class:`.Propagation`)."""
    s, network = context.settings, None
    own = propagation_backbone(s)
    if way.network == "backbone" and own is not None:
        network = backbones.build(own).to(compute.device()).eval()
    elif way.network == "backbone":
        network = load_map_network(context, maps_by).backbone
    elif way.network == "trained":
        network, _ = _network(context)
        load_model(network, context.read("affinity").model)
        network.eval()
    return lambda pixels: way.affinities(network, pixels, s.localize, s.propagation)
