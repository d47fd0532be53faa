r"""Affinities between all cells of a photo, from a vision transformer's attention or tokens, and one step along them.

Class-aware attention affinity (CLIP-ES; Lin et al., CVPR 2023, Sec. 3.3): which cells belong together is in the
attention of the last blocks, :math:`W`. It is made doubly stochastic (Sinkhorn and Knopp), symmetric, and squared; each
map then moves along it, out of the boxes around its own strong regions alone:

.. math::
    D = \mathrm{Sinkhorn}(W), \qquad A = \tfrac12 (D + D^\top), \qquad
    M'_c = A^2 \cdot \bigl(B_c \odot M_c\bigr)

* :math:`B_c` -- 1 within the boxes of the connected regions where :math:`M_c` is above ``box`` of its maximum.
* Tokens instead of attention: :math:`W_{pq} = \max(0, \cos(f_p, f_q))^\gamma` of the backbone's cells (as DINO's
  correspondences are used by LOST and TokenCut), with ``token_cosine`` as :math:`\gamma`.

The code of CLIP-ES normalises columns and rows three times, which is done here; its box leaves the last row and column
out, which is not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.backbones.attention import attending, step
from tag2mask.backbones.tokens import TokenBlock
from tag2mask.localize import LocalizeSettings, normalise_maps
from tag2mask.propagation.affinities import view_of
from tag2mask.propagation.settings import PropagationSettings
from tag2mask.refine.components import components
from tag2mask.types import LocalizationMaps

ROUNDS = 3  # of normalising columns, then rows


def of_attention(
    backbone: Backbone, image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings
) -> Tensor:
    """``[1 cells rows columns]``: how cells belong together by the mean attention of the last ``settings.blocks``
    blocks, of a photo ``[height width 3]`` uint8; prefix tokens are left out."""
    wanted = attending(backbone)[-settings.blocks :]
    pixels, device = view_of(image, localize, backbone), next(backbone.parameters()).device
    gathered: list[Tensor] = []
    with torch.inference_mode(), compute.autocast(localize.precision, device):
        x = pixels.to(device)
        for name, block in backbone.blocks.items():
            if name not in wanted:
                x = block(x)
                continue
            assert isinstance(block, TokenBlock)
            x, heads = step(block, x)
            gathered.append(heads.weights.float().mean(1)[:, block.prefix :, block.prefix :])
    return _balanced(torch.stack(gathered).mean(0)[0].cpu(), x.shape[2], x.shape[3])


def of_tokens(
    backbone: Backbone, image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings
) -> Tensor:
    """``[1 cells rows columns]``: how cells belong together by the cosines of the backbone's features."""
    pixels, device = view_of(image, localize, backbone), next(backbone.parameters()).device
    with torch.inference_mode(), compute.autocast(localize.precision, device):
        features = backbone(pixels.to(device)).float().cpu()
    cells = F.normalize(features[0].flatten(1).T, dim=1)
    return _balanced((cells @ cells.T).relu() ** settings.token_cosine, features.shape[2], features.shape[3])


def _balanced(affinity: Tensor, rows: int, columns: int) -> Tensor:
    """Doubly stochastic, symmetric, squared: ``[cells cells]`` to ``[1 cells rows columns]``."""
    for _ in range(ROUNDS):
        affinity = affinity / affinity.sum(0, keepdim=True).clamp(min=1e-12)
        affinity = affinity / affinity.sum(1, keepdim=True).clamp(min=1e-12)
    affinity = (affinity + affinity.T) / 2
    return (affinity @ affinity).unflatten(1, (rows, columns))[None]


def attend(maps: LocalizationMaps, affinity: Tensor, settings: PropagationSettings) -> LocalizationMaps:
    """Maps after the step along ``affinity`` ``[1 cells rows columns]``, each divided by its maximum again."""
    if not len(maps.classes):
        return maps
    grid = (affinity.shape[2], affinity.shape[3])
    scores = torch.from_numpy(maps.scores.astype(np.float32))[None]
    scores = F.interpolate(scores, grid, mode="bilinear", align_corners=False)[0]
    inside = torch.stack([torch.from_numpy(boxes(one.numpy(), settings.box)) for one in scores])
    moved = torch.einsum("pij,cij->cp", affinity[0], scores * inside).unflatten(1, grid)
    return replace(maps, scores=normalise_maps(moved).numpy().astype(np.float16))


def boxes(scores: np.ndarray, share: float) -> np.ndarray:
    """Cells in the boxes around the regions above ``share`` of the maximum: ``[rows columns]`` bool."""
    inside = np.zeros(scores.shape, bool)
    for top, left, bottom, right in components(scores > share * scores.max())[1]:
        inside[top:bottom, left:right] = True
    return inside
