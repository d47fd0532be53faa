"""The run's segmenter for the page: a photo's probabilities are computed once, its masks follow tags from them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import pseudo, segment
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.refine import refiner
from tag2mask.serve.pixels import Size
from tag2mask.stages import names
from tag2mask.stages.predictions import Predictor

KEPT_BYTES = 512 << 20  # of probabilities and pixels
MAP_PIXELS = 40_000  # of maps as the page gets them
VISIBLE = 0.1  # a class whose probability stays below it everywhere has no map worth a colour


@dataclass(frozen=True)
class Segmented:
    """A photo at the page's size and what the segmenter says of it, tags unknown."""

    pixels: np.ndarray  # [height width 3] uint8
    size: Size  # of the photo itself
    probabilities: Tensor  # [1+classes height width] float16
    is_empty: bool  # the segmenter finds none of the classes likely

    @property
    def bytes(self) -> int:
        return self.pixels.nbytes + self.probabilities.numel() * 2


class Segmenting:
    """The segmenter of a run, loaded when it is first asked for. One photo at a time goes through it."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._predictor: Predictor | None = None
        self._busy = threading.Lock()
        self._kept: OrderedDict[str, Segmented] = OrderedDict()

    @property
    def there(self) -> bool:
        """Whether the run has a trained segmenter."""
        return self._name in self.execution.folders

    @property
    def refines(self) -> bool:
        return self.execution.settings.inference.refine != "none"

    @property
    def _name(self) -> str:
        return names.segmenters(self.execution.settings)[-1]

    def kept(self, key: str) -> Segmented | None:
        with self._busy:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def of(self, key: str, read: Callable[[], tuple[np.ndarray, Size]]) -> Segmented:
        """A photo's probabilities, computed unless they are kept.

        Args:
            key: what they are kept under.
            read: gives the photo's pixels at the page's size, and its own size.

        Raises:
            InputError: the run has no segmenter.
        """
        with self._busy:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            pixels, size = read()
            work = (pixels.shape[0], pixels.shape[1])
            photos = self._loaded().photos
            photo = photos([work], [photos.read(pixels)])[0]
            self._kept[key] = Segmented(pixels, size, photo.probabilities.half().cpu(), photos.is_empty(photo))
            while len(self._kept) > 1 and sum(one.bytes for one in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[key]

    def mask(self, photo: Segmented, tags: Collection[int] | None, *, refine: bool) -> np.ndarray:
        """The mask ``[height width]`` uint8 at the page's size.

        Args:
            tags: the classes that the photo shows; None: nobody said.
            refine: sharpen it as the run's predictions are; takes a moment.
        """
        probabilities = photo.probabilities.float()
        own = self.execution.settings.inference
        sharpen = refiner(own.refine, self.execution.settings.refine_long_side)
        if tags is None:
            if photo.is_empty:
                return np.zeros(photo.pixels.shape[:2], np.uint8)
            if refine and self.refines:
                probabilities = segment.refined(photo.pixels, probabilities, sharpen, own.min_growth)
            return pseudo.index_mask(probabilities)
        scores, present = segment.gate_by_tags(probabilities, tags)
        if refine and self.refines and len(present):
            scores = segment.refined(photo.pixels, scores, sharpen, own.min_growth)
        return pseudo.decide("the photo", present, scores, pseudo.PseudoSettings(margin=0.0)).mask

    def maps(self, photo: Segmented) -> tuple[tuple[int, ...], np.ndarray]:
        """Classes that the segmenter sees at all, and their probabilities ``[present rows columns]`` in [0, 1]."""
        scores = photo.probabilities[1:].float()
        present = tuple(int(c) for c in (scores.amax((1, 2)) > VISIBLE).nonzero()[:, 0])
        scale = min(1.0, (MAP_PIXELS / (scores.shape[1] * scores.shape[2])) ** 0.5)
        rows, columns = (max(1, round(side * scale)) for side in scores.shape[1:])
        if not present:
            return (), np.zeros((0, rows, columns), np.float32)
        small = F.interpolate(scores[list(present)][None], (rows, columns), mode="area")[0]
        return present, small.numpy()

    def _loaded(self) -> Predictor:
        if self._predictor is None:
            if not self.there:
                raise InputError(
                    f"{self.execution.run.folder} has no finished segmenter for its photos, tags and settings as they "
                    "are now: run `tag2mask train` to its end first"
                )
            settings, folder = self.execution.settings, self.execution.folders[self._name]
            classes = len(self.execution.data.train.classes)
            with torch.inference_mode():
                self._predictor = Predictor(settings, classes, folder, settings.single_stage)
        return self._predictor
