"""A trained segmenter without its run: from Python, as a bundle, as ONNX. The same masks as `tag2mask predict`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tag2mask
from tag2mask import segment
from tag2mask.data.images import read_index_mask, write_index_mask
from tag2mask.deploy import Segmenter, card
from tag2mask.deploy.onnx import write_onnx
from tag2mask.errors import InputError
from world import SMALL, fails, run

pytestmark = pytest.mark.slow  # exports of whole networks

QUICK = [*SMALL, "--refine", "none", "--relabel.rounds", "0", "--segmenter", "deeplab-largefov"]


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deploy") / "run"
    assert run("train", world, "--out", out, *QUICK) == 0
    _vary(out, world)
    return out


def _vary(out: Path, world: Path) -> None:
    """An epoch on nine photos teaches one class for everything: a head of random weights whose logits are centred on
    the photos gives masks that differ."""
    import torch
    from safetensors.torch import load_file, save_file

    from tag2mask.types import Photos, normalise

    model = out / "segmenter" / "model.safetensors"
    random, tensors = torch.Generator().manual_seed(0), load_file(model)
    weights = [name for name in tensors if name.startswith("head.") and name.endswith("weight")]
    for name in weights:
        tensors[name] = torch.randn(tensors[name].shape, generator=random) * (2 / tensors[name][0].numel()) ** 0.5
    last = weights[-1].replace("weight", "bias")
    tensors[last] = torch.zeros(3)
    for name in ("presence.weight", "presence.bias"):
        tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, model)
    photos = tag2mask.load(out)._predictor.photos
    pixels = np.stack([np.array(Image.open(path)) for path in sorted((world / "images").glob("*.png"))])
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), (photos.backbone.mean, photos.backbone.std))
    with torch.inference_mode():
        logits = photos.segmenter.segment(Photos(images))  # type: ignore[operator]
    contrast = 3 / logits.std((0, 2, 3))
    tensors[weights[-1]] *= contrast[:, None, None, None]
    tensors[last] = -contrast * logits.mean((0, 2, 3))
    save_file(tensors, model)


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Path:
    assert run("export", trained, "--to", "bundle", "--out", trained.parent / "bundle") == 0
    return trained.parent / "bundle"


@pytest.fixture(scope="module")
def predicted(trained: Path, world: Path) -> Path:
    assert run("predict", trained, world / "images", "--out", trained.parent / "masks") == 0
    return trained.parent / "masks"


def test_a_run_and_its_bundle_give_the_bytes_of_predict(
    trained: Path, bundle: Path, predicted: Path, world: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    for path in (trained, moved):
        segmenter = tag2mask.load(path)
        assert segmenter.classes == ("disc", "bar") and "tag2mask" in segmenter.version
        for photo in sorted((world / "images").glob("*.png")):
            mask, probabilities = segmenter.predict(photo)
            write_index_mask(tmp_path / "mask.png", mask)
            assert (tmp_path / "mask.png").read_bytes() == (predicted / photo.name).read_bytes(), (path, photo)
            assert probabilities.shape == (3, 48, 72) and np.allclose(probabilities.sum(0), 1, atol=1e-4)
            assert np.array_equal(probabilities.argmax(0), mask)
    assert len({(predicted / p.name).read_bytes() for p in (world / "images").glob("*.png")}) > 3, "all masks are one"


def test_files_arrays_and_images_are_one(bundle: Path, world: Path) -> None:
    segmenter, path = tag2mask.load(bundle), world / "images" / "photo03.png"
    image = Image.open(path)
    masks = [segmenter.predict(given).mask for given in (path, str(path), image, np.asarray(image))]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(InputError, match="uint8 RGB"):
            segmenter.predict(wrong)
    with pytest.raises(InputError):
        segmenter.predict(world / "tags.csv")


def test_a_bundle_tells_nothing_of_the_machine(trained: Path, bundle: Path, world: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == {
        "model.safetensors", "tag2mask.json", "classes.txt", "README.md"
    }  # fmt: skip
    for name in ("tag2mask.json", "README.md"):
        text = (bundle / name).read_text()
        assert str(world) not in text and str(trained) not in text and "/tmp" not in text


def test_the_model_card_is_the_hubs(bundle: Path, trained: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(bundle / "README.md")
    assert card.data.library_name == "tag2mask" and card.data.pipeline_tag == "image-segmentation"
    (result,) = card.data.eval_results or ()
    measured = json.loads((trained / "scores" / "scores.json").read_text())["predictions"]["mean_iou"]
    assert result.metric_type == "mean_iou" and abs(result.metric_value - measured / 100) < 1e-5
    block = json.loads(card.text.split("```json")[1].split("```")[0])
    assert block == json.loads((bundle / "tag2mask.json").read_text())["passport"]
    assert block["signals"] == ["image-level tags"] and block["weights"][0]["source"] == "random"
    assert "image-level tags of 9 photos" in card.text and "| 2 | bar |" in card.text


def test_the_card_does_not_call_photos_new_that_taught() -> None:
    scores = {"photos": 4, "mean_iou": 50.0, "iou": {"disc": 50.0}}
    assert "not seen in training" in card._measured(scores, 0)
    assert "of which it learned from 3" in (said := card._measured(scores, 3)) and "not seen" not in said


def test_bundles_that_cannot_be_opened(bundle: Path, tmp_path: Path, world: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / name))

    content = json.loads((bundle / "tag2mask.json").read_text())
    newer = broken("newer")
    (newer / "tag2mask.json").write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(InputError, match="version 99"):
        tag2mask.load(newer)
    for text, word in (("{", "damaged"), (json.dumps({"version": 1}), "damaged"),
                       (json.dumps({**content, "settings": {"train": 3}}), "stored settings")):  # fmt: skip
        (newer / "tag2mask.json").write_text(text)
        with pytest.raises(InputError, match=word):
            tag2mask.load(newer)
    half = broken("half")
    (half / "model.safetensors").write_bytes((bundle / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InputError, match="or not all of it"):
        tag2mask.load(half)
    (half / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        tag2mask.load(half)
    with pytest.raises(InputError, match="neither a run nor a bundle"):
        tag2mask.load(world)


def test_an_unfinished_run_is_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(copy / "segmenter")
    for form in ("bundle", "onnx"):
        line = fails(capsys, "export", copy, "--to", form, "--out", tmp_path / form)
        assert "no finished stage 'segmenter'" in line and not (tmp_path / form).exists()


# --- ONNX


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    assert run("export", trained, "--to", "onnx", "--out", trained.parent / "onnx") == 0
    return trained.parent / "onnx"


def test_the_model_says_what_it_needs_and_takes_any_size(exported: Path, bundle: Path, trained: Path) -> None:
    """Against torch, on sizes that the export did not compare."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items() if k in KEYS}
    assert about.keys() == KEYS and about["classes"] == ["background", "disc", "bar"] and about["long_side"] == 72
    predictor = tag2mask.load(trained)._predictor
    from tag2mask.types import Photos, normalise

    pixels = np.random.default_rng(3).integers(0, 255, (3, 3, 80, 144), np.uint8)
    import torch

    images = normalise(torch.from_numpy(pixels), (tuple(about["mean"]), tuple(about["std"])))
    with torch.inference_mode():
        expected = segment.decided_logits(predictor.photos.segmenter, Photos(images), None, 0.5)[0].numpy()
    (given,) = session.run(None, {"images": images.numpy()})
    assert given.shape == expected.shape and np.abs(given - expected).max() < 1e-4 * max(1, np.abs(expected).max())


