r"""Networks that learn which cells belong together, from the confident parts of localization maps. No truth is seen.

* **IRN** (Ahn, Cho, Kwak, CVPR 2019, Sec. 4): a class-boundary map :math:`B`; affinity of two cells is one minus the
  largest boundary on the line between them. Its displacement field, which only instance masks need, is left out.
* **AffinityNet** (PSA; Ahn, Kwak, CVPR 2018, Sec. 3.2): features :math:`f`; affinity is
  :math:`\exp(-\tfrac{1}{D}\lVert f_i - f_j\rVert_1)`.

Both learn from pairs of cells nearer than a radius whose confident labels are known: equal labels attract, different
labels repel, in the balance of both papers (IRN Eq. 9, PSA Eq. 6):

.. math::
    L = \tfrac{1}{4} \overline{-\log a}_{\text{both background}} + \tfrac{1}{4} \overline{-\log a}_{\text{same class}}
      + \tfrac{1}{2} \overline{-\log (1 - a)}_{\text{different labels}}

Both read features of several depths of any backbone (ResNet-50's stages in IRN), each brought to one grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute, pseudo
from tag2mask.backbones import Backbone
from tag2mask.data.augment import fit_size
from tag2mask.errors import InputError
from tag2mask.localize import LocalizeSettings, normalise_maps
from tag2mask.refine import walks
from tag2mask.refine.crf import dense_crf_from_labels
from tag2mask.types import BACKGROUND, IGNORE, LocalizationMaps, Losses, MaskedBatch
from tag2mask.views import View, view_batch

LEARNT = ("irn", "psa")
UNLEARNT = ("walk/colour", "walk/features")
WALKS = (*LEARNT, *UNLEARNT)
"""Names in ``--refine`` that move maps before there is a background: two that learn, two that need not."""


def split(refine: str) -> tuple[str | None, str]:
    """``--refine`` to the walk over the maps (or None) and the refiners of the pixels after it.

    Raises:
        InputError: a walk that is not the first.
    """
    first, *rest = [part.strip() for part in refine.split(",")]
    late = [part for part in rest if part in WALKS]
    if late:
        raise InputError(f"--refine {refine}: {late[0]} walks over maps, so it comes first and alone of its kind")
    return (first, ",".join(rest) or "none") if first in WALKS else (None, refine)


@dataclass(frozen=True)
class AffinitySettings:
    """How affinities are learnt, and how the walk goes."""

    foreground: float = 0.30
    """Maps above this, after a CRF, are confident foreground (IRN; a fixed number of the paper, not set here)."""
    background: float = 0.05
    """Maps below this, after a CRF, are confident background (IRN)."""
    stride: int = 4
    """Pixels per cell of the walk's grid (IRN; PSA used 8)."""
    radius: int = 10
    """Cells; pairs nearer than this are learnt from (IRN; PSA 5)."""
    pairs: int = 48
    """Neighbours of each cell drawn anew every step, of the 150 within radius 10; 0: all (both papers, 3x the time)."""
    walk_radius: int = 5
    """Cells; the walker's longest step (both papers)."""
    beta: float = 10.0
    """Exponent of the affinities in the walk (IRN; PSA 8)."""
    steps: int = 256
    """Steps of the walk (both papers)."""
    sigma: float = 0.08
    """Of the walks that learn nothing: colour difference (root mean square over channels, of 1) at which the affinity
    is 0.61; wider lets 256 steps wander across everything (docs/log.md; found on photos with truth)."""
    cosine: float = 3.0
    """Of `walk/features`: exponent of the features' cosine beside the colours."""
    channels: int = 32
    """Width of each depth's features (IRN)."""
    learn_backbone: bool = False
    """Train the backbone too (PSA does); otherwise only the layers on top (IRN)."""

    def __post_init__(self) -> None:
        if not 0 < self.background < self.foreground < 1:
            raise InputError(
                f"affinity.background {self.background} and affinity.foreground {self.foreground} must be "
                "0 < background < foreground < 1"
            )
        for name in ("stride", "radius", "walk_radius", "channels"):
            if getattr(self, name) < 1:
                raise InputError(f"affinity.{name} is {getattr(self, name)}: it must be at least 1")
        if self.walk_radius > self.radius:
            raise InputError(
                f"affinity.walk-radius {self.walk_radius} is larger than affinity.radius {self.radius}: the walk would "
                "step where nothing was learnt"
            )
        if self.sigma <= 0 or self.cosine < 0:
            raise InputError(
                f"affinity.sigma {self.sigma} must be above 0 and affinity.cosine {self.cosine} at least 0"
            )
        if self.beta <= 0 or self.steps < 0:
            raise InputError(f"affinity.beta {self.beta} must be above 0 and affinity.steps {self.steps} at least 0")


