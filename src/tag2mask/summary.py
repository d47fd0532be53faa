"""A run's folder to the plain data its report shows. Reads, computes nothing new; opens truth through evaluate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask import evaluate, need, run_tags
from tag2mask.data.images import read_image
from tag2mask.errors import listed, some
from tag2mask.files import read_json, read_jsonl
from tag2mask.passport import SHARED, chosen_on_truth, signals, uses_saliency
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.records import read_records
from tag2mask.plan.stage import Stage, TrainingStage
from tag2mask.propagation import propagation
from tag2mask.report import GalleryRow, ReportData, ScoreTable, StageTime
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader
from tag2mask.stages.held_out import precision_rows
from tag2mask.stages.masks import RECORD, unrefined
from tag2mask.stages.thresholds import chosen_threshold
from tag2mask.types import Dataset, LocalizationMaps, Sample

ROWS = 6  # photos in each group of the gallery
SPLITS = {"train": "training photos, tags known", "val": "validation photos, no tags given"}


def report_data(execution: Execution) -> ReportData:
    """Everything the report of this run shows."""
    described = execution.run.description()
    run, data = execution, execution.data
    scores = read_json(run.folders["scores"].folder / "scores.json")
    splits = {"train": data.train} | ({"val": data.val} if data.val is not None else {})
    sessions = described.get("sessions", [])
    last = sessions[-1] if sessions else {}
    return ReportData(
        title=f"{data.train.name}: {run.settings.method}",
        classes=data.train.classes,
        created=str(described.get("created", "")).replace("T", " ").replace("+00:00", " UTC"),
        command=described.get("command", ""),
        supervision=supervision(run),
        scores=[_table(stage, scores[stage.name], splits) for stage in _by_importance(run) if stage.name in scores],
        agreements=[("Masks (train)", evaluate.TagAgreement.from_json(scores["tags"]))],
        tag_precision=precision_rows(run.folders["method"].manifest()),
        doubted_tags=_doubted_tags(run),
        photos={name: len(split) for name, split in splits.items()},
        class_counts={name: _counts(split) for name, split in splits.items()},
        background_photos={name: sum(s.labels == frozenset() for s in split.samples) for name, split in splits.items()},
        galleries=Galleries.of(run).groups(),
        stages=[
            StageTime(name, float(folder.manifest()["seconds"]), int(folder.manifest()["count"]))
            for name, folder in run.folders.items()
        ],
        curves=_curves(run),
        risk=_risk(run),
        sweep=evaluate.OracleSweep.from_json(scores["sweep"]) if "sweep" in scores else None,
        settings=described["settings"],
        warnings=warnings(run),
        environment={k: str(last[k]) for k in ("torch", "python", "device", "threads") if k in last}
        | {"tag2mask": described.get("tag2mask", "")},
        peak_memory=round(max((s["peak_memory_gb"] for s in sessions), default=0) * 1e9) or None,
    )


def _by_importance(run: Execution) -> list[Stage]:
    """The measured stages that are done, the run's product last."""
    order = {"maps": 0, "masks": 1, "predictions": 2}
    measured = [stage for stage in run.done() if stage.measured is not None]
    return sorted(measured, key=lambda s: (order[s.measured.what] if s.measured else 0, not s.oracle))


def _table(stage: Stage, scores: dict[str, Any], splits: dict[str, Dataset]) -> ScoreTable:
    assert stage.measured is not None
    split = stage.measured.split
    photos = f"{len(splits[split])} {SPLITS[split]}"
    return ScoreTable(stage.measured.title, evaluate.Scores.from_json(scores), photos, stage.oracle)


def supervision(run: Execution) -> list[str]:
    """What the run was told, and by whom its thresholds were set."""
    s = run.settings
    corrected = f", of which {run.data.retagged} corrected in review" if run.data.retagged else ""
    lines = [f"image-level tags of {some(len(run.data.train), 'photo')}{corrected}"]
    if uses_saliency(run):
        made = run.folders["saliency"].manifest()["network"] if s.data.makes_saliency else ""
        lines.append(
            f"saliency maps made in the run by {made}"
            + ("" if s.data.learns_saliency else ", a network that was trained with masks of other photos")
            if made
            else "saliency maps of the training photos (class-agnostic, made by another model)"
        )
    if run.data.shared:
        lines.append(
            f"{run.data.shared} of {some(len(run.data.val or ()), 'validation photo')} also learned from "
            "(--data.shared-photos measure): scores on new photos are too good to be believed"
        )
    if taught := len(run.data.taught):
        lines.append(
            f"{taught} corrected masks of training photos, which people drew or accepted: the segmenter learned from "
            "them (--with-masks), the maps did not; those photos are left out of the scores"
        )
    lines += [
        line
        for line in signals(run)
        if line not in ("image-level tags", "saliency maps", "masks that people corrected", SHARED)
    ]
    if s.self_train.students:
        lines.append(f"self-training on the method's own maps, rounds: {s.self_train.students}; it sees no truth")
    manifest = run.folders["masks"].manifest()
    value = _of_classes(manifest.get("class_thresholds", {})) or f"{manifest['threshold']:.3f}"
    lines.append(f"background threshold {value} ({manifest['threshold_from']})")
    alone = {
        name: of
        for name, of in manifest.get("unrefined_thresholds", {}).items()
        if of != manifest["class_thresholds"][name]
    }
    if alone:
        lines.append(f"of masks that no refiner touched {_of_classes(alone)}, since these classes cover little")
    if s.single_stage:
        lines.append("the method is the segmenter: no other network was trained, and the masks taught none")
    way = propagation(s.propagate)
    if way is not None and way.network != "trained":
        lines.append("maps propagated without training: " + way.line)
    if "crf" in s.refine:
        lines.append("dense CRF with a published parameter set")
    lines += chosen_on_truth(run)
    if s.start_from is not None:
        lines.append(f"every network started from the weights of the run {s.start_from}, and of what that learned from")
    if names.last_masks(run.settings, run.folders) != "masks":
        lines.append("masks relabelled by the segmenter itself, which sees the tags and no truth")
    if any(stage.oracle for stage in run.done()):
        lines.append(
            "for comparison only, a second segmenter was trained on true masks; the run's result did not see them"
        )
    return lines


