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
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.data.batches import pairs_within
from tag2mask.errors import InputError
from tag2mask.layers.cross_attention import ClassReferences, attend_to_references, co_attend, let_back, stack_references
from tag2mask.layers.tag_loss import tag_loss
from tag2mask.methods.mcis_settings import McisSettings
from tag2mask.types import Batch, Domain, Losses, Reference, Views, masked_mean


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


class Mcis(nn.Module):
    """The method page of mining cross-image semantics.

    Args:
        backbone: any; it learns unless frozen.
        classes: number of foreground classes.
        settings: see :class:`McisSettings`; ``self_pairs`` and ``aggregation`` "gated" are of
            :class:`~tag2mask.methods.mcis_released.ReleasedMcis`.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: McisSettings = McisSettings()) -> None:
        super().__init__()
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

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """:math:`F` and the head's maps of each photo alone (:class:`tag2mask.protocols.ClassMaps`)."""
        features = self.features(views)
        return features, self.head(features)

    def tag_scores(self, batch: Batch) -> Tensor:
        """The mean of the head's maps (:class:`tag2mask.protocols.PredictsTags`)."""
        return masked_mean(self.head(self.features(batch)), batch.valid)

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

    def _split(self, values: Tensor, attended: Tensor) -> tuple[Tensor, Tensor | None]:
        """The maps of what is found again and, from a photo's own values, of what is not."""
        common = attended[:, : self.classes]
        if self.settings.parts != "full":
            return common, None
        own = values[:, : self.classes] * (gate := 1 - attended[:, self.classes :].sigmoid())
        if self.settings.share_head and self.head.bias is not None:  # F is gated, the bias is not
            own = own + let_back(self.head.bias, self.settings.feedback)[:, None, None] * (1 - gate)
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
            rows = [[row for row, kind in enumerate(kinds) if kind == wanted] for wanted in present]
            parts = [times(features[of_kind], kind) for kind, of_kind in zip(present, rows, strict=True)]
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
        terms = {"basic": self._pair_weight * self.basic(scores, batch.valid, batch.labels, batch.domains)}
        pairs = batch.pairs if batch.pairs is not None else pairs_within(batch) if s.pairs else ()
        if not s.pairs or not processes.all_sum(torch.tensor(len(pairs))):
            return Losses(terms)
        photos = self.compared(let_back(features, s.feedback), let_back(scores, s.feedback), batch.valid)
        return Losses(terms | self.pair_terms(batch, pairs, photos, scores, progress))

    def pair_terms(
        self, batch: Batch, pairs: Sequence[tuple[int, int]], photos: Compared, scores: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """The losses of what is, and of what is not, found again.

        Args:
            pairs: none: another process has some, and its own batch none.
            photos: those of the batch.
            scores: the classifier's maps of them, whose gradient reaches it in full.
        """
        counted = len(pairs) > 0
        m, n, kinds = self._in_order(pairs or ((0, 0),), batch.domains)
        maps = self.compare(photos.take(m), photos.take(n), kinds)
        labels_m, labels_n = batch.labels[m], batch.labels[n]
        valid_m, valid_n = batch.valid[m], batch.valid[n]
        common = labels_m * labels_n
        co = [tag_loss(maps.common_m, valid_m, common, counted), tag_loss(maps.common_n, valid_n, common, counted)]
        terms = {"co": self.both(*co)}
        if maps.own_m is not None and maps.own_n is not None and progress >= self.settings.contrast_from:
            sides = ((maps.own_m, valid_m, labels_m - common), (maps.own_n, valid_n, labels_n - common))
            terms["contrast"] = torch.stack([self._contrast(*side, counted) for side in sides]).sum()
        return terms

    def basic(
        self, scores: Tensor, valid: Tensor, labels: Tensor, domains: Sequence[Domain], counted: bool = True
    ) -> Tensor:
        """The classifier's loss of photos whose tags are true, or, from the web, may be."""
        q = self.settings.web_tolerance
        if not q or "web" not in domains:
            return tag_loss(scores, valid, labels, counted)
        means = masked_mean(scores, valid)
        agreed = F.logsigmoid(torch.where(labels > 0, means, -means))  # log p_c
        from_web = torch.tensor([domain == "web" for domain in domains], device=means.device)[:, None]
        return processes.mean(torch.where(from_web, (1 - (q * agreed).exp()) / q, -agreed), counted)

    def _contrast(self, maps: Tensor, valid: Tensor, own: Tensor, counted: bool) -> Tensor:
        """The contrastive loss of one side."""
        skip = self.settings.skip_empty
        if skip == "photo":
            losses = F.multilabel_soft_margin_loss(masked_mean(maps, valid), own, reduction="none")
            return processes.mean(losses * own.any(1), counted)
        loss = tag_loss(maps, valid, own, counted)
        return loss * (processes.all_sum(own.any().float() * counted) > 0) if skip == "batch" else loss

    @property
    def _pair_weight(self) -> float:
        return 2.0 if self.settings.reduction == "sum" else 1.0

    def both(self, of_m: Tensor, of_n: Tensor) -> Tensor:
        """The losses of the two photos of a pair, added or averaged."""
        return self._pair_weight * (of_m + of_n) / 2

    def _in_order(
        self, pairs: Sequence[tuple[int, int]], domains: Sequence[Domain]
    ) -> tuple[list[int], list[int], list[int]]:
        """Rows of m and of n and which W_P: 0 both from the target set, 1 neither, 2 one of them, which is m then."""
        extra = [self.is_extra(domain) for domain in domains] or [False] * (1 + max(map(max, pairs)))
        ordered = [(n, m) if extra[m] and not extra[n] else (m, n) for m, n in pairs]
        return [m for m, _ in ordered], [n for _, n in ordered], [_kind(extra[m], extra[n]) for m, n in ordered]

    def is_extra(self, domain: Domain) -> bool:
        """Whether a photo counts as one from elsewhere."""
        return self.settings.by_domain and domain != "target"

    # --- localization -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare_localization(self, references: Iterable[Reference]) -> None:
        """Keep a feature map a class of each reference, once for all photos to come."""
        by_class: dict[tuple[int, bool], list[tuple[dict[bool, Tensor], Tensor]]] = {}
        for reference in references:
            photo = self.compared(self.features(reference))
            extra = self.is_extra(reference.domain)
            keys = {side: self._keys(photo.features, side, extra) for side in {False, self.settings.by_domain}}
            for label in reference.classes:
                by_class.setdefault((label, extra), []).append((keys, photo.values[0, label].float().flatten()))
        self._references = {}
        for (label, extra), of_class in by_class.items():
            self._references.setdefault(label, {})[extra] = stack_references(of_class)

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
        features = self.features(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            compared = self.traits.references > 0 and self._references is not None
            maps = self._with_references(features, batch.labels, batch.domains) if compared else None
        return self.aggregated(batch, features, maps)

    def aggregated(self, batch: Batch, features: Tensor, references: Tensor | None) -> Tensor:
        """Maps, at least 0, of the signed ones with references (None: there are none)."""
        assert self.settings.aggregation == "mean" or not self.settings.pairs, "ReleasedMcis has the gated sum"
        if references is not None:
            return references.relu()
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()).relu()

    def _with_references(self, features: Tensor, labels: Tensor, domains: Sequence[Domain]) -> Tensor:
        """The mean over the references of :math:`S_{n,k}^{n \\cap r}`, signed, ``[batch classes rows columns]``."""
        assert self._references is not None
        extra = [self.is_extra(domain) for domain in domains] or [False] * len(features)
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


def _kind(extra_m: bool, extra_n: bool) -> int:
    return 2 if extra_m != extra_n else int(extra_m)
