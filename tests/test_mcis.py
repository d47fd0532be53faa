"""Co-attention against golden numbers and plain loops; pairs, references, saliency rule, VGG-16, released weights."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from localizing import batch, facts_of, localized
from tag2mask import pseudo
from tag2mask.backbones import Backbone, BackboneSettings, build, vgg16
from tag2mask.data.augment import AugmentSettings
from tag2mask.data.batches import Pairs, StoredFeatures, TaggedImages, check_pairs, epoch_batches, pairs_within
from tag2mask.errors import InputError
from tag2mask.feature_store import FeatureSettings, FeatureStore
from tag2mask.files import read_jsonl
from tag2mask.layers import cross_attention
from tag2mask.layers.cross_attention import co_attend
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.cam import Cam
from tag2mask.methods.check import batch_of, check_method
from tag2mask.methods.mcis_released import ReleasedMcis as Mcis
from tag2mask.methods.mcis_released import gated_sum, released_name, scaled
from tag2mask.methods.mcis_settings import McisSettings, official, paper
from tag2mask.methods.released import released_state
from tag2mask.protocols import UsesReferences
from tag2mask.recipes import recipe
from tag2mask.references import check_references, draw_references, reference_view, show_references
from tag2mask.training import clipped_together, parameter_groups, schedule
from tag2mask.types import Batch, Dataset, Domain, LocalizationMaps, Photos, Sample, masked_mean
from trunks import fresh
from world import SMALL, fails, manifest, redone, run, scene, stamps


def plain_backbone(channels: int, stride: int = 1) -> Backbone:
    """Images are features."""
    return Backbone([("b0", nn.Identity())], channels, stride, (0.0,) * 3, (1.0,) * 3, strides=(stride,))


def resnet(**changes: object) -> Backbone:
    return fresh(BackboneSettings("resnet10t", weights="none", output_stride=8, **changes))  # type: ignore[arg-type]


OFFICIAL = replace(official(15), extra_convs=0)


# --- golden numbers ---------------------------------------------------------------------------------------------


def test_golden_hand_size() -> None:
    f_m = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # [1 channels cells]: positions (1, 0) and (0, 2)
    f_n = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    assert torch.bmm(f_m.transpose(1, 2), f_n)[0].tolist() == [[1, 0], [2, 2]]
    to_m, to_n = co_attend(f_m, f_n, f_m, f_n)
    expected_n = torch.tensor([[0.268941, 1.462117], [0.119203, 1.761594]])
    expected_m = torch.tensor([[0.731059, 1.0], [0.5, 1.0]])
    torch.testing.assert_close(to_n[0].T, expected_n, rtol=0, atol=1e-5)
    torch.testing.assert_close(to_m[0].T, expected_m, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def golden() -> tuple[Mcis, Tensor, Tensor]:
    """The released block at C = 512 on closed-form inputs."""
    channel = torch.arange(512, dtype=torch.float64)

    def wave(a: float, b: float, c: float, rows: int, columns: int, kind: Callable[[Tensor], Tensor]) -> Tensor:
        h, w = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        return kind(a * channel[:, None, None] + b * h + c * w).clamp(min=0)[None].float()

    method = Mcis(plain_backbone(512), 20, OFFICIAL).eval()
    index = torch.arange(512 * 512, dtype=torch.float64).reshape(512, 512)
    with torch.no_grad():
        method.affinity[0] = 0.02 * torch.sin(0.013 * index)
        method.second_head.weight[:, :, 0, 0] = 0.05 * torch.cos(0.11 * index[:20])
        method.gate.weight[0, :, 0, 0] = 0.04 * torch.sin(0.07 * channel)
    return method, wave(0.37, 0.91, 0.53, 2, 3, torch.sin), wave(0.29, 0.67, 0.41, 2, 2, torch.cos)


def test_golden_block(golden: tuple[Mcis, Tensor, Tensor]) -> None:
    method, f1, f2 = golden
    with torch.no_grad():
        affinities = method._project(f1, [0])[0].flatten(1).T @ f2[0].flatten(1)
        found = method.compare(method.compared(f1), method.compared(f2), [0])
        exchanged = method.compare(method.compared(f2), method.compared(f1), [0])
    assert found.own_m is not None and found.own_n is not None

    def close(found: Tensor, expected: list[float]) -> None:
        torch.testing.assert_close(found.flatten()[: len(expected)], torch.tensor(expected), rtol=0, atol=1e-5)

    close(affinities[0], [0.7391897161, 0.9734115518, 1.0568852131, 1.0414020267])
    close(affinities[5], [0.8134373900, 1.0964687131, 1.2056488772, 1.2131506286])
    for maps, first, total in (
        (found.common_m, [-0.1676315319, -0.1665729352, -0.1568423020, -0.1389462234], 0.5479077533),
        (found.common_n, [0.0338526585, 0.0337378767, 0.0318666505, 0.0283363987], -0.1082668868),
        (found.own_m, [0.0137629763, 0.0138338379, 0.0131844892, 0.0118487361], -0.0411894256),
        (found.own_n, [-0.0710419142, -0.0709826764, -0.0672279741, -0.0599732826], 0.2228355724),
    ):
        close(maps.mean((2, 3)), first)
        assert maps.mean((2, 3)).sum().item() == pytest.approx(total, abs=1e-5)
    close(
        found.common_m[0, 0],
        [-0.1663134014, -0.1670798992, -0.1679420743, -0.1677898300, -0.1683063928, -0.1683575934],
    )
    close(found.own_n[0, 0], [-0.0296925371, -0.0647830894, -0.0840063084, -0.1056857220])
    close(exchanged.common_m.mean((2, 3)), [0.0505988238, 0.0508635551])
    assert abs(float(exchanged.common_m[0, 0].mean() - found.common_n[0, 0].mean())) > 1e-2  # the order matters


def test_golden_saliency_rule() -> None:
    y, x = np.mgrid[:10, :12]
    saliency = np.where((x >= 3) & (x <= 9) & (y >= 2) & (y <= 8), 255, 0)
    saliency[0], saliency[9] = 20, 200
    first = (255 * np.exp(-((x - 4) ** 2 + (y - 5) ** 2) / 8)).astype(np.uint8)
    second = (255 * np.exp(-((x - 8) ** 2 + (y - 4) ** 2) / 6)).astype(np.uint8)
    second[5, 4] = first[5, 4] = second[4, 8] = 255
    maps = LocalizationMaps("a", (0, 14), np.stack([first, second]).astype(np.float32), (10, 12))
    found = pseudo.by_saliency_rule(maps, (saliency / 255).astype(np.float32)).mask
    o = 255
    expected = [
        [0] * 12,
        [0] * 12,
        [0, 0, 0, o, 1, o, o, 15, 15, 15, 0, 0],
        [0, 0, 0, 1, 1, 1, 15, 15, 15, 15, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 15, 15, 15, 0, 0],
        [0, 0, 0, 1, o, 1, 1, 15, 15, 15, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 15, 15, 15, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, o, o, o, 0, 0],
        [0, 0, 0, o, 1, o, o, o, o, o, 0, 0],
        [o] * 12,
    ]
    assert found.tolist() == expected


def test_saliency_rule_of_photos_with_little_or_nothing() -> None:
    none = LocalizationMaps("a", (), np.zeros((0, 2, 3), np.float16), (10, 12))
    half = np.zeros((10, 12), np.float32)
    half[:5] = 1
    assert (pseudo.by_saliency_rule(none, half).mask == 255).all()  # no foreground at all
    free = replace(pseudo.SaliencyRule(), minimum=0.0)
    mask = pseudo.by_saliency_rule(none, half, free).mask
    assert (mask[:5] == 255).all() and (mask[5:] == 0).all()
    spot = np.zeros((1, 10, 12), np.float32)
    spot[0, 2, 3] = 1
    one = LocalizationMaps("a", (4,), spot, (10, 12))
    assert (pseudo.by_saliency_rule(one, half, replace(free, minimum=0.01)).mask == 255).all()  # 1 of 120 pixels
    mask = pseudo.by_saliency_rule(one, half, replace(free, minimum=0.008)).mask
    assert mask[2, 3] == 5 and (mask == 5).sum() == 1
    beside = pseudo.by_saliency_rule(one, 1 - half, free).mask
    assert beside[2, 3] == 255 and (beside == 5).sum() == 0  # both a class and the background are certain


# --- the block against plain formulas ---------------------------------------------------------------------------


def weighted(kind: str, parts: str = "full") -> McisSettings:
    form = {
        "default": McisSettings(temperature=0.5, feedback=1.0),
        "paper": replace(paper(), extra_convs=0),
        "official": OFFICIAL,
    }[kind]
    return replace(form, parts=parts)


def small_method(kind: str, channels: int = 6, classes: int = 4) -> Mcis:
    torch.manual_seed(1)
    method = Mcis(plain_backbone(channels, 4), classes, weighted(kind)).eval()
    with torch.no_grad():
        method.affinity.copy_(torch.randn_like(method.affinity))  # three different matrices
    return method


def by_the_formulas(method: Mcis, f_m: Tensor, f_n: Tensor, kind: int, inside_m: Tensor, inside_n: Tensor):
    """One pair ``[channels rows columns]``, position by position: the four class maps."""
    s, e = method.settings, method.affinity[kind]
    phi, bias = method.head.weight[:, :, 0, 0], method.head.bias
    if not s.share_head:
        phi, bias = method.second_head.weight[:, :, 0, 0], torch.zeros(())
    flat_m, flat_n = f_m.flatten(1), f_n.flatten(1)
    of_m, of_n = flat_m, flat_n
    if s.affinity == "cosine":
        of_m, of_n = flat_m / flat_m.norm(dim=0), flat_n / flat_n.norm(dim=0)
        e = (torch.eye(len(e)) + e / len(e) ** 0.5) / s.temperature
    cells_m, cells_n = range(of_m.shape[1]), range(of_n.shape[1])
    p = torch.stack([torch.stack([(e @ of_m[:, i]) @ of_n[:, j] for j in cells_n]) for i in cells_m])
    common_m = torch.zeros_like(flat_m)
    for i in range(of_m.shape[1]):
        among = inside_n.flatten()
        common_m[:, i] = flat_n[:, among] @ p[i][among].softmax(0)
    common_n = torch.zeros_like(flat_n)
    for j in range(of_n.shape[1]):
        among = inside_m.flatten()
        common_n[:, j] = flat_m[:, among] @ p[:, j][among].softmax(0)
    maps = []
    for features, common in ((flat_m, common_m), (flat_n, common_n)):
        gate = torch.sigmoid(method.gate.weight[:, :, 0, 0] @ common)
        maps.append((phi @ common + bias[..., None], phi @ (features * (1 - gate)) + bias[..., None]))
    shaped = lambda flat, like: flat.reshape(-1, *like.shape[1:])  # noqa: E731
    return (
        shaped(maps[0][0], f_m),
        shaped(maps[1][0], f_n),
        shaped(maps[0][1], f_m),
        shaped(maps[1][1], f_n),
    )


@pytest.mark.parametrize("kind", ["default", "paper", "official"])
def test_pairs_at_once_equal_the_formulas_pair_by_pair(kind: str) -> None:
    method = small_method(kind)
    torch.manual_seed(2)
    f_m, f_n = torch.randn(5, 6, 2, 3), torch.randn(5, 6, 4, 2)
    valid_m, valid_n = torch.ones(5, 8, 12, dtype=torch.bool), torch.ones(5, 16, 8, dtype=torch.bool)
    valid_m[1, 4:], valid_n[3, :, 4:] = False, False
    kinds = [0, 2, 1, 0, 2] if method.settings.by_domain else [0] * 5
    m, n = method.compared(f_m, valid=valid_m), method.compared(f_n, valid=valid_n)
    assert m.inside is not None and m.inside[1].tolist() == [True] * 3 + [False] * 3
    found = method.compare(m, n, kinds)
    for row, which in enumerate(kinds):
        expected = by_the_formulas(method, f_m[row], f_n[row], which, m.inside[row], n.inside[row])  # type: ignore[index]
        for maps, by_hand in zip(found, expected, strict=True):
            torch.testing.assert_close(maps[row], by_hand, rtol=1e-4, atol=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["default", "paper", "official"])
def test_gradients_equal_those_of_the_formulas(kind: str) -> None:
    method = small_method(kind)
    torch.manual_seed(2)
    f_m, f_n = torch.randn(2, 6, 2, 3), torch.randn(2, 6, 3, 2)
    kinds = [2, 0] if method.settings.by_domain else [0, 0]
    everywhere = torch.ones(6, dtype=torch.bool)
    gradients = []
    for fast in (True, False):
        method.zero_grad()
        leaves = [x.clone().requires_grad_() for x in (f_m, f_n)]
        if fast:
            maps = list(method.compare(method.compared(leaves[0]), method.compared(leaves[1]), kinds))
        else:
            pairs = zip(*leaves, kinds, strict=True)
            rows = [by_the_formulas(method, a, b, which, everywhere, everywhere) for a, b, which in pairs]
            maps = [torch.stack(each) for each in zip(*rows, strict=True)]
        sum((each.square().sum() for each in maps), torch.zeros(())).backward()
        learnt = [p.grad.clone() for p in method.parameters() if p.grad is not None]
        gradients.append([leaf.grad for leaf in leaves] + learnt)
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.booleans())
def test_parts_equal_the_whole(pairs: int, cells_m: int, cells_n: int, few: int, padded: bool) -> None:
    generator = torch.Generator().manual_seed(pairs * 100 + cells_m * 10 + cells_n)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    tensors = [make(pairs, 3, cells_m), make(pairs, 3, cells_n), make(pairs, 2, cells_m), make(pairs, 2, cells_n)]
    but_last = lambda cells: torch.arange(cells).expand(pairs, cells) < max(1, cells - 1)  # noqa: E731
    inside = [but_last(cells_m), but_last(cells_n)] if padded else [None, None]
    results = []
    for limit in (cross_attention.AFFINITIES, few):
        leaves = [t.clone().requires_grad_() for t in tensors]
        found = co_attend(*leaves, *inside, limit=limit)
        (found[0].square().sum() + found[1].sum()).backward()
        results.append([*found, *(leaf.grad for leaf in leaves)])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_only_so_many_affinities_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    plain = cross_attention._attend

    def watched(queries: Tensor, keys: Tensor, *rest: object) -> Tensor:
        held.append(len(queries) * queries.shape[2] * keys.shape[2])
        return plain(queries, keys, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_attention, "_attend", watched)
    x = torch.randn(2, 3, 12)
    co_attend(x, x, x, x, limit=100)
    assert max(held) <= 100 and sum(held) == 2 * 2 * 12 * 12


# --- properties -------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_what_is_found_is_a_mean_of_the_other_photos_values(cells_m: int, cells_n: int) -> None:
    torch.manual_seed(cells_m * 7 + cells_n)
    queries, keys = torch.randn(2, 3, cells_m), torch.randn(2, 3, cells_n)
    values_m, values_n = torch.randn(2, 4, cells_m), torch.randn(2, 4, cells_n)
    to_m, to_n = co_attend(queries, keys, values_m, values_n)
    for found, values in ((to_m, values_n), (to_n, values_m)):
        assert (found <= values.amax(2, keepdim=True) + 1e-5).all()
        assert (found >= values.amin(2, keepdim=True) - 1e-5).all()
    ones = co_attend(queries, keys, torch.ones_like(values_m), torch.ones_like(values_n))
    assert all(torch.allclose(each, torch.ones_like(each)) for each in ones)  # columns of A add up to one
    back, _ = co_attend(queries, keys[:, :, perm := torch.randperm(cells_n)], values_m, values_n[:, :, perm])
    torch.testing.assert_close(back, to_m)  # where something lies in the other photo does not matter


def test_a_photo_paired_with_itself_is_not_itself() -> None:
    x = torch.rand(1, 4, 6)
    to_m, _ = co_attend(x, x, x, x)
    assert not torch.allclose(to_m, x, atol=1e-2)


def test_the_gates_ends() -> None:
    method = small_method("paper")
    features = torch.rand(2, 6, 2, 3) + 0.1
    for size, expected in ((-1e4, method.head(features)), (1e4, method.head(torch.zeros_like(features)))):
        nn.init.constant_(method.gate.weight, size)
        found = method.compare(method.compared(features), method.compared(features.flip(0)), [0, 0])
        torch.testing.assert_close(found.own_m, expected)


@pytest.mark.parametrize("kind", ["default", "paper"])
def test_padding_is_nobodys_position(kind: str) -> None:
    method = small_method(kind)
    torch.manual_seed(3)
    features = torch.randn(2, 6, 3, 4)
    valid = torch.ones(2, 12, 16, dtype=torch.bool)
    valid[:, :, 8:] = False
    changed = features.clone()
    changed[:, :, :, 2:] = torch.randn(2, 6, 3, 2) * 9
    losses = []
    for images in (features, changed):
        batch = Batch(("a", "b"), images, torch.tensor([[1.0, 0, 0, 1], [1, 1, 0, 0]]), valid, pairs=((0, 1),))
        losses.append(method.losses(batch, 0.5))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value)


# --- losses -----------------------------------------------------------------------------------------------------


def soft_margin(scores: Tensor, labels: Tensor) -> Tensor:
    p = scores.sigmoid()
    return -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()


def three_pairs(domains: tuple[Domain, ...] = ("target",) * 6) -> Batch:
    torch.manual_seed(5)
    labels = torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]])
    images, valid = torch.randn(6, 6, 2, 3), torch.ones(6, 8, 12, dtype=torch.bool)
    valid[4, :, 8:] = False
    return Batch(tuple("abcdef"), images, labels, valid, domains=domains, pairs=((0, 3), (1, 4), (2, 5)))


def losses_by_hand(
    method: Mcis, batch: Batch, order: list[tuple[int, int, int]], *, empty: bool = True
) -> dict[str, Tensor]:
    """The sums of the paper, pair by pair; ``order`` holds (m, n, kind). Not ``empty``: without the contrastive loss of
    photos that have no class of their own."""
    gap = lambda maps, row: masked_mean(maps[None], batch.valid[row : row + 1])[0]  # noqa: E731
    inside = F.adaptive_avg_pool2d(batch.valid[:, None].float(), (2, 3))[:, 0] > 0
    sums = {"basic": torch.zeros(()), "co": torch.zeros(()), "contrast": torch.zeros(())}
    for m, n, kind in order:
        common_m, common_n, own_m, own_n = by_the_formulas(
            method, batch.images[m], batch.images[n], kind, inside[m], inside[n]
        )
        common = batch.labels[m] * batch.labels[n]
        assert torch.equal(common + (batch.labels[m] - common), batch.labels[m])
        for row in (m, n):
            scores = gap(method.head(batch.images[row][None])[0], row)
            sums["basic"] = sums["basic"] + soft_margin(scores, batch.labels[row])
        sums["co"] = sums["co"] + soft_margin(gap(common_m, m), common) + soft_margin(gap(common_n, n), common)
        for maps, row in ((own_m, m), (own_n, n)):
            if not empty and torch.equal(batch.labels[row], common):
                continue
            sums["contrast"] = sums["contrast"] + soft_margin(gap(maps, row), batch.labels[row] - common)
    return {name: value / len(order) for name, value in sums.items()}


@pytest.mark.parametrize("kind", ["default", "paper"])
def test_the_papers_losses_by_hand(kind: str) -> None:
    method = small_method(kind)
    order = [(0, 3, 0), (1, 4, 0), (2, 5, 0)]  # 1, 2, 3 and 4 show only what they share
    expected = losses_by_hand(method, three_pairs(), order, empty=kind == "paper")
    late = 0.4 if kind == "default" else 0.0
    assert "contrast" not in method.losses(three_pairs(), late - 0.01) or kind == "paper"
    found = method.losses(three_pairs(), late)
    assert list(found) == ["basic", "co", "contrast"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert expected["contrast"] != losses_by_hand(method, three_pairs(), order, empty=kind != "paper")["contrast"]


def test_domains_choose_the_matrix_and_the_order() -> None:
    method = small_method("paper")
    batch = three_pairs(("target", "web", "single-label", "web", "single-label", "target"))
    # the target photo first: (0, 3) stays, (1, 4) are both from elsewhere, (2, 5) is turned round
    expected = losses_by_hand(method, batch, [(0, 3, 2), (1, 4, 1), (5, 2, 2)])
    found = method.losses(batch, 0.0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    one = Mcis(plain_backbone(6, 4), 4, replace(weighted("paper"), by_domain=False)).eval()
    assert len(one.affinity) == 1
    expected = losses_by_hand(one, batch, [(0, 3, 0), (1, 4, 0), (2, 5, 0)])
    torch.testing.assert_close(one.losses(batch, 0.0)["co"], expected["co"], rtol=1e-4, atol=1e-5)


def test_the_released_losses_by_hand() -> None:
    method, batch = small_method("official"), three_pairs()
    by_hand = losses_by_hand(method, batch, [(0, 3, 0), (1, 4, 0), (2, 5, 0)])
    early, late = method.losses(batch, 1 / 15), method.losses(batch, 2 / 15)
    assert "contrast" not in early and set(late) == {"basic", "co", "contrast", "self_basic", "self_co"}
    torch.testing.assert_close(late["basic"], by_hand["basic"] / 2, rtol=1e-4, atol=1e-5)  # means over 2B rows
    torch.testing.assert_close(late["co"], by_hand["co"] / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(late["contrast"], by_hand["contrast"], rtol=1e-4, atol=1e-5)  # each side whole

    basic, co = torch.zeros(()), torch.zeros(())  # photos with themselves: all their tags are common
    for view in (lambda x: x.flip(-1), lambda x: resize(x, (2, 2)), lambda x: resize(x, (4, 6))):
        for row in range(3):
            there = view(batch.images[row : row + 1])
            common_m, common_n, _, _ = by_the_formulas(
                method, batch.images[row], there[0], 0, torch.ones(6, dtype=torch.bool),
                torch.ones(there[0, 0].numel(), dtype=torch.bool),
            )  # fmt: skip
            labels = batch.labels[row]
            for maps in (method.head(batch.images[row][None])[0], method.head(there)[0]):
                basic = basic + soft_margin(maps.mean((1, 2)), labels) / 6
            for maps in (common_m, common_n):
                co = co + soft_margin(maps.mean((1, 2)), labels) / 6
    torch.testing.assert_close(late["self_basic"], basic, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(late["self_co"], co, rtol=1e-4, atol=1e-5)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


def test_a_side_without_tags_of_its_own_is_left_out_where_released() -> None:
    batch = three_pairs()
    batch = replace(batch, labels=batch.labels[[0, 1, 2, 0, 1, 2]])  # both photos of a pair show the same
    released, paper = small_method("official"), small_method("paper")
    assert released.losses(batch, 1.0)["contrast"].item() == 0 < paper.losses(batch, 1.0)["contrast"].item()
    batch.labels[3, 3] = 1  # one photo of n's has a tag of its own: all of that side count
    expected = losses_by_hand(released, batch, [(0, 3, 0), (1, 4, 0), (2, 5, 0)])["contrast"]
    found = released.losses(batch, 1.0)["contrast"]
    assert 0 < found.item() < expected.item() - 1e-3


@pytest.mark.parametrize("kind", ["default", "official"])
def test_feedback_is_the_share_of_the_gradient_that_reaches_the_classifier(kind: str) -> None:
    """W_P, W_B and a head of its own have all of it; features and the classifier's head that of the basic losses and
    this share of the others'. The losses do not change."""
    gradients, losses = {}, {}
    for share in (0.0, 0.25, 1.0, "basic"):
        method, batch = small_method(kind), three_pairs()
        method.settings = replace(method.settings, feedback=1.0 if share == "basic" else share)
        batch = replace(batch, images=batch.images.clone().requires_grad_())
        terms = method.losses(batch, 1.0)
        kept = [value for name, value in terms.items() if share != "basic" or "basic" in name]
        losses[share] = torch.stack(kept).sum()
        losses[share].backward()
        gradients[share] = {name: p.grad for name, p in method.named_parameters()} | {"features": batch.images.grad}
    assert losses[0.0] == losses[0.25] == losses[1.0]
    for name, whole in gradients[1.0].items():
        alone = gradients["basic"][name]
        if name.split(".")[0] in ("head", "features"):
            meets_both = name == "features" or kind == "default"  # a second head has the others to itself
            assert meets_both != torch.allclose(whole, alone, rtol=1e-3)
            torch.testing.assert_close(gradients[0.0][name], alone)
            torch.testing.assert_close(gradients[0.25][name], alone + 0.25 * (whole - alone), rtol=1e-4, atol=1e-6)
        else:
            assert whole.abs().sum() > 0
            torch.testing.assert_close(gradients[0.0][name], whole)
            torch.testing.assert_close(gradients[0.25][name], whole)


