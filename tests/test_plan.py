"""The plan of a run: what is declared decides, what is not cannot be used, what is done is kept."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image

import vits  # noqa: F401 (registers its networks)
from tag2mask import data, stages
from tag2mask.backbones import BackboneSettings
from tag2mask.data.settings import SELF_SUPERVISED
from tag2mask.errors import InputError
from tag2mask.methods import METHODS
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.plan.context import Context
from tag2mask.plan.execute import Execution, begin, execute
from tag2mask.plan.facts import DigestCache, RunData
from tag2mask.plan.folder import Run
from tag2mask.plan.keys import keys_of
from tag2mask.plan.stage import Measured, Part, PhotoStage, PhotoWork, Stage
from tag2mask.plan.view import Undeclared
from tag2mask.propagation import PropagationSettings
from tag2mask.pseudo import PseudoSettings
from tag2mask.recipes import RunSettings
from tag2mask.segment import SegmenterSettings
from tag2mask.settings import DecidesNothing, marker
from tag2mask.stages.photos import check_photos
from tag2mask.types import Sample
from test_eps import with_saliency
from world import SMALL, fails, keys, redone, run, stamps

# --- what is not declared raises ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def salient(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_saliency(world, tmp_path_factory.mktemp("salient") / "data")


def carry_out(path: Path, out: Path, *own: Stage, settings: RunSettings | None = None) -> Execution:
    """A plan of one's own stages after the check of the photos, in a real run folder."""
    settings = settings or RunSettings()
    train, val = (data.load(path, settings.data, split) for split in ("train", "val"))
    with Run(out) as folder:
        run_data = RunData(path, train, val, settings, DigestCache(out / ".digests.jsonl"))
        execution = begin(folder, (check_photos(verify=False), *own), settings, run_data)
        execute(execution, [stage.name for stage in own])
    return execution


def doing(use: Callable[[Context], object], **declared: Any) -> PhotoStage:
    """A stage that declares this and does that."""

    def start(context: Context) -> PhotoWork:
        use(context)
        return PhotoWork(write=lambda sample, nothing: {"done": True})

    return PhotoStage(name="mine", title="mine", suffix=None, keeps_records=True, start=start, **declared)


OTHER = doing(lambda context: None, facts=("photos",))
OTHER = replace(OTHER, name="other", title="other")

