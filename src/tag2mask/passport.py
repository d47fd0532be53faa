"""What a run really knew, as one block of plain data that goes wherever its results go.

Two scores may stand in one column only if what was learned from is the same (:func:`signals`). So the block is built
from what was loaded: weights by their bytes, the photos' tags as they were read, the stages that were carried out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tag2mask import refine, segment
from tag2mask.backbones import BackboneSettings, licences, repository
from tag2mask.backbones.embedded import EMBEDDED
from tag2mask.errors import InputError, listed
from tag2mask.files import atomic, read_object
from tag2mask.hub import cached_digest
from tag2mask.plan.execute import Execution
from tag2mask.plan.stage import Fact, Stage, TrainingStage
from tag2mask.propagation import propagation
from tag2mask.pseudo import SALIENCY
from tag2mask.recipes import propagation_backbone
from tag2mask.saliency.folder import MADE_BY
from tag2mask.saliency.network import PACKAGE
from tag2mask.stages import names
from tag2mask.types import CARD, Pretrained

FILE = "passport.json"  # of a run, in its folder
BESIDE = "passport.jsonl"  # the same block on one line, beside masks that left a run: tools take a .json for theirs
SHARED = "photos that it was measured on"
TAGGED = "tags of the photos that it was asked to segment"
UNKNOWN: dict[str, str | None] = {"tag2mask": None, "commit": None, "torch": None}
LICENCES = {"tf_efficientnet_lite0": "Apache-2.0"}  # of embedded weights


def passport(run: Execution) -> dict[str, Any]:
    """The block of a run whose masks are done. JSON data.

    ``learned_from`` says what every trained part was given; ``measured_with`` what its scores were computed from;
    ``chosen_on_truth`` which settings are what they are because somebody looked at true masks.

    Raises:
        InputError: a stage that it reads is gone.
    """
    check_whole(run)
    s, data = run.settings, run.data
    return {
        "software": _software(run),
        "created": run.run.description().get("created", ""),
        "seed": s.seed,
        "method": s.method,
        "learned_from": {
            "tags": {
                "photos": len(data.train),
                "of_none": sum(x.labels == frozenset() for x in data.train.samples),
                "corrected_in_review": data.retagged,
            },
            "saliency": _saliency(run),
            "corrected_masks": len(data.taught),
            "true_masks": any("truth" in stage.facts for stage in run.done() if _teaches(stage)),
        },
        "signals": list(signals(run)),
        "supervision": supervision_code(run),
        "started_from": _started_from(run),
        "measured_with": {
            "true_masks_of_training_photos": sum(x.mask_path is not None for x in data.train.samples),
            "true_masks_of_validation_photos": (
                0 if data.val is None else sum(x.mask_path is not None for x in data.val.samples)
            ),
            "validation_photos_learned_from": data.shared,
            "for": "scores in the report; nothing of the run depends on them",
        },
        "chosen_on_truth": chosen_on_truth(run),
        "oracle_for_comparison": any(stage.oracle for stage in run.done()),
        "weights": _weights(run),
    }


def missing(run: Execution, *more: str) -> list[str]:
    """Stages that every run whose masks are done has, or that are named, and this one lacks."""
    always = {"saliency", "method", "masks", *more}
    return [stage.name for stage in run.stages if stage.name in always - run.folders.keys()]


def check_whole(run: Execution, *more: str) -> None:
    """None of these stages is missing.

    Raises:
        InputError: one is gone, or was made of other photos, tags or settings than are there now.
    """
    if lacking := missing(run, *more):
        raise InputError(
            f"{run.run.folder} holds no finished run of the photos, tags and settings that are there now (it lacks "
            f"{listed(lacking)}): run its command again (`tag2mask plan` says what has changed)"
        )


def portable(block: Mapping[str, Any]) -> dict[str, Any]:
    """A passport without the folders of the machine that it was made on."""
    weights = [{**row, "source": _without_folder(row["source"])} for row in block.get("weights", ())]
    started = block.get("started_from")
    if started is not None:
        started = {**started, "run": Path(started["run"]).name}
    return {**block, "weights": weights, "started_from": started}


def _without_folder(source: str) -> str:
    return f"file {Path(source[5:]).name}" if source.startswith("file ") else source


def of_run(folder: Path) -> dict[str, Any]:
    """The portable passport that lies in a run folder; empty where there is none yet."""
    block = read_object(folder / FILE)
    return {} if block is None else portable(block)


def of_predictions(folder: Path, refiner: str, *, tagged: bool) -> dict[str, Any]:
    """The passport of masks of new photos: that of their run, and what was known of these photos besides.

    Args:
        refiner: of these masks.
        tagged: whether tags of some of the photos switched classes off.
    """
    block = of_run(folder)
    if not block:
        return {}
    known = [*refine.saw(refiner), *([TAGGED] if tagged else [])]
    weights = [*block.get("weights", ())]
    weights += [row for row in map(asdict, _of_refiner(refiner)) if row not in weights]
    return {**block, "signals": [*dict.fromkeys([*block.get("signals", ()), *known])], "weights": weights}


def write_beside(masks: Path, block: Mapping[str, Any]) -> None:
    """Write a passport into a folder of exported or predicted masks. An empty one removes what lies there."""
    if not block:
        (masks / BESIDE).unlink(missing_ok=True)
        return
    with atomic(masks / BESIDE) as file:
        file.write(json.dumps(block) + "\n")


def signals_of_masks(folder: Path) -> list[str] | None:
    """What the masks in a folder were learned from, by the passport beside them or that of their run; None: it does
    not say. A yardstick that was trained on true masks says so."""
    block = read_object(folder / BESIDE)
    if block is None and (block := read_object(folder.absolute().parent / FILE)) is not None:
        oracle = "oracle" in folder.absolute().name
        return [*block.get("signals", ()), *(["true masks"] if oracle else [])]
    return None if block is None else list(block.get("signals", ()))


def _started_from(run: Execution) -> dict[str, Any] | None:
    """The run whose weights the trainings started from, and what that learned from, as far as it says."""
    folder = run.settings.start_from
    if folder is None:
        return None
    theirs = read_object(folder / FILE) or {}
    return {"run": str(folder), "learned_from": theirs.get("learned_from"), "signals": theirs.get("signals")}


def _software(run: Execution) -> list[dict[str, Any]]:
    """What made its stages, as each wrote it down: a row for each software, with the names of its stages. Of stages
    of versions that wrote nothing down nothing is known."""
    rows: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
    for stage in run.done():
        for made_by in run.folders[stage.name].manifest().get("software") or [UNKNOWN]:
            rows.setdefault(tuple(made_by.items()), []).append(stage.name)
    return [{**dict(made_by), "stages": stages} for made_by, stages in rows.items()]


def _teaches(stage: Stage) -> bool:
    """Whether a network of the run's result learns in it."""
    return isinstance(stage, TrainingStage) and not stage.oracle


