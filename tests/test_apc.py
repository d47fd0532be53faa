"""APC: pooling and contrast against slow definitions and golden numbers, what gradients reach, labels on padding,
the single stage from tags to predictions, and what it says when it cannot."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from localizing import batch as batch_with
from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.errors import InputError
from tag2mask.files import read_jsonl
from tag2mask.layers import mosaic as mosaics
from tag2mask.layers.adaptive_pooling import adaptive_k
from tag2mask.layers.bilstm import HvBiLstm
from tag2mask.layers.mosaic import mosaic
from tag2mask.layers.online_labels import (
    OnlineScores,
    balanced_loss,
    best_labels,
    cells_inside,
    gate_and_rescale,
    online_scores,
    split_labels,
)
from tag2mask.layers.patch_contrast import patch_contrast
from tag2mask.methods import apc_settings, check
from tag2mask.methods.apc import (
    Apc,
    ApcSegmenter,
    Decoder,
    build,
    tag_loss,
    with_background,
)
from tag2mask.methods.apc_settings import ApcSettings
from tag2mask.methods.check import batch_of, check_method
from tag2mask.protocols import Segmenter
from tag2mask.pseudo import between_threshold, score_histogram
from tag2mask.recipes import RunSettings, recipe, settings_from
from tag2mask.refine import par
from tag2mask.settings import plain
from tag2mask.training import TrainSettings, fit, schedule
from tag2mask.types import BACKGROUND, IGNORE, Batch, LocalizationMaps, Losses, Photos
from trunks import fresh
from world import SMALL, redone, run, scene, stamps

RULES = ("ratio_to_max", "consecutive", "gap", "fixed", "max", "mean")


def portable(count: int, k: int) -> list[float]:
    """h(0..count-1, k) of the portable fill: integer arithmetic modulo 2^32."""
    found = []
    for j in range(count):
        x = ((j + 1 + 10007 * k) * 2654435761) & 0xFFFFFFFF
        x ^= x >> 16
        x = (x * 2246822519) & 0xFFFFFFFF
        found.append((x ^ (x >> 13)) / 2**32)
    return found


def filled(shape: tuple[int, ...], k: int) -> Tensor:
    return torch.tensor(portable(math.prod(shape), k), dtype=torch.float64).sub(0.5).reshape(shape)


def resnet(**options: Any) -> Backbone:
    return fresh(BackboneSettings("resnet10t", weights="none", output_stride=8, **options))


def vit(name: str = "vit_tiny_patch16_224") -> Backbone:
    return fresh(BackboneSettings(name, weights="none"))


def tiny() -> Backbone:
    """Learns colours in seconds: stride 4; its embeddings are as long as those of pretrained networks."""
    torch.manual_seed(0)
    stem, top, norm = nn.Conv2d(3, 32, 5, 4, 2), nn.Conv2d(32, 64, 3, 1, 1), nn.GroupNorm(1, 64)
    nn.init.constant_(norm.weight, 4.0)
    blocks = [("stem", nn.Sequential(stem, nn.ReLU())), ("top", nn.Sequential(top, norm, nn.ReLU()))]
    return Backbone(blocks, 64, 4, (0.5,) * 3, (0.5,) * 3, strides=(4, 4))


def small(**changes: Any) -> ApcSettings:
    return ApcSettings(
        **(
            {
                "min_share": 0.0,
                "decoder_width": 8,
                "decoder_dilation": 1,
                "dropout": 0.0,
                "weight_penalty": 0.01,
                "equivariance": 0.0,
            }
            | changes
        )
    )


def one(losses: object) -> Losses:
    assert isinstance(losses, Losses)
    return losses


def test_the_portable_fill() -> None:
    assert portable(4, 0) == [0.8072537314146757, 0.8237782551441342, 0.861783264670521, 0.17075217654928565]
    assert portable(3, 5) == [0.944686273811385, 0.020049348706379533, 0.7115436240565032]


# --- adaptive K -------------------------------------------------------------------------------------------------

Z = torch.tensor(
    [
        [0.95, 0.93, 0.90, 0.60, 0.58, 0.05, 0.04, 0.01],
        [0.10, 0.12, 0.11, 0.50, 0.09, 0.08, 0.07, 0.06],
        [0.30, 0.29, 0.10, 0.28, 0.05, 0.27, 0.02, 0.26],
    ],
    dtype=torch.float64,
)[None]


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("rule", "ratio", "counts", "means"),
    [
        ("ratio_to_max", 0.5, [5, 1, 5], [0.792, 0.5, 0.28]),
        ("ratio_to_max", 0.8, [3, 1, 5], [0.926666667, 0.5, 0.28]),
        ("ratio_to_max", 0.9, [3, 1, 4], [0.926666667, 0.5, 0.285]),
        ("ratio_to_max", 0.95, [2, 1, 2], [0.94, 0.5, 0.295]),
        ("consecutive", 0.9, [3, 1, 5], [0.926666667, 0.5, 0.28]),
        ("gap", 0.9, [5, 1, 5], [0.792, 0.5, 0.28]),
        ("max", 0.9, [1, 1, 1], [0.95, 0.5, 0.3]),
        ("fixed", 0.9, [3, 3, 3], [0.926666667, 0.243333333, 0.29]),
        ("mean", 0.9, [8, 8, 8], [0.5075, 0.14125, 0.19625]),
    ],
)
def test_golden_pooling(rule: Any, ratio: float, counts: list[int], means: list[float], precision: torch.dtype) -> None:
    pooled, count = adaptive_k(Z.to(precision), rule, ratio, top=3)
    assert count[0].tolist() == counts
    assert pooled[0].tolist() == pytest.approx(means, abs=1e-6)


def slow_k(
    scores: list[float], rule: str, ratio: float, top: int, least: int, most: int, share: float
) -> tuple[float, int]:
    """The definitions, one list at a time."""
    z, n = sorted(scores, reverse=True), len(scores)
    low, high = min(least, n), min(most or n, n)
    if rule != "fixed":
        low = min(max(low, math.ceil(share * n)), high)
    if rule in ("max", "mean"):
        k = 1 if rule == "max" else n
        return sum(z[:k]) / k, k
    if rule == "ratio_to_max":
        k = sum(value >= ratio * z[0] for value in z)
    elif rule == "consecutive":
        k = 1
        while k < n and z[k] >= ratio * z[k - 1]:
            k += 1
    elif rule == "gap":
        steps = {k: z[k - 1] - z[k] for k in range(low, min(high, n - 1) + 1)}
        k = min(steps, key=lambda k: (-steps[k], k)) if steps else low
    else:
        k = top
    k = max(low, min(high, k))
    return sum(z[:k]) / k, k


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pooling_is_its_definition(data: st.DataObject) -> None:
    batch, classes, patches = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    values = st.sampled_from([0.0, 0.0625, 0.125, 0.25, 0.28125, 0.5, 0.53125, 0.75, 1.0])  # ties, and exact in float32
    numbers = data.draw(st.lists(values, min_size=batch * classes * patches, max_size=batch * classes * patches))
    scores = torch.tensor(numbers).reshape(batch, classes, patches).requires_grad_()
    inside = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch * patches, max_size=batch * patches)))
    inside = inside.reshape(batch, patches)
    inside[:, data.draw(st.integers(0, patches - 1))] = True
    rule: Any = data.draw(st.sampled_from(RULES))
    ratio = data.draw(st.sampled_from([0.25, 0.5, 0.875, 1.0]))
    least = data.draw(st.integers(1, 4))
    most = data.draw(st.sampled_from([0, least, least + 2]))
    top = data.draw(st.integers(least, most or 6))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.125, 0.3, 0.5, 1.0]))
    pooled, count = adaptive_k(scores, rule, ratio, top, least, most, inside, share)
    order = torch.randperm(patches, generator=torch.Generator().manual_seed(0))
    again, _ = adaptive_k(scores[:, :, order], rule, ratio, top, least, most, inside[:, order], share)
    torch.testing.assert_close(pooled, again)
    (gradient,) = torch.autograd.grad(pooled.sum(), scores)
    for b in range(batch):
        for c in range(classes):
            those = scores[b, c, inside[b]].tolist()
            mean, k = slow_k(those, rule, ratio, top, least, most, share)
            assert int(count[b, c]) == k and float(pooled[b, c].detach()) == pytest.approx(mean, abs=1e-6)
            assert sum(those) / len(those) - 1e-6 <= float(pooled[b, c].detach()) <= max(those) + 1e-6
            assert not gradient[b, c, ~inside[b]].any()
            given_ = gradient[b, c].nonzero()[:, 0]
            assert len(given_) == k and torch.allclose(gradient[b, c, given_], torch.tensor(1 / k))


def test_limits_of_the_rules() -> None:
    distinct = torch.linspace(0.1, 0.9, 7)[None, None]
    equal = torch.full((1, 2, 7), 0.25)
    for rule in ("ratio_to_max", "consecutive"):
        assert adaptive_k(distinct, rule, 1.0)[1].item() == 1 and adaptive_k(equal, rule, 0.9)[1].tolist() == [[7, 7]]
        assert adaptive_k(equal, rule, 0.9, max_patches=4)[1].tolist() == [[4, 4]]
        assert adaptive_k(torch.zeros(1, 1, 7), rule, 0.9)[1].item() == 7
    assert adaptive_k(equal, "gap", min_patches=2)[1].tolist() == [[2, 2]]
    torch.testing.assert_close(adaptive_k(Z, "fixed", top=1)[0], adaptive_k(Z, "max")[0])
    torch.testing.assert_close(adaptive_k(Z, "fixed", top=8)[0], adaptive_k(Z, "mean")[0])


def test_padding_is_no_step() -> None:
    """The gap from the last patch to the padding behind it is not one."""
    scores, inside = torch.tensor([[[0.5, 0.25, 0.125, 0.75, 0.75]]]), torch.tensor([[True, True, True, False, False]])
    for rule, count in (("gap", 1), ("consecutive", 1), ("ratio_to_max", 1), ("fixed", 3), ("mean", 3), ("max", 1)):
        pooled, found = adaptive_k(scores, rule, 0.9, inside=inside)  # type: ignore[arg-type]
        assert int(found) == count
        assert float(pooled) == pytest.approx(0.5 if count == 1 else 0.875 / 3)


def test_absent_classes_may_keep_their_best_patch() -> None:
    tags, inside = torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 2, 4, dtype=torch.bool)
    scores = Z.reshape(1, 3, 2, 4)
    same = Apc(tiny(), 2, small(single_stage=False, pooling="mean")).pool(scores, inside, tags)
    best = Apc(tiny(), 2, small(single_stage=False, pooling="mean", absent="max")).pool(scores, inside, tags)
    assert same[0].tolist() == pytest.approx([0.5075, 0.14125, 0.19625])
    assert best[0].tolist() == pytest.approx([0.5075, 0.5, 0.19625])


def test_tag_loss_by_hand() -> None:
    pooled, tags = torch.tensor([[0.9, 0.2, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    assert float(tag_loss(pooled, tags)) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 3, abs=1e-5)
    assert float(tag_loss(1 - tags, tags)) == pytest.approx(-math.log(1e-7), rel=0.02)  # finite


# --- contrast ---------------------------------------------------------------------------------------------------


def slow_contrast(
    embeddings: Tensor, scores: Tensor, present: Tensor, confidence: float, inside: Tensor, scope: str
) -> Tensor:
    """Pair by pair."""
    batch, _, patches = scores.shape
    places = [(b, i) for b in range(batch) for i in range(patches) if inside[b, i]]
    groups = [[p for p in places if p[0] == b] for b in range(batch)] if scope == "image" else [places]
    terms = []
    for number, group in enumerate(groups):
        shown = present[number] if scope == "image" else present.any(0)
        for c in shown.nonzero()[:, 0].tolist():
            high = [p for p in group if scores[p[0], c, p[1]] > confidence and present[p[0], c]]
            low = [p for p in group if scores[p[0], c, p[1]] < 1 - confidence]
            s = lambda p, q: (1 + F.cosine_similarity(embeddings[p[0], :, p[1]], embeddings[q[0], :, q[1]], 0)) / 2  # noqa: E731
            pulled = [1 - s(p, q) for p in high for q in high if p != q]
            pushed = [s(p, q) for p in high for q in low]
            parts = [torch.stack(each).mean() for each in (pulled, pushed) if each]
            terms.append(torch.stack(parts).sum() if parts else embeddings.sum() * 0)
    return torch.stack(terms).mean()


def test_golden_contrast() -> None:
    embeddings = (filled((40, 8), 130) + 0.3).T[None]
    scores = torch.softmax(14 * filled((40, 4), 131), 1).T[None]
    present = torch.tensor([[True, True, False, True]])
    loss, confident = patch_contrast(embeddings, scores, present, 0.85)
    assert float(loss) == pytest.approx(0.8804454901, abs=1e-6) and int(confident) == 5 + 1 + 13
    assert (scores < 1 - 0.85).sum(2)[0, [0, 1, 3]].tolist() == [22, 31, 22]
    assert float(patch_contrast(embeddings, scores, present, 0.7)[0]) == pytest.approx(0.8753029966, abs=1e-6)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize("confidence", [0.5, 0.7, 0.95])
def test_contrast_and_its_gradient_are_the_pairs(scope: Any, confidence: float) -> None:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(3, 5, 12, generator=generator).requires_grad_()
    scores = torch.randn(3, 3, 12, generator=generator).mul(3).softmax(1).requires_grad_()
    present = torch.tensor([[True, True, False], [False, True, False], [True, False, False]])
    inside = torch.rand(3, 12, generator=generator) < 0.8
    loss, _ = patch_contrast(embeddings, scores, present, confidence, scope, inside)
    expected = slow_contrast(embeddings.double(), scores, present, confidence, inside, scope)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert loss.grad_fn is not None
    (found,) = torch.autograd.grad(loss, embeddings)
    (wanted,) = torch.autograd.grad(expected, embeddings)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert found.abs().sum() > 0 and not found[:, :, :][~inside[:, None].expand_as(found)].any()


def test_scores_say_which_patches_and_learn_nothing() -> None:
    embeddings, scores = torch.randn(1, 4, 6, requires_grad=True), torch.full((1, 2, 6), 0.9, requires_grad=True)
    loss, _ = patch_contrast(embeddings, scores, torch.ones(1, 2, dtype=torch.bool), 0.8)
    loss.backward()
    assert embeddings.grad is not None and scores.grad is None


def test_no_confident_patch_is_no_loss_and_a_zero_embedding_no_trouble() -> None:
    embeddings = torch.randn(2, 4, 6)
    embeddings[:, :, 0] = 0
    embeddings.requires_grad_()
    present = torch.ones(2, 3, dtype=torch.bool)
    loss, confident = patch_contrast(embeddings, torch.full((2, 3, 6), 1 / 3), present, 0.85)
    assert float(loss.detach()) == 0 and int(confident) == 0
    sure = torch.tensor([0.9, 0.05, 0.05])[None, :, None].expand(2, 3, 6)
    loss, confident = patch_contrast(embeddings, sure, present, 0.85)
    loss.backward()
    assert int(confident) == 12 and torch.isfinite(loss) and torch.isfinite(embeddings.grad).all()
    nobody, _ = patch_contrast(embeddings, sure, torch.zeros(2, 3, dtype=torch.bool), 0.85)
    assert float(nobody.detach()) == 0


def test_a_cap_draws_some_unconfident_patches() -> None:
    embeddings = torch.randn(1, 4, 30, generator=torch.Generator().manual_seed(0))
    scores = torch.full((1, 1, 30), 0.01)
    scores[0, 0, 0] = 0.99
    present = torch.ones(1, 1, dtype=torch.bool)
    exact = float(patch_contrast(embeddings, scores, present, 0.85)[0])
    unit = F.normalize(embeddings[0], dim=0)
    singles = ((1 + unit[:, 1:].T @ unit[:, 0]) / 2).tolist()
    found = []
    for seed in range(300):
        torch.manual_seed(seed)
        found.append(float(patch_contrast(embeddings, scores, present, 0.85, low_cap=1)[0]))
    assert all(min(abs(f - s) for s in singles) < 1e-5 for f in found) and len({round(f, 4) for f in found}) > 20
    assert np.mean(found) == pytest.approx(exact, abs=0.06)
    assert float(patch_contrast(embeddings, scores, present, 0.85, low_cap=29)[0]) == pytest.approx(exact, abs=1e-6)


# --- labels -----------------------------------------------------------------------------------------------------


def test_golden_merge() -> None:
    scores = torch.softmax(4 * filled((1, 3, 3, 4), 110), 3).permute(0, 3, 1, 2)
    merged = gate_and_rescale(scores, torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
    assert merged[0, :, 0, 0].tolist() == pytest.approx([0.4183622177, 0, 0.3625086322, 0.2191291501], abs=1e-9)
    torch.testing.assert_close(merged.sum(1), torch.ones(1, 3, 3, dtype=torch.float64))


def test_merge_leaves_padding_out() -> None:
    scores = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    inside = torch.ones(2, 4, 5, dtype=torch.bool)
    inside[:, :, 3:] = False
    tags = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    merged = gate_and_rescale(scores, tags, inside)
    torch.testing.assert_close(merged[..., :3], gate_and_rescale(scores[..., :3], tags))
    assert not merged[..., 3:].any() and (merged[1, 0, :, :3] == 1).all()


def test_labels_are_those_of_par_photo_by_photo() -> None:
    """Packed to the present classes and refined together, as each photo alone with its own classes."""
    torch.manual_seed(0)
    images, scores = torch.rand(3, 3, 24, 36), torch.rand(3, 5, 6, 9)
    tags = torch.tensor([[1.0, 0, 0, 1, 1], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    merged = gate_and_rescale(scores, tags)
    valid = torch.ones(3, 24, 36, dtype=torch.bool)
    found = best_labels(online_scores(merged, tags, valid, (12, 18), images), 0.45)
    for b in range(3):
        present = tags[b].nonzero()[:, 0]
        image = F.interpolate(images[b : b + 1], (12, 18), mode="bilinear")[0].permute(1, 2, 0)
        grown = F.interpolate(merged[b : b + 1, present], (12, 18), mode="bilinear")[0]
        refined = par(image, grown)
        refined = refined / refined.sum(0)
        best, which = refined.max(0)
        expected = torch.where(best >= 0.45, present[which], IGNORE)
        sure = (best - 0.45).abs() > 1e-4
        assert torch.equal(found[b][sure], expected[sure]) and sure.float().mean() > 0.98
    assert set(found[0].unique().tolist()) <= {0, 3, 4, IGNORE} and set(found[1].unique().tolist()) <= {0, 2, IGNORE}
    assert (found[0] == IGNORE).any() and not found[2].any()


@pytest.mark.parametrize("refined", [False, True])
def test_labels_on_padding_are_ignored_and_padding_moves_nothing(refined: bool) -> None:
    torch.manual_seed(0)
    images, scores, tags = torch.rand(1, 3, 32, 64), torch.rand(1, 3, 8, 16), torch.ones(1, 3)
    valid = torch.ones(1, 32, 64, dtype=torch.bool)
    valid[:, :, 37:] = False
    images[:, :, :, 37:] = 0
    labels = []
    for noise in (0.0, 1.0):
        scores[..., 12:] = noise
        merged = gate_and_rescale(scores, tags, cells_inside(valid, (8, 16)))
        labels.append(best_labels(online_scores(merged, tags, valid, (16, 32), images if refined else None), 0.34))
    assert torch.equal(*labels)
    assert (labels[0][:, :, 18:] == IGNORE).all() and (labels[0][:, :, :18] != IGNORE).float().mean() > 0.9


def test_padding_does_not_seep_in() -> None:
    """Scores of another class on padding of the same colour reach no pixel of the photo."""
    images, tags, valid = torch.zeros(1, 3, 32, 64), torch.ones(1, 2), torch.ones(1, 32, 64, dtype=torch.bool)
    valid[:, :, 32:] = False
    scores = torch.zeros(1, 2, 32, 64)
    scores[:, 0, :, :32], scores[:, 1, :, 32:] = 1, 1
    labels = best_labels(online_scores(scores, tags, valid, (32, 64), images), 0.99)
    assert (labels[:, :, :32] == 0).all() and (labels[:, :, 32:] == IGNORE).all()


def test_the_scores_on_padding_do_not_move_a_batchs_labels() -> None:
    method, batch = build(resnet(), 4, small()).eval(), batch_of(height=64, width=96)
    batch.valid[:, :, 48:] = False
    batch.images[:, :, :, 48:] = 0
    with torch.no_grad():
        forward = method.forward_batch(batch, 1.0)
        assert isinstance(method, ApcSegmenter) and forward.inside.any(1)[0].tolist() == [True] * 6 + [False] * 6
        labels = method.labels(batch, forward)
        scores = torch.where(forward.inside[:, None], forward.scores, 100 * forward.scores.flip(1))
        assert torch.equal(labels, method.labels(batch, forward._replace(scores=scores)))
    assert (labels[:, :, 24:] == IGNORE).all() and (labels[:, :, :24] != IGNORE).any()


def test_the_threshold_decides_what_is_ignored() -> None:
    scores = torch.tensor([0.7, 0.3])[None, :, None, None].expand(1, 2, 3, 4)
    tags, valid = torch.ones(1, 2), torch.ones(1, 6, 8, dtype=torch.bool)
    refined = online_scores(scores, tags, valid, (6, 8))
    assert (best_labels(refined, 0.69) == BACKGROUND).all() and (best_labels(refined, 0.71) == IGNORE).all()


def test_the_confidence_of_the_settings_decides_what_is_ignored() -> None:
    batch = batch_of(height=64, width=96)
    ignored = []
    for confidence in (0.01, 0.99):
        method = build(resnet(), 4, small(label_rule="best", label_confidence=confidence)).eval()
        assert isinstance(method, ApcSegmenter)
        with torch.no_grad():
            ignored.append((method.labels(batch, method.forward_batch(batch, 1.0)) == IGNORE).float().mean())
    assert ignored[0] == 0 and ignored[1] > 0.5


def test_split_labels_by_hand() -> None:
    """Threshold 0.4 and a quarter around it: classes above 0.5, background below 0.3, the order of the labels shown."""
    best = torch.tensor([[0.0, 0.29, 0.31], [0.49, 0.51, 0.9]])
    first = torch.stack([1 - best, best, torch.zeros(2, 3)])  # shows 0, 3
    second = torch.stack([1 - best, best / 3, best])  # shows 0, 1, 4; its labels add up to more, which does not matter
    whole = torch.ones(2, 2, 3, dtype=torch.bool)
    whole[1, 0, 0] = False
    refined = OnlineScores(torch.stack([first, second]), torch.tensor([[0, 3, 1], [0, 1, 4]]), whole)
    found = split_labels(refined, 0.4, 0.25)
    assert found[0].tolist() == [[0, 0, IGNORE], [IGNORE, 3, 3]]
    assert found[1].tolist() == [[IGNORE, 0, IGNORE], [IGNORE, 4, 4]]
    nothing = OnlineScores(torch.ones(1, 1, 2, 3), torch.zeros(1, 1, dtype=torch.int64), whole[:1])
    assert not split_labels(nothing, 0.4, 0.25).any()  # photos without a class are background


def test_the_threshold_between_online_scores_is_that_of_maps() -> None:
    """The running histogram is the pseudo masks', photo by photo, forgetting; its threshold theirs."""
    method, maps = build(resnet(), 4, small(label_rule="split", refine="none")).train(), []
    assert isinstance(method, ApcSegmenter)
    batches = [batch_of(height=64, width=96), batch_of(height=64, width=96)]
    batches[1].images.neg_()
    batches[1].valid[0, :, 48:] = False
    for batch in batches:
        with torch.no_grad():
            forward = method.forward_batch(batch, 1.0)
            labels = method.labels(batch, forward)
        merged = gate_and_rescale(forward.scores, forward.tags, forward.inside)
        refined = online_scores(merged, forward.tags, batch.valid, (32, 48))
        best = refined.scores[:, 1:].amax(1)
        maps.append([best[b][refined.whole[b]] for b in range(len(best))])
    old, new = (
        len(photos) * score_histogram(LocalizationMaps("", (0,), x[None, None].numpy(), (1, x.numel())) for x in photos)
        for photos in maps
    )
    expected = 0.98 * old + new
    np.testing.assert_allclose(method.histogram.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(labels, split_labels(refined, between_threshold(expected), 0.2))
    kept = method.histogram.clone()
    again = method.eval().labels(batches[1], forward)
    assert torch.equal(method.histogram, kept) and again.shape == labels.shape  # only training moves it


def test_balanced_loss_by_hand() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 6, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 6))
    labels[0, :2] = IGNORE
    logp = logits.log_softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
    background, foreground = labels == 0, (labels == 1) | (labels == 2)
    expected = -(logp[background].mean() + logp[foreground].mean()) / 2
    torch.testing.assert_close(balanced_loss(logits, labels), expected)
    only = torch.where(foreground, IGNORE, labels)
    torch.testing.assert_close(balanced_loss(logits, only), -logp[background].mean() / 2)
    nothing = balanced_loss(logits, torch.full_like(labels, IGNORE))
    nothing.backward()
    assert float(nothing.detach()) == 0 and not logits.grad.any()


