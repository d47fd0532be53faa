"""What a run says that it knew, against what it was really given."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from tag2mask import passport, pipeline, software
from tag2mask.backbones import BackboneSettings, weights_digest
from tag2mask.files import bytes_digest, write_sealed
from tag2mask.plan.folder import Run
from tag2mask.refine.proposals import MODELS
from tag2mask.stages import names
from world import SMALL, fails, make, run


def read(out: Path) -> dict:
    return json.loads((out / "passport.json").read_text())


def test_a_run_says_what_it_knew(world: Path, tmp_path: Path) -> None:
    assert run("label", world, "--out", tmp_path / "run", *SMALL) == 0
    said = read(tmp_path / "run")
    known = said["learned_from"]
    assert known["tags"] == {"photos": 9, "of_none": 0, "corrected_in_review": 0} and known["saliency"] is None
    assert known["true_masks"] is False and said["signals"] == ["image-level tags"]
    assert said["measured_with"]["true_masks_of_training_photos"] == 9 and not said["oracle_for_comparison"]
    (weights,) = said["weights"]
    assert weights["source"] == "random" and weights["digest"] == "none" and weights["saw_masks"] is False
    assert any("label-free rule" in line for line in said["chosen_on_truth"])
    assert any("dense CRF" in line for line in said["chosen_on_truth"])
    assert run("label", world, "--out", tmp_path / "given", *SMALL, "--threshold", "0.4", "--refine", "none") == 0
    lines = read(tmp_path / "given")["chosen_on_truth"]
    assert not any("rule" in line or "CRF" in line for line in lines)  # nothing by default, nothing to confess


def test_growth_limits_count_where_masks_are_relabelled(world: Path, tmp_path: Path) -> None:
    """Relabelling keeps to them whatever refines the masks."""
    assert run("label", world, "--out", tmp_path / "run", *SMALL, "--refine", "none") == 0
    execution = pipeline.reopen(Run(tmp_path / "run", existing=True))
    said = lambda: any("larger or smaller" in line for line in passport.chosen_on_truth(execution))  # noqa: E731
    assert execution.settings.pseudo.max_growth and execution.settings.relabel.rounds == 1
    assert not said()  # no segmenter has relabelled them
    execution.folders["masks-1"] = execution.folders["masks"]
    assert said()
    unlimited = replace(execution.settings.pseudo, max_growth=0.0, min_growth=0.0)
    execution.settings = replace(execution.settings, pseudo=unlimited)
    assert not said()


def test_what_decides_in_new_photos_counts_where_there_is_a_segmenter(world: Path, tmp_path: Path) -> None:
    assert run("label", world, "--out", tmp_path / "run", *SMALL, "--inference.refine", "crf/deeplab") == 0
    execution = pipeline.reopen(Run(tmp_path / "run", existing=True))
    execution.settings = replace(execution.settings, segmenter=replace(execution.settings.segmenter, balance=0.5))
    said = lambda what: any(what in line for line in passport.chosen_on_truth(execution))  # noqa: E731
    undone, smaller = "weight of rare labels is undone in new photos", "objects of new photos"
    assert not said(undone) and not said(smaller)
    execution.folders[names.segmenters(execution.settings)[-1]] = execution.folders["masks"]
    assert said(undone) and said(smaller)
    whole = execution.settings
    for values in ({"min_growth": 0.0}, {"refine": "none"}):
        execution.settings = replace(whole, inference=replace(whole.inference, prior_correction=0.0, **values))
        assert not said(smaller) and not said(undone)


def test_it_goes_where_the_masks_go(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into exports, without the folders of this machine; `evaluate` reads it where masks lie, and says if none does."""
    out = tmp_path / "run"
    assert run("label", world, "--out", out, *SMALL) == 0
    assert "&#34;signals&#34;" in (out / "report.html").read_text()
    for form in ("png", "labelme"):
        assert run("export", out, "--to", form, "--out", tmp_path / form) == 0
        assert json.loads((tmp_path / form / passport.BESIDE).read_text())["signals"] == ["image-level tags"]
    capsys.readouterr()
    assert run("evaluate", out / "masks", world / "masks", "--allow-missing", "--json") == 0
    assert json.loads(capsys.readouterr().out)["supervision"] == ["image-level tags"]
    assert run("evaluate", world / "masks", world / "masks", "--classes", "disc,bar") == 0
    assert "learned from: not known" in capsys.readouterr().out
    (out / "predictions-oracle").mkdir()
    for name in ("predictions-oracle", "oracle-masks"):
        assert passport.signals_of_masks(out / name) == ["image-level tags", "true masks"]


