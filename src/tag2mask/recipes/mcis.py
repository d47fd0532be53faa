"""MCIS in the paper's and in the released form, at paper scale."""

from __future__ import annotations

from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods import mcis_settings
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes.settings import RunSettings
from tag2mask.segment import InferenceSettings, RelabelSettings, SegmenterSettings
from tag2mask.training import TrainSettings


def mcis_paper() -> RunSettings:
    """MCIS in the paper's form at paper scale: VGG-16, saliency maps, DeepLab-LargeFOV. Wants a GPU.

    Not as published: what :func:`_mcis` names; how many epochs the paper trains is not known.
    """
    # of the paper's solver little is certain: a tenth every 6 epochs, and this decay; the number of epochs is not known
    return _mcis(mcis_settings.paper(), epochs=15.0, milestones=(6.0, 12.0), weight_decay=2e-4)


def mcis_official() -> RunSettings:
    """MCIS as its released code has it, at that scale; otherwise as mcis/paper. Wants a GPU.

    Not as published: what :func:`_mcis` names, and what is ours in :mod:`tag2mask.methods.mcis`.
    """
    # trained for 15 epochs, of which the weights after 11 make the maps; the last four change nothing of those
    return _mcis(mcis_settings.official(11), epochs=11.0, milestones=(5.0, 10.0), weight_decay=5e-4)


def _mcis(
    options: mcis_settings.McisSettings, *, epochs: float, milestones: tuple[float, ...], weight_decay: float
) -> RunSettings:
    """The released solver: SGD with Nesterov's momentum, biases at twice the rate, decay on everything, 5 pairs a step.

    Needs a folder of saliency maps (``--saliency``).

    Not as published: photos keep their aspect and are padded to the square of 256 pixels (released: squeezed into it),
    references keep theirs; colours change in one order (a random one), those of a photo's views of itself with it (not
    at all). The segmenter's ResNet-101 is torchvision's, from ImageNet (``--segmenter.weights FILE`` for another of
    timm's names; released: Caffe's, with the stride in the first 1x1 convolution of a stage, perhaps from COCO); the
    first block of layer3 and of layer4 has the dilation of the layer before; scales are drawn log-uniformly (from
    seven). Its solver, strides, frozen norms, sizes and test are the published ones but for the last CRF, whose kernel
    is 67 pixels wide where MCIS has 80, and which takes ten steps where MCIS takes one.
    """
    classifier = TrainSettings(
        epochs=epochs, batch_size=5, optimizer="sgd", learning_rate=1e-3, head_lr_mult=10.0, bias_lr_mult=2.0,
        weight_decay=weight_decay, decay_biases=True, momentum=0.9, nesterov=True, warmup=0.0, power=0.0,
        milestones=milestones, max_grad_norm=0.0,
    )  # fmt: skip
    return RunSettings(
        method="mcis",
        options=options,
        backbone=BackboneSettings("vgg16.tv_in1k", output_stride=8),
        augment=AugmentSettings(size=256, scale=(1.0, 1.0), flip=False, jitter=0.3, hue=0.1),
        train=classifier,
        localize=LocalizeSettings(long_side=256, scales=(1.0,), flip=False),
        refine="none",
        held_out=0.0,
        balance=0.0,
        pseudo=PseudoSettings("saliency-rule"),
        segmenter=SegmenterSettings(
            "deeplab-largefov", 1024, dilation=12, dropout=0.0, presence=False, warm_start=False,
            backbone="resnet101.tv_in1k", output_stride=8, freeze_norms=True,
        ),
        # 16,000 steps of 10 photos; 0.7 to 1.3 times photos of 500 pixels
        segmenter_augment=AugmentSettings(size=321, scale=(350 / 321, 650 / 321), jitter=0.0),
        segmenter_train=TrainSettings(
            epochs=15.1, batch_size=10, optimizer="sgd", learning_rate=1e-3, head_lr_mult=10.0, bias_lr_mult=2.0,
            weight_decay=5e-4, decay_biases=True, momentum=0.9, warmup=0.0, power=0.9, max_grad_norm=0.0,
        ),
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(long_side=0, scales=(0.5, 0.75, 1.0, 1.25, 1.5)),
    )  # fmt: skip
