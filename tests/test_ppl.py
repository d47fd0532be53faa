"""Patch learning: cut and merge by hand, the batched walk against a plain loop, what gradients reach, stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.backbones.resnet38 import ResNet38d
from tag2mask.backbones.tokens import unpack
from tag2mask.errors import InputError
from tag2mask.files import read_jsonl
from tag2mask.layers.patchwise import Cut, edges, merge, patchwise, split
from tag2mask.methods import check
from tag2mask.methods.check import batch_of, check_method
from tag2mask.methods.ppl import Ppl, PplSettings, cuts_of, default_cuts, reconstruction
from tag2mask.pipeline import reopen
from tag2mask.plan.folder import Run
from tag2mask.recipes import recipe, settings_from
from tag2mask.settings import plain
from tag2mask.summary import supervision
from tag2mask.training import TrainSettings, fit
from tag2mask.types import Batch, Losses, Photos, masked_mean
from test_train import Points
from trunks import fresh
from world import SMALL, manifest, run


def chain(*blocks: nn.Module, strides: tuple[int, ...]) -> Backbone:
    """Blocks b0, b1, ... on one-channel maps."""
    named = [(f"b{i}", block) for i, block in enumerate(blocks)]
    return Backbone(named, 1, strides[-1], (0.0,) * 3, (1.0,) * 3, strides=strides).eval()


def ones_conv(stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, 3, stride, 1, bias=False)
    nn.init.ones_(conv.weight)
    return conv.requires_grad_(False)


def resnet(**settings: object) -> Backbone:
    options = {"output_stride": 8} | settings
    return fresh(BackboneSettings("resnet10t", weights="none", **options)).eval()  # type: ignore[arg-type]


def lite0() -> Backbone:
    return fresh(BackboneSettings()).eval()  # embedded weights: random ones of this depth fade to nothing


def vit() -> Backbone:
    return fresh(BackboneSettings("vit_tiny_patch16_224", weights="none")).eval()


PUBLISHED_FORM = PplSettings()  # as far as it is known


def one(losses: object) -> Losses:
    assert isinstance(losses, Losses)
    return losses


# --- the cut, by hand -------------------------------------------------------------------------------------------


def test_edges_by_hand() -> None:
    assert edges(7, 2) == (0, 3, 7) and edges(5, 2) == (0, 2, 5)
    assert edges(16, 3) == (0, 5, 10, 16) and edges(10, 4) == (0, 2, 5, 7, 10)
    assert edges(16, 3, 4) == (0, 4, 8, 16)  # whole cells of the final map
    assert edges(19, 2, 4) == (0, 8, 19)  # the rest stays with the last patch
    assert edges(3, 1, 4) == (0, 3)


def test_a_map_of_7_by_5() -> None:
    b = chain(nn.Identity(), nn.Identity(), strides=(1, 1))
    patches = split(torch.zeros(1, 1, 7, 5), b, Cut("b0", 2))
    assert [tuple(p.shape[2:]) for row in patches for p in row] == [(3, 2), (3, 3), (4, 2), (4, 3)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 6), st.sampled_from([1, 2, 3, 4]))
def test_merging_what_was_split_gives_it_back(height: int, width: int, grid: int, step: int) -> None:
    b = chain(nn.Identity(), nn.Identity(), strides=(1, step))
    x = torch.arange(2.0 * height * width).reshape(2, 1, height, width)
    assert torch.equal(merge(split(x, b, Cut("b0", grid), whole=True)), x)
    if min(height, width) // step >= grid:
        patches = split(x, b, Cut("b0", grid))
        assert torch.equal(merge(patches), x)
        assert len(patches) == grid and {len(row) for row in patches} == {grid}
        for row in patches:
            assert all(p.shape[2] % step == 0 for p in row) or row is patches[-1]
            assert all(p.shape[3] % step == 0 for p in row[:-1])


def test_golden_stride_1() -> None:
    b = chain(nn.Identity(), ones_conv(), strides=(1, 1))
    (merged,), uncut = patchwise(b, Photos(torch.arange(16.0).reshape(1, 1, 4, 4)), [Cut("b0", 2)])
    assert uncut[0, 0].int().tolist() == [[10, 18, 24, 18], [27, 45, 54, 39], [51, 81, 90, 63], [42, 66, 72, 50]]
    assert merged[0, 0].int().tolist() == [[10, 10, 18, 18]] * 2 + [[42, 42, 50, 50]] * 2


def test_golden_stride_2() -> None:
    b = chain(nn.Identity(), ones_conv(2), strides=(1, 2))
    (merged,), uncut = patchwise(b, Photos(torch.arange(64.0).reshape(1, 1, 8, 8)), [Cut("b0", 2)])
    assert uncut[0, 0, 2].int().tolist() == [195, 306, 324, 342]
    assert merged[0, 0, 2].int().tolist() == [146, 228, 162, 252]
    assert merged[0, 0, 0].int().tolist() == [18, 36, 34, 60]


# --- properties -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [resnet, lite0, vit])
@pytest.mark.parametrize("detach", [False, True])
def test_one_patch_is_the_uncut_map(make: Callable[[], Backbone], detach: bool) -> None:
    b = make()
    size = (64, 96) if b.size_divisor > 1 else (67, 93)
    with torch.no_grad():
        cuts = [Cut(name, 1) for name in b.names[:-1]]
        merged, uncut = patchwise(b, Photos(torch.randn(2, 3, *size)), cuts, detach=detach, together=detach)
        assert uncut.abs().sum() > 0
        for each in merged:
            torch.testing.assert_close(each, uncut, rtol=1e-4, atol=1e-5)
    (merged,), uncut = patchwise(
        chain(nn.Identity(), ones_conv(2), strides=(1, 2)), Photos(torch.rand(1, 1, 7, 9)), [Cut("b0", 1)]
    )
    assert torch.equal(merged, uncut)


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_a_pointwise_remainder_does_not_notice_the_cut(grid: int) -> None:
    torch.manual_seed(0)
    above = (nn.Conv2d(3, 8, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 1, 1)))
    b = chain(nn.Identity(), *above, strides=(1, 1, 1))
    (merged,), uncut = patchwise(b, Photos(torch.randn(2, 3, 11, 7)), [Cut("b0", grid)])
    torch.testing.assert_close(merged, uncut, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 17), st.integers(6, 17), st.integers(2, 3))
def test_only_cells_near_a_border_of_a_patch_differ(rows: int, columns: int, grid: int) -> None:
    """Two 3x3 convolutions see two cells far."""
    torch.manual_seed(0)
    b = chain(nn.Identity(), nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1), strides=(1, 1, 1))
    (merged,), uncut = patchwise(b, Photos(torch.randn(1, 1, rows, columns)), [Cut("b0", grid)])

    def away(length: int) -> Tensor:
        inner = torch.tensor(edges(length, grid)[1:-1])  # the border lies between cell e - 1 and cell e
        cell = torch.arange(length)[:, None]
        return (torch.where(cell >= inner, cell - inner, inner - 1 - cell) >= 2).all(1)

    same = away(rows)[:, None] & away(columns)[None]
    torch.testing.assert_close(merged[0, 0][same], uncut[0, 0][same], rtol=1e-5, atol=1e-5)
    assert ((merged - uncut)[0, 0][~same].abs() > 1e-5).any()


@pytest.mark.parametrize(("make", "block"), [(resnet, "layer2"), (lite0, "block2"), (vit, "block9")])
def test_a_change_within_one_patch_stays_there(make: Callable[[], Backbone], block: str) -> None:
    b = make()
    b.freeze_until(block)
    with torch.no_grad():
        x = b.until(torch.randn(1, 3, 64, 96), block)
        changed = x.clone()
        changed[:, :, -1, -1] += 5.0  # the last cell of the last patch
        before, uncut_before = patchwise(b, Photos(x, stored=True), [Cut(block, 2)])
        after, uncut_after = patchwise(b, Photos(changed, stored=True), [Cut(block, 2)])
    differs = (before[0] != after[0]).any(1)[0]
    rows, columns = differs.shape
    assert differs[rows // 2 :, columns // 2 :].any()
    differs[rows // 2 :, columns // 2 :] = False
    assert not differs.any()
    assert (uncut_before != uncut_after).any(1)[0, : rows // 2].any() or make is not vit  # its attention sees all


# --- the batched walk against a plain loop ----------------------------------------------------------------------


def looped(b: Backbone, images: Tensor, cut: Cut) -> Tensor:
    """Patch after patch, one at a time, written into a canvas; for chains without prefix tokens."""
    x, out = b.until(images, cut.block), torch.full_like(b(images), float("nan"))
    step = b.stride // b.strides[cut.block]
    corners = [[math.floor(j * (n // step) / cut.grid) * step for j in range(cut.grid)] + [n] for n in x.shape[2:]]
    for i in range(cut.grid):
        for j in range(cut.grid):
            (top, bottom), (left, right) = corners[0][i : i + 2], corners[1][j : j + 2]
            part = b.forward_from(x[:, :, top:bottom, left:right], cut.block)
            y, x_ = top // step, left // step
            out[:, :, y : y + part.shape[2], x_ : x_ + part.shape[3]] = part
    return out


@pytest.mark.parametrize("make", [resnet, lite0])
@pytest.mark.parametrize(("size", "together"), [((64, 128), True), ((71, 105), False), ((96, 97), True)])
def test_the_walk_equals_a_loop_over_patches(
    make: Callable[[], Backbone], size: tuple[int, int], together: bool
) -> None:
    b, images = make(), torch.randn(2, 3, *size)
    names = default_cuts(b)
    cuts = [Cut(names[0], 3), Cut(names[0], 2), Cut(names[1], 2), Cut(names[2], 4)]
    with torch.no_grad():
        merged, uncut = patchwise(b, Photos(images), cuts, together=together)
        torch.testing.assert_close(uncut, b(images), rtol=1e-4, atol=1e-4)
        for cut, each in zip(cuts, merged, strict=True):
            torch.testing.assert_close(each, looped(b, images, cut), rtol=1e-4, atol=1e-4)
            assert not torch.allclose(each, uncut, rtol=1e-2, atol=1e-2)


def test_the_walk_has_the_gradients_of_the_loop() -> None:
    b, images, cut = resnet(), torch.randn(2, 3, 48, 72), Cut("layer2", 2)
    gradients = []
    for merged in (patchwise(b, Photos(images), [cut])[0][0], looped(b, images, cut)):
        b.zero_grad()
        merged.square().sum().backward()
        gradients.append([p.grad.clone() for p in b.parameters() if p.grad is not None])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def attention_in_cells(b: Backbone, images: Tensor, block: str, grid: int) -> Tensor:
    """The blocks above ``block`` on all tokens at once, attention cut off between cells; one set of prefix tokens a
    cell. Written out from the ViT's layers."""
    packed = b.until(images, block)
    prefix, (rows, columns) = b.prefix(block), b.grid(packed, block)
    assert prefix is not None
    row = torch.bucketize(torch.arange(rows), torch.tensor(edges(rows, grid)[1:-1]), right=True)
    column = torch.bucketize(torch.arange(columns), torch.tensor(edges(columns, grid)[1:-1]), right=True)
    cell = (row[:, None] * grid + column[None]).flatten()
    owner = torch.cat([torch.arange(grid * grid).repeat_interleave(prefix), cell])
    apart = torch.zeros(len(owner), len(owner)).masked_fill(owner[:, None] != owner[None], float("-inf"))
    first = packed[:, :, 0, :prefix].transpose(1, 2).repeat(1, grid * grid, 1)
    x = torch.cat([first, packed[:, :, 1:].flatten(2).transpose(1, 2)], 1)
    for name in b.names[b.position(block) + 1 : -1]:
        layer = b.blocks[name].block
        heads = layer.attn.num_heads
        q, k, v = layer.attn.qkv(layer.norm1(x)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + apart).softmax(-1)
        x = x + layer.ls1(layer.attn.proj((weights @ v).transpose(1, 2).flatten(2)))
        x = x + layer.ls2(layer.mlp(layer.norm2(x)))
    x = b.blocks[b.names[-1]].norm(x)[:, grid * grid * prefix :]
    return x.transpose(1, 2).unflatten(2, (rows, columns))


