"""What a data set tells before a photo is opened: its layout, splits, tags and what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tag2mask import data
from tag2mask.data.finding import Finding
from tag2mask.data.ids import is_outside
from tag2mask.data.samples import Samples
from tag2mask.data.settings import split_name
from tag2mask.data.tag_changes import TagChanges
from tag2mask.doctor.leakage import shared_photos
from tag2mask.doctor.tags import count_photos, examine_tags
from tag2mask.errors import InputError, listed, some
from tag2mask.types import Dataset, SampleKey


@dataclass(frozen=True)
class Survey:
    """A data set as a run would use it. Where it cannot be read at all, there are findings only."""

    settings: data.DataSettings
    opened: data.Opened | None = None
    train: Dataset | None = None  # tagged photos, those that show none of the classes included
    val: Dataset | None = None
    selections: Mapping[str, data.Selection] = field(default_factory=dict)  # by split, untagged photos included
    findings: tuple[Finding, ...] = ()

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The splits to be checked, by name."""
        named = ((split_name(self.settings.train_split), self.train), (split_name(self.settings.val_split), self.val))
        return {split: dataset for split, dataset in named if dataset is not None and split in self.selections}

    @property
    def own_tags(self) -> dict[SampleKey, tuple[str, ...]]:
        """The data set's tags of photos that a person gave others."""
        return {(split, id_): tags for split, of in self.selections.items() for id_, tags in of.own_tags.items()}

    @property
    def all_splits(self) -> bool:
        """Whether the data set has no other splits than those."""
        return self.opened is not None and {split_name(name) for name in self.opened.reader.splits()} <= {
            *self.datasets
        }


def survey(path: Path | str, settings: data.DataSettings, changes: TagChanges = MappingProxyType({})) -> Survey:
    """Read a data set as a run does. Nothing is raised for what is wrong with it: see the findings.

    Args:
        changes: of tags, by a person.
    """
    try:
        opened = data.open_data(path, settings)
        selections = _selections(opened, changes)
    except InputError as error:
        return Survey(settings, findings=(Finding("error", str(error)),))
    train_split, val_split = split_name(settings.train_split), split_name(settings.val_split)
    findings = [Finding("note", opened.line)]
    train, val = selections[train_split].tagged(), None
    try:
        data.training_set(opened, selections[train_split])
    except InputError as error:
        findings.append(Finding("error", str(error)))
    if val_split in selections and val_split != train_split:
        val = selections[val_split].dataset
        if not len(val):
            findings.append(Finding("warning", f"split '{val_split}' holds no photo", "nothing is measured at the end"))
            val = None
    findings += _splits(opened, selections, train_split, val_split)
    for split, selection in selections.items():
        findings += _retagged(split, selection)
        findings += count_photos(split, selection, measured=split == val_split != train_split)
        findings += [finding for finding in selection.findings if finding.level != "error"]  # that is said already
        findings += _outside(split, selection.dataset, opened.root)
    findings += examine_tags(train, {val_split: val} if val is not None else {})
    findings += opened.reader.left_out()
    return Survey(opened.settings, opened, train, val, selections, tuple(dict.fromkeys(findings)))


def _selections(opened: data.Opened, changes: TagChanges) -> dict[str, data.Selection]:
    """The splits that a run uses; a training split that is not there is an error."""
    existing = opened.reader.splits()
    train_split, val_split = (split_name(name) for name in (opened.settings.train_split, opened.settings.val_split))
    wanted = [train_split, *(name for name in (val_split,) if name in existing and name != train_split)]
    return {split: data.read(opened, split=split, changes=changes) for split in wanted}


def _splits(
    opened: data.Opened, selections: Mapping[str, data.Selection], train_split: str, val_split: str
) -> Iterator[Finding]:
    """Whether there is a split to measure on, of other photos than those learned from; and splits that are not used."""
    others = [name for name in opened.reader.splits() if split_name(name) not in (train_split, val_split)]
    unused = [name for name in others if not name.startswith(("train", "val"))]  # train2017 and trainval hold the same
    if unused and val_split in selections:
        yield Finding("note", f"photos of other splits are not used: {listed(unused)}")
    if val_split == train_split:
        yield Finding(
            "error",
            f"the split to learn from and the split to measure on are both '{train_split}'",
            "what is measured on the training photos means nothing: choose another --val-split",
        )
    elif val_split not in selections:
        advice = "without it nothing is measured at the end"
        if others:
            advice += f"; choose one of {', '.join(others)} with --val-split"
        yield Finding("note", f"there is no split '{val_split}'", advice)
    else:
        both = _paths(selections[train_split].dataset) & _paths(selections[val_split].dataset)
        if both:
            yield shared_photos(
                f"{some(len(both), 'photo')} in both '{train_split}' and '{val_split}': {listed(sorted(both))}",
                opened.settings,
            )


def _retagged(split: str, selection: data.Selection) -> Iterator[Finding]:
    """Photos whose tags are a person's."""
    if ids := sorted(selection.own_tags):
        message = f"{split}: {some(len(ids), 'photo')} with tags as corrected in review: {listed(ids)}"
        yield Finding("note", message, "they stand in place of the data set's own")


def _paths(dataset: Dataset) -> set[str]:
    samples = dataset.samples
    assert isinstance(samples, Samples)
    base = samples.base.as_posix()
    return {name if is_outside(name) else f"{base}/{name}" for name in samples.names()}


def _outside(split: str, dataset: Dataset, root: Path) -> Iterator[Finding]:
    """Photos that lie outside the data set's folder."""
    samples = dataset.samples
    assert isinstance(samples, Samples)
    outside = [name for name in samples.outside() if root not in Path(name).parents]
    if outside:
        yield Finding(
            "warning",
            f"{split}: {some(len(outside), 'photo')} outside {root}: {listed(outside)}",
            "their paths hold on this computer only; make sure that you mean them",
        )
