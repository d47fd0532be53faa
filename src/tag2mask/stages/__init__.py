"""What each stage of a run does. A stage opens its folder, does what is missing, and marks it done.

Truth enters in two places only: the scores, and the segmenter of an ``oracle_masks`` run, kept and named apart.
"""

from tag2mask.stages.label import (
    check_network,
    make_maps,
    make_masks,
    train_affinity,
    train_method,
    train_students,
    unrefined,
    walk_maps,
)
from tag2mask.stages.scores import make_scores
from tag2mask.stages.segmenter import (
    load_segmenter,
    make_oracle_masks,
    predict_validation,
    predictions,
    segmenter_backbone,
    train_segmenter,
)
from tag2mask.stages.work import (
    Work,
    map_names,
    mask_names,
    network_names,
    prepare,
    read_images_stage,
    readable,
    record_sitting,
    say,
    segmenter_names,
)

__all__ = [
    "Work",
    "check_network",
    "load_segmenter",
    "make_maps",
    "make_masks",
    "make_oracle_masks",
    "make_scores",
    "map_names",
    "mask_names",
    "network_names",
    "predict_validation",
    "predictions",
    "prepare",
    "read_images_stage",
    "readable",
    "record_sitting",
    "say",
    "segmenter_backbone",
    "segmenter_names",
    "train_affinity",
    "train_method",
    "train_segmenter",
    "train_students",
    "unrefined",
    "walk_maps",
]