KEYS = {"classes", "mean", "std", "long_side", "multiple", "model", "passport"}


def _as(kind: str, pixels: np.ndarray, folder: Path) -> Path:
    """The photo ``[height width 3]`` uint8 in a file of another kind."""
    image, exif = Image.fromarray(pixels), Image.Exif()
    if kind == "turned":
        image, exif[274] = Image.fromarray(np.rot90(pixels)), 6
    elif kind == "12 bits":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    elif kind == "clear":
        alpha = np.full(pixels.shape[:2], 255, np.uint8)
        alpha[:, 30:] = 0
        image.putalpha(Image.fromarray(alpha))
    elif kind == "thin":
        image = image.resize((300, 3))
    elif kind == "one":
        image = image.crop((20, 20, 21, 21))
    image.save(folder / f"{kind}.png", exif=exif)
    return folder / f"{kind}.png"


@pytest.mark.parametrize("kind", ["plain", "turned", "12 bits", "clear", "thin", "one"])
def test_the_script_runs_by_itself_and_agrees_with_predict(
    kind: str, exported: Path, world: Path, trained: Path, tmp_path: Path
) -> None:
    """In a process that can import nothing of this project; one scale, no mirroring and no refiner, as it does."""
    photo = _as(kind, np.asarray(Image.open(world / "images" / "photo02.png")), tmp_path)
    out = tmp_path / "mask.png"
    script = exported / "predict.py"
    assert "tag2mask" not in script.read_text() and len(script.read_text().splitlines()) <= 30
    blocked = "import sys; sys.modules['tag2mask'] = sys.modules['torch'] = None; del sys.argv[0]; "
    blocked += "exec(open(sys.argv[0]).read())"
    subprocess.run([sys.executable, "-c", blocked, script, exported / "model.onnx", photo, out], check=True)
    mask = read_index_mask(out)
    from dataclasses import replace

    from tag2mask.deploy.stored import open_stored

    stored = open_stored(trained)
    plain = replace(stored.settings.inference, scales=(1.0,), flip=False, refine="none")
    expected = Segmenter(replace(stored, settings=replace(stored.settings, inference=plain))).predict(photo).mask
    assert mask.shape == expected.shape and (mask == expected).mean() > 0.99


