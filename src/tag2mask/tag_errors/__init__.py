"""Tags that lie: missing and wrong ones, ranked by classifiers that did not learn from their photo. No mask is seen.

:func:`find` looks at photos; what it gives is kept with a run (:func:`keep`, :func:`kept`), where the report and the
queue of `serve` read it, and written as a table of tags for a person to correct (:mod:`tag2mask.tag_errors.table`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.backbones import BackboneSettings
from tag2mask.errors import InputError, listed, some
from tag2mask.files import read_sealed, write_sealed
from tag2mask.tag_errors.features import write_features
from tag2mask.tag_errors.ranking import FEW, doubts, judged
from tag2mask.types import Dataset, SampleKey

__all__ = ["FILE", "DoubtedPhoto", "TagErrors", "find", "keep", "kept"]

FILE = "tag-errors.json"  # in a run folder


@dataclass(frozen=True, slots=True)
class DoubtedPhoto:
    """A photo and what is doubted about its tags.

    Attributes:
        doubt: larger where its tags are contradicted more; about 0 for most photos, 1 for a certain error.
        wrong, missing: classes whose tag looks wrong, and that look untagged though shown; empty for most photos.
    """

    key: SampleKey
    doubt: float
    wrong: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """In words; empty where nothing is suspected."""
        parts = [f"{name} looks wrong" for name in self.wrong] + [f"{name} looks missing" for name in self.missing]
        return ", ".join(parts)


@dataclass(frozen=True)
class TagErrors:
    """The photos of a data set, those whose tags are doubted most first.

    Attributes:
        not_judged: classes with too few photos with them or without them, or that the features do not tell.
        unreadable: photos that could not be read, which are not among ``photos``.
    """

    photos: tuple[DoubtedPhoto, ...]
    not_judged: tuple[str, ...] = ()
    unreadable: int = 0

    @property
    def suspected(self) -> tuple[DoubtedPhoto, ...]:
        """Those with a tag that looks wrong or missing."""
        return tuple(photo for photo in self.photos if photo.wrong or photo.missing)

    def to_text(self, limit: int = 20) -> str:
        """For a terminal: how many, and the first of them."""
        suspected = self.suspected
        wrong, missing = sum(len(p.wrong) for p in suspected), sum(len(p.missing) for p in suspected)
        lines = [
            f"tags that look wrong: {wrong}, that look missing: {missing}, in {len(suspected)} of "
            f"{some(len(self.photos), 'photo')}"
        ]
        lines += [f"  {photo.doubt:5.2f}  {photo.key[1]}: {photo.said}" for photo in suspected[:limit]]
        lines += [f"  and {len(suspected) - limit} more"] if len(suspected) > limit else []
        if self.not_judged:
            lines.append(
                f"fewer than {FEW} photos with or without them, or photos that look like the others, so nothing is "
                f"said of: {listed(self.not_judged)}"
            )
        lines += [f"{some(self.unreadable, 'photo')} cannot be read, so left out"] if self.unreadable else []
        return "\n".join(lines)


def find(dataset: Dataset, backbone: BackboneSettings, seed: int = 0) -> TagErrors:
    """Look at every photo once with a pretrained backbone, and rank what is said of it.

    Args:
        dataset: tagged photos (labels not None).

    Raises:
        InputError: no class has enough photos with and without it; weights that cannot be had.
    """
    tags = np.zeros((len(dataset), len(dataset.classes)), bool)
    for row, sample in enumerate(dataset.samples):
        tags[row, sorted(sample.labels or ())] = True
    if not judged(tags).any():
        raise InputError(
            f"no class has {FEW} photos with it and {FEW} without it, which a judgement of tags needs: add photos"
        )
    with tempfile.TemporaryDirectory(prefix="tag2mask-") as folder:
        features = write_features(dataset.samples, backbone, Path(folder) / "features.npy")
        readable = np.flatnonzero(~np.isnan(features[:, 0]))
        if not judged(tags[readable]).any():
            raise InputError(
                f"{some(len(tags) - len(readable), 'photo')} cannot be read, too few are left: see `tag2mask doctor`"
            )
        return _ranked(dataset, features, tags, readable, seed)


def _ranked(dataset: Dataset, features: np.ndarray, tags: np.ndarray, rows: np.ndarray, seed: int) -> TagErrors:
    of = doubts(features, tags[rows], seed, rows)
    order = np.argsort(-of.of_photos, kind="stable").tolist()
    named = lambda shown: tuple(dataset.classes[c] for c in np.flatnonzero(shown))  # noqa: E731
    photos = tuple(
        DoubtedPhoto(
            dataset.samples[int(rows[i])].key,
            round(float(of.of_photos[i]), 4),
            named(of.wrong[i]),
            named(of.missing[i]),
        )
        for i in order
    )
    unsure = tuple(name for name, known in zip(dataset.classes, of.told, strict=True) if not known)
    return TagErrors(photos, unsure, len(tags) - len(rows))


def keep(run: Path, errors: TagErrors, made_of: Sequence[str]) -> None:
    """Keep them in a run folder.

    Args:
        made_of: digests of the photos and tags that were judged.
    """
    rows = [[*photo.key, photo.doubt, photo.wrong, photo.missing] for photo in errors.photos]
    content = {"made of": made_of, "photos": rows, "not judged": errors.not_judged, "unreadable": errors.unreadable}
    write_sealed(run / FILE, content)


def kept(run: Path, made_of: Sequence[str]) -> TagErrors | None:
    """What was kept of these very photos and tags; None where nothing was, or it is of others, or damaged."""
    content = read_sealed(run / FILE)
    if content is None or content.get("made of") != list(made_of):
        return None
    photos = tuple(
        DoubtedPhoto((split, id_), doubt, tuple(wrong), tuple(missing))
        for split, id_, doubt, wrong, missing in content["photos"]
    )
    return TagErrors(photos, tuple(content["not judged"]), content["unreadable"])