@pytest.mark.parametrize("q", [0.7, 1.0])
def test_wrong_tags_from_the_web_are_tolerated(q: float) -> None:
    """The basic loss by numpy, twice the mean for the two photos of a pair: (1 - p^q) / q of each class of photos from
    the web, -log p of the others; its gradient is the plain one's times p^q."""
    domains: tuple[Domain, ...] = ("target", "web", "single-label", "web", "single-label", "target")
    batch = replace(three_pairs(domains), valid=torch.ones(6, 8, 12, dtype=torch.bool))
    method = small_method("default")
    method.settings = replace(method.settings, web_tolerance=q)
    loss = method.losses(batch, 0.0)["basic"]
    loss.backward()
    s = method.head(method.features(batch)).detach().double().mean((2, 3)).numpy()
    y = batch.labels.numpy()
    says, web = 1 / (1 + np.exp(-np.where(y > 0, s, -s))), np.array([[d == "web"] for d in domains])
    assert loss.item() == pytest.approx(2 * np.where(web, (1 - says**q) / q, -np.log(says)).mean(), rel=1e-5)
    slopes = np.where(web, says**q, 1) * (1 / (1 + np.exp(-s)) - y)  # the bias adds to every score of its class
    assert method.head.bias is not None and method.head.bias.grad is not None
    np.testing.assert_allclose(method.head.bias.grad.numpy(), 2 * slopes.sum(0) / y.size, rtol=1e-4, atol=1e-6)


