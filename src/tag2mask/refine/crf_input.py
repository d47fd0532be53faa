"""What the dense CRF is given, as tensors; what it cannot take is refused in one line."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.refine.arrays import dtype_of, highest_scores, shape_of, tensor_of


def _images(image: np.ndarray | Tensor) -> Tensor:
    tensor = tensor_of(image, "dense CRF", "image")
    if tensor.dtype != torch.uint8:
        raise InputError(f"dense CRF: the image is {dtype_of(tensor)}; give uint8 RGB, 0 to 255")
    if tensor.ndim not in (3, 4) or tensor.shape[-1] != 3:
        raise InputError(f"dense CRF: the image has shape {shape_of(tensor)}; give RGB as [height width 3]")
    return tensor


def pixels_and_scores(image: np.ndarray | Tensor, scores: np.ndarray | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``[batch height width 3]``, scores ``[batch labels height width]`` and the highest score of each label,
    ``[batch labels]``; :class:`InputError` where :func:`dense_crf` says."""
    images = _images(image)
    values = tensor_of(scores, "dense CRF", "scores")
    if not values.is_floating_point():
        raise InputError(f"dense CRF: scores are {dtype_of(values)}; give probabilities of a float type")
    if values.ndim not in (3, 4):
        raise InputError(f"dense CRF: scores have shape {shape_of(values)}; give [labels height width]")
    values = values if values.ndim == 4 else values[None]
    images = images if images.ndim == 4 else images[None]
    if len(images) != len(values) or images.shape[1:3] != values.shape[2:]:
        raise InputError(
            f"dense CRF: image {shape_of(_images(image))} and scores {shape_of(scores)} disagree; "
            "resize the scores to [labels height width] of the image"
        )
    if values.numel() == 0:
        raise InputError(f"dense CRF: scores have shape {shape_of(scores)}; there is nothing to refine")
    # half-precision sums may pass one a little
    return images, values, highest_scores(values, "dense CRF", "probabilities in [0, 1]", limit=1.01)


def pixels_and_labels(image: np.ndarray | Tensor, labels: np.ndarray | Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Images ``[batch height width 3]`` and label maps ``[batch height width]``; :class:`InputError` where
    :func:`dense_crf_from_labels` says."""
    images = _images(image)
    values = tensor_of(labels, "dense CRF", "labels")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"dense CRF: labels are {dtype_of(values)}; give an integer label map, for instance uint8")
    if values.ndim not in (2, 3):
        raise InputError(f"dense CRF: labels have shape {shape_of(values)}; give [height width]")
    values = (values if values.ndim == 3 else values[None]).long()
    images = images if images.ndim == 4 else images[None]
    if images.shape[:3] != values.shape:
        raise InputError(
            f"dense CRF: image {shape_of(_images(image))} and labels {shape_of(labels)} disagree; "
            "resize the labels to the image's height and width"
        )
    if values.numel() == 0:
        raise InputError(f"dense CRF: labels have shape {shape_of(labels)}; there is nothing to refine")
    wrong = values[(values != 255) & ((values < 0) | (values >= n_labels))]
    if len(wrong):
        raise InputError(
            f"dense CRF: the label map holds {int(wrong[0])}, but n_labels is {n_labels}: it may hold "
            f"0 to {n_labels - 1}, and 255 for pixels nothing is known about"
        )
    return images, values
