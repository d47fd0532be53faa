"""Masks that people drew or accepted come back to their run, as truth of their own kind: only for measuring.

Each import is a folder of its own in ``RUN/corrections``, whole or not there, with a manifest that says who, when and
from which format; of a photo that came back twice the later mask counts. It decides nothing that is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import evaluate, exchange, pipeline
from tag2mask.compare.statistics import Interval, draws, interval, resampled
from tag2mask.data.images import write_index_mask
from tag2mask.errors import InputError, listed
from tag2mask.exchange.photos import Drawn, Format, shared_root
from tag2mask.export import Source, exports_of, masks_of
from tag2mask.files import read_object, whole_folder, write_json
from tag2mask.naming import safe_name
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import IGNORE, Sample

FOLDER, MANIFEST = "corrections", "corrections.json"
VERSION = 1
FEW = 10  # photos below which the interval itself is rough


@dataclass(frozen=True)
class Imported:
    """What an import brought.

    Attributes:
        unchanged: photos that came back as they left and of which nothing says that a person saw them: left out.
    """

    photos: int
    changed: int
    unchanged: int
    folder: Path


def import_corrections(
    run_folder: Path | str, corrected: Path | str, form: str, what: str = "masks", accepted: bool = False
) -> Imported:
    """Take corrected masks into a run.

    Args:
        corrected: a file or folder in the format ``form`` of :data:`tag2mask.exchange.FORMATS`.
        what: of which masks they are corrections, "masks" or "predictions".
        accepted: a person saw every photo in it, also those that are unchanged.

    Raises:
        InputError: no such run or format; photos or classes that are not the run's; another size; nothing to take.
    """
    reader = exchange.format_of(form)
    with Run(Path(run_folder), existing=True) as run:
        source = masks_of(pipeline.reopen(run), what)
        return _taken(source, reader, form, Path(corrected), _next_folder(run), accepted)


def _taken(source: Source, reader: Format, form: str, corrected: Path, target: Path, accepted: bool) -> Imported:
    photos = _Photos(source)
    count: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []
    with whole_folder(target) as folder:
        for drawn in reader.read(corrected, source.dataset.classes):
            sample, mask, kind = photos.settle(drawn, accepted)
            count[kind] += 1
            if kind != "unchanged":
                path = folder / f"{safe_name(sample.id)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_index_mask(path, mask)
                entries.append({"id": sample.id, "split": sample.split, "who": drawn.who, "kind": kind})
        if not entries:
            raise InputError(
                f"{corrected}: all {count['unchanged']} photos came back as they left, and {form} does not say whether "
                "anyone saw them: give --accepted if a person accepted all of them"
            )
        evaluate.write_classes(folder, source.dataset.classes)
        write_json(folder / MANIFEST, _manifest(form, corrected, source, entries))
    return Imported(len(entries), count["changed"], count["unchanged"], target)


def _manifest(form: str, corrected: Path, source: Source, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "from": form,
        "source": str(corrected.absolute()),
        "of": source.name,
        "classes": list(source.dataset.classes),
        "photos": list(entries),
    }


class _Photos:
    """The photos of a run by the names that formats give them."""

    def __init__(self, source: Source) -> None:
        self.source, self.mask_of = source, MaskReader(source.stage)
        samples = source.dataset.samples
        root = shared_root([sample.image_path for sample in samples])
        self.by_name: dict[str, Sample] = {}
        lasts: dict[str, list[Sample]] = {}
        for sample in samples:
            name = sample.image_path.relative_to(root).as_posix()
            for known in (name, sample.id, safe_name(sample.id)):
                self.by_name.setdefault(known, sample)
            lasts.setdefault(name.rpartition("/")[2], []).append(sample)
        # tools drop folders from names: the file's own name will do where only one photo has it
        self.by_last = {name: found[0] for name, found in lasts.items() if len(found) == 1}
        self.seen: dict[str, str] = {}

    def settle(self, drawn: Drawn, accepted: bool) -> tuple[Sample, np.ndarray, str]:
        """The photo, its mask, and whether that was changed, accepted or neither.

        Raises:
            InputError: no such photo, one that came twice, or a mask of another size.
        """
        sample = self._sample(drawn.name)
        if sample.id in self.seen:
            raise InputError(f"{self.seen[sample.id]} and {drawn.name} are both the photo {sample.id}: remove one")
        self.seen[sample.id] = drawn.name
        facts = self.source.execution.data.photos[sample.key]
        size = facts.height, facts.width
        mask = drawn.mask if drawn.mask.size else np.zeros(size, np.uint8)
        if mask.shape != size:
            raise InputError(
                f"the corrected mask of {drawn.name} is {mask.shape[1]}x{mask.shape[0]} pixels and the photo "
                f"{facts.width}x{facts.height}: correct masks at the photo's own size"
            )
        if self._differs(sample, mask):
            return sample, mask, "changed"
        return sample, mask, "accepted" if accepted or drawn.accepted else "unchanged"

    def _sample(self, name: str) -> Sample:
        without_suffix = name.rpartition(".")[0]
        for known in (name, without_suffix):
            if known in self.by_name:
                return self.by_name[known]
        last = name.replace("\\", "/").rpartition("/")[2]
        if last in self.by_last:
            return self.by_last[last]
        raise InputError(
            f"{name} is no photo of {self.source.name} of this run (which has {listed(list(self.by_name))}): give the "
            "corrections of this run, or --what predictions for those of its validation photos"
        )

    def _differs(self, sample: Sample, mask: np.ndarray) -> bool:
        """Whether it shows other pixels of a class than the run's own; undecided pixels count as background, as they
        left."""
        own = self.mask_of.if_any(sample)
        if own is None:
            return True
        shown, now = (np.where(x == IGNORE, 0, x) for x in (own, mask))
        return not np.array_equal(shown, now)


def _next_folder(run: Run) -> Path:
    place = run.folder / FOLDER
    numbers = [int(path.name) for path in place.glob("*") if path.name.isdecimal()]
    return place / f"{max(numbers, default=0) + 1:03d}"


@dataclass(frozen=True)
class Corrected:
    """A corrected mask that lies in a run."""

    id: str
    split: str
    path: Path


def corrections(run: Run, classes: Sequence[str]) -> dict[tuple[str, str], Corrected]:
    """The corrected masks in a run by (split, id), the latest of each photo. Opens none.

    Raises:
        InputError: a manifest of another version, or of other classes.
    """
    found: dict[tuple[str, str], Corrected] = {}
    for manifest in sorted((run.folder / FOLDER).glob(f"*/{MANIFEST}")):
        content = read_object(manifest) or {}
        if content.get("version") != VERSION:
            raise InputError(f"{manifest} is damaged or of another version of tag2mask: import these corrections again")
        if content["classes"] != list(classes):
            raise InputError(
                f"{manifest.parent} has corrections of the classes {listed(content['classes'], 8)}, and the run's are "
                f"{listed(classes, 8)} now: remove that folder, or import them again"
            )
        for entry in content["photos"]:
            path = manifest.parent / f"{safe_name(entry['id'])}.png"
            found[entry["split"], entry["id"]] = Corrected(entry["id"], entry["split"], path)
    return found


@dataclass(frozen=True)
class Check:
    """What corrected masks say of a run's own.

    Attributes:
        mean_iou: with its 95 % interval over photos; None with a single photo.
        remarks: what a reader must know before the number.
    """

    title: str
    scores: evaluate.Scores
    mean_iou: Interval | None
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.mean_iou
        between = None if found is None else [round(found.low, 4), round(found.high, 4)]
        return {"what": self.title, **self.scores.to_json(), "interval": between, "remarks": list(self.remarks)}


def check(run_folder: Path | str) -> list[Check]:
    """Measure a run's masks and predictions on the corrected masks that were imported.

    Raises:
        InputError: no such run, or nothing was imported.
    """
    run = Run(Path(run_folder), existing=True)
    execution = pipeline.reopen(run)
    corrected = corrections(run, execution.data.train.classes)
    if not corrected:
        raise InputError(
            f"{run.folder} has no corrected masks: `tag2mask export` some photos (--first random), correct them, "
            "`tag2mask import` them"
        )
    checks = [_checked(run, source, chosen) for source in _sources(execution) if (chosen := _of(source, corrected))]
    if not checks:
        raise InputError(
            f"none of the {len(corrected)} corrected photos of {run.folder} is among its photos now: import them again"
        )
    return checks


def _sources(execution: Execution) -> Iterator[Source]:
    for what in ("masks", "predictions"):
        try:
            yield masks_of(execution, what)
        except InputError:  # this run has none of these
            continue


def _of(source: Source, corrected: Mapping[tuple[str, str], Corrected]) -> list[Sample]:
    """The photos with the corrected mask as their truth."""
    pairs = ((sample, corrected.get(sample.key)) for sample in source.dataset.samples)
    return [replace(sample, mask_path=found.path) for sample, found in pairs if found is not None]


def _checked(run: Run, source: Source, samples: Sequence[Sample]) -> Check:
    classes = source.dataset.classes
    dataset = replace(source.dataset, samples=samples, truth_values=tuple(range(1, len(classes) + 1)))
    mask_of = MaskReader(source.stage)
    of_photos = [evaluate.score_photo(sample, dataset, mask_of.if_any(sample)) for sample in samples]
    total = evaluate.Scores.none(classes)
    for scores in of_photos:
        total = total + scores
    found = None
    if len(of_photos) > 1:
        confusions = np.stack([scores.confusion for scores in of_photos])
        found = interval(total.mean_iou, resampled(confusions, draws(len(confusions))))
    title = f"{source.name} of {len(samples)} of {len(source.dataset)} photos, against masks that people corrected"
    return Check(title, total, found, tuple(_remarks(run, source, samples)))


def _remarks(run: Run, source: Source, samples: Sequence[Sample]) -> Iterable[str]:
    yield "people started from the run's own masks, so borders they left alone count as right"
    if len(samples) < FEW:
        yield f"{len(samples)} photos say little: correct {FEW} at least, better 20"
    if len(samples) == len(source.dataset):
        return
    ids = {sample.id for sample in samples}
    what = "predictions" if source.name == "predictions" else "masks"
    limited = [e for e in exports_of(run) if e["first"] == "random" and e["what"] == what and e["ids"] is not None]
    if ids == set().union(*(e["ids"] for e in limited if set(e["ids"]) <= ids)):
        return
    yield (
        "these photos are no random choice, so this is not the mean IoU of all photos: export --first random "
        "--limit 20 and correct every one of them"
    )
