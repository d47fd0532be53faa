"""The one training loop: methods and segmenters alike, on accelerate (devices, precision, processes, trackers).

Random numbers of step k are seeded from (seed, k) and batches are a function of (seed, epoch), so a run interrupted
anywhere continues from its last checkpoint as if nothing had happened: to the bit on a CPU.
"""

from tag2mask.training.checkpoint import load_model, save_model
from tag2mask.training.held_out import TagPrecision, hold_out, mean_precision, tag_precision
from tag2mask.training.loop import fit
from tag2mask.training.optimizer import clipped_together, parameter_groups, schedule
from tag2mask.training.settings import TrainSettings

__all__ = [
    "TagPrecision",
    "TrainSettings",
    "clipped_together",
    "fit",
    "hold_out",
    "load_model",
    "mean_precision",
    "parameter_groups",
    "save_model",
    "schedule",
    "tag_precision",
]
