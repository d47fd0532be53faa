r"""APC: adaptive patch contrast (Wu, Dai, Chen, Huang, Ma, Xiao, Ouyang, Engineering Applications of AI 139, 2025;
arXiv 2407.10649).

Idea. Classify every patch, background included, and let the best patches of a class speak for the photo: where they
lie is where the class is. One patch alone may be abnormal, so the mean of the adaptive K best stands in for the
maximum; embeddings of confident patches of a class are drawn together, those of confident and unconfident ones pushed
apart. The patch classes, gated by the tags and refined along the photo's edges, teach a decoder in the same step: one
network, one training, a segmenter at its end.

.. math::
    Z(p) = \mathrm{softmax}\big(W f(p)\big) \in [0, 1]^{1 + C}, \qquad
    \hat y_c = \frac{1}{K_c} \sum_{k \le K_c} z_c^{(k)}, \qquad
    L_{\mathrm{mce}} = \frac{1}{1 + C} \sum_c \mathrm{BCE}(\hat y_c, y_c)

* :math:`f(p)` -- embedding of patch :math:`p`: a ViT's token, a CNN's cell, or what the context module makes of it;
  :math:`W` -- linear, without bias; channel 0 is the background, whose tag is 1 in every photo (the base code looked it
  up in the truth; we do not).
* :math:`z_c^{(1)} \ge z_c^{(2)} \ge \dots` -- scores of class :math:`c` over the photo; :math:`K_c` -- chosen without
  gradient (:func:`adaptive_k`); so every chosen patch gets the gradient :math:`1 / K_c`.

.. math::
    D_c = \operatorname{mean}_{i \ne j \in H_c} \big(1 - s(i, j)\big)
    + \operatorname{mean}_{i \in H_c, j \in L_c} s(i, j), \qquad s(i, j) = \tfrac12 \big(1 + \cos(f_i, f_j)\big)

* :math:`H_c = \{i : Z_i^c > \epsilon\}`, :math:`L_c = \{i : Z_i^c < 1 - \epsilon\}` -- confident and unconfident
  patches of a tagged class. With unit vectors :math:`u` the means need no pairs: :math:`\sum_{i \ne j} u_i^\top u_j =
  |\sum_i u_i|^2 - \sum_i |u_i|^2` (:func:`patch_contrast`).

.. math::
    L = L_{\mathrm{mce}} + \alpha \operatorname{mean}_c D_c + \beta L_{\mathrm{equivariance}}
    + \gamma(t)\, L_{\mathrm{seg}} + \lambda |W|^2

* :math:`L_{\mathrm{equivariance}}` -- cross entropy of the patch classes of a mosaic of transformed half-size photos
  against the merged ones of the whole photos, which are constants; it holds the classes to the object against all that
  comes with it.
* :math:`L_{\mathrm{seg}}` -- cross entropy of the decoder against the online labels (:func:`online_scores`, then
  :func:`best_labels` or :func:`split_labels`), the mean of one over background pixels and one over foreground pixels;
  :math:`\gamma` is 0 at first, since early labels are noise. No gradient goes back through the labels; through the
  decoder's input it reaches the backbone.

What is the paper's, and what is ours. No code was published. From the abstract and summaries: patch classes without
CAM, an adaptive number of patch scores averaged in the place of the maximum, cosine similarity with high-high pairs
drawn together and high-low pairs pushed apart, one stage. From the codes of its line (ViT-PCM; ToCo and AFA for the
single stage): background channel, classifier, context module, equivariance, the merge of :func:`gate_and_rescale`,
LargeFOV decoder, PAR, balanced loss, :math:`\gamma`. Everything else is a guess and a setting, and says so.

Ours, settings that the recipes at paper scale leave out: K is at least an eighth of the patches (``least_share``), and
online labels split the best class's score at a threshold instead of weighing classes against a background whose tag is
always 1 (``label_rule``). On small data both are what lets objects grow beyond their first confident patches.

Ours, not settings: the pairs are summed, never listed; a mosaic holds four photos and each photo comes once, so that it
costs a quarter of a pass; PAR is given the merged scores as they are (AFA's code takes a softmax first, which suits raw
CAMs; of probabilities it would leave none of three labels above 0.58), at the resolution at which the labels are used;
patches on padding take no part in anything.

Stored features hold no photo: with them the online labels are not refined and there is no equivariance.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.pseudo import between_threshold
from tag2mask.refine import ParSettings, pixel_adaptive
from tag2mask.segment.deeplab import weigh_classes
from tag2mask.types import BACKGROUND, IGNORE, Batch, Losses

log = logging.getLogger("tag2mask")

BINS = 256  # of the histogram of online scores
MEMORY = 0.98  # of it, a batch: the last fifty count

Rule = Literal["ratio_to_max", "consecutive", "gap", "fixed", "max", "mean"]


@dataclass(frozen=True)
class ApcSettings:
    """The defaults train the embedded backbone on a laptop; `apc/e2e` and `apc/multistage` are at paper scale."""

    single_stage: bool = True
    """A decoder learns from the online labels, and the method is the segmenter. Otherwise it makes maps only, and what
    is made of them teaches a segmenter, as with any method."""

    pooling: Rule = "ratio_to_max"
    """How many patches speak for the photo: those within `ratio` of the best; down to the first that falls below
    `ratio` of the one before (consecutive; on a fine grid hardly any does, so give more than 0.9); down to the largest
    step (gap); the best `top` (fixed, TKP-PCL); the best (max, ViT-PCM); all (mean, CAM). Which rule the paper has: not
    verified against the paper."""
    ratio: float = 0.9
    """Of ratio_to_max and consecutive; not verified against the paper."""
    top: int = 6
    """Of fixed; not verified against the paper."""
    least: int = 1
    """Fewest patches; not verified against the paper."""
    least_share: float = 0.125
    """Of the rules that adapt: fewest patches as a share of the photo's. Ours: without it a few patches carry all the
    gradient, and an object's first confident patches are soon its only ones."""
    most: int = 0
    """Most patches, 0: all; not verified against the paper."""
    absent: Literal["akp", "max"] = "akp"
    """What stands for a class the photo does not show: the same pooling, or its best patch alone; not verified against
    the paper."""

    contrast: float = 1.0
    """Weight of the patch contrast, 0: none; not verified against the paper."""
    confidence: float = 0.85
    """Scores above it are confident, below 1 minus it unconfident. Early in a training there may be none: then the
    contrast is 0, as it should be. Not verified against the paper."""
    scope: Literal["image", "batch"] = "image"
    """Pairs within a photo, or over the whole batch (confident patches of photos with that tag, unconfident ones of all
    photos); not verified against the paper."""
    contrast_background: bool = False
    """Whether the background has pairs too; not verified against the paper."""
    contrast_on: Literal["classifier", "encoder"] = "classifier"
    """Which embeddings: those the classifier sees, or the backbone's (the same without context); not verified against
    the paper."""
    low_cap: int = 0
    """At most this many unconfident patches a class and photo, drawn at random; 0: all, which costs no more."""

    context: Literal["none", "hv_bilstm"] = "none"
    """hv_bilstm: two-way LSTMs along rows and columns before the classifier (ViT-PCM). Whether the single-stage form
    has it: not verified against the paper."""
    context_width: int = 192
    """Of each LSTM in each direction (ViT-PCM's on 768 channels); embeddings are four times as wide."""
    dropout: float = 0.2
    """Share of embedding values dropped before the classifier (ViT-PCM)."""
    weight_penalty: float = 0.0
    """Times the sum of the classifier's squared weights (ViT-PCM: 0.01, as the recipes at paper scale)."""
    equivariance: float = 1.0
    """Weight of the equivariance loss, 0: none. A mosaic of four transformed half-size photos must be classified as
    they were when whole (ViT-PCM, by whose author it matters most). Whether APC kept it, and the weight: not verified
    against the paper."""

    decoder_width: int = 256
    """Channels of the decoder (ToCo: 512 on a ViT's 768); which decoder: not verified against the paper."""
    decoder_dilation: int = 5
    """Of its two 3x3 convolutions (ToCo)."""
    presence: bool = True
    """The photo's class scores weigh the decoder's classes, as in the house's DeepLab heads; ours, not the paper's."""
    segmentation: float = 1.0
    """Weight of the decoder's loss once it has begun (ToCo: 0.1, as the recipe at paper scale; here the patch classes
    gain from more of it too); not verified against the paper."""
    segmentation_from: float = 0.1
    """Share of the training after which it begins (ToCo: 2,000 of 20,000 steps); not verified against the paper."""
    label_rule: Literal["best", "split"] = "split"
    """Which label a pixel gets online. best: that of its best refined score, the background's among them. split: the
    best class's where its score lies above a threshold, else background; the threshold is found without truth on the
    scores of the photos seen lately, as that of the maps is. Ours: the background's tag is 1 in every photo, so its
    patches are too sure of themselves and best leaves little object. Not verified against the paper."""
    label_confidence: float = 0.5
    """Of best: pixels whose score is lower teach the decoder nothing; not verified against the paper."""
    label_band: float = 0.2
    """Ours. Of split: pixels whose class's score lies this near the threshold, as a share of it, teach the decoder
    nothing."""
    refine: Literal["par", "none"] = "par"
    """What refines the online labels. Whether PAR or a CRF: not verified against the paper."""
    label_stride: int = 2
    """Online labels are refined and used at the view's resolution divided by this (ToCo refines at half of it)."""

    heads_first: float = 0.0
    """Share of the training in which the new layers learn alone (ViT-PCM: the first epoch); not verified against the
    paper."""
    fixed_until: str | None = None
    """Blocks up to this one keep their pretrained weights though photos are augmented (ViT-PCM trains the last five of
    a ViT-B and the norm: block6). Unlike a frozen backbone's, their output is not stored."""
    learn_positions: bool = False
    """Whether a ViT's position embeddings learn (ToCo: no)."""

    def __post_init__(self) -> None:
        for name in ("confidence", "label_confidence"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"apc.{name} is {getattr(self, name)}: it must lie between 0 and 1, both excluded")
        if not 0 < self.ratio <= 1:
            raise InputError(f"apc.ratio is {self.ratio}: it must lie above 0 and be at most 1")
        if self.least < 1 or self.most < 0 or self.top < 1:
            raise InputError(
                f"apc.least {self.least}, apc.most {self.most}, apc.top {self.top} are numbers of patches: give at "
                "least 1 (most may be 0, which is all)"
            )
        if not 0 <= self.least_share <= 1:
            raise InputError(f"apc.least_share is {self.least_share}: it is a share, from 0 to 1")
        if self.most and self.least > self.most:
            raise InputError(
                f"apc.least {self.least} is above apc.most {self.most}: no number of patches lies between them; lower "
                "one or raise the other"
            )
        if self.pooling == "fixed" and (self.top < self.least or (self.most and self.top > self.most)):
            raise InputError(
                f"apc.top {self.top} lies outside apc.least {self.least} to apc.most {self.most}: leave those at 1, 0"
            )
        for name in ("dropout", "segmentation_from", "label_band"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"apc.{name} is {getattr(self, name)}: it must be at least 0 and below 1")
        for name in ("contrast", "equivariance", "segmentation", "weight_penalty", "low_cap", "heads_first"):
            if getattr(self, name) < 0:
                raise InputError(f"apc.{name} is {getattr(self, name)}: it must be at least 0")
        for name in ("context_width", "decoder_width", "decoder_dilation", "label_stride"):
            if getattr(self, name) < 1:
                raise InputError(f"apc.{name} is {getattr(self, name)}: it must be at least 1")


