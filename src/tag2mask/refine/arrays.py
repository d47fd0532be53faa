"""Arrays as users of the refiners hold them: numpy or torch in, the same out."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError

Array = TypeVar("Array", np.ndarray, Tensor)


def tensor_of(array: object, who: str, what: str) -> Tensor:
    """Numbers as a tensor, without gradient; what need not be copied is not.

    Args:
        who, what: whose input it is and which, for the error.

    Raises:
        InputError: neither an array nor a tensor, or not of numbers.
    """
    if isinstance(array, Tensor):
        return array.detach()
    if not isinstance(array, np.ndarray):
        raise InputError(f"{who}: {what} is a {type(array).__name__}; give a numpy array or a torch tensor")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise InputError(f"{who}: {what} is of type {array.dtype}; give numbers")
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def highest_scores(scores: Tensor, who: str, wants: str, limit: float = math.inf) -> Tensor:
    """The highest score of each label in each image, ``[batch labels]``. A label is present where that is above 0.

    Args:
        scores: ``[batch labels height width]``.
        who, wants: whose input it is and what it should be, for the error.
        limit: what no score may exceed.

    Raises:
        InputError: scores that are not finite, negative, too high, or of an image zero for every label.
    """
    lowest, highest = torch.aminmax(scores.flatten(2), dim=2)  # [batch labels]; NaN comes through
    low, high = float(lowest.amin()), float(highest.amax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{who}: scores hold NaN or infinity; check the maps they were made from")
    if low < 0:
        raise InputError(f"{who}: scores go down to {low:.3g}; give {wants}, not logits")
    if high > limit:
        raise InputError(f"{who}: scores reach {high:.3g}; give {wants}: apply a softmax first")
    if not bool((highest > 0).any(1).all()):
        raise InputError(f"{who}: the scores of an image are zero for every label; give it at least background")
    return highest


def as_given(given: Array, result: Tensor) -> Array:
    """The result as a numpy array, if that is what was given."""
    return cast("Array", result.numpy() if isinstance(given, np.ndarray) else result)


def shape_of(array: np.ndarray | Tensor) -> str:
    return "[" + " ".join(str(n) for n in array.shape) + "]"


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
