"""Artefacts of photos on disk: maps as npz, masks as palette PNG. What cannot be read is moved aside and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tag2mask.archives import check_archive
from tag2mask.data.images import image_size, read_index_mask, write_index_mask
from tag2mask.errors import DamagedArtefact, InputError, UnreadableImage
from tag2mask.files import atomic
from tag2mask.plan.folder import StageFolder
from tag2mask.types import IGNORE, LocalizationMaps, Sample


def write_maps(path: Path, maps: LocalizationMaps) -> None:
    """One photo's localization maps as npz: half precision, present classes only.

    Raises:
        InputError: they are not finite.
    """
    if not np.isfinite(maps.scores).all():
        raise InputError(
            f"the maps of {maps.id} are not finite: the settings or weights that made them are out of bounds (a high "
            "learning rate, an extreme --propagation or scale)"
        )
    arrays = {
        "classes": np.asarray(maps.classes, np.int16),
        "scores": maps.scores.astype(np.float16),
        "size": np.asarray(maps.size, np.int32),
    }
    if maps.covered is not None:
        arrays["covered"] = np.asarray(maps.covered, np.float32)
    with atomic(path, "wb") as file:
        np.savez(file, **arrays)


def read_maps(path: Path, id: str) -> LocalizationMaps:
    """Maps written by :func:`write_maps`.

    Raises:
        DamagedArtefact: they cannot be read, or are not finite.
    """
    try:
        check_archive(path)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            classes = tuple(int(c) for c in file["classes"])
            height, width = (int(v) for v in file["size"])
            covered = float(file["covered"]) if "covered" in file else None
            scores = file["scores"]
        if scores.ndim != 3 or len(scores) != len(classes) or not np.isfinite(scores).all():
            raise ValueError("its scores are not finite maps of its classes")
    except (MemoryError, PermissionError):
        raise  # says nothing of the file
    except Exception as error:  # zip files and arrays raise many types when they are damaged
        raise DamagedArtefact(path, str(error) or type(error).__name__) from error
    return LocalizationMaps(id, classes, scores, (height, width), covered)


@dataclass(frozen=True)
class MapReader:
    """Reads the maps of photos from a finished stage."""

    stage: StageFolder

    def __call__(self, sample: Sample) -> LocalizationMaps:
        return read_maps(self.stage.path(sample.id, ".npz"), sample.id)


@dataclass(frozen=True)
class MaskReader:
    """Reads the masks of photos ``[height width]`` uint8 from a finished stage.

    Raises:
        DamagedArtefact: one cannot be read, or holds a value that is none of the classes.
        InputError: one has another size than its photo.
    """

    stage: StageFolder
    classes: Sequence[str]

    def __call__(self, sample: Sample) -> np.ndarray:
        path = self.stage.path(sample.id, ".png")
        try:
            mask = read_index_mask(path)
        except UnreadableImage as error:
            raise DamagedArtefact(path, str(error)) from error
        if (strange := int(mask[mask != IGNORE].max(initial=0))) > len(self.classes):
            raise DamagedArtefact(path, f"it holds the value {strange}, and no class is above {len(self.classes)}")
        _check_size(path, mask, sample)
        return mask

    def if_any(self, sample: Sample) -> np.ndarray | None:
        """None for a photo that got no mask (the saliency rule gives none without saliency)."""
        return None if sample.id in self._without else self(sample)

    @cached_property
    def _without(self) -> frozenset[str]:
        return frozenset(self.stage.manifest().get("without", ()))


def _check_size(path: Path, mask: np.ndarray, sample: Sample) -> None:
    """Refuse a mask of another photo. It stays where it is: the photo may be what was replaced."""
    try:
        height, width = image_size(sample.image_path)
    except UnreadableImage:  # gone since: that is said where the photo is needed
        return
    if mask.shape != (height, width):
        raise InputError(
            f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels and its photo {width}x{height}: if the photo is as it "
            "was, remove the mask; then run the command of its run again, which makes it anew"
        )


def write_mask(stage: StageFolder, sample: Sample, mask: np.ndarray) -> None:
    """The photo's mask ``[height width]`` uint8 among a stage's artefacts."""
    path = stage.path(sample.id, ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_index_mask(path, mask)