@pytest.mark.parametrize(("grid", "block"), [(1, "block9"), (2, "block8"), (3, "block10")])
def test_a_vit_attends_within_the_patch_only(grid: int, block: str) -> None:
    b, images = vit(), torch.randn(2, 3, 112, 80)  # 7 x 5 tokens
    with torch.no_grad():
        (merged,), uncut = patchwise(b, Photos(images), [Cut(block, grid)])
        torch.testing.assert_close(merged, attention_in_cells(b, images, block, grid), rtol=1e-4, atol=1e-4)
        assert torch.allclose(merged, uncut, rtol=1e-3, atol=1e-3) == (grid == 1)


def calls_of(b: Backbone, work: Callable[[], object]) -> dict[str, int]:
    calls = dict.fromkeys(b.names, 0)
    hooks = [
        b.blocks[name].register_forward_hook(lambda *_, n=name: calls.update({n: calls[n] + 1})) for name in b.names
    ]
    work()
    for hook in hooks:
        hook.remove()
    return calls


def test_shared_work_is_done_once() -> None:
    def calls(b: Backbone, cuts: list[Cut], together: bool, size: tuple[int, int] = (64, 96)) -> tuple[int, ...]:
        return tuple(
            calls_of(b, lambda: patchwise(b, Photos(torch.randn(2, 3, *size)), cuts, together=together)).values()
        )

    b, cuts = resnet(), [Cut("layer1", 2), Cut("layer2", 2), Cut("layer3", 2)]
    assert calls(b, cuts, True) == (1, 1, 2, 2, 2)  # stem, layer1, ...: the uncut map, and all patches at once
    assert calls(b, cuts, False) == (1, 1, 2, 3, 4)  # each cut's patches at once
    assert calls(b, cuts[2:], True) == calls(b, cuts[2:], False) == (1, 1, 1, 1, 2)
    assert calls(b, [Cut("layer3", 1)], True) == (1, 1, 1, 1, 1)  # the patch has the uncut map's size
    assert calls(b, [Cut("layer1", 2), Cut("layer3", 4)], True) == (1, 1, 2, 2, 3)  # patches of two sizes
    assert calls(b, cuts[:1], True, (72, 96)) == (1, 1, 3, 3, 3)  # nine rows: 4 and 5
    head = calls(lite0(), [Cut("block3", 2), Cut("block4", 2)], True)[-3:]
    assert head == (2, 2, 1)  # merged before the 1x1 head, which sees all maps at once


