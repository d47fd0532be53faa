"""Masks of photos without tags, by a segmenter; and true masks for the oracle that measures what tags cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tag2mask import evaluate, pseudo, segment
from tag2mask.data.images import read_image
from tag2mask.plan.context import Context
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.stage import Measured, PhotoStage, PhotoWork
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
        oracle=oracle,
        measured=Measured("predictions", title, "val"),
        start=lambda context: _predict(context, trained, settings.single_stage),
    )


def _predict(context: Context, trained: str, single_stage: bool) -> PhotoWork:
    predictor = Predictor(context.settings, len(context.classes), context.read(trained), single_stage)
    return PhotoWork(
        read=lambda sample: read_image(sample.image_path),
        compute=predictor.probabilities,
        write=lambda sample, found: write_mask(context.folder, sample, predictor.mask(found)),
    )


class Predictor:
    """A trained segmenter with the settings of its inference.

    Args:
        settings: of the run.
        stage: of the trained segmenter.
        single_stage: whether that is the method.
    """

    def __init__(self, settings: RunSettings, classes: int, stage: StageFolder, single_stage: bool) -> None:
        self.inference = settings.inference
        self.segmenter, self.backbone = load_segmenter(settings, classes, stage, single_stage=single_stage)
        refine = settings.inference.refine
        self.refiner = None if refine == "none" else refiner(refine, settings.refine_long_side)

    def probabilities(self, samples: Sequence[Sample], pixels: Sequence[np.ndarray]) -> list[tuple[np.ndarray, Tensor]]:
        """Pixels and probabilities ``[1+classes height width]`` of each photo, not refined yet. No tags are used."""
        return [
            (image, segment.segment_photo(self.segmenter, self.backbone, image, self.inference)) for image in pixels
        ]

    def mask(self, found: tuple[np.ndarray, Tensor]) -> np.ndarray:
        """The index mask ``[height width]`` of one photo's pixels and probabilities, refined."""
        pixels, probabilities = found
        if self.refiner is not None:
            probabilities = segment.refined(pixels, probabilities, self.refiner)
        return pseudo.index_mask(probabilities)


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
