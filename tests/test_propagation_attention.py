"""Maps moved along attention and tokens: the paper's steps in numpy, planted affinities, boxes, a run, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.backbones.attention import step
from tag2mask.backbones.tokens import TokenBlock
from tag2mask.localize import LocalizeSettings
from tag2mask.propagation import PropagationSettings, attend, of_attention, of_tokens
from tag2mask.propagation.attention import boxes
from tag2mask.refine.components import components
from tag2mask.types import LocalizationMaps
from vits import tiny_vit
from world import SMALL, fails, made_of, redone, run, stamps

LOCALIZE = LocalizeSettings(long_side=48, precision="float32")
SETTINGS = PropagationSettings(blocks=2)


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


# --- connected parts


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**63 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 0.9))
def test_parts_are_scipys(seed: int, rows: int, columns: int, share: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = np.random.default_rng(seed).random((rows, columns)) < share
    labels, found = components(mask)
    theirs, count = ndimage.label(mask, np.ones((3, 3)))
    assert len(found) == count and np.array_equal(labels > 0, mask)
    for part, (top, left, bottom, right) in enumerate(found, 1):
        mine = labels == part
        assert len(np.unique(theirs[mine])) == 1 and (theirs == theirs[mine][0]).sum() == mine.sum()
        assert (slice(top, bottom), slice(left, right)) == ndimage.find_objects(mine.astype(int))[0]


def test_boxes_by_hand() -> None:
    scores = np.zeros((5, 7), np.float32)
    scores[0, 0], scores[1, 2], scores[2, 1], scores[4, 6] = 0.3, 1.0, 0.5, 0.9
    expected = np.zeros((5, 7), bool)
    expected[1:3, 1:3], expected[4, 6] = True, True  # touching at a corner is one region
    assert np.array_equal(boxes(scores, 0.4), expected)
    assert not boxes(np.zeros((3, 3), np.float32), 0.4).any()


# --- affinities


def balanced(affinity: np.ndarray) -> np.ndarray:
    """As the published code writes it."""
    trans = affinity / affinity.sum(0, keepdims=True)
    trans = trans / trans.sum(1, keepdims=True)
    for _ in range(2):
        trans = trans / trans.sum(0, keepdims=True)
        trans = trans / trans.sum(1, keepdims=True)
    trans = (trans + trans.T) / 2
    return trans @ trans


@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_attention_of_the_last_blocks_without_prefix_tokens(blocks: int) -> None:
    backbone = tiny_vit(registers=4).eval()
    affinity = of_attention(backbone, photo(), LOCALIZE, PropagationSettings(blocks=blocks))
    assert affinity.shape == (1, 96, 8, 12)
    from tag2mask.propagation.affinities import view_of

    with torch.no_grad():
        x, seen = view_of(photo(), LOCALIZE, backbone), []
        for block in backbone.blocks.values():
            if isinstance(block, TokenBlock):
                x, heads = step(block, x)
                seen.append(heads.weights[0, :, 5:, 5:].double().mean(0).numpy())
            else:
                x = block(x)
    expected = balanced(np.mean(seen[-blocks:], 0))
    np.testing.assert_allclose(affinity[0].flatten(1).numpy(), expected, rtol=1e-3, atol=1e-6)
    sums = affinity[0].flatten(1).sum(1)
    assert float((sums - 1).abs().max()) < 0.1  # nearly doubly stochastic


def test_tokens_are_cosines() -> None:
    backbone = tiny_vit().eval()
    affinity = of_tokens(backbone, photo(), LOCALIZE, PropagationSettings(token_cosine=3.0))
    from tag2mask.propagation.affinities import view_of

    with torch.no_grad():
        cells = backbone(view_of(photo(), LOCALIZE, backbone))[0].flatten(1).T.double().numpy()
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    expected = balanced(np.maximum(0, cells @ cells.T) ** 3)
    np.testing.assert_allclose(affinity[0].flatten(1).numpy(), expected, rtol=1e-3, atol=1e-6)


# --- the step


def test_a_map_spreads_over_what_belongs_together_and_starts_from_its_boxes_alone() -> None:
    """Two groups of cells, left and right. The left class fills its group; its weak cell on the right, out of the
    box, moves nothing. Without boxes it would."""
    rows, columns = 4, 6
    left = (torch.arange(rows * columns) % columns) < 3
    group = (left[:, None] == left[None, :]).float() / 12
    scores = np.zeros((1, rows, columns), np.float16)
    scores[0, 1, 1], scores[0, 2, 4] = 1.0, 0.3
    maps = LocalizationMaps("a", (2,), scores, (40, 60))
    moved = attend(maps, group.unflatten(1, (rows, columns))[None], SETTINGS)
    assert moved.classes == (2,) and moved.size == (40, 60)
    np.testing.assert_allclose(moved.scores[0], left.view(rows, columns).float().numpy(), atol=2e-3)
    loose = attend(maps, group.unflatten(1, (rows, columns))[None], PropagationSettings(box=0.2)).scores[0]
    np.testing.assert_allclose(loose[:, 3:], 0.3, atol=2e-3)
    nothing = LocalizationMaps("a", (), np.zeros((0, 1, 1), np.float16), (40, 60))
    assert attend(nothing, group.unflatten(1, (rows, columns))[None], SETTINGS) is nothing


# --- runs


@pytest.mark.slow
def test_a_transformer_of_its_own_moves_maps_of_any_method(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [
        *SMALL,
        "--refine",
        "none",
        "--propagation.backbone",
        "tiny_vit_for_tests",
        "--propagation.weights",
        "none",
    ]
    assert run("label", world, "--out", out, *flags, "--propagate", "tokens") == 0
    made = made_of(out, "propagated")
    assert "propagation weights" in made["facts"] and made["reads"].keys() == {"maps"}
    before = stamps(out)
    assert run("label", world, "--out", out, *flags, "--propagate", "attention") == 0
    assert redone(before, stamps(out)) == {"propagated", "masks", "scores"}
    said = fails(capsys, "label", world, "--out", tmp_path / "other", *flags, "--propagate", "irn")
    assert "--propagation.backbone is of --propagate features, attention and tokens" in said
    said = fails(capsys, "label", world, "--out", tmp_path / "other", *SMALL, "--propagate", "attention")
    assert "--backbone resnet10t has no attention to read" in said and not (tmp_path / "other").exists()