UNDECLARED: dict[str, tuple[Callable[[Context], object], dict[str, Any], str]] = {
    "a setting": (lambda c: c.settings.seed, {}, "reads the setting seed"),
    "a part of a declared one's neighbour": (
        lambda c: c.settings.train.epochs, {"settings": ("train.batch_size",)}, r"reads the setting train\.epochs"),
    "a group of settings of which nothing is declared": (
        lambda c: c.settings.train, {"settings": ("segmenter_train",)}, "reads the setting train"),
    "the method's own": (lambda c: c.settings.options, {"settings": ("method",)}, "reads the setting options"),
    "the photos": (lambda c: c.train, {"facts": ("val photos",)}, "uses the fact 'photos'"),
    "the validation photos": (lambda c: c.val, {}, "uses the fact 'val photos'"),
    "a tag": (lambda c: c.train.samples[0].labels, {}, "reads labels of a photo .* the fact 'tags'"),
    "a domain": (lambda c: [s.domain for s in c.train.samples], {}, "reads domain of a photo .* the fact 'tags'"),
    "a saliency map": (
        lambda c: c.train.samples[1:][0].saliency_path, {"facts": ("photos", "tags")}, "the fact 'saliency'"),
    "the truth": (
        lambda c: c.train.samples[0].mask_path, {"facts": ("photos", "tags", "saliency")}, "the fact 'truth'"),
    "a tag of a validation photo, whatever is declared": (
        lambda c: c.val.samples[0].labels if c.val else None,
        {"facts": ("photos", "tags", "val photos", "truth", "val truth")}, "reads labels of a photo"),
    "the truth of a validation photo": (
        lambda c: next(iter(c.val.samples)).mask_path if c.val else None,
        {"facts": ("photos", "val photos", "truth")}, "the fact 'val truth'"),
    "the size of a photo": (
        lambda c: c.size(Sample("photo00", Path(), None, split="train")), {"facts": ("val photos",)},
        "uses the fact 'photos'"),
    "the size of a validation photo": (
        lambda c: c.size(Sample("photo09", Path(), None, split="val")), {"facts": ("photos", "tags", "val truth")},
        "uses the fact 'val photos'"),
    "digests of photos": (lambda c: c.photos, {"facts": ("truth",)}, "uses the fact 'photos'"),
    "that a validation photo is all background": (
        lambda c: next(iter(c.val.samples)).all_background if c.val else None,
        {"facts": ("photos", "tags", "val photos", "truth")}, "the fact 'val truth'"),
    "a stage": (lambda c: c.read("other"), {}, "reads the stage other"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDECLARED)
def test_what_is_not_declared_raises(what: str, salient: Path, tmp_path: Path) -> None:
    use, declared, message = UNDECLARED[what]
    stage = doing(use, **{"facts": ("photos",), **declared})
    with pytest.raises(Undeclared, match=rf"^stage 'mine' {message}|^stage 'mine' .*{message}"):
        carry_out(salient, tmp_path / "run", OTHER, stage)
    assert not issubclass(Undeclared, InputError)  # a fault of ours keeps its traceback
    done = {name for name in ("images", "other", "mine") if manifest_of(tmp_path / "run", name)}
    assert done == {"images", "other"}  # what is finished is kept


def manifest_of(out: Path, name: str) -> bool:
    return (out / name / ".stage" / "manifest.json").exists()


def test_what_is_declared_is_there(salient: Path, tmp_path: Path) -> None:
    """And what decides nothing always is."""
    seen: dict[str, Any] = {}

    def use(c: Context) -> None:
        s = c.settings
        seen["settings"] = (s.seed, s.train.epochs, s.options, s.workers, s.verify, s.features.limit_gb, s.data.layout)
        photo, val = c.train.samples[0], c.val.samples[0] if c.val else None
        seen["train"] = (photo.labels, photo.domain, photo.saliency_path, photo.mask_path)
        seen["val"] = (val.id, val.mask_path) if val else None
        seen["photos"] = set(c.photos)
        seen["size"], seen["classes"], seen["other"] = c.size(photo), c.classes, c.read("other").folder.name

    stage = doing(
        use, settings=("seed", "train", "options"), reads=("other",),
        facts=("photos", "tags", "saliency", "truth", "val photos", "val truth"),
    )  # fmt: skip
    carry_out(salient, tmp_path / "run", OTHER, stage, settings=RunSettings(seed=3))
    default = RunSettings()
    assert seen["settings"] == (3, default.train.epochs, default.options, 0, False, 30.0, "auto")
    masks, saliency = salient / "masks", salient / "saliency"
    assert seen["train"] == (frozenset({0}), "target", saliency / "photo00.png", masks / "photo00.png")
    assert seen["val"] == ("photo09", masks / "photo09.png")
    assert seen["photos"] == {("train", f"photo{i:02d}") for i in range(9)} | {
        ("val", f"photo{i:02d}") for i in (9, 10, 11)
    }
    assert (seen["size"], seen["classes"], seen["other"]) == ((48, 72), ("disc", "bar"), "other")


def test_a_part_without_some_fields_reads_their_defaults(salient: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    stage = doing(lambda c: seen.append(c.settings.train), settings=(Part("train", ("epochs",)),), facts=("photos",))
    settings = replace(RunSettings(), train=replace(RunSettings().train, epochs=77.0, batch_size=3))
    carry_out(salient, tmp_path / "run", stage, settings=settings)
    assert (seen[0].batch_size, seen[0].epochs) == (3, type(settings.train)().epochs)


def test_a_file_of_weights_is_seen_by_stages_that_declare_its_content(salient: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    settings = replace(RunSettings(), backbone=replace(RunSettings().backbone, weights=str(tmp_path / "w.pth")))
    seen: list[str] = []
    blind = doing(lambda c: seen.append(c.settings.backbone.weights), settings=("backbone",), facts=("photos",))
    knows = replace(blind, name="knows", facts=("photos", "weights"))
    before = carry_out(salient, tmp_path / "run", blind, knows, settings=settings)
    assert seen == ["none", str(tmp_path / "w.pth")]
    (tmp_path / "moved.pth").write_bytes(b"weights")
    moved = replace(settings, backbone=replace(settings.backbone, weights=str(tmp_path / "moved.pth")))
    after = carry_out(salient, tmp_path / "run", blind, knows, settings=moved)
    assert [after.folders[n].key for n in ("mine", "knows")] == [before.folders[n].key for n in ("mine", "knows")]
    assert len(seen) == 2  # the same content: nothing is done again
    (tmp_path / "moved.pth").write_bytes(b"others")
    carry_out(salient, tmp_path / "run", blind, knows, settings=moved)
    assert seen == ["none", str(tmp_path / "w.pth"), str(tmp_path / "moved.pth")]


def test_an_interrupted_photo_stage_does_what_is_missing_and_keeps_the_order(world: Path, tmp_path: Path) -> None:
    written: list[str] = []

    def start(context: Context) -> PhotoWork:
        def write(sample: data.Sample, nothing: None) -> dict[str, Any]:
            if len(written) == 4:
                raise KeyboardInterrupt
            written.append(sample.id)
            context.folder.path(sample.id, ".txt").write_text(sample.id)
            return {"letters": len(sample.id)}

        return PhotoWork(write=write, conclude=lambda records: {"letters": sum(r["letters"] for r in records)})

    stage = PhotoStage(
        name="mine", title="mine", suffix=".txt", keeps_records=True, facts=("photos",), start=start,
        measured=Measured("masks", "Mine", "train"),
    )  # fmt: skip
    settings = RunSettings(workers=1)
    with pytest.raises(KeyboardInterrupt):
        carry_out(world, tmp_path / "run", stage, settings=settings)
    first = list(written)
    written.append("interrupted")
    execution = carry_out(world, tmp_path / "run", stage, settings=settings)
    ids = [f"photo{i:02d}" for i in range(9)]
    assert set(written[5:]) >= set(ids) - set(first) and len(written[5:]) < 9
    assert execution.folders["mine"].manifest()["letters"] == 9 * 7
    records = [json.loads(line) for line in execution.folders["mine"].records.read_text().splitlines()]
    assert [record["id"] for record in records] == ids
    (tmp_path / "run" / "mine" / "photo03.txt").write_text("")  # empty is missing
    del written[:]
    carry_out(world, tmp_path / "run", stage, settings=settings)
    assert written == ["photo03"]


# --- every stage of every plan keeps to what it declares ----------------------------------------------------------

EXTRA = (
    "--student-train.epochs 1 --student-train.batch-size 4 --student-train.precision float32 "
    "--propagation-train.epochs 1 --propagation-train.batch-size 2 --propagation-train.precision float32 "
    "--propagation.channels 8 --propagation.steps 8"
)
PLANS = {
    "everything at once": "--self-train smaf --propagate irn --oracle-masks",
    "everything, twice": "--self-train smaf --self-train.rounds 2 --propagate psa --oracle-masks --relabel.rounds 2",
    "cam": "",
    "mcis": "--method mcis",
    "mcis, frozen": "--method mcis --freeze-until layer3 --segmenter.no-warm-start",
    "ppl": "--method ppl --relabel.rounds 0",
    "eps": "--method eps --background saliency",
    "apc": "--method apc --apc.decoder-width 8",
    "apc with a segmenter": "--method apc --apc.no-single-stage",
    "apc, frozen": "--method apc --apc.decoder-width 8 --freeze-until layer3",
    "eps and students cleaned by saliency": "--method eps --self-train smaf --self-train.denoise saliency,prototype",
    "students of apc": "--method apc --apc.decoder-width 8 --self-train smaf",
    "frozen students": "--freeze-until layer3 --self-train smaf --segmenter.no-warm-start",
    "psa": "--propagate psa",
    "colours": "--propagate colours --segmenter deeplab-v2",
    "features": "--propagate features",
    "features of students": "--propagate features --self-train smaf",
    "the saliency rule": "--background saliency-rule --refine none",
    "a segmenter of its own": "--segmenter.backbone resnet14t --segmenter.weights none",
    "tokens": "--propagate tokens",
    "tokens of a network of its own": "--propagate tokens --propagation.backbone resnet14t --propagation.weights none",
    "attention, frozen": "--backbone tiny_vit_for_tests --freeze --propagate attention --relabel.rounds 0",
    "saliency without labels": (
        "--method eps --saliency self-supervised --self-supervised.long-side 72 --backbone tiny_vit_for_tests"
    ),
    "another library's segmenter": "--segmenter smp:fpn --oracle-masks",
}


@functools.cache
def settings_of(name: str) -> RunSettings:
    from tag2mask.cli.runs import parse_run

    return parse_run(["DATA", "--out", "x", *SMALL, *EXTRA.split(), *PLANS[name].split()], "train")[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_every_stage_uses_what_it_declares_and_nothing_else(
    name: str, salient: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The view is on in every run: what is not declared raises. And once done, nothing is left to do."""
    command = ["train", salient, "--out", tmp_path / "run", *SMALL, *EXTRA.split(), *PLANS[name].split()]
    assert run(*command) == 0, capsys.readouterr().err
    planned = [stage.name for stage in stages.plan(settings_of(name))]
    assert sorted(keys(tmp_path / "run")) == sorted(planned)
    before = stamps(tmp_path / "run")
    assert run(*command) == 0
    assert redone(before, stamps(tmp_path / "run")) == set()
    capsys.readouterr()
    assert run("plan", *command[1:]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [[n, "done"] for n in planned]


def test_everything_at_once_holds_every_kind_of_stage() -> None:
    names = [stage.name for stage in stages.plan(settings_of("everything at once"))]
    assert names == [
        "images", "method", "maps", "self-method-1", "self-maps-1", "affinity-labels", "affinity", "propagated",
        "masks", "segmenter-0", "masks-1", "segmenter", "predictions", "oracle-masks", "segmenter-0-oracle",
        "segmenter-oracle", "predictions-oracle", "scores",
    ]  # fmt: skip


# --- keys: settings that decide nothing change none, every other changes one --------------------------------------


@dataclasses.dataclass
class Facts:
    """What is known of data and files, by name alone: weights by their path."""

    settings: RunSettings

    def fact(self, name: str) -> str:
        if name == "weights":
            return self.settings.backbone.weights
        if name == "propagation weights":
            return self.settings.propagation.weights
        return self.settings.segmenter.weights if name == "segmenter weights" else name


def keys_with(settings: RunSettings) -> dict[str, str]:
    return keys_of(stages.plan(settings), settings, Facts(settings))  # type: ignore[arg-type]


def bases() -> dict[str, RunSettings]:
    """Settings whose plans together hold every stage that a setting can decide."""
    default, smaf = RunSettings(), SelfTrainSettings("smaf", rounds=2)
    own = {name: replace(default, method=name, options=METHODS[name].settings()) for name in METHODS}
    frozen = BackboneSettings("resnet10t", weights="none", freeze_until="layer3")
    separate = SegmenterSettings(backbone="resnet14t", weights="none", output_stride=8)
    return {
        "default": default,
        **own,
        "apc with a segmenter": replace(own["apc"], options=ApcSettings(single_stage=False)),
        "students": replace(default, self_train=smaf, propagate="irn"),
        "students cleaned by saliency": replace(own["eps"], self_train=replace(smaf, denoise=("saliency",))),
        "features": replace(default, self_train=smaf, propagate="features"),
        "colours": replace(default, propagate="colours"),
        "frozen": replace(default, backbone=frozen, self_train=smaf),
        "frozen mcis": replace(own["mcis"], backbone=frozen),
        "saliency": replace(default, pseudo=PseudoSettings(background="saliency")),
        "saliency rule": replace(default, pseudo=PseudoSettings(background="saliency-rule"), refine="none"),
        "a segmenter of its own": replace(default, segmenter=separate),
        "tokens of a network of its own": replace(
            default, propagate="tokens", propagation=PropagationSettings(backbone="resnet14t", weights="none")
        ),
        "saliency without labels": replace(own["eps"], data=data.DataSettings(saliency=SELF_SUPERVISED)),
    }


Place = tuple[str, ...]


def places(settings: Any, above: Place = (), free: bool = False) -> Iterator[tuple[Place, bool]]:
    """The path of every single setting, and whether it is said to decide nothing."""
    for f in fields(settings):
        value, decides_nothing = getattr(settings, f.name), free or marker(settings, f.name, DecidesNothing) is not None
        if is_dataclass(value):
            yield from places(value, (*above, f.name), decides_nothing)
        else:
            yield (*above, f.name), decides_nothing


def every_place() -> list[tuple[str, bool]]:
    """Of all methods; a method's own settings are called by its name."""
    found: dict[str, bool] = {}
    for settings in bases().values():
        for place, free in places(settings):
            own = settings.method if place[0] == "options" else place[0]
            found[".".join((own, *place[1:]))] = free
    return sorted(found.items())


NAMES: dict[str, tuple[Any, ...]] = {
    "method": ("ppl", "cam"), "backbone.name": ("resnet18",), "backbone.weights": ("other.pth",),
    "train.epochs": (3.0,), "segmenter_train.epochs": (3.0,), "relabel_train.epochs": (3.0,),
    "segmenter.weights": ("other.pth",),
    "propagate": ("colours", "psa"), "refine": ("par", "none"),
    "inference.refine": ("par",), "relabel.refine": ("par",), "segmenter.name": ("deeplab-v2", "deeplab-largefov"),
    "segmenter.backbone": ("resnet26t",), "propagation.backbone": ("resnet26t",), "propagation.weights": ("other.pth",),
    "text.prompts": (("disc=a disc",),), "text.template": ("a {}",), "text.background": (("sea",),),
    "text.tower": ("ViT-B-16/openai",), "backbone.freeze_until": ("layer2",), "apc.fixed_until": ("layer1",),
    "ppl.fixed_until": ("layer1",), "ppl.cuts": (("layer1",),), "ppl.grids": ((3,),), "data.classes": (("disc",),),
    "data.truth_values": (("disc=3",),), "self_train.denoise": (("prototype",), ("saliency",)),
}  # fmt: skip
"""Of settings whose values are names."""


def values_for(parent: Any, name: str, path: str) -> Iterator[Any]:
    """Other values that a setting may have, the likeliest first."""
    now, hint = getattr(parent, name), get_type_hints(type(parent))[name]
    yield from NAMES.get(path, ())
    if isinstance(now, bool):
        yield not now
        return
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            yield from (choice for choice in get_args(part) if choice != now)
    if isinstance(now, (int, float)):
        yield from (now + 1, now - 1, now * 2, now / 2, (now + 1) / 2, type(now)(0.5 if isinstance(now, float) else 3))
    if isinstance(now, tuple) and now and all(isinstance(v, (int, float)) for v in now):
        yield from (tuple(v * 0.9 for v in now), tuple(v + 1 for v in now), (0.5,))
    if now is None or isinstance(now, tuple):
        yield from (2, 16, 0.3, (0.5,), ("x",))
    if "Path" in str(hint):
        yield Path("elsewhere")
    if "str" in str(hint):
        yield "other"


def changed(settings: RunSettings, path: str) -> RunSettings | None:
    """The settings with another value at this path; None where they have no such setting."""
    names = path.split(".")
    if names[0] in METHODS:
        if names[0] != settings.method:
            return None
        names[0] = "options"
    parents = [settings]
    for name in names[:-1]:
        parents.append(getattr(parents[-1], name))
    for value in values_for(parents[-1], names[-1], path):
        if value == getattr(parents[-1], names[-1]):
            continue
        try:
            if path == "method":
                return replace(settings, method=value, options=METHODS[value].settings())
            for parent, name in zip(reversed(parents), reversed(names), strict=True):
                value = replace(parent, **{name: value})
            stages.plan(value)
        except (InputError, TypeError, ValueError):
            continue
        return value
    raise AssertionError(f"no other value of {path} is known: give one in NAMES")


BASES = bases()
KEYS = {name: keys_with(settings) for name, settings in BASES.items()}
DECIDE_NOTHING = [path for path, free in every_place() if free]
DECIDE = [path for path, free in every_place() if not free]


BY_FACT = ("data.saliency", "start_from", "with_masks")  # they decide, by facts or by stages of their own


@pytest.mark.parametrize("path", [path for path in DECIDE_NOTHING if path not in BY_FACT])
def test_a_setting_that_decides_nothing_is_in_no_key(path: str) -> None:
    tried = 0
    for name, settings in BASES.items():
        other = changed(settings, path)
        if other is None:
            continue
        before, after = KEYS[name], keys_with(other)
        same = before.keys() & after.keys()
        assert len(same) >= 6 and {n: before[n] for n in same} == {n: after[n] for n in same}
        tried += 1
    assert tried


@pytest.mark.parametrize("path", DECIDE)
def test_every_other_setting_is_in_the_key_of_a_stage_that_it_decides(path: str) -> None:
    others = ((name, changed(settings, path)) for name, settings in BASES.items())
    assert any(other is not None and KEYS[name] != keys_with(other) for name, other in others), (
        f"{path} is in no key: a stage reads it undeclared, or it is to be marked DecidesNothing"
    )


def test_the_settings_that_decide_nothing_are_these() -> None:
    """A new one joins here on purpose."""
    data_ = {f"data.{f.name}" for f in fields(data.DataSettings)}
    trainings = {"train", "student_train", "propagation_train", "segmenter_train", "relabel_train"}
    own = ("workers", "compile", "shard_weights", "checkpoint_minutes", "tracker")
    of_training = {f"{t}.{n}" for t in trainings for n in own}
    assert set(DECIDE_NOTHING) - data_ - of_training == {
        "aside_gb", "features.folder", "features.limit_gb", "inference.batch_size", "localize.batch_size",
        "oracle_masks", "start_from", "verify", "with_masks", "workers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "stage_names"),
    [
        ("pseudo.threshold", "separation masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions scores"),
        ("pseudo.margin", "masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions scores"),
        ("refine", "masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("localize.flip", "maps separation masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("segmenter.channels", "segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("segmenter_train.epochs", "segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("relabel.scales", "masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("relabel.prior_correction", "masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("relabel.again_below", "segmenter-1 masks-2 segmenter predictions"),
        ("relabel.doubted_correction", "masks-2 segmenter predictions"),
        ("relabel_train.epochs", "segmenter-1 masks-2 segmenter predictions"),
        ("inference.scales", "predictions"),
        ("inference.refine", "predictions"),
        ("inference.prior_correction", "predictions"),  # relabelled masks have a setting of their own
    ],
)
def test_a_setting_redoes_what_depends_on_it_and_nothing_else(path: str, stage_names: str) -> None:
    other = changed(BASES["default"], path)
    assert other is not None
    before, after = keys_with(BASES["default"]), keys_with(other)
    assert {name for name in before if before[name] != after.get(name)} == set(stage_names.split())


@pytest.mark.parametrize(
    ("fact", "stage_names"),
    [
        ("tags", "method maps separation masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions scores"),
        ("weights", "method maps separation masks segmenter-0 masks-1 segmenter-1 masks-2 segmenter predictions"),
        ("truth", "oracle-masks segmenter-0-oracle segmenter-1-oracle segmenter-oracle predictions-oracle scores"),
        ("val photos", "predictions predictions-oracle scores"),
        ("val truth", "scores"),
        ("saliency", ""),
    ],
)
def test_a_fact_decides_what_it_should(fact: str, stage_names: str) -> None:
    """Truth above all: nothing that is not called an oracle depends on it, but the scores."""

    class Other(Facts):
        def fact(self, name: str) -> str:
            return "other" if name == fact else super().fact(name)

    settings = replace(RunSettings(), oracle_masks=True)
    plan = stages.plan(settings)
    before, after = (keys_of(plan, settings, of(settings)) for of in (Facts, Other))  # type: ignore[arg-type]
    found = {name for name in before if before[name] != after[name]}
    if fact == "weights":
        found = {name for name in found if "oracle" not in name}
    if fact == "tags":
        found = {name for name in found if "oracle" not in name}
    assert found == set(stage_names.split())


# --- what was mended ----------------------------------------------------------------------------------------------


def scores_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "scores" / "scores.json").read_text())


@pytest.fixture(scope="module")
def oracled(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data whose truth masks are not compressed, and a finished run on them that also trained on the truth."""
    folder = tmp_path_factory.mktemp("oracle")
    shutil.copytree(world, folder / "data")
    for path in (folder / "data" / "masks").glob("*.png"):
        Image.open(path).save(path, compress_level=0)
    for name in ("photo00", "photo01"):  # two classes' truth is wrong, so that no order of the values is refused
        path = folder / "data" / "masks" / f"{name}.png"
        with Image.open(path) as opened:
            values = np.asarray(opened)
        Image.fromarray(np.array([0, 2, 1], np.uint8)[values]).save(path, compress_level=0)
    flags = ("--oracle-masks", "--relabel.rounds", "0", "--refine", "none")
    assert run("train", folder / "data", "--out", folder / "run", *SMALL, *flags) == 0
    return folder / "data", folder / "run"


ORACLE = ("--oracle-masks", "--relabel.rounds", "0", "--refine", "none")


def test_corrected_truth_values_score_anew(oracled: tuple[Path, Path], tmp_path: Path) -> None:
    world, finished = oracled
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    right, before = scores_of(out), stamps(out)
    assert run("train", world, "--out", out, *SMALL, *ORACLE, "--truth-values", "disc=2,bar=1") == 0
    wrong = scores_of(out)
    assert wrong["masks"]["iou"] != right["masks"]["iou"]
    of_truth = {"oracle-masks", "segmenter-oracle", "predictions-oracle", "scores"}
    assert redone(before, stamps(out)) == of_truth
    assert run("train", world, "--out", out, *SMALL, *ORACLE, "--truth-values", "disc=1,bar=2") == 0
    assert scores_of(out) == right
    for name in ("masks/photo00.png", "segmenter/model.safetensors"):
        assert (out / name).stat().st_mtime_ns == before[name]


def test_other_truth_of_the_same_size_and_time_scores_and_trains_the_oracle_anew(
    oracled: tuple[Path, Path], tmp_path: Path
) -> None:
    data_, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(oracled[0], data_)
    shutil.copytree(oracled[1], out)
    assert run("train", data_, "--out", out, *SMALL, *ORACLE) == 0
    right, before = scores_of(out), stamps(out)
    path = data_ / "masks" / "photo02.png"
    status, mask = path.stat(), np.asarray(Image.open(path))
    turned = np.array([0, 2, 1], np.uint8)[mask]  # the other class
    assert (turned != mask).any()
    Image.fromarray(turned).save(path, compress_level=0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert run("train", data_, "--out", out, *SMALL, *ORACLE) == 0
    assert redone(before, stamps(out)) == {"oracle-masks", "segmenter-oracle", "predictions-oracle", "scores"}
    assert (np.asarray(Image.open(out / "oracle-masks" / "photo02.png")) == turned).all()
    assert scores_of(out)["masks"] != right["masks"] and scores_of(out)["predictions"] == right["predictions"]


@pytest.mark.slow
def test_workers_added_to_a_half_done_training_keep_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tag2mask.training.loop import _Training

    steps, plain = [0], _Training.step

    def counted(self: _Training, step: int, batch: Any) -> None:
        steps[0] += 1
        if steps[0] == stop:
            raise KeyboardInterrupt
        plain(self, step, batch)

    monkeypatch.setattr(_Training, "step", counted)
    command = ["label", world, *SMALL, "--epochs", "5", "--refine", "none", "--out"]
    stop = -1
    assert run(*command, tmp_path / "whole") == 0
    whole, steps[0], stop = steps[0], 0, 7
    assert run(*command, tmp_path / "cut", "--train.checkpoint-minutes", "0") == 2
    assert (tmp_path / "cut" / "method" / "checkpoint.safetensors").exists()
    more = ("--train.workers", "1", "--workers", "2", "--train.checkpoint-minutes", "9", "--features.limit-gb", "1")
    assert run(*command, tmp_path / "cut", *more) == 0
    assert steps[0] == whole + 1  # one was begun twice
    model = "method/model.safetensors"
    assert (tmp_path / "cut" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    assert "other settings" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def labelled(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "run"
    assert run("label", world, "--out", out, *SMALL, "--refine", "none") == 0
    return out


LABEL = (*SMALL, "--refine", "none")


def test_results_of_other_settings_are_kept_and_taken_back(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(labelled, out)
    before, made = keys(out), stamps(out)
    capsys.readouterr()
    assert run("label", world, "--out", out, *LABEL, "--seed", "1") == 0
    said = capsys.readouterr().err
    for name in ("method", "maps", "masks"):
        place = out / ".aside" / name / before[name]
        assert f"{name}: results of other settings are kept in {place}" in said and place.is_dir()
    changed_stages = {n for n, key in keys(out).items() if key != before[n]}
    assert changed_stages == {"method", "maps", "separation", "masks", "scores"}
    assert run("label", world, "--out", out, *LABEL) == 0
    said = capsys.readouterr().err
    assert "method: results of these settings were kept and are used again" in said and "training cam" not in said
    assert keys(out) == before
    artefacts = {n: t for n, t in made.items() if n.split("/")[0] in before and "/" in n}
    assert artefacts.items() <= stamps(out).items()  # to the moment they were made


def test_what_is_kept_of_other_settings_is_bounded(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(labelled, out)
    assert run("label", world, "--out", out, *LABEL, "--seed", "1", "--aside-gb", "0") == 0
    said = capsys.readouterr().err
    assert "is deleted: results of other settings took more than 0 GB (--aside-gb)" in said
    assert not [path for path in (out / ".aside").rglob("*") if path.is_file()]
    assert len(list((out / "masks").glob("*.png"))) == 9  # of these settings


DAMAGES = [
    ("masks/photo03.png", "missing"), ("masks/photo03.png", "cut"), ("maps/photo03.npz", "empty"),
    ("maps/photo03.npz", "cut"), ("method/model.safetensors", "missing"), ("method/model.safetensors", "cut"),
    ("images/.stage/records.jsonl", "cut"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "how"), DAMAGES)
def test_the_same_command_makes_anew_what_is_missing_or_damaged(
    damage: str, how: str, labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen at once where it is missing; what is cut is seen when it is read."""
    out = tmp_path / "run"
    shutil.copytree(labelled, out)
    path, whole = out / damage, (labelled / damage).read_bytes()
    path.write_bytes(b"" if how == "empty" else whole[: len(whole) // 2])
    if how == "missing":
        path.unlink()
    again = ["label", world, "--out", out, *LABEL]
    if how == "cut":  # what reads it is made anew
        again += {"masks/photo03.png": (), "maps/photo03.npz": ("--threshold", "0.4")}.get(damage, ("--scales", "0.5"))
    assert run(*again) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if how == "cut" and damage.endswith((".png", ".npz")):
        assert f"{damage} is damaged" in said and "made anew" in said
    if "records" in damage:
        assert len(path.read_text().splitlines()) == 12
    else:
        assert path.read_bytes() == whole
    assert run(*again) == 0 and "made anew" not in capsys.readouterr().err


def test_relative_paths_and_reports_written_again_from_another_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(world, tmp_path / "there" / "data")
    (tmp_path / "there" / "data" / "masks").rename(tmp_path / "there" / "truth")
    monkeypatch.chdir(tmp_path / "there")
    assert run("label", "data", "--out", "run", *LABEL, "--truth", "truth") == 0
    page = (tmp_path / "there" / "run" / "report.html").read_text()
    described = json.loads((tmp_path / "there" / "run" / "run.json").read_text())
    assert described["data"] == str(tmp_path / "there" / "data")
    assert described["settings"]["data"]["truth"] == str(tmp_path / "there" / "truth")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "there" / "run" / "report.html").unlink()
    assert run("report", "../there/run") == 0
    again = (tmp_path / "there" / "run" / "report.html").read_text()
    assert "mIoU" in page and again.count("<img") == page.count("<img") > 0
    before = keys(tmp_path / "there" / "run")
    assert run("label", "../there/data", "--out", "../there/run", *LABEL, "--truth", "../there/truth") == 0
    assert keys(tmp_path / "there" / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("doctor", "DATA"), ("list", "backbones")])
def test_a_reader_that_goes_ends_a_command_without_a_word(arguments: tuple[str, ...], world: Path) -> None:
    """As `tag2mask doctor DATA | head -1`, with a reader that is gone before the first line for certain."""
    named = [str(world) if argument == "DATA" else argument for argument in arguments]
    command = [sys.executable, "-m", "tag2mask", *named]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said and "BrokenPipe" not in said and "Exception ignored" not in said, said


# --- tag2mask plan ------------------------------------------------------------------------------------------------


def outlook(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, tuple[str, str]]:
    """Stage to its state and the line."""
    capsys.readouterr()
    assert run("plan", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: (line[len(line.split()[0]) :].strip(), line) for line in lines}


ALL = (
    "images", "method", "maps", "separation", "masks", "segmenter-0", "masks-1", "segmenter", "predictions", "scores",
)  # fmt: skip


def states(rows: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    known = ("done", "kept", "begun", "to do", "anew")
    return {name: next(state for state in known if rest.startswith(state)) for name, (rest, _) in rows.items()}


def test_the_plan_of_an_untouched_folder(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = outlook(capsys, world, "--out", tmp_path / "run", *LABEL)
    assert states(rows) == dict.fromkeys(ALL, "to do") and tuple(rows) == ALL
    assert not any("because" in line or "min last time" in line for _, line in rows.values())
    assert not (tmp_path / "run").exists()  # nothing is made


def test_photos_that_were_copied_back_are_known_by_their_bytes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other times and rights of the files make nothing anew, and whoever looks at the run finds it finished."""
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(world, data)
    assert run("label", data, "--out", out, *LABEL) == 0
    for photo in (data / "images").iterdir():
        photo.chmod(0o640)
        os.utime(photo)
    rows = outlook(capsys, data, "--out", out, *LABEL)
    assert {states(rows)[name] for name in ("images", "method", "maps", "masks")} == {"done"}
    assert run("report", out) == 0 and run("export", out, "--to", "png", "--out", tmp_path / "png") == 0
    capsys.readouterr()
    photo = data / "images" / "photo03.png"
    content = bytearray(photo.read_bytes())
    content[-1] ^= 1  # as many bytes
    photo.write_bytes(content)
    rows = outlook(capsys, data, "--out", out, *LABEL)
    assert states(rows)["images"] == "begun" and "new or changed photos: photo03" in rows["images"][1]
    assert states(rows)["method"] == "anew"
    assert "run its command again" in fails(capsys, "report", out)


def test_the_plan_of_a_run_and_of_changes_to_it(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(labelled, out)
    before = stamps(out)
    rows = outlook(capsys, world, "--out", out, *LABEL)
    done = {"images", "method", "maps", "separation", "masks"}
    assert {n for n, state in states(rows).items() if state == "done"} >= done
    assert {n for n, state in states(rows).items() if state == "to do"} == set(ALL[5:9])
    assert all("min last time" in rows[name][1] for name in done) and "because" not in rows["masks"][1]

    rows = outlook(capsys, world, "--out", out, *LABEL, "--threshold", "0.4")
    found = states(rows)
    assert (found["images"], found["method"], found["maps"], found["masks"]) == ("done", "done", "done", "anew")
    assert "because pseudo.threshold: None -> 0.4" in rows["masks"][1]

    rows = outlook(capsys, world, "--out", out, *LABEL, "--seed", "5")
    found = states(rows)
    assert (found["images"], found["method"], found["maps"], found["masks"]) == ("done", "anew", "anew", "anew")
    assert "because seed: 0 -> 5" in rows["method"][1]
    assert "because method is made anew" in rows["maps"][1] and "because maps is made anew" in rows["masks"][1]

    rows = outlook(capsys, world, "--out", out, *LABEL, "--workers", "3", "--train.workers", "1")
    assert {n for n, state in states(rows).items() if state == "done"} >= done  # they decide nothing
    assert stamps(out) == before  # nothing was changed by asking


def test_the_plan_says_what_is_still_to_be_made(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And does not call it made anew; what was made of it before and is of the same settings stays."""
    out = tmp_path / "run"
    shutil.copytree(labelled, out)
    rows = outlook(capsys, world, "--out", out, *LABEL, "--self-train", "smaf")
    found = states(rows)
    assert (found["maps"], found["self-maps-1"], found["masks"]) == ("done", "to do", "anew")
    assert "because self-maps-1 is still to be made" in rows["masks"][1]
    shutil.rmtree(out / "maps")
    rows = outlook(capsys, world, "--out", out, *LABEL)
    assert (states(rows)["maps"], states(rows)["masks"]) == ("to do", "done")
    before = stamps(out)
    assert run("label", world, "--out", out, *LABEL) == 0
    assert redone(before, stamps(out)) == {"maps"}


def test_the_plan_names_what_is_kept_and_what_changed_in_the_data(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data_ = tmp_path / "run", tmp_path / "data"
    shutil.copytree(labelled, out)
    shutil.copytree(world, data_)
    assert run("label", data_, "--out", out, *LABEL, "--seed", "5") == 0
    rows = outlook(capsys, data_, "--out", out, *LABEL)
    assert {n for n, state in states(rows).items() if state == "kept"} >= {"method", "maps", "masks"}
    lines = (data_ / "tags.csv").read_text().replace("photo02.png,disc;bar", "photo02.png,disc")
    (data_ / "tags.csv").write_text(lines)
    rows = outlook(capsys, data_, "--out", out, *LABEL, "--seed", "5")
    assert states(rows)["method"] == "anew" and "because other tags" in rows["method"][1]


@pytest.mark.slow
def test_the_plan_sees_photos_that_are_new_or_changed_and_artefacts_that_are_gone(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without reading a photo, and as the run then finds it."""
    out, data_ = tmp_path / "run", tmp_path / "data"
    shutil.copytree(labelled, out)
    shutil.copytree(world, data_)
    command = (data_, "--out", out, *LABEL)
    assert run("label", *command) == 0
    (out / "maps" / "photo01.npz").unlink()
    rows = outlook(capsys, *command)
    assert states(rows)["maps"] == "begun" and "because missing or damaged: photo01" in rows["maps"][1]
    assert (states(rows)["method"], states(rows)["masks"]) == ("done", "done")  # the same maps will be there again
    before = stamps(out)
    assert run("label", *command) == 0
    assert redone(before, stamps(out)) == {"maps"}

    photo = data_ / "images" / "photo10.png"  # of validation
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photo)
    rows = outlook(capsys, *command)
    assert states(rows)["images"] == "begun" and "because new or changed photos: photo10" in rows["images"][1]
    assert {states(rows)[name] for name in ("method", "maps", "masks")} == {"done"}
    assert states(rows)["scores"] == "anew"

    shutil.copy(data_ / "images" / "photo01.png", data_ / "images" / "photo99.png")
    shutil.copy(data_ / "masks" / "photo01.png", data_ / "masks" / "photo99.png")
    with (data_ / "tags.csv").open("a") as table:
        table.write("photo99.png,bar,train\n")
    rows = outlook(capsys, *command)
    assert {states(rows)[name] for name in ("method", "maps", "masks")} == {"anew"}
    assert "because new or changed photos: photo99, photo10" in rows["method"][1]
    assert "because method is made anew" in rows["maps"][1]
    before = stamps(out)
    capsys.readouterr()
    assert run("label", *command) == 0
    said = capsys.readouterr().err
    assert "checking photos: new or changed photos: photo99, photo10" in said and "damaged" not in said
    assert redone(before, stamps(out)) == {"images", "method", "maps", "separation", "masks", "scores"}
    rows = outlook(capsys, *command)
    assert {states(rows)[name] for name in ("images", "method", "maps", "masks")} == {"done"}


def test_the_plan_of_a_run_of_other_photos_asks_nothing_of_them(
    labelled: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were not read yet, which is not the same as unreadable."""
    shutil.copytree(world, tmp_path / "data")
    table = tmp_path / "data" / "tags.csv"
    for photo in (tmp_path / "data").glob("*/photo*.png"):
        photo.rename(photo.with_name(photo.name.replace("photo", "other")))
    table.write_text(table.read_text().replace("photo", "other"))
    rows = outlook(capsys, tmp_path / "data", "--out", labelled, *LABEL)
    assert states(rows)["images"] == "begun" and "because new or changed photos: other" in rows["images"][1]
    assert {states(rows)[name] for name in ("method", "maps", "masks")} == {"anew"}


def test_what_the_default_threshold_rule_comes_to_is_in_the_key_of_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version may have another: masks of the old one are not its own."""
    from tag2mask.layers import class_references
    from tag2mask.stages import thresholds

    before, given = KEYS["default"], replace(RunSettings(), pseudo=PseudoSettings(threshold=0.4))
    of_given = keys_with(given)
    other = lambda *a: replace(class_references.compared_traits(*a), threshold_rule="li")  # noqa: E731
    monkeypatch.setattr(thresholds, "compared_traits", other)
    after = keys_with(RunSettings())
    assert after["masks"] != before["masks"] and after["maps"] == before["maps"]
    assert keys_with(given) == of_given
