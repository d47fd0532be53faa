"""Every photo is decoded once: its size, the digest of its bytes, or why it cannot be used."""

from __future__ import annotations

from dataclasses import asdict

from tag2mask import processes
from tag2mask.data.images import CheckedImage, check_image
from tag2mask.plan.context import Context
from tag2mask.plan.facts import stamp
from tag2mask.plan.stage import PhotoStage, PhotoWork, Record
from tag2mask.types import Sample

RECORD = {name: (type(value),) for name, value in asdict(CheckedImage("")).items()} | {"error": (str, type(None))}


def check_photos(*, verify: bool) -> PhotoStage:
    """The first stage of every plan.

    Args:
        verify: read all bytes again, whatever sizes and times of the files say.
    """

    def stamp_of(path: str) -> list[int]:
        return [*stamp(path), *([processes.started()] if verify else [])]

    return PhotoStage(
        name="images",
        title="checking photos",
        facts=("files",),
        split="all",
        suffix=None,
        keeps_records=True,
        record=RECORD,
        stamp=stamp_of,
        start=_start,
    )


def _start(context: Context) -> PhotoWork:
    return PhotoWork(read=check_image, write=_write)


def _write(sample: Sample, checked: CheckedImage) -> Record:
    return asdict(checked)