@pytest.mark.exhaustive
def test_onnx_that_is_not_installed_or_differs_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tag2mask.deploy import onnx

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = fails(capsys, "export", trained, "--to", "onnx", "--out", tmp_path / "out")
    assert "pip install 'tag2mask[onnx]'" in line and not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    assert "differ from torch's" in fails(capsys, "export", trained, "--to", "onnx", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


OTHERS = (
    "",  # the default
    "--segmenter deeplab-v2",
    "--segmenter smp:fpn",
    "--segmenter deeplab-largefov --backbone efficientnet_lite0",
    "--method apc --apc.single-stage",
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("flags", OTHERS)
def test_other_segmenters_as_onnx(flags: str, world: Path, tmp_path: Path) -> None:
    assert run("train", world, "--out", tmp_path / "run", *QUICK[:-2], *flags.split()) == 0
    assert write_onnx(tmp_path / "run", tmp_path / "onnx") <= 1e-4


# --- CVAT's auto-annotation


def test_cvats_own_sdk_takes_the_function(bundle: Path, world: Path) -> None:
    """Its decoder of masks gives the pixels of predict; nothing below the confidence that it asks for comes back."""
    from types import SimpleNamespace

    from cvat_sdk.masks import decode_mask

    from tag2mask.cvat import create
    from tag2mask.exchange.outlines import filled, outline, parts, points_of

    function, segmenter = create(str(bundle)), tag2mask.load(bundle)
    assert [label.name for label in function.spec.labels] == ["disc", "bar"]
    shown = 0
    for photo in sorted((world / "images").glob("*.png"))[:6]:
        image, mask = Image.open(photo), segmenter.predict(photo).mask
        back, again = np.zeros_like(mask), np.zeros_like(mask)
        for shape in function.detect(SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False), image):
            assert shape.type.value == "mask"
            pixels = decode_mask(shape.points, image_width=mask.shape[1], image_height=mask.shape[0])
            back[pixels] = shape.label_id + 1
            shown += 1
        assert np.array_equal(back, mask)
        for shape in function.detect(SimpleNamespace(conf_threshold=None, conv_mask_to_poly=True), image):
            again[filled(points_of(shape.points), mask.shape)] = shape.label_id + 1
        expected = np.zeros_like(mask)  # outlines have no holes, and later classes lie on top
        for c in range(2):
            for top, left, part in parts(mask == c + 1):
                inside = filled(outline(part)[0], part.shape)
                expected[top : top + part.shape[0], left : left + part.shape[1]][inside] = c + 1
        assert np.array_equal(again, expected)
        assert function.detect(SimpleNamespace(conf_threshold=1.1, conv_mask_to_poly=False), image) == []
    assert shown, "no photo shows a class: this test sees nothing"