def test_tolerance_is_for_the_web_alone_and_for_a_photo_with_itself_too() -> None:
    values = {}
    for domain in ("target", "single-label", "web"):
        for tolerance in (0.0, 0.7):
            method = small_method("official")
            method.settings = replace(method.settings, web_tolerance=tolerance)
            terms = method.losses(three_pairs((domain,) * 6), 0.0)
            values[domain, tolerance] = {name: terms[name].item() for name in ("basic", "self_basic")}
    for domain in ("target", "single-label"):
        assert values[domain, 0.7] == values[domain, 0.0]
    shares = {name: values["web", 0.7][name] / values["web", 0.0][name] for name in ("basic", "self_basic")}
    assert shares["basic"] < 0.8 and shares["self_basic"] == pytest.approx(shares["basic"], abs=0.05), shares


def test_what_pairs_alone_teach_is_clipped_apart() -> None:
    names = {}
    for feedback, share in ((0.0, True), (0.0, False), (0.5, True)):
        method = Mcis(plain_backbone(6, 4), 4, McisSettings(feedback=feedback, share_head=share))
        known = {id(p): name for name, p in method.named_parameters()}
        names[feedback, share] = [{known[id(p)] for p in part} for part in clipped_together(method)]
    head = {"head.weight", "head.bias"}
    assert names[0.0, True] == [head, {"affinity", "gate.weight"}]
    assert names[0.0, False] == [head, {"affinity", "gate.weight", "second_head.weight"}]
    assert names[0.5, True] == [head | {"affinity", "gate.weight"}]
    basic = Mcis(plain_backbone(6, 4), 4, McisSettings(parts="basic"))
    assert len(clipped_together(basic)) == 1


