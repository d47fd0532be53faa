"""Text maps: what the towers' libraries give, planted texts with known maps, the gradient by hand, bad input."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.backbones.tokens import TokenBlock, unpack
from tag2mask.cli.flags import spell_out
from tag2mask.errors import InputError
from tag2mask.files import bytes_digest
from tag2mask.methods.check import batch_of, check_method
from tag2mask.methods.text import DenseImages, TextMaps
from tag2mask.methods.text_settings import TOWERS, TextSettings, competing, texts_of, tower_of
from tag2mask.types import Batch, Photos
from vits import tiny_clip, tiny_siglip, tiny_vit
from world import SMALL, fails, made_of, manifest, run

needs_open_clip = pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
CLIP = next(iter(TOWERS))


def batch_like(labels: Tensor, height: int, width: int) -> Batch:
    images = torch.randn(len(labels), 3, height, width, generator=torch.Generator().manual_seed(0))
    ids = tuple(map(str, range(len(labels))))
    return Batch(ids, images, labels, torch.ones(len(labels), height, width, dtype=torch.bool))


def planted(backbone: Backbone, classes: int, settings: TextSettings = TextSettings(background=("sky",))) -> TextMaps:
    """Text maps with texts in different directions."""
    method = TextMaps(backbone, classes, settings).eval()
    words = classes + len(settings.background)
    texts = torch.randn(words, method.images.channels, generator=torch.Generator().manual_seed(1))
    method.keep(F.normalize(texts, dim=1), torch.ones(len(settings.background), dtype=torch.bool))
    return method


# --- the towers


@pytest.mark.parametrize("form", ["dense", "gradient"])
@pytest.mark.parametrize("tower", [tiny_clip, tiny_siglip])
def test_contract(tower, form: str) -> None:
    settings = TextSettings(form=form, background=("sky", "sea"))
    check_method(lambda backbone, classes, own: planted(backbone, classes, own), settings, tower)


@pytest.mark.parametrize("tower", [tiny_clip, tiny_siglip])
def test_a_cell_is_the_last_block_in_which_a_token_attends_to_itself_alone(tower) -> None:
    """timm's own block under a mask that leaves the diagonal is the oracle; SigLIP's pooling of one token alone."""
    backbone = tower().eval()
    images = DenseImages(backbone)
    photos = Photos(torch.randn(2, 3, 12, 20))
    with torch.no_grad():
        grid = images.grid(photos)
        block = backbone.blocks["block1"]
        assert isinstance(block, TokenBlock)
        tokens = unpack(images.before_last(photos), block.prefix)
        alone = torch.eye(tokens.shape[1], dtype=torch.bool)
        last = backbone.blocks["norm"].norm(block.block(tokens, attn_mask=alone))[:, block.prefix :]
        if block.prefix:
            lifted = backbone.top[1](last)
        else:
            lifted = torch.stack([backbone.top[0](last[:, cell : cell + 1]) for cell in range(15)], 1)
    assert grid.shape == (2, images.channels, 3, 5)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), F.normalize(lifted, dim=2), rtol=1e-4, atol=1e-5)


def test_the_projection_is_no_part_of_a_backbone_until_it_is_taken_over() -> None:
    backbone = tiny_clip()
    assert not any("head" in name for name in backbone.state_dict()) and len(backbone.top) == 2
    assert any(name.startswith("images.top.1") for name in TextMaps(backbone, 2).state_dict())


# --- planted texts


def test_maps_of_planted_texts_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells and texts are unit vectors, so every share is of e and ones. Classes keep their order, tags gate, words
    compete, but for one that is a class."""
    method = TextMaps(tiny_clip(), 3, TextSettings(background=("sky", "sea"), scale=1.0)).eval()
    directions = torch.tensor([[0, 0, 1, 1], [3, 3, 3, 3], [2, 2, 4, 4]])  # of the cells
    grid = F.one_hot(directions, 8).permute(2, 0, 1).float()
    monkeypatch.setattr(method.images, "grid", lambda batch: grid.expand(len(batch.ids), -1, -1, -1))
    method.keep(torch.eye(8)[:5], torch.tensor([True, False]))
    batch = batch_like(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), 12, 16)
    maps = method.localize(batch)
    e = float(np.e)
    first, second = [[e, e, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], [[1, 1, e, e], [1, 1, 1, 1], [1, 1, 1, 1]]
    sums = torch.tensor([[e + 2] * 4, [e + 2] * 4, [3.0] * 4])  # the last row is of an untagged class and a lost word
    torch.testing.assert_close(maps[0, :2], torch.tensor([first, second]) / sums)
    third = torch.tensor([[0.5] * 4, [1 / (1 + e)] * 4, [e / (1 + e)] * 2 + [0.5] * 2])
    torch.testing.assert_close(maps[1, 2], third)
    assert not maps[0, 2].any() and not maps[1, :2].any() and not maps[2].any()


# --- the gradient form


class _Passing(nn.Module):
    """The place of a part of a block: gives on what it gets, or nothing."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_the_gradient_form_by_hand_on_a_grid_of_two_by_two() -> None:
    """With flat attention and identities for all else, u is the mean of the cells' tokens plus that of all tokens.

    dS_c/dA(q) = (1/5) dS_c/du for each of the five tokens q, so M_c(p) = max(0, A(p) . dS_c/du / 5).
    """
    backbone = tiny_clip(embed_dim=8, num_heads=1).eval()
    method = planted(backbone, 2, TextSettings(form="gradient", background=("sky",), scale=3.0))
    block = backbone.blocks["block1"]
    assert isinstance(block, TokenBlock)
    own = block.block
    own.norm1, own.mlp = _Passing(1.0), _Passing(0.0)
    with torch.no_grad():
        own.attn.qkv.weight.zero_()
        own.attn.qkv.bias.zero_()
        own.attn.qkv.weight[16:] = torch.eye(8)
        own.attn.proj.weight.copy_(torch.eye(8))
        own.attn.proj.bias.zero_()
    backbone.blocks["norm"].norm = _Passing(1.0)
    method.images.top[1] = _Passing(1.0)
    batch = batch_like(torch.tensor([[1.0, 1.0]]), 8, 8)
    with torch.inference_mode():  # as the pipeline calls it
        maps = method.localize(batch)
        tokens = unpack(method.images.before_last(batch), 1)[0].double().numpy()
    texts = method.texts.double().numpy()
    u = tokens[1:].mean(0) + tokens.mean(0)
    length = np.linalg.norm(u)
    scores = 3 * texts @ u / length
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    slopes = 3 * (texts / length - np.outer(texts @ u, u) / length**3)  # of each score by u
    assert maps.shape == (1, 2, 2, 2)
    for c in range(2):
        slope = shares[c] * (slopes[c] - shares @ slopes)
        expected = np.maximum(0, tokens[1:] @ slope / 5).reshape(2, 2)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(maps[0, c].numpy(), expected, rtol=1e-3, atol=1e-6)


def test_the_gradient_form_changes_no_weights_and_sees_each_photo_alone() -> None:
    method = planted(tiny_clip(), 4, TextSettings(form="gradient"))
    batch = batch_of()
    with torch.inference_mode():
        together = method.localize(batch)
        alone = method.localize(replace(batch, images=batch.images[1:2], labels=batch.labels[1:2]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-6)
    assert together.max() > 0 and all(p.grad is None for p in method.parameters())


# --- words


def test_texts_of_classes() -> None:
    settings = TextSettings(("a=b=one, two ,", "dog=a photo of a dog"), template="a {} here")
    assert texts_of(["cat", "dog", "a=b", "a"], settings) == [
        ["a cat here"], ["a photo of a dog"], ["one", "two"], ["a a here"],
    ]  # fmt: skip
    words = TextSettings(background=("Tree", "sky", "lake"))
    assert competing(["tree", "dog"], [["tree"], ["lake"]], words) == [False, True, False]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (("bird=a bird",), "unknown class of --text 'bird'"),
        (("dogs=a dog",), "did you mean dog"),
        (("a photo",), "write CLASS=TEXT"),
        (("dog=",), "has no text for dog"),
        (("dog=one", "dog=two"), "names the class dog twice"),
    ],
)
def test_texts_that_cannot_be(prompts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        texts_of(["cat", "dog"], TextSettings(prompts))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"background": ()}, "no words"),
        ({"background": ("sky", " ")}, "no words"),
        ({"template": "a photo"}, "has no place for the name"),
        ({"scale": 0.0}, "text.scale is 0"),
        ({"form": "sparse"}, "text.form"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextSettings(**given)


def test_every_background_word_a_class() -> None:
    with pytest.raises(InputError, match=r"every word of --text\.background is a class"):
        competing(["sky"], [["the sky"]], TextSettings(background=("Sky",)))


def test_flags_may_come_more_than_once_and_texts_keep_their_commas() -> None:
    given = spell_out(["--text", "dog=a dog,puppy", "--seed", "1", "--text", "cat=cat", "--text.background", "sea,sky"])
    assert given == ["--seed", "1", "--text.background", "sea", "sky", "--text.prompts", "dog=a dog,puppy", "cat=cat"]


# --- towers that do not go together


def test_towers() -> None:
    assert tower_of(TextSettings(), CLIP) == "ViT-B-16-quickgelu/openai"
    assert tower_of(TextSettings(tower="A/b"), "any") == "A/b"
    with pytest.raises(InputError, match=r"QuickGELU: give --backbone vit_base_patch16_clip_quickgelu_224\.openai"):
        tower_of(TextSettings(), "vit_base_patch16_clip_224.openai")
    with pytest.raises(InputError, match="knows no text tower that --backbone resnet50"):
        tower_of(TextSettings(), "resnet50")


def test_image_towers_that_are_none() -> None:
    with pytest.raises(InputError, match="no layer that leads to a text tower"):
        TextMaps(tiny_vit(name=CLIP), 2)
    with pytest.raises(InputError, match=r"gives 5 numbers and the image tower .* 8: they were not trained together"):
        TextMaps(tiny_clip(), 2).keep(torch.zeros(22, 5), torch.ones(20, dtype=torch.bool))


@needs_open_clip
@pytest.mark.slow
def test_every_tower_named_is_one_of_open_clip_and_of_timm() -> None:
    import open_clip
    import timm

    for image, text in TOWERS.items():
        assert image in timm.list_pretrained()
        assert tuple(text.split("/")) in open_clip.list_pretrained()


# --- with the real library, offline


def local_tower(folder: Path, width: int = 8) -> str:
    """A small CLIP of open_clip's own classes, with random weights, as a folder."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "embed_dim": width,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@needs_open_clip
@pytest.mark.slow
def test_texts_are_embedded_as_open_clip_embeds_them(tmp_path: Path) -> None:
    import open_clip

    from tag2mask.methods.text_tower import TextEmbedder

    tower = local_tower(tmp_path / "tower")
    texts = ["a clean origami dog.", "puppy", "the sky"]
    found = TextEmbedder(tower).embed(texts)
    model = open_clip.create_model(tower).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(tower)(texts), normalize=True)
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, 8) and (found[0] - found[1]).abs().max() > 1e-3