# --- gradients --------------------------------------------------------------------------------------------------


def reached(b: Backbone) -> dict[str, bool]:
    """Whether any weight of a block has a gradient other than 0."""
    return {
        name: any(p.grad is not None and bool((p.grad != 0).any()) for p in block.parameters())
        for name, block in b.blocks.items()
    }


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_explicit_patches_teach_only_the_blocks_above_their_cut(branch: int) -> None:
    b = resnet()
    method = Ppl(b, 4, PplSettings(mode="explicit"))
    keep = torch.zeros_like(method.classifiers[0].weight)
    keep[:, branch * b.channels : (branch + 1) * b.channels] = 1  # this branch's part of Z, the uncut map's left out
    with torch.no_grad():
        method.classifiers[0].weight.mul_(keep)
    one(method.losses(batch_of(height=64, width=96), 0.0)).total().backward()
    position = b.position(method.cuts[branch].block)
    assert reached(b) == {name: b.position(name) > position for name in b.names}


def test_explicit_uncut_path_teaches_all_blocks() -> None:
    b = resnet()
    method = Ppl(b, 4, PplSettings(mode="explicit"))
    with torch.no_grad():
        method.classifiers[0].weight[:, : -b.channels] = 0
    one(method.losses(batch_of(height=64, width=96), 0.0)).total().backward()
    assert all(reached(b).values())