def build(backbone: Backbone, classes: int, settings: ApcSettings = ApcSettings()) -> Apc:
    """The method of these settings; a single-stage one is a :class:`tag2mask.types.Segmenter` too."""
    return (ApcSegmenter if settings.single_stage else Apc)(backbone, classes, settings)


class Look(NamedTuple):
    """What one forward of a batch gives."""

    features: Tensor  # [batch channels rows columns], the backbone's
    embeddings: Tensor  # [batch channels rows columns], what the classifier sees
    scores: Tensor  # Z, [batch 1+classes rows columns] float32
    inside: Tensor  # [batch rows columns] bool, False on padding
    tags: Tensor  # [batch 1+classes] float32, background first
    pooled: Tensor  # y hat, [batch 1+classes] float32


class Apc(nn.Module):
    """The method page of adaptive patch contrast: patch classes from tags.

    Args:
        backbone: any, a ViT or a CNN; it learns unless frozen.
        classes: number of foreground classes.
        settings: see :class:`ApcSettings`.

    Raises:
        InputError: a block to fix that the backbone does not have.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: ApcSettings = ApcSettings()) -> None:
        super().__init__()
        self.backbone, self.settings = backbone, settings
        if settings.fixed_until is not None:
            for name in backbone.names[: backbone.position(settings.fixed_until) + 1]:
                backbone.blocks[name].requires_grad_(False)
        if not settings.learn_positions:
            for name, parameter in backbone.named_parameters():
                if name.endswith("pos_embed"):
                    parameter.requires_grad_(False)
        bilstm = settings.context == "hv_bilstm"
        self.context = HvBiLstm(backbone.channels, settings.context_width) if bilstm else nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)
        width = 4 * settings.context_width if bilstm else backbone.channels
        self.classifier = nn.Conv2d(width, 1 + classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.05)
        self._watch = Watch(settings.confidence)
        self._said = False

    def patch_scores(self, embeddings: Tensor) -> Tensor:
        """:math:`Z`: embeddings to ``[batch 1+classes rows columns]`` float32 which add up to one, background first."""
        with torch.autocast(embeddings.device.type, enabled=False):  # ratios of scores are finer than bfloat16
            return self.classifier(self.dropout(embeddings.float())).softmax(1)

    def pool(self, scores: Tensor, inside: Tensor, tags: Tensor | None = None) -> Tensor:
        r""":math:`\hat y`: patch scores to the photo's, ``[batch 1+classes]``."""
        s = self.settings
        flat, among = scores.flatten(2), inside.flatten(1)
        pooled, _ = adaptive_k(flat, s.pooling, s.ratio, s.top, s.least, s.most, among, s.least_share)
        if s.absent == "akp" or tags is None:
            return pooled
        best, _ = adaptive_k(flat, "max", inside=among)
        return torch.where(tags > 0, pooled, best)

    def _features(self, images: Tensor, progress: float, *, stored: bool = False) -> Tensor:
        """The backbone's, without gradient while the new layers learn alone."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and progress >= self.settings.heads_first):
            return self.backbone(images, stored=stored)

    def look(self, batch: Batch, progress: float) -> Look:
        """One forward."""
        if batch.stored and not self._said:
            self._said = True
            log.info("apc: stored features hold no photo: online labels are not refined, and there is no equivariance")
        features = self._features(batch.images, progress, stored=batch.stored)
        embeddings = self.context(features)
        scores = self.patch_scores(embeddings)
        inside = cells_inside(batch.valid, (scores.shape[2], scores.shape[3]))
        tags = with_background(batch.labels)
        return Look(features, embeddings, scores, inside, tags, self.pool(scores, inside, tags))

    def losses(self, batch: Batch, progress: float) -> Losses:
        return Losses(self.terms(batch, self.look(batch, progress), progress))

    def terms(self, batch: Batch, look: Look, progress: float) -> dict[str, Tensor]:
        """The losses of the patch classes."""
        s = self.settings
        terms = {"classification": tag_loss(look.pooled, look.tags)}
        if s.contrast:
            of = look.embeddings if s.contrast_on == "classifier" else look.features
            present = look.tags > 0
            if not s.contrast_background:
                present = present & (torch.arange(present.shape[1], device=present.device) != BACKGROUND)
            loss, confident = patch_contrast(
                of.flatten(2), look.scores.flatten(2), present, s.confidence, s.scope, look.inside.flatten(1), s.low_cap
            )
            terms["contrast"] = s.contrast * loss
            if self.training:
                self._watch.see(batch.ids, confident)
        if s.weight_penalty:
            terms["weight_penalty"] = s.weight_penalty * self.classifier.weight.float().square().sum()
        if s.equivariance and not batch.stored:
            terms["equivariance"] = s.equivariance * self._equivariance(batch, look, progress)
        return terms

    def _equivariance(self, batch: Batch, look: Look, progress: float) -> Tensor:
        """Cross entropy of the mosaic's patch classes against those of the whole photos, moved likewise; no gradient
        to the latter."""
        with torch.no_grad():
            wanted = gate_and_rescale(look.scores, look.tags, look.inside)
            images, wanted, weight = mosaic(batch.images, wanted, look.inside)
        found = self.patch_scores(self.context(self._features(images, progress)))
        loss = -(wanted * found.clamp(min=1e-7).log()).sum(1)
        return (loss * weight).sum() / weight.sum().clamp(min=1)

    def localize(self, images: Tensor, labels: Tensor, *, stored: bool = False) -> Tensor:
        """Patch classes gated by the tags, background taken into account and left out."""
        scores = self.patch_scores(self.context(self.backbone(images, stored=stored)))
        return gate_and_rescale(scores, with_background(labels))[:, 1:]

    def train(self, mode: bool = True) -> Apc:
        """Leaving training ends the epoch that :class:`Watch` looks at."""
        super().train(mode)
        if not mode:
            self._watch.end()
        return self


class ApcSegmenter(Apc):
    """The single-stage form: the same, and a decoder that learns from the patch classes in every step."""

    def __init__(self, backbone: Backbone, classes: int, settings: ApcSettings = ApcSettings()) -> None:
        super().__init__(backbone, classes, settings)
        self.decoder = Decoder(backbone.channels, 1 + classes, settings.decoder_width, settings.decoder_dilation)
        self.register_buffer("histogram", torch.zeros(BINS))  # of online scores, for the threshold between them
        self.histogram: Tensor

    def losses(self, batch: Batch, progress: float) -> Losses:
        s = self.settings
        look = self.look(batch, progress)
        terms = self.terms(batch, look, progress)
        if progress >= s.segmentation_from:
            shown = look.pooled if s.absent == "akp" else self.pool(look.scores, look.inside)  # no tags
            logits = self._decode(look.features, shown.detach())
            terms["segmentation"] = s.segmentation * balanced_loss(logits, self.labels(batch, look))
        return Losses(terms)

    def labels(self, batch: Batch, look: Look) -> Tensor:
        """The online labels of a batch, ``[batch height width]`` at ``label_stride`` (stored features: at cells). In
        training, their scores are remembered for the threshold."""
        s = self.settings
        images = None if batch.stored else batch.images
        size = (look.scores.shape[2], look.scores.shape[3])
        if images is not None:
            size = (max(1, images.shape[2] // s.label_stride), max(1, images.shape[3] // s.label_stride))
        wanted = gate_and_rescale(look.scores.detach(), look.tags, look.inside)
        pixels = images if s.refine == "par" else None
        found = online_scores(wanted, look.tags, batch.valid, size, pixels)
        if s.label_rule == "best":
            return best_labels(found, s.label_confidence)
        histogram = MEMORY * self.histogram + class_histogram(found)
        if self.training:
            self.histogram.copy_(histogram)
        return split_labels(found, between_threshold(histogram.double().cpu().numpy()), s.label_band)

    def _decode(self, features: Tensor, pooled: Tensor) -> Tensor:
        logits = self.decoder(features).float()
        if not self.settings.presence:
            return logits
        return weigh_classes(logits, pooled[:, 1:].clamp(min=1e-7).log())

    def segment(self, images: Tensor, *, stored: bool = False) -> Tensor:
        """Logits ``[batch 1+classes rows columns]`` at feature stride, background first. No tags are used."""
        features = self.backbone(images, stored=stored)
        if not self.settings.presence:
            return self._decode(features, features)
        scores = self.patch_scores(self.context(features))
        everywhere = torch.ones_like(scores[:, 0], dtype=torch.bool)
        return self._decode(features, self.pool(scores, everywhere))


# --- parts ------------------------------------------------------------------------------------------------------


class HvBiLstm(nn.Module):
    """ViT-PCM's context module: a two-way LSTM along every row and another along every column, side by side.

    Dropout on the grid, and on what each LSTM is given (the same channels along a whole row or column).

    Args:
        channels: of the grid.
        width: hidden units of each LSTM in each direction; ``4 * width`` channels come out.
        dropout: 0.2 in ViT-PCM, in all three places.
    """

    def __init__(self, channels: int, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout, self.drop_channels = nn.Dropout(dropout), nn.Dropout1d(dropout)
        self.rows = nn.LSTM(channels, width, batch_first=True, bidirectional=True)
        self.columns = nn.LSTM(channels, width, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch channels rows columns]`` to ``[batch 4*width rows columns]`` float32."""
        with torch.autocast(x.device.type, enabled=False):
            grid = self.dropout(x.float()).permute(0, 2, 3, 1)  # [batch rows columns channels]
            across = self._along(grid, self.rows)
            down = self._along(grid.transpose(1, 2), self.columns).transpose(1, 2)
            return torch.cat([across, down], 3).permute(0, 3, 1, 2)

    def _along(self, lines: Tensor, lstm: nn.LSTM) -> Tensor:
        """``[batch lines steps channels]``, each line on its own."""
        steps = lines.flatten(0, 1)
        steps = self.drop_channels(steps.transpose(1, 2)).transpose(1, 2)
        return lstm(steps)[0].unflatten(0, lines.shape[:2])


