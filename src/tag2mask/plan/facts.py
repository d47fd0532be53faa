"""What a run knows of its data apart from the settings: the photos that can be read, and digests of everything that
decides.

Digests are of bytes. They are remembered with the size and time of the file they are of, so that a file is read again
only when one of those changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tag2mask import methods, segment
from tag2mask.backbones import weights_digest
from tag2mask.data.check import CheckedImage
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.samples import Chosen, Labels, Samples, domains_of, keys_of, label_counts, labels_of
from tag2mask.errors import InputError, some
from tag2mask.files import atomic, bytes_digest, digest, digest_of_rows, read_jsonl
from tag2mask.plan.source import Source
from tag2mask.plan.stage import Fact
from tag2mask.recipes import propagation_backbone
from tag2mask.types import Dataset, PhotoFacts, Sample, SampleKey, drawn_on

OUTSIDE: tuple[Fact, ...] = ("weights", "segmenter weights", "propagation weights", "source")
"""Facts of files that need not be there any more when a finished run is read."""


def stamp(path: Path | str) -> list[int]:
    """Size and times of a file: what shows, without reading it, that it changed. The time of its last change of state
    cannot be set, so a file that was replaced by one of the same size and time shows too. Empty where it cannot be
    read.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - there may be a million
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class DigestCache:
    """Digests of files by path, size and time.

    Args:
        path: where they are kept.
        verify: read every file again, whatever its size and time say.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        lines = [] if verify else read_jsonl(path)
        self.known = {
            line["file"]: (line["stamp"], line["digest"])
            for line in lines
            if {"file", "stamp", "digest"} <= line.keys()
        }
        self.changed = False

    def of(self, file: Path) -> str:
        name, now = str(file), stamp(file)
        if self.known.get(name, (None, ""))[0] != now:
            self.known[name], self.changed = (now, bytes_digest(file)), True
        return self.known[name][1]

    def save(self) -> None:
        if not self.changed:
            return
        with atomic(self.path) as opened:
            for name, (when, content) in self.known.items():
                opened.write(json.dumps({"file": name, "stamp": when, "digest": content}) + "\n")
        self.changed = False


@dataclass
class RunData:
    """The photos of a run and what is known of them.

    Before the photos were checked, ``photos`` is empty and the data sets are as they are listed.
    """

    path: Path
    train: Dataset
    val: Dataset | None
    settings: Any  # RunSettings
    digests: DigestCache
    photos: Mapping[SampleKey, PhotoFacts] = field(default_factory=dict)
    set_aside: Sequence[CheckedImage] = ()  # photos that cannot be read
    own_tags: Mapping[SampleKey, tuple[str, ...]] = field(default_factory=dict)
    # the data set's, of photos whose tags a person corrected in review
    corrected: Mapping[SampleKey, Path] = field(default_factory=dict)  # masks of training photos to learn from
    drawn_on: Mapping[SampleKey, str] = field(default_factory=dict)  # digests of the photos that those were drawn on
    as_made: Mapping[Fact, str] = field(default_factory=dict)  # for readers: what is out of reach now, as it was

    @property
    def samples(self) -> list[Sample]:
        """All photos, training ones first."""
        return [*self.train.samples, *(self.val.samples if self.val else ())]

    @property
    def retagged(self) -> int:
        """Training photos whose tags a person corrected in review."""
        return sum(sample.key in self.own_tags for sample in self.train.samples) if self.own_tags else 0

    @property
    def taught(self) -> list[SampleKey]:
        """Training photos of which a person's mask is to be learned from."""
        return [s.key for s in self.train.samples if s.key in self.corrected] if self.corrected else []

    @property
    def shared(self) -> int:
        """Photos to measure on that are also learned from (`--data.shared-photos measure`), by their bytes."""
        if self.settings.data.shared_photos == "refuse" or self.val is None:
            return 0
        learned = {self.photos[s.key].digest for s in self.train.samples if s.key in self.photos}
        return sum(self.photos[s.key].digest in learned for s in self.val.samples if s.key in self.photos)

    @cached_property
    def source(self) -> Source | None:
        """The run that trainings start from."""
        folder = self.settings.start_from
        return None if folder is None else Source.opened(folder)

    def checked(self, photos: CheckedPhotos) -> RunData:
        """The same, with the photos that could be read.

        Args:
            photos: what the stage that checks them found.

        Raises:
            InputError: too few are left.
        """
        train = _readable(self.train, photos)
        val = None if self.val is None else _readable(self.val, photos)
        bad = [*photos.unreadable()]
        if bad:  # there are records of photos that left the data set
            there = {*keys_of(self.train.samples), *(keys_of(self.val.samples) if self.val is not None else ())}
            bad = [one for one in bad if one.key in there]
        if not len(train):
            first = f"; {bad[0].error}" if bad else ""
            raise InputError(f"none of {some(len(self.train), 'training photo')} of {self.path} can be read{first}")
        shown = {label for labels in label_counts(train) for label in labels or ()}
        for label, name in enumerate(train.classes):
            if label not in shown:
                raise InputError(
                    f"every photo tagged {name} in {self.path} is unreadable: mend them or leave the class out"
                )
        corrected = {
            key: path for key, path in self.corrected.items() if drawn_on(self.drawn_on.get(key, ""), key, photos)
        }
        return replace(self, train=train, val=val if val else None, photos=photos, set_aside=bad, corrected=corrected)

    def fact(self, name: Fact) -> str:
        """The digest that stands for a fact."""
        try:
            return self._facts[name]()
        except InputError:
            if name in self.as_made:
                return self.as_made[name]
            raise

    @cached_property
    def _facts(self) -> dict[Fact, Callable[[], str]]:
        train, val = self.train, self.val
        lazily: dict[Fact, Callable[[], str]] = {
            "files": lambda: "",  # its stage compares the stamp of every photo
            "photos": lambda: self._content(train),
            "tags": lambda: _tags(train),
            "saliency": lambda: self._saliency(train),
            "truth": lambda: self._truth(train),
            "corrected masks": lambda: self._files([(s.id, self.corrected.get(s.key)) for s in train.samples]),
            "val photos": lambda: self._content(val),
            "val truth": lambda: self._truth(val),
            "weights": lambda: weights_digest(self.settings.backbone),
            "segmenter weights": lambda: self._segmenter_weights(),
            "propagation weights": lambda: self._propagation_weights(),
            "method code": lambda: self._code(),
            "method files": lambda: self._method_files(),
            "source": lambda: "" if self.source is None else self.source.content(self.digests),
        }
        return {name: _once(function) for name, function in lazily.items()}

    def _content(self, dataset: Dataset | None) -> str:
        if dataset is None:
            return digest(None)
        keys = lambda: keys_of(dataset.samples)  # noqa: E731
        if isinstance(self.photos, CheckedPhotos):
            digests = self.photos.digests(self.photos.places(keys()))
        else:
            digests = (self.photos[key].digest for key in keys())
        return digest_of_rows((id_, content) for (_, id_), content in zip(keys(), digests, strict=True))

    def _saliency(self, dataset: Dataset) -> str:
        samples = dataset.samples
        none = isinstance(samples, Samples) and samples.saliency is None
        return self._files([] if none else [(s.id, s.saliency_path) for s in samples])

    def _files(self, paths: Sequence[tuple[str, Path | None]]) -> str:
        return digest([(id, self.digests.of(path)) for id, path in paths if path is not None])

    def _truth(self, dataset: Dataset | None) -> str:
        if dataset is None:
            return ""
        samples: Sequence[Sample] = dataset.samples
        if isinstance(samples, Samples) and samples.truth is None:
            samples = ()
        masks = self._files([(s.id, s.mask_path) for s in samples])
        background = [s.id for s in samples if s.all_background]
        return digest([masks, background, dataset.classes, dataset.truth_values])

    def _segmenter_weights(self) -> str:
        own = self.settings.segmenter
        return "" if own.backbone is None else weights_digest(segment.backbone_of(own, self.settings.backbone))

    def _propagation_weights(self) -> str:
        own = propagation_backbone(self.settings)
        return "" if own is None else weights_digest(own)

    def _method_files(self) -> str:
        paths = self.settings.traits.files
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return digest([(file.name, self.digests.of(file)) for file in files if file.is_file()])

    def _code(self) -> str:
        source = methods.source(self.settings.method)
        return "" if source is None else self.digests.of(source)


def _once(function: Callable[[], str]) -> Callable[[], str]:
    known: list[str] = []

    def value() -> str:
        if not known:
            known.append(function())
        return known[0]

    return value


def _tags(dataset: Dataset) -> str:
    known: dict[Labels, list[int]] = {labels: sorted(labels or ()) for labels in label_counts(dataset)}
    ids = (id_ for _, id_ in keys_of(dataset.samples))
    rows = zip(ids, map(known.__getitem__, labels_of(dataset)), domains_of(dataset), strict=True)
    return digest_of_rows(rows, dataset.classes)


def _readable(dataset: Dataset, photos: CheckedPhotos) -> Dataset:
    samples = dataset.samples
    left = photos.readable(photos.places(keys_of(samples)))
    if left.all():
        return dataset
    places = left.nonzero()[0].tolist()
    return dataset.with_samples(samples.take(places) if isinstance(samples, Samples) else Chosen(samples, places))
