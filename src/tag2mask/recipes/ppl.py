"""PPL: at paper scale, at the default's size, and with agreement."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.ppl import PplSettings
from tag2mask.propagation import PropagationSettings
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes import deeplab
from tag2mask.recipes.general import default
from tag2mask.recipes.settings import RunSettings
from tag2mask.segment import InferenceSettings, RelabelSettings
from tag2mask.training import TrainSettings

# IRN's optimiser hands the weight decay to SGD as momentum; everything decays
_IRN = TrainSettings(
    optimizer="sgd", learning_rate=0.1, weight_decay=1e-4, decay_biases=True, momentum=1e-4, warmup=0.0, power=0.9,
    max_grad_norm=0.0,
)  # fmt: skip


def ppl_implicit() -> RunSettings:
    """PPL in stages at paper scale: ResNet-50, views of 512 pixels, IRN's training, DeepLab-v2. Wants a GPU.

    Not as published: what :func:`_ppl` names.
    """
    return _ppl("implicit")


def ppl_explicit() -> RunSettings:
    """PPL with all cuts at once at paper scale; otherwise as ppl/implicit. Wants a GPU.

    Not as published: what :func:`_ppl` names.
    """
    return _ppl("explicit")


def ppl_implicit_small() -> RunSettings:
    """PPL in three stages at the default's network and size: minutes on a laptop."""
    return _small(PplSettings("implicit"))


def ppl_explicit_small() -> RunSettings:
    """PPL with all cuts at once at the default's network and size: minutes on a laptop."""
    return _small(PplSettings("explicit"))


def ppl_agree() -> RunSettings:
    """PPL with one low cut whose cut and uncut maps must agree: for a few hundred photos, not for thousands."""
    return _small(PplSettings(stages=1, reconstruction=1.0))


def _small(options: PplSettings) -> RunSettings:
    """As it was measured (docs/results-methods.md): five epochs of all photos, on its own maps."""
    run = default()
    return replace(
        run,
        method="ppl",
        options=options,
        train=replace(run.train, epochs=5.0),
        held_out=0.0,
        balance=0.0,
        pseudo=PseudoSettings(),
        localize=replace(run.localize, references=0),
    )


def _ppl(mode: Literal["implicit", "explicit"]) -> RunSettings:
    """The paper does not give its training; this is IRN's, the base code's of its time, for VOC's 10,582 photos.

    Two things in that code are easy to miss. Its optimiser hands the weight decay to SGD as momentum, so its large
    learning rates are those of an SGD without momentum: 0.1 with momentum 0.9 would be ten times as much. And it
    detaches the output of layer2, which here would leave a stage that cuts lower nothing to teach; so only the first
    convolution and its norm are fixed. Batch norms keep their statistics, as in IRN; their scale and shift learn, as
    there. The walk's network is IRN's, too: views of 512 pixels, 32 in a batch, every neighbour within 10 cells.

    Not as published (IRN's): layer4 has dilation 2 (timm's at stride 16; IRN: none), scales are drawn log-uniformly
    (uniformly), a last batch of half the size or more is taken (left out), the displacement field, which semantic masks
    do not need, is not trained, and the background threshold is found without truth (0.25); and what
    :mod:`tag2mask.recipes.deeplab` names.
    """
    return RunSettings(
        method="ppl",
        options=PplSettings(mode, fixed_until="stem"),
        backbone=BackboneSettings("resnet50.tv_in1k", output_stride=16),
        augment=AugmentSettings(size=512, scale=(320 / 512, 640 / 512), jitter=0.0),
        train=replace(_IRN, epochs=5.0, batch_size=16, head_lr_mult=10.0),
        localize=LocalizeSettings(long_side=500, scales=(0.5, 1.0, 1.5, 2.0)),
        propagate="irn",
        propagation=PropagationSettings(pairs=0),
        # photos of 500 pixels, 0.5 to 1.5 times
        propagation_augment=AugmentSettings(size=512, scale=(250 / 512, 750 / 512), jitter=0.0),
        propagation_train=replace(_IRN, epochs=3.0, batch_size=32, head_lr_mult=1.0),
        refine="none",
        held_out=0.0,
        balance=0.0,
        pseudo=PseudoSettings(),
        segmenter=deeplab.SEGMENTER,
        segmenter_augment=deeplab.AUGMENT,
        segmenter_train=deeplab.TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(long_side=0, scales=(0.5, 0.75, 1.0)),
    )  # fmt: skip