@pytest.mark.parametrize("part", ["merged", "uncut"])
@pytest.mark.parametrize("fixed", [None, "stem"])
def test_implicit_stages_teach_every_block_that_learns(part: str, fixed: str | None) -> None:
    b = resnet()
    method = Ppl(b, 4, PplSettings(heads="per_stage", fixed_until=fixed))
    for head in method.classifiers:
        with torch.no_grad():
            head.weight[:, slice(b.channels, None) if part == "merged" else slice(b.channels)] = 0
    for losses in method.losses(batch_of(height=64, width=96), 0.0):
        b.zero_grad()
        one(losses).total().backward()
        assert reached(b) == {name: name != fixed for name in b.names}


# --- stages -----------------------------------------------------------------------------------------------------


def test_channels_of_the_classifiers() -> None:
    b = resnet()
    widths = {
        ("implicit", "shared"): [2],
        ("implicit", "per_stage"): [2, 2, 2],
        ("explicit", "shared"): [4],
        ("explicit", "per_stage"): [4],
    }
    for (mode, heads), expected in widths.items():
        method = Ppl(b, 5, PplSettings(mode=mode, heads=heads))  # type: ignore[arg-type]
        assert [c.weight.shape for c in method.classifiers] == [(5, n * b.channels, 1, 1) for n in expected]
        assert all(c.bias is None for c in method.classifiers)


def test_z_is_merged_then_uncut() -> None:
    b, images = resnet(), torch.randn(2, 3, 64, 96)
    method = Ppl(b, 3, PplSettings(mode="explicit", grids=(4, 3, 2))).eval()
    with torch.no_grad():
        merged, uncut = patchwise(b, Photos(images), method.cuts)
        expected = nn.functional.conv2d(torch.cat([*merged, uncut], 1), method.classifiers[0].weight)
        torch.testing.assert_close(method.score_maps(Photos(images)), expected)
        torch.testing.assert_close(method.localize(Photos(images)), expected.relu())


def test_per_iteration_gives_a_loss_for_each_stage_from_low_to_high() -> None:
    method = Ppl(resnet(), 4, PplSettings(grids=(4, 2, 2), reconstruction=1.0))
    names = [name for losses in method.losses(batch_of(), 0.3) for name in one(losses)]
    stages = ["stage1_layer1_4x4", "stage2_layer2_2x2", "stage3_layer3_2x2"]
    assert names == [f"{stage}_{term}" for stage in stages for term in ("classification", "reconstruction")]
    published = Ppl(resnet(), 4, replace(PUBLISHED_FORM, grids=(4, 2, 2)))
    names = [name for losses in published.losses(batch_of(), 0.3) for name in one(losses)]
    assert names == [f"{stage}_classification" for stage in stages]


