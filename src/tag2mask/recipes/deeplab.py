"""The segmenter after EPS, SMAF, PPL and APC at paper scale."""

from __future__ import annotations

from tag2mask.data.augment import AugmentSettings
from tag2mask.segment import SegmenterSettings
from tag2mask.train import TrainSettings

# The segmenter after EPS, SMAF, PPL and APC (kazuto1011/deeplab-pytorch): DeepLab-v2 on ResNet-101, from ImageNet,
# three scales in training, 20,000 steps of 2 batches of 5 for VOC's 10,582 photos, which are scaled 0.5 to 1.5 from
# 500 pixels. Its code also gives the classifiers' biases a factor of 20.
SEGMENTER = SegmenterSettings(
    "deeplab-v2", presence=False, warm_start=False, backbone="resnet101.tv_in1k", pyramid=(0.5, 0.75)
)
AUGMENT = AugmentSettings(size=321, scale=(250 / 321, 750 / 321), jitter=0.0)
TRAIN = TrainSettings(
    epochs=18.9, batch_size=5, accumulate=2, optimizer="sgd", learning_rate=2.5e-4, head_lr_mult=10.0,
    weight_decay=5e-4, momentum=0.9, warmup=0.0, power=0.9, max_grad_norm=0.0,
)  # fmt: skip
