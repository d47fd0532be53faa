"""Masks that people drew or accepted, as they lie in a run: ``RUN/corrections``.

Each import is a folder of its own, whole or not there, with a manifest that says who, when and from which format; of a
photo that came back twice the later mask counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tag2mask.errors import InputError, listed
from tag2mask.files import read_object
from tag2mask.naming import safe_name
from tag2mask.types import SampleKey

FOLDER, MANIFEST = "corrections", "corrections.json"
VERSION = 1


@dataclass(frozen=True)
class Corrected:
    """A corrected mask that lies in a run."""

    id: str
    split: str
    path: Path
    review: bool = False
    digest: str = ""  # of the photo's bytes; empty: not kept


def imports(run: Path) -> list[str]:
    """The names of the imports in a run's folder, oldest first."""
    return [manifest.parent.name for manifest in sorted((run / FOLDER).glob(f"*/{MANIFEST}"))]


def corrected_masks(run: Path, classes: Sequence[str], of: Collection[str] | None = None) -> dict[SampleKey, Corrected]:
    """The corrected masks in a run's folder by (split, id), the latest of each photo. Opens none.

    Args:
        of: names of imports; None: of all.

    Raises:
        InputError: a manifest of another version, or of other classes.
    """
    found: dict[SampleKey, Corrected] = {}
    for name in imports(run) if of is None else sorted(of):
        manifest = run / FOLDER / name / MANIFEST
        content = read_object(manifest) or {}
        if content.get("version") != VERSION:
            raise InputError(f"{manifest} is damaged or of another version of tag2mask: import these corrections again")
        if content["classes"] != list(classes):
            raise InputError(
                f"{manifest.parent} has corrections of the classes {listed(content['classes'], 8)}, and the run's are "
                f"{listed(classes, 8)} now: remove that folder, or import them again"
            )
        if content.get("from") == "review":  # it holds all that counted then: what it lacks was withdrawn
            splits = {entry["split"] for entry in content["photos"]}
            found = {key: of for key, of in found.items() if not (of.review and key[0] in splits)}
        for entry in content["photos"]:
            path = manifest.parent / f"{safe_name(entry['id'])}.png"
            if not path.is_file():  # lost since
                continue
            found[entry["split"], entry["id"]] = Corrected(
                entry["id"], entry["split"], path, content.get("from") == "review", entry.get("digest", "")
            )
    return found


def next_folder(run: Path) -> Path:
    """Where the next import goes."""
    place = run / FOLDER
    numbers = [int(path.name) for path in place.glob("*") if path.name.isdecimal()]
    return place / f"{max(numbers, default=0) + 1:03d}"
