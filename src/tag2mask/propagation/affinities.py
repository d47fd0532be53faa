"""A photo's affinities, from a network trained for it, a backbone's features, or its colours alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.augment import fit_size
from tag2mask.localize import LocalizeSettings
from tag2mask.propagation.network import AffinityNet
from tag2mask.propagation.settings import PropagationSettings
from tag2mask.refine import neighbours
from tag2mask.refine.walk import grid_of
from tag2mask.views import View, view_batch


def of_network(
    net: AffinityNet, image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings
) -> Tensor:
    """``[1 offsets rows columns]`` of a photo ``[height width 3]`` uint8, plain and mirrored view together."""
    pixels, device = view_of(image, localize, net.backbone), next(net.parameters()).device
    both = torch.cat([pixels, pixels.flip(3)]).to(device)
    with torch.inference_mode(), compute.autocast(localize.precision, device):
        grid = net.grid(both).float()
    grid = (grid[:1] + grid[1:].flip(3)).cpu() / 2
    if net.kind == "irn":
        return neighbours.boundary_affinity(grid[:, 0], settings.walk_radius)
    return neighbours.feature_affinity(grid, settings.walk_radius)


def of_features(
    backbone: Backbone, image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings
) -> Tensor:
    """``[1 offsets rows columns]``: cosines of the backbone's features, brought to the walk's grid, times the likeness
    of colours.

    Nothing is trained. Features tell objects of one colour apart, but their cells are coarse: colours find the edge.
    """
    pixels, device = view_of(image, localize, backbone), next(backbone.parameters()).device
    with torch.inference_mode(), compute.autocast(localize.precision, device):
        features = backbone(pixels.to(device)).float().cpu()
    grid = grid_of(pixels.shape[2:], settings.stride)
    features = F.interpolate(features, grid, mode="bilinear", align_corners=False)
    cosines = neighbours.cosine_affinity(features, settings.walk_radius) ** settings.cosine
    return cosines * _of_colours(image, localize, settings, backbone.size_divisor)


def of_colours(network: None, image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings) -> Tensor:
    """``[1 offsets rows columns]``: likeness of colours on the walk's grid; nothing is trained, no network is asked."""
    return _of_colours(image, localize, settings, 1)


def _of_colours(image: np.ndarray, localize: LocalizeSettings, settings: PropagationSettings, divisor: int) -> Tensor:
    size = grid_of(fit_size(image.shape[0], image.shape[1], localize.long_side, 1.0, divisor), settings.stride)
    small = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return neighbours.colour_affinity(F.interpolate(small, size, mode="area"), settings.walk_radius, settings.sigma)


def view_of(image: np.ndarray, localize: LocalizeSettings, backbone: Backbone) -> Tensor:
    """A photo ``[height width 3]`` uint8 at scale 1, as the backbone takes it: ``[1 3 height width]``."""
    height, width = fit_size(image.shape[0], image.shape[1], localize.long_side, 1.0, backbone.size_divisor)
    return view_batch([image], View(height, width, False), backbone)