@needs_open_clip
def test_a_text_tower_of_the_hub_is_named_with_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its image tower lies in the same repository under another file, whose digest is not its own."""
    from tag2mask.methods.text_tower import TextEmbedder

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--vit_base_patch16_clip_224.openai"
    (folder / "snapshots" / "rev").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("rev")
    (folder / "blobs").mkdir()
    for name, content in (("model.safetensors", "ab" * 32), ("open_clip_model.safetensors", "cd" * 32)):
        (folder / "blobs" / content).write_text("")
        (folder / "snapshots" / "rev" / name).symlink_to(folder / "blobs" / content)
    embedder = object.__new__(TextEmbedder)  # without its weights, which only a hub has
    embedder.tower = "ViT-B-16-quickgelu/openai"
    found = embedder.pretrained
    assert found.source == "hub, timm/vit_base_patch16_clip_224.openai" and found.digest == "cd" * 32
    assert found.network == "text tower" and found.saw_masks is False


@needs_open_clip
@pytest.mark.slow
def test_siglips_texts_are_lower_cased_and_padded_to_64(tmp_path: Path) -> None:
    """open_clip's own configuration of the pair says so: what reaches the text tower is seen with a small tokenizer."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "dog": 3}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    text = open_clip.get_model_config("ViT-B-16-SigLIP2")["text_cfg"]
    assert text["context_length"] == 64
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=64, **text["tokenizer_kwargs"])
    tokens = tokenizer(["A Dog."])
    assert tokens.shape == (1, 64) and tokens[0, :3].tolist() == [2, 3, 0]


