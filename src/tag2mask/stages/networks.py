"""Networks that make maps, built and loaded; and what they are shown in training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from tag2mask import backbones, compute, methods
from tag2mask.backbones import Backbone
from tag2mask.data.augment import AugmentSettings
from tag2mask.data.batches import StoredFeatures, TaggedImages
from tag2mask.errors import DamagedArtefact, InputError
from tag2mask.feature_store import FeatureStore
from tag2mask.layers.class_references import ComparedWithReferences, compared_traits
from tag2mask.layers.fine_maps import finer_block
from tag2mask.layers.folded import fold, probe
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.released import released_state
from tag2mask.methods.smaf import student_of
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.source import learned
from tag2mask.plan.stage import Fact, Part
from tag2mask.protocols import LoadsReleased, Traits
from tag2mask.recipes import RunSettings
from tag2mask.stages.artefacts import MapReader
from tag2mask.training import TrainSettings, load_model
from tag2mask.types import Dataset, Sample
from tag2mask.views import View, views

log = logging.getLogger("tag2mask")

STRUCTURE = ("method", "backbone")
"""Settings that say which network is built; a method's own settings come on top."""


STUDENTS = Part("self_train", ("rounds", "background", "sharpness"))
"""How students learn; one round more changes none of those before. What the last two come to is declared as constants:
a default that is written out is no other setting."""


def own_settings(settings: RunSettings, *, inference: bool) -> Part | str:
    """The method's own settings, with or without those that training does not depend on."""
    return "options" if inference else Part("options", settings.traits.inference_settings)


def build_method(context: Context) -> tuple[nn.Module, Backbone]:
    """The method on its backbone, with the weights that the stage may see."""
    return new_method(context.settings, len(context.classes))


def new_method(settings: RunSettings, classes: int) -> tuple[nn.Module, Backbone]:
    """The method on its backbone, with the weights that it starts from: the backbone's, or a whole released network's.

    Raises:
        InputError: weights that cannot be fetched or read, or are another network's.
    """
    backbone = backbones.build(settings.backbone).to(compute.device())
    method = methods.build(settings.method, backbone, classes, settings.options)
    if (state := released_state(method, settings.backbone.weights)) is not None:
        assert isinstance(method, LoadsReleased)
        method.load_released(state, settings.backbone.weights)
    return method.to(compute.device()), backbone


@dataclass(frozen=True)
class MapNetwork:
    """A trained network that makes maps, in eval mode."""

    network: nn.Module
    traits: Traits
    backbone: Backbone

    def folded(self) -> MapNetwork:
        """The same network, faster: it learns no more (:mod:`tag2mask.layers.folded`)."""
        backbone = self.backbone
        if backbone.frozen_until is None:  # stored features are those of the network as it is
            image = probe(backbone)
            fold(backbone, lambda: backbone(image))
        return self

    def compared(self, settings: LocalizeSettings) -> MapNetwork:
        """The same network, whose maps come from references; they are still to be shown to it."""
        traits = compared_traits(self.traits, settings.references)
        name = finer_block(self.backbone) if settings.fine else None
        finer = None if name is None else self.backbone.blocks[name]
        return MapNetwork(ComparedWithReferences(self.network, finer), traits, self.backbone)


def load_map_network(context: Context, name: str) -> MapNetwork:
    """The method or one of its students, by the name of its stage."""
    method, backbone = build_method(context)
    if name == "method":
        network, traits = method, methods.traits(context.settings.options)
    else:
        network = student_of(method, backbone, len(context.classes)).to(compute.device())
        traits = context.settings.self_train.maps_traits
    load_model(network, context.read(name).model)
    return MapNetwork(network.eval(), traits, backbone)


def source_fact(settings: RunSettings) -> tuple[Fact, ...]:
    """What a training depends on where the run starts from another."""
    return () if settings.start_from is None else ("source",)


