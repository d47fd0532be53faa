"""What a stage's function may see: declared settings, facts and stages. Anything else raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from tag2mask.data.samples import keys_of, paths_of
from tag2mask.plan.facts import RunData
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.source import Source
from tag2mask.plan.stage import Fact, Stage
from tag2mask.plan.view import SettingsView, Undeclared
from tag2mask.types import Dataset, PhotoFacts, Sample, SampleKey

if TYPE_CHECKING:
    from tag2mask.recipes import RunSettings

UNKNOWN_BYTES = 6e6  # of a decoded photo whose size is not known yet


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
        self._whole, self._data, self._reads = settings, data, reads

    def made_of(self) -> tuple[RunSettings, RunData, StageFolder, Mapping[str, StageFolder]]:
        """What this is made of but for its stage, so that another process can make it again."""
        return self._whole, replace(self._data), self.folder, self._reads

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
        """Size and content digest of the photos that the stage declared."""
        declared = {split: fact in self.stage.facts for split, fact in self._facts_of_splits().items()}
        if not any(declared.values()):
            self._declared("photos")
        return Declared(self._data.photos, frozenset(split for split, is_declared in declared.items() if is_declared))

    def size(self, sample: Sample) -> tuple[int, int]:
        """(height, width) of a photo in pixels."""
        self._declared(self._facts_of_splits()[sample.split])
        facts = self._data.photos[sample.key]
        return facts.height, facts.width

    @property
    def source(self) -> Source | None:
        """The run to start from; None where the stage starts from none."""
        if self._data.settings.start_from is None:
            return None
        self._declared("source")
        return self._data.source

    @property
    def corrected(self) -> Mapping[SampleKey, Path]:
        """Masks that people drew or accepted, of training photos, to learn from."""
        self._declared("corrected masks")
        return self._data.corrected

    def decoded_bytes(self, sample: Sample) -> float:
        """What a photo holds in memory once it is decoded: how far ahead it may be read. Decides nothing."""
        facts = self._data.photos.get(sample.key)
        return UNKNOWN_BYTES if facts is None else 3.0 * facts.height * facts.width

    def _facts_of_splits(self) -> dict[str, Fact]:
        val = self._data.val
        of_val: dict[str, Fact] = {} if val is None else {val.samples[0].split: "val photos"}
        return {**of_val, self.train_split: "photos"}

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
        made = self._reads.get("saliency") if photos == "photos" else None  # by a stage of the run
        if "saliency" not in facts and made is None:
            hidden["saliency_path"] = "saliency"
        if truth not in facts:
            hidden |= {"mask_path": truth, "all_background": truth}
        if not hidden and made is None:
            return dataset
        return dataset.with_samples(_Restricted(dataset.samples, self.stage.name, hidden, made))


class Declared(Mapping[SampleKey, PhotoFacts]):
    """What is known of photos, of some splits alone."""

    def __init__(self, photos: Mapping[SampleKey, PhotoFacts], splits: frozenset[str]) -> None:
        self.photos, self.splits = photos, splits

    def __getitem__(self, key: SampleKey) -> PhotoFacts:
        if key[0] not in self.splits:
            raise KeyError(key)
        return self.photos[key]

    def __iter__(self) -> Iterator[SampleKey]:
        return (key for key in self.photos if key[0] in self.splits)

    def __len__(self) -> int:
        return sum(1 for _ in self)


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
    """Samples of which a stage cannot see some fields, and whose saliency maps may be of a stage."""

    def __init__(
        self, samples: Sequence[Sample], stage: str, hidden: Mapping[str, Fact], saliency: StageFolder | None = None
    ) -> None:
        self.samples, self.stage, self.hidden, self.saliency = samples, stage, hidden, saliency

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return _Restricted(self.samples[index], self.stage, self.hidden, self.saliency)
        return self._seen(self.samples[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self._seen, self.samples)

    def keys(self) -> Iterator[SampleKey]:
        return keys_of(self.samples)

    def paths(self) -> Iterator[str]:
        return paths_of(self.samples)

    def _seen(self, sample: Sample) -> Sample:
        seen = object.__new__(_SeenSample)
        content = {f.name: getattr(sample, f.name) for f in fields(sample)}
        if self.saliency is not None:
            content["saliency_path"] = self.saliency.path(sample.id, ".png")
        for name, value in {**content, "_hidden": self.hidden, "_stage": self.stage}.items():
            object.__setattr__(seen, name, value)
        return seen
