"""The photos of a run in the order in which a person should see them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tag2mask import run_tags
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import StageFolder
from tag2mask.serve.order import need_of
from tag2mask.stages import names
from tag2mask.types import Dataset, Sample, SampleKey


@dataclass(frozen=True, slots=True)
class Place:
    """A photo of the queue: the place of its sample, so that no sample is held for each of many photos."""

    of_train: bool
    index: int
    need: float  # of a person, without truth, in [0, 1]; nan: not known


class Queue:
    """Photos with a mask or a prediction, the one that needs a person most first.

    A photo is addressed by 16 hex digits of its split and id: an address shows and reaches no path.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.masks = _last_masks(execution)
        self.predictions = execution.folders.get("predictions")
        judged = run_tags.judged(execution)
        self.tags_said = {} if judged is None else {photo.key: photo.said for photo in judged.suspected}
        of_photos = need_of(execution)
        self.places = sorted(self._listed(of_photos), key=lambda place: -place.need if place.need >= 0 else 1)
        self._position = {self.key(position): position for position in range(len(self.places))}

    def __len__(self) -> int:
        return len(self.places)

    @property
    def largest_need(self) -> float:
        """1 where none is known, so that it can be divided by."""
        return self.places[0].need if self.places and self.places[0].need > 0 else 1.0

    def sample(self, position: int) -> Sample:
        place = self.places[position]
        return self._dataset(place.of_train).samples[place.index]

    def key(self, position: int) -> str:
        return address(self.sample(position).key)

    def position(self, key: str) -> int | None:
        return self._position.get(key)

    def stage(self, position: int) -> StageFolder:
        """Where the mask of the photo lies."""
        stage = self.masks if self.places[position].of_train else self.predictions
        assert stage is not None
        return stage

    def size(self, position: int) -> tuple[int, int]:
        """(height, width) of the photo in pixels."""
        facts = self.execution.data.photos[self.sample(position).key]
        return facts.height, facts.width

    def _dataset(self, of_train: bool) -> Dataset:
        dataset = self.execution.data.train if of_train else self.execution.data.val
        assert dataset is not None
        return dataset

    def _listed(self, of_photos: Mapping[SampleKey, float]) -> Iterator[Place]:
        for of_train, stage in ((True, self.masks), (False, self.predictions)):
            if stage is None or (not of_train and self.execution.data.val is None):
                continue
            without = set(stage.manifest().get("without", ()))
            for index, sample in enumerate(self._dataset(of_train).samples):
                if sample.id not in without:
                    yield Place(of_train, index, of_photos.get(sample.key, float("nan")))


def address(key: SampleKey) -> str:
    """What stands for a photo in the page's addresses."""
    text = "\0".join(key).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _last_masks(execution: Execution) -> StageFolder | None:
    done = [name for name in names.masks(execution.settings) if name in execution.folders]
    return execution.folders[done[-1]] if done else None
