"""EPS and SMAF at paper scale."""

from __future__ import annotations

from dataclasses import replace

from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.eps import EpsSettings
from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes import deeplab
from tag2mask.recipes.settings import RunSettings
from tag2mask.segment import InferenceSettings, RelabelSettings
from tag2mask.training import TrainSettings

# EPS and SMAF train alike: 20,000 steps of 8 of VOC's 10,582 photos. Their optimiser (PSA's) hands the weight decay to
# SGD as momentum, so the large learning rates are those of an SGD without it: 0.9 would make a step ten times as large
_LINEAGE = TrainSettings(
    epochs=20_000 * 8 / 10_582, batch_size=8, optimizer="sgd", learning_rate=0.01, head_lr_mult=10.0, weight_decay=5e-4,
    momentum=5e-4, warmup=0.0, power=0.9, max_grad_norm=0.0,
)  # fmt: skip


def eps() -> RunSettings:
    """EPS at paper scale: ResNet-38d (--weights FILE), then DeepLab-v2 on ResNet-101. Needs saliency and a GPU.

    Not as published: the longer side is drawn log-uniformly between 256 and 512 pixels (uniformly); colours change in
    one order (a random one); padding takes no part in the saliency loss (it is taught as not salient); a last batch of
    under half the size is dropped (any that is not full); and what :mod:`tag2mask.recipes.deeplab` names.
    """
    return RunSettings(
        method="eps",
        options=EpsSettings(),
        backbone=BackboneSettings("resnet38d", output_stride=8),
        augment=AugmentSettings(size=448, scale=(256 / 448, 512 / 448), jitter=0.3, hue=0.1),
        train=_LINEAGE,
        localize=LocalizeSettings(long_side=500, scales=(0.5, 1.0, 1.5, 2.0)),
        pseudo=PseudoSettings(background="constant", threshold=0.2),
        refine="crf/labels",
        held_out=0.0,
        balance=0.0,
        segmenter=deeplab.SEGMENTER,
        segmenter_augment=deeplab.AUGMENT,
        segmenter_train=deeplab.TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(long_side=0, scales=(1.0,), flip=False),
    )  # fmt: skip


def smaf() -> RunSettings:
    """SMAF at paper scale: EPS with the 128-channel head, then one round of self-training. Needs saliency and a GPU.

    Not as published: what :func:`eps` names; maps are stored at a cell for every 4 pixels in half precision (at the
    photo's size in float32) and brought to the student's view bilinearly without aligned corners (with).
    """
    run = eps()
    return replace(
        run,
        options=EpsSettings(head="feature"),
        self_train=SelfTrainSettings("smaf", background=0.2, sharpness=1.0),
        student_train=_LINEAGE,
    )
