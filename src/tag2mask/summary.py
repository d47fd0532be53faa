"""A run's folder to the plain data its report shows. Reads, computes nothing new; opens truth through evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tag2mask import evaluate, methods
from tag2mask.data.images import read_image, read_index_mask
from tag2mask.errors import listed
from tag2mask.propagation import propagation
from tag2mask.pseudo import SALIENCY
from tag2mask.recipes import RunSettings
from tag2mask.report import GalleryRow, ReportData, ScoreTable, StageTime
from tag2mask.run import Stage, read_json, read_jsonl, read_maps
from tag2mask.stages import Work, map_names, mask_names
from tag2mask.stages import unrefined as unrefined_masks
from tag2mask.types import Dataset, LocalizationMaps, Sample

ROWS = 6  # photos in each group of the gallery


def scored(settings: RunSettings) -> dict[str, tuple[str, str, str]]:
    """Key in scores.json -> name, split, on what; the run's product last."""
    tags, new = "training photos, tags known", "validation photos, no tags given"
    rows = {name: (f"Maps after self-training, round {n}", "train", tags) for n, name in enumerate(map_names(settings))}
    rows["maps"] = ("Maps", "train", f"{tags}, before refinement")
    rows["walked"] = ("Maps after the random walk", "train", tags)
    rows |= {name: (f"Relabelled masks, round {n}", "train", tags) for n, name in enumerate(mask_names(settings))}
    rows["masks"] = ("Pseudo masks", "train", tags)
    rows["predictions-oracle"] = ("Same segmenter, trained on true masks", "val", new)
    rows["predictions"] = ("Segmenter", "val", new)
    return rows


def report_data(work: Work) -> ReportData:
    """Everything the report of this run shows."""
    described = work.run.description()
    scores = read_json(work.stages["scores"].folder / "scores.json")
    splits = {"train": work.train} | ({"val": work.val} if work.val is not None else {})
    tables = [
        ScoreTable(name, evaluate.Scores.from_json(scores[key]), f"{len(splits[split])} {photos}", "oracle" in key)
        for key, (name, split, photos) in scored(work.settings).items()
        if key in scores
    ]
    sweep = evaluate.OracleSweep.from_json(scores["sweep"]) if "sweep" in scores else None
    sittings = described.get("sittings", [])
    last = sittings[-1] if sittings else {}
    return ReportData(
        title=f"{work.train.name}: {work.settings.method}",
        classes=work.train.classes,
        created=str(described.get("created", "")).replace("T", " ").replace("+00:00", " UTC"),
        command=described.get("command", ""),
        supervision=supervision(work),
        scores=tables,
        agreements=[("Masks (train)", evaluate.TagAgreement.from_json(scores["tags"]))],
        photos={name: len(split) for name, split in splits.items()},
        class_counts={name: _counts(split) for name, split in splits.items()},
        galleries=galleries(work),
        stages=_times(work),
        curves=_curves(work),
        sweep=sweep,
        settings=described["settings"],
        warnings=warnings(work),
        environment={k: str(last[k]) for k in ("torch", "python", "device", "threads") if k in last}
        | {"tag2mask": described.get("tag2mask", "")},
        peak_memory=round(max((s["peak_memory_gb"] for s in sittings), default=0) * 1e9) or None,
    )


def supervision(work: Work) -> list[str]:
    """What the run was told, and by whom its thresholds were set."""
    lines = [f"image-level tags of {len(work.train)} photos"]
    s = work.settings
    denoised = s.self_train.students and "saliency" in s.self_train.denoise
    if s.pseudo.background in SALIENCY or methods.needs_saliency(s.method) or denoised:
        lines.append("saliency maps of the training photos (class-agnostic, made by another model)")
    if s.self_train.students:
        lines.append(f"self-training on the method's own maps, rounds: {s.self_train.students}; it sees no truth")
        if s.self_train.sharpness is None:
            lines.append("how sharp the targets of self-training are by default was chosen on VOC's truth")
    if methods.entry(s.method).chosen_on_truth:
        lines.append(f"how {s.method} is trained by default was chosen on VOC's truth")
    if getattr(s.options, "chosen_on_truth", False):
        lines.append(f"settings of {s.method} that are not its paper's were chosen on VOC's truth")
    manifest = work.stages["masks"].read_manifest()
    lines.append(f"background threshold {manifest['threshold']:.3f} ({manifest['threshold_from']})")
    if manifest["threshold_from"] != "given":
        lines.append("which label-free rule finds that threshold by default was chosen on VOC's truth")
    if work.settings.single_stage:
        lines.append("the method is the segmenter: no other network was trained, and the masks taught none")
    way = propagation(s.propagate)
    if way is not None and way.network != "trained":
        lines.append("random walk without training; the likeness at which it stops was chosen on VOC's truth")
    if "crf" in work.settings.refine:
        lines.append("dense CRF with a published parameter set; which of them is the default was chosen on VOC's truth")
    if work.best_masks.folder.name != "masks":
        lines.append("masks relabelled by the segmenter itself, which sees the tags and no truth")
    if "segmenter-oracle" in work.stages:
        lines.append(
            "for comparison only, a second segmenter was trained on true masks; the run's result did not see them"
        )
    return lines


