"""Tags to maps: the method is trained, then localizes the tagged classes in its training photos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask import methods, processes
from tag2mask.backbones import Backbone
from tag2mask.data.augment import AugmentSettings
from tag2mask.data.batches import Pairs, balanced
from tag2mask.data.images import read_saliency
from tag2mask.data.saliency import check_saliency_maps
from tag2mask.errors import some
from tag2mask.files import read_object, write_json
from tag2mask.layers.fine_maps import POWER
from tag2mask.localize import Localizer, batches_by
from tag2mask.plan.context import Context
from tag2mask.plan.execute import is_whole
from tag2mask.plan.source import LEARNED, keep_photos, learned
from tag2mask.plan.stage import Fact, Measured, PhotoStage, PhotoWork, TrainingStage
from tag2mask.protocols import UsesClassNames
from tag2mask.recipes import RunSettings
from tag2mask.references import check_references, draw_references, reference_view, show_references
from tag2mask.stages import names
from tag2mask.stages.artefacts import write_maps
from tag2mask.stages.attempts import best_of_two, gentler
from tag2mask.stages.held_out import measure_tags, say_tags, without_held_out
from tag2mask.stages.networks import (
    STRUCTURE,
    STUDENTS,
    MapNetwork,
    build_method,
    feature_store,
    from_source,
    frozen_settings,
    load_map_network,
    own_settings,
    source_fact,
    tagged_source,
)
from tag2mask.stages.saliency import saliency_inputs
from tag2mask.training import TagPrecision, fit, load_model, save_model
from tag2mask.types import LocalizationMaps, Sample

log = logging.getLogger("tag2mask")


def train_method(settings: RunSettings) -> TrainingStage:
    """The method learns from the tags, or is made ready where it learns nothing."""
    if not settings.traits.trains:
        return _prepare_method(settings)
    saliency, made = saliency_inputs(settings, used=settings.traits.saliency)
    return TrainingStage(
        name="method",
        title=f"training {settings.method}",
        reads=made,
        settings=(
            *STRUCTURE, own_settings(settings, inference=False), "augment", "train", "seed", "held_out",
            "balance", "localize.precision", *frozen_settings(settings),
        ),
        facts=("photos", "tags", "weights", *saliency, *_own_facts(settings), *source_fact(settings)),
        train=_train,
    )  # fmt: skip


def _own_facts(settings: RunSettings) -> tuple[Fact, ...]:
    """What lies in files of the method's own."""
    code: tuple[Fact, ...] = ("method code",) if methods.source(settings.method) else ()
    return (*code, "method files") if settings.traits.files else code


def _prepare_method(settings: RunSettings) -> TrainingStage:
    return TrainingStage(
        name="method",
        title=f"preparing {settings.method}",
        settings=(*STRUCTURE, own_settings(settings, inference=False)),
        facts=("photos", "tags", "weights", *_own_facts(settings)),
        train=_prepare,
    )


def _prepare(context: Context) -> dict[str, Any]:
    method, _, asked = _begin(context)
    save_model(method, context.folder.model)
    return asked


def _begin(context: Context) -> tuple[nn.Module, Backbone, dict[str, Any]]:
    """The method, told what it may know before it learns, on its backbone, and which pretrained networks it asked, for
    the manifest; what the run remembers of it is written."""
    method, backbone = build_method(context)
    network = method.take_class_names(context.classes) if isinstance(method, UsesClassNames) else None
    asked = {} if network is None else {"pretrained": [asdict(network)]}
    of_photos = learned(context.train.samples, context.photos, context.classes)
    processes.from_main(lambda: keep_photos(context.folder, LEARNED, of_photos))
    return method, backbone, asked