def _saliency(run: Execution) -> dict[str, Any] | None:
    if not uses_saliency(run):
        return None
    model = _saliency_model(run)
    if run.settings.data.makes_saliency:
        return {"source": model, "model_saw_masks": not run.settings.data.learns_saliency}
    if model is None:
        return {"source": "given maps", "model_saw_masks": None}
    return {"source": f"given maps, made by {model}", "model_saw_masks": True}


def _saliency_model(run: Execution) -> str | None:
    """The network that made the saliency maps, in this run or before it by `tag2mask saliency`, which leaves its name
    in their folder. None: the maps come from another program."""
    if run.settings.data.makes_saliency:
        return run.folders["saliency"].manifest()["network"]
    paths = (sample.saliency_path for sample in run.data.train.samples)
    one = next((path for path in paths if path is not None), None)
    notes = (read_object(folder / MADE_BY) for folder in (() if one is None else one.parents))
    return next((note.get("model") for note in notes if note is not None), None)


def signals(run: Execution) -> tuple[str, ...]:
    """What the run learned from, in short: equal for runs whose scores may stand in one column.

    What the run that it started from had learned from counts too.
    """
    labelled = uses_saliency(run) and not run.settings.data.learns_saliency  # those it learns come from no label
    own = [
        "image-level tags",
        *(["saliency maps"] if labelled else []),
        *run.settings.traits.signals,
        *_refined_by(run),
    ]
    own += ["masks that people corrected"] if run.data.taught else []
    own += [SHARED] if run.data.shared else []
    if (source := _started_from(run)) is not None:
        own += source["signals"] or [f"what the run {Path(source['run']).name} learned from, which it does not say"]
    return tuple(dict.fromkeys(own))


def _refined_by(run: Execution) -> list[str]:
    """What the refiners of its masks were trained with."""
    return list(dict.fromkeys(saw for name in _refiners_of(run) for saw in refine.saw(name)))


def _refiners_of(run: Execution) -> tuple[str, ...]:
    s = run.settings
    return s.refine, s.relabel.refine if s.relabel.rounds else "none", s.inference.refine


def supervision_code(run: Execution) -> str:
    """What the run learned from as tables of the field write it: I, tags; S, saliency maps; L, texts; M, masks of other
    photos by a network that was trained with them; F, full masks of some photos."""
    told = signals(run)
    letters = {
        "S": "saliency maps" in told,
        "L": any(signal.startswith("texts of photos") for signal in told),
        "M": any(signal.startswith("masks of other photos") for signal in told),
        "F": "masks that people corrected" in told,
    }
    return "+".join(["I", *(letter for letter, there in letters.items() if there)])


def uses_saliency(run: Execution) -> bool:
    """Whether saliency maps took part in a training, in targets or in masks."""
    s = run.settings
    denoised = bool(s.self_train.students) and "saliency" in s.self_train.denoise
    return s.pseudo.background in SALIENCY or s.traits.saliency or denoised


