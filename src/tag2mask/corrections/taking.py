"""Corrected masks are taken into a run, from another program's format or from the page of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import evaluate, exchange, pipeline
from tag2mask.corrected import MANIFEST, VERSION, next_folder
from tag2mask.data.images import write_index_mask
from tag2mask.errors import DamagedArtefact, InputError, listed, some
from tag2mask.exchange import FORMATS
from tag2mask.exchange.photos import Drawn, drawn_mask
from tag2mask.export import Source, exports_of, masks_of
from tag2mask.files import whole_folder, write_json
from tag2mask.naming import safe_name
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import ASIDE, SUBFOLDERS, Run, StageFolder
from tag2mask.review import Review
from tag2mask.stages.artefacts import MaskReader
from tag2mask.types import IGNORE, Sample, SampleKey


@dataclass(frozen=True)
class Imported:
    """What an import brought.

    Attributes:
        unchanged: photos that came back as they left and of which nothing says that a person saw them: left out.
    """

    of: str  # "masks", "masks-1", "predictions"
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
    reader, place = exchange.format_of(form), Path(corrected)
    with Run(Path(run_folder), existing=True) as run:
        source = masks_of(pipeline.reopen(run), what)
        names = _Names(source)
        drawn = reader.read(place, source.dataset.classes)
        if accepted:
            drawn = (replace(one, accepted=True) for one in drawn)
        return _taken(source, ((names.sample(one), one) for one in drawn), form, place)


def import_review(run_folder: Path | str, what: str | None = None) -> list[Imported]:
    """Take the masks that people accepted or painted on the page of a run (:mod:`tag2mask.review`).

    Args:
        what: "masks" of the tagged photos, "predictions" of the validation photos; None: both, an import each.

    Raises:
        InputError: no such run, nobody accepted or painted any, or of other classes than the run's now.
    """
    with Run(Path(run_folder), existing=True) as run:
        execution = pipeline.reopen(run)
        review = Review(run.folder, execution.data.train.classes, execution.data.photos)
        imports = []
        for source in sources(execution) if what is None else [masks_of(execution, what)]:
            drawn = [(sample, path) for sample in source.dataset.samples if (path := review.mask_path(sample.key))]
            if drawn:
                imports.append(_taken(source, _reviewed(review, drawn), "review", review.folder))
    if not imports:
        raise InputError(
            f"nobody accepted or painted a mask of these photos of {run_folder}: `tag2mask serve` shows them, and "
            "keeps what people decide"
        )
    return imports


def _reviewed(review: Review, drawn: Iterable[tuple[Sample, Path]]) -> Iterator[tuple[Sample, Drawn]]:
    for sample, path in drawn:
        review.check_classes(sample.split)
        decision = review.of(sample.key)
        who = "" if decision is None else decision.who
        yield sample, Drawn(sample.id, drawn_mask(path, review.classes), who, accepted=True)


def sources(execution: Execution) -> Iterator[Source]:
    """The masks of the tagged photos and the predictions, as far as the run has them."""
    for what in ("masks", "predictions"):
        try:
            yield masks_of(execution, what)
        except InputError:  # this run has none of these
            continue


def _taken(source: Source, drawn: Iterable[tuple[Sample, Drawn]], form: str, place: Path) -> Imported:
    """An import, whole or not at all."""
    target = next_folder(source.execution.run.folder)
    count: Counter[str] = Counter()
    entries: list[dict[str, Any]] = []
    seen: dict[SampleKey, str] = {}
    left, classes = _exported(source), source.dataset.classes
    as_left = lambda mask: FORMATS[form].as_left(mask, classes) if form in FORMATS else mask  # noqa: E731
    with whole_folder(target) as folder:
        for sample, one in drawn:
            if sample.key in seen:
                raise InputError(f"{seen[sample.key]} and {one.name} are both the photo {sample.id}: remove one")
            seen[sample.key] = one.name
            mask, kind = _settled(source, sample, one, left, as_left)
            count[kind] += 1
            if kind != "unchanged":
                path = folder / f"{safe_name(sample.id)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_index_mask(path, mask)
                of_photo = source.execution.data.photos[sample.key].digest
                who = {"who": one.who, "kind": kind, "digest": of_photo}
                entries.append({"id": sample.id, "split": sample.split, **who})
        if not entries:
            raise InputError(
                f"{place}: all of {some(count['unchanged'], 'photo')} came back as they left, and {form} does not "
                "say whether anyone saw them: give --accepted if a person accepted all of them"
            )
        evaluate.write_classes(folder, source.dataset.classes)
        write_json(folder / MANIFEST, _manifest(form, place, source, entries))
    return Imported(source.name, len(entries), count["changed"], count["unchanged"], target)


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


class _Names:
    """The photos of a run by the names that formats give them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        samples = source.dataset.samples
        root = source.root
        self.files = {sample.image_path.relative_to(root).as_posix(): sample for sample in samples}
        self.ids = {sample.id: sample for sample in samples} | {safe_name(sample.id): sample for sample in samples}
        # tools drop folders from names: the file's own name will do where only one photo has it
        self.last_files, self.last_ids = _by_last_part(self.files), _by_last_part(self.ids)

    def sample(self, drawn: Drawn) -> Sample:
        """
        Raises:
            InputError: no such photo.
        """
        name = drawn.name.replace("\\", "/")
        last, stem = name.rpartition("/")[2], name.rpartition(".")[0]
        if drawn.by_id:  # the id of one photo may be the name of another: a.png and a.png.png
            tries = ((self.ids, drawn.name), (self.files, drawn.name), (self.last_ids, last), (self.last_files, last))
        else:
            tries = ((self.files, drawn.name), (self.ids, drawn.name), (self.ids, stem), (self.last_files, last))
        for known, wanted in tries:
            if wanted in known:
                return known[wanted]
        raise InputError(
            f"{drawn.name} is no photo of {self.source.name} of this run (which has {listed(self.files)}): give the "
            "corrections of this run, or --what predictions for those of its validation photos"
        )


