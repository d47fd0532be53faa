"""The segmenter after EPS, SMAF, PPL and APC at paper scale.

DeepLab-v2 on ResNet-101 at stride 8 as kazuto1011/deeplab-pytorch trains it: three scales in training, batch norm
frozen, 20,000 steps of 2 batches of 5 for VOC's 10,582 photos, which are scaled 0.5 to 1.5 from 500 pixels; the
classifiers' weights learn at 10 times the backbone's rate, their biases at 20 times and without decay.

Not as published: ResNet-101 is torchvision's, from ImageNet (``--segmenter.weights FILE`` for another of timm's names;
published: Caffe's, with the stride in the first 1x1 convolution of a stage, from COCO or ImageNet); the first block of
layer3 and of layer4 has the dilation of the layer before; scales are drawn log-uniformly and not from five; the rate
falls with every step and not with every tenth.
"""

from __future__ import annotations

from tag2mask.data.augment import AugmentSettings
from tag2mask.segment import SegmenterSettings
from tag2mask.training import TrainSettings

SEGMENTER = SegmenterSettings(
    "deeplab-v2", presence=False, warm_start=False, backbone="resnet101.tv_in1k", output_stride=8, freeze_norms=True,
    pyramid=(0.5, 0.75),
)  # fmt: skip
AUGMENT = AugmentSettings(size=321, scale=(250 / 321, 750 / 321), jitter=0.0)
TRAIN = TrainSettings(
    epochs=18.9, batch_size=5, accumulate=2, optimizer="sgd", learning_rate=2.5e-4, head_lr_mult=10.0, bias_lr_mult=2.0,
    weight_decay=5e-4, momentum=0.9, warmup=0.0, power=0.9, max_grad_norm=0.0,
)  # fmt: skip
