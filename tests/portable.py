"""Numbers that any program can make again from integers alone: golden values of other codes are given on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BITS = 2**32


def h(n: int, k: int) -> np.ndarray:
    """``[n]`` float64 in [0, 1): integer arithmetic modulo 2^32."""
    x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(10007 * k)) * np.uint64(2654435761) % np.uint64(BITS)
    x ^= x >> np.uint64(16)
    x = x * np.uint64(2246822519) % np.uint64(BITS)
    x ^= x >> np.uint64(13)
    return x.astype(np.float64) / BITS


def uniform(shape: tuple[int, ...], k: int) -> Tensor:
    """Float64 in [-0.5, 0.5), row-major."""
    return torch.from_numpy(h(int(np.prod(shape)), k) - 0.5).reshape(shape)
