"""What is wrong with a data set, said before hours are spent on it.

A training begins with the same questions: :func:`survey` asks what needs no pixels, :func:`check_photos` what the
decoded photos tell; an error among the findings stops it (:func:`refuse_errors`). :func:`diagnose` asks both and
changes nothing. Truth is only read through :func:`tag2mask.evaluate.read_truth`, and never for anything but
measuring.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tag2mask.data import DataSettings, refuse_errors
from tag2mask.data.check import check_images
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.finding import LEVELS, Finding, Level
from tag2mask.data.samples import keys_of
from tag2mask.doctor.data_set import Survey, survey
from tag2mask.doctor.leakage import examine_leakage
from tag2mask.doctor.photos import examine_photos
from tag2mask.doctor.truth import examine_saliency, examine_truth, examine_truth_files
from tag2mask.errors import printable

__all__ = [
    "Finding",
    "Level",
    "Survey",
    "check_photos",
    "diagnose",
    "refuse_errors",
    "render",
    "survey",
]


def diagnose(path: Path | str, settings: DataSettings | None = None, workers: int | None = None) -> list[Finding]:
    """Everything worth saying about a data set, errors first.

    Args:
        path: the data set.
        settings: as training would use them.
        workers: threads that decode photos.
    """
    surveyed = survey(path, settings or DataSettings())
    checked = (check for dataset in surveyed.datasets.values() for check in check_images(dataset.samples, workers))
    photos = CheckedPhotos.of(map(asdict, checked))
    findings = [*surveyed.findings, *check_photos(surveyed, photos)]
    if photos.ids:
        findings.append(_space(photos))
    return in_order(findings)


def check_photos(surveyed: Survey, photos: CheckedPhotos) -> list[Finding]:
    """What the photos themselves tell, and the truth and saliency maps that belong to them.

    Args:
        surveyed: the data set, of :func:`survey`.
        photos: every photo of its splits, decoded once, in any order.
    """
    places = {split: photos.places(keys_of(dataset.samples)) for split, dataset in surveyed.datasets.items()}
    by_split = {split: photos.take(of_split[of_split >= 0]) for split, of_split in places.items()}
    findings = list(examine_photos(by_split, surveyed.settings))
    findings += examine_leakage(by_split, surveyed.datasets)
    findings += examine_truth_files(surveyed.datasets, surveyed.settings, all_splits=surveyed.all_splits)
    for split, dataset in surveyed.datasets.items():
        findings += examine_saliency(split, dataset, photos)
        findings += examine_truth(split, dataset, surveyed.selections[split].truth_values, photos)
    return in_order(findings)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, notes and figures."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def render(findings: Sequence[Finding]) -> str:
    """Findings as plain text, one paragraph each, with a last line that counts them."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {printable(finding.message)}")
        if finding.advice:
            lines.append(f"{'':<8} -> {printable(finding.advice)}")
    count = Counter(finding.level for finding in findings)
    if count["error"] or count["warning"]:
        errors, warnings = (f"{count[level]} {level}{'s' * (count[level] != 1)}" for level in ("error", "warning"))
        lines.append(f"{errors}, {warnings}")
    else:
        lines.append("no problems found")
    return "\n".join(lines)


def _space(photos: CheckedPhotos) -> Finding:
    """Whether a run of this data set fits on the disk one stands on."""
    pixels = int((photos.rows["height"].astype(np.int64) * photos.rows["width"]).sum())
    # Maps at stride 16 in half precision (about 2 classes a photo), masks and refined masks as PNG (under 0.1 byte a
    # pixel each), weights and checkpoints with optimiser state.
    needed = pixels * (2 * 2 / 256 + 0.3) + 1e9
    free = shutil.disk_usage(Path.cwd()).free
    if free < needed:
        return Finding(
            "error",
            f"{free / 1e9:.1f} GB are free in {Path.cwd()}; a run needs about {needed / 1e9:.1f} GB",
            "free some space or put the run elsewhere with --out",
        )
    return Finding("info", f"a run needs about {needed / 1e9:.1f} GB of disk; {free / 1e9:.0f} GB are free here")