def test_the_narrowest_photo_has_cells() -> None:
    valid = torch.zeros(2, 64, 64, dtype=torch.bool)
    valid[0, :, 30:34] = True  # an eighth of two columns of cells
    valid[1, :40] = True
    cells = cells_inside(valid, (4, 4))
    assert cells[0].any(0).tolist() == [False, True, True, False]
    assert cells[1].all(1).tolist() == [True, True, True, False]


# --- gradients --------------------------------------------------------------------------------------------------


def reached(method: nn.Module) -> set[str]:
    """First names of the parameters that got a gradient, the backbone's by block."""
    found = set()
    for name, parameter in method.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            found.add(name.split(".")[2] if name.startswith("backbone.") else name.split(".")[0])
    return found


BLOCKS = {"stem", "layer1", "layer2", "layer3", "layer4"}


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("classification", BLOCKS | {"classifier", "context"}),
        ("contrast", BLOCKS | {"context"}),
        ("weight_penalty", {"classifier"}),
        ("equivariance", BLOCKS | {"classifier", "context"}),
        ("segmentation", BLOCKS | {"decoder"}),
    ],
)
def test_a_term_teaches_what_it_should_and_nothing_else(term: str, expected: set[str]) -> None:
    method = build(resnet(), 4, small(context="hv_bilstm", context_width=4, equivariance=1.0, confidence=0.15)).train()
    losses = one(method.losses(batch_of(height=64, width=96), 0.5))
    assert set(losses) == {"classification", "contrast", "weight_penalty", "equivariance", "segmentation"}
    losses[term].backward()
    assert reached(method) == expected


