"""APC at paper scale."""

from __future__ import annotations

from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes import deeplab
from tag2mask.recipes.settings import RunSettings
from tag2mask.segment import InferenceSettings, RelabelSettings
from tag2mask.training import TrainSettings


def apc_e2e() -> RunSettings:
    """APC in a single stage at paper scale: ViT-B/16, views of 448 pixels, ToCo's training. Wants a GPU.

    The paper's training is not known to us; this is ToCo's, whose single stage it most resembles: 20,000 steps of 4 of
    VOC's 10,582 photos, the learning rate falling over all of them, warm-up included.

    Not as published (ToCo's): photos are normalised as the weights were trained (mean and deviation 0.5; ToCo feeds
    ImageNet's), scales are drawn log-uniformly, and views are averaged over scales rather than maximised. What of the
    method is a guess, :class:`tag2mask.methods.apc.ApcSettings` says.
    """
    return RunSettings(
        method="apc",
        options=ApcSettings(
            min_share=0.0, weight_penalty=0.01, equivariance=0.0, decoder_width=512, presence=False,
            segmentation=0.1, label_rule="best",
        ),
        backbone=BackboneSettings("vit_base_patch16_224.orig_in21k_ft_in1k"),
        augment=AugmentSettings(size=448, scale=(250 / 448, 1000 / 448)),
        train=TrainSettings(
            epochs=7.56, batch_size=4, learning_rate=6e-5, head_lr_mult=10.0, weight_decay=1e-2, warmup=0.075,
            power=0.9, max_grad_norm=0.0,
        ),
        localize=LocalizeSettings(long_side=960, scales=(1.0,), flip=False, batch_size=1),
        refine="crf/deeplab",
        held_out=0.0,
        balance=0.0,
        pseudo=PseudoSettings(),
        inference=InferenceSettings(long_side=0, scales=(1.0, 1.25, 1.5), refine="crf/toco-seg"),
    )  # fmt: skip


def apc_multistage() -> RunSettings:
    """APC before a segmenter of its own at paper scale: ViT-B/16 at 384 pixels, ViT-PCM's training. Wants a GPU.

    ViT-PCM's (APC's is not known): the photo as a view of 384 pixels, batches of 16, the last five blocks and the norm
    learn.

    Not as published (ViT-PCM's): its first epoch has a learning rate of 1e-3, here it is 1e-4 throughout; 50 epochs (it
    stops early, looking at truth); the photo keeps its proportions; no mirroring up and down; AdamW; and what
    :mod:`tag2mask.recipes.deeplab` names.
    """
    return RunSettings(
        method="apc",
        options=ApcSettings(
            single_stage=False, min_share=0.0, context="hv_bilstm", weight_penalty=0.01, equivariance=1.0,
            heads_first=0.02, fixed_until="block6",
        ),
        backbone=BackboneSettings("vit_base_patch16_384.orig_in21k_ft_in1k"),
        augment=AugmentSettings(size=384, scale=(1.0, 1.0), hue=0.1),
        train=TrainSettings(
            epochs=50.0, batch_size=16, learning_rate=1e-4, head_lr_mult=1.0, weight_decay=0.0, warmup=0.0, power=0.0,
            max_grad_norm=0.0,
        ),
        localize=LocalizeSettings(long_side=960, scales=(1.0,), flip=False, batch_size=1),
        refine="crf/deeplab",
        held_out=0.0,
        balance=0.0,
        pseudo=PseudoSettings(),
        segmenter=deeplab.SEGMENTER,
        segmenter_augment=deeplab.AUGMENT,
        segmenter_train=deeplab.TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(long_side=0, scales=(0.5, 0.75, 1.0)),
    )  # fmt: skip
