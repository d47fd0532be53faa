"""The dense CRF's mean field in plain torch, on any device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tag2mask.refine import permutohedral
from tag2mask.refine.crf_settings import CrfSettings


def mean_field(image: Tensor, scores: Tensor, settings: CrfSettings, floor: float, copies: int = 1) -> Tensor:
    """Mean field in plain torch, on the device of ``scores``.

    Args:
        image: ``[height width 3]`` uint8.
        scores: ``[labels height width]`` float32; the unary energies are ``-log`` of them, clipped to [floor, 1].
        settings: the kernels and the number of iterations; its own ``floor`` is not used.
        floor: see ``scores``.
        copies: the last label stands for this many labels with the same energies.

    Returns:
        ``[labels height width]`` float32; the last label's probability is that of each copy.
    """
    if len(scores) == 1:
        return torch.full_like(scores, 1 / copies)
    image = image.to(scores.device)
    energies = scores.clamp(floor, 1.0).log_().neg_().flatten(1)
    height, width = image.shape[:2]
    filters = []
    if settings.gaussian_compat:
        filters.append(_gaussian(height, width, settings.gaussian_sxy, settings.gaussian_compat, str(energies.device)))
    if settings.bilateral_compat:
        features = permutohedral.scaled_features(height, width, settings.bilateral_sxy, image, settings.bilateral_srgb)
        filters.append(permutohedral.normalised(permutohedral.build(features), settings.bilateral_compat))
    # All logits are relative to the last label's. Filtering is linear and Q sums to one: K Q_last = K 1 - the others.
    base = energies[-1] - energies[:-1]
    ones = energies.new_ones(energies.shape[1], 1)
    mass = sum((f(ones)[:, 0] for f in filters), energies.new_zeros(()))
    q = _softmax(base, copies)
    base = base - mass / copies
    for _ in range(settings.iterations if filters else 0):
        values = q[:-1].T.contiguous()
        message = torch.stack([f(values) for f in filters]).sum(0).T
        q = _softmax(base + message + message.sum(0) / copies, copies)
    return q.view(scores.shape)


def _softmax(relative: Tensor, copies: int) -> Tensor:
    """``[labels N]`` probabilities from logits ``[labels-1 N]`` relative to a last one that counts ``copies`` times."""
    top = relative.amax(0).clamp_(min=0)
    out = torch.cat([relative - top, -top[None]]).exp_()
    total = out[:-1].sum(0) + copies * out[-1]
    return out.div_(total)


@functools.lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sxy: float, compat: float, device: str) -> permutohedral.Filter:
    # Depends on the size of the image only, and a data set has few sizes. 375 x 500 takes 16 MB.
    features = permutohedral.scaled_features(height, width, sxy).to(device)
    return permutohedral.normalised(permutohedral.build(features), compat)
