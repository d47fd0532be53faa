"""Another run that the trainings of a run start from (``--from``): its weights, and which photos they have learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.errors import InputError, listed
from tag2mask.files import digest, read_json, write_json
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.types import PhotoFacts, Sample, SampleKey

if TYPE_CHECKING:
    from tag2mask.plan.facts import DigestCache

FORM = ("name", "channels", "presence", "pyramid", "backbone")  # settings of a segmenter that its weights depend on
LEARNED, HELD_OUT = "learned.json", "held-out.json"
"""Beside the key of the stage that learns from tags first: a digest for each photo and its tags; and for those of them
that were held out of that stage."""


def learned(samples: Iterable[Sample], photos: Mapping[SampleKey, PhotoFacts], classes: Sequence[str]) -> list[str]:
    """A short digest of each photo's bytes and tags, in the order of the photos; names and numbers do not matter."""
    names = [sorted(classes[label] for label in sample.labels or ()) for sample in samples]
    keys = [sample.key for sample in samples]
    return [digest([photos[key].digest, tags])[:16] for key, tags in zip(keys, names, strict=True)]


def keep_photos(stage: StageFolder, name: str, of_photos: Sequence[str]) -> None:
    """Keep what :func:`learned` gave, for runs to come that start from this one.

    Args:
        name: :data:`LEARNED`, or :data:`HELD_OUT`: a run that starts from this one holds these out, too.
    """
    write_json(stage.own / name, list(of_photos))


@dataclass(frozen=True)
class Source:
    """A finished run to start from."""

    run: Run

    @classmethod
    def opened(cls, folder: Path) -> Source:
        """Raises :class:`~tag2mask.errors.InputError` where there is no run, or its first network is not trained."""
        source = cls(Run(folder, existing=True))
        if source.model("method") is None:
            raise InputError(f"--from {folder} has no trained network (stage 'method'): run it to its end first")
        return source

    @cached_property
    def described(self) -> dict[str, Any]:
        return self.run.description()

    def stage(self, name: str) -> StageFolder | None:
        """A finished stage that trained a network; None where there is none."""
        stage = self.run.current(name)
        return stage if stage is not None and stage.has_manifest and stage.model.exists() else None

    def model(self, name: str) -> Path | None:
        """The weights of a stage; None where it was not trained."""
        stage = self.stage(name)
        return None if stage is None else stage.model

    def content(self, digests: DigestCache) -> str:
        """The digest of all weights and of what they learned."""
        models = {name: digests.of(model) for name in self.run.stages() if (model := self.model(name)) is not None}
        return digest([models, sorted(self.learned)])

    @cached_property
    def learned(self) -> frozenset[str]:
        """What :func:`learned` says of its photos; empty where the run did not keep it, so that all are new."""
        return self._photos(LEARNED)

    @cached_property
    def held_out(self) -> frozenset[str]:
        """Those of :attr:`learned` that were held out of its method's training."""
        return self._photos(HELD_OUT)

    def _photos(self, name: str) -> frozenset[str]:
        method = self.stage("method")
        path = None if method is None else method.own / name
        return frozenset(read_json(path)) if path is not None and path.exists() else frozenset()

    def new_share(self, of_photos: Sequence[str]) -> float:
        """The share of photos, by what :func:`learned` says of them, that it has not learned."""
        return sum(one not in self.learned for one in of_photos) / len(of_photos)

    def check(
        self, method: str, backbone: str, classes: Sequence[str], segmenter: Mapping[str, Any] | None = None
    ) -> None:
        """The run is of the same method, backbone and classes, and its segmenter, where it has one, of the same form.

        Args:
            segmenter: settings of the segmenter that is to be trained; None: none is.

        Raises:
            InputError: it is not; what differs is named.
        """
        settings = self.described.get("settings", {})
        theirs = settings.get("method"), settings.get("backbone", {}).get("name")
        for what, flag, one, other in (("method", "--method", theirs[0], method),
                                       ("backbone", "--backbone", theirs[1], backbone)):  # fmt: skip
            if one != other:
                raise InputError(
                    f"--from {self.run.folder}: it was trained with the {what} {one} and this run has {other}: give "
                    f"{flag} {one}, or leave --from out"
                )
        has = self.model("segmenter-0") or self.model("segmenter")
        of_segmenter = settings.get("segmenter", {}) if has else {}
        for name, own in (segmenter or {}).items():
            if name in FORM and of_segmenter.get(name, own) != own:
                flag = "--segmenter" if name == "name" else f"--segmenter.{name}"
                raise InputError(
                    f"--from {self.run.folder}: its segmenter was trained with {flag} {of_segmenter[name]} and this "
                    f"run's has {own}: give the same, or leave --from out"
                )
        if (names := self.described.get("classes", [])) != list(classes):
            raise InputError(
                f"--from {self.run.folder}: its classes are ({listed(names, 8)}) and those here are "
                f"({listed(classes, 8)}), which differ or are in another order: name the same in classes.txt, or leave "
                "--from out"
            )