def warnings(work: Work) -> list[str]:
    """Photos set aside, tags that no mask shows."""
    lines = []
    if work.quarantined:
        count = len(work.quarantined)
        lines.append(f"{count} photo{'s were' if count > 1 else ' was'} set aside, unreadable:")
        lines += [q["error"] for q in work.quarantined[:20]]
    without = work.stages["masks"].read_manifest().get("without_mask", ())
    if without:
        lines.append(f"{len(without)} photos have no saliency map and got no mask from the maps: {listed(without)}")
    gone = [r for r in read_jsonl(work.best_masks.folder / "records.jsonl") if r["vanished"]]
    if gone:
        names = ", ".join(str(r["id"]) for r in gone[:5])
        lines.append(f"{len(gone)} masks lack a class their photo is tagged with (first: {names})")
    return lines


def galleries(work: Work) -> dict[str, list[GalleryRow]]:
    """Best, worst, most uncertain and first photos, as far as they are known."""
    groups: dict[str, list[GalleryRow]] = {}
    bare = unrefined_masks(work, work.best_maps.folder.name)
    each = read_json(work.stages["scores"].folder / "images.json")
    if work.val is not None and "predictions" in each:
        _ranked(groups, "new photos (val, no tags given)", work, bare, work.val, each["predictions"])
    elif work.val is not None and "predictions" in work.stages:
        groups["New photos (no tags given)"] = [_row(work, bare, work.val, s) for s in work.val.samples[:ROWS]]
    if work.best_masks.folder.name in each:
        _ranked(groups, "training photos", work, bare, work.train, each[work.best_masks.folder.name])
    records = {str(r["id"]): r for r in read_jsonl(work.best_masks.folder / "records.jsonl")}
    uncertain = sorted(
        (s for s in work.train.samples if s.id in records), key=lambda s: -float(records[s.id]["uncertainty"])
    )
    groups["Most uncertain training photos"] = [
        _row(work, bare, work.train, s, note=f"mean uncertainty {records[s.id]['uncertainty']:.2f}")
        for s in uncertain[:ROWS]
    ]
    groups["First training photos"] = [_row(work, bare, work.train, s) for s in list(work.train.samples[:ROWS])]
    return groups


def _ranked(
    groups: dict[str, list[GalleryRow]],
    title: str,
    work: Work,
    bare: Callable[[Sample], np.ndarray],
    dataset: Dataset,
    scores: Sequence[Any],
) -> None:
    """The best and the worst photos by their own mean IoU."""
    by_id = {s.id: s for s in dataset.samples}
    known = sorted(((score, id) for id, score in scores if score is not None), key=lambda pair: pair[0])
    groups[f"Worst {title}"] = [_row(work, bare, dataset, by_id[id], score) for score, id in known[:ROWS]]
    groups[f"Best {title}"] = [_row(work, bare, dataset, by_id[id], score) for score, id in known[::-1][:ROWS]]


def _row(
    work: Work,
    unrefined: Callable[[Sample], np.ndarray],
    dataset: Dataset,
    sample: Sample,
    score: float | None = None,
    note: str = "",
) -> GalleryRow:
    maps = _maps(work, work.best_maps.folder.name, sample)
    relabelled = work.best_masks if work.best_masks.folder.name != "masks" else None
    return GalleryRow(
        id=sample.id,
        image=read_image(sample.image_path),
        tags=sample.labels,
        maps=maps,
        propagated=_maps(work, "walked", sample),
        unrefined=None if maps is None else unrefined(sample),
        mask=_mask(work.stages["masks"], sample),
        relabelled=_mask(relabelled, sample),
        prediction=_mask(work.stages.get("predictions"), sample),
        truth=evaluate.read_truth(sample, dataset) if sample.mask_path is not None else None,
        score=score,
        note=note,
    )


def _maps(work: Work, name: str, sample: Sample) -> LocalizationMaps | None:
    if name not in work.stages or not work.stages[name].path(sample.id, ".npz").exists():
        return None
    return read_maps(work.stages[name].path(sample.id, ".npz"), sample.id)


def _mask(stage: Stage | None, sample: Sample) -> np.ndarray | None:
    if stage is None or not stage.path(sample.id, ".png").exists():
        return None
    return read_index_mask(stage.path(sample.id, ".png"))


def _counts(dataset: Dataset) -> list[int]:
    counts = np.zeros(len(dataset.classes), int)
    for sample in dataset.samples:
        counts[sorted(sample.labels or ())] += 1
    return counts.tolist()


def _times(work: Work) -> list[StageTime]:
    times = []
    for name, stage in work.stages.items():
        manifest = stage.read_manifest()
        times.append(StageTime(name, float(manifest["seconds"]), int(manifest["count"])))
    return times


def _curves(work: Work) -> dict[str, dict[str, list[tuple[float, float]]]]:
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, stage in work.stages.items():
        if (stage.folder / "log.jsonl").exists():
            lines = read_jsonl(stage.folder / "log.jsonl")
            terms = [k for k in (lines[0] if lines else {}) if k not in ("step", "lr", "images_per_s")]
            curves[name] = {term: [(line["step"], line[term]) for line in lines if term in line] for term in terms}
    return curves
