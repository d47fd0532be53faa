r"""Saliency without labels: what differs from the background of a photo (FOUND; Siméoni et al., CVPR 2023).

Idea. Objects are many things, background is one: the cell of a photo that the class token of a self-supervised vision
transformer attends to least is background, and so are the cells that are like it. All others may be object. A linear
classifier of one cell, trained on such guesses in many photos, keeps what they have in common.

.. math::
    \beta_h = \log \frac{\sum_{h'} Q_{h'}}{Q_h}, \qquad
    s = \arg\min_p \sum_h \beta_h a_h(p), \qquad
    B(p) = \bigl[\cos(k(p), k(s)) > \theta\bigr]

* :math:`a_h(p)` -- attention of the class token to cell :math:`p` in head :math:`h` of the last block; :math:`Q_h` --
  share of cells where it is above its mean over heads and cells (Sec. 3.1); :math:`k(p)` -- the cell's keys, those of
  each head times :math:`\beta_h`.
* The classifier is one 1x1 convolution on the keys as they are; binary cross-entropy, first with :math:`1 - B` after
  refinement along the photo's edges, then with its own refined map (Sec. 3.2). 386 numbers on a ViT-S; no tag and no
  mask is seen.

What is ours: edges come from the pixel-adaptive refiner instead of the bilateral solver; targets are made once, and
once more by the classifier, not in every step; views are whole photos; it learns from photos of the run, at most
``photos``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.backbones.attention import Heads, attending, last_heads
from tag2mask.data.augment import fit_size, resized
from tag2mask.errors import InputError
from tag2mask.refine import refiner
from tag2mask.settings import Range, check_values
from tag2mask.views import View, view_batch

BATCH, STEPS, OWN_STEPS = 50, 100, 400  # photos in a step; steps on the guesses, then on its own maps (published)
RATE, DECAY, DECAY_EVERY = 5e-2, 0.95, 50  # of AdamW (published)


@dataclass(frozen=True)
class SelfSupervisedSettings:
    """Of `--saliency self-supervised`."""

    likeness: Annotated[float, Range(at_least=0, below=1)] = 0.3
    """Cosine with the background's cell from which a cell is background, too (published)."""
    photos: Annotated[int, Range(at_least=1, at_most=100_000)] = 400
    """At most so many are learnt from; the keys of 400 take 0.3 GB of memory (ViT-S/14 at 384 pixels)."""
    long_side: Annotated[int, Range(at_least=16, at_most=16_384)] = 384
    """Longer side of the photos, in pixels."""
    precision: compute.Precision = "auto"
    """Of the forward passes."""

    def __post_init__(self) -> None:
        check_values(self, "self-supervised")


def background(heads: Heads, prefix: int, likeness: float) -> Tensor:
    """:math:`B` of ``[batch cells]`` bool.

    Args:
        heads: of the last block; ``prefix`` tokens come first, the class token before all.
    """
    attention = heads.weights[:, :, 0, prefix:]
    above = attention > attention.flatten(1).mean(1)[:, None, None]
    share = above.float().mean(2) + 1e-10
    weight = torch.log(share.sum(1, keepdim=True) / share)
    seed = (weight[:, :, None] * attention).sum(1).argmin(1)
    keys = (heads.keys[:, :, prefix:] * weight[:, :, None, None]).transpose(1, 2).flatten(2)
    keys = F.normalize(keys, dim=2)
    likest = keys[torch.arange(len(keys)), seed]
    return torch.einsum("bpc,bc->bp", keys, likest) > likeness


def check_backbone(backbone: Backbone) -> None:
    """Its attention can be read and it has a class token.

    Raises:
        InputError: otherwise.
    """
    last = attending(backbone)[-1]
    if not backbone.prefix(last):
        raise InputError(
            f"--saliency self-supervised reads the attention of a class token, and --backbone {backbone.name} has "
            "none: give one of DINO or DINOv2, such as vit_small_patch14_dinov2.lvd142m"
        )


def key_channels(backbone: Backbone) -> int:
    """Numbers of a cell's keys, of all heads of the last block."""
    side = backbone.size_divisor * ((backbone.prefix(attending(backbone)[-1]) or 0) + 1)
    with torch.inference_mode():
        heads = last_heads(backbone, torch.zeros(1, 3, side, side, device=next(backbone.parameters()).device))
    return heads.keys.shape[1] * heads.keys.shape[3]


