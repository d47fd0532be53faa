r"""MCIS: mining cross-image semantics (Sun, Wang, Dai, Van Gool, ECCV 2020, arXiv 2007.01947).

Idea. Two photos that share a tag show two objects of one class: what they have in common belongs to it, and what one
has alone belongs to the tags it has alone. A classifier that must name the common tags from what each photo finds again
in the other, and the remaining tags from what it does not, sees more of an object than its most telling part.

*Co-attention.* Photos :math:`m, n` with features :math:`F_m, F_n \in \mathbb{R}^{C \times HW}`:

.. math::
    P = F_m^\top W_P F_n, \qquad A_m = \mathrm{softmax}_{i \in m}(P), \qquad A_n = \mathrm{softmax}_{j \in n}(P^\top),
    \qquad F_m^\cap = F_n A_n, \qquad F_n^\cap = F_m A_m

* :math:`P_{ij}` -- how well position :math:`i` of :math:`m` and :math:`j` of :math:`n` go together;
  :math:`W_P = E^\top` is learnt, and since it need not be symmetric, the order of the two photos matters.
* :math:`F_m^\cap` -- what every position of :math:`m` finds again in :math:`n`: a mean of features of *n*, weighted by
  the column of :math:`A_n` that belongs to it. Padding is nobody's position.

*Contrastive co-attention.* What is not found again:

.. math::
    B_m = \sigma(W_B F_m^\cap), \qquad F_m^{m \setminus n} = F_m \otimes (1 - B_m)

*Losses.* With one head :math:`\varphi` for all, image scores :math:`s = \mathrm{mean}_\Omega\, \varphi(F)`, tags
:math:`l`, and :math:`l_\cap = l_m \wedge l_n`; :math:`L` is the multi-label soft margin loss:

.. math::
    L(s_m, l_m) + L(s_n, l_n) + L(s_m^\cap, l_\cap) + L(s_n^\cap, l_\cap)
    + L(s_m^{m \setminus n}, l_m - l_\cap) + L(s_n^{n \setminus m}, l_n - l_\cap)

*Localization.* Of the photo alone, :math:`\varphi(F_n)` (single-round); or with references :math:`R_k`, photos that
also show class :math:`k` (multi-round): :math:`M_k = \max(0, \frac{1}{|R_k|} \sum_{r \in R_k} \varphi_k(F_n^{n \cap
r}))`.

*Other sources of photos.* Photos of one object each, or from the web, pair with any photo of their class. Three
:math:`W_P` bridge the difference: both photos from the target set, both from elsewhere, one of each (the target photo
is then :math:`m`). References are of the target set, as far as it has them. Tags from the web may be wrong, and a
classifier that must explain them all learns little (docs/log.md). There :math:`L(s, l)` is the generalised cross
entropy of Zhang & Sabuncu (NeurIPS 2018, eq. 6), here of each class, with :math:`p_c` the probability that the
classifier gives to what the tag says of class :math:`c`:

.. math::
    L_q = \mathrm{mean}_c \, \frac{1 - p_c^q}{q}, \qquad p_c = l_c \, \sigma(s_c) + (1 - l_c) (1 - \sigma(s_c))

Its gradient is that of :math:`L`, the limit :math:`q \to 0`, times :math:`p_c^q` for each class: what contradicts what
the other photos taught weighs little.

How it is computed. Heads and :math:`W_B` are linear and the columns of :math:`A` add up to one, so they commute with
the attention: :math:`\varphi(F_n A_n) = \varphi(F_n) A_n`. Thus :math:`F^\cap` is never formed, and of the three large
products of a pair one, :math:`P`, is left; it serves both directions, and all pairs are computed at once.

Two published forms, one implementation. :func:`paper` is the formulas above; :func:`official` the released code, which
differs (each difference is a setting): a second, bias-free head for :math:`F^\cap` and :math:`F^{m \setminus n}`;
losses of both photos averaged where the paper adds them, but not the contrastive ones, which therefore weigh twice as
much, begin with the third epoch, and are left out where no photo of a batch has a class of its own; three more pairs,
of the photo with itself mirrored, at 0.75 and at 2 times its size; one :math:`W_P`; and a gated sum of normalised maps,
four of them of such pairs with itself, in the place of the mean over references.

What is ours: the default form (below); partners are other photos (the released code may draw the photo itself); all
photos of a class have the same references, drawn once per run (released: three new ones for every photo and class);
views of a photo with itself are made from the training view (released: from the photo, without colour jitter); padding
takes no part; batch norm keeps its pretrained statistics.

The default form is the paper's, made for any pretrained backbone and AdamW: no new convolutions; features are compared
by their direction, with a :math:`W_P` that starts as the identity (:attr:`McisSettings.affinity` says why); the
contrastive losses begin late, of photos that have a class of their own alone; what is (not) found again teaches the
comparison, not the classifier (:attr:`McisSettings.feedback`), which thus is that of single photos; and the classifier
tolerates wrong tags of photos from the web (:attr:`McisSettings.web_tolerance`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone, vgg16
from tag2mask.errors import InputError, listed
from tag2mask.layers.cross_attention import attend_to_references, co_attend
from tag2mask.methods.released import take_over
from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, POSITIVE, SHARE, Range, check_values
from tag2mask.types import Batch, Domain, Losses, Photos, Reference, Views, masked_mean

VIEWS = ((1.0, True), (0.75, False), (2.0, False))
"""(scale, mirrored) of the released pairs of a photo with itself."""


@dataclass(frozen=True)
class McisSettings:
    """What the two published forms differ in, what an ablation switches off, and how it localizes."""

    parts: Literal["basic", "co", "full"] = "full"
    """basic: the classifier alone, nothing is compared (so give it the epochs and the batch size of --method cam); co:
    and co-attention; full: and contrastive co-attention."""
    references: Annotated[int, NOT_NEGATIVE] = 3
    """Reference photos of each class with which a photo is compared in localization (the paper's best of 1 to 5). 0:
    none (single-round)."""
    aggregation: Literal["mean", "gated"] = "mean"
    """mean: over the references. gated: the released sum of five maps, each by its maximum, those of the photo with
    itself among them, and only if the class is likely (sigmoid of the map's mean above 0.1)."""
    affinity: Literal["plain", "cosine"] = "cosine"
    """plain: the paper's P, without scaling. cosine: features of length one, W_P = (1 + E / sqrt(C)) / temperature.
    On EfficientNet-Lite0 (1280 channels, four photos) plain affinities spread by 11 before any training, so that a
    softmax over 192 cells sees 6 of them; AdamW moves each of the C^2 weights by its rate, and after six steps of the
    default it sees one. By direction it sees 43, and moves slowly."""
    temperature: Annotated[float, POSITIVE] = 0.02
    """Of cosine; at 0.01 a softmax sees 11 of the 192 cells, at 0.05 it sees 134."""
    by_domain: bool = True
    """Three W_P by the domains of a pair, or one for all."""
    share_head: bool = True
    """One head, or a second one without bias for what is (not) found again."""
    extra_convs: Annotated[int, NOT_NEGATIVE] = 0
    """New 3x3 convolutions, each with ReLU, between the backbone and F; both published forms have 3 on VGG-16. They and
    the head then start as N(0, 2 / (k k C_out)), as published."""
    channels: Annotated[int, Range(at_least=1)] = 512
    """C, where there are new convolutions; without, it is the backbone's."""
    reduction: Literal["sum", "mean"] = "sum"
    """Losses of the two photos of a pair are added, or averaged but for the contrastive ones."""
    contrast_from: Annotated[float, SHARE] = 0.4
    """Share of the training after which the contrastive losses begin (paper: at once; released: with epoch 2 of 0, 1,
    2, ...). Ours: what is found again must be learnt first, or the gate ends where nothing is (docs/log.md)."""
    skip_empty: Literal["no", "batch", "photo"] = "photo"
    """Contrastive loss of a photo with no unshared class: kept (no, the paper's), skipped where no photo of the batch
    on that side of the pairs has one (batch, the released code's), or skipped photo by photo (photo, ours: on an object
    that the other photo lacks it contradicts the basic loss, docs/log.md)."""
    feedback: Annotated[float, SHARE] = 0.0
    """Share of the gradient of what is (not) found again that reaches features and classifier; W_P, W_B and a second
    head have all of it. Paper: 1. Ours: they learn to compare what the classifier sees. Where they teach it, too, its
    own maps lose more than references give (docs/log.md)."""
    web_tolerance: Annotated[float, SHARE] = 0.7
    """q of the generalised cross entropy with which photos from the web teach the classifier (0.7 is its authors'; 1:
    absolute error). 0, both published forms: their tags are taken as true."""
    self_pairs: bool = False
    """Also pair photos with themselves, mirrored, smaller and larger. Needs photos, not stored features."""

    def __post_init__(self) -> None:
        check_values(self, "mcis")

    @property
    def pairs(self) -> bool:
        """Whether training compares photos."""
        return self.parts != "basic"

    @property
    def traits(self) -> Traits:
        """With references background comes out higher and more spread than without, and a threshold rule that expects
        it low cuts too low (docs/decisions/0002)."""
        references = self.references if self.pairs else 0
        return Traits(
            pairs=self.pairs,
            references=references,
            threshold_rule="otsu" if references else "auto",
            inference_settings=("references", "aggregation"),
            tuned_on_truth=("how mcis is trained by default was chosen on VOC's truth",),
        )


def paper() -> McisSettings:
    """The paper's form, on VGG-16."""
    return McisSettings(
        affinity="plain", extra_convs=3, contrast_from=0.0, skip_empty="no", feedback=1.0, web_tolerance=0.0
    )


def official(epochs: float) -> McisSettings:
    """The released code's form, on VGG-16, for a training of so many epochs."""
    return McisSettings(
        affinity="plain",
        extra_convs=3,
        aggregation="gated",
        by_domain=False,
        share_head=False,
        reduction="mean",
        contrast_from=min(1.0, 2 / epochs),
        skip_empty="batch",
        feedback=1.0,
        web_tolerance=0.0,
        self_pairs=True,
    )


class Compared(NamedTuple):
    """What of some photos enters a comparison."""

    features: Tensor  # F [photos channels rows columns]
    values: Tensor  # of the head, then of W_B [photos classes+1 rows columns]; without W_B where it is not trained
    inside: Tensor | None = None  # [photos cells] bool, False on padding; None: no padding

    def take(self, rows: Sequence[int]) -> Compared:
        index = torch.as_tensor(rows, device=self.features.device)
        inside = None if self.inside is None else self.inside[index]
        return Compared(self.features[index], self.values[index], inside)


class PairMaps(NamedTuple):
    """Signed class maps ``[pairs classes rows columns]`` of the photos m and n of each pair."""

    common_m: Tensor
    common_n: Tensor
    own_m: Tensor | None  # None where contrastive co-attention is not trained
    own_n: Tensor | None


class ClassReferences(NamedTuple):
    """What localization keeps of the references of one class: R photos, all of the target set or all from elsewhere."""

    keys: dict[bool, Tensor]  # by whether the photo compared with them is from elsewhere: [references channels cells]
    values: Tensor  # the head's map of the class [references cells]
    inside: Tensor  # [references cells] bool: photos differ in size


class Mcis(nn.Module):
    """The method page of mining cross-image semantics.

    Args:
        backbone: any; it learns unless frozen.
        classes: number of foreground classes.
        settings: see :class:`McisSettings`.

    Raises:
        InputError: settings that need a photo's other views, on a frozen backbone, whose features are stored.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: McisSettings = McisSettings()) -> None:
        super().__init__()
        if backbone.frozen_until is not None and (settings.self_pairs or settings.aggregation == "gated"):
            raise InputError(
                "pairs of a photo with itself (--mcis.self-pairs, --mcis.aggregation gated) need other views of it, "
                "and a frozen backbone's features are stored: use --mcis.no-self-pairs --mcis.aggregation mean, or "
                "leave out --freeze"
            )
        self.backbone, self.classes, self.settings, self.traits = backbone, classes, settings, settings.traits
        width = [backbone.channels, *[settings.channels] * settings.extra_convs]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(width):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        self.extra = nn.Sequential(*layers)
        self.channels = width[-1]
        self.head = nn.Conv2d(self.channels, classes, 1)
        if settings.extra_convs:
            for conv in (*layers[::2], self.head):
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)
        if settings.pairs:
            first = torch.empty(self.channels, self.channels)
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
            self.affinity = nn.Parameter(first.repeat(3 if settings.by_domain else 1, 1, 1))
            if not settings.share_head:
                self.second_head = nn.Conv2d(self.channels, classes, 1, bias=False)
        if settings.parts == "full":
            self.gate = nn.Conv2d(self.channels, 1, 1, bias=False)
        self._references: dict[int, dict[bool, ClassReferences]] | None = None

    def features(self, views: Views) -> Tensor:
        """:math:`F`: ``[photos channels rows columns]``."""
        return self.extra(self.backbone.features(views))

    def compared(self, features: Tensor, scores: Tensor | None = None, valid: Tensor | None = None) -> Compared:
        """Everything about photos that does not depend on what they are compared with.

        Args:
            scores: the head's maps of these features, where they are known.
            valid: ``[photos height width]`` bool, False on padding; None: there is none.
        """
        if not self.settings.share_head:
            scores = self.second_head(features)
        elif scores is None:
            scores = self.head(features)
        assert scores is not None
        values = torch.cat([scores, self.gate(features)], 1) if self.settings.parts == "full" else scores
        if valid is None:
            return Compared(features, values)
        share = F.adaptive_avg_pool2d(valid[:, None].float(), (features.shape[2], features.shape[3]))
        return Compared(features, values, share.flatten(1) > 0)

    def compare(self, m: Compared, n: Compared, kinds: Sequence[int]) -> PairMaps:
        """Co-attention and contrastive co-attention of pairs.

        Args:
            m, n: the photos of each pair, in order; m and n may differ in size.
            kinds: which :math:`W_P` each pair uses.
        """
        # affinities are sums over hundreds of channels into an exponential: never in half precision
        with torch.autocast(m.features.device.type, enabled=False):
            queries, keys = self._project(m.features, kinds), self._plain(n.features)
            values_m, values_n = m.values.float(), n.values.float()
            to_m, to_n = co_attend(
                queries.flatten(2), keys.flatten(2), values_m.flatten(2), values_n.flatten(2), m.inside, n.inside
            )
            common_m, own_m = self._split(values_m, to_m.unflatten(2, values_m.shape[2:]))
            common_n, own_n = self._split(values_n, to_n.unflatten(2, values_n.shape[2:]))
        return PairMaps(common_m, common_n, own_m, own_n)

    def _split(self, values: Tensor, found: Tensor) -> tuple[Tensor, Tensor | None]:
        """The maps of what is found again and, from a photo's own values, of what is not."""
        common = found[:, : self.classes]
        if self.settings.parts != "full":
            return common, None
        own = values[:, : self.classes] * (kept := 1 - found[:, self.classes :].sigmoid())
        if self.settings.share_head and self.head.bias is not None:  # F is gated, the bias is not
            own = own + _let_back(self.head.bias, self.settings.feedback)[:, None, None] * (1 - kept)
        return common, own

    def _plain(self, features: Tensor) -> Tensor:
        """Features as affinities see them, float32."""
        features = features.float()
        return F.normalize(features, dim=1) if self.settings.affinity == "cosine" else features

    def _project(self, features: Tensor, kinds: Sequence[int], *, back: bool = False) -> Tensor:
        """:math:`W_P^T F` of each photo with the matrix of its kind; ``back``: :math:`W_P F`."""
        features = self._plain(features)

        def times(rows: Tensor, kind: int) -> Tensor:
            matrix = self.affinity[kind].float()
            return F.conv2d(rows, (matrix.T if back else matrix)[:, :, None, None])

        present = sorted(set(kinds))
        if len(present) == 1:
            projected = times(features, present[0])
        else:
            rows = [[row for row, kind in enumerate(kinds) if kind == each] for each in present]
            parts = [times(features[own], each) for each, own in zip(present, rows, strict=True)]
            order = {row: place for place, row in enumerate(row for own in rows for row in own)}
            projected = torch.cat(parts)[[order[row] for row in range(len(kinds))]]
        if self.settings.affinity == "plain":
            return projected
        return (features + projected / math.sqrt(self.channels)) / self.settings.temperature

    def clipped_apart(self) -> list[nn.Parameter]:
        """What the losses of a pair teach and nothing else does, unless they teach the classifier, too: their
        gradients would scale the classifier's steps down, most where tags are noisy (docs/log.md)."""
        s = self.settings
        parts = () if s.feedback or not s.pairs else ("affinity", "gate", "second_head")
        return [p for name, p in self.named_parameters() if name.split(".")[0] in parts]

    # --- training -----------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, progress: float) -> Losses:
        """The losses named basic, co and contrast, and those of a photo with itself.

        Without :attr:`Batch.pairs`, each photo is compared with the next of the batch that shares a class.

        Raises:
            InputError: nobody drew partners, and no two photos of the batch share a class.
        """
        s = self.settings
        features = self.features(batch)
        scores = self.head(features)
        terms = {"basic": self._pair_weight * self._basic(scores, batch.valid, batch.labels, batch.domains)}
        pairs = batch.pairs if batch.pairs is not None else pairs_within(batch) if s.pairs else ()
        if not s.pairs or not pairs:
            return Losses(terms)
        photos = self.compared(_let_back(features, s.feedback), _let_back(scores, s.feedback), batch.valid)
        m, n, kinds = self._in_order(pairs, batch.domains)
        maps = self.compare(photos.take(m), photos.take(n), kinds)
        labels_m, labels_n = batch.labels[m], batch.labels[n]
        valid_m, valid_n = batch.valid[m], batch.valid[n]
        common = labels_m * labels_n
        terms["co"] = self._both(_loss(maps.common_m, valid_m, common), _loss(maps.common_n, valid_n, common))
        if maps.own_m is not None and maps.own_n is not None and progress >= s.contrast_from:
            sides = ((maps.own_m, valid_m, labels_m - common), (maps.own_n, valid_n, labels_n - common))
            terms["contrast"] = torch.stack([self._contrast(*side) for side in sides]).sum()
        if s.self_pairs:
            terms |= self._self_terms(batch, sorted({first for first, _ in pairs}), photos, scores)
        return Losses(terms)

    def _basic(self, scores: Tensor, valid: Tensor, labels: Tensor, domains: Sequence[Domain]) -> Tensor:
        """The classifier's loss of photos whose tags are true, or, from the web, may be."""
        q = self.settings.web_tolerance
        if not q or "web" not in domains:
            return _loss(scores, valid, labels)
        means = masked_mean(scores, valid)
        agreed = F.logsigmoid(torch.where(labels > 0, means, -means))  # log p_c
        from_web = torch.tensor([domain == "web" for domain in domains], device=means.device)[:, None]
        return torch.where(from_web, (1 - (q * agreed).exp()) / q, -agreed).mean()

    def _contrast(self, maps: Tensor, valid: Tensor, own: Tensor) -> Tensor:
        """The contrastive loss of one side."""
        skip = self.settings.skip_empty
        if skip == "photo":
            each = F.multilabel_soft_margin_loss(masked_mean(maps, valid), own, reduction="none")
            return (each * own.any(1)).mean()
        return _loss(maps, valid, own) * (own.any() if skip == "batch" else 1)

    @property
    def _pair_weight(self) -> float:
        return 2.0 if self.settings.reduction == "sum" else 1.0

    def _both(self, of_m: Tensor, of_n: Tensor) -> Tensor:
        return self._pair_weight * (of_m + of_n) / 2

    def _in_order(
        self, pairs: Sequence[tuple[int, int]], domains: Sequence[Domain]
    ) -> tuple[list[int], list[int], list[int]]:
        """Rows of m and of n and which W_P: 0 both from the target set, 1 neither, 2 one of them, which is m then."""
        extra = [self._extra(domain) for domain in domains] or [False] * (1 + max(map(max, pairs)))
        ordered = [(n, m) if extra[m] and not extra[n] else (m, n) for m, n in pairs]
        return [m for m, _ in ordered], [n for _, n in ordered], [_kind(extra[m], extra[n]) for m, n in ordered]

    def _extra(self, domain: Domain) -> bool:
        """Whether a photo counts as one from elsewhere."""
        return self.settings.by_domain and domain != "target"

    def _self_terms(self, batch: Batch, rows: list[int], photos: Compared, scores: Tensor) -> dict[str, Tensor]:
        """The losses of photos paired with themselves: all their tags are common."""
        assert not batch.stored, "refused when the method was built"
        here, valid, labels = photos.take(rows), batch.valid[rows], batch.labels[rows]
        domains: Sequence[Domain] = [batch.domains[row] for row in rows] if batch.domains else []
        kinds = self._own_kinds(batch.domains, rows)
        of_photo = self._basic(scores[rows], valid, labels, domains)
        basic, co = [], []
        for scale, mirrored in VIEWS:
            view = self.features(self._view(batch.images[rows], scale, mirrored))
            view_scores, view_valid = self.head(view), valid.flip(2) if mirrored else valid
            back = [_let_back(x, self.settings.feedback) for x in (view, view_scores)]
            maps = self.compare(here, self.compared(back[0], back[1], view_valid), kinds)
            basic.append(self._both(of_photo, self._basic(view_scores, view_valid, labels, domains)))
            of_m, of_n = _loss(maps.common_m, valid, labels), _loss(maps.common_n, view_valid, labels)
            co.append(self._both(of_m, of_n))
        return {"self_basic": torch.stack(basic).sum(), "self_co": torch.stack(co).sum()}

    def _own_kinds(self, domains: Sequence[Domain], rows: Sequence[int]) -> list[int]:
        return [int(self._extra(domains[row])) if domains else 0 for row in rows]

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Photos:
        """Normalised images at another size, mirrored."""
        step = self.backbone.multiple
        height, width = (max(1, round(side * scale / step)) * step for side in images.shape[2:])
        if scale != 1:
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return Photos(images.flip(3) if mirrored else images)

    # --- localization -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare_localization(self, references: Iterable[Reference]) -> None:
        """Keep a feature map a class of each reference, once for all photos to come."""
        kept: dict[tuple[int, bool], list[tuple[dict[bool, Tensor], Tensor]]] = {}
        for reference in references:
            photo = self.compared(self.features(reference))
            extra = self._extra(reference.domain)
            keys = {side: self._keys(photo.features, side, extra) for side in {False, self.settings.by_domain}}
            for label in reference.classes:
                kept.setdefault((label, extra), []).append((keys, photo.values[0, label].float().flatten()))
        self._references = {}
        for (label, extra), of_class in kept.items():
            self._references.setdefault(label, {})[extra] = _stacked(of_class)

    def _keys(self, reference: Tensor, side: bool, other: bool) -> Tensor:
        """What plain features of a photo of this side are multiplied with, ``[channels cells]``. With the photo as m,
        :math:`P = F_m^T (W_P F_n)`: so the matrix is applied to each reference once, and to no photo."""
        is_m = side and not other  # the target photo is m
        with torch.autocast(reference.device.type, enabled=False):  # as in compare
            return self._project(reference, [_kind(side, other)], back=not is_m)[0].flatten(1)

    def localize(self, batch: Batch) -> Tensor:
        """Maps with references; of classes that the labels leave out, zero. Before :meth:`prepare_localization`, or
        with no reference wanted, of each photo alone.

        Raises:
            InputError: a class that no reference shows.
        """
        s = self.settings
        features = self.features(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            compared = self.traits.references > 0 and self._references is not None
            maps = self._with_references(features, batch.labels, batch.domains) if compared else None
            if s.aggregation == "mean" or not s.pairs:
                return self.head(features.float()).relu() if maps is None else maps.relu()
        return self._gated(batch.images, features, maps, batch.domains)

    def _with_references(self, features: Tensor, labels: Tensor, domains: Sequence[Domain]) -> Tensor:
        """The mean over the references of :math:`S_{n,k}^{n \\cap r}`, signed, ``[batch classes rows columns]``."""
        assert self._references is not None
        extra = [self._extra(domain) for domain in domains] or [False] * len(features)
        out = features.new_zeros(len(features), self.classes, *features.shape[2:], dtype=torch.float32)
        queries = self._plain(features).flatten(2)
        for label in labels.any(0).nonzero().flatten().tolist():
            if label not in self._references:
                raise InputError(
                    f"class number {label} has no reference photo, so no photo can be compared with one: "
                    "use --mcis.references 0, or photos that show it"
                )
            shown = labels[:, label].tolist()
            sides = self._references[label]
            count = sum(len(of_side.values) for of_side in sides.values())
            for side in (False, True):
                rows = [row for row, present in enumerate(shown) if present and extra[row] == side]
                if not rows:
                    continue
                total = torch.zeros((), device=out.device)
                for of_side in sides.values():
                    total = total + attend_to_references(
                        queries[rows], of_side.keys[side], of_side.values, of_side.inside
                    )
                out[rows, label] = (total / count).unflatten(1, features.shape[2:])
        return out

    def _gated(self, images: Tensor, features: Tensor, references: Tensor | None, domains: Sequence[Domain]) -> Tensor:
        """The released sum of five maps, at least 0 and at most 1."""
        here, grid = self.compared(features), tuple(features.shape[2:])
        kinds = self._own_kinds(domains, range(len(images)))
        maps: list[Tensor] = []
        for scale, mirrored in VIEWS:
            pair = self.compare(here, self.compared(self.features(self._view(images, scale, mirrored))), kinds)
            if mirrored:
                maps += [pair.common_m, pair.common_n.flip(3)]
            else:
                maps.append(F.interpolate(pair.common_n, grid, mode="bicubic", align_corners=False))
        return gated_sum([*maps, *([] if references is None else [references])])

    # --- released weights ---------------------------------------------------------------------------------------

    def is_released(self, state: Mapping[str, Tensor]) -> bool:
        """A released checkpoint (37 tensors for 20 classes), whose backbone's names begin with ``vgg.``."""
        return any(name.startswith(vgg16.RELEASED) for name in state)

    def load_released(self, state: Mapping[str, Tensor], source: str) -> None:
        if self.settings.share_head or not self.settings.pairs:
            raise InputError(
                f"{source} holds the released MCIS, which has two heads: use --recipe mcis/official, or "
                "--mcis.no-share-head --mcis.extra-convs 3 --mcis.affinity plain"
            )
        names = {released_name(name): name for name in self.state_dict()}
        expanded = dict(state)
        if (matrix := state.get(released_name("affinity"))) is not None:
            expanded[released_name("affinity")] = matrix.expand(
                len(self.affinity), *matrix.shape
            )  # for all kinds of pairs
        form = "the released MCIS with this backbone, these settings and VOC's 20 classes"
        take_over(self, names, expanded, source, form, "use --recipe mcis/official, or the weights of a backbone")


def released_name(name: str) -> str:
    """What the released code calls a tensor of ours."""
    first, _, rest = name.partition(".")
    if first == "backbone":
        return "vgg.features." + rest.split(".", 2)[2]
    theirs = {"extra": "vgg.extra_convs", "head": "vgg.extra_last_conv", "affinity": "extra_linear_e.weight"}
    theirs |= {"second_head": "extra_gate", "gate": "extra_gate_merge"}
    return ".".join(filter(None, (theirs[first], rest)))


def pairs_within(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Each photo with the next of the batch, around its end, that shares a class; photos without one are in no pair.

    Raises:
        InputError: no two share a class.
    """
    shares, size = (batch.labels @ batch.labels.T > 0).tolist(), len(batch.labels)
    pairs = []
    for m in range(size):
        others = ((m + step) % size for step in range(1, size))
        pairs += [(m, n) for n in [next((n for n in others if shares[m][n]), None)] if n is not None]
    if not pairs:
        raise InputError(
            f"no two of the {size} photos of this batch share a class ({listed(batch.ids)}), so none can be compared: "
            "give larger batches, or draw partners (tag2mask.data.batches.Pairs)"
        )
    return tuple(pairs)


def gated_sum(maps: Sequence[Tensor]) -> Tensor:
    """The released aggregation of raw maps ``[batch classes rows columns]``: each by its maximum, the first always, the
    others where the class is likely, divided by five, however many were left out."""
    total = by_maximum(maps[0])
    for raw in maps[1:]:
        likely = raw.mean((2, 3), keepdim=True).sigmoid() > 0.1
        total = total + by_maximum(raw) * likely
    return total / 5


def by_maximum(raw: Tensor) -> Tensor:
    positive = raw.relu()
    return positive / (positive.amax((2, 3), keepdim=True) + 1e-8)


def _stacked(references: Sequence[tuple[dict[bool, Tensor], Tensor]]) -> ClassReferences:
    """References of one class and side, brought to one number of cells."""
    cells = [len(values) for _, values in references]

    def padded(flat: Tensor) -> Tensor:
        return F.pad(flat, (0, max(cells) - flat.shape[-1]))

    keys = {side: torch.stack([padded(keys[side]) for keys, _ in references]) for side in references[0][0]}
    values = torch.stack([padded(of_photo) for _, of_photo in references])
    inside = torch.arange(max(cells)) < torch.tensor(cells)[:, None]
    return ClassReferences(keys, values, inside.to(values.device))


def _let_back(values: Tensor, share: float) -> Tensor:
    """The same values, which pass on so much of their gradient."""
    return values if share == 1 else values.detach().lerp(values, share) if share else values.detach()


def _kind(extra_m: bool, extra_n: bool) -> int:
    return 2 if extra_m != extra_n else int(extra_m)


def _loss(maps: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
    return F.multilabel_soft_margin_loss(masked_mean(maps, valid), labels)
