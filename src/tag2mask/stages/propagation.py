"""Maps propagated by a random walk, along affinities that a network learnt from their confident regions, or along
colours and features without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tag2mask import affinity, backbones, compute
from tag2mask.backbones import Backbone
from tag2mask.data.batches import MaskedImages
from tag2mask.data.images import read_image
from tag2mask.plan.context import Context
from tag2mask.plan.stage import Measured, PhotoStage, PhotoWork, Stage, TrainingStage
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader, write_maps, write_mask
from tag2mask.stages.networks import STRUCTURE, STUDENTS, fitting, load_map_network, own_settings
from tag2mask.train import fit, load_model
from tag2mask.types import LocalizationMaps, Sample


def propagation(settings: RunSettings) -> list[Stage]:
    """The stages of ``--propagate``, none without it."""
    if settings.propagate == "none":
        return []
    learnt = settings.propagate in affinity.LEARNT
    return [*([_confident_regions(settings), _train_affinity(settings)] if learnt else []), _propagate(settings)]


def _confident_regions(settings: RunSettings) -> PhotoStage:
    source = names.maps(settings)[-1]

    def start(context: Context) -> PhotoWork:
        maps, s = MapReader(context.read(source)), context.settings.affinity

        def write(sample: Sample, pixels: np.ndarray) -> None:
            write_mask(context.folder, sample, affinity.confident_labels(maps(sample), pixels, s))

        return PhotoWork(read=lambda sample: read_image(sample.image_path), write=write)

    return PhotoStage(
        name="affinity-labels",
        title="confident regions",
        reads=(source,),
        settings=("affinity",),
        facts=("photos",),
        start=start,
    )


def _train_affinity(settings: RunSettings) -> TrainingStage:
    return TrainingStage(
        name="affinity",
        title=f"training {settings.propagate}",
        reads=("affinity-labels",),
        settings=("propagate", "affinity", "segmenter_augment", "affinity_train", "backbone", "seed"),
        facts=("photos", "tags", "weights"),
        train=_train,
    )


def _train(context: Context) -> None:
    s = context.settings
    torch.manual_seed(s.seed)
    network, backbone = _network(context)
    augment, normalisation = fitting(s.segmenter_augment, backbone), (backbone.mean, backbone.std)
    source = MaskedImages(context.train, MaskReader(context.read("affinity-labels")), augment, normalisation, s.seed)
    fit(network, source, s.affinity_train, context.folder.folder, seed=s.seed, title=context.stage.title)


def _network(context: Context) -> tuple[affinity.AffinityNet, Backbone]:
    s = context.settings
    backbone = backbones.build(s.backbone).to(compute.device())
    return affinity.AffinityNet(backbone, s.propagate, s.affinity).to(compute.device()), backbone


def _propagate(settings: RunSettings) -> PhotoStage:
    source = names.maps(settings)[-1]
    learnt = settings.propagate in affinity.LEARNT
    reads = {"walk/colour": (), "walk/features": (names.networks(settings)[-1],)}.get(settings.propagate, ("affinity",))
    structure = (*STRUCTURE, own_settings(settings, inference=False), STUDENTS)

    def start(context: Context) -> PhotoWork:
        maps, affinities, s = MapReader(context.read(source)), _affinities(context, reads), context.settings.affinity

        def write(sample: Sample, found: tuple[LocalizationMaps, Tensor]) -> None:
            write_maps(context.folder.path(sample.id, ".npz"), affinity.walked(*found, s))

        return PhotoWork(
            read=lambda sample: (maps(sample), read_image(sample.image_path)),
            compute=lambda samples, inputs: [(of_photo, affinities(pixels)) for of_photo, pixels in inputs],
            write=write,
        )

    return PhotoStage(
        name="propagated",
        title="propagated maps",
        reads=(source, *reads),
        settings=("propagate", "affinity", "localize", *(("backbone",) if learnt else structure)),
        facts=("photos",),
        suffix=".npz",
        measured=Measured("maps", "Maps after propagation", "train"),
        start=start,
    )


def _affinities(context: Context, reads: tuple[str, ...]) -> Callable[[np.ndarray], Tensor]:
    """What gives the affinities ``[1 offsets rows columns]`` of a photo ``[height width 3]`` uint8."""
    s = context.settings
    if s.propagate == "walk/colour":
        return lambda pixels: affinity.of_colour(pixels, s.localize.long_side, s.affinity)
    if s.propagate == "walk/features":
        backbone = load_map_network(context, reads[0]).backbone
        return lambda pixels: affinity.of_features(backbone, pixels, s.localize, s.affinity)
    network, _ = _network(context)
    load_model(network, context.read("affinity").model)
    network.eval()
    return lambda pixels: affinity.of_network(network, pixels, s.localize, s.affinity)