def test_parts_of_the_method_can_be_left_out() -> None:
    terms = {}
    for parts in ("basic", "co", "full"):
        torch.manual_seed(0)
        method = Mcis(plain_backbone(6, 4), 4, weighted("paper", parts))
        terms[parts] = method.losses(three_pairs(), 0.0)
        assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"head"} | (
            set() if parts == "basic" else {"affinity"}
        ) | ({"gate"} if parts == "full" else set())
    assert [list(found) for found in terms.values()] == [["basic"], ["basic", "co"], ["basic", "co", "contrast"]]
    basic = McisSettings(parts="basic")
    assert not basic.traits.pairs and basic.traits.references == 0
    assert McisSettings().traits.pairs and McisSettings().traits.references == 3
    assert len(Mcis(resnet(), 4, basic).losses(replace(batch_of(), pairs=None), 0.5)) == 1


def test_a_batch_without_partners_is_paired_within() -> None:
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0]])
    batch = Batch(tuple("abcde"), torch.zeros(5, 3, 2, 2), labels, torch.ones(5, 2, 2, dtype=torch.bool))
    assert pairs_within(batch) == ((0, 2), (1, 4), (2, 3), (3, 2), (4, 1))
    lonely = replace(batch, labels=torch.eye(5))
    says = r"no two of the 5 photos of this batch share a class \(a, b, c and 2 more\).*Pairs"
    with pytest.raises(InputError, match=says) as raised:
        pairs_within(lonely)
    assert "\n" not in str(raised.value)
    method = Mcis(plain_backbone(3), 5)
    with pytest.raises(InputError, match="no two of the 5 photos"):
        method.losses(lonely, 0.5)
    assert list(method.losses(replace(lonely, pairs=()), 0.5)) == ["basic"]  # a source that found no partner


VARIANTS = [
    replace(paper(), extra_convs=1, channels=16),
    replace(official(15), extra_convs=1, channels=16, self_pairs=False, aggregation="mean"),
    McisSettings(parts="co", share_head=False),
    McisSettings(parts="basic"),
]


@pytest.mark.parametrize("variant", [VARIANTS[0], *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[1:])])
def test_contract_of_the_other_forms(variant: McisSettings) -> None:
    check_method(Mcis, variant, resnet)


@pytest.mark.slow
def test_a_step_learns_every_part_in_half_precision() -> None:
    method = Mcis(resnet(), 4, replace(official(15), extra_convs=1, channels=16)).train()
    batch = replace(batch_of(4, height=48, width=64), pairs=((0, 1), (1, 0)))
    with torch.autocast("cpu", torch.bfloat16):
        total = method.losses(batch, 0.5).total()
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # the last norm of a residual block starts at zero and hides what is before it
        assert parameter.grad.abs().sum() > 0 or name.startswith("backbone.blocks.layer"), name


def test_affinities_are_in_full_precision_with_references_too() -> None:
    method, features = small_method("default"), torch.randn(1, 6, 3, 4)
    for side, other in itertools.product((False, True), repeat=2):
        expected = method._keys(features, side, other)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(method._keys(features, side, other), expected, rtol=0, atol=0)


# --- pairs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve photos of two sizes, three classes, three domains; the last shows nothing."""
    folder = tmp_path_factory.mktemp("pairs")
    labels = [{0}, {0, 1}, {1}, {2}, {0, 2}, {1}, {2}, {0}, {1, 2}, {0, 1, 2}, {2}, set()]
    domains: list[Domain] = ["target", "target", "single-label", "web"] * 3
    samples = []
    for index, (tags, domain) in enumerate(zip(labels, domains, strict=True)):
        height, width = (32, 48) if index % 3 else (48, 32)
        pixels = np.random.default_rng(index).integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{index}.png")
        samples.append(Sample(str(index), folder / f"{index}.png", frozenset(tags), domain))
    return Dataset("twelve", ("cat", "cow", "dog"), samples)


NORMAL = ((0.5,) * 3, (0.5,) * 3)


def images_of(dataset: Dataset, seed: int = 0) -> TaggedImages:
    return TaggedImages(dataset, AugmentSettings(32), NORMAL, seed)


def test_partners_share_a_class_and_are_a_function_of_seed_epoch_and_index(photos: Dataset) -> None:
    source, again = Pairs(images_of(photos), 3), Pairs(images_of(photos), 3)
    drawn = {(epoch, i): source.partner(epoch, i) for epoch in range(30) for i in range(12)}
    assert drawn == {(epoch, i): again.partner(epoch, i) for epoch in reversed(range(30)) for i in range(12)}
    for (_, i), other in drawn.items():
        if i == 11:
            assert other is None
        else:
            assert other is not None and other != i
            assert photos.samples[i].labels & photos.samples[other].labels  # type: ignore[operator]
    # every other photo of its classes comes, whatever its domain; the rarer of two classes as often as the other
    assert {other for (_, i), other in drawn.items() if i == 3} == {4, 6, 8, 9, 10}
    assert {other for (_, i), other in drawn.items() if i == 1} == {0, 4, 7, 9, 2, 5, 8}
    assert drawn != {
        (epoch, i): Pairs(images_of(photos), 4).partner(epoch, i) for epoch in range(30) for i in range(12)
    }


def test_classes_are_drawn_uniformly_then_photos() -> None:
    """Photo 0 shows a common and a rare class: half of its partners come from each."""
    labels = [{0, 1}, {1}, *[{0}] * 9]
    samples = [Sample(str(i), Path(f"{i}.png"), frozenset(tags)) for i, tags in enumerate(labels)]
    source = Pairs(images_of(Dataset("d", ("a", "b"), samples)), 0)
    counts = Counter(source.partner(epoch, 0) for epoch in range(2000))
    assert counts[1] == pytest.approx(1000, abs=100)
    assert set(counts) == set(range(1, 11)) and max(counts[i] for i in range(2, 11)) < 160


def test_a_batch_holds_photos_then_partners(photos: Dataset) -> None:
    source = Pairs(images_of(photos), 0)
    assert len(source) == 12 and source.groups() is None
    order = epoch_batches(source, 5, 0, 1)
    assert (
        sorted(i for b in order for i in b) != sorted(range(12)) or len(order) == 3
    )  # a rest of under half is dropped
    batch = source.collate([source.item(1, i) for i in (3, 11, 1)])
    partners = [source.partner(1, 3), source.partner(1, 1)]
    assert batch.ids == ("3", "11", "1", str(partners[0]), str(partners[1]))
    assert batch.pairs == ((0, 3), (2, 4)) and len(batch.images) == len(batch.labels) == len(batch.domains) == 5
    assert batch.domains[0] == photos.samples[3].domain
    torch.testing.assert_close(batch.images[0], images_of(photos).item(1, 3).image)
    assert partners[0] is not None
    assert not torch.equal(batch.images[3], images_of(photos).item(1, partners[0]).image)  # another view of it
    same = Pairs(images_of(photos), 0)
    assert torch.equal(same.collate([same.item(1, i) for i in (3, 11, 1)]).images, batch.images)
    assert batch.to(torch.device("cpu")).pairs == batch.pairs


