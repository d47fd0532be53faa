"""A run or bundle as CVAT's auto-annotation function: it labels the photos of a task that has the same labels.

``cvat-cli task auto-annotate 12 --function-module tag2mask.cvat -p path=str:RUN --allow-unmatched-labels``
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tag2mask.deploy import Segmenter, load
from tag2mask.errors import InputError
from tag2mask.exchange.outlines import outline, parts
from tag2mask.exchange.runs import runs_of


class DetectionFunction:
    """What CVAT's SDK asks of a function (``cvat_sdk.auto_annotation.DetectionFunction``).

    Attributes:
        spec: its labels, the classes in order.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._sdk, self._segmenter = _sdk(), segmenter
        labels = [self._sdk.label_spec(name, c, type="any") for c, name in enumerate(segmenter.classes)]
        self.spec = self._sdk.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Masks of a photo, one a connected part; polygons where CVAT asks for them. The confidence of a part is the
        mean probability of its class in it."""
        mask, probabilities = self._segmenter.predict(image)
        shapes = []
        for c in range(len(self._segmenter.classes)):
            for top, left, part in parts(mask == c + 1):
                inside = probabilities[c + 1, top : top + part.shape[0], left : left + part.shape[1]][part]
                if float(inside.mean()) >= (context.conf_threshold or 0.0):
                    shapes.append(self._shape(c, top, left, part, context.conv_mask_to_poly))
        return shapes

    def _shape(self, c: int, top: int, left: int, part: np.ndarray, as_polygon: bool) -> Any:
        if as_polygon:
            points = outline(part)[0] + np.array([left, top])
            return self._sdk.polygon(c, points.ravel().tolist())
        right, bottom = left + part.shape[1] - 1, top + part.shape[0] - 1  # the box's last pixels are in it
        return self._sdk.mask(c, [float(x) for x in (*runs_of(part), left, top, right, bottom)])


def create(path: str) -> DetectionFunction:
    """The function that CVAT's command line asks a module for, of a run's or a bundle's segmenter.

    Raises:
        InputError: no such segmenter, or CVAT's SDK is not installed.
    """
    _sdk()
    return DetectionFunction(load(path))


def _sdk() -> Any:
    try:
        import cvat_sdk.auto_annotation as sdk
    except ImportError as error:
        raise InputError(
            "CVAT's auto-annotation needs its SDK, which is not installed: pip install 'tag2mask[cvat]'"
        ) from error
    return sdk
