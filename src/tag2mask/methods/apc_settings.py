"""The settings of APC (:mod:`tag2mask.methods.apc`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tag2mask.errors import InputError
from tag2mask.layers.adaptive_pooling import Rule
from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, REACH, SHARE, WIDTH, Range, check_values


@dataclass(frozen=True)
class ApcSettings:
    """The defaults train the embedded backbone on a laptop; `apc/e2e` and `apc/multistage` are at paper scale.

    What the paper does not say, and no code was published to say, is marked "unverified".
    """

    single_stage: bool = True
    """A decoder learns from the online labels, and the method is the segmenter. Otherwise it makes maps only, and what
    is made of them teaches a segmenter, as with any method."""

    pooling: Rule = "ratio_to_max"
    """How many patches speak for the photo: those within `ratio` of the best; down to the first that falls below
    `ratio` of the one before (consecutive; on a fine grid hardly any does, so give more than 0.9); down to the largest
    step (gap); the best `top` (fixed, TKP-PCL); the best (max, ViT-PCM); all (mean, CAM). Which rule the paper has is
    unverified."""
    ratio: Annotated[float, Range(above=0, at_most=1)] = 0.9
    """Of ratio_to_max and consecutive; unverified."""
    top: Annotated[int, Range(at_least=1)] = 6
    """Of fixed; unverified."""
    min_patches: Annotated[int, Range(at_least=1)] = 1
    """Fewest patches; unverified."""
    min_share: Annotated[float, SHARE] = 0.125
    """Of the rules that adapt: fewest patches as a share of the photo's. Ours: without it a few patches carry all the
    gradient, and an object's first confident patches are soon its only ones."""
    max_patches: Annotated[int, NOT_NEGATIVE] = 0
    """Most patches, 0: all; unverified."""
    absent: Literal["akp", "max"] = "akp"
    """What stands for a class the photo does not show: the same pooling, or its best patch alone; unverified."""

    contrast: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the patch contrast, 0: none; unverified."""
    confidence: Annotated[float, Range(above=0, below=1)] = 0.85
    """Scores above it are confident, below 1 minus it unconfident. Early in a training there may be none: then the
    contrast is 0, as it should be; unverified."""
    scope: Literal["image", "batch"] = "image"
    """Pairs within a photo, or over the whole batch (confident patches of photos with that tag, unconfident ones of all
    photos); unverified."""
    contrast_background: bool = False
    """Whether the background has pairs too; unverified."""
    contrast_on: Literal["classifier", "encoder"] = "classifier"
    """Which embeddings: those the classifier sees, or the backbone's (the same without context); unverified."""
    low_cap: Annotated[int, NOT_NEGATIVE] = 0
    """At most this many unconfident patches a class and photo, drawn at random; 0: all, which costs no more."""

    context: Literal["none", "hv_bilstm"] = "none"
    """hv_bilstm: two-way LSTMs along rows and columns before the classifier (ViT-PCM). Whether the single-stage form
    has it is unverified."""
    context_width: Annotated[int, WIDTH] = 192
    """Of each LSTM in each direction (ViT-PCM's on 768 channels); embeddings are four times as wide."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.2
    """Share of embedding values dropped before the classifier (ViT-PCM)."""
    weight_penalty: Annotated[float, NOT_NEGATIVE] = 0.0
    """Times the sum of the classifier's squared weights (ViT-PCM: 0.01, as the recipes at paper scale)."""
    equivariance: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the equivariance loss, 0: none. A mosaic of four transformed half-size photos must be classified as
    they were when whole (ViT-PCM, by whose author it matters most). That APC kept it is unverified."""

    decoder_width: Annotated[int, WIDTH] = 256
    """Channels of the decoder (ToCo: 512 on a ViT's 768); which decoder; unverified."""
    decoder_dilation: Annotated[int, REACH] = 5
    """Of its two 3x3 convolutions (ToCo)."""
    presence: bool = True
    """The photo's class scores weigh the decoder's classes, as in our other DeepLab heads; ours, not the paper's."""
    segmentation: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the decoder's loss once it has begun (ToCo: 0.1, as the recipe at paper scale; here the patch classes
    gain from more of it too); unverified."""
    segmentation_from: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """Share of the training after which it begins (ToCo: 2,000 of 20,000 steps); unverified."""
    label_rule: Literal["best", "split"] = "split"
    """Which label a pixel gets online. best: that of its best refined score, the background's among them. split: the
    best class's where its score lies above a threshold, else background; the threshold is found without truth on the
    scores of the photos seen lately, as that of the maps is. Ours: the background's tag is 1 in every photo, so its
    patches are too sure of themselves and best leaves little object; unverified."""
    label_confidence: Annotated[float, Range(above=0, below=1)] = 0.5
    """Of best: pixels whose score is lower teach the decoder nothing; unverified."""
    label_band: Annotated[float, Range(at_least=0, below=1)] = 0.2
    """Ours. Of split: pixels whose class's score lies this near the threshold, as a share of it, teach the decoder
    nothing."""
    refine: Literal["par", "none"] = "par"
    """What refines the online labels. That it is PAR is unverified."""
    label_stride: Annotated[int, Range(at_least=1, at_most=32)] = 2
    """Online labels are refined and used at the view's resolution divided by this (ToCo refines at half of it)."""

    heads_first: Annotated[float, SHARE] = 0.0
    """Share of the training in which the new layers learn alone (ViT-PCM: the first epoch); unverified."""
    fixed_until: str | None = None
    """Blocks up to this one keep their pretrained weights though photos are augmented (ViT-PCM trains the last five of
    a ViT-B and the norm: block6). Unlike a frozen backbone's, their output is not stored."""
    learn_positions: bool = False
    """Whether a ViT's position embeddings learn (ToCo: no)."""

    def __post_init__(self) -> None:
        check_values(self, "apc")
        limit = self.max_patches or float("inf")
        if self.min_patches > limit or (self.pooling == "fixed" and not self.min_patches <= self.top <= limit):
            raise InputError(
                f"apc.min-patches {self.min_patches}, apc.max-patches {self.max_patches} and apc.top {self.top} "
                "contradict each other: no number of patches lies within them; leave min-patches at 1, max-patches at 0"
            )

    @property
    def traits(self) -> Traits:
        return Traits(
            class_maps=True,
            single_stage=self.single_stage,
            tuned_on_truth=("how apc is trained by default was chosen on VOC's truth",),
        )