def test_a_stage_sees_the_weights_the_stage_before_has_left() -> None:
    method = Ppl(resnet(), 4, PUBLISHED_FORM).train()
    values = []
    for losses in method.losses(batch_of(), 0.0):
        values.append(float(one(losses).total().detach()))
        nn.init.zeros_(method.classifiers[0].weight)  # what an optimiser step may do
    assert values[0] != pytest.approx(math.log(2), abs=1e-4)
    assert values[1:] == pytest.approx([math.log(2)] * 2)


def test_sequential_stages_share_the_training() -> None:
    method = Ppl(resnet(), 4, PplSettings(schedule="sequential"))
    names = [next(iter(one(method.losses(batch_of(), progress)))) for progress in (0, 0.33, 0.34, 0.66, 0.67, 0.99, 1)]
    assert [int(name[5]) for name in names] == [1, 1, 2, 2, 3, 3, 3]


def test_the_loss_of_a_stage_by_hand() -> None:
    method = Ppl(resnet(), 4, replace(PUBLISHED_FORM, heads="per_stage")).eval()
    batch = batch_of(height=64, width=96)
    batch.valid[:, :, 56:] = False
    for stage, losses in enumerate(method.losses(batch, 0.0)):
        (merged,), uncut = patchwise(method.backbone, batch, [method.cuts[stage]])
        maps = nn.functional.conv2d(torch.cat([merged, uncut], 1), method.classifiers[stage].weight)
        scores = maps[:, :, :, :7].mean((2, 3))
        torch.testing.assert_close(scores, masked_mean(maps, batch.valid))
        probability = scores.sigmoid()
        expected = -(batch.labels * probability.log() + (1 - batch.labels) * (1 - probability).log()).mean()
        torch.testing.assert_close(one(losses).total(), expected, rtol=1e-4, atol=1e-5)


def test_the_map_is_the_last_stages() -> None:
    b, images = resnet(), torch.randn(2, 3, 64, 96)
    method = Ppl(b, 3, PplSettings(heads="per_stage", grids=(4, 2, 2))).eval()
    with torch.no_grad():
        (merged,), uncut = patchwise(b, Photos(images), [Cut("layer3", 2)])
        expected = nn.functional.conv2d(torch.cat([merged, uncut], 1), method.classifiers[2].weight).relu()
        torch.testing.assert_close(method.localize(Photos(images)), expected)
        method.classifiers[2].weight.zero_()
    assert not method.localize(Photos(images)).any()


# --- cut and uncut maps agree -----------------------------------------------------------------------------------