class Decoder(nn.Sequential):
    """ToCo's LargeFOV head: two dilated 3x3 convolutions and a classifier, without biases."""

    def __init__(self, channels: int, labels: int, width: int, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, labels, 1, bias=False),
        )


class Watch:
    """Notices an epoch in which no patch was confident. An epoch ends when a photo comes again."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence
        self.seen: set[str] = set()
        self.found: Tensor | None = None  # confident patches of this epoch, counted where the training runs
        self.photos = 0  # in the last whole epoch
        self.warned = False

    def see(self, ids: tuple[str, ...], confident: Tensor) -> None:
        if self.seen.intersection(ids):
            self.photos = len(self.seen)
            self.end()
        self.seen.update(ids)
        self.found = confident if self.found is None else self.found + confident

    def end(self) -> None:
        """Warns once, if the epoch was a whole one."""
        if self.found is not None and len(self.seen) >= self.photos and not self.warned and not int(self.found):
            log.warning(
                f"apc: no patch of {len(self.seen)} photos, a whole epoch, scored above {self.confidence} for its "
                "class, so the patch contrast taught nothing: lower --apc.confidence, train longer, or leave it out "
                "with --apc.contrast 0"
            )
            self.warned = True
        self.seen, self.found = set(), None


# --- functions --------------------------------------------------------------------------------------------------


def with_background(labels: Tensor) -> Tensor:
    """``[batch classes]`` to ``[batch 1+classes]`` float32: every photo shows background."""
    return F.pad(labels.float(), (1, 0), value=1.0)


def cells_inside(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch height width]`` bool to ``[batch rows columns]`` bool: cells with at least half as much of the photo as
    the cell with the most, so that the narrowest photo has some."""
    share = F.adaptive_avg_pool2d(valid[:, None].float(), size)[:, 0]
    return share >= 0.5 * share.amax((1, 2), keepdim=True)


