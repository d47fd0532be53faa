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

Ours, settings that the recipes at paper scale leave out: K is at least an eighth of the patches (``min_share``), and
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
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.layers.adaptive_pooling import adaptive_k
from tag2mask.layers.bilstm import HvBiLstm
from tag2mask.layers.mosaic import mosaic
from tag2mask.layers.online_labels import (
    BINS,
    balanced_loss,
    best_labels,
    cells_inside,
    class_histogram,
    gate_and_rescale,
    online_scores,
    split_labels,
)
from tag2mask.layers.patch_contrast import ConfidenceMonitor, patch_contrast
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.pseudo import between_threshold
from tag2mask.segment.deeplab import weigh_classes
from tag2mask.types import BACKGROUND, Batch, Losses, Photos, Views

log = logging.getLogger("tag2mask")

MEMORY = 0.98  # of it, a batch: the last fifty count


def build(backbone: Backbone, classes: int, settings: ApcSettings = ApcSettings()) -> Apc:
    """The method of these settings; a single-stage one is a :class:`tag2mask.protocols.Segmenter` too."""
    return (ApcSegmenter if settings.single_stage else Apc)(backbone, classes, settings)


class Forward(NamedTuple):
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
        self.backbone, self.settings, self.traits = backbone, settings, settings.traits
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
        self._monitor = ConfidenceMonitor(settings.confidence)
        self._warned_of_stored = False

    def patch_scores(self, embeddings: Tensor) -> Tensor:
        """:math:`Z`: embeddings to ``[batch 1+classes rows columns]`` float32 which add up to one, background first."""
        with torch.autocast(embeddings.device.type, enabled=False):  # ratios of scores are finer than bfloat16
            return self.classifier(self.dropout(embeddings.float())).softmax(1)

    def pool(self, scores: Tensor, inside: Tensor, tags: Tensor | None = None) -> Tensor:
        r""":math:`\hat y`: patch scores to the photo's, ``[batch 1+classes]``."""
        s = self.settings
        flat, among = scores.flatten(2), inside.flatten(1)
        pooled, _ = adaptive_k(flat, s.pooling, s.ratio, s.top, s.min_patches, s.max_patches, among, s.min_share)
        if s.absent == "akp" or tags is None:
            return pooled
        best, _ = adaptive_k(flat, "max", inside=among)
        return torch.where(tags > 0, pooled, best)

    def _features(self, views: Views, progress: float) -> Tensor:
        """The backbone's, without gradient while the new layers learn alone."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and progress >= self.settings.heads_first):
            return self.backbone.features(views)

    def forward_batch(self, batch: Batch, progress: float) -> Forward:
        """One forward."""
        if batch.stored and not self._warned_of_stored:
            self._warned_of_stored = True
            log.info("apc: stored features hold no photo: online labels are not refined, and there is no equivariance")
        features = self._features(batch, progress)
        embeddings = self.context(features)
        scores = self.patch_scores(embeddings)
        inside = cells_inside(batch.valid, (scores.shape[2], scores.shape[3]))
        tags = with_background(batch.labels)
        return Forward(features, embeddings, scores, inside, tags, self.pool(scores, inside, tags))

    def losses(self, batch: Batch, progress: float) -> Losses:
        return Losses(self.terms(batch, self.forward_batch(batch, progress), progress))

    def terms(self, batch: Batch, forward: Forward, progress: float) -> dict[str, Tensor]:
        """The losses of the patch classes."""
        s = self.settings
        terms = {"classification": tag_loss(forward.pooled, forward.tags)}
        if s.contrast:
            of = forward.embeddings if s.contrast_on == "classifier" else forward.features
            present = forward.tags > 0
            if not s.contrast_background:
                present = present & (torch.arange(present.shape[1], device=present.device) != BACKGROUND)
            loss, confident = patch_contrast(
                of.flatten(2),
                forward.scores.flatten(2),
                present,
                s.confidence,
                s.scope,
                forward.inside.flatten(1),
                s.low_cap,
            )
            terms["contrast"] = s.contrast * loss
            if self.training:
                self._monitor.count(batch.ids, confident)
        if s.weight_penalty:
            terms["weight_penalty"] = s.weight_penalty * self.classifier.weight.float().square().sum()
        if s.equivariance and not batch.stored:
            terms["equivariance"] = s.equivariance * self._equivariance(batch, forward, progress)
        return terms

    def _equivariance(self, batch: Batch, forward: Forward, progress: float) -> Tensor:
        """Cross entropy of the mosaic's patch classes against those of the whole photos, moved likewise; no gradient
        to the latter."""
        with torch.no_grad():
            wanted = gate_and_rescale(forward.scores, forward.tags, forward.inside)
            images, wanted, weight = mosaic(batch.images, wanted, forward.inside)
        scores = self.patch_scores(self.context(self._features(Photos(images), progress)))
        loss = -(wanted * scores.clamp(min=1e-7).log()).sum(1)
        return processes.ratio((loss * weight).sum(), weight.sum())

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """Embeddings, and patch classes without background's (:class:`tag2mask.protocols.ClassMaps`)."""
        embeddings = self.context(self.backbone.features(views))
        return embeddings, self.patch_scores(embeddings)[:, 1:]

    def tag_scores(self, batch: Batch) -> Tensor:
        """:math:`\\hat y` of the classes, pooled without tags (:class:`tag2mask.protocols.PredictsTags`)."""
        scores = self.patch_scores(self.context(self.backbone.features(batch)))
        return self.pool(scores, cells_inside(batch.valid, (scores.shape[2], scores.shape[3])))[:, 1:]

    def localize(self, batch: Batch) -> Tensor:
        """Patch classes gated by the tags, background taken into account and left out."""
        scores = self.patch_scores(self.context(self.backbone.features(batch)))
        inside = cells_inside(batch.valid, (scores.shape[2], scores.shape[3]))
        return gate_and_rescale(scores, with_background(batch.labels), inside)[:, 1:]

    def train(self, mode: bool = True) -> Apc:
        """Leaving training ends the epoch that :class:`ConfidenceMonitor` counts."""
        super().train(mode)
        if not mode:
            self._monitor.end()
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
        forward = self.forward_batch(batch, progress)
        terms = self.terms(batch, forward, progress)
        if progress >= s.segmentation_from:
            shown = forward.pooled if s.absent == "akp" else self.pool(forward.scores, forward.inside)  # no tags
            logits = self._decode(forward.features, shown.detach())
            terms["segmentation"] = s.segmentation * balanced_loss(logits, self.labels(batch, forward))
        return Losses(terms)

    def labels(self, batch: Batch, forward: Forward) -> Tensor:
        """The online labels of a batch, ``[batch height width]`` at ``label_stride`` (stored features: at cells). In
        training, their scores are remembered for the threshold."""
        s = self.settings
        images = None if batch.stored else batch.images
        size = (forward.scores.shape[2], forward.scores.shape[3])
        if images is not None:
            size = (max(1, images.shape[2] // s.label_stride), max(1, images.shape[3] // s.label_stride))
        wanted = gate_and_rescale(forward.scores.detach(), forward.tags, forward.inside)
        pixels = images if s.refine == "par" else None
        scores = online_scores(wanted, forward.tags, batch.valid, size, pixels)
        if s.label_rule == "best":
            return best_labels(scores, s.label_confidence)
        histogram = MEMORY * self.histogram + class_histogram(scores)
        if self.training:
            self.histogram.copy_(histogram)
        return split_labels(scores, between_threshold(histogram.double().cpu().numpy()), s.label_band)

    def _decode(self, features: Tensor, pooled: Tensor) -> Tensor:
        logits = self.decoder(features).float()
        if not self.settings.presence:
            return logits
        return weigh_classes(logits, pooled[:, 1:].clamp(min=1e-7).log())

    def segment(self, views: Views) -> Tensor:
        """Logits ``[batch 1+classes rows columns]`` at feature stride, background first. No tags are used."""
        features = self.backbone.features(views)
        if not self.settings.presence:
            return self._decode(features, features)
        scores = self.patch_scores(self.context(features))
        inside = torch.ones_like(scores[:, 0], dtype=torch.bool)
        if views.valid is not None:
            inside = cells_inside(views.valid, (scores.shape[2], scores.shape[3]))
        return self._decode(features, self.pool(scores, inside))


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


def with_background(labels: Tensor) -> Tensor:
    """``[batch classes]`` to ``[batch 1+classes]`` float32: every photo shows background."""
    return F.pad(labels.float(), (1, 0), value=1.0)


def tag_loss(pooled: Tensor, tags: Tensor) -> Tensor:
    """Mean over photos and channels of the binary cross entropy of probabilities ``[batch 1+classes]``."""
    p = pooled.float().clamp(1e-7, 1 - 1e-7)
    return -(tags * p.log() + (1 - tags) * (1 - p).log()).mean()