def confident_labels(maps: LocalizationMaps, image: np.ndarray, settings: AffinitySettings) -> np.ndarray:
    """Index mask ``[height width]`` uint8 of the regions to learn from (IRN, Sec. 5.1 and its code).

    Foreground where a class beats the constant background ``settings.foreground`` after a CRF on labels; background
    where nothing beats ``settings.background`` after another; 255 elsewhere.

    Args:
        image: ``[height width 3]`` uint8 RGB.
    """
    present = len(maps.classes)
    if not present:
        return np.zeros(maps.size, np.uint8)

    def at(threshold: float) -> np.ndarray:
        scores = pseudo.label_scores(maps, threshold, pseudo.PseudoSettings(background="constant"))
        labels = scores.argmax(0).to(torch.uint8).numpy()
        return dense_crf_from_labels(image, labels, 1 + present, gt_prob=0.7, preset="irn").argmax(0)

    sure, loose = at(settings.foreground), at(settings.background)
    out = pseudo.mask_values(maps.classes)[sure]
    out[(sure == 0) & (loose != 0)] = IGNORE
    return out


def depths(backbone: Backbone, most: int = 5) -> tuple[str, ...]:
    """Blocks whose outputs are looked at, low to high: spread evenly over the chain, the last one with them.

    IRN takes the five stages of ResNet-50; a chain of five blocks or fewer is taken whole.
    """
    names = backbone.names
    picked = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(most, len(names)))})
    return tuple(names[i] for i in picked)


class AffinityNet(nn.Module):
    """A backbone, a small layer on each of its depths, and what makes affinities of them.

    Args:
        kind: "irn": a class-boundary map; "psa": features to compare.
    """

    def __init__(self, backbone: Backbone, kind: str, settings: AffinitySettings) -> None:
        super().__init__()
        if backbone.frozen_until is not None:
            raise InputError(f"--refine {kind} looks at several depths of the backbone: leave out --freeze")
        self.backbone, self.kind, self.settings = backbone, kind, settings
        self.names = depths(backbone)
        backbone.requires_grad_(settings.learn_backbone)
        self.sides = nn.ModuleDict()
        for name, channels in zip(self.names, _channels(backbone, self.names), strict=True):
            self.sides[name] = nn.Sequential(
                nn.Conv2d(channels, settings.channels, 1, bias=False),
                nn.GroupNorm(4 if settings.channels % 4 == 0 else 1, settings.channels),
            )
        self.join = nn.Conv2d(
            len(self.names) * settings.channels, 1 if kind == "irn" else 4 * settings.channels, 1, bias=kind == "irn"
        )

    def train(self, mode: bool = True) -> AffinityNet:
        super().train(mode)
        if not self.settings.learn_backbone:
            self.backbone.eval()
        return self

    def grid(self, images: Tensor) -> Tensor:
        """Boundary ``[batch 1 rows columns]`` in [0, 1], or features ``[batch channels rows columns]``."""
        size = walks.grid_of(images.shape[2:], self.settings.stride)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.learn_backbone):
            found = dict(self.backbone.outputs(images, self.names))
        sides = [
            F.interpolate(self.sides[name](found[name]), size, mode="bilinear", align_corners=False).relu()
            for name in self.names
        ]
        joined = self.join(torch.cat(sides, 1))
        return joined.float().sigmoid() if self.kind == "irn" else F.elu(joined.float())

    def affinity(self, images: Tensor, radius: int, among: Sequence[int] | None = None) -> Tensor:
        """``[batch offsets rows columns]`` of normalised ``[batch 3 height width]``, see :mod:`refine.walks`.

        Args:
            among: only of these offsets, by their place; None: all.
        """
        grid = self.grid(images)
        if self.kind == "psa":
            return walks.feature_affinity(grid, radius, among)
        affinity = walks.boundary_affinity(grid[:, 0], radius)  # a line goes by way of nearer cells, so all are needed
        return affinity if among is None else affinity[:, list(among)]

    def losses(self, batch: MaskedBatch, progress: float) -> Losses:
        near = walks.offsets(self.settings.radius)
        drawn = range(len(near))
        if 0 < self.settings.pairs < len(near):
            drawn = sorted(torch.randperm(len(near))[: self.settings.pairs].tolist())
        affinity = self.affinity(batch.images, self.settings.radius, drawn)
        labels = F.interpolate(batch.masks[:, None].float(), affinity.shape[2:], mode="nearest")[:, 0].long()
        return pair_losses(affinity, labels, [near[i] for i in drawn])


