"""Frozen vision transformers, as DINOv2's: under every method, at any grid, without registers in maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tag2mask.backbones import BACKBONES, Backbone, BackboneSettings
from tag2mask.backbones import build as build_backbone
from tag2mask.backbones.attention import attending, last_heads
from tag2mask.backbones.check import check_backbone
from tag2mask.backbones.licences import licence, terms
from tag2mask.backbones.timm_models import _wrap
from tag2mask.backbones.tokens import TokenBlock, unpack
from tag2mask.errors import InputError
from tag2mask.methods import METHODS, build
from tag2mask.methods.check import CLASSES, batch_of, check_method
from tag2mask.methods.text_settings import TOWERS
from tag2mask.propagation import PROPAGATIONS
from tag2mask.protocols import Trainable
from tag2mask.types import Losses
from vits import CONFIG, _model, tiny_vit
from world import SMALL, fails, made_of, run

TRAINED = [name for name, entry in METHODS.items() if entry.backbone is None]
UNTIL = {"ppl": "block0"}  # patches are cut below a block that looks beyond its own cell; others: all is frozen
REGISTERS = 4


def vit() -> Backbone:
    """Class token and four registers."""
    return tiny_vit(registers=REGISTERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in UNTIL])
def test_contract(name: str) -> None:
    def built(backbone: Backbone, classes: int, settings: object) -> nn.Module:
        return build(name, backbone, classes, settings)

    check_method(built, METHODS[name].settings(), vit)


@pytest.mark.parametrize("name", TRAINED)
def test_a_frozen_one_teaches_heads_alone_from_stored_features(name: str) -> None:
    """Its last block's output in the place of photos: the same maps, and losses that reach no frozen block."""
    torch.manual_seed(0)
    backbone = vit()
    until = UNTIL.get(name, backbone.names[-1])
    backbone.freeze_until(until)
    method, batch = build(name, backbone, CLASSES).eval(), batch_of()
    with torch.no_grad():
        features = backbone.until(batch.images, until)
        valid = torch.ones(len(features), *features.shape[2:], dtype=torch.bool)
        stored = replace(batch, images=features, valid=valid, stored=True)
        torch.testing.assert_close(method.localize(stored), method.localize(batch), rtol=1e-4, atol=1e-5)
    assert isinstance(method, Trainable)
    losses = method.train().losses(stored, 0.5)
    totals = [losses.total()] if isinstance(losses, Losses) else [one.total() for one in losses]
    torch.stack(totals).sum().backward()
    frozen = backbone.names[: backbone.position(until) + 1]
    assert all(p.grad is None for block in frozen for p in backbone.blocks[block].parameters())
    assert any(p.grad is not None and p.grad.any() for p in method.parameters())


def test_patches_of_a_wholly_frozen_one_are_one_line() -> None:
    backbone = vit()
    backbone.freeze_until("norm")
    with pytest.raises(InputError, match=r"nothing above 'norm' looks beyond its own cell.*--freeze-until block0"):
        build("ppl", backbone, CLASSES)


def test_positions_of_any_grid_and_no_registers_in_maps() -> None:
    """timm's own forward at that size, its prefix tokens cut off; at the size it was made for, its embedding as it
    is."""
    torch.manual_seed(3)
    model = _model(reg_tokens=REGISTERS)
    torch.manual_seed(3)
    backbone = tiny_vit(seed=3, registers=REGISTERS).eval()
    for height, width in ((32, 32), (20, 44), (64, 24), (40, 8), (4, 4)):  # the last two narrower than the prefix
        photo = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = model.eval().forward_features(photo)[:, 1 + REGISTERS :]
            found = backbone(photo)
        assert found.shape == (1, 16, height // 4, width // 4)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("registers", [0, REGISTERS])
def test_attention_is_read_as_timm_computes_it(registers: int) -> None:
    """What the heads give, gathered by their weights and projected, is what the block's attention gives."""
    backbone = tiny_vit(registers=registers).eval()
    assert attending(backbone) == ["block0", "block1"]
    images = torch.randn(2, 3, 24, 40)
    block = backbone.blocks["block1"]
    assert isinstance(block, TokenBlock)
    with torch.no_grad():
        heads = last_heads(backbone, images)
        normed = block.block.norm1(unpack(backbone.until(images, "block0"), block.prefix))
        gathered = (heads.weights @ heads.values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.block.attn.proj(gathered), block.block.attn(normed), rtol=1e-4, atol=1e-5)
    assert heads.keys.shape == (2, 2, 1 + registers + 60, 8)
    torch.testing.assert_close(heads.weights.sum(3), torch.ones(heads.weights.shape[:3]))


def test_rotary_positions_as_dinov3_has_them() -> None:
    """Blocks give what timm's own forward does at any size, and its attention is read with positions; crops pass."""
    from timm.models.eva import Eva

    torch.manual_seed(0)
    model = Eva(
        img_size=32, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0, num_reg_tokens=4,
        use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True, no_embed_class=True,
        qkv_fused=True, scale_mlp=False, dynamic_img_size=True,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    backbone = _wrap("dinov3-like", model.eval(), CONFIG, 16).eval()
    for height, width in ((32, 32), (24, 40)):
        photo = torch.randn(1, 3, height, width)
        with torch.no_grad():
            expected = model.forward_features(photo)[:, 5:]
            torch.testing.assert_close(backbone(photo).flatten(2).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)
    block = backbone.blocks["block1"]
    assert isinstance(block, TokenBlock)
    with torch.no_grad():
        heads = last_heads(backbone, photo)
        tokens = unpack(backbone.until(photo, "block0"), block.prefix)
        gathered = (heads.weights @ heads.values).transpose(1, 2).flatten(2)
        rope = model.rope.get_embed(shape=(6, 10))
        own = block.block.attn(block.block.norm1(tokens), rope=rope)
        torch.testing.assert_close(block.block.attn.proj(gathered), own, rtol=1e-4, atol=1e-5)
    check_backbone(lambda: backbone)


def test_terms_of_weights_are_told_where_they_are_no_open_source(world: Path, tmp_path: Path, capsys) -> None:
    assert "DINOv3 License" in terms(BackboneSettings("vit_small_patch16_dinov3.lvd1689m"))
    assert terms(BackboneSettings("vit_small_patch16_dinov3.lvd1689m", weights="none")) == ""
    for name in (*BACKBONES, *TOWERS):
        assert terms(BackboneSettings(name)) == "" or name.startswith("resnet38"), name
    assert licence(BackboneSettings("vit_small_patch14_dinov2.lvd142m")) == "apache-2.0"
    said = fails(capsys, "train", world, "--out", tmp_path / "run", "--backbone", "vit_small_patch16_dinov3.lvd1689m")
    assert "cannot be fetched from the hub" in said


def test_a_network_without_attention_is_one_line() -> None:
    with pytest.raises(InputError, match="--backbone resnet10t has no attention to read: give a plain vision"):
        attending(build_backbone(BackboneSettings("resnet10t", weights="none")))


@pytest.mark.slow
@pytest.mark.parametrize("propagate", [name for name, way in PROPAGATIONS.items() if way.network == "backbone"])
def test_a_frozen_run(world: Path, tmp_path: Path, propagate: str) -> None:
    out = tmp_path / "run"
    flags = [*SMALL, "--backbone", "tiny_vit_for_tests", "--freeze", "--refine", "none", "--propagate", propagate]
    assert run("train", world, "--out", out, *flags, "--method", "mcis") == 0
    assert made_of(out, "propagated")["settings"]["propagate"] == propagate
    assert len(list((out / "predictions").glob("*.png"))) == 3