@pytest.mark.slow
def test_masks_that_are_made_anew_have_no_old_passport(world: Path, tmp_path: Path) -> None:
    """A session that ends before the report leaves none; one that changes nothing leaves it where it is."""
    out = tmp_path / "run"
    assert run("label", world, "--out", out, *SMALL) == 0
    assert run("label", world, "--out", out, *SMALL, "--until", "masks") == 0 and (out / passport.FILE).exists()
    assert run("label", world, "--out", out, *SMALL, "--seed", "1", "--until", "method") == 0
    assert not (out / passport.FILE).exists()
    assert run("label", world, "--out", out, *SMALL, "--seed", "1", "--until", "masks") == 0
    assert read(out)["seed"] == 1 and read(out)["signals"] == ["image-level tags"]  # masks are there: so is theirs


def test_masks_of_new_photos_say_what_was_known_of_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passport.refine, "saw", lambda name: ["masks of other photos"] if name == "sam2" else [])
    assert passport.of_predictions(tmp_path, "sam2", tagged=True) == {}  # of a run that says nothing
    (tmp_path / passport.FILE).write_text(json.dumps({"signals": ["image-level tags"], "weights": []}))
    known = lambda refiner, tagged: passport.of_predictions(tmp_path, refiner, tagged=tagged)["signals"]  # noqa: E731
    assert known("crf", False) == ["image-level tags"]
    assert known("sam2", True) == ["image-level tags", "masks of other photos", passport.TAGGED]
    weights = passport.of_predictions(tmp_path, "sam2", tagged=False)["weights"]
    assert [row["backbone"] for row in weights] == ["SAM 2.1, small"]
    (tmp_path / passport.FILE).write_text(json.dumps({"signals": ["masks of other photos"], "weights": weights}))
    assert passport.of_predictions(tmp_path, "sam2", tagged=False)["weights"] == weights  # once
    masks = tmp_path / "masks"
    masks.mkdir()
    passport.write_beside(masks, {"signals": ["x"]})
    passport.write_beside(masks, {})  # masks of another run, which says nothing
    assert passport.signals_of_masks(masks) != ["x"] and not (masks / passport.BESIDE).exists()


def test_the_commit_is_that_of_the_repository_it_runs_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "tag2mask"
    package.mkdir(parents=True)
    monkeypatch.setattr(software, "__file__", str(package / "software.py"))
    monkeypatch.setattr(software.importlib.metadata, "distribution", _not_installed)
    assert software.commit() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (package / "a.py").write_text("1")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert software.commit() == head[:12]
    (tmp_path / "notes.md").write_text("of no consequence")
    assert software.commit() == head[:12]
    (package / "a.py").write_text("2")
    assert software.commit() == f"{head[:12]}-dirty"