def test_stored_features_pair_within_their_grid(photos: Dataset) -> None:
    grids = [(2, 3) if i % 3 else (3, 2) for i in range(12)]
    load = lambda s, flip: torch.full((4, *grids[int(s.id)]), float(s.id) + flip / 2)  # noqa: E731
    source = Pairs(StoredFeatures(photos, load, grids, 0), 0)
    for epoch in range(20):
        for i in range(12):
            other = source.partner(epoch, i)
            assert other is None or grids[other] == grids[i]
    assert source.partner(0, 6) is not None and source.partner(0, 11) is None
    batches = epoch_batches(source, 4, 0, 0)
    for rows in batches:
        batch = source.collate([source.item(0, i) for i in rows])
        assert batch.stored and batch.pairs is not None and len(batch.images) == len(rows) + len(batch.pairs)
        losses = Mcis(plain_backbone(4), 3).losses(replace(batch, stored=False), 0.5)
        assert torch.isfinite(losses.total())


def test_a_class_with_a_single_photo_is_named() -> None:
    def of(*labels: set[int]) -> Dataset:
        samples = [Sample(f"p{i}", Path(f"{i}.png"), frozenset(tags)) for i, tags in enumerate(labels)]
        return Dataset("zoo", ("cat", "cow", "dog"), samples)

    check_pairs(of({0}, {0, 1}, {1}))  # dog has none: not ours to say
    says = r"zoo has a single photo of cow \(p1\): add photos, leave such classes out with --classes, or"
    with pytest.raises(InputError, match=says):
        Pairs(images_of(of({0}, {0, 1})), 0)
    with pytest.raises(InputError, match=r"cat \(p0\), cow \(p1\), dog \(p2\)"):
        check_pairs(of({0}, {1}, {2}))
    with pytest.raises(InputError, match="no photo of zoo has a tag"):
        check_pairs(of(set(), set()))


# --- where it looks ---------------------------------------------------------------------------------------------


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.conv = nn.Conv2d(3, 6, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.conv(x)


VIEWS = LocalizeSettings(long_side=24, scales=(1.0,), flip=False, batch_size=4, precision="float32")


def counted(kind: str, references: int = 2) -> tuple[Mcis, Backbone, Counted]:
    torch.manual_seed(4)
    look = Counted()
    backbone = Backbone([("b0", look)], 6, 4, (0.5,) * 3, (0.5,) * 3, strides=(4,))
    method = Mcis(backbone, 3, replace(weighted(kind), references=references)).eval()
    with torch.no_grad():
        method.affinity.copy_(torch.randn_like(method.affinity))
    return method, backbone, look


def photo(backbone: Backbone, sample: Sample) -> Tensor:
    from tag2mask.data.images import read_image
    from tag2mask.views import view_batch

    pixels = read_image(sample.image_path)
    return view_batch([pixels], reference_view(*pixels.shape[:2], VIEWS), backbone)


def from_all_domains(photos: Dataset, count: int) -> list[tuple[Sample, tuple[int, ...]]]:
    """References of each class from every domain that shows it, as far as they are wanted."""
    drawn: list[tuple[Sample, tuple[int, ...]]] = []
    for label in range(3):
        showing = [sample for sample in photos.samples if label in (sample.labels or ())]
        first = {sample.domain: sample for sample in reversed(showing)}  # one of each domain
        others = [sample for sample in showing if sample not in first.values()]
        drawn += [(sample, (label,)) for sample in [*first.values(), *others][:count]]
    return drawn


@pytest.mark.parametrize(("kind", "references"), [("default", 2), ("paper", 3), ("paper", 1)])
def test_multi_round_equals_the_formulas(kind: str, references: int, photos: Dataset) -> None:
    """The mean over references of the co-attentive map, each pair computed by itself, in the order of its domains."""
    method, backbone, _ = counted(kind, references)
    drawn = from_all_domains(photos, references)
    show_references(method, backbone, drawn, VIEWS)
    found = localized(method, photos.samples, VIEWS, 3)
    with torch.no_grad():
        for sample in photos.samples[:11]:
            features = method.features(Photos(photo(backbone, sample)))[0]
            maps = []
            for label in sorted(sample.labels or ()):
                beside = [reference for reference, labels in drawn if label in labels]
                assert len(beside) == references
                each = []
                for reference in beside:
                    other = method.features(Photos(photo(backbone, reference)))[0]
                    ours, theirs = sample.domain != "target", reference.domain != "target"
                    kind_ = 2 if ours != theirs else int(ours)
                    everywhere = [torch.ones(f[0].numel(), dtype=torch.bool) for f in (features, other)]
                    if ours and not theirs:
                        each.append(by_the_formulas(method, other, features, kind_, *everywhere[::-1])[1][label])
                    else:
                        each.append(by_the_formulas(method, features, other, kind_, *everywhere)[0][label])
                maps.append(torch.stack(each).mean(0).relu())
            expected = torch.stack(maps)
            expected = expected / (expected.amax((1, 2), keepdim=True) + 1e-5)
            assert found[sample.id].classes == tuple(sorted(sample.labels or ()))
            np.testing.assert_allclose(found[sample.id].scores, expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["paper", "official"])
def test_a_reference_given_twice_weighs_no_more(kind: str, photos: Dataset) -> None:
    """A mean over references and no sum, seen before maps are divided by their largest score: that would hide it."""
    method, backbone, _ = counted(kind, 2)
    drawn = draw_references(photos, 1, 0)
    images, labels = torch.randn(1, 3, 24, 36, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3)
    found = []
    for references in (drawn, [*drawn, *drawn]):
        show_references(method, backbone, references, VIEWS)
        with torch.no_grad():
            found.append(method._with_references(method.features(batch(images, labels)), labels, ()))
    torch.testing.assert_close(found[0], found[1])
    assert found[0].std() > 0.1


def test_references_are_seen_once(photos: Dataset) -> None:
    looked = {}
    for references in (0, 1, 3):
        method, backbone, look = counted("paper", references)
        drawn = draw_references(photos, references, 0)
        assert len(drawn) <= 3 * references
        if references:
            show_references(method, backbone, drawn, VIEWS)
        assert look.seen == len(drawn)
        localized(method, photos.samples, VIEWS, 3)
        looked[references] = look.seen - len(drawn)
    assert looked == {0: 11, 1: 11, 3: 11}  # each tagged photo once, however many references


def test_references_are_drawn_by_seed_and_class_alone(photos: Dataset) -> None:
    drawn = draw_references(photos, 3, 7)
    counts = Counter(label for _, labels in drawn for label in labels)
    assert counts == {0: 3, 1: 3, 2: 3}
    assert all(set(labels) <= set(sample.labels or ()) for sample, labels in drawn)
    assert draw_references(photos, 3, 7) == drawn != draw_references(photos, 3, 8)
    assert Counter(label for _, labels in draw_references(photos, 99, 7) for label in labels) == {0: 5, 1: 5, 2: 6}


def test_references_are_photos_whose_tags_can_be_relied_on(photos: Dataset) -> None:
    """Class 2 is shown by 4, 8 and 9 of the target set, by 6 and 10 of a single label, by 3 from the web."""

    def drawn(count: int) -> list[set[str]]:
        return [{s.id for s, own in draw_references(photos, count, seed) if 2 in own} for seed in range(40)]

    assert set().union(*drawn(1)) == {"4", "8", "9"} and {len(ids) for ids in drawn(1)} == {1}
    assert all(ids > {"4", "8", "9"} and ids & {"6", "10"} and "3" not in ids for ids in drawn(4))
    assert {"6", "10"} == set().union(*drawn(4)) - {"4", "8", "9"}
    assert drawn(6)[0] == {"3", "4", "6", "8", "9", "10"}


def test_stored_features_serve_references_too(photos: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    direct_backbone = resnet(freeze_until="layer3")
    method = Mcis(direct_backbone, 3).eval()
    facts = facts_of(photos.samples)
    look = replace(VIEWS, long_side=64)
    store = FeatureStore(direct_backbone, facts, FeatureSettings(tmp_path), "float32")
    drawn = draw_references(photos, 2, 0)
    of = lambda s: look.views(facts[s.key].height, facts[s.key].width)  # noqa: E731
    store.fill(photos.samples, of)
    maps = []
    for source in (None, store):
        show_references(method, direct_backbone, drawn, look, source)
        maps.append(localized(method, photos.samples, look, 3, source))
    assert maps[0].keys() == maps[1].keys() == {s.id for s in photos.samples}
    for id, direct in maps[0].items():
        np.testing.assert_allclose(maps[1][id].scores, direct.scores, atol=2e-2)


def test_single_round_is_the_basic_head(photos: Dataset) -> None:
    for method in (counted("paper", 0)[0], counted("paper", 2)[0]):  # the second has not seen its references
        images = torch.randn(2, 3, 24, 36)
        with torch.no_grad():
            expected = method.head(method.features(Photos(images))).relu()
            torch.testing.assert_close(method.localize(batch(images, torch.ones(2, 3))), expected)
    assert isinstance(method, UsesReferences) and not isinstance(Cam(plain_backbone(3), 3), UsesReferences)


def test_absent_classes_are_left_out(photos: Dataset) -> None:
    method, backbone, _ = counted("paper")
    show_references(method, backbone, draw_references(photos, 2, 0), VIEWS)
    with torch.no_grad():
        maps = method.localize(batch(torch.randn(2, 3, 24, 36), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])))
    assert not maps[0, 1:].any() and not maps[1, :2].any() and maps.shape == (2, 3, 6, 9)