@dataclass(frozen=True)
class _Photo:
    """A photo as the classifier learns from it."""

    keys: Tensor  # [cells channels] float16
    image: Tensor  # [3 height width] uint8, as the backbone was shown it
    grid: tuple[int, int]


class SelfSupervisedSaliency(nn.Module):
    """The classifier. Its backbone, which is frozen, is given with every call and no part of it.

    Args:
        channels: of a cell's keys, of all heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, 1, 1)

    def forward(self, keys: Tensor) -> Tensor:
        """``[cells channels]`` to logits ``[cells]``."""
        return self.classifier(keys.T[None, :, :, None])[0, 0, :, 0]


def train(
    backbone: Backbone, photos: Sequence[Callable[[], np.ndarray]], settings: SelfSupervisedSettings, seed: int
) -> SelfSupervisedSaliency:
    """The classifier, learnt from photos alone.

    Args:
        photos: each gives its pixels ``[height width 3]`` uint8; at most ``settings.photos`` of them are drawn.
        seed: of which, in which order, and of the first weights.
    """
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(photos), generator=random)[: settings.photos].tolist()
    known: list[_Photo] = []
    targets: list[Tensor] = []
    for index in drawn:
        photo, guess = _guessed(backbone, photos[index](), settings)
        known.append(photo)
        targets.append(_refined(photo, guess.float()))
    torch.manual_seed(seed)
    network = SelfSupervisedSaliency(known[0].keys.shape[1]).to(known[0].keys.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EVERY, DECAY)
    for step in range(STEPS + OWN_STEPS):
        if step == STEPS:
            with torch.no_grad():
                targets = [_refined(photo, network(photo.keys.float()).sigmoid()) for photo in known]
        batch = torch.randint(len(known), (min(BATCH, len(known)),), generator=random).tolist()
        logits = network(torch.cat([known[i].keys for i in batch]).float())
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat([targets[i] for i in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _guessed(backbone: Backbone, pixels: np.ndarray, settings: SelfSupervisedSettings) -> tuple[_Photo, Tensor]:
    """A photo, and which of its ``[cells]`` are not background at first sight."""
    photo, heads = _seen(backbone, pixels, settings)
    prefix = backbone.prefix(attending(backbone)[-1]) or 0
    return photo, ~background(heads, prefix, settings.likeness)[0]


def _seen(backbone: Backbone, pixels: np.ndarray, settings: SelfSupervisedSettings) -> tuple[_Photo, Heads]:
    height, width = fit_size(pixels.shape[0], pixels.shape[1], settings.long_side, 1.0, backbone.size_divisor)
    device = next(backbone.parameters()).device
    images = view_batch([pixels], View(height, width, False), backbone).to(device)
    with torch.no_grad(), compute.autocast(settings.precision, device):
        heads = last_heads(backbone, images)
    heads = Heads(heads.queries.float(), heads.keys.float(), heads.values.float())
    grid = height // backbone.size_divisor, width // backbone.size_divisor
    keys = heads.keys[0, :, -grid[0] * grid[1] :].transpose(0, 1).flatten(1)
    return _Photo(keys.half(), resized(pixels, (height, width)), grid), heads


def _refined(photo: _Photo, scores: Tensor) -> Tensor:
    """``[cells]`` in [0, 1] to what they are after refinement along the photo's edges, 0 or 1."""
    sides = tuple(photo.image.shape[1:])
    grown = F.interpolate(scores.cpu().view(1, 1, *photo.grid), sides, mode="bilinear", align_corners=False)
    refined = refiner("par").refine(photo.image[None], torch.cat([1 - grown, grown], 1))[:, 1:]
    return (F.interpolate(refined, photo.grid, mode="area").flatten() > 0.5).float().to(scores.device)


@dataclass(frozen=True)
class SelfSupervisedDetector:
    """Saliency maps of photos by a trained classifier."""

    network: SelfSupervisedSaliency
    backbone: Backbone
    settings: SelfSupervisedSettings

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Saliency ``[rows columns]`` float32 in [0, 1], a cell for each patch, of ``[height width 3]`` uint8."""
        photo, _ = _seen(self.backbone, image, self.settings)
        with torch.no_grad():
            return self.network(photo.keys.float()).sigmoid().view(photo.grid).cpu().numpy()
