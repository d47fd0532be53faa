"""Reads an export with the format's own reader, in an environment of its own: ``python read.py FORMAT FOLDER OUT.npz``.

Gives, for each photo's name and class, its pixels. Knows nothing of tag2mask.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Layer = tuple[str, str, np.ndarray]
"""Photo's name, class, pixels."""


def label_studio(folder: Path) -> Iterator[Layer]:
    """Its SDK: every prediction is valid for the configuration; its converter's decoder gives the pixels."""
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "labelling.xml").read_text())
    interface.validate()
    for task in json.loads((folder / "tasks.json").read_text()):
        (prediction,) = task["predictions"]
        errors = interface.validate_prediction(prediction, return_errors=True)
        assert not errors, errors
        for result in prediction["result"]:
            value, size = result["value"], (result["original_height"], result["original_width"])
            canvas = brush.decode_rle(value["rle"]).reshape(*size, 4)
            assert set(np.unique(canvas)) <= {0, 255}
            yield task["data"]["tag2mask"], value["brushlabels"][0], canvas[..., 3] > 0


def labelme(folder: Path) -> Iterator[Layer]:
    """Its file's own reader, which also opens the photo and compares its size."""
    from labelme._label_file import read_label_file

    for path in sorted(folder.rglob("*.json")):
        content = read_label_file(str(path))
        declared = json.loads(path.read_text())
        for shape in content.shapes:
            (left, top), (right, bottom) = (map(int, point) for point in shape["points"])
            pixels = np.zeros((declared["imageHeight"], declared["imageWidth"]), bool)
            pixels[top : bottom + 1, left : right + 1] = shape["mask"]  # the box's last pixel is in it
            yield content.other_data["tag2mask"]["image"], shape["label"], pixels


def datumaro(kind: str, folder: Path) -> Iterator[Layer]:
    """Datumaro, which CVAT itself exports and imports with."""
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    data = Dataset.import_from(str(folder), kind)
    names = data.categories()[AnnotationType.label]
    for item in data:
        for shape in item.annotations:
            if shape.type == AnnotationType.mask:
                yield item.id, names[shape.label].name, np.asarray(shape.image).astype(bool)


READERS = {
    "label-studio": label_studio,
    "labelme": labelme,
    "cvat": lambda folder: datumaro("cvat", folder),
    "voc": lambda folder: datumaro("voc_segmentation", folder),
}


def main(name: str, folder: str, out: str) -> None:
    layers = list(READERS[name](Path(folder)))
    index = [[photo, of_class] for photo, of_class, _ in layers]
    np.savez(out, index=json.dumps(index), **{str(i): pixels for i, (_, _, pixels) in enumerate(layers)})


if __name__ == "__main__":
    main(*sys.argv[1:])
