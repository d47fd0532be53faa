"""A folder of saliency maps for a data set, as its layout finds them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask import concurrency, data
from tag2mask.data.images import read_image
from tag2mask.errors import InputError, UnreadableImage, some
from tag2mask.files import check_own_folder, write_json
from tag2mask.progress import track
from tag2mask.saliency.network import SaliencyDetector, SaliencyModel, write_saliency
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")

Found = np.ndarray | UnreadableImage
MADE_BY = ".saliency.json"  # says that the maps in a folder are of this module
BYTES = 6e6  # of a decoded photo whose size is not known


def make_saliency_maps(path: Path | str, out: Path | str, settings: data.DataSettings | None = None) -> list[Path]:
    """A grey map of every photo of a data set, of all splits: ``out/<id>.png``. Gives the paths written.

    Photos that cannot be read are named and passed over.

    Args:
        out: best ``saliency/`` in the data set's folder, where it is found.

    Raises:
        InputError: the extra is not installed, no data set, no photo that can be read, a photo would be written over.
    """
    model, out = SaliencyModel.installed(), Path(out).absolute()
    opened = data.open_data(path, settings or data.DataSettings())
    every = (s for split in opened.reader.splits() for s in data.read(opened, split=split).dataset.samples)
    samples = [*{sample.image_path: sample for sample in every}.values()]  # lists of a data set may overlap
    places: dict[Path, Sample] = {}
    for sample in samples:
        if (other := places.setdefault(_place(out, sample), sample)) is not sample:
            raise InputError(f"{other.image_path} and {sample.image_path} are both called {sample.id}, and one map "
                             "cannot be of both: rename one of them")  # fmt: skip
        if _place(out, sample).resolve() == sample.image_path.resolve():
            raise InputError(f"--out {out} holds the photos themselves: the map of {sample.image_path.name} would "
                             "replace it; give another folder")  # fmt: skip
    check_own_folder(out, MADE_BY)
    log.info("%s: %s", opened.line, model.line)
    write_json(out / MADE_BY, {"model": model.line})
    detector = SaliencyDetector(model)

    def read(sample: Sample) -> Found:
        try:
            return read_image(sample.image_path)
        except UnreadableImage as error:
            return error

    def detect(batch: Sequence[Sample], photos: Sequence[Found]) -> list[Found]:
        return [photo if isinstance(photo, UnreadableImage) else detector(photo) for photo in photos]

    def write(sample: Sample, found: Found) -> Found | Path:
        if isinstance(found, UnreadableImage):
            return found
        write_saliency(_place(out, sample), found)
        return _place(out, sample)

    each = [[sample] for sample in samples]
    written = []
    done = concurrency.pipelined(each, read, detect, write, cost=lambda sample: BYTES, workers=0)
    for _, result in track(done, "saliency maps", len(samples)):
        if isinstance(result, Path):
            written.append(result)
        else:
            log.info("set aside: %s", result)
    if not written:
        raise InputError(f"none of {some(len(samples), 'photo')} of {path} can be read: give photos in a common format")
    return sorted(written)


def _place(out: Path, sample: Sample) -> Path:
    """Where the layouts look for the map of a photo."""
    return out / f"{sample.id}.png"
