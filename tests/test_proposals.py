"""Proposals of masks: what transformers' own classes give, parts exchanged by hand, the contract, a run, bad input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.refine import REFINERS, entries, proposals
from tag2mask.refine.check import check_refiner
from tag2mask.refine.proposals import MODELS, ProposalRefiner, Proposer, exchanged, overlap
from world import SMALL, fails, run

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
SIDE = 64


def tiny(name: str) -> Any:
    """The class of a name, of transformers, with random weights and photos of 64 pixels."""
    import transformers

    torch.manual_seed(0)
    prompt = {"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    }  # fmt: skip
    sizes = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16}
    if name == "edgetam":
        wrapped = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        trunk = transformers.TimmWrapperConfig(architecture="repvit_m0_9", model_args=wrapped)
        vision = transformers.EdgeTamVisionConfig(
            backbone_config=trunk, backbone_channel_list=[384, 192, 96, 48], **sizes
        )
        kind, config = transformers.EdgeTamModel, transformers.EdgeTamConfig
    elif name == "sam3":
        trunk = transformers.Sam3ViTConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE,
            patch_size=16, window_size=4, global_attn_indexes=[0], pretrain_image_size=SIDE,
        )  # fmt: skip
        vision = transformers.Sam3VisionConfig(backbone_config=trunk, **sizes)
        kind, config = transformers.Sam3TrackerModel, transformers.Sam3TrackerConfig
    else:
        trunk = transformers.Sam2HieraDetConfig(
            hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
            window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        )  # fmt: skip
        vision = transformers.Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8], **sizes)
        kind, config = transformers.Sam2Model, transformers.Sam2Config
    built = config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return kind(built).eval()


class Planted:
    """Proposes what it was told, in the place of a network."""

    side = SIDE

    def __init__(self, *logits: Tensor) -> None:
        self.logits, self.seen = logits, {}

    def propose(self, image: np.ndarray, **prompts: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = prompts
        rows = torch.stack([torch.stack(list(self.logits))] * len(prompts["boxes"]))
        return rows, torch.ones(rows.shape[:2])


# --- parts exchanged


def disc(row: float, column: float, radius: float, height: int = 24, width: int = 36) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def scores_of(part: Tensor, inside: float = 0.8) -> Tensor:
    """Background, the part's label, and a third that is nowhere."""
    own = torch.where(part, inside, 0.1)
    return torch.stack([0.9 - own, own, torch.full_like(own, 0.1)])


PHOTO = np.zeros((24, 36, 3), np.uint8)


def test_a_proposal_that_agrees_takes_the_place_of_the_part() -> None:
    part, better, far = disc(12, 12, 7), disc(12, 13, 6), disc(12, 30, 4)
    planted = Planted(*(torch.where(mask, 8.0, -8.0) for mask in (far, better)))
    refined = ProposalRefiner("sam2").of_photo(planted, PHOTO, scores_of(part))
    assert torch.equal(refined.argmax(0) == 1, better)
    torch.testing.assert_close(refined.sum(0), torch.ones(24, 36))
    outside = ~(part | better)
    torch.testing.assert_close(refined[:, outside], scores_of(part)[:, outside])
    assert planted.seen["boxes"].tolist() == [[6, 6, 18, 18]]  # left, top, right, bottom pixel of the part
    maps = planted.seen["mask_logits"]
    assert maps.shape == (1, 16, 16) and maps[0, 8, 5] > 1 and maps[0, 8, 14] < -9.9


def test_a_proposal_that_does_not_agree_changes_nothing() -> None:
    part = disc(12, 12, 7)
    planted = Planted(*(torch.where(mask, 8.0, -8.0) for mask in (disc(12, 30, 4), disc(12, 20, 8))))
    scores = scores_of(part)
    assert torch.equal(ProposalRefiner("sam2").of_photo(planted, PHOTO, scores), scores)
    assert torch.equal(
        ProposalRefiner("sam2").of_photo(planted, PHOTO, scores_of(part & False)), scores_of(part & False)
    )
    close = Planted(torch.where(disc(12, 20, 8), 8.0, -8.0))
    eager = ProposalRefiner("sam2", agreement=0.1).of_photo(close, PHOTO, scores)
    assert torch.equal(eager.argmax(0) == 1, disc(12, 20, 8))


def test_overlap_and_exchange_by_hand() -> None:
    part = torch.tensor([[True, True, False, False]])
    proposals_ = torch.tensor([[[True, False, False, False]], [[False, True, True, True]], [[False] * 4]])
    assert overlap(part, proposals_).tolist() == [0.5, 0.25, 0.0]
    scores = torch.tensor([[[0.2, 0.0, 0.6, 1.0]], [[0.6, 1.0, 0.2, 0.0]], [[0.2, 0.0, 0.2, 0.0]]])
    found = exchanged(scores, 1, part, torch.tensor([[0.5, 0.25, 0.75, 0.25]]))
    expected = torch.tensor([[[0.25, 0.75, 0.1875, 1.0]], [[0.5, 0.25, 0.75, 0.0]], [[0.25, 0.0, 0.0625, 0.0]]])
    torch.testing.assert_close(found, expected)