def chosen_on_truth(run: Execution) -> list[str]:
    """Settings at their defaults whose defaults somebody chose by true masks, of VOC or tiles; one sentence each."""
    s, lines = run.settings, list(run.settings.traits.tuned_on_truth)
    if s.self_train.students and s.self_train.sharpness is None:
        lines.append("how sharp the targets of self-training are by default was chosen on VOC's truth")
    if run.folders["masks"].manifest()["threshold_from"] != "given":
        lines.append(
            "which label-free rule finds that threshold by default was chosen on VOC's, tiles' and drawn photos' truth"
        )
    way = propagation(s.propagate)
    if way is not None and way.network != "trained" and way.along is None:
        lines.append("the likeness at which the random walk stops was chosen on VOC's truth")
    if "crf" in s.refine:
        lines.append("which published parameter set of the dense CRF is the default was chosen on VOC's truth")
    if s.localize.references:
        lines.append(
            "how many photos of its tag a photo is compared with, and how, was chosen on VOC's and tiles' truth"
        )
        if s.localize.fine:
            lines.append("how a finer block sharpens the maps was chosen on VOC's, tiles' and drawn photos' truth")
    if s.traits.trains and s.balance:
        lines.append("that photos of rare classes are shown more often was chosen on VOC's truth")
    relabelled = any(name in run.folders for name in names.masks(s)[1:])  # limits hold there whatever refines them
    if (s.refine != "none" or relabelled) and (s.pseudo.max_growth or s.pseudo.min_growth):
        lines.append(
            "how much larger or smaller than the maps refined masks may be was chosen on VOC's and tiles' truth"
        )
    segments = not s.single_stage and names.segmenters(s)[-1] in run.folders
    if segments and s.segmenter.name == "decoder":
        lines.append("that the decoder is the default segmenter was chosen on VOC's truth")
    if segments and s.inference.empty_below and segment.teaches_empty(run.data.train):
        lines.append("that photos in which no class is likely are taken to show none was chosen on tiles' truth")
    if segments and s.segmenter.balance:
        lines.append("how much rare labels weigh in the segmenter's loss was chosen on VOC's and tiles' truth")
        if s.inference.prior_correction:
            lines.append(
                "how much of the weight of rare labels is undone in new photos was chosen on VOC's and tiles' truth"
            )
    if segments and s.inference.refine != "none" and s.inference.min_growth:
        lines.append("how much smaller the refiner may make objects of new photos was chosen on tiles' truth")
    if segments and s.segmenter_train.start_decay:
        lines.append(
            "how far the segmenter stays near its pretrained weights was chosen on tags of VOC's photos that it did "
            "not learn from, and on VOC's truth"
        )
    if segments and s.relabel.rounds > 1 and s.relabel.again_below < 1:
        lines.append(
            "when the segmenter relabels a second time, and how large objects then are, was chosen on VOC's and tiles' "
            "truth"
        )
    if run.folders["method"].manifest().get("scale"):
        lines.append("the scales of the views of the second training were chosen on VOC's and tiles' truth")
    return lines


def _weights(run: Execution) -> list[dict[str, Any]]:
    """Of every pretrained network: what, from where, by which bytes."""
    s = run.settings
    own = segment.backbone_of(s.segmenter, s.backbone)
    trained = any(name in run.folders for name in names.segmenters(s))
    backbones: list[tuple[str, BackboneSettings, Fact]] = [("method", s.backbone, "weights")]
    if own is not s.backbone and trained:
        backbones.append(("segmenter", own, "segmenter weights"))
    walk = propagation_backbone(s)
    if walk is not None and "propagated" in run.folders:
        backbones.append(("propagation", walk, "propagation weights"))
    networks = [_of_backbone(network, settings, run.data.fact(fact)) for network, settings, fact in backbones]
    networks += [Pretrained(**row) for row in run.folders["method"].manifest().get("pretrained", ())]
    networks += _of_saliency(run)
    networks += [network for name in _refiners_of(run) for network in _of_refiner(name)]
    return [asdict(network) for network in dict.fromkeys(networks)]


def _of_saliency(run: Execution) -> list[Pretrained]:
    """The packaged network that made saliency maps, in the run or before it."""
    model = _saliency_model(run) if uses_saliency(run) and not run.settings.data.learns_saliency else None
    if model is None:
        return []
    name, _, digest = model.partition(", weights ")  # as SaliencyModel.line has it
    source = f"package {PACKAGE}, masks of salient objects"
    return [Pretrained("saliency", name, source, digest, licence="MIT", saw_masks=True)]


def _of_refiner(name: str) -> list[Pretrained]:
    return [
        Pretrained("refiner", model.title, f"hub, {model.hub}", model.digest, model.licence, saw_masks=True)
        for model in refine.networks(name)
    ]


def _of_backbone(network: str, settings: BackboneSettings, digest: str) -> Pretrained:
    architecture = settings.name.split(".")[0]
    if settings.weights == "none":
        source, licence, masks = "random", None, False
    elif settings.weights != "auto":
        source, licence, masks = f"file {settings.weights}", None, None
    elif architecture in EMBEDDED:
        source, licence, masks = f"package {EMBEDDED[architecture]}, ImageNet's labels", LICENCES[architecture], False
    else:
        hub = repository(settings) or f"timm/{settings.name}"
        source, licence, masks = f"hub, {hub}", licences.licence(settings) or CARD, None
        digest = cached_digest(hub) or digest
    return Pretrained(network, settings.name, source, digest, licence, masks)
