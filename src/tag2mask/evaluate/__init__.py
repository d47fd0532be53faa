"""Masks against truth -> Scores. The only package that opens ground-truth masks, in ``truth`` alone.

Everything measured is counts of photos that add up (``+``) and go through JSON: :class:`Scores`, :class:`OracleSweep`,
:class:`TagAgreement`. Each has a function for one photo and one for a data set.
"""

from tag2mask.evaluate.agreement import TagAgreement, agreement_photo, compare_with_tags
from tag2mask.evaluate.classes import (
    BACKGROUND_NAME,
    CLASSES_FILE,
    as_written,
    classes_in,
    read_classes,
    with_background,
    write_classes,
)
from tag2mask.evaluate.counting import boundary_counts, confusion_matrix
from tag2mask.evaluate.datasets import check_truth, evaluate_masks, score_photo
from tag2mask.evaluate.false_alarms import FalseAlarms
from tag2mask.evaluate.folders import evaluate_folders
from tag2mask.evaluate.notes import notes
from tag2mask.evaluate.scores import Scores
from tag2mask.evaluate.sweep import SWEEP, OracleSweep, recall_at, sweep_photo, sweep_thresholds
from tag2mask.evaluate.truth import has_truth, read_truth, write_truth_for_oracle_training

__all__ = [
    "BACKGROUND_NAME",
    "CLASSES_FILE",
    "SWEEP",
    "FalseAlarms",
    "OracleSweep",
    "Scores",
    "TagAgreement",
    "agreement_photo",
    "as_written",
    "boundary_counts",
    "check_truth",
    "classes_in",
    "compare_with_tags",
    "confusion_matrix",
    "evaluate_folders",
    "evaluate_masks",
    "has_truth",
    "notes",
    "read_classes",
    "read_truth",
    "recall_at",
    "score_photo",
    "sweep_photo",
    "sweep_thresholds",
    "with_background",
    "write_classes",
    "write_truth_for_oracle_training",
]