def test_a_class_without_references(photos: Dataset) -> None:
    """As after a subset of classes, or photos from elsewhere."""
    method, backbone, _ = counted("paper")
    fewer = photos.with_samples([s for s in photos.samples if 2 not in (s.labels or ())])
    drawn = draw_references(fewer, 2, 0)
    with pytest.raises(InputError, match=r"'3' is tagged dog and no training photo is.*--mcis\.references 0"):
        check_references(drawn, photos.samples, photos.classes, "mcis.references")
    check_references(drawn, fewer.samples, photos.classes, "mcis.references")
    show_references(method, backbone, drawn, VIEWS)
    with pytest.raises(InputError, match=r"class number 2 has no reference photo.*--mcis\.references 0"):
        method.localize(batch(torch.randn(1, 3, 24, 36), torch.tensor([[0.0, 0, 1]])))


def test_the_gated_sum_by_hand() -> None:
    first, likely, unlikely = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), -2.0), torch.full((1, 1, 2, 2), -2.2)
    first[..., 0, 0], first[..., 1, 1] = -9, 4
    likely[..., 0, 1] = 2.0
    unlikely[..., 0, 0] = -2.195
    assert gated_sum([first]).tolist() == [[[[0, 0], [0, pytest.approx(0.2)]]]]
    assert gated_sum([first, likely, unlikely])[0, 0].tolist() == [[0, pytest.approx(0.2)], [0, pytest.approx(0.2)]]
    unlikely[..., 0, 0] = 5.0  # mean -0.4: likely now
    assert gated_sum([first, unlikely])[0, 0, 0, 0].item() == pytest.approx(0.2)
    weak, strong = -20 + torch.eye(2).mul(24)[None, None], -9 + torch.eye(2).mul(20)[None, None]
    assert not gated_sum([torch.zeros(1, 1, 2, 2), weak]).any()
    torch.testing.assert_close(gated_sum([torch.zeros(1, 1, 2, 2), strong])[0, 0], torch.eye(2) / 5)


def test_the_released_aggregation_equals_its_steps(photos: Dataset) -> None:
    method, backbone, _ = counted("official", 3)
    drawn = draw_references(photos, 3, 0)
    show_references(method, backbone, drawn, VIEWS)
    sample = photos.samples[9]
    image = photo(backbone, sample)
    labels = torch.ones(1, 3)
    with torch.no_grad():
        found = method.localize(batch(image, labels))[0]
        here = method.features(Photos(image))

        def pair(other: Tensor) -> tuple[Tensor, Tensor]:
            inside = [torch.ones(f[0, 0].numel(), dtype=torch.bool) for f in (here, other)]
            maps = by_the_formulas(method, here[0], other[0], 0, *inside)
            return maps[0], maps[1]

        mirrored = pair(method.features(Photos(image.flip(3))))
        small = pair(method.features(Photos(resize(image, (18, 12)))))[1]
        large = pair(method.features(Photos(resize(image, (48, 32)))))[1]
        grid = here.shape[2:]
        grown = [F.interpolate(m[None], grid, mode="bicubic", align_corners=False)[0] for m in (small, large)]
        for label in range(3):
            beside = [
                pair(method.features(Photos(photo(backbone, r))))[0][label] for r, classes in drawn if label in classes
            ]
            maps = [m[label] for m in (mirrored[0], mirrored[1].flip(2), *grown)] + [torch.stack(beside).mean(0)]
            total = torch.zeros(grid)
            for number, m in enumerate(maps):
                if number == 0 or m.mean() > -2.1972246:
                    total += m.clamp(min=0) / (m.clamp(min=0).max() + 1e-8)
            torch.testing.assert_close(found[label], total / 5, rtol=1e-4, atol=1e-5)
    assert image.shape[2:] == (24, 16) and found.max() <= 1


# --- VGG-16 and released weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg() -> Mcis:
    torch.manual_seed(0)
    backbone = build(BackboneSettings("vgg16", weights="none", output_stride=8))
    return Mcis(backbone, 20, official(15))


