"""Masks leave for annotation tools and come back: one file a format, all in :data:`FORMATS`.

A format writes the masks of photos into a folder, says what it could not hold, and reads what a person made of them.
Whether those photos and classes are a run's is checked by :mod:`tag2mask.corrections`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tag2mask.errors import InputError, unknown
from tag2mask.exchange import coco, cvat, label_studio, labelme, png, voc, yolo
from tag2mask.exchange.photos import About, Drawn, Format, MaskedPhoto

__all__ = ["FORMATS", "About", "Drawn", "Format", "MaskedPhoto", "check_classes", "format_of"]

FORMATS: dict[str, Format] = {
    "coco": Format("COCO instances JSON, one RLE a class and photo", coco.write, coco.read),
    "label-studio": Format(
        "Label Studio tasks with brush predictions, and the labelling configuration",
        label_studio.write,
        label_studio.read,
        refuses=label_studio.refuses,
    ),
    "cvat": Format("CVAT for images 1.1, one mask a connected part", cvat.write, cvat.read, refuses=cvat.refuses),
    "labelme": Format("labelme JSON, one mask a class and photo", labelme.write, labelme.read, refuses=labelme.refuses),
    "yolo": Format(
        "YOLO outlines: one polygon a connected part, holes filled",
        yolo.write,
        yolo.read,
        exact=False,
        as_left=yolo.as_left,
    ),
    "voc": Format("PASCAL VOC: palette PNG, lists, photos", voc.write, voc.read, refuses=voc.refuses),
    "png": Format("index PNG alone: 0 background, c + 1 class c, 255 undecided", png.write, png.read),
}


def format_of(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: there is none; the nearest ones are in the message.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Whether a format can hold these names of classes.

    Raises:
        InputError: one cannot be written in it.
    """
    for of_class in classes:
        if reason := format_of(name).refuses(of_class):
            raise InputError(
                f"the class '{of_class}' cannot be written as {name}: {reason}; rename it in the data set, or choose "
                "another format (coco holds any name)"
            )
