"""Small data sets on disk for tests of their readers, and what the readers must refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tag2mask import data
from tag2mask.data import DataSettings
from tag2mask.errors import InputError


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def photo(path: Path) -> Path:
    """A file of that name: reading a data set opens no photo, so it need not be one."""
    return write(path, "never opened")


def refused(root: Path, settings: DataSettings | None = None, split: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        data.load(root, settings, split)
    assert "\n" not in str(error.value) and str(error.value).isprintable()
    return str(error.value)


def ids(dataset) -> list[str]:
    return [sample.id for sample in dataset.samples]


def tags(dataset) -> dict[str, set[str] | None]:
    """Names of what each photo shows, by id; None where nobody said."""
    return {
        sample.id: None if sample.labels is None else {dataset.classes[label] for label in sample.labels}
        for sample in dataset.samples
    }