def test_stages_keep_the_software_that_made_them(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that a later version writes anew says what made the run, and which version went on with it."""
    from tag2mask.plan import folder

    old, new = ({"tag2mask": v, "commit": None, "torch": "2.9"} for v in ("0.2.0", "0.3.0"))
    out = tmp_path / "run"
    monkeypatch.setattr(folder, "software", lambda: old)
    assert run("label", world, "--out", out, *SMALL, "--until", "method") == 0
    monkeypatch.setattr(folder, "software", lambda: new)
    assert run("label", world, "--out", out, *SMALL) == 0
    first, second = read(out)["software"]
    assert first == {**old, "stages": ["images", "method"]}
    assert second.items() > new.items() and {"maps", "masks"} <= set(second["stages"])
    (out / "masks" / "photo01.png").unlink()
    newer = {**new, "tag2mask": "0.4.0"}
    monkeypatch.setattr(folder, "software", lambda: newer)
    assert run("label", world, "--out", out, *SMALL) == 0  # one mask by it, the others are as they were
    rows = {row["tag2mask"]: row["stages"] for row in read(out)["software"]}
    assert "masks" in rows["0.3.0"] and "masks" in rows["0.4.0"] and "maps" not in rows["0.4.0"]
    place = Run(out, existing=True).current("method")  # as a version left it that wrote nothing down
    assert place is not None
    content = {name: value for name, value in place.manifest().items() if name != "software"}
    write_sealed(place.own / "manifest.json", content)
    assert run("report", out) == 0
    rows = {row["tag2mask"]: row["stages"] for row in read(out)["software"]}
    assert rows[None] == ["method"] and rows["0.2.0"] == ["images"]


def _not_installed(name: str) -> None:
    raise software.importlib.metadata.PackageNotFoundError(name)


def test_a_portable_passport_has_no_folders() -> None:
    weights = [{"backbone": "resnet50", "source": "file /home/a/w.pth"}, {"backbone": "b", "source": "random"}]
    block = {"seed": 1, "weights": weights, "started_from": {"run": "/home/a/before", "signals": ["tags"]}}
    sent = passport.portable(block)
    assert [row["source"] for row in sent["weights"]] == ["file w.pth", "random"] and sent["seed"] == 1
    assert sent["started_from"] == {"run": "before", "signals": ["tags"]} and "/home" not in json.dumps(sent)
    assert passport.portable({"weights": [], "started_from": None})["started_from"] is None


def test_photos_of_nothing_are_counted(tmp_path: Path) -> None:
    data = make(tmp_path / "data")
    (data / "tags.csv").write_text((data / "tags.csv").read_text().replace("photo00.png,disc,", "photo00.png,,"))
    assert run("label", data, "--out", tmp_path / "run", *SMALL) == 0
    assert read(tmp_path / "run")["learned_from"]["tags"] == {"photos": 9, "of_none": 1, "corrected_in_review": 0}


def test_photos_that_were_learned_from_and_measured_on_are_a_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path / "data")
    table = data / "tags.csv"
    table.write_text(table.read_text() + "photo00.png,disc,val\n")
    said = fails(capsys, "label", data, "--out", tmp_path / "run", *SMALL)
    assert "1 photo in both 'train' and 'val'" in said and "--data.shared-photos measure" in said
    assert run("label", data, "--out", tmp_path / "run", *SMALL, "--data.shared-photos", "measure") == 0
    block = read(tmp_path / "run")
    assert block["measured_with"]["validation_photos_learned_from"] == 1
    assert block["signals"] == ["image-level tags", "photos that it was measured on"]
    assert "1 of 4 validation photos also learned from" in (tmp_path / "run" / "report.html").read_text()


def test_weights_of_the_hub_are_known_by_the_name_that_its_cache_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = MODELS["sam2"]
    assert model.digest is None
    repository, content = tmp_path / "models--facebook--sam2.1-hiera-small", "ab" * 32
    for name, text in (("refs/main", "rev"), (f"blobs/{content}", "weights")):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text(text)
    (repository / "snapshots" / "rev").mkdir(parents=True)
    (repository / "snapshots" / "rev" / "model.safetensors").symlink_to(repository / "blobs" / content)
    assert model.digest == content


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    of = lambda settings: asdict(passport._of_backbone("method", settings, weights_digest(settings)))  # noqa: E731
    rows = of(BackboneSettings())
    assert rows["licence"] == "Apache-2.0" and rows["saw_masks"] is False and len(rows["digest"]) == 32
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"weights")
    rows = of(BackboneSettings(weights=str(file)))
    assert rows["digest"] == bytes_digest(file) and rows["saw_masks"] is None and rows["source"] == f"file {file}"
    rows = of(BackboneSettings("resnet50"))
    assert rows["source"] == "hub, timm/resnet50.a1_in1k" and rows["digest"] == "hub:resnet50"  # not in the cache


@pytest.mark.slow
def test_saliency_and_the_oracle_are_said(world: Path, tmp_path: Path) -> None:
    import shutil

    data = shutil.copytree(world, tmp_path / "data")
    (data / "saliency").mkdir()
    for path in (data / "masks").glob("*.png"):
        Image.open(path).point(lambda value: 255 if value else 0).convert("L").save(data / "saliency" / path.name)
    assert run("train", data, "--out", tmp_path / "run", *SMALL, "--method", "eps", "--oracle-masks") == 0
    said = read(tmp_path / "run")
    assert said["learned_from"]["saliency"]["source"] == "given maps" and said["oracle_for_comparison"]
    execution = pipeline.reopen(Run(tmp_path / "run", existing=True))
    assert passport.signals(execution) == ("image-level tags", "saliency maps")


def test_what_the_run_it_started_from_had_learned_counts(world: Path, tmp_path: Path) -> None:
    """Tags alone do not make weights that saliency taught free of it; a source that says nothing is said."""
    assert run("label", world, "--out", tmp_path / "run", *SMALL) == 0
    execution = pipeline.reopen(Run(tmp_path / "run", existing=True))
    (tmp_path / "source").mkdir()
    execution.settings = replace(execution.settings, start_from=tmp_path / "source")
    assert "which it does not say" in passport.signals(execution)[1]
    (tmp_path / "source" / "passport.json").write_text('{"signals": ["image-level tags", "saliency maps"]}')
    assert passport.signals(execution) == ("image-level tags", "saliency maps")