def _doubted_tags(run: Execution) -> tuple[int, int, int] | None:
    """Tags that look wrong, that look missing, and photos judged."""
    judged = run_tags.judged(run)
    if judged is None:
        return None
    suspected = judged.suspected
    return sum(len(p.wrong) for p in suspected), sum(len(p.missing) for p in suspected), len(judged.photos)


def warnings(run: Execution) -> list[str]:
    """Photos set aside, classes that maps hardly show or that are small on large photos, tags that no mask shows."""
    lines = []
    if run.data.set_aside:
        count = len(run.data.set_aside)
        lines.append(f"{count} photo{'s were' if count > 1 else ' was'} set aside, unreadable:")
        lines += [photo.error for photo in run.data.set_aside[:20]]
    manifest = run.folders["masks"].manifest()
    lines += manifest.get("small", manifest.get("hardly_shown", ()))  # its name in versions before
    if "saliency" in run.folders and (line := run.folders["saliency"].manifest().get("salient")):
        lines.append(line)
    if without := manifest.get("without", ()):
        lines.append(
            f"{some(len(without), 'photo')} without a saliency map got no mask from the maps: {listed(without)}"
        )
    for name in names.masks(run.settings):
        if name in run.folders and (count := run.folders[name].manifest().get("unrefined")):
            lines.append(
                f"{count} of the {len(run.data.train)} {name}: the refined mask was much larger or smaller than its "
                "scores say, so the unrefined one was kept"
            )
    records = read_records(run.folders[names.last_masks(run.settings, run.folders)].records, RECORD)
    lacking = [r for r in records if r["missing_classes"]]
    if lacking:
        ids = ", ".join(str(r["id"]) for r in lacking[:5])
        lines.append(f"{some(len(lacking), 'mask')} without a class that their photo is tagged with (first: {ids})")
    return lines