def test_reconstruction_by_hand() -> None:
    uncut = torch.tensor([[[[4.0, 2.0], [-3.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    merged = torch.tensor([[[[0.0, 1.0], [0.5, -9.0]], [[9.0, 0.0], [0.0, 0.0]]]])
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    tags = torch.tensor([[1.0, 0.0]])
    found = reconstruction([merged, uncut], tags, valid)  # (|0 - 1| + |1 - 1/2| + |1/2 - 0| + 0) / 4, nearly
    assert found.item() == pytest.approx(0.5, abs=0.01)
    parts = [merged + 1, merged - 1, uncut]  # the mean of the cuts counts
    assert reconstruction(parts, tags, valid).item() == pytest.approx(found.item(), abs=1e-6)
    valid[:, :, 2:] = False  # the right column is padding: 1 is no maximum any more, nor does it differ
    assert reconstruction([merged, uncut], tags, valid).item() == pytest.approx((1 + 1) / 2, abs=0.02)
    assert not reconstruction([merged, uncut], torch.zeros(1, 2), valid)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(10, 1000), st.integers(2, 9), st.integers(2, 9))
def test_reconstruction_asks_for_agreement_not_for_faint_maps(
    seed: int, factor: float, rows: int, columns: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    cut, uncut = torch.randn(2, 2, 3, rows, columns, generator=random) + torch.tensor(0.5)
    valid, tags = torch.ones(2, 4 * rows, 4 * columns, dtype=torch.bool), torch.ones(2, 3)
    here = reconstruction([10 * cut, 10 * uncut], tags, valid)
    assert 0 <= here <= 1 and reconstruction([cut, cut], tags, valid) == 0
    torch.testing.assert_close(reconstruction([factor * cut, 10 * uncut], tags, valid), here, atol=0.02, rtol=0)
    both = reconstruction([factor * cut, factor * uncut], tags, valid)
    torch.testing.assert_close(both, here, atol=0.02, rtol=0)  # fainter maps lower nothing


@pytest.mark.parametrize("mode", ["implicit", "explicit"])
def test_reconstruction_grows_over_the_first_half_and_teaches_both_paths(mode: str) -> None:
    method, batch = (
        Ppl(resnet(), 4, PplSettings(mode=mode, cuts=("layer3",), reconstruction=1.0)).eval(),
        batch_of(height=64, width=96),
    )

    def term(progress: float) -> Tensor:
        losses = method.losses(batch, progress)
        terms = one(losses if isinstance(losses, Losses) else next(losses))
        return next(value for name, value in terms.items() if name.endswith("reconstruction"))

    full = float(term(1.0).detach())
    assert full > 0.01 and float(term(0.0).detach()) == 0
    assert float(term(0.25).detach()) == pytest.approx(full / 2) and float(term(0.5).detach()) == pytest.approx(full)
    term(1.0).backward()
    gradient = method.classifiers[0].weight.grad
    assert gradient is not None
    assert all(half.abs().sum() > 0 for half in gradient.chunk(2, 1))  # what patches say, and what the uncut map does


@pytest.mark.parametrize("name", ["ppl/implicit", "ppl/explicit", "ppl/implicit-small", "ppl/explicit-small"])
def test_the_recipes_have_the_published_form(name: str) -> None:
    settings = recipe(name).options
    assert settings_from(plain(recipe(name))) == recipe(name)
    assert (
        isinstance(settings, PplSettings) and settings.reconstruction == 0 and settings.traits.threshold_rule == "auto"
    )
    assert [cut.block for cut in cuts_of(resnet(), settings)] == ["layer1", "layer2", "layer3"]
    assert settings.mode == name[4:12]
    assert not settings.traits.tuned_on_truth


def test_the_recipe_whose_maps_must_agree() -> None:
    settings = recipe("ppl/agree").options
    assert isinstance(settings, PplSettings) and settings.reconstruction == 1 and settings.traits.tuned_on_truth
    assert settings.traits.threshold_rule == "li" and cuts_of(resnet(), settings) == (Cut("layer1", 2),)


VARIANTS = [
    PplSettings(stages=1, reconstruction=1.0),
    PplSettings(mode="explicit"),
    PplSettings(schedule="sequential", heads="per_stage", dropout=0.3),
    PplSettings(cuts=("layer3", "layer3"), grids=(2, 1)),
]


@pytest.mark.parametrize("variant", [VARIANTS[0], *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[1:])])
def test_contract_of_the_other_forms(variant: PplSettings) -> None:
    check_method(Ppl, variant, lambda: resnet().train())


@pytest.mark.parametrize("mode", ["implicit", "explicit"])
def test_contract_on_a_vit(mode: str) -> None:
    def make(backbone: Backbone) -> Ppl:
        return Ppl(backbone, check.CLASSES, PplSettings(mode=mode, cuts=("block10",)))  # type: ignore[arg-type]

    check.check_localize_shape_and_range(make, vit)

    def frozen() -> Backbone:
        b = vit()
        b.freeze_until("block10")
        return b

    method, batch = make(frozen()), batch_of(height=64, width=96)
    with torch.no_grad():
        direct = method.eval().localize(batch)
        features = method.backbone.until(batch.images, "block10")
        torch.testing.assert_close(direct, method.localize(replace(batch, images=features, stored=True)))


# --- stored features, whole photos, precision -------------------------------------------------------------------


def test_stored_features_serve_cuts_at_and_above_the_frozen_block() -> None:
    b = resnet(freeze_until="layer2")
    images = torch.randn(2, 3, 64, 96)
    for mode in ("implicit", "explicit"):
        method = Ppl(b, 3, PplSettings(mode=mode, stages=3)).eval()  # type: ignore[arg-type]
        assert [cut.block for cut in method.cuts] == ["layer2", "layer3"]
        with torch.no_grad():
            direct = method.localize(Photos(images))
            stored = method.localize(Photos(b.until(images, "layer2"), stored=True))
        torch.testing.assert_close(direct, stored)


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_narrow_photo_is_cut_into_what_it_has(make: Callable[[], Backbone]) -> None:
    b = make()
    method = Ppl(b, 3, PplSettings(grids=(4,))).eval()
    short = 2 * b.stride
    with torch.no_grad():
        for height, width in ((short, 8 * b.stride), (8 * b.stride, short), (b.stride, b.stride)):
            maps = method.localize(Photos(torch.randn(1, 3, height, width)))
            assert maps.shape == (1, 3, height // b.stride, width // b.stride)
        if b.size_divisor == 1:
            assert method.localize(Photos(torch.randn(1, 3, 3, 50))).shape == (1, 3, 1, 7)


@pytest.mark.slow
def test_losses_in_turn_are_computed_in_the_precision_of_the_training(tmp_path: Path) -> None:
    seen: list[tuple[torch.dtype, float]] = []

    class Watched(Ppl):
        def part_maps(self, views, stage=-1, **rest):
            maps = super().part_maps(views, stage, **rest)
            seen.append((maps[0].dtype, float(self.classifiers[0].weight.detach().sum())))
            return maps

    class Larger(Points):
        def collate(self, items):
            batch = super().collate(items)
            images = nn.functional.interpolate(batch.images, (32, 48))
            return Batch(batch.ids, images, batch.labels, torch.ones(len(items), 32, 48, dtype=torch.bool))

    method = Watched(resnet(), 2, PplSettings())
    train = TrainSettings(epochs=1, batch_size=9, precision="bfloat16", warmup=0.0)
    fit(method, Larger(), train, tmp_path, seed=0, title="t")
    assert len(seen) == 3 * 2 and {dtype for dtype, _ in seen} == {torch.bfloat16}
    assert len({weight for _, weight in seen}) == 6  # a step of the optimiser after each


def test_from_tags_to_labels(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user calls it, on stored features: two stages are left above them."""
    flags = (
        *SMALL,
        "--method",
        "ppl",
        "--ppl.grids",
        "4",
        "2",
        "--ppl.reconstruction",
        "1",
        "--freeze-until",
        "layer2",
    )
    assert run("label", world, "--out", tmp_path / "run", *flags) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    assert "'li'" in manifest(tmp_path / "run", "masks")["threshold_from"]
    said = "settings of ppl that are not its paper's were chosen on VOC's truth"
    assert said in supervision(reopen(Run(tmp_path / "run", existing=True)))
    (line,) = read_jsonl(tmp_path / "run" / "method" / "log.jsonl")
    assert {"stage1_layer2_4x4_classification", "stage2_layer3_2x2_reconstruction"} <= set(line)


def test_a_small_recipe_from_tags_to_labels(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*SMALL, "--recipe", "ppl/explicit-small")
    assert run("label", world, "--out", tmp_path / "run", *flags) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    (line,) = read_jsonl(tmp_path / "run" / "method" / "log.jsonl")
    assert "classification" in line and "reconstruction" not in line
    assert "'between'" in manifest(tmp_path / "run", "masks")["threshold_from"]


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (PplSettings(cuts=("layer9",)), r"unknown block of this backbone 'layer9': did you mean layer.*layer1, layer2"),
        (PplSettings(cuts=("layer4",)), r"no block is left .* 'layer4', the last.*: cut after one of stem, layer1"),
        (PplSettings(cuts=("layer3", "layer1")), r"do not go from low to high: name them in the order layer1, layer3"),
        (
            PplSettings(grids=(2, 3)),
            r"2 grids \(2, 3\) for 3 cuts \(layer1, layer2, layer3\): give one grid for each",
        ),
        (PplSettings(fixed_until="layer9"), r"unknown block of this backbone 'layer9'"),
    ],
)
def test_cuts_that_the_backbone_does_not_have(settings: PplSettings, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        Ppl(resnet(), 2, settings)
    assert "\n" not in str(raised.value)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"2 grids \(2, 3\) for 1 cuts \(layer1\)"):
        PplSettings(cuts=("layer1",), grids=(2, 3))
    with pytest.raises(InputError, match=r"--ppl\.reconstruction is -1: it must be at least 0"):
        PplSettings(reconstruction=-1.0)
    for stages in (0, 4):
        with pytest.raises(InputError, match=rf"--ppl\.stages is {stages}: it must be at least 1 and at most 3$"):
            PplSettings(stages=stages)
    with pytest.raises(InputError, match=r"--ppl\.grids is 0: it must be at least 1"):
        PplSettings(grids=(2, 0))
    with pytest.raises(InputError, match=r"0 grids \(\) for 0 cuts .*: give one grid for each cut, or one for all"):
        PplSettings(grids=())


def test_a_backbone_without_blocks() -> None:
    whole = Backbone([("features", nn.Conv2d(3, 8, 3, 2, 1))], 8, 2, (0.0,) * 3, (1.0,) * 3, strides=(2,))
    with pytest.raises(InputError, match=r"a single block \('features'\) and patch learning cuts between blocks: use"):
        Ppl(whole, 2)


def test_a_cut_below_the_stored_block() -> None:
    says = r"a cut after 'layer1' lies below 'layer2', whose output is stored: .*--freeze-until layer1"
    b = resnet()
    early = Ppl(b, 3, PplSettings(cuts=("layer1",)))
    b.freeze_until("layer2")
    with pytest.raises(InputError, match=says):
        Ppl(b, 3, PplSettings(cuts=("layer1",)))
    with pytest.raises(InputError, match=says):
        early.localize(Photos(torch.randn(1, 128, 8, 12), stored=True))


def test_nothing_is_left_to_cut_above_a_frozen_backbone() -> None:
    with pytest.raises(InputError, match=r"nothing above 'layer4' .* freeze less \(--freeze-until layer3\)"):
        Ppl(resnet(freeze=True), 3)
    b = lite0()
    b.freeze_until("block6")  # a 1x1 convolution is left
    with pytest.raises(InputError, match=r"nothing above 'block6' looks beyond its own cell.*--freeze-until block5"):
        Ppl(b, 3)


def test_grids_finer_than_the_map_and_views_too_small() -> None:
    b = resnet()
    with pytest.raises(InputError, match=r"a grid of 5 patches a side is finer than the map, which has 4 cells"):
        patchwise(b, Photos(torch.randn(1, 3, 32, 48)), [Cut("layer2", 5)])
    method = Ppl(b, 4, PplSettings(grids=(2, 5, 2)))
    with pytest.raises(InputError, match=r"32x48 pixels are smaller than 5 patches times the stride of 8: .*size 40 "):
        method.losses(batch_of(), 0.0)
    with pytest.raises(InputError, match=r"a patch 0 tokens wide|finer than the map"):
        patchwise(vit(), Photos(torch.randn(1, 3, 32, 48)), [Cut("block9", 4)])


def test_a_patch_narrower_than_the_prefix_tokens_of_a_vit_carries_them_in_two_rows() -> None:
    torch.manual_seed(0)
    b = build(BackboneSettings("vit_small_patch14_reg4_dinov2", weights="none")).eval()
    x = torch.zeros(1, 384, 1 + 8, 8)
    assert b.prefix("block0") == 5 and b.prefix("norm") is None and b.grid(x, "block0") == (8, 8)
    x[:, :, 0, :5] = 7.0
    part = b.crop(x, "block10", slice(4, 8), slice(4, 8))
    assert part.shape == (1, 384, 2 + 4, 4) and b.grid(part, "block10") == (4, 4)
    assert torch.equal(unpack(part, 5)[:, :5], torch.full((1, 5, 384), 7.0)) and not unpack(part, 5)[:, 5:].any()
    assert [len(row) for row in split(x, b, Cut("block10", 2))] == [2, 2]
    assert len(split(x, b, Cut("block10", 2), whole=True)[0]) == 1


def test_bad_flags_end_in_one_line(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    for flags, says in (
        (("--ppl.cuts", "layer9"), "unknown block of this backbone 'layer9'"),
        (("--ppl.cuts", "layer1", "layer2", "--ppl.grids", "2", "3", "4"), "3 grids (2, 3, 4) for 2 cuts"),
        (("--ppl.grids", "8"), "use --augment.size 128 or more"),
        (("--backbone", "densenet121", "--backbone.output-stride", "32"), "a single block ('features')"),
    ):
        code = run("label", world, "--out", tmp_path / "run", *SMALL, "--method", "ppl", *flags)
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert code == 2 and last.startswith("tag2mask: ") and says in last
        assert not (tmp_path / "run").exists()


# --- defaults ---------------------------------------------------------------------------------------------------

PUBLISHED = ("layer1", "layer2", "layer3")


@pytest.mark.parametrize(
    ("name", "stride", "expected"),
    [
        ("resnet10t", 8, PUBLISHED),
        ("resnet10t", 32, PUBLISHED),
        ("tf_efficientnet_lite0", 8, ("block2", "block3", "block4")),
        ("tf_efficientnet_lite0", 16, ("block2", "block3", "block4")),
        ("tf_efficientnet_lite0", 32, ("block2", "block3", "block4")),
        ("convnext_atto", 32, ("stage0", "stage1", "stage2")),
        ("vit_tiny_patch16_224", 16, ("block8", "block9", "block10")),
    ],
)
def test_default_cuts(name: str, stride: int, expected: tuple[str, ...]) -> None:
    b = build(BackboneSettings(name, weights="none", output_stride=stride))
    assert default_cuts(b) == expected
    assert cuts_of(b, PplSettings(grids=(4, 3, 2))) == tuple(map(Cut, expected, (4, 3, 2)))
    assert cuts_of(b, PplSettings(mode="explicit")) == tuple(Cut(block, 2) for block in expected)
    assert cuts_of(b, PplSettings(stages=1)) == (Cut(expected[0], 2),)
    assert cuts_of(b, PplSettings(stages=2)) == (Cut(expected[0], 2), Cut(expected[1], 2))
    assert cuts_of(b, PplSettings(cuts=expected[1:2], stages=2)) == (Cut(expected[1], 2),)  # named ones come first
    b.freeze_until(expected[2])
    assert default_cuts(b) == expected[2:]


def test_default_cuts_of_resnet38d_are_of_three_resolutions() -> None:
    """After b3, b4 and b5, as the lineage names its stages (specs/ppl.md 2.3); the last three blocks are all of b5."""
    b = ResNet38d(thin=32)
    assert default_cuts(b) == ("b3_2", "b4_5", "b5_2")
    assert [b.resolutions[block] for block in default_cuts(b)] == [4, 8, 16]
    b.freeze_until("b4_5")
    assert default_cuts(b) == ("b4_5", "b5_2")
    b.freeze_until("b5_1")
    assert default_cuts(b) == ("b5_1", "b5_2")  # of one resolution, since there is no other above the frozen trunk