TEXT = [*SMALL, "--method", "text", "--text.background", "sky,ground"]


@needs_open_clip
@pytest.mark.slow
def test_a_run_keeps_its_texts_and_needs_no_tower_for_maps(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tag2mask.methods import text as page

    tower = local_tower(tmp_path / "tower")
    flags = [
        *TEXT,
        "--backbone",
        "tiny_clip_for_tests",
        "--text.tower",
        tower,
        "--refine",
        "none",
        "--text",
        "disc=a red disc,a ball",
    ]
    out = tmp_path / "run"
    assert run("train", world, "--out", out, *flags) == 0
    assert made_of(out, "method")["facts"].keys() == {"photos", "tags", "weights", "method files"}
    assert "train" not in made_of(out, "method")["settings"]
    said = json.loads((out / "passport.json").read_text())
    assert said["signals"] == ["image-level tags", "texts of photos, by the pretraining of its towers"]
    (row,) = (row for row in said["weights"] if row["network"] == "text tower")
    weights = tmp_path / "tower" / "open_clip_model.safetensors"
    assert row["digest"] == bytes_digest(weights) and row["source"] == f"file {tmp_path / 'tower'}"
    monkeypatch.setattr(page, "TextEmbedder", lambda tower: pytest.fail("the text tower was loaded"))
    (out / "maps" / "photo01.npz").unlink()
    before = (out / "maps" / "photo00.npz").read_bytes()
    assert run("train", world, "--out", out, *flags, "--text.form", "dense") == 0
    assert (out / "maps" / "photo01.npz").exists() and (out / "maps" / "photo00.npz").read_bytes() == before
    assert run("train", world, "--out", out, *flags, "--text.form", "gradient") == 0  # maps anew, no texts
    assert (out / "maps" / "photo00.npz").read_bytes() != before
    assert run("predict", out, world / "images", "--out", tmp_path / "predicted") == 0
    assert manifest(out, "maps")


@needs_open_clip
@pytest.mark.slow
def test_bad_input_is_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = [flag for flag in TEXT if flag not in ("--weights", "none")]
    said = fails(capsys, "train", world, "--out", out, *TEXT)
    assert "knows no text tower that --backbone resnet10t" in said
    said = fails(capsys, "train", world, "--out", out, *TEXT, "--backbone", CLIP, "--text", "dogs=a dog")
    assert "unknown class of --text 'dogs'" in said
    said = fails(capsys, "train", world, "--out", out, *TEXT, "--backbone", CLIP, "--text.tower", "ViT-B-17/openai")
    assert "unknown text tower" in said
    said = fails(capsys, "train", world, "--out", out, *TEXT, "--backbone", CLIP, "--text.tower", "ViT-B-16/mine")
    assert "open_clip has ViT-B-16 with" in said
    said = fails(capsys, "train", world, "--out", out, *flags, "--backbone", CLIP)
    assert "cannot be fetched from the hub" in said
    said = fails(capsys, "train", world, "--out", out, *TEXT, "--backbone", CLIP, "--text.tower", f"local-dir:{out}")
    assert "no text tower in" in said and "must hold open_clip_config.json" in said
    assert not out.exists()


@needs_open_clip
@pytest.mark.slow
def test_without_a_hub_one_line_says_what_to_fetch_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tag2mask.methods.text_tower import TextEmbedder

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"fetch timm/vit_base_patch16_clip_224\.openai .*--text\.tower local-dir:"):
        TextEmbedder("ViT-B-16-quickgelu/openai")


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "open_clip" else found(name))
    with pytest.raises(InputError, match=r"open_clip, which is not installed: pip install 'tag2mask\[text\]'"):
        TextMaps(tiny_clip(), 2).check_class_names(["cat", "dog"])


@needs_open_clip
@pytest.mark.hub
@pytest.mark.slow
def test_the_real_pair_tells_a_cat_from_a_dog() -> None:
    """Golden: a photograph of a cat, its texts by the real towers; the cat has the middle, not the corners."""
    import os

    if os.environ.get("HF_HUB_OFFLINE") != "0":
        pytest.skip("needs a hub: HF_HUB_OFFLINE=0 pytest -m hub")
    import skimage.data

    from tag2mask.backbones import BackboneSettings, build
    from tag2mask.views import View, view_batch

    method = TextMaps(build(BackboneSettings(CLIP)), 2).eval()
    method.take_class_names(["cat", "dog"])
    images = view_batch([skimage.data.chelsea()], View(224, 336, False), method.images.backbone)
    with torch.inference_mode():
        maps = method.localize(Batch(("cat",), images, torch.ones(1, 2), torch.ones(1, 224, 336, dtype=torch.bool)))[0]
    cat, dog = maps[:, 4:10, 6:15].mean((1, 2)).tolist()
    assert cat > 0.5 > dog and cat > maps[0, :2, -4:].mean()
