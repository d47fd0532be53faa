"""What a stage's function may see: declared settings, facts and stages. Anything else raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast, overload

from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.stage import Fact, Stage
from tag2mask.plan.view import SettingsView, Undeclared
from tag2mask.types import Dataset, PhotoFacts, Sample, SampleKey

if TYPE_CHECKING:
    from tag2mask.recipes import RunSettings


class Context:
    """A stage at work.

    Attributes:
        settings: reads like the run's settings; what the stage did not declare raises.
        folder: the stage's own folder.
    """

    def __init__(
        self, stage: Stage, settings: RunSettings, data: RunData, folder: StageFolder, reads: Mapping[str, StageFolder]
    ) -> None:
        self.stage, self.folder = stage, folder
        # the view stands in for the settings: it has their attributes, as far as they are declared
        self.settings = cast("RunSettings", SettingsView(settings, stage))
        self._data, self._reads = data, reads

    def read(self, name: str) -> StageFolder:
        """The folder of a stage that this one reads."""
        if name not in self._reads:
            raise Undeclared(f"stage '{self.stage.name}' reads the stage {name} and does not declare it")
        return self._reads[name]

    def has(self, name: str) -> bool:
        """Whether a stage that is read where it is there is there."""
        return name in self._reads

    @property
    def classes(self) -> tuple[str, ...]:
        return self._data.train.classes

    @property
    def train(self) -> Dataset:
        """The training photos, with what the stage declared of them."""
        return self._restricted(self._data.train, "photos", "truth")

    @property
    def val(self) -> Dataset | None:
        """The validation photos, never with tags."""
        return None if self._data.val is None else self._restricted(self._data.val, "val photos", "val truth")

    @property
    def train_split(self) -> str:
        """The split that is learnt from."""
        return self._data.train.samples[0].split

    @property
    def photos(self) -> Mapping[SampleKey, PhotoFacts]:
        """Size and content digest of the photos."""
        return self._data.photos

    def size(self, sample: Sample) -> tuple[int, int]:
        """(height, width) of a photo in pixels."""
        facts = self._data.photos[sample.key]
        return facts.height, facts.width

    def _declared(self, fact: Fact) -> None:
        if fact not in self.stage.facts:
            raise Undeclared(f"stage '{self.stage.name}' uses the fact '{fact}' and does not declare it")

    def _restricted(self, dataset: Dataset, photos: Fact, truth: Fact) -> Dataset:
        facts = self.stage.facts
        if truth not in facts and "files" not in facts:
            self._declared(photos)
        hidden: dict[str, Fact] = {}
        if "tags" not in facts or photos != "photos":
            hidden |= {"labels": "tags", "domain": "tags"}
        if "saliency" not in facts:
            hidden["saliency_path"] = "saliency"
        if truth not in facts:
            hidden |= {"mask_path": truth, "all_background": truth}
        return dataset.with_samples(_Restricted(dataset.samples, self.stage.name, hidden)) if hidden else dataset


class _SeenSample(Sample):
    """A photo of which a stage sees what it declared: reading anything else raises."""

    __slots__ = ("_hidden", "_stage")

    def __getattribute__(self, name: str) -> Any:
        hidden: Mapping[str, Fact] = object.__getattribute__(self, "_hidden")
        if name in hidden:
            stage = object.__getattribute__(self, "_stage")
            raise Undeclared(f"stage '{stage}' reads {name} of a photo and does not declare the fact '{hidden[name]}'")
        return object.__getattribute__(self, name)


class _Restricted(Sequence[Sample]):
    """Samples of which a stage cannot see some fields."""

    def __init__(self, samples: Sequence[Sample], stage: str, hidden: Mapping[str, Fact]) -> None:
        self.samples, self.stage, self.hidden = samples, stage, hidden

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return _Restricted(self.samples[index], self.stage, self.hidden)
        return self._seen(self.samples[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self._seen, self.samples)

    def _seen(self, sample: Sample) -> Sample:
        seen = object.__new__(_SeenSample)
        content = {f.name: getattr(sample, f.name) for f in fields(sample)}
        for name, value in {**content, "_hidden": self.hidden, "_stage": self.stage}.items():
            object.__setattr__(seen, name, value)
        return seen