@dataclass(frozen=True)
class Galleries:
    """Groups of photos with what the run made of them."""

    run: Execution
    maps: StageFolder  # the last maps before propagation
    masks: StageFolder  # the last masks
    unrefined: Callable[[Sample], np.ndarray]
    train: Dataset  # the training photos, with the saliency maps that the run made

    @classmethod
    def of(cls, run: Execution) -> Galleries:
        name = [name for name in names.maps(run.settings) if name in run.folders][-1]
        scores = next(stage for stage in run.stages if stage.name == "scores")
        context = run.context(scores, run.folders["scores"])
        threshold = chosen_threshold(context, name)
        maps = run.folders[name]
        bare = unrefined(MapReader(maps), threshold, run.settings.pseudo)
        return cls(run, maps, run.folders[names.last_masks(run.settings, run.folders)], bare, context.train)

    def groups(self) -> dict[str, list[GalleryRow]]:
        """Best, worst, most uncertain and first photos, as far as they are known."""
        groups: dict[str, list[GalleryRow]] = {}
        train, val = self.train, self.run.data.val
        of_photos = read_json(self.run.folders["scores"].folder / "photos.json")
        if val is not None and "predictions" in of_photos:
            groups |= self._ranked("new photos (val, no tags given)", val, of_photos["predictions"])
        elif val is not None and "predictions" in self.run.folders:
            groups["New photos (no tags given)"] = [self._row(val, s) for s in val.samples[:ROWS]]
        if self.masks.folder.name in of_photos:
            groups |= self._ranked("training photos", train, of_photos[self.masks.folder.name])
        groups |= self._doubted(train)
        groups["Most uncertain training photos"] = self._uncertain(train)
        groups["First training photos"] = [self._row(train, s) for s in train.samples[:ROWS]]
        return groups

    def _ranked(self, title: str, dataset: Dataset, scores: Sequence[Any]) -> dict[str, list[GalleryRow]]:
        """The best and the worst photos by their own mean IoU."""
        by_id = {s.id: s for s in dataset.samples}
        ranked = sorted(((score, id) for id, score in scores if score is not None), key=lambda pair: pair[0])
        row = lambda pair: self._row(dataset, by_id[pair[1]], pair[0])  # noqa: E731
        return {
            f"Worst {title}": [row(pair) for pair in ranked[:ROWS]],
            f"Best {title}": [row(pair) for pair in ranked[::-1][:ROWS]],
        }

    def _doubted(self, dataset: Dataset) -> dict[str, list[GalleryRow]]:
        """Photos whose tags are doubted most, where they were judged."""
        judged = run_tags.judged(self.run)
        first = () if judged is None else judged.suspected[:ROWS]
        samples = {sample.key: sample for sample in dataset.samples}
        rows = [self._row(dataset, samples[photo.key], note=f"tags: {photo.said}") for photo in first]
        return {"Training photos whose tags look wrong": rows} if rows else {}

    def _uncertain(self, dataset: Dataset) -> list[GalleryRow]:
        uncertainty = {str(r["id"]): float(r["uncertainty"]) for r in read_records(self.masks.records, RECORD)}
        samples = sorted((s for s in dataset.samples if s.id in uncertainty), key=lambda s: -uncertainty[s.id])
        return [self._row(dataset, s, note=f"mean uncertainty {uncertainty[s.id]:.2f}") for s in samples[:ROWS]]

    def _row(self, dataset: Dataset, sample: Sample, score: float | None = None, note: str = "") -> GalleryRow:
        of_train = dataset is self.train
        maps = self._maps(self.maps.folder.name, sample) if of_train else None
        return GalleryRow(
            id=sample.id,
            image=read_image(sample.image_path),
            tags=sample.labels,
            maps=maps,
            propagated=self._maps("propagated", sample) if of_train else None,
            unrefined=None if maps is None else self.unrefined(sample),
            mask=self._mask("masks", sample) if of_train else None,
            relabelled=self._mask(self.masks.folder.name, sample) if of_train and self._relabelled else None,
            prediction=None if of_train else self._mask("predictions", sample),
            truth=evaluate.read_truth(sample, dataset) if sample.has_truth else None,
            score=score,
            note=note,
        )

    @property
    def _relabelled(self) -> bool:
        return self.masks.folder.name != "masks"

    def _maps(self, name: str, sample: Sample) -> LocalizationMaps | None:
        stage = self.run.folders.get(name)
        if stage is None or not stage.path(sample.id, ".npz").exists():
            return None
        return MapReader(stage)(sample)

    def _mask(self, name: str, sample: Sample) -> np.ndarray | None:
        stage = self.run.folders.get(name)
        return None if stage is None else MaskReader(stage, self.run.data.train.classes).if_any(sample)


def _risk(run: Execution) -> dict[str, list[tuple[float, float]]]:
    """By split, the mean of the photos' own mean IoU over those of least need: (percent of photos, percent)."""
    of_photos = read_json(run.folders["scores"].folder / "photos.json")
    if not any(of_photos.values()):
        return {}  # nothing was measured, and the need would be read off every mask for nothing
    needs = need.scores(run)
    last = names.last_masks(run.settings, run.folders)
    curves: dict[str, list[tuple[float, float]]] = {}
    for title, dataset, stage in (
        ("training photos", run.data.train, last),
        ("new photos", run.data.val, "predictions"),
    ):
        keys = {} if dataset is None else {sample.id: sample.key for sample in dataset.samples}
        measured = [(keys.get(id), iou) for id, iou in of_photos.get(stage, ()) if iou is not None]
        rows = [(needs[key], iou) for key, iou in measured if key in needs]
        if len(rows) >= 20 and len({row[0] for row in rows}) > 1:
            values = np.array([iou for _, iou in sorted(rows)])
            means = np.cumsum(values) / np.arange(1, len(values) + 1)
            first = max(1, len(values) // 10)
            shares = 100 * np.arange(first, len(values) + 1) / len(values)
            curves[title] = list(zip(shares.tolist(), means[first - 1 :].tolist(), strict=True))
    return curves


def _counts(dataset: Dataset) -> list[int]:
    counts = np.zeros(len(dataset.classes), int)
    for sample in dataset.samples:
        counts[sorted(sample.labels or ())] += 1
    return counts.tolist()


def _numeric(line: dict[str, Any], *names: str) -> bool:
    return all(isinstance(line.get(name), (int, float)) for name in names)


def _curves(run: Execution) -> dict[str, dict[str, list[tuple[float, float]]]]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for stage in run.done():
        if isinstance(stage, TrainingStage):
            lines = read_jsonl(run.folders[stage.name].folder / "log.jsonl")
            terms = [k for k in (lines[0] if lines else {}) if k not in ("step", "lr", "images_per_s")]
            curves[stage.name] = {
                term: [(line["step"], line[term]) for line in lines if _numeric(line, "step", term)] for term in terms
            }
    return curves


def _of_classes(thresholds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {of:.3f}" for name, of in thresholds.items())
