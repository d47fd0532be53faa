"""Masks of photos without tags, by a segmenter; and true masks for the oracle that measures what tags cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tag2mask import evaluate, pseudo, segment
from tag2mask.data.images import read_image
from tag2mask.localize import batches_by
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.stage import Measured, PhotoStage, PhotoWork, Record
from tag2mask.recipes import RunSettings
from tag2mask.refine import refiner
from tag2mask.stages import names
from tag2mask.stages.artefacts import write_mask
from tag2mask.stages.segmenter import load_segmenter, structure
from tag2mask.types import Sample


def predict_validation(settings: RunSettings, *, oracle: bool = False) -> PhotoStage:
    """Masks of the validation photos, without their tags."""
    trained = names.segmenters(settings, oracle=oracle)[-1]
    title = "Same segmenter, trained on true masks" if oracle else "Segmenter"
    return PhotoStage(
        name="predictions-oracle" if oracle else "predictions",
        title="predictions for validation photos" + " (oracle)" * oracle,
        reads=(trained,),
        settings=(*structure(settings), "inference", "refine_long_side"),
        facts=("val photos",),
        constants={"refiner": repr(refiner(settings.inference.refine, settings.refine_long_side))},
        split="val",
        keeps_records=True,
        oracle=oracle,
        measured=Measured("predictions", title, "val"),
        start=lambda context: _predict(context, trained, settings.single_stage),
    )


def _predict(context: Context, trained: str, single_stage: bool) -> PhotoWork:
    predictor = Predictor(context.settings, len(context.classes), context.read(trained), single_stage)

    def write(sample: Sample, output: Output) -> Record:
        mask, uncertainty = predictor.decided(output)
        write_mask(context.folder, sample, mask)
        return {"uncertainty": round(uncertainty, 5)}

    return PhotoWork(
        read=lambda sample: predictor.read(sample),
        compute=lambda samples, inputs: predictor.segmented(inputs),
        write=write,
        batches=lambda samples: predictor.batches(samples, context.size),
    )


Read = tuple[np.ndarray, list[Tensor]]
"""A photo's pixels ``[height width 3]`` uint8, and its views."""
Output = tuple[np.ndarray, segment.Segmented]
"""A photo's pixels ``[height width 3]`` uint8, and what the segmenter says of it."""


class Predictor:
    """A trained segmenter with the settings of its inference. It needs no tags.

    Args:
        settings: of the run.
        stage: of the trained segmenter.
        single_stage: whether that is the method.
    """

    def __init__(self, settings: RunSettings, classes: int, stage: StageFolder, single_stage: bool) -> None:
        segmenter, backbone = load_segmenter(settings, classes, stage, single_stage=single_stage)
        self.photos = segment.PhotoSegmenter(segment.folded(segmenter, backbone), backbone, settings.inference)
        refine = settings.inference.refine
        self.refiner = None if refine == "none" else refiner(refine, settings.refine_long_side)

    def batches(self, samples: Sequence[Sample], size_of: Callable[[Sample], tuple[int, int]]) -> list[list[Sample]]:
        """Photos that are segmented together."""
        photos = self.photos
        return batches_by(samples, lambda x: photos.group(size_of(x)), photos.settings.batch_size, photos.device)

    def read(self, sample: Sample) -> Read:
        """Decoded, and in its views; for a thread ahead."""
        pixels = read_image(sample.image_path)
        return pixels, self.photos.read(pixels)

    def segmented(self, inputs: Sequence[Read]) -> list[Output]:
        """Photos of one size of views, not refined yet."""
        sizes = [(pixels.shape[0], pixels.shape[1]) for pixels, _ in inputs]
        photos = self.photos(sizes, [views for _, views in inputs])
        moved = [segment.Segmented(p.cpu(), None if shown is None else shown.cpu()) for p, shown in photos]
        return [(pixels, photo) for (pixels, _), photo in zip(inputs, moved, strict=True)]

    def refined(self, output: Output, tags: frozenset[int] | None = None) -> tuple[Tensor, np.ndarray | None]:
        """Probabilities ``[labels height width]`` of one photo's pixels and probabilities, refined; and the value of
        each label in a mask, None: its number. For a thread behind.

        Args:
            tags: classes that the photo shows, the others are switched off; None: not known, any may be there.
        """
        pixels, photo = output
        probabilities, values = photo.probabilities, None
        if tags is not None:
            probabilities, present = segment.gate_by_tags(probabilities, tags)
            values = pseudo.mask_values(present)
        elif self.photos.is_empty(photo):
            return torch.cat([torch.ones_like(probabilities[:1]), torch.zeros_like(probabilities[1:])]), None
        if self.refiner is not None and len(probabilities) > 1:
            probabilities = segment.refined(pixels, probabilities, self.refiner, self.photos.settings.min_growth)
        return probabilities, values

    def mask(self, output: Output, tags: frozenset[int] | None = None) -> np.ndarray:
        """The index mask ``[height width]`` of that."""
        probabilities, values = self.refined(output, tags)
        mask = pseudo.index_mask(probabilities)
        return mask if values is None else values[mask]

    def decided(self, output: Output) -> tuple[np.ndarray, float]:
        """The index mask; and its uncertainty, one less the mean of the best label's probability. Of a photo that is
        taken to show nothing it is the object that was not believed, times how likely one is there."""
        probabilities, _ = self.refined(output)
        mask, photo = pseudo.index_mask(probabilities), output[1]
        if photo.presence is not None and self.photos.is_empty(photo):
            return mask, float(photo.presence.amax() * (1 - photo.probabilities[0].mean()))
        return mask, float(1 - probabilities.amax(0).mean())


def make_oracle_masks(settings: RunSettings) -> PhotoStage:
    """The truth of the training photos as masks, for the ``oracle_masks`` measurement only."""
    return PhotoStage(
        name="oracle-masks",
        title="ORACLE: true masks, to measure what tags cost; not the result",
        facts=("truth",),
        oracle=True,
        start=_oracle,
    )


def _oracle(context: Context) -> PhotoWork:
    dataset = context.train
    return PhotoWork(
        write=lambda sample, nothing: evaluate.write_truth_for_oracle_training(
            sample, dataset, context.folder.path(sample.id, ".png")
        )
    )
