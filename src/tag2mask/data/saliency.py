"""Saliency maps as they come: what of them cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tag2mask.errors import InputError

BLACK = 0.02  # under 5 of 255


def check_saliency_maps(maps: Sequence[np.ndarray], source: str) -> int:
    """Number of black maps among ``[height width]`` saliency maps in [0, 1].

    Raises:
        InputError: all of them are black, which would teach every photo as background.
    """
    black = sum(float(map_.max(initial=0.0)) < BLACK for map_ in maps)
    if maps and black == len(maps):
        raise InputError(
            f"the saliency maps of {source} are black, all of the {black} that were read: nothing would be taught as "
            "an object; make them anew (grey, bright where something stands out), or use a method without, --method cam"
        )
    return black