def pair_losses(affinity: Tensor, labels: Tensor, offsets: Sequence[walks.Offset]) -> Losses:
    """The loss of the module's docstring.

    Args:
        affinity: ``[batch offsets rows columns]`` of each cell and its neighbour at each of ``offsets``.
        labels: ``[batch rows columns]`` int64; IGNORE takes no part.
    """
    rows, columns = labels.shape[1:]
    edge = max(max(abs(y), abs(x)) for y, x in offsets)
    padded = F.pad(labels, (edge, edge, edge, edge), value=IGNORE)
    other = torch.stack([padded[:, y + edge : y + edge + rows, x + edge : x + edge + columns] for y, x in offsets], 1)
    own = labels[:, None]
    known = (own != IGNORE) & (other != IGNORE)
    same = known & (own == other)
    apart = known & ~same
    # one logarithm a pair: of the affinity where it should be high, of one minus it where it should be low
    cost = -torch.log(torch.where(same, affinity, 1 - affinity) + 1e-5)
    mean = lambda where: torch.where(where, cost, 0).sum() / where.sum().clamp(min=1)  # noqa: E731
    return Losses(
        {
            "background": mean(same & (own == BACKGROUND)) / 4,
            "foreground": mean(same & (own != BACKGROUND)) / 4,
            "boundary": mean(apart) / 2,
        }
    )


def _channels(backbone: Backbone, names: tuple[str, ...]) -> list[int]:
    side = 8 * max(backbone.stride, backbone.multiple)
    where = next(backbone.parameters()).device
    with torch.inference_mode():
        was = backbone.training
        found = [x.shape[1] for _, x in backbone.eval().outputs(torch.zeros(1, 3, side, side, device=where), names)]
        backbone.train(was)
    return found


def of_network(net: AffinityNet, image: np.ndarray, localize: LocalizeSettings, settings: AffinitySettings) -> Tensor:
    """``[1 offsets rows columns]`` of a photo ``[height width 3]`` uint8, plain and mirrored view together."""
    pixels, where = _view(image, localize, net.backbone), next(net.parameters()).device
    both = torch.cat([pixels, pixels.flip(3)]).to(where)
    with torch.inference_mode(), compute.autocast(localize.precision, where):
        grid = net.grid(both).float()
    grid = (grid[:1] + grid[1:].flip(3)).cpu() / 2
    if net.kind == "irn":
        return walks.boundary_affinity(grid[:, 0], settings.walk_radius)
    return walks.feature_affinity(grid, settings.walk_radius)


def of_features(
    backbone: Backbone, image: np.ndarray, localize: LocalizeSettings, settings: AffinitySettings
) -> Tensor:
    """Cosines of the backbone's features, brought to the walk's grid, times the likeness of colours.

    Nothing is trained. Features tell objects of one colour apart, but their cells are coarse: colours find the edge.
    """
    pixels, where = _view(image, localize, backbone), next(backbone.parameters()).device
    with torch.inference_mode(), compute.autocast(localize.precision, where):
        features = backbone(pixels.to(where)).float().cpu()
    grid = walks.grid_of(pixels.shape[2:], settings.stride)
    features = F.interpolate(features, grid, mode="bilinear", align_corners=False)
    cosines = walks.cosine_affinity(features, settings.walk_radius) ** settings.cosine
    return cosines * of_colour(image, localize.long_side, settings, backbone.multiple)


def of_colour(image: np.ndarray, long_side: int, settings: AffinitySettings, multiple: int = 1) -> Tensor:
    """Likeness of colours on the walk's grid; nothing is trained."""
    size = walks.grid_of(fit_size(image.shape[0], image.shape[1], long_side, 1.0, multiple), settings.stride)
    small = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return walks.colour_affinity(F.interpolate(small, size, mode="area"), settings.walk_radius, settings.sigma)


def _view(image: np.ndarray, localize: LocalizeSettings, backbone: Backbone) -> Tensor:
    height, width = fit_size(image.shape[0], image.shape[1], localize.long_side, 1.0, backbone.multiple)
    return view_batch([image], View(height, width, False), backbone)


def walked(maps: LocalizationMaps, affinity: Tensor, settings: AffinitySettings) -> LocalizationMaps:
    """Maps after the walk along ``affinity`` ``[1 offsets rows columns]``, each divided by its maximum again."""
    scores = torch.from_numpy(maps.scores.astype(np.float32))[None]
    if not scores.shape[1]:
        return maps
    scores = F.interpolate(scores, affinity.shape[2:], mode="bilinear", align_corners=False)
    moved = walks.walk(affinity, scores, radius=settings.walk_radius, beta=settings.beta, steps=settings.steps)[0]
    return replace(maps, scores=normalise_maps(moved).numpy().astype(np.float16))  # what they cover stays as large