def _by_last_part(samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """The photos that alone have the last part of their name."""
    lasts: dict[str, dict[SampleKey, Sample]] = {}
    for name, sample in samples.items():
        lasts.setdefault(name.rpartition("/")[2], {})[sample.key] = sample
    return {last: next(iter(group.values())) for last, group in lasts.items() if len(group) == 1}


def _settled(
    source: Source,
    sample: Sample,
    drawn: Drawn,
    left: Sequence[MaskReader],
    as_left: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, str]:
    """The mask, and whether it was changed, accepted or neither.

    Args:
        left: where the masks lie that it may have been when it left.
        as_left: a mask as the format holds it.

    Raises:
        InputError: it is of another size than the photo.
    """
    facts = source.execution.data.photos[sample.key]
    size = facts.height, facts.width
    mask = drawn.mask if drawn.mask.size else np.zeros(size, np.uint8)
    if mask.shape != size:
        raise InputError(
            f"the corrected mask of {drawn.name} is {mask.shape[1]}x{mask.shape[0]} pixels and the photo "
            f"{facts.width}x{facts.height}: correct masks at the photo's own size"
        )
    for own in (of_export for masks in left if (of_export := _mask(masks, sample)) is not None):
        if np.array_equal(as_left(own), mask):
            return own, "accepted" if drawn.accepted else "unchanged"
    return mask, "changed"


def _mask(masks: MaskReader, sample: Sample) -> np.ndarray | None:
    """What left of a photo, undecided pixels as background; None: nothing that is there any more."""
    try:
        mask = masks.if_any(sample)
    except DamagedArtefact:
        return None
    return None if mask is None else np.where(mask == IGNORE, 0, mask).astype(np.uint8)


def _exported(source: Source) -> list[MaskReader]:
    """The masks that are there now, and those that left in earlier exports, as far as the run still has them."""
    run, folders = source.execution.run.folder, [source.stage]
    wanted = {(e["stage"], e["key"]) for e in exports_of(source.execution.run) if {"stage", "key"} <= e.keys()}
    for name, key in sorted(wanted - {(source.name, source.stage.key)}):
        for place in (run / name, run / ASIDE / name / key):
            manifest = StageFolder(place, key).manifest()
            if manifest.get("key") == key:
                folders.append(StageFolder(place, key, manifest.get(SUBFOLDERS, 0)))
    return [MaskReader(folder, source.dataset.classes) for folder in folders]
