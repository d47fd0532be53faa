r"""PPL: progressive patch learning (Li, Jie, Wang, Zhou, Wei, Ma, IEEE TMM 2022, arXiv 2209.07828).

Idea. A classifier needs only the most telling part of an object. Cut the feature map into patches that cannot see
each other, and each part must be recognised by what it shows itself: weak evidence counts. Cutting early confines many
layers to a patch (fine locality), cutting late only few; going from early to late cuts trains one model on all of
them.

.. math::
    F_i = f_i \circ \dots \circ f_1(I), \qquad G_i = f_N \circ \dots \circ f_{i+1}, \qquad
    \hat F_i = M\{\,G_i(p) : p \in P_k(F_i)\,\}

* :math:`f_j` -- block :math:`j` of the backbone, :math:`F_i` its map after block :math:`i`, :math:`F_N = G_i(F_i)` the
  *uncut* map.
* :math:`P_k` -- the cut into :math:`k \times k` patches that do not overlap; each goes alone, with the shared weights,
  through :math:`G_i`, zero padding at its own border. :math:`M` -- the merge: every result back to its place.

*Implicit*: stage :math:`t = 1 \dots n` cuts after block :math:`i_t`, from low to high. *Explicit*: all cuts in one
forward, each from a detached copy (:math:`\mathrm{sg}`), so the uncut path alone teaches the blocks below a cut.

.. math::
    Z^{(t)} = [\hat F_{i_t}; F_N], \qquad
    Z = [\hat F_{i_1}(\mathrm{sg} F_{i_1}); \dots; \hat F_{i_n}(\mathrm{sg} F_{i_n}); F_N]

.. math::
    s_c = \frac{1}{|\Omega|} \sum_{p \in \Omega} w_c^\top Z(p), \qquad M_c(p) = \max(0, w_c^\top Z(p))

* :math:`w_c` -- row of class :math:`c` in a bias-free 1x1 convolution over :math:`2C_N` channels (implicit) or
  :math:`(n + 1) C_N` (explicit); :math:`\Omega` -- the cells inside the photo (padding is left out of the mean).
* :math:`s_c` -- image score, trained against the tags with the multi-label soft margin loss; :math:`M_c` -- the map, of
  the last stage (implicit) or of the one classifier (explicit).

The classifier is linear, so :math:`w_c^\top Z` is the sum of what each part of Z says by itself, :math:`A_c` of the
uncut map and :math:`\hat A_c` of the merged one (explicit: the mean over the cuts). They can be asked to agree where a
tagged class is:

.. math::
    L_{re} = \lambda \, \min(1, 2 t) \; \operatorname{mean}_{c \in \text{tags}} \frac{1}{|\Omega|} \sum_{p \in \Omega}
    \left| n(\hat A_c)(p) - n(A_c)(p) \right|, \qquad n(A) = \frac{\max(0, A)}{\max_p A(p)}

* :math:`t` -- progress of the training, from 0 to 1; :math:`\lambda` -- ``PplSettings.reconstruction``.

What is the paper's, and what is ours. No code was published; the abstract and two figures are all there is to follow.

From them: cut, parallel patches with shared blocks, merge, concatenation with the uncut map (Fig. 2, Fig. 5); stages
from low to high layers, a loss each, one model, the map from the last stage (Fig. 2 and abstract); all cuts at once
from detached maps, one classifier, one loss (Fig. 5); no gradient stop in the implicit form.

Ours, each a setting: which blocks are cut after and how many, the grid of each stage (the figures draw 2x2), one
optimiser step a stage on every batch (as PMG does, Du et al., ECCV 2020, whose words the paper uses) or stages one
after the other, whether stages share a head, dropout, fixed first blocks, and :math:`L_{re}`. That loss is Puzzle-CAM's
(Jo & Yu, ICIP 2021), which cuts the photo and not a map; its weight, too, grows over the first half of the training. Of
maps by their maximum it cannot be lowered by scores that fade, as it otherwise was (docs/log.md). The defaults are the
paper's form as far as it is known.

Ours, not settings: the merged maps stand before the uncut one (this only orders the weights), there is no step on the
plain network at the end (PMG has one; a last stage of grid 1 is such a step), batch norm keeps its pretrained
statistics (as PSA, SEAM and IRN do), and the geometry of :func:`~tag2mask.layers.patchwise.edges`.

ViT. A cut gives every patch the tokens of its cells and its own copy of the prefix tokens (class, registers), so
attention stays within the patch; the copies never meet again, since the last block drops them. Squeeze-and-excitation
likewise averages over the patch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.layers.patchwise import Cut, check_above, patchwise
from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, Range, check_values
from tag2mask.types import Batch, Losses, Views, masked_mean

MAX_STAGES = 3  # where no cut is named


@dataclass(frozen=True)
class PplSettings:
    """The choices the paper leaves open, or whose values it does not give."""

    mode: Literal["implicit", "explicit"] = "implicit"
    """implicit: one cut a stage, stage after stage. explicit: all cuts in one forward."""
    cuts: tuple[str, ...] = ()
    """Blocks of the backbone to cut after, from low to high; the same may come again with another grid. None given: the
    lowest ``stages`` of the last three before the last resolution (a ResNet's layer1, layer2, layer3;
    EfficientNet-Lite0's block2, block3, block4)."""
    stages: Annotated[int, Range(at_least=1, at_most=MAX_STAGES)] = 3
    """How many cuts, 1 to 3, where none is named. On Lite0 one is as good as three (docs/results-methods.md)."""
    grids: Annotated[tuple[int, ...], Range(at_least=1, at_most=64)] = (2,)
    """Patches along each side, one number for each cut or one for all; (4, 3, 2) makes early stages finer."""
    schedule: Literal["per_iteration", "sequential"] = "per_iteration"
    """Implicit only. per_iteration: every batch goes through all stages, each with its own forward and optimiser step
    on the weights the one before has left. sequential: equal shares of the training, one stage each."""
    heads: Literal["shared", "per_stage"] = "shared"
    """Implicit only. One classifier for all stages ("one single model"), or one for each (as Fig. 2 draws it)."""
    reconstruction: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of L_re, reached half-way through the training. The paper has none. With 490 photos 1 gives 5 points of
    map mIoU; its pull towards small maps adds up over the steps, and with 2,500 photos, or 25 epochs, it covers too
    little (docs/decisions/0006). At 4 the tags are not learnt any more."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Probability with which a channel of Z is dropped before the classifier (PSA uses 0.5 on ResNet-38d)."""
    fixed_until: str | None = None
    """Blocks up to this one keep their pretrained weights though photos are augmented (IRN and PSA fix the first
    convolution). Unlike a frozen backbone's, their output is not stored."""

    def __post_init__(self) -> None:
        check_values(self, "ppl")
        if len(self.grids) not in (1, len(self.cuts) or len(self.grids)) or not self.grids:
            raise _uneven(self.grids, self.cuts)

    @property
    def traits(self) -> Traits:
        """Where both paths must agree, background comes out near 0, and a rule that expects it hazy cuts too high
        (docs/decisions/0006)."""
        if not self.reconstruction:
            return Traits(class_maps=True)
        return Traits(
            class_maps=True,
            threshold_rule="li",
            tuned_on_truth=("settings of ppl that are not its paper's were chosen on VOC's truth",),
        )


class Ppl(nn.Module):
    """The method page of progressive patch learning.

    Args:
        backbone: a chain of at least two blocks; it learns unless frozen.
        classes: number of foreground classes.
        settings: see :class:`PplSettings`.

    Raises:
        InputError: a cut that the backbone does not have (:func:`cuts_of` says which).
    """

    def __init__(self, backbone: Backbone, classes: int, settings: PplSettings = PplSettings()) -> None:
        super().__init__()
        self.backbone, self.settings, self.traits = backbone, settings, settings.traits
        self.cuts = cuts_of(backbone, settings)
        if settings.fixed_until is not None:
            for name in backbone.names[: backbone.position(settings.fixed_until) + 1]:
                backbone.blocks[name].requires_grad_(False)
        explicit = settings.mode == "explicit"
        maps = 1 + (len(self.cuts) if explicit else 1)
        heads = len(self.cuts) if settings.heads == "per_stage" and not explicit else 1
        self.dropout = nn.Dropout2d(settings.dropout)
        self.classifiers = nn.ModuleList(
            nn.Conv2d(maps * backbone.channels, classes, 1, bias=False) for _ in range(heads)
        )

    def _parts(self, views: Views, stage: int, whole: bool) -> list[tuple[Tensor, Tensor]]:
        """The parts of Z, ``[batch channels rows columns]``, those of the cuts first, each with its part of w."""
        explicit = self.settings.mode == "explicit"
        cuts = self.cuts if explicit else (self.cuts[stage],)
        merged, uncut = patchwise(self.backbone, views, cuts, detach=explicit, whole=whole)
        assert all(part.shape == uncut.shape for part in merged), ([p.shape for p in merged], uncut.shape)
        weight = self.classifiers[0 if len(self.classifiers) == 1 else stage].weight
        assert isinstance(weight, Tensor)
        parts = [*merged, uncut]
        return list(zip(parts, weight.chunk(len(parts), 1), strict=True))

    def part_maps(self, views: Views, stage: int = -1, *, whole: bool = True) -> list[Tensor]:
        r"""What each part of Z says by itself, signed: :math:`\hat A` of every cut and last :math:`A` of the uncut map,
        each ``[batch classes rows columns]``. Their sum is :math:`w_c^\top Z`.

        Args:
            stage: implicit only, counted from the lowest cut; by default the last.
            whole: these are whole photos, of whatever shape: one too narrow for the grid is cut into as many parts as
                it has cells. Otherwise that is an error.
        """
        return [F.conv2d(self.dropout(part), w.contiguous()) for part, w in self._parts(views, stage, whole)]

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """All parts of Z side by side, and :math:`w_c^\\top Z` (:class:`tag2mask.protocols.ClassMaps`)."""
        parts = self._parts(views, -1, whole=True)
        scores = torch.stack([F.conv2d(self.dropout(part), w.contiguous()) for part, w in parts]).sum(0)
        return torch.cat([part for part, _ in parts], 1), scores

    def score_maps(self, views: Views, stage: int = -1, *, whole: bool = True) -> Tensor:
        """:math:`w_c^\\top Z`, signed, ``[batch classes rows columns]``; arguments as of :meth:`part_maps`."""
        return torch.stack(self.part_maps(views, stage, whole=whole)).sum(0)

    def check_views(self, height: int, width: int) -> None:
        """Raises :class:`InputError` where training views of so many pixels are too small for the grid."""
        grid = max(cut.grid for cut in self.cuts)
        smallest = grid * self.backbone.stride
        if min(height, width) < smallest:
            raise InputError(
                f"training views of {height}x{width} pixels are smaller than {grid} patches times the stride of "
                f"{self.backbone.stride}: use --augment.size {smallest} or more, or a coarser grid (--ppl.grids)"
            )

    def losses(self, batch: Batch, progress: float) -> Losses | Iterator[Losses]:
        """Of one step; or, implicit and per iteration, of each stage in turn, computed when they are asked for."""
        if not batch.stored:
            self.check_views(*batch.images.shape[2:])
        stages = len(self.cuts)
        if self.settings.mode == "explicit":
            return self._losses(batch, -1, progress)
        if self.settings.schedule == "sequential":
            return self._losses(batch, min(int(progress * stages), stages - 1), progress)
        return (self._losses(batch, stage, progress) for stage in range(stages))

    def _losses(self, batch: Batch, stage: int, progress: float) -> Losses:
        parts = self.part_maps(batch, stage, whole=batch.stored)
        scores = masked_mean(torch.stack(parts).sum(0), batch.valid)
        terms = {"classification": F.multilabel_soft_margin_loss(scores, batch.labels)}
        if self.settings.reconstruction:
            weight = self.settings.reconstruction * min(1.0, 2 * progress)
            terms["reconstruction"] = weight * reconstruction(parts, batch.labels, batch.valid)
        if self.settings.mode == "explicit":
            return Losses(terms)
        cut = self.cuts[stage]
        return Losses({f"stage{stage + 1}_{cut.block}_{cut.grid}x{cut.grid}_{name}": terms[name] for name in terms})

    def tag_scores(self, batch: Batch) -> Tensor:
        """The mean of the last stage's maps (:class:`tag2mask.protocols.PredictsTags`)."""
        return masked_mean(self.score_maps(batch), batch.valid)

    def localize(self, batch: Batch) -> Tensor:
        return self.score_maps(batch).relu()


def reconstruction(parts: Sequence[Tensor], labels: Tensor, valid: Tensor) -> Tensor:
    r""":math:`L_{re}` without its weight, scalar: how far what patches say is from what the uncut map says.

    Args:
        parts: :math:`\hat A` of every cut, of which the mean counts, and last :math:`A`; signed ``[batch classes rows
            columns]``.
        labels: ``[batch classes]`` multi-hot; maps of other classes do not count.
        valid: ``[batch height width]``, False on padding, which does not count either.
    """
    rows, columns = parts[0].shape[2:]
    inside = F.adaptive_avg_pool2d(valid[:, None].float(), (rows, columns)) > 0

    def over_maximum(maps: Tensor) -> Tensor:
        positive = maps.float().relu() * inside
        return positive / (positive.amax((2, 3), keepdim=True) + 1e-2)  # a map that is nowhere sure stays small

    apart = masked_mean((over_maximum(torch.stack(list(parts[:-1])).mean(0)) - over_maximum(parts[-1])).abs(), valid)
    return processes.ratio((apart * labels).sum(), labels.sum())


# --- where to cut -----------------------------------------------------------------------------------------------


def cuts_of(backbone: Backbone, settings: PplSettings) -> tuple[Cut, ...]:
    """The cuts of these settings on this backbone, from low to high.

    Raises:
        InputError: a backbone of one block, a block that does not exist, the last block, cuts that go down, a cut
            below the frozen block, a number of grids that does not go with the number of cuts.
    """
    if len(backbone.blocks) < 2:
        raise InputError(
            f"this backbone is a single block ('{backbone.names[0]}') and patch learning cuts between blocks: use one "
            "that is known inside, for instance tf_efficientnet_lite0, resnet50, convnext_tiny or a ViT"
        )
    blocks = settings.cuts or default_cuts(backbone)[: settings.stages]
    if len(settings.grids) not in (1, len(blocks)):
        raise _uneven(settings.grids, blocks)
    for block in blocks:
        if backbone.position(block) == len(backbone.names) - 1:
            raise InputError(
                f"no block is left to run on patches after '{block}', the last of this backbone: cut after one of "
                + ", ".join(backbone.names[:-1])
            )
        if backbone.frozen_until is not None:
            check_above(block, backbone)
    positions = [backbone.position(block) for block in blocks]
    if positions != sorted(positions):
        raise InputError(
            f"the cuts {', '.join(blocks)} do not go from low to high: name them in the order "
            + ", ".join(sorted(blocks, key=backbone.position))
        )
    grids = settings.grids * len(blocks) if len(settings.grids) == 1 else settings.grids
    return tuple(Cut(block, grid) for block, grid in zip(blocks, grids, strict=True))


def default_cuts(backbone: Backbone, count: int = MAX_STAGES) -> tuple[str, ...]:
    """The last ``count`` blocks before the network's last resolution: layer1 to layer3 of a ResNet, block2 to block4 of
    EfficientNet-Lite0, stage0 to stage2 of a ConvNeXt. Where those are all of one resolution (ResNet-38d's b5, b5_1,
    b5_2), the last block of each of the last resolutions (b3_2, b4_5, b5_2).

    The resolution is that of the pretraining: dilation counts as the stride it stands for. Where it ends before the
    frozen trunk does, or never changes (a ViT), the last blocks below which something still looks beyond its own cell:
    cutting below a 1x1 convolution or a norm would change nothing.

    Raises:
        InputError: nothing above the frozen trunk looks beyond its own cell.
    """
    names = backbone.names
    first = 0 if backbone.frozen_until is None else backbone.position(backbone.frozen_until)
    around = [i for i, name in enumerate(names) if not backbone.pointwise(name)]
    useful = [i for i in range(first, len(names) - 1) if around and around[-1] > i]
    if not useful:
        raise InputError(
            f"nothing above '{names[first]}' looks beyond its own cell, so cutting the map there changes nothing: "
            + (f"freeze less (--freeze-until {names[around[-1] - 1]})" if around else "use another backbone")
        )
    resolutions = list(backbone.resolutions.values())
    finer = [i for i in useful if resolutions[i] < resolutions[-1]] or useful
    cuts = finer[-count:]
    if len({resolutions[i] for i in cuts}) == 1:  # many blocks of one resolution: cuts in a row would hardly differ
        last = {resolutions[i]: i for i in finer}
        cuts = sorted(last.values())[-count:] if len(last) > 1 else cuts
    return tuple(names[i] for i in cuts)


def _uneven(grids: Sequence[int], cuts: Sequence[str]) -> InputError:
    return InputError(
        f"{len(grids)} grids {tuple(grids)} for {len(cuts)} cuts ({', '.join(cuts)}): give one grid for each cut, or "
        "one for all"
    )
