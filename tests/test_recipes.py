"""The recipes as they are built: strides, what learns, how fast, and what is frozen. Read off the networks and their
optimisers, never off the settings; numbers from the published codes (specs/*.md) or counted by hand.

Networks are built on torch's meta device: their shapes and flags without their numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from tag2mask import backbones, methods, propagation, segment
from tag2mask.backbones import Backbone
from tag2mask.data.augment import AugmentSettings
from tag2mask.methods.smaf import student_of
from tag2mask.recipes import RECIPES, recipe
from tag2mask.segment.deeplab import Aspp
from tag2mask.training import TrainSettings, parameter_groups
from tag2mask.training.optimizer import optimizer_of
from tag2mask.types import Photos

VOC = 20
Groups = dict[tuple[float, float], tuple[int, int]]
"""(learning rate, weight decay) to (tensors, numbers) that learn so."""


@dataclass(frozen=True)
class Built:
    network: nn.Module
    backbone: Backbone
    train: TrainSettings
    views: AugmentSettings

    @property
    def groups(self) -> Groups:
        found: Groups = {}
        for group in parameter_groups(self.network, self.train):
            key = (round(group["lr"], 12), group["weight_decay"])
            tensors, numbers = found.get(key, (0, 0))
            added = [p.numel() for p in group["params"]]
            found[key] = (tensors + len(added), numbers + sum(added))
        return found

    @property
    def optimizer(self) -> dict[str, Any]:
        return optimizer_of(self.network, self.train).defaults

    @property
    def learning_norms(self) -> int:
        """Batch norms of which something learns."""
        norms = (m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d))
        return sum(any(p.requires_grad for p in norm.parameters()) for norm in norms)

    @property
    def fixed_blocks(self) -> tuple[str, ...]:
        """Blocks of the backbone of which nothing learns, though they have something."""
        of_blocks = {name: list(block.parameters()) for name, block in self.backbone.blocks.items()}
        return tuple(n for n, own in of_blocks.items() if own and not any(p.requires_grad for p in own))

    @property
    def dilations(self) -> dict[str, set[int]]:
        """Of the 3x3 convolutions of each block."""
        found = {}
        for name, block in self.backbone.blocks.items():
            own = {m.dilation[0] for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
            found[name] = own
        return found


def built(name: str) -> dict[str, Built]:
    """The networks that a recipe trains, by their stage; 20 classes."""
    s = recipe(name)

    def backbone(settings: backbones.BackboneSettings) -> Backbone:
        return backbones.build(replace(settings, weights="none"))

    with torch.device("meta"):
        of_method = backbone(s.backbone)
        method = methods.build(s.method, of_method, VOC, s.options)
        found = {"method": Built(method, of_method, s.train, s.augment)}
        if s.self_train.students:
            found["student"] = Built(student_of(method, of_method, VOC), of_method, s.student_train, s.augment)
        if s.propagate == "irn":
            own = backbone(s.backbone)
            walk = propagation.AffinityNet(own, "irn", s.propagation)
            found["affinity"] = Built(walk, own, s.propagation_train, s.propagation_augment)
        if not s.single_stage:
            settings = segment.backbone_of(s.segmenter, s.backbone)
            own = of_method if settings is s.backbone else backbone(settings)
            task = segment.SegmenterTask(segment.build(s.segmenter, own, VOC, settings))
            found["segmenter"] = Built(task, own, s.segmenter_train, s.segmenter_augment)
    return found


# --- counted by hand ------------------------------------------------------------------------------------------------


def convolutions_of_resnet(blocks: Iterable[int]) -> Iterator[int]:
    """Numbers in each convolution of a ResNet of bottlenecks (He et al., 2016, table 1), which have no biases."""
    yield 3 * 64 * 7 * 7
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            yield channels * width
            yield width * width * 9
            yield width * 4 * width
            if block == 0:
                yield channels * 4 * width
            channels = 4 * width


RESNET101 = list(convolutions_of_resnet((3, 4, 23, 3)))
RESNET50 = list(convolutions_of_resnet((3, 4, 6, 3)))


def test_the_oracle_knows_torchvisions_resnets() -> None:
    """44,549,160 and 25,557,032 parameters (torchvision's documentation), with classifier and norms."""
    for convolutions, norms, whole in ((RESNET101, 105_344, 44_549_160), (RESNET50, 53_120, 25_557_032)):
        assert sum(convolutions) + norms + 2048 * 1000 + 1000 == whole


# --- the table ------------------------------------------------------------------------------------------------------

# smaf.md 2.8: DeepLab-v2, output stride 8, lr 2.5e-4 on the backbone's convolutions, x10 on ASPP's weights, x20 on its
# biases without decay, decay 5e-4, momentum 0.9, batch norm frozen
DEEPLAB: Groups = {
    (2.5e-4, 5e-4): (len(RESNET101), sum(RESNET101)),
    (2.5e-3, 5e-4): (4, 4 * 2048 * 21 * 9),
    (5e-3, 0.0): (4, 4 * 21),
}
# smaf.md 2.5: "104,729,216 trainable params, 35 backbone + 2 head tensors", lr 0.01 and x10, decay 5e-4
SMAF: Groups = {(0.01, 5e-4): (35, 104_729_216 - 4096 * 128 - 128 * 21), (0.1, 5e-4): (2, 4096 * 128 + 128 * 21)}
# smaf.md 2.1: EPS has one 1x1 convolution 4096 -> 21 in the place of those two
EPS: Groups = {(0.01, 5e-4): SMAF[0.01, 5e-4], (0.1, 5e-4): (1, 4096 * 21)}
# mcis.md 5.1: lr 1e-3, head's weights x10, the score's bias x20; 3x3 2048 -> 1024, 1x1 1024 -> 1024, 1x1 1024 -> 21
LARGE_FOV: Groups = {
    (1e-3, 5e-4): (len(RESNET101), sum(RESNET101)),
    (1e-2, 5e-4): (3, 2048 * 1024 * 9 + 1024 * 1024 + 1024 * 21),
    (2e-2, 5e-4): (1, 21),
}
# mcis.md 3.1: 13 / 13 / 7 / 4 tensors, 14,710,464 / 4,224 / 7,361,024 / 1,556 numbers at x1 / x2 / x10 / x20
OFFICIAL: Groups = {
    (1e-3, 5e-4): (13, 14_710_464), (2e-3, 5e-4): (13, 4_224), (1e-2, 5e-4): (7, 7_361_024), (2e-2, 5e-4): (4, 1_556),
}  # fmt: skip
# mcis.md 2.1 and 3.1: the paper has one head and three W_P, and a decay of 2e-4
PAPER: Groups = {
    (1e-3, 2e-4): (13, 14_710_464), (2e-3, 2e-4): (13, 4_224),
    (1e-2, 2e-4): (6, 7_361_024 - 20 * 512 + 2 * 512 * 512), (2e-2, 2e-4): (4, 1_556),
}  # fmt: skip
# ppl.md 3.2: lr 0.1, 1.0 for the head, decay 1e-4 on everything; conv1 and bn1 fixed; 2.3: 2 (3 + 1) times 2048
PPL_BACKBONE = (len(RESNET50) - 1 + 2 * 52, sum(RESNET50[1:]) + 53_120 - 2 * 64)
# ppl.md 4.4: lr 0.1, decay 1e-4; IRN's five 1x1 convolutions to 32 channels with group norm, and one 160 -> 1
IRN: Groups = {(0.1, 1e-4): (5 + 2 * 5 + 2, (64 + 256 + 512 + 1024 + 2048) * 32 + 5 * 2 * 32 + 160 + 1)}

LEARNS: dict[tuple[str, str], Groups] = {
    ("eps", "method"): EPS,
    ("eps", "segmenter"): DEEPLAB,
    ("smaf", "method"): SMAF,
    ("smaf", "student"): SMAF,
    ("smaf", "segmenter"): DEEPLAB,
    ("mcis/official", "method"): OFFICIAL,
    ("mcis/official", "segmenter"): LARGE_FOV,
    ("mcis/paper", "method"): PAPER,
    ("mcis/paper", "segmenter"): LARGE_FOV,
    ("ppl/implicit", "method"): {(0.1, 1e-4): PPL_BACKBONE, (1.0, 1e-4): (1, 2 * 2048 * VOC)},
    ("ppl/implicit", "affinity"): IRN,
    ("ppl/implicit", "segmenter"): DEEPLAB,
    ("ppl/explicit", "method"): {(0.1, 1e-4): PPL_BACKBONE, (1.0, 1e-4): (1, 4 * 2048 * VOC)},
    ("ppl/explicit", "affinity"): IRN,
    ("ppl/explicit", "segmenter"): DEEPLAB,
    ("apc/multistage", "segmenter"): DEEPLAB,
}

# (momentum, Nesterov's) of SGD. smaf.md 6 and ppl.md 3.2: the weight decay stands in the place of the momentum
MOMENTUM = {
    "eps method": (5e-4, False), "smaf method": (5e-4, False), "smaf student": (5e-4, False),
    "ppl/implicit method": (1e-4, False), "ppl/explicit method": (1e-4, False),
    "ppl/implicit affinity": (1e-4, False), "ppl/explicit affinity": (1e-4, False),
    "mcis/official method": (0.9, True), "mcis/paper method": (0.9, True),  # mcis.md 3.1
}  # fmt: skip
SEGMENTERS = [name for name, stage in LEARNS if stage == "segmenter"]  # momentum 0.9 in all of their codes


@pytest.fixture(scope="module")
def networks() -> dict[str, dict[str, Built]]:
    return {name: built(name) for name in RECIPES}


@pytest.mark.parametrize(("name", "stage"), LEARNS)
def test_what_learns_and_how_fast(name: str, stage: str, networks: dict[str, dict[str, Built]]) -> None:
    assert networks[name][stage].groups == LEARNS[name, stage]
    momentum = (0.9, False) if stage == "segmenter" else MOMENTUM[f"{name} {stage}"]
    optimizer = networks[name][stage].optimizer
    assert (optimizer["momentum"], optimizer["nesterov"]) == momentum


def test_every_network_of_the_papers_recipes_is_in_the_table(networks: dict[str, dict[str, Built]]) -> None:
    papers = {
        name: own for name, own in networks.items() if name.split("/")[0] in ("eps", "smaf", "mcis", "ppl", "apc")
    }
    small = {"ppl/implicit-small", "ppl/explicit-small", "ppl/agree"}  # at the default's size and training
    ours = {("apc/e2e", "method"), ("apc/multistage", "method")}  # of these the training is not known
    stages = {(name, stage) for name, own in papers.items() if name not in small for stage in own}
    assert stages == LEARNS.keys() | ours


def test_totals_of_the_specs(networks: dict[str, dict[str, Built]]) -> None:
    """smaf.md 2.1 and mcis.md 3.1, whole networks, frozen parts with them."""
    total = {name: sum(p.numel() for p in networks[name]["method"].network.parameters()) for name in networks}
    assert (total["smaf"], total["eps"], total["mcis/official"]) == (105_598_144, 105_156_928, 22_077_268)
    entries = networks["smaf"]["method"].network.state_dict()
    assert len(entries) == 235 and len([n for n in entries if "num_batches_tracked" not in n]) == 197
    assert len(networks["eps"]["method"].network.state_dict()) == 229


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_have_stride_8_and_frozen_norms(name: str, networks: dict[str, dict[str, Built]]) -> None:
    """smaf.md 2.8, mcis.md 5.1: 321 pixels give 41 cells; dilation 2 in the fourth, 4 in the fifth stage."""
    own = networks[name]["segmenter"]
    assert own.backbone.stride == 8 and own.learning_norms == 0 and own.fixed_blocks == ()
    assert isinstance(own.network, segment.SegmenterTask)
    with torch.device("meta"):
        logits = own.network.segmenter.segment(Photos(torch.empty(1, 3, 321, 321)))
    assert logits.shape == (1, 1 + VOC, 41, 41)
    dilations = own.dilations
    assert (dilations["layer1"], dilations["layer2"]) == ({1}, {1})
    assert (max(dilations["layer3"]), max(dilations["layer4"])) == (2, 4)
    heads = [m for m in own.network.modules() if isinstance(m, (Aspp, segment.deeplab.LargeFov))]
    found = [m.dilation[0] for m in heads[0].modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert found == ([12] if name.startswith("mcis") else [6, 12, 18, 24])


def test_backbones_of_methods(networks: dict[str, dict[str, Built]]) -> None:
    """Strides, dilations, frozen blocks and norms of the networks that make maps."""
    own = {name: networks[name]["method"] for name in networks}
    for name in ("eps", "smaf"):  # smaf.md 2.1
        assert own[name].backbone.stride == 8 and own[name].learning_norms == 0
        assert own[name].fixed_blocks == ("conv1a", "b2", "b2_1", "b2_2", "bn7")
        dilations = own[name].dilations
        assert (dilations["b5"], dilations["b5_1"], dilations["b6"], dilations["b7"]) == ({1, 2}, {2}, {4}, {4})
    for name in ("mcis/paper", "mcis/official"):  # mcis.md 2.1
        assert own[name].backbone.stride == 8 and own[name].fixed_blocks == ()
        assert own[name].dilations == {"conv1": {1}, "conv2": {1}, "conv3": {1}, "conv4": {1}, "conv5": {2}}
    for name in ("ppl/implicit", "ppl/explicit"):  # ppl.md 2.3, 3.2
        assert own[name].backbone.stride == 16 and own[name].fixed_blocks == ("stem",)
        assert own[name].learning_norms == 52  # IRN's FixedBatchNorm fixes the statistics alone
        walk = networks[name]["affinity"]
        assert walk.learning_norms == 0 and walk.fixed_blocks == walk.backbone.names
    assert own["apc/e2e"].backbone.stride == 16 and own["apc/e2e"].fixed_blocks == ()  # apc.md 4.6, ToCo
    positions = [p for n, p in own["apc/e2e"].network.named_parameters() if n.endswith("pos_embed")]
    assert len(positions) == 1 and not positions[0].requires_grad
    # apc.md 4.6, ViT-PCM: the last five of twelve blocks and the norm
    fixed = own["apc/multistage"].fixed_blocks
    assert fixed == ("embed", *(f"block{i}" for i in range(7)))


def test_norms_of_backbones_keep_their_statistics_in_training(networks: dict[str, dict[str, Built]]) -> None:
    for own in networks.values():
        for net in own.values():
            net.network.train()
            assert not any(m.training for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_walks_network_is_trained_as_irns(networks: dict[str, dict[str, Built]]) -> None:
    """ppl.md 4.4: views of 512 pixels, batches of 32, 3 epochs; every neighbour within radius 10."""
    for name in ("ppl/implicit", "ppl/explicit"):
        own = networks[name]["affinity"]
        assert isinstance(own.network, propagation.AffinityNet) and own.network.settings.pairs == 0
        assert (own.train.batch_size, own.train.epochs, own.views.size) == (32, 3, 512)
        assert (own.network.settings.radius, own.network.settings.stride) == (10, 4)


def test_colours_of_views(networks: dict[str, dict[str, Built]]) -> None:
    """smaf.md 2.2, mcis.md 3.1: 0.3, 0.3, 0.3 and hue 0.1; IRN and DeepLab have none."""
    for (name, stage), _ in LEARNS.items():
        views = networks[name][stage].views
        none = stage in ("segmenter", "affinity") or name.startswith("ppl")
        assert (views.jitter, views.hue) == ((0.0, 0.0) if none else (0.3, 0.1)), (name, stage)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.split("/")[0] in ("eps", "smaf", "mcis", "apc")])
def test_what_is_not_as_published_is_said(name: str) -> None:
    assert "Not as published" in inspect.getdoc(RECIPES[name])


def test_small_objects_are_seen_twice_as_large_by_all_but_the_classifier() -> None:
    small, default = recipe("small-objects"), recipe("default")
    assert small.localize.long_side == 2 * default.localize.long_side
    assert small.inference.long_side == 2 * default.inference.long_side
    assert small.segmenter_augment.scale == tuple(2 * x for x in default.segmenter_augment.scale)
    assert (small.augment, small.train) == (default.augment, default.train)
    assert small.segmenter_augment.size == default.segmenter_augment.size
