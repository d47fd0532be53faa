"""Damaged files of a run: whatever their bytes, they are read, made anew, or refused in one line."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

import fuzz
from tag2mask import stages
from tag2mask.backbones import BackboneSettings, build
from tag2mask.data.check import CheckedImage
from tag2mask.data.checked import CheckedPhotos
from tag2mask.errors import InputError
from tag2mask.feature_store import FeatureSettings, FeatureStore
from tag2mask.plan.facts import DigestCache, RunData
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.plan.records import read_records
from tag2mask.recipes import RunSettings, settings_from
from tag2mask.settings import plain
from tag2mask.stages.artefacts import MapReader, MaskReader, write_maps
from tag2mask.stages.photos import RECORD
from tag2mask.training.checkpoint import load_model, restore_checkpoint, save_checkpoint
from tag2mask.types import Dataset, LocalizationMaps, PhotoFacts, Sample
from tag2mask.views import View

PHOTO = Sample("a", Path("a.png"), frozenset({0}), split="train")
NUMBERS = (b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00" * 8, b"\x00\x7c")
"""Infinite, not a number, and sizes that nothing has."""


@fuzz.cases_of_runs
def test_manifests(tmp_path, count):
    stage = StageFolder(tmp_path / "run" / "maps", "k")
    stage.finish(count=3, seconds=1.5, threshold=0.25, without=["a"])
    seed = (stage.own / "manifest.json").read_bytes()
    whole = stage.manifest()
    run = Run(tmp_path / "run")

    def read(path: Path) -> None:
        found = stage.manifest()  # as it was written, or not at all
        assert not found or whole == found
        stage.earlier_seconds()
        assert run.stages() == ["maps"] and run.current("maps") in (None, stage)

    assert fuzz.survives(read, stage.own / "manifest.json", fuzz.damaged([seed], count)).refused == 0
    for name in ("key.json", "seconds.json"):
        contents = fuzz.damaged([b'{"key": "k", "seconds": 3.5}'], count // 3)
        assert fuzz.survives(lambda _: (run.current("maps"), stage.earlier_seconds()), stage.own / name, contents)


@fuzz.cases_of_runs
def test_descriptions(tmp_path, count):
    content = {"version": 2, "classes": ["cat"], "data": "/x", "sessions": [], "settings": plain(RunSettings())}
    contents = fuzz.damaged([json.dumps(content, indent=1).encode()], count)

    def read(path: Path) -> None:
        stages.plan(settings_from(Run(tmp_path, existing=True).described()["settings"]))

    outcome = fuzz.survives(read, tmp_path / "run.json", contents)
    assert outcome.read > count / 20 and outcome.refused > count / 4


@fuzz.cases_of_runs
def test_records(tmp_path, count):
    records = [asdict(CheckedImage(f"p{i}", 4, 6, "ab" * 16, split="train")) | {"stamp": [1, 2, 3]} for i in range(3)]
    samples = [Sample(f"p{i}", Path("x"), frozenset({0}), split="train") for i in range(3)]
    data = RunData(
        tmp_path, Dataset("d", ("cat",), samples), None, RunSettings(), DigestCache(tmp_path / "digests")
    )  # fmt: skip
    seed = "".join(json.dumps(record) + "\n" for record in records).encode()
    outcome = fuzz.survives(
        lambda path: data.checked(CheckedPhotos.of(read_records(path, RECORD))),
        tmp_path / "records.jsonl",
        fuzz.damaged([seed], count),
    )
    assert outcome.read > count / 4


@fuzz.cases_of_runs
def test_digests(tmp_path, count):
    (tmp_path / "a").write_bytes(b"a")
    cache = DigestCache(tmp_path / "digests.jsonl")
    cache.of(tmp_path / "a")
    cache.save()
    contents = fuzz.damaged([(tmp_path / "digests.jsonl").read_bytes()], count)
    outcome = fuzz.survives(lambda path: DigestCache(path).of(tmp_path / "a"), tmp_path / "digests.jsonl", contents)
    assert outcome.refused == 0


@fuzz.cases_of_runs
def test_files_of_a_finished_stage(tmp_path, count):
    stage, seed = StageFolder(tmp_path / "scores", "k"), b'{"masks": {"iou": [1.5, 2.5]}}'
    stage.own.mkdir(parents=True)
    (stage.folder / "scores.json").write_bytes(seed)
    stage.finish(count=1, seconds=1, files=["scores.json"])

    def read(path: Path) -> None:
        assert stage.as_written(path.name) == (path.read_bytes() == seed)

    fuzz.survives(read, stage.folder / "scores.json", fuzz.damaged([seed], count))


@fuzz.cases_of_runs
def test_maps(tmp_path, count):
    scores = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)
    write_maps(tmp_path / "a.npz", LocalizationMaps("a", (1, 4), scores, (40, 56), 0.5))
    contents = fuzz.damaged([(tmp_path / "a.npz").read_bytes()], count, (*fuzz.TOKENS, *NUMBERS))

    def read(path: Path) -> None:
        maps = MapReader(StageFolder(tmp_path, "k"))(PHOTO)
        assert np.isfinite(maps.scores).all() and len(maps.scores) == len(maps.classes)

    assert fuzz.survives(read, tmp_path / "a.npz", contents).refused > count / 3


@fuzz.cases_of_runs
def test_masks(tmp_path, count):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 4, (9, 11)).astype(np.uint8), "P").save(file, "PNG")
    contents = fuzz.damaged([file.getvalue()], count, (*fuzz.TOKENS, *NUMBERS, b"IDAT", b"IHDR", b"IEND"))
    fuzz.survives(lambda path: MaskReader(StageFolder(tmp_path, "k"), "abc")(PHOTO), tmp_path / "a.png", contents)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


@fuzz.cases_of_runs
def test_models(tmp_path, count):
    torch.manual_seed(0)
    contents = fuzz.damaged([save(network().state_dict())], count, (*fuzz.TOKENS, *NUMBERS))

    def read(path: Path) -> None:
        model = network()
        load_model(model, path)
        assert all(t.isfinite().all() for t in model.state_dict().values())

    assert fuzz.survives(read, tmp_path / "model.safetensors", contents).refused > count / 3


@fuzz.cases_of_runs
def test_checkpoints(tmp_path, count):
    """Nothing of one is believed by half: the training goes on from it, or begins anew."""
    torch.manual_seed(0)
    task = network()
    optimizer = torch.optim.AdamW(task.parameters())
    task(torch.randn(2, 2, 3, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "checkpoint.safetensors", "key", 7, task, optimizer)
    seed = (tmp_path / "checkpoint.safetensors").read_bytes()
    saved = task.state_dict()

    def read(path: Path) -> None:
        other = network()
        before = {name: t.clone() for name, t in other.state_dict().items()}
        step = restore_checkpoint(path, "key", other, torch.optim.AdamW(other.parameters()))
        after = other.state_dict()
        assert step in (0, 7)
        assert all(torch.equal((saved if step else before)[name], after[name]) for name in before)

    contents = fuzz.damaged([seed], count, (*fuzz.TOKENS, *NUMBERS))
    assert fuzz.survives(read, tmp_path / "checkpoint.safetensors", contents).refused == 0


@fuzz.cases_of_runs
def test_features(tmp_path, count):
    backbone = build(BackboneSettings("resnet10t", weights="none", freeze_until="layer1"))
    store = FeatureStore(backbone, {PHOTO.key: PhotoFacts(8, 8, "ab" * 16)}, FeatureSettings(tmp_path), "float32")
    file, view = io.BytesIO(), View(8, 8, False)
    np.save(file, np.random.default_rng(0).random((4, 2, 2)).astype(np.float16))
    contents = fuzz.damaged([file.getvalue()], count, (*fuzz.TOKENS, *NUMBERS))
    outcome = fuzz.survives(lambda path: store.load(PHOTO, view), store.path(PHOTO, view), contents)
    assert outcome.refused > count / 3


@pytest.mark.parametrize("changed", [
    {"classes": "cat"}, {"data": None}, {"settings": []}, {"settings": {"method": 5}}, {"sessions": {}},
    {"settings": plain(RunSettings()) | {"seed": "x"}}, {"settings": plain(RunSettings()) | {"train": []}},
    {"settings": plain(RunSettings()) | {"seed": -1}}, {"settings": plain(RunSettings()) | {"refine": None}},
    {"settings": plain(RunSettings()) | {"seed": True}},
])  # fmt: skip
def test_descriptions_that_are_json_and_no_description(tmp_path, changed):
    content = {"version": 2, "classes": ["cat"], "data": "/x", "sessions": [], "settings": plain(RunSettings())}
    (tmp_path / "run.json").write_text(json.dumps(content | changed))
    with pytest.raises(InputError, match=r"run its command again|run the run's command again"):
        settings_from(Run(tmp_path, existing=True).described()["settings"])