def tag_loss(pooled: Tensor, tags: Tensor) -> Tensor:
    """Mean over photos and channels of the binary cross entropy of probabilities ``[batch 1+classes]``."""
    p = pooled.float().clamp(1e-7, 1 - 1e-7)
    return -(tags * p.log() + (1 - tags) * (1 - p).log()).mean()


def adaptive_k(
    scores: Tensor,
    rule: Rule = "ratio_to_max",
    ratio: float = 0.9,
    top: int = 6,
    least: int = 1,
    most: int = 0,
    inside: Tensor | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Adaptive-K pooling: the mean of the K best scores, K found for each photo and class.

    With :math:`z^{(1)} \ge z^{(2)} \ge \dots`: ``ratio_to_max`` :math:`K = \#\{k : z^{(k)} \ge \rho z^{(1)}\}`;
    ``consecutive`` the largest K such that :math:`z^{(k+1)} \ge \rho z^{(k)}` for all :math:`k < K`; ``gap``
    :math:`K = \arg\max_k z^{(k)} - z^{(k+1)}`; ``fixed`` K = top; ``max`` K = 1; ``mean`` K = N. Then K is clamped.

    The first rule needs the maximum, a comparison and a mean; with a lower limit of K also that many best scores.
    Everything is sorted only where K is limited from above.

    Args:
        scores: ``[batch classes patches]``, at least 0.
        ratio: :math:`\rho`.
        least, most: limits of K (``most`` 0: all patches). ``max`` and ``mean`` are not limited.
        inside: ``[batch patches]`` bool, the patches that count, at least one a photo; None: all.
        share: of the first three rules, a lower limit of K as a share of N; ``most`` goes before it.

    Returns:
        The means ``[batch classes]``, with the gradient 1/K at every chosen score and no other; and K.
    """
    assert least >= 1 and (most == 0 or most >= least), (least, most)
    if inside is None:
        inside = torch.ones_like(scores[:, 0], dtype=torch.bool)
    number = inside.sum(1, keepdim=True)  # N, [batch 1]
    z = torch.where(inside[:, None], scores, -1.0)  # padding comes last and is never near the best
    if rule == "max":
        return z.max(2).values, torch.ones_like(number).expand(z.shape[:2])
    if rule == "mean":
        return torch.where(inside[:, None], scores, 0.0).sum(2) / number, number.expand(z.shape[:2])
    low = number.clamp(max=least)
    high = number.clamp(max=most) if most else number
    if rule == "fixed":
        best = z.topk(min(max(top, least), z.shape[2]), 2).values
        return _mean_of_best(best, torch.full_like(number, top).clamp(low, high))
    low = torch.maximum(low, (number.double() * share).ceil().long()).clamp(max=high)
    if rule == "ratio_to_max" and not most:
        return _near_the_best(z, ratio, low, min(max(least, math.ceil(z.shape[2] * share)), z.shape[2]))
    ordered = z.sort(2, descending=True).values
    return _mean_of_best(ordered, _count(ordered.detach(), rule, ratio, number, low, high).clamp(low, high))


def _near_the_best(z: Tensor, ratio: float, low: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
    """Means of the scores within ``ratio`` of the best, or of the ``low`` best, at most ``deepest``, if those are
    more."""
    chosen = z.detach() >= ratio * z.detach().amax(2, keepdim=True)
    count = chosen.sum(2)
    pooled = torch.where(chosen, z, 0.0).sum(2) / count
    if deepest == 1:
        return pooled, count
    few, _ = _mean_of_best(z.topk(deepest, 2).values, low)
    return torch.where(count < low, few, pooled), torch.maximum(count, low)


def _count(ordered: Tensor, rule: Rule, ratio: float, number: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """K of scores in descending order, padding (-1) last, before it is clamped."""
    if rule == "ratio_to_max":
        return (ordered >= ratio * ordered[:, :, :1]).sum(2)
    if rule == "consecutive":
        holds = ordered[:, :, 1:] >= ratio * ordered[:, :, :-1]  # false where padding begins
        return 1 + holds.long().cumprod(2).sum(2)
    assert rule == "gap", rule
    if ordered.shape[2] == 1:
        return torch.ones_like(number).expand(ordered.shape[:2])
    k = torch.arange(1, ordered.shape[2], device=ordered.device)
    allowed = (k >= low) & (k <= high) & (k < number)  # [batch patches-1]
    return 1 + torch.where(allowed[:, None], ordered[:, :, :-1] - ordered[:, :, 1:], -1.0).argmax(2)


def _mean_of_best(ordered: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the first ``count`` of ``[batch classes patches]``."""
    count = count.expand(ordered.shape[:2])
    chosen = torch.arange(ordered.shape[2], device=ordered.device) < count[:, :, None]
    return torch.where(chosen, ordered, 0.0).sum(2) / count, count


def patch_contrast(
    embeddings: Tensor,
    scores: Tensor,
    present: Tensor,
    confidence: float,
    scope: Literal["image", "batch"] = "image",
    inside: Tensor | None = None,
    low_cap: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Patch contrastive loss, exact and without a list of pairs.

    The mean of :math:`\cos` over ordered pairs of unit vectors is a product of sums, so a class costs
    :math:`O(N D)` and not :math:`O(N^2 D)`. Classes without two confident patches have no first term, those without an
    unconfident one no second; they count in the mean.

    Args:
        embeddings: ``[batch channels patches]``; the gradient goes here and nowhere else.
        scores: ``[batch classes patches]``; say which patches are confident, without gradient.
        present: ``[batch classes]`` bool, the classes that have pairs.
        confidence: :math:`\epsilon`.
        inside: ``[batch patches]`` bool, the patches that count; None: all.
        low_cap: at most this many unconfident patches, drawn at random; 0: all.

    Returns:
        The loss, 0 where there is no pair; and the number of confident patches.
    """
    with torch.autocast(embeddings.device.type, enabled=False), torch.no_grad():
        z = scores.float()
        counted = torch.ones_like(z[:, :1], dtype=torch.bool) if inside is None else inside[:, None]
        high = (z > confidence) & counted & present[:, :, None]
        low = (z < 1 - confidence) & counted
        low = low & (present[:, :, None] if scope == "image" else present.any(0)[:, None])
        if low_cap and low.shape[2] > low_cap:
            lot = torch.where(low, torch.rand(low.shape, device=low.device), -1.0)
            low = low & (lot >= lot.topk(low_cap, 2).values[:, :, -1:])
        high, low = high.float(), low.float()
    with torch.autocast(embeddings.device.type, enabled=False):
        length = embeddings.float().norm(dim=1).clamp(min=1e-12)  # [batch patches]
        weights = torch.cat([high, low], 1) / length[:, None]
        sums = weights @ embeddings.float().transpose(1, 2)  # [batch 2*classes channels], of unit vectors
        sum_high, sum_low = sums.chunk(2, 1)
        own = (high * (length.detach() > 1e-12)[:, None]).sum(2)  # squares of unit vectors; a zero vector has none
        count_high, count_low = high.sum(2), low.sum(2)
        if scope == "batch":
            sum_high, sum_low, own = sum_high.sum(0), sum_low.sum(0), own.sum(0)
            count_high, count_low, present = count_high.sum(0), count_low.sum(0), present.any(0)
        pairs = count_high * (count_high - 1)
        together = (sum_high.square().sum(-1) - own) / pairs.clamp(min=1)
        crossed = count_high * count_low
        apart = (sum_high * sum_low).sum(-1) / crossed.clamp(min=1)
        loss = torch.where(pairs > 0, (1 - together) / 2, 0.0) + torch.where(crossed > 0, (1 + apart) / 2, 0.0)
        return loss.sum() / present.sum().clamp(min=1), count_high.sum()


def gate_and_rescale(scores: Tensor, tags: Tensor, inside: Tensor | None = None) -> Tensor:
    """ViT-PCM's merge: absent classes switched off, each map over its maximum, all to add up to one.

    Args:
        scores: ``[batch labels rows columns]``.
        tags: ``[batch labels]``, 1 where the photo shows it.
        inside: ``[batch rows columns]`` bool; other cells take no part and come back zero.
    """
    kept = scores * tags[:, :, None, None]
    if inside is not None:
        kept = kept * inside[:, None]
    best = kept.amax((2, 3), keepdim=True)
    kept = kept / torch.where(best > 0, best, 1.0)
    return kept / kept.sum(1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)


class Refined(NamedTuple):
    """Scores of the labels that photos show, in the order of ``which``, background first."""

    scores: Tensor  # [batch shown height width], adding up to one, or 0 where `which` is a label that is not shown
    which: Tensor  # [batch shown] int64, indices into labels
    whole: Tensor  # [batch height width] bool, False where padding is part of the pixel


@torch.no_grad()
def online_scores(
    scores: Tensor, tags: Tensor, valid: Tensor, size: tuple[int, int], images: Tensor | None = None
) -> Refined:
    """Merged patch scores refined along the photo's edges, only those of labels the photo shows, at the labels'
    resolution.

    Args:
        scores: of :func:`gate_and_rescale`, ``[batch labels rows columns]``.
        tags: ``[batch labels]``.
        valid: ``[batch height width]`` bool, of the view, at any resolution.
        size: (height, width) of the labels.
        images: ``[batch 3 height width]``, normalised or not, for PAR; None: no refinement.
    """
    shown = int(tags.sum(1).max())
    which = tags.sort(dim=1, descending=True, stable=True).indices[:, :shown]  # present ones first, in order
    part = scores.gather(1, which[:, :, None, None].expand(-1, -1, *scores.shape[2:]))
    part = F.interpolate(part, size, mode="bilinear", align_corners=False)
    whole = F.adaptive_avg_pool2d(valid[:, None].float(), size) > 0.999
    part = part * whole
    if images is not None:
        small = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
        part = pixel_adaptive(small, part, ParSettings())
    return Refined(part / part.sum(1, keepdim=True).clamp(min=torch.finfo(part.dtype).tiny), which, whole[:, 0])


def best_labels(refined: Refined, confidence: float) -> Tensor:
    """``[batch height width]`` int64 indices into labels: the best one; IGNORE where its score is below ``confidence``
    or padding is part of the pixel."""
    best, index = refined.scores.max(1)
    labels = refined.which.gather(1, index.flatten(1)).view_as(index)
    return torch.where(refined.whole & (best >= confidence), labels, IGNORE)


def split_labels(refined: Refined, threshold: float, band: float) -> Tensor:
    """``[batch height width]`` int64 indices into labels: the best class above ``threshold * (1 + band)``, background
    below ``threshold * (1 - band)``, IGNORE between and where padding is part of the pixel."""
    best, index = F.pad(refined.scores[:, 1:], (0, 0, 0, 0, 0, 1)).max(1)  # a photo may show no class at all
    classes = F.pad(refined.which[:, 1:], (0, 1)).gather(1, index.flatten(1)).view_as(index)
    labels = torch.where(best < threshold * (1 - band), BACKGROUND, IGNORE)
    return torch.where(refined.whole, torch.where(best > threshold * (1 + band), classes, labels), IGNORE)


def class_histogram(refined: Refined) -> Tensor:
    """``[BINS]`` float32 of the best class score of every pixel, over [0, 1]; each photo adds up to one."""
    best = F.pad(refined.scores[:, 1:], (0, 0, 0, 0, 0, 1)).amax(1)
    share = refined.whole / refined.whole.sum((1, 2), keepdim=True).clamp(min=1)
    return torch.zeros(BINS, device=best.device).index_add_(
        0, (best * BINS).long().clamp(max=BINS - 1).flatten(), share.flatten()
    )


def balanced_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over background pixels and over foreground pixels, the mean of the two (AFA, ToCo).

    Args:
        logits: ``[batch labels rows columns]``, brought to the labels' size.
        labels: ``[batch height width]`` int64; IGNORE takes no part. Of what no pixel shows the part is 0.
    """
    grown = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    each = F.cross_entropy(grown, labels, ignore_index=IGNORE, reduction="none")
    background = labels == BACKGROUND
    foreground = ~background & (labels != IGNORE)
    parts = [(each * of).sum() / of.sum().clamp(min=1) for of in (background, foreground)]
    return (parts[0] + parts[1]) / 2


def mosaic(images: Tensor, maps: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Four photos a picture, each at half the size, transposed and mirrored at random; three in ten are a third of the
    photo, enlarged, in the place of the whole (ViT-PCM: 128 of 384 pixels, to 192).

    One transformation for each quarter serves all pictures; random numbers are torch's.

    Args:
        images: ``[batch 3 height width]``.
        maps: ``[batch labels rows columns]`` over the same photos.
        inside: ``[batch rows columns]`` bool.

    Returns:
        ``[pictures 3 height width]``, the maps moved alike ``[pictures labels rows columns]``, and the cells that
        hold nothing but photo ``[pictures rows columns]`` float32; a quarter as many pictures as photos.
    """
    batch, (height, width), (rows, columns) = len(images), images.shape[2:], maps.shape[2:]
    pictures = -(-batch // 4)
    whole = torch.zeros(pictures, 3, height, width, device=images.device, dtype=images.dtype)
    moved = torch.zeros(pictures, maps.shape[1], rows, columns, device=maps.device, dtype=maps.dtype)
    weight = torch.zeros(pictures, rows, columns, device=maps.device)
    halves = [[(0, -(-n // 2)), (-(-n // 2), n)] for n in (rows, columns)]  # in cells, so that none lies on a seam
    for quarter in range(4):
        (top, bottom), (left, right) = halves[0][quarter // 2], halves[1][quarter % 2]
        if top == bottom or left == right:  # a single row or column of cells
            continue
        y = slice(round(top * height / rows), round(bottom * height / rows))
        x = slice(round(left * width / columns), round(right * width / columns))
        members = (torch.arange(pictures, device=images.device) * 4 + quarter) % batch
        place = _placement().to(images)
        whole[:, :, y, x] = _sampled(images[members], place, (y.stop - y.start, x.stop - x.start))
        cells = (bottom - top, right - left)
        moved[:, :, top:bottom, left:right] = _sampled(maps[members], place, cells)
        covered = _sampled(inside[members][:, None].float(), place, cells)
        weight[:, top:bottom, left:right] = (covered[:, 0] > 0.999).float()
    return whole, moved, weight


def _placement() -> Tensor:
    """A random 2x3 matrix from the quarter's coordinates to the photo's, both from -1 to 1."""
    draw = torch.rand(6)
    side = 1 / 3 if draw[0] < 0.3 else 1.0
    shift = (draw[1:3] * 2 - 1) * (1 - side)
    sign = torch.where(draw[3:5] < 0.5, side, -side)
    axes = torch.diag(sign)
    if draw[5] < 0.5:
        axes = axes.flip(1)
    return torch.cat([axes, shift[:, None]], 1)


def _sampled(x: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """``[batch channels height width]`` through a placement, bilinear."""
    grid = F.affine_grid(place.to(x.dtype).expand(len(x), 2, 3), [len(x), x.shape[1], *size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
