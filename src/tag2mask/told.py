"""What people told a run beyond its data set: corrected tags and, where it is asked to learn from them, masks.

People go on deciding while a run lies there. So a training takes what there is when it begins, and ``run.json`` keeps
what it took: readers of the run see what it learned from, whatever was decided since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tag2mask.corrected import Corrected, corrected_masks, imports
from tag2mask.data import tag_changes
from tag2mask.data.tag_changes import TagChanges
from tag2mask.errors import InputError
from tag2mask.review import Review
from tag2mask.types import Dataset, SampleKey


@dataclass(frozen=True)
class Told:
    """What was taken."""

    changes: TagChanges = field(default_factory=dict)
    taught: tuple[str, ...] = ()  # names of imports whose masks teach

    @classmethod
    def now(cls, run: Path, *, with_masks: bool) -> Told:
        """What there is in a run's folder."""
        return cls(Review(run, ()).tag_changes(), tuple(imports(run)) if with_masks else ())

    @classmethod
    def kept(cls, run: Path, described: Mapping[str, Any]) -> Told:
        """What the run as it lies there took, as far as it is still there.

        Raises:
            InputError: ``run.json`` is damaged.
        """
        try:
            there, taken = set(imports(run)), described.get("taught", ())
            return cls(tag_changes.from_json(described.get("retagged", ())), tuple(x for x in taken if x in there))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{run / 'run.json'} is damaged (what people corrected): run the run's command again, which writes it "
                "anew"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """What :meth:`kept` reads."""
        return {"retagged": tag_changes.to_json(self.changes), "taught": list(self.taught)}

    def masks(self, run: Path, dataset: Dataset) -> dict[SampleKey, Corrected]:
        """The masks that teach, of training photos.

        Raises:
            InputError: they are of other classes.
        """
        if not self.taught:
            return {}
        keys = {sample.key for sample in dataset.samples}
        found = corrected_masks(run, dataset.classes, self.taught)
        return {key: mask for key, mask in found.items() if key in keys}
