"""What the released code of MCIS has beyond the paper's formulas: pairs of a photo with itself, a gated sum of their
maps, and a checkpoint of the whole network, which is taken over tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.backbones import Backbone, vgg16
from tag2mask.errors import InputError
from tag2mask.layers.cross_attention import let_back
from tag2mask.layers.tag_loss import tag_loss
from tag2mask.methods.mcis import Compared, Mcis
from tag2mask.methods.mcis_settings import McisSettings
from tag2mask.methods.released import take_over
from tag2mask.types import Batch, Domain, Photos

VIEWS = ((1.0, True), (0.75, False), (2.0, False))
"""(scale, mirrored) of the released pairs of a photo with itself."""


class ReleasedMcis(Mcis):
    """MCIS with what the released code adds, where the settings ask for it.

    Raises:
        InputError: settings that need a photo's other views, on a frozen backbone, whose features are stored.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: McisSettings = McisSettings()) -> None:
        if backbone.frozen_until is not None and (settings.self_pairs or settings.aggregation == "gated"):
            raise InputError(
                "pairs of a photo with itself (--mcis.self-pairs, --mcis.aggregation gated) need other views of it, "
                "and a frozen backbone's features are stored: use --mcis.no-self-pairs --mcis.aggregation mean, or "
                "leave out --freeze"
            )
        super().__init__(backbone, classes, settings)

    # --- training -----------------------------------------------------------------------------------------------

    def pair_terms(
        self, batch: Batch, pairs: Sequence[tuple[int, int]], photos: Compared, scores: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """And those of each photo of a pair with itself: all its tags are common."""
        terms = super().pair_terms(batch, pairs, photos, scores, progress)
        if not self.settings.self_pairs:
            return terms
        assert not batch.stored, "refused when the method was built"
        counted = len(pairs) > 0
        rows = sorted({first for first, _ in pairs or ((0, 0),)})
        here, valid, labels = photos.take(rows), batch.valid[rows], batch.labels[rows]
        domains: Sequence[Domain] = [batch.domains[row] for row in rows] if batch.domains else []
        kinds = self._own_kinds(batch.domains, rows)
        of_photo = self.basic(scores[rows], valid, labels, domains, counted)
        basic, co = [], []
        for scale, mirrored in VIEWS:
            view = self.features(scaled(batch.images[rows], scale, self.backbone.size_divisor, mirrored))
            view_scores, view_valid = self.head(view), valid.flip(2) if mirrored else valid
            back = [let_back(x, self.settings.feedback) for x in (view, view_scores)]
            maps = self.compare(here, self.compared(back[0], back[1], view_valid), kinds)
            basic.append(self.both(of_photo, self.basic(view_scores, view_valid, labels, domains, counted)))
            of_m = tag_loss(maps.common_m, valid, labels, counted)
            co.append(self.both(of_m, tag_loss(maps.common_n, view_valid, labels, counted)))
        return terms | {"self_basic": torch.stack(basic).sum(), "self_co": torch.stack(co).sum()}

    def _own_kinds(self, domains: Sequence[Domain], rows: Sequence[int]) -> list[int]:
        return [int(self.is_extra(domains[row])) if domains else 0 for row in rows]

    # --- localization -------------------------------------------------------------------------------------------

    def aggregated(self, batch: Batch, features: Tensor, references: Tensor | None) -> Tensor:
        """gated: the released sum of five maps, at least 0 and at most 1."""
        if self.settings.aggregation == "mean" or not self.settings.pairs:
            return super().aggregated(batch, features, references)
        here, grid = self.compared(features), tuple(features.shape[2:])
        kinds = self._own_kinds(batch.domains, range(len(batch.images)))
        maps: list[Tensor] = []
        for scale, mirrored in VIEWS:
            view = self.features(scaled(batch.images, scale, self.backbone.size_divisor, mirrored))
            pair = self.compare(here, self.compared(view), kinds)
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
        expanded, shared = dict(state), released_name("affinity")
        if (matrix := state.get(shared)) is not None:  # one for all kinds of pairs
            expanded[shared] = matrix.expand(len(self.affinity), *matrix.shape)
        form = "the released MCIS with this backbone, these settings and VOC's 20 classes"
        take_over(self, names, expanded, source, form, "use --recipe mcis/official, or the weights of a backbone")


def scaled(images: Tensor, scale: float, divisor: int, mirrored: bool) -> Photos:
    """Normalised images at another size, mirrored; sides are multiples of ``divisor``."""
    height, width = (max(1, round(side * scale / divisor)) * divisor for side in images.shape[2:])
    if scale != 1:
        images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return Photos(images.flip(3) if mirrored else images)


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


def released_name(name: str) -> str:
    """What the released code calls a tensor of ours."""
    first, _, rest = name.partition(".")
    if first == "backbone":
        return "vgg.features." + rest.split(".", 2)[2]
    theirs = {"extra": "vgg.extra_convs", "head": "vgg.extra_last_conv", "affinity": "extra_linear_e.weight"}
    theirs |= {"second_head": "extra_gate", "gate": "extra_gate_merge"}
    return ".".join(filter(None, (theirs[first], rest)))