def test_groups_of_the_released_solver(vgg: Mcis) -> None:
    train = recipe("mcis/official").train
    groups = parameter_groups(vgg, train)
    found = {round(g["lr"], 6): (len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups}
    assert found == {1e-3: (13, 14_710_464), 2e-3: (13, 4_224), 1e-2: (7, 7_361_024), 2e-2: (4, 1_556)}
    assert sum(p.numel() for p in vgg.parameters()) == 22_077_268
    assert {g["weight_decay"] for g in groups} == {5e-4}
    whole = replace(train, epochs=15.0)
    for epoch in range(15):
        expected = 1.0 if epoch < 5 else 0.1 if epoch < 10 else 0.01
        for step in (0, 99):
            assert schedule(epoch * 100 + step, 1500, whole) == pytest.approx(expected, rel=1e-9)
    assert train.nesterov and train.epochs == 11 and train.batch_size == 5


def test_maps_are_an_eighth_of_the_photo() -> None:
    backbone = build(BackboneSettings("vgg16", weights="none", output_stride=8)).to("meta")
    assert (backbone.channels, backbone.stride) == (512, 8)
    assert backbone.strides == {"conv1": 2, "conv2": 4, "conv3": 8, "conv4": 8, "conv5": 8}
    for side in (192, 256, 512):
        out = backbone(torch.zeros(1, 3, side, side + 64, device="meta"))
        assert out.shape == (1, 512, side // 8, side // 8 + 8)


def test_vgg_is_torchvisions_up_to_where_it_is_finer() -> None:
    from torchvision.models import vgg16 as published

    torch.manual_seed(0)
    features = published(weights=None).features
    convs = vgg16.features()
    vgg16.copy(convs, {f"features.{name}": value for name, value in features.state_dict().items()})
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        coarse = Backbone(vgg16.chain(convs, 16), 512, 16, (0,) * 3, (1,) * 3)
        torch.testing.assert_close(coarse(images), features[:30](images))
        x = features[:23](images)  # the last convolutions with two cells between their taps, on a map twice as fine
        x = F.max_pool2d(x, 3, 1, 1)
        for layer in features[24:30]:
            x = F.conv2d(x, layer.weight, layer.bias, 1, 2, 2) if isinstance(layer, nn.Conv2d) else layer(x)
        fine = Backbone(vgg16.chain(convs, 8), 512, 8, (0,) * 3, (1,) * 3)
        torch.testing.assert_close(fine(images), x)
    std = convs["26"].weight.std().item()  # type: ignore[union-attr]
    assert std == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02) and not vgg16.features()["26"].bias.any()  # type: ignore[union-attr]


def released(method: Mcis) -> dict[str, Tensor]:
    """A checkpoint as the released code writes it, from our tensors."""
    state = {}
    for name, value in method.state_dict().items():
        value = value[0] if name == "affinity" else value
        state[released_name(name)] = value.clone()
    return state


def test_the_released_layout(vgg: Mcis) -> None:
    shapes = {name: tuple(value.shape) for name, value in released(vgg).items()}
    convs = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    weights = [f"vgg.features.{i}" for i in convs] + [f"vgg.extra_convs.{i}" for i in (0, 2, 4)]
    weights.append("vgg.extra_last_conv")
    lone = {"extra_linear_e.weight": (512, 512), "extra_gate.weight": (20, 512, 1, 1)}
    lone["extra_gate_merge.weight"] = (1, 512, 1, 1)
    assert set(shapes) == {f"{name}.{kind}" for name in weights for kind in ("weight", "bias")} | set(lone)
    assert len(shapes) == 37 and lone.items() <= shapes.items()
    assert shapes["vgg.features.0.weight"] == (64, 3, 3, 3) and shapes["vgg.features.10.weight"] == (256, 128, 3, 3)
    assert shapes["vgg.extra_last_conv.weight"] == (20, 512, 1, 1) and shapes["vgg.extra_last_conv.bias"] == (20,)


@pytest.fixture(scope="module")
def checkpoint(vgg: Mcis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "checkpoint.pth"
    state = {f"module.{name}": value for name, value in released(vgg).items()}
    torch.save({"epoch": 10, "global_counter": 7, "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


def test_released_weights_are_read_from_either_kind_of_file(vgg: Mcis, checkpoint: Path, tmp_path: Path) -> None:
    save_file(released(vgg), tmp_path / "released.safetensors")
    three = replace(official(15), by_domain=True)
    for path, settings_ in ((checkpoint, official(15)), (tmp_path / "released.safetensors", three)):
        backbone = build(BackboneSettings("vgg16", weights=str(path), output_stride=8))
        method = Mcis(backbone, 20, settings_)
        last = "blocks.conv5.28.weight"
        assert torch.equal(backbone.state_dict()[last], vgg.backbone.state_dict()[last])
        assert not torch.equal(method.head.weight, vgg.head.weight)
        state = released_state(method, str(path))
        assert state is not None
        method.load_released(state, str(path))
        for name, value in vgg.state_dict().items():
            found = method.state_dict()[name]
            assert torch.equal(found, value.expand(found.shape)), name


def test_checkpoints_that_do_not_fit_are_refused_in_one_line(vgg: Mcis, checkpoint: Path, tmp_path: Path) -> None:
    def says(expected: str, call: Callable[[], object]) -> None:
        with pytest.raises(InputError, match=expected) as raised:
            call()
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400

    state = released(vgg)

    def fresh(form: McisSettings | None = None, classes: int = 20) -> Mcis:
        return Mcis(plain_like(vgg), classes, form or official(15))

    cut = {n: v for n, v in state.items() if not n.startswith(("extra_gate", "vgg.extra_convs.4"))}
    cut["fc.weight"] = torch.zeros(1)
    lacks = (
        r"lacks vgg.extra_convs.4.weight, vgg.extra_convs.4.bias, extra_gate.weight and 1 more and also holds fc.weight"
    )
    says(lacks, lambda: fresh().load_released(cut, "a.pth"))
    says(r"two heads: use --recipe mcis/official", lambda: fresh(paper()).load_released(state, "a.pth"))
    sizes = r"a.pth is not the released MCIS .* VOC's 20 classes: it has other shapes in vgg.extra_last_conv.weight, "
    says(sizes, lambda: fresh(classes=6).load_released(state, "a.pth"))
    before = fresh()
    kept = {name: value.clone() for name, value in before.state_dict().items()}
    says("lacks", lambda: before.load_released(cut, "a.pth"))
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in kept.items())  # nothing half loaded
    # to another method it is a file with a backbone
    assert released_state(Cam(plain_like(vgg), 20), str(checkpoint)) is None
    assert released_state(fresh(), "auto") is None  # no file, nothing to load

    # other files as --weights of the backbone
    def weights(content: dict[str, Tensor], name: str = "vgg16", stride: int = 8) -> Callable[[], object]:
        save_file(content, tmp_path / "w.safetensors")
        return lambda: build(BackboneSettings(name, weights=str(tmp_path / "w.safetensors"), output_stride=stride))

    plain = {n.removeprefix("vgg."): v for n, v in state.items() if n.startswith("vgg.features")}
    oaa = plain | {"extra_convs.0.weight": torch.zeros(1), "classifier.6.weight": torch.zeros(1)}
    says(r"holds another network on top of VGG-16 \(extra_convs.0.weight\)", weights(oaa))
    assert weights(plain | {"classifier.6.weight": torch.zeros(1)})()
    says(r"lacks 26 of VGG-16's 26 tensors", weights(dict(Cam(resnet(), 3).state_dict())))
    says(r"features.28.bias is \(3,\) in the file and \(512,\)", weights(plain | {"features.28.bias": torch.zeros(3)}))
    says(r"lacks .* of this backbone's tensors", weights(state, "resnet10t"))


def plain_like(vgg: Mcis) -> Backbone:
    return Backbone(list(vgg.backbone.blocks.items()), 512, 8, (0,) * 3, (1,) * 3)


@pytest.mark.slow
def test_other_strides_of_vgg() -> None:
    assert build(BackboneSettings("vgg16", weights="none")).stride == 16
    with pytest.raises(InputError, match="cannot be fetched from the hub"):
        build(BackboneSettings("vgg16.tv_in1k", output_stride=8))


# --- settings, recipes ------------------------------------------------------------------------------------------


def test_recipes_are_the_two_forms() -> None:
    at_paper_scale, as_released = recipe("mcis/paper"), recipe("mcis/official")
    assert at_paper_scale.options == paper() and as_released.options == official(11)
    assert official(15).contrast_from == 2 / 15
    assert paper().feedback == official(15).feedback == 1 and McisSettings().feedback == 0
    assert paper().web_tolerance == official(15).web_tolerance == 0 and McisSettings().web_tolerance == 0.7
    assert {at_paper_scale.backbone.name, at_paper_scale.backbone.output_stride, at_paper_scale.refine} == {
        "vgg16.tv_in1k",
        8,
        "none",
    }
    assert at_paper_scale.pseudo.background == "saliency-rule"
    rule = at_paper_scale.pseudo.saliency_rule
    assert (rule.foreground, rule.conflict, rule.attention, rule.salient, rule.minimum) == (0.3, 0.99, 0.95, 32, 0.01)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"references": -1}, r"--mcis\.references is -1: it must be at least 0"),
        ({"temperature": 0.0}, r"--mcis\.temperature is 0: it must be above 0$"),
        ({"temperature": float("nan")}, r"--mcis\.temperature is nan: it must be above 0$"),
        ({"feedback": 1.5}, r"--mcis\.feedback is 1.5: it must be at least 0 and at most 1$"),
        ({"web_tolerance": 2.0}, r"--mcis\.web-tolerance is 2: it must be at least 0 and at most 1$"),
        ({"extra_convs": -1}, r"--mcis\.extra-convs is -1: it must be at least 0"),
        ({"channels": 0}, r"--mcis\.channels is 0: it must be at least 1"),
        ({"parts": "half"}, r"unknown value of --mcis\.parts 'half'.*basic, co, full"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(McisSettings(), **changes)  # type: ignore[arg-type]


def test_a_photo_cannot_be_seen_again_through_stored_features() -> None:
    for settings_ in (McisSettings(self_pairs=True), McisSettings(aggregation="gated")):
        with pytest.raises(InputError, match=r"--mcis.no-self-pairs --mcis.aggregation mean, or leave out --freeze"):
            Mcis(resnet(freeze=True), 3, settings_)


def test_views_of_a_vit_keep_whole_patches() -> None:
    backbone = build(BackboneSettings("vit_tiny_patch16_224", weights="none"))
    method = Mcis(backbone, 3, replace(OFFICIAL, references=0)).eval()
    assert scaled(torch.zeros(1, 3, 64, 96), 0.75, method.backbone.size_divisor, False).images.shape == (
        1,
        3,
        48,
        64,
    )  # 72 is not whole patches
    with torch.no_grad():
        assert method.localize(batch(torch.randn(1, 3, 64, 96), torch.ones(1, 3))).shape == (1, 3, 4, 6)


# --- the pipeline -----------------------------------------------------------------------------------------------


FLAGS = (*SMALL, "--method", "mcis", "--relabel.rounds", "0", "--refine", "none")


@pytest.fixture(scope="module")
def mixed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with photos of all three domains, and saliency for all training photos but two."""
    data = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(world, data)
    lines = (data / "tags.csv").read_text().splitlines()
    domains = ("", "target", "single-label", "web")
    lines = [lines[0] + ",domain"] + [f"{line},{domains[i % 4]}" for i, line in enumerate(lines[1:])]
    (data / "tags.csv").write_text("\n".join(lines) + "\n")
    (data / "saliency").mkdir()
    for index in range(7):
        stands_out = (scene(index)[1] > 0).astype(np.uint8) * 255
        Image.fromarray(stands_out).resize((36, 24)).save(data / "saliency" / f"photo{index:02d}.png")
    return data


@pytest.fixture(scope="module")
def finished(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mcis") / "run"
    assert run("train", mixed, "--out", out, *FLAGS) == 0
    return out


def test_from_tags_to_labels(finished: Path) -> None:
    assert len(list((finished / "maps").glob("*.npz"))) == len(list((finished / "masks").glob("*.png"))) == 9
    (line,) = read_jsonl(finished / "method" / "log.jsonl")
    assert {"basic", "co", "contrast"} <= set(line)
    assert "maps" in json.loads((finished / "scores" / "scores.json").read_text())
    assert "how mcis is trained by default was chosen" in (finished / "report.html").read_text()


@pytest.mark.slow
def test_reference_settings_do_not_change_the_training(finished: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert "'otsu'" in manifest(out, "masks")["threshold_from"]
    for flags in (("--mcis.references", "0"), ("--mcis.aggregation", "gated")):
        before = stamps(out)
        assert run("label", mixed, "--out", out, *FLAGS, *flags) == 0
        # the segmenter, which `label` does not come to, is of other masks now: it is kept aside
        assert redone(before, stamps(out)) - {"segmenter", "predictions"} == {"maps", "masks", "scores"}
        assert not (out / "segmenter").exists()
        threshold_from = manifest(out, "masks")["threshold_from"]
        assert ("'between'" if "0" in flags else "'otsu'") in threshold_from
    assert run("label", mixed, "--out", tmp_path / "again", *FLAGS) == 0
    for path in (finished / "maps").glob("*.npz"):  # other references, other maps; the same run, the same maps
        assert path.read_bytes() == (tmp_path / "again" / "maps" / path.name).read_bytes()
    assert any(p.read_bytes() != (out / "maps" / p.name).read_bytes() for p in (finished / "maps").glob("*.npz"))


def test_maps_taken_up_again_are_the_same(finished: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "maps" / ".stage" / "manifest.json").unlink()
    for name in ("photo01", "photo06"):
        (out / "maps" / f"{name}.npz").unlink()
    assert run("label", mixed, "--out", out, *FLAGS) == 0
    for name in ("photo01", "photo06"):
        assert (out / "maps" / f"{name}.npz").read_bytes() == (finished / "maps" / f"{name}.npz").read_bytes()


def test_an_interrupted_training_continues_to_the_bit(photos: Dataset, tmp_path: Path) -> None:
    from tag2mask.training import TrainSettings, fit

    class Cut(TaggedImages):
        left = 45

        def item(self, epoch: int, index: int):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().item(epoch, index)

    def make() -> Mcis:
        torch.manual_seed(0)
        return Mcis(Backbone([("b0", Counted())], 6, 4, (0.5,) * 3, (0.5,) * 3, strides=(4,)), 3)

    train = TrainSettings(epochs=3, batch_size=4, precision="float32", checkpoint_minutes=0.0)
    fit(make(), Pairs(images_of(photos), 0), train, tmp_path / "whole", seed=0, title="t")
    with pytest.raises(KeyboardInterrupt):
        fit(make(), Pairs(Cut(photos, AugmentSettings(32), NORMAL, 0), 0), train, tmp_path / "cut", seed=0, title="t")
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    fit(make(), Pairs(images_of(photos), 0), train, tmp_path / "cut", seed=0, title="t")
    model = "model.safetensors"
    assert (tmp_path / "cut" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


SETTINGS = {
    "basic": ("--mcis.parts", "basic"),
    "co, frozen": ("--mcis.parts", "co", "--freeze"),
    "frozen in part, five references": ("--freeze-until", "layer3", "--mcis.references", "5"),
    "released form": (
        "--mcis.no-share-head", "--mcis.no-by-domain", "--mcis.affinity", "plain", "--mcis.extra-convs", "1",
        "--mcis.channels", "16", "--mcis.reduction", "mean", "--mcis.self-pairs", "--mcis.skip-empty", "batch",
        "--mcis.aggregation", "gated", "--mcis.contrast-from", "0.1", "--train.optimizer", "sgd", "--train.nesterov",
        "--train.milestones", "0.5", "--train.bias-lr-mult", "2", "--train.decay-biases",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_end_to_end(name: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("label", mixed, "--out", tmp_path / "run", *FLAGS, *SETTINGS[name])
    assert code == 0, capsys.readouterr().err
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    lines = read_jsonl(tmp_path / "run" / "method" / "log.jsonl")
    expected = {"basic": {"basic"}, "co, frozen": {"basic", "co"}}
    terms = set().union(*lines) - {"step", "lr", "images_per_s"}
    assert expected.get(name, {"basic", "co", "contrast"}) <= terms
    assert ("self_co" in terms) == (name == "released form")


@pytest.mark.slow
def test_released_weights_without_training(mixed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    form = replace(official(15), extra_convs=1, channels=8)
    theirs = released(Mcis(build(BackboneSettings("vgg16", weights="none", output_stride=8)), 2, form))
    save_file(theirs, tmp_path / "released.safetensors")
    flags = ("--backbone", "vgg16", "--backbone.output-stride", "8", "--weights", tmp_path / "released.safetensors",
             "--epochs", "0", "--mcis.extra-convs", "1", "--mcis.channels", "8", "--mcis.no-share-head",
             "--mcis.no-by-domain", "--mcis.affinity", "plain", "--mcis.references", "1")  # fmt: skip
    assert run("label", mixed, "--out", tmp_path / "run", *FLAGS, *flags) == 0
    used = load_file(tmp_path / "run" / "method" / "model.safetensors")
    assert {released_name(name) for name in used} == set(theirs)
    for name, value in used.items():
        assert torch.equal(value.reshape(theirs[released_name(name)].shape), theirs[released_name(name)])
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9


def test_the_saliency_rule_end_to_end(
    finished: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert run("train", mixed, "--out", out, *FLAGS, "--background", "saliency-rule") == 0
    assert "2 photos without a saliency map get no mask: photo07, photo08" in capsys.readouterr().err
    assert {p.stem for p in (out / "masks").glob("*.png")} == {f"photo{i:02d}" for i in range(7)}
    assert manifest(out, "masks")["without"] == ["photo07", "photo08"]
    assert "2 photos without a saliency map got no mask" in (out / "report.html").read_text()
    for index in range(7):
        mask = np.asarray(Image.open(out / "masks" / f"photo{index:02d}.png"))
        tagged = set(np.unique(scene(index)[1]).tolist())
        assert mask.shape == (48, 72) and set(np.unique(mask)) <= {0, 255} | tagged
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert {"maps", "masks", "predictions"} <= set(scores)
    before = stamps(out / "masks")
    assert run("train", mixed, "--out", out, *FLAGS, "--background", "saliency-rule") == 0
    assert stamps(out / "masks") == before


def test_bad_input_ends_in_one_line(
    world: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    def refused(data: Path, *flags: object) -> str:
        return fails(capsys, "label", data, "--out", tmp_path / "run", *FLAGS, *flags)

    assert "none of 9 photos has one: give --saliency FOLDER" in refused(world, "--background", "saliency-rule")
    refined = refused(mixed, "--background", "saliency-rule", "--refine", "crf")
    assert "--refine crf would move them: use --refine none" in refined
    assert not (tmp_path / "run").exists()
    lone = tmp_path / "lone"
    shutil.copytree(world, lone)
    lines = (lone / "tags.csv").read_text().splitlines()
    few = [lines[0]] + [line for line in lines[1:] if "bar" not in line or line.startswith("photo01")]
    (lone / "tags.csv").write_text("\n".join(few) + "\n")
    assert "has a single photo of bar (photo01): add photos" in refused(lone)
    assert not (tmp_path / "run").exists()  # nothing half-written
    assert "leave out --freeze" in refused(mixed, "--freeze", "--mcis.self-pairs")
    said = refused(mixed, "--backbone", "resnet10t", "--weights", checkpoint)
    assert "of this backbone's tensors" in said
    assert not list((tmp_path / "run").rglob("model*"))
    assert "tag2mask: --epochs is -1: it must be at least 0 and at most 1000000" in refused(mixed, "--epochs", "-1")
    assert "a training of 0 epochs: it must be above 0" in refused(mixed, "--epochs", "0")


def test_other_tags_for_the_same_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script that makes the data sets of the comparison."""
    import importlib.util

    from tag2mask import data

    path = Path(__file__).parents[1] / "benchmarks" / "tags.py"
    spec = importlib.util.spec_from_file_location("tags", path)
    assert spec is not None and spec.loader is not None
    tags = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tags)

    (tmp_path / "all" / "images").mkdir(parents=True)
    lines = ["image,tags,split"]
    for index in range(44):
        Image.new("RGB", (3, 2)).save(tmp_path / "all" / "images" / f"{index}.png")
        shown = {"abcde"[index % 5], "abcde"[index // 5 % 5]}
        lines.append(f"{index}.png,{';'.join(sorted(shown))},{'train' if index < 40 else 'val'}")
    (tmp_path / "all" / "tags.csv").write_text("\n".join(lines) + "\n")
    elsewhere = data.DataSettings(images=tmp_path / "all" / "images")

    told = {s.id: s.labels or frozenset() for s in data.load(tmp_path / "all").samples}
    changed = {}
    for name, flags, domain in (
        ("few", ["--corrupt", "0.1"], "web"),
        ("many", ["--corrupt", "0.3"], "web"),
        ("again", ["--corrupt", "0.3"], "web"),
        ("one", ["--single-label"], "single-label"),
    ):
        tags.main([str(tmp_path / "all"), "--out", str(tmp_path / name), *flags])
        new = list(data.load(tmp_path / name, elsewhere).samples)
        assert Counter(s.domain for s in new) == {"target": 20, domain: 20}
        found = {s.id: s.labels or frozenset() for s in new}
        changed[name] = {id for id, labels in found.items() if labels != told[id]}
        assert changed[name] and changed[name] <= {s.id for s in new if s.domain == domain}
        if name == "one":
            assert all(len(found[s.id]) == 1 and found[s.id] < told[s.id] | {9} for s in new if s.domain == domain)
        else:
            wrong = sum(len(labels - told[id]) for id, labels in found.items())
            assert wrong == round(float(flags[1]) * sum(map(len, told.values())))
            assert all(len(labels) == len(told[id]) for id, labels in found.items())
        assert len(data.load(tmp_path / name, elsewhere, "val").samples) == 4
    assert changed["few"] < changed["many"]
    assert (tmp_path / "again" / "tags.csv").read_bytes() == (tmp_path / "many" / "tags.csv").read_bytes()
    assert "20 of 40 photos are single-label: 0 tags lie" in capsys.readouterr().out
    with pytest.raises(InputError, match="tags cannot lie, the extra photos have"):
        tags.main([str(tmp_path / "all"), "--out", str(tmp_path / "x"), "--corrupt", "0.9"])
    assert not (tmp_path / "x").exists()