def _train(context: Context) -> dict[str, Any]:
    s = context.settings
    traits = methods.traits(s.options)
    if traits.saliency:
        _check_saliency(context)
    if not s.train.epochs:  # a whole released network, as it is
        torch.manual_seed(s.seed)
        return _prepare(context)
    dataset, held = without_held_out(context)
    dataset = balanced(dataset, s.balance, s.seed)

    asked: dict[str, Any] = {}

    def trained(augment: AugmentSettings) -> list[TagPrecision]:
        torch.manual_seed(s.seed)
        method, backbone, now = _begin(context)
        asked.update(now)
        source: Any = tagged_source(context, backbone, augment, s.seed, saliency=traits.saliency, dataset=dataset)
        if traits.pairs:
            source = Pairs(source, s.seed)
        train = from_source(context, method, s.train)
        mark, views = context.folder.own / "fitted.json", {"scale": list(augment.scale)}
        if processes.from_main(lambda: read_object(mark) == views and is_whole(context.folder.model)):
            load_model(method, context.folder.model)  # a session ended while tags were measured
        else:
            fit(method, source, train, context.folder.folder, seed=s.seed, title=context.stage.title)
            processes.from_main(lambda: write_json(mark, views))
        rows = measure_tags(context, method, backbone, held)
        processes.from_main(lambda: mark.unlink(missing_ok=True))
        return rows

    stored = s.backbone.freeze or s.backbone.freeze_until is not None  # features of whole photos: no views to choose
    gentle = gentler(s.augment) if s.train.epochs == "auto" and held and not stored else None
    if gentle is None:
        return say_tags(trained(s.augment)) | asked
    rows, again = best_of_two(context.folder.folder, lambda: trained(s.augment), lambda: trained(gentle))
    return say_tags(rows) | asked | ({"scale": list(gentle.scale)} if again else {})


def _check_saliency(context: Context, limit: int = 50) -> None:
    """Say when saliency maps are black; all of those read is an error."""
    samples = context.train.samples[:: max(1, len(context.train) // limit)]
    maps = [read_saliency(s.saliency_path, context.size(s)) for s in samples if s.saliency_path is not None]
    if black := check_saliency_maps(maps, context.train.name):
        read = some(len(maps), "saliency map")
        log.info("%d of %s read are black; their photos are taught as background", black, read)


def make_maps(settings: RunSettings, turn: int = 0) -> PhotoStage:
    """Maps of every training photo by the method, or by student number ``turn``."""
    network, name = names.networks(settings)[turn], names.maps(settings)[turn]
    by = f"student {turn}" if turn else settings.method
    drawn = settings.traits.references or settings.localize.references
    seed = ("seed",) if not turn and drawn else ()
    return PhotoStage(
        name=name,
        title=f"maps by {by}",
        reads=(network,),
        settings=(
            *STRUCTURE,
            own_settings(settings, inference=not turn),
            "localize",
            *seed,
            *((STUDENTS,) if turn else ()),
        ),
        facts=("photos", "tags"),
        constants={"finer block": repr(POWER)} if settings.localize.references and settings.localize.fine else {},
        suffix=".npz",
        measured=Measured("maps", f"Maps after self-training, round {turn}" if turn else "Maps", "train"),
        start=lambda context: _localize(context, network),
    )


def _localize(context: Context, name: str) -> PhotoWork:
    settings = context.settings.localize
    network = load_map_network(context, name).folded()
    if name == "method" and settings.references:  # a student has learnt from them
        network = network.compared(settings)
    store = feature_store(context, network.backbone) if network.traits.trains else None
    samples = context.train.samples
    if store is not None:
        store.fill(samples, lambda s: settings.views(*context.size(s), network.backbone.size_divisor))
    if network.traits.references:
        _show_references(context, network)
    localizer = Localizer(network.network, network.traits, network.backbone, settings, len(context.classes), store)

    def localize(samples: Sequence[Sample], inputs: Sequence[list[Tensor]]) -> list[LocalizationMaps]:
        return localizer(samples, [context.size(sample) for sample in samples], inputs)

    return PhotoWork(
        read=lambda sample: localizer.read(sample, context.size(sample)) if sample.labels else [],
        compute=localize,
        write=lambda sample, maps: write_maps(context.folder.path(sample.id, ".npz"), maps),
        batches=lambda samples: batches_by(
            samples, lambda sample: localizer.group(context.size(sample)), settings.batch_size, localizer.device
        ),
    )


def _show_references(context: Context, network: MapNetwork) -> None:
    s, backbone = context.settings, network.backbone
    flag = "references" if s.localize.references else f"{methods.flag(s.method)}.references"
    references = draw_references(context.train, network.traits.references, s.seed)
    check_references(references, context.train.samples, context.classes, flag)
    store = feature_store(context, backbone)
    if store is not None:
        view = lambda sample: [reference_view(*context.size(sample), s.localize, backbone.size_divisor)]  # noqa: E731
        store.fill([sample for sample, _ in references], view)
    show_references(network.network, backbone, references, s.localize, store)