def from_source(context: Context, network: nn.Module, train: TrainSettings) -> TrainSettings:
    """Where the run starts from another (``--from``), the network takes over the weights of the same stage of that, and
    is trained for the share of the photos that are new, but at least one epoch. Otherwise nothing changes.

    Args:
        network: what the stage saves.
        train: how it is trained from its usual start.

    Raises:
        InputError: the weights are of another network, or damaged.
    """
    if (source := context.source) is None:
        return train
    title, folder = context.stage.title, source.run.folder
    if (model := source.model(context.stage.name)) is None:
        log.info("%s: %s has no stage '%s' to start from, so in full", title, folder, context.stage.name)
        return train
    try:
        load_model(network, model)
    except DamagedArtefact as error:
        raise InputError(f"--from {folder}: {error.path} is damaged: run the command of that run again") from error
    except InputError as error:
        raise InputError(
            f"--from {folder}: the network of its stage '{context.stage.name}' is of another form than this run's: "
            "give the settings of that run, or leave --from out"
        ) from error
    share = source.new_share(learned(context.train.samples, context.photos, context.classes))
    usual, shortened = train.shortened(share, len(context.train))
    new = f"{round(share * len(context.train))} of {len(context.train)} photos are new" if share else "nothing is new"
    log.info("%s: from %s, where %s: %.3g epochs instead of %.3g", title, folder, new, shortened.epochs, usual)
    return shortened


def frozen_settings(settings: RunSettings) -> tuple[str, ...]:
    """What the features of a frozen trunk depend on, apart from the backbone."""
    return ("localize.long_side", "localize.precision") if settings.frozen else ()


def feature_store(context: Context, backbone: Backbone) -> FeatureStore | None:
    """Stored features when the trunk is frozen."""
    if backbone.frozen_until is None:
        return None
    s = context.settings
    return FeatureStore(backbone, context.photos, s.features, s.localize.precision)


def tagged_source(
    context: Context,
    backbone: Backbone,
    augment: AugmentSettings,
    seed: int,
    *,
    saliency: bool = False,
    maps: StageFolder | None = None,
    map_stride: int = 4,
    dataset: Dataset | None = None,
) -> TaggedImages | StoredFeatures:
    """The training photos with their tags, as the backbone takes them: in views, or as stored features.

    Args:
        maps: of an earlier network, to be learnt from; a view has a cell of them for every ``map_stride`` pixels.
        dataset: some of the training photos; None: all.
    """
    dataset = dataset or context.train
    store = feature_store(context, backbone)
    maps_of = None if maps is None else MapReader(maps)
    if store is not None:
        return stored_source(context, store, dataset, seed=seed, saliency=saliency, maps_of=maps_of, stride=map_stride)
    check_view(augment, backbone)
    normalisation = (backbone.mean, backbone.std)
    return TaggedImages(
        dataset, augment, normalisation, seed, saliency=saliency, maps_of=maps_of, map_stride=map_stride
    )


@dataclass(frozen=True)
class StoredViews:
    """The stored features of the plain or mirrored view of a photo at scale 1."""

    store: FeatureStore
    long_side: int

    def views(self, sample: Sample) -> list[View]:
        """Plain and mirrored."""
        facts = self.store.facts[sample.key]
        return views(facts.height, facts.width, self.long_side, (1.0,), True, self.store.backbone.size_divisor)

    def __call__(self, sample: Sample, flip: bool) -> Tensor:
        """``[channels rows columns]``."""
        return self.store.load(sample, self.views(sample)[int(flip)])


def stored_source(
    context: Context,
    store: FeatureStore,
    dataset: Dataset,
    mask_of: Callable[[Sample], np.ndarray] | None = None,
    *,
    seed: int,
    saliency: bool = False,
    maps_of: MapReader | None = None,
    stride: int = 4,
) -> StoredFeatures:
    """Plain and mirrored view at scale 1, computed now if they are not there. What belongs to them (masks, saliency,
    maps) has a cell for every ``stride`` pixels."""
    load = StoredViews(store, context.settings.localize.long_side)
    store.fill(dataset.samples, load.views)
    grids = [(plain.height, plain.width) for plain in (load.views(sample)[0] for sample in dataset.samples)]
    return StoredFeatures(
        dataset,
        load,
        grids,
        seed,
        mask_of,
        max(1, store.backbone.stride // stride),
        saliency=saliency,
        maps_of=maps_of,
    )


def check_view(augment: AugmentSettings, backbone: Backbone) -> None:
    """Training views are of a size that the backbone takes."""
    if augment.size % backbone.size_divisor:
        raise InputError(
            f"--augment.size {augment.size} is not a multiple of the patch of {backbone.size_divisor} pixels: "
            f"use {round(augment.size / backbone.size_divisor) * backbone.size_divisor}"
        )


def fitting(augment: AugmentSettings, backbone: Backbone) -> AugmentSettings:
    """The same views at a size the backbone can take."""
    size = augment.size // backbone.size_divisor * backbone.size_divisor
    return replace(augment, size=max(size, backbone.size_divisor))