# --- with the real classes


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2", "edgetam", "sam3"])
def test_prompts_reach_the_network_as_its_own_processor_sends_them(name: str) -> None:
    """The oracle is transformers' processor, for a box and a point of a photo that is no square."""
    from transformers import Sam2ImageProcessor, Sam2Processor

    network = tiny(name)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    mean, deviation = MODELS[name].normalisation
    size = {"height": SIDE, "width": SIDE}
    processor = Sam2Processor(Sam2ImageProcessor(size=size, image_mean=mean, image_std=deviation), target_size=SIDE)
    inputs = processor(images=image, input_boxes=[[[6, 4, 30, 36]]], input_points=[[[[18, 20]]]], return_tensors="pt")
    with torch.no_grad():
        expected = network(**{k: v for k, v in inputs.items() if k != "original_sizes"})
    logits, scores = Proposer(network, MODELS[name].normalisation).propose(
        image, boxes=torch.tensor([[6.0, 4.0, 30.0, 36.0]]), points=torch.tensor([[[18.0, 20.0]]])
    )
    assert logits.shape == (1, 3, 40, 60) and scores.shape == (1, 3)
    torch.testing.assert_close(scores, expected.iou_scores[0], rtol=1e-2, atol=1e-3)
    grown = torch.nn.functional.interpolate(expected.pred_masks[0], (40, 60), mode="bilinear", align_corners=False)
    assert float((logits - grown).abs().mean()) < 0.02 * float(grown.abs().max())  # pixels resized by other code


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2", "edgetam", "sam3"])
def test_each_prompt_counts_by_itself_and_maps_count(name: str) -> None:
    proposer = Proposer(tiny(name))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    boxes = torch.tensor([[6, 4, 30, 36], [20, 10, 50, 30]])
    maps = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)) * 5
    both, _ = proposer.propose(image, boxes=boxes, mask_logits=maps)
    alone, _ = proposer.propose(image, boxes=boxes[1:], mask_logits=maps[1:])
    bare, _ = proposer.propose(image, boxes=boxes[1:])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
    assert float((alone - bare).abs().max()) > 1e-6
    proposer.propose(image, mask_logits=maps)


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("agreement", [0.5, 0.0])
def test_contract(monkeypatch: pytest.MonkeyPatch, agreement: float) -> None:
    """Also where every proposal is taken, but for what holds for proposals that agree."""
    proposer = Proposer(tiny("sam2"))
    monkeypatch.setattr(proposals, "loaded", lambda name: proposer)
    if agreement:
        check_refiner(lambda: ProposalRefiner("sam2", agreement), background=True)
        return
    from tag2mask.refine import check

    for one in (check.check_probabilities_in_and_out, check.check_input_is_left_alone,
                check.check_same_input_same_result, check.check_thin_images,
                check.check_a_photo_does_not_depend_on_its_batch):  # fmt: skip
        one(lambda: ProposalRefiner("sam2", agreement))


@needs_transformers
@pytest.mark.slow
def test_a_run_refined_by_proposals_says_so(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the small network saved as the real ones are, fetched by its own class from disk."""
    network = tiny("sam2")
    network.save_pretrained(tmp_path / "sam")
    monkeypatch.setitem(MODELS, "sam2", proposals.SamModel("Sam2Model", str(tmp_path / "sam"), "a small one"))
    proposals.loaded.cache_clear()
    out = tmp_path / "run"
    assert run("label", world, "--out", out, *SMALL, "--refine", "sam2") == 0
    proposals.loaded.cache_clear()
    passport = json.loads((out / "passport.json").read_text())
    assert passport["supervision"] == "I+M"
    assert passport["signals"] == ["image-level tags", REFINERS["sam2"].saw]
    rows = [row for row in passport["weights"] if row["network"] == "refiner"]
    assert [(row["source"], row["licence"]) for row in rows] == [("hub, facebook/sam2.1-hiera-small", "Apache-2.0")]
    assert len(list((out / "masks").glob("*.png"))) == 9


# --- what cannot be


@needs_transformers
@pytest.mark.slow
def test_without_a_hub_one_line_says_what_to_fetch(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    proposals.loaded.cache_clear()
    said = fails(capsys, "label", world, "--out", tmp_path / "run", *SMALL, "--refine", "sam2")
    assert "hf download facebook/sam2.1-hiera-small" in said and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_terms_are_told_where_there_are_some(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(model.terms for name, model in MODELS.items() if name != "sam3")
    pytest.importorskip("transformers")
    monkeypatch.setitem(MODELS, "sam3", proposals.SamModel("NoSuchModel", "nowhere", "", terms=MODELS["sam3"].terms))
    proposals.loaded.cache_clear()
    with (
        caplog.at_level("WARNING"),
        pytest.raises(InputError, match=r"needs NoSuchModel, which transformers .* has not"),
    ):
        proposals.loaded("sam3")
    assert "SAM License" in caplog.text


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else found(name, *rest)
    )
    with pytest.raises(InputError, match=r"--refine edgetam needs the package transformers.*tag2mask\[sam\]"):
        entries("edgetam")[0].check()


@needs_transformers
@pytest.mark.hub
@pytest.mark.slow
def test_the_real_network_agrees_with_its_own_proposal() -> None:
    """A proposal for a cat's face, given back as box and map, is proposed again."""
    import os

    if os.environ.get("HF_HUB_OFFLINE") != "0":
        pytest.skip("needs a hub: HF_HUB_OFFLINE=0 pytest -m hub")
    import skimage.data

    photo = skimage.data.chelsea()
    proposer = proposals.loaded("sam2")
    logits, scores = proposer.propose(photo, boxes=torch.tensor([[100.0, 20.0, 330.0, 260.0]]))
    best = logits[0, int(scores[0].argmax())]
    again, _ = proposer.propose(photo, boxes=torch.tensor([[100.0, 20.0, 330.0, 260.0]]), mask_logits=best[None])
    assert float(overlap(best > 0, again[0] > 0).max()) > 0.8