def test_contrast_on_the_encoder_passes_the_context_by() -> None:
    options = {"context": "hv_bilstm", "context_width": 4, "confidence": 0.15, "contrast_on": "encoder"}
    method = build(resnet(), 4, small(**options)).train()
    one(method.losses(batch_of(height=64, width=96), 0.0))["contrast"].backward()
    assert reached(method) == BLOCKS


def test_no_gradient_comes_through_the_labels() -> None:
    """The decoder's loss is that of constant labels: the same gradients, to the bit."""
    batch, gradients = batch_of(height=64, width=96), []
    for constant in (False, True):
        method = build(resnet(), 4, small(presence=True)).train()
        if constant:
            forward = method.forward_batch(batch, 0.5)
            labels = method.labels(batch, forward).clone()
            method.labels = lambda *_, fixed=labels: fixed
        one(method.losses(batch, 0.5))["segmentation"].backward()
        assert method.classifier.weight.grad is None
        gradients.append({n: p.grad for n, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_no_gradient_goes_to_what_the_mosaic_is_compared_with() -> None:
    """Again as with constants: only the mosaic's own pass teaches."""
    method, batch = build(resnet(), 4, small(single_stage=False, equivariance=1.0)).train(), batch_of(4, 64, 96)
    forward = method.forward_batch(batch, 0.0)
    torch.manual_seed(3)
    loss = method._equivariance(batch, forward, 0.0)
    assert torch.autograd.grad(loss, forward.scores, allow_unused=True, retain_graph=True)[0] is None
    torch.manual_seed(3)
    with torch.no_grad():
        wanted = gate_and_rescale(forward.scores, forward.tags, forward.inside)
        images, wanted, weight = mosaic(batch.images, wanted, forward.inside)
    found = method.patch_scores(method.backbone(images))
    torch.testing.assert_close(loss, (-(wanted * found.log()).sum(1) * weight).sum() / weight.sum())


def test_new_layers_may_learn_first_and_blocks_stay_fixed() -> None:
    batch = batch_of(height=64, width=96)
    method = build(
        resnet(), 4, small(heads_first=0.3, fixed_until="layer2", segmentation_from=0.0, equivariance=1.0)
    ).train()
    one(method.losses(batch, 0.2)).total().backward()
    assert reached(method) == {"classifier", "decoder"}
    one(method.losses(batch, 0.3)).total().backward()
    assert reached(method) == {"layer3", "layer4", "classifier", "decoder"}


def test_position_embeddings_learn_only_if_asked() -> None:
    for learn in (False, True):
        method = build(vit(), 3, small(learn_positions=learn))
        learning = {n for n, p in method.named_parameters() if p.requires_grad}
        assert any(n.endswith("pos_embed") for n in learning) == learn and any("block3" in n for n in learning)


def test_the_decoder_waits_for_its_turn() -> None:
    method = build(resnet(), 4, small(segmentation_from=0.25)).train()
    assert "segmentation" not in one(method.losses(batch_of(), 0.24))
    assert "segmentation" in one(method.losses(batch_of(), 0.25))
    assert "contrast" not in one(build(resnet(), 4, small(contrast=0.0)).losses(batch_of(), 0.0))


# --- equivariance -----------------------------------------------------------------------------------------------


def test_a_mosaic_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformation each quarter is a photo at half its size, each photo once."""
    monkeypatch.setattr(mosaics, "_placement", lambda: torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    images, maps = torch.rand(4, 3, 16, 24), torch.rand(4, 2, 4, 6)
    inside = torch.ones(4, 4, 6, dtype=torch.bool)
    inside[2, :, 4:] = False
    pictures, moved, weight = mosaic(images, maps, inside)
    halved, thinned = F.avg_pool2d(images, 2), F.avg_pool2d(maps, 2)
    assert pictures.shape == (1, 3, 16, 24) and moved.shape == (1, 2, 4, 6)
    places = [(slice(0, 8), slice(0, 12)), (slice(0, 8), slice(12, 24)), (slice(8, 16), slice(0, 12)),
              (slice(8, 16), slice(12, 24))]  # fmt: skip
    for photo, (y, x) in enumerate(places):
        torch.testing.assert_close(pictures[0, :, y, x], halved[photo])
        cells = slice(y.start // 4, y.stop // 4), slice(x.start // 4, x.stop // 4)
        torch.testing.assert_close(moved[0, :, cells[0], cells[1]], thinned[photo])
    expected = torch.ones(4, 6)
    expected[2:, 2] = 0  # the last third of the third photo is padding
    assert torch.equal(weight[0], expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([(6, 8), (5, 7), (1, 4), (2, 1)]))
def test_maps_move_with_their_photos(seed: int, batch: int, grid: tuple[int, int]) -> None:
    """Whatever is drawn: cells of the moved map are the means of the moved picture, for a picture smooth enough."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows * 8) / (rows * 8), torch.arange(columns * 8) / (columns * 8), indexing="ij")
    photos = torch.stack([torch.stack([y, x, y * 0 + b]) for b in range(batch)]).float()
    maps = F.avg_pool2d(photos, 8)
    torch.manual_seed(seed)
    pictures, moved, weight = mosaic(photos, maps, torch.ones(batch, rows, columns, dtype=torch.bool))
    assert len(pictures) == -(-batch // 4)
    seen = weight > 0
    error = (F.avg_pool2d(pictures, 8) - moved).abs().amax(1)[seen]
    if len(error) and min(grid) > 2:
        assert error.max() < 1.2 / min(grid)  # a cell's width: nothing is mirrored or turned by mistake
    numbers = moved[:, 2][seen]
    assert not len(numbers) or (numbers - numbers.round()).abs().max() < 1e-4  # no two photos mix


def test_equivariance_is_zero_for_a_classifier_that_is_sure_and_right() -> None:
    """Of predictions that do not depend on the place, the mosaic asks for what the photos have."""
    method = build(resnet(), 2, small(single_stage=False, equivariance=1.0)).train()
    batch = replace(batch_of(4, height=64, width=96), labels=batch_of(4).labels[:, :2])
    nn.init.zeros_(method.classifier.weight)
    loss = one(method.losses(batch, 0.0))["equivariance"]
    assert float(loss.detach()) == pytest.approx(math.log(3), abs=1e-4)  # uniform predictions


# --- parts ------------------------------------------------------------------------------------------------------


def test_sizes_of_the_published_parts() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    context = HvBiLstm(768, 192)
    assert count(context.rows) == count(context.columns) == 1_477_632
    assert count(Decoder(768, 21, 512, 5)) == 5_908_992
    method = build(vit(), 20, ApcSettings(context="hv_bilstm"))
    assert method.classifier.weight.shape == (21, 768, 1, 1) and method.classifier.bias is None
    assert float(method.classifier.weight.detach().std()) == pytest.approx(0.05, rel=0.05)


def test_the_context_reads_along_rows_and_columns() -> None:
    torch.manual_seed(0)
    context = HvBiLstm(5, 3).eval()
    x = torch.randn(2, 5, 4, 6)
    changed = x.clone()
    changed[0, :, 1, 2] += 1
    with torch.no_grad():
        before, after = context(x), context(changed)
    assert before.shape == (2, 12, 4, 6)
    row, column = ((before - after)[0, part].abs().sum(0) > 0 for part in (slice(0, 6), slice(6, 12)))
    assert row[1].all() and row.sum() == 6 and column[:, 2].all() and column.sum() == 4
    line, _ = context.rows(x[1, :, 3].T[None])
    torch.testing.assert_close(before[1, :6, 3], line[0].T.detach())


def test_presence_weighs_classes_by_the_photos_scores() -> None:
    plain, weighed = (build(resnet(), 3, small(presence=p)).eval() for p in (False, True))
    weighed.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        a, b = plain.segment(Photos(images)).softmax(1), weighed.segment(Photos(images)).softmax(1)
        scores = plain.patch_scores(plain.backbone(images))
        shown, _ = adaptive_k(scores.flatten(2), "ratio_to_max", 0.9)
    torch.testing.assert_close(a[:, 0], b[:, 0], rtol=1e-4, atol=1e-5)
    expected = a[:, 1:] * shown[:, 1:, None, None]
    expected = expected / expected.sum(1, keepdim=True) * (1 - a[:, :1])
    torch.testing.assert_close(b[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_the_decoder_is_weighed_without_the_tags() -> None:
    """Absent classes may be pooled otherwise; a new photo's are not known."""
    method = build(resnet(), 3, small(absent="max", pooling="mean", segmentation_from=0.0)).eval()
    seen: list[Tensor] = []
    method._decode = lambda features, pooled: seen.append(pooled) or features[:, :4]
    batch = replace(batch_of(2, 64, 96), labels=batch_of(2).labels[:, :3])
    with torch.no_grad():
        method.losses(batch, 0.0)
        method.segment(batch)
    torch.testing.assert_close(seen[0], seen[1])
    assert (seen[0] - method.forward_batch(batch, 0.0).pooled).abs().max() > 1e-3


def test_localization_is_the_gated_merge() -> None:
    method = build(resnet(), 3, small()).eval()
    images, labels = torch.randn(2, 3, 64, 96), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    with torch.no_grad():
        maps = method.localize(batch_with(images, labels))
        scores = method.patch_scores(method.backbone(images))
    torch.testing.assert_close(maps, gate_and_rescale(scores, with_background(labels))[:, 1:])
    assert not maps[0, 1].any() and not maps[1, [0, 2]].any() and maps.max() <= 1


# --- the contract, other forms, other backbones -----------------------------------------------------------------

VARIANTS = [
    small(single_stage=False, pooling="gap", absent="max", heads_first=0.0),
    small(context="hv_bilstm", context_width=4, scope="batch", contrast_background=True, presence=False, low_cap=3),
]


@pytest.mark.parametrize("variant", [VARIANTS[0], *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[1:])])
def test_contract_of_the_other_forms(variant: ApcSettings) -> None:
    check_method(build, variant, resnet)


def test_contract_on_a_vit() -> None:
    def make(backbone: Backbone) -> Apc:
        return build(backbone, check.CLASSES, small())

    check.check_localize_shape_and_range(make, vit)
    check.check_stored_features_serve_as_well_as_photos(make, vit)
    check.check_gradients_reach_backbone_and_head(make, vit)


@pytest.mark.parametrize(
    ("name", "patch"),
    [("vit_tiny_patch16_224", 16), ("deit_tiny_distilled_patch16_224", 16), ("vit_small_patch14_dinov2", 14)],
)
def test_a_step_on_vits_of_any_patch(name: str, patch: int) -> None:
    options = {"context": "hv_bilstm", "context_width": 2, "equivariance": 1.0, "label_band": 0.0}
    method = build(vit(name), 3, small(**options)).train()
    images, labels = torch.randn(2, 3, 4 * patch, 5 * patch), torch.eye(3)[:2]
    valid = torch.ones(2, 4 * patch, 5 * patch, dtype=torch.bool)
    losses = one(method.losses(Batch(("a", "b"), images, labels, valid), 0.5))
    losses.total().backward()
    assert {"block0", "block11", "classifier", "context", "decoder"} <= reached(method)
    with torch.no_grad():
        assert method.eval().segment(Photos(images)).shape == (2, 4, 4, 5)


def test_only_the_single_stage_is_a_segmenter() -> None:
    assert isinstance(build(tiny(), 2, small()), Segmenter)
    assert not isinstance(build(tiny(), 2, small(single_stage=False)), Segmenter)
    assert RunSettings(method="apc", options=ApcSettings()).single_stage and not RunSettings().single_stage


@pytest.mark.slow
def test_autocast_keeps_scores_and_losses_in_full_precision() -> None:
    method = build(resnet(), 4, small(context="hv_bilstm", context_width=4, equivariance=1.0)).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = one(method.losses(batch_of(height=64, width=96), 0.5))
        forward = method.forward_batch(batch_of(), 0.5)
    assert forward.features.dtype == torch.bfloat16 and forward.scores.dtype == forward.pooled.dtype == torch.float32
    losses.total().backward()
    assert torch.isfinite(losses.total()) and reached(method) >= BLOCKS


# --- learning ---------------------------------------------------------------------------------------------------


class Scenes:
    """The small world's photos, straight from memory."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> tuple[str, np.ndarray, np.ndarray]:
        number = self.numbers[index]
        return f"scene{number}", *scene(number)

    def collate(self, items: Any) -> Batch:
        ids, images, truths = zip(*items, strict=True)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = torch.tensor([[float((truth == value).any()) for value in (1, 2)] for truth in truths])
        return Batch(tuple(ids), pixels, labels, torch.ones(len(ids), *truths[0].shape, dtype=torch.bool))


def quality(found: Tensor, truth: Tensor) -> float:
    """Mean IoU in percent."""
    parts = []
    for value in range(3):
        both, either = ((found == value) & (truth == value)).sum(), ((found == value) | (truth == value)).sum()
        parts.append(float(both) / float(either))
    return 100 * sum(parts) / 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ApcSegmenter, Path]:
    torch.manual_seed(0)
    method = build(tiny(), 2, small(decoder_width=16, equivariance=1.0, min_share=0.125))
    assert isinstance(method, ApcSegmenter)
    train = TrainSettings(epochs=25, batch_size=8, learning_rate=5e-3, head_lr_mult=1.0, precision="float32")
    folder = tmp_path_factory.mktemp("apc")
    fit(method, Scenes(range(24)), train, folder, seed=0, title="t")
    return method, folder


def test_the_loss_falls_and_the_decoder_learns(trained: tuple[ApcSegmenter, Path]) -> None:
    method, folder = trained
    lines = read_jsonl(folder / "log.jsonl")
    assert lines[-1]["classification"] < 0.2 * lines[0]["classification"]
    assert lines[-1]["segmentation"] < 0.2 * method.settings.segmentation  # a uniform guess: 1.1
    assert lines[-1]["contrast"] > 0
    unseen = Scenes(range(100, 112))
    items = [unseen.item(0, i) for i in range(12)]
    batch, truth = unseen.collate(items), torch.from_numpy(np.stack([t for _, _, t in items])).long()
    with torch.no_grad():
        logits = F.interpolate(method.segment(batch), truth.shape[1:], mode="bilinear")
        fresh = F.interpolate(build(tiny(), 2, small(decoder_width=16)).eval().segment(batch), truth.shape[1:])
    assert quality(logits.argmax(1), truth) > 70 > 45 > quality(fresh.argmax(1), truth)


def test_labels_are_better_than_the_patches_they_come_from(trained: tuple[ApcSegmenter, Path]) -> None:
    method, scenes = trained[0], Scenes(range(100, 112))
    items = [scenes.item(0, i) for i in range(12)]
    batch, truth = scenes.collate(items), torch.from_numpy(np.stack([t for _, _, t in items])).long()
    with torch.no_grad():
        forward = method.forward_batch(batch, 1.0)
        labels = method.labels(batch, forward)
        merged = gate_and_rescale(forward.scores, forward.tags)
        patches = F.interpolate(merged, truth.shape[1:], mode="bilinear").argmax(1)
    coarse = truth[:, ::2, ::2]
    decided = labels != IGNORE
    assert decided.float().mean() > 0.9
    assert quality(labels[decided], coarse[decided]) > quality(patches, truth) + 10


# --- no confident patch -----------------------------------------------------------------------------------------


def see(method: Apc, ids: tuple[str, ...]) -> None:
    method.losses(Batch(ids, torch.randn(len(ids), 3, 16, 24), torch.eye(2)[[0] * len(ids)],
                        torch.ones(len(ids), 16, 24, dtype=torch.bool)), 0.0)  # fmt: skip


def test_an_epoch_without_a_confident_patch_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    method = build(tiny(), 2, small(confidence=0.999)).train()
    see(method, ("a", "b"))
    see(method, ("c",))
    assert not caplog.messages  # the epoch is not over
    see(method, ("b", "c"))
    (said,) = caplog.messages
    assert "no patch of 3 photos, a whole epoch, scored above 0.999" in said and "--apc.confidence" in said
    assert "\n" not in said
    see(method, ("a",))
    see(method, ("b",))
    method.eval()
    assert len(caplog.messages) == 1


def test_the_end_of_the_training_ends_the_epoch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    method = build(tiny(), 2, small(confidence=0.999)).train()
    see(method, ("a", "b"))
    method.eval()
    assert len(caplog.messages) == 1
    method.eval()
    assert len(caplog.messages) == 1


def test_confident_patches_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    method = build(tiny(), 2, small(confidence=0.01)).train()
    for ids in (("a", "b"), ("c",), ("a", "c"), ("b",)):
        see(method, ids)
    method._monitor.confidence = 0.999
    method.settings = small(confidence=0.999)
    see(method, ("a",))  # a third epoch, cut short: it is no whole one
    method.eval()
    assert not caplog.messages


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"confidence": 1.0}, r"--apc\.confidence is 1: it must be above 0 and below 1$"),
        ({"confidence": -0.2}, r"--apc\.confidence is -0.2: it must be above 0 and below 1$"),
        ({"min_share": 1.5}, r"--apc\.min-share is 1.5: it must be at least 0 and at most 1$"),
        ({"label_band": 1.0}, r"--apc\.label-band is 1: it must be at least 0 and below 1$"),
        ({"label_confidence": 0.0}, r"--apc\.label-confidence is 0: it must be above 0 and below 1$"),
        ({"ratio": 1.5}, r"--apc\.ratio is 1.5: it must be above 0 and at most 1$"),
        ({"min_patches": 9, "max_patches": 4}, r"min-patches 9, apc\.max-patches 4 .* contradict each other"),
        ({"min_patches": 0}, r"--apc\.min-patches is 0: it must be at least 1"),
        ({"pooling": "fixed", "top": 6, "max_patches": 4}, r"max-patches 4 and apc\.top 6 contradict each other"),
        ({"contrast": -1.0}, r"--apc\.contrast is -1: it must be at least 0"),
        ({"segmentation_from": 1.0}, r"--apc\.segmentation-from is 1: it must be at least 0 and below 1$"),
        ({"decoder_width": 0}, r"--apc\.decoder-width is 0: it must be at least 1"),
        ({"weight_penalty": float("inf")}, r"--apc\.weight-penalty is inf: it must be at least 0"),
        ({"pooling": "ratio"}, r"unknown value of --apc\.pooling 'ratio': did you mean ratio_to_max"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        ApcSettings(**changes)
    assert "\n" not in str(raised.value)


def test_a_photo_smaller_than_a_patch() -> None:
    method = build(vit(), 2, small()).eval()
    with pytest.raises(InputError, match=r"a photo of 10x40 pixels is smaller than a patch of 16x16: enlarge it"):
        method.localize(batch_with(torch.randn(1, 3, 10, 40), torch.ones(1, 2)))
    with pytest.raises(InputError, match=r"a photo of 32x40 pixels is no whole number of patches of 16x16"):
        method.segment(Photos(torch.randn(1, 3, 32, 40)))
    with torch.no_grad():  # a CNN's cell takes what there is
        assert build(resnet(), 2, small()).eval().segment(Photos(torch.randn(1, 3, 5, 7))).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "vit_relpos_small_patch16_224", "mixer_s32_224"])
def test_a_vit_whose_position_embedding_cannot_be_resized(name: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}' cannot take photos of any size.*position embedding") as raised:
        vit(name)
    assert "\n" not in str(raised.value)


def test_blocks_to_fix_exist() -> None:
    with pytest.raises(InputError, match=r"unknown block of this backbone 'layer9'"):
        build(resnet(), 2, small(fixed_until="layer9"))


# --- recipes ----------------------------------------------------------------------------------------------------


def test_recipes_are_the_published_trainings() -> None:
    run = recipe("apc/e2e")
    steps = run.train.epochs * 10_582 / run.train.batch_size
    assert run.single_stage and run.augment.size == 448 and steps == pytest.approx(20_000, rel=1e-3)
    assert 6e-5 * schedule(1500, 20_000, run.train) == pytest.approx(5.59e-5, rel=1e-3)
    assert 6e-5 * schedule(749, 20_000, run.train) == pytest.approx(3e-5, rel=0.05)
    options: Any = run.options
    multi: Any = recipe("apc/multistage").options
    assert options.weight_penalty == multi.weight_penalty == 0.01
    assert options.min_share == multi.min_share == 0 and options.label_rule == "best"
    assert options.segmentation == 0.1 and options.segmentation_from * 20_000 == 2_000
    assert (
        options.equivariance == 0
        and options.decoder_width == 512
        and not options.presence
        and options.context == "none"
    )
    run = recipe("apc/multistage")
    options = run.options
    assert not run.single_stage and run.augment.size == 384 and run.localize.long_side == 960
    assert options.context == "hv_bilstm" and options.equivariance and options.fixed_until == "block6"
    names = build(vit(), 2, options).backbone.names
    assert names[names.index("block6") + 1 :] == ("block7", "block8", "block9", "block10", "block11", "norm")
    for name in ("apc/e2e", "apc/multistage"):
        assert settings_from(plain(recipe(name))) == recipe(name)


def test_every_guess_says_so() -> None:
    """Numbers the paper's text does not confirm are settings, and their line says it."""
    source = (
        Path(apc_settings.__file__)
        .read_text(encoding="utf-8")
        .split("class ApcSettings")[1]
        .split("def __post_init__")[0]
    )
    guesses = ("pooling", "ratio", "top", "min_patches", "max_patches", "absent", "contrast", "confidence", "scope",
               "contrast_background", "contrast_on", "context", "equivariance", "decoder_width", "segmentation",
               "segmentation_from", "label_rule", "label_confidence", "refine", "heads_first")  # fmt: skip
    told = {f.name: source.split(f"\n    {f.name}: ")[1].split('"""')[1].lower() for f in fields(ApcSettings)}
    for name in guesses:
        assert "unverified" in told[name], name
    for name in set(told) - set(guesses):
        assert any(w in told[name] for w in ("toco", "vit-pcm", "ours", "single", "maps only", "0: all")), name


# --- the pipeline -----------------------------------------------------------------------------------------------

FLAGS = (*SMALL, "--method", "apc", "--apc.decoder-width", "8", "--apc.weight-penalty", "0.01", "--refine", "none",
         "--inference.refine", "none")  # fmt: skip


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("apc-runs") / "run"
    assert run("train", world, "--out", out, *FLAGS) == 0
    return out


def test_the_trained_method_is_the_segmenter(finished: Path) -> None:
    assert "how apc is trained by default was chosen" in (finished / "report.html").read_text()
    stages = {p.name for p in finished.iterdir() if p.is_dir()}
    assert stages == {"images", "method", "maps", "masks", "predictions", "scores"}  # no segmenter, no relabelling
    (line,) = read_jsonl(finished / "method" / "log.jsonl")
    assert {"classification", "contrast", "equivariance", "segmentation", "weight_penalty"} <= set(line)
    scores = json.loads((finished / "scores" / "scores.json").read_text())
    assert set(scores) == {"tags", "maps", "masks", "sweep", "predictions"}
    assert "the method is the segmenter" in (finished / "report.html").read_text()
    assert len(list((finished / "maps").glob("*.npz"))) == len(list((finished / "masks").glob("*.png"))) == 9


def test_it_predicts_new_photos_and_reports(finished: Path, world: Path, tmp_path: Path) -> None:
    assert run("predict", finished, world / "images", "--out", tmp_path / "masks") == 0
    for path in (finished / "predictions").glob("*.png"):
        assert (tmp_path / "masks" / path.name).read_bytes() == path.read_bytes()
        assert np.asarray(Image.open(path)).shape == (48, 72)
    assert run("report", finished) == 0
    before = stamps(finished)
    assert run("train", world, "--out", finished, *FLAGS) == 0
    assert redone(before, stamps(finished)) == set()


def test_the_multistage_form_runs_the_ordinary_stages(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--apc.no-single-stage", "--apc.context", "hv_bilstm", "--relabel.rounds", "0")
    assert run("train", world, "--out", out, *FLAGS, "--apc.context-width", "4", *flags) == 0
    (line,) = read_jsonl(out / "method" / "log.jsonl")
    assert "contrast" in line and "segmentation" not in line
    assert (out / "segmenter" / "model.safetensors").exists() and len(list((out / "predictions").glob("*.png"))) == 3


def test_stored_features_carry_the_single_stage_too(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ("--freeze-until", "layer3", "--features.folder", tmp_path / "features")
    assert run("train", world, "--out", out, *FLAGS, *flags) == 0
    (line,) = read_jsonl(out / "method" / "log.jsonl")
    assert "segmentation" in line and "equivariance" not in line
    assert capsys.readouterr().err.count("stored features hold no photo") == 1
    assert len(list((out / "predictions").glob("*.png"))) == 3


def test_there_is_no_second_segmenter_for_the_oracle(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: Callable[..., tuple[object, ...]] = lambda *more: ("train", world, "--out", tmp_path / "run", *FLAGS, *more)  # noqa: E731
    for more, says in (
        (("--oracle-masks",), "--method apc is itself the segmenter: leave it out"),
        (("--apc.min-patches", "5", "--apc.max-patches", "2"), "apc.min-patches 5, apc.max-patches 2"),
        (("--apc.confidence", "1.2"), "--apc.confidence is 1.2"),
    ):
        assert run(*flags(*more)) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1 and said.startswith("tag2mask: ") and says in said
    assert not (tmp_path / "run").exists()
