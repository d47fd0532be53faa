"""What a run knows of its data apart from the settings: the photos that can be read, and digests of everything that
decides.

Digests are of bytes. They are remembered with the size and time of the file they are of, so that a file is read again
only when one of those changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tag2mask import methods, segment
from tag2mask.backbones import weights_digest
from tag2mask.data.samples import Samples, domains_of, keys_of, labels_of
from tag2mask.errors import InputError, some
from tag2mask.files import atomic, bytes_digest, digest, read_jsonl
from tag2mask.plan.source import Source
from tag2mask.plan.stage import Fact
from tag2mask.recipes import propagation_backbone
from tag2mask.types import Dataset, PhotoFacts, Sample, SampleKey


def stamp(path: Path) -> list[int]:
    """Size and times of a file: what shows, without reading it, that it changed. The time of its last change of state
    cannot be set, so a file that was replaced by one of the same size and time shows too. Empty where it cannot be
    read.
    """
    try:
        status = path.stat()
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
    photos: dict[SampleKey, PhotoFacts] = field(default_factory=dict)
    set_aside: list[dict[str, Any]] = field(default_factory=list)  # records of photos that cannot be read
    own_tags: Mapping[SampleKey, tuple[str, ...]] = field(default_factory=dict)
    # the data set's, of photos whose tags a person corrected in review
    corrected: Mapping[SampleKey, Path] = field(default_factory=dict)  # masks of training photos to learn from

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

    def checked(self, records: Iterable[Mapping[str, Any]]) -> RunData:
        """The same, with the photos that could be read.

        Args:
            records: of the stage that checks the photos.

        Raises:
            InputError: too few are left.
        """
        photos: dict[SampleKey, PhotoFacts] = {}
        bad = []
        for record in records:
            if record["error"]:
                bad.append(dict(record))
            else:
                facts = PhotoFacts(record["height"], record["width"], record["digest"])
                photos[sys.intern(record["split"]), record["id"]] = facts
        train = _readable(self.train, photos)
        val = None if self.val is None else _readable(self.val, photos)
        if not len(train):
            first = f"; {bad[0]['error']}" if bad else ""
            raise InputError(f"none of {some(len(self.train), 'training photo')} of {self.path} can be read{first}")
        for c, name in enumerate(train.classes):
            if not any(c in (s.labels or ()) for s in train.samples):
                raise InputError(
                    f"every photo tagged {name} in {self.path} is unreadable: mend them or leave the class out"
                )
        return replace(self, train=train, val=val if val else None, photos=photos, set_aside=bad)

    def fact(self, name: Fact) -> str:
        """The digest that stands for a fact."""
        return self._facts[name]()

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
        keys = None if dataset is None else keys_of(dataset.samples)
        return digest(None if keys is None else [(key[1], self.photos[key].digest) for key in keys])

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
    ids = (id_ for _, id_ in keys_of(dataset.samples))
    rows = zip(ids, labels_of(dataset), domains_of(dataset), strict=True)
    return digest([[(id_, sorted(labels or ()), domain) for id_, labels, domain in rows], dataset.classes])


def _readable(dataset: Dataset, photos: Mapping[SampleKey, PhotoFacts]) -> Dataset:
    samples = dataset.samples
    left = [index for index, key in enumerate(keys_of(samples)) if key in photos]
    if len(left) == len(samples):
        return dataset
    return dataset.with_samples(
        samples.take(left) if isinstance(samples, Samples) else [samples[index] for index in left]
    )
