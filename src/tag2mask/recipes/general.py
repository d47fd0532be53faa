"""The pipeline's defaults, and variations of them for less time or stored features."""

from __future__ import annotations

from dataclasses import replace

from tag2mask.data.settings import AUTO
from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.recipes.settings import RunSettings, with_method


def default() -> RunSettings:
    """Fine-tunes the embedded EfficientNet-Lite0: 500 photos in half an hour on two cores, 2,500 in over an hour."""
    return RunSettings()


def quick() -> RunSettings:
    """A first result in minutes: short training, one scale."""
    run = default()
    return replace(
        run,
        train=replace(run.train, auto_steps=150),
        balance=0.0,
        localize=replace(run.localize, scales=(1.0,)),
        segmenter_train=replace(run.segmenter_train, auto_steps=100, minimum_epochs=1.0),
        relabel=replace(run.relabel, rounds=0),
        inference=replace(run.inference, scales=(1.0,)),
    )


def small_objects() -> RunSettings:
    """Objects under a hundredth of large photos: maps and the segmenter see these twice as large."""
    run = default()
    return replace(
        run,
        localize=replace(run.localize, long_side=768),
        segmenter_augment=replace(run.segmenter_augment, scale=(1.6, 4.0)),
        inference=replace(run.inference, long_side=768),
    )


def frozen() -> RunSettings:
    """Backbone features computed once and kept on disk; only heads train. Another head is minutes away."""
    run = default()
    return replace(
        run,
        backbone=replace(run.backbone, freeze=True),
        train=replace(run.train, epochs=8.0),
        balance=0.0,
        localize=replace(run.localize, scales=(1.0,)),
        segmenter=replace(run.segmenter, name="deeplab-largefov", warm_start=False, balance=0.0),
        # wide heads on features that do not give way: at the rate of the default they diverge
        segmenter_train=replace(run.segmenter_train, epochs=4.0, learning_rate=1e-4),
        relabel=replace(run.relabel, rounds=0),  # it reads the photos again, which costs more than all the rest
        inference=replace(run.inference, scales=(1.0,)),
    )


def saliency() -> RunSettings:
    """EPS and two students on saliency maps that the run makes (extra `saliency`), then the default's segmenter."""
    run = with_method(default(), "eps")
    return replace(
        run,
        data=replace(run.data, saliency=AUTO),
        self_train=SelfTrainSettings("smaf", denoise=("saliency",), rounds=2),
    )


def demo() -> RunSettings:
    """The embedded demo data in a few minutes on two cores."""
    run = default()
    return replace(
        run,
        augment=replace(run.augment, size=192),
        train=replace(run.train, epochs=6.0),
        balance=0.0,
        localize=replace(run.localize, long_side=256, scales=(1.0, 1.5)),
        segmenter_augment=replace(run.segmenter_augment, size=192),
        segmenter_train=replace(run.segmenter_train, epochs=8.0),
        relabel=replace(run.relabel, rounds=0),
        inference=replace(run.inference, long_side=256, scales=(1.0,)),
    )
