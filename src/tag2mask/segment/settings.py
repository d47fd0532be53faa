"""Which segmenter a run trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tag2mask.settings import REACH, SHARE, WIDTH, ByFact, Range, check_values


@dataclass(frozen=True)
class SegmenterSettings:
    """Which head on the run's backbone."""

    name: str = "decoder"
    """decoder (light, at stride 4 where the backbone has it), deeplab-largefov, deeplab-v2, or smp:NAME for a model of
    segmentation_models_pytorch (smp:unet, smp:fpn, ...)."""
    channels: Annotated[int, WIDTH] = 256
    """Width of the head (the papers use 1024 on ResNet-101); the decoder ends in half of it."""
    dilation: Annotated[int, REACH] = 6
    """Of LargeFOV's 3x3 convolution, in feature cells (12 at stride 8 in the paper, the same field as 6 at 16)."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """Probability with which a channel of the head is dropped in training."""
    presence: bool = True
    """Heads (not smp's) learn which classes the photo shows, from its tags, and weigh the pixels' classes by it."""
    warm_start: bool = True
    """Start from the backbone that the localization method trained on the tags, not from its pretrained weights."""
    backbone: str | None = None
    """Another backbone than the method's, by name, with its own pretrained weights (resnet101: the literature's); then
    there is no warm start."""
    weights: Annotated[str, ByFact("segmenter weights", "none")] = "auto"
    """Of that backbone: auto, none, or a file (as --weights)."""
    output_stride: Annotated[int | None, Range(at_least=1, at_most=32)] = None
    """Of that backbone, in pixels per cell; None: the method's."""
    freeze_norms: bool = False
    """Scale and shift of that backbone's batch norms do not learn (DeepLab's published codes)."""
    balance: Annotated[float, SHARE] = 0.0
    """Rare labels weigh more in the loss: a pixel weighs (number of its label's pixels in the batch)^-balance. 0: all
    pixels weigh alike; 1: all labels do."""
    pyramid: Annotated[tuple[float, ...], Range(above=0, at_most=4)] = ()
    """Also segment these scales of every view, in training too; at each pixel the largest logit wins (DeepLab-v2's MSC:
    0.5, 0.75)."""

    def __post_init__(self) -> None:
        check_values(self, "segmenter")
