"""Fetch a public data set and leave it in a layout that can be read.

``voc2012`` (2 GB) and ``pets`` (0.8 GB) come through torchvision's downloaders, which compare checksums. ``coco2014``
(19 GB) is not fetched: its layout is checked, and the error says what to get.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from tag2mask.data.ids import absolute
from tag2mask.data.images import write_index_mask
from tag2mask.data.instances import read_instances
from tag2mask.data.reading import text_lines
from tag2mask.errors import InputError, listed, unknown
from tag2mask.types import Dataset, Sample

log = logging.getLogger("tag2mask")

DATASETS = ("voc2012", "pets", "coco2014")

_VOC_IMAGES = 17_125  # photos in JPEGImages of the 2012 trainval archive
_COCO_ARCHIVES = {
    "annotations/instances_train2014.json": "annotations_trainval2014.zip",
    "annotations/instances_val2014.json": "annotations_trainval2014.zip",
    "train2014": "train2014.zip",
    "val2014": "val2014.zip",
}


def download(name: str, to: Path | str) -> Path:
    """Make sure a data set is under ``to``; what is already there is kept.

    Args:
        name: one of :data:`DATASETS`.
        to: a folder, made if need be.

    Returns:
        the data set's folder, to be given to :func:`tag2mask.data.load`.

    Raises:
        InputError: an unknown name, no connection, a download that does not match its checksum, COCO not complete.
    """
    to = absolute(Path(to))
    above = next(folder for folder in (to, *to.parents) if folder.exists())
    if not above.is_dir():
        raise InputError(f"--to {to}: {above} is a file; give a folder")
    if name == "voc2012":
        return _voc2012(to)
    if name == "pets":
        return _pets(to)
    if name == "coco2014":
        return _coco2014(to)
    raise unknown("data set", name, DATASETS)


def _fetched(name: str, to: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{name} could not be downloaded to {to} ({reason}): check the connection and the free space and run again, "
        "or unpack its archives there yourself"
    )


def _voc2012(to: Path) -> Path:
    root = to / "VOCdevkit" / "VOC2012"
    images = root / "JPEGImages"
    # torchvision unpacks every time it is asked; a complete folder need not be
    if not (images.is_dir() and sum(1 for _ in images.iterdir()) >= _VOC_IMAGES):
        from torchvision.datasets import VOCSegmentation

        to.mkdir(parents=True, exist_ok=True)
        try:
            VOCSegmentation(to, year="2012", image_set="train", download=True)
        except (OSError, RuntimeError) as error:
            raise _fetched("voc2012", to, error) from error
    if not (root / "ImageSets" / "Segmentation" / "train_aug.txt").is_file():
        log.info(
            "%s has VOC's own 1,464 training photos; the field adds SBD: put train_aug.txt into ImageSets/Segmentation "
            "to train on 10,582 (tags come from Annotations, no masks are needed)",
            root,
        )
    return root


def _pets(to: Path) -> Path:
    root = to / "oxford-iiit-pet"
    if not (root / "val.csv").is_file():
        from torchvision.datasets import OxfordIIITPet

        to.mkdir(parents=True, exist_ok=True)
        try:
            OxfordIIITPet(to, download=True)
        except (OSError, RuntimeError) as error:
            raise _fetched("pets", to, error) from error
        arrange_pets(root)
    return root


def arrange_pets(root: Path) -> None:
    """Bring the unpacked Oxford-IIIT Pet archives into the *folder* layout: 37 breeds, trimaps as truth.

    Of a trimap, 1 (animal) becomes the breed's value, 2 (background) 0, and 3 (the undecided border) 255. The trimaps
    are truth, so they are read by ``evaluate`` like any other truth. A photo whose trimap cannot be used has no truth.

    Raises:
        InputError: a list is missing or its lines are not ``name class species number``.
    """
    from tag2mask.evaluate import read_truth  # here: it stands below this package, and only this needs it

    breeds: dict[int, str] = {}
    tables: dict[str, list[tuple[str, int]]] = {}
    for split, source in (("train", "trainval.txt"), ("val", "test.txt")):
        path = root / "annotations" / source
        for number, line in text_lines(path):
            words = line.split()
            if words[0].startswith("#"):
                continue
            if len(words) < 2 or not words[1].isdecimal():
                raise InputError(f"{path} line {number} is not 'name class species number': unpack the archive again")
            tables.setdefault(split, []).append((words[0], int(words[1])))
            breeds[int(words[1])] = words[0].rpartition("_")[0]
    order = {value: place for place, value in enumerate(sorted(breeds), 1)}
    trimaps = Dataset("trimaps", ("animal", "background", "border"), (), (1, 2, 3))
    for id_, breed in (row for table in tables.values() for row in table):
        target = root / "masks" / f"{id_}.png"
        if not target.is_file():  # written whole, so an interrupted arrangement goes on here
            photo = Sample(
                id_,
                root / "images" / f"{id_}.jpg",
                labels=None,
                mask_path=root / "annotations" / "trimaps" / f"{id_}.png",
            )
            try:
                trimap = read_truth(photo, trimaps)
            except InputError as error:
                log.warning("pets: %s goes without truth: %s", id_, error)
                continue
            mask = np.zeros_like(trimap)
            mask[trimap == 1] = order[breed]
            mask[trimap == 3] = 255
            write_index_mask(target, mask)
    _write(root / "classes.txt", "".join(f"{breeds[value]}\n" for value in sorted(breeds)))
    for split, table in tables.items():  # val.csv last: its presence means done
        lines = "".join(f"{id_}.jpg,{breeds[breed]}\n" for id_, breed in table)
        _write(root / f"{split}.csv", "image,tags\n" + lines)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _coco2014(to: Path) -> Path:
    missing = [
        path
        for path in _COCO_ARCHIVES
        if not (to / path).exists() and not (path.endswith("2014") and (to / "images" / path).is_dir())
    ]
    if missing:
        archives = dict.fromkeys(_COCO_ARCHIVES[path] for path in missing)
        raise InputError(
            f"coco2014 (19 GB) is not downloaded for you: get {', '.join(archives)} from cocodataset.org/#download and "
            f"unzip into {to}; missing there: {listed(missing, 4)}"
        )
    for split in ("train2014", "val2014"):
        instances = read_instances(to / "annotations" / f"instances_{split}.json")
        log.info("coco %s: %d photos, %d classes", split, len(instances.photos), len(instances.categories))
    return to
