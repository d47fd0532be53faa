"""A refined mask that outgrows the maps is not believed: the photo keeps the unrefined one, and a report says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.files import read_jsonl
from tag2mask.pseudo import PseudoSettings, decide, decide_refined, index_mask
from tag2mask.recipes import RECIPES, recipe
from tag2mask.segment import refined
from world import SMALL, manifest, run


def covering(share: float) -> Tensor:
    """Probabilities of background and one class, which wins on this share of 10 x 10 pixels."""
    foreground = torch.full((100,), 0.2)
    foreground[: round(100 * share)] = 0.9
    return torch.stack([1 - foreground, foreground]).unflatten(1, (10, 10))


@pytest.mark.parametrize(
    ("before", "after", "most", "least", "believed"),
    [
        (0.4, 0.6, 1.5, 0.0, True),
        (0.4, 0.61, 1.5, 0.0, False),  # the refiner floods the photo
        (0.4, 1.0, 0.0, 0.0, True),  # always believed
        (0.4, 1.0, 0.0, 0.1, True),
        (0.4, 0.05, 1.5, 0.1, True),  # cut back
        (0.4, 0.03, 1.5, 0.1, False),  # next to nothing is left
        (0.4, 0.03, 0.0, 0.1, False),
        (0.4, 0.0, 1.5, 0.0, True),
        (0.0, 0.1, 1.5, 0.1, False),  # from nothing
        (0.0, 0.0, 1.0, 0.1, True),
    ],
)
def test_growth_is_limited_and_so_is_vanishing(
    before: float, after: float, most: float, least: float, believed: bool
) -> None:
    settings = PseudoSettings(max_growth=most, min_growth=least)
    mask, found = decide_refined("x", (3,), covering(before), covering(after), settings)
    assert found == believed
    expected = decide("x", (3,), covering(after if believed else before), settings)
    np.testing.assert_array_equal(mask.mask, expected.mask)


def test_undecided_pixels_are_no_area_of_objects() -> None:
    """Where the refiner only makes sure of what was unsure, objects grow, and the unsure mask is kept."""
    unsure = covering(0.4)
    unsure[:, 1:] = 0.5
    settings = PseudoSettings(margin=0.1, max_growth=1.5)
    assert decide_refined("x", (0,), unsure, covering(0.1), settings)[1]
    assert not decide_refined("x", (0,), unsure, covering(0.4), settings)[1]


def test_a_factor_below_one_is_none() -> None:
    with pytest.raises(InputError, match=r"--pseudo\.max-growth is 0\.5: give a factor of at least 1, or 0"):
        PseudoSettings(max_growth=0.5)


def masks(out: Path, stage: str = "masks") -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in (out / stage).glob("*.png")}


@pytest.mark.slow
def test_a_run_keeps_unrefined_masks_and_counts_them(world: Path, tmp_path: Path) -> None:
    runs = {
        "limited": ("--pseudo.max-growth", "1", "--pseudo.min-growth", "0"),
        "refined": ("--pseudo.max-growth", "0", "--pseudo.min-growth", "0"),
        "bare": ("--refine", "none"),
    }
    for name, flags in runs.items():
        assert run("label", world, "--out", tmp_path / name, *SMALL, "--threshold", "0.8", *flags) == 0
    limited, refined, bare = (masks(tmp_path / name) for name in runs)
    kept = {r["id"] for r in read_jsonl(tmp_path / "limited" / "masks" / ".stage" / "records.jsonl") if "refined" in r}
    grown = {name for name in bare if (refined[name] > 0).sum() > (bare[name] > 0).sum()}
    assert kept == grown and 0 < len(kept) < 9, "some grow, some do not"
    for name in limited:
        np.testing.assert_array_equal(limited[name], (bare if name in kept else refined)[name])
    assert manifest(tmp_path / "limited", "masks")["unrefined"] == len(kept)
    said = f"{len(kept)} of the 9 masks: the refined mask was much larger or smaller than its scores say"
    assert said in (tmp_path / "limited" / "report.html").read_text()
    assert "the refined mask was much larger" not in (tmp_path / "refined" / "report.html").read_text()


@pytest.mark.parametrize("name", [n for n in RECIPES if "/" in n or n in ("eps", "smaf")])
def test_refined_masks_are_always_believed_in_the_papers_recipes(name: str) -> None:
    small = name.endswith("-small") or name == "ppl/agree"
    assert small or recipe(name).pseudo.max_growth == recipe(name).pseudo.min_growth == 0


@pytest.mark.parametrize("least", [0.0, 0.1])
def test_a_new_photo_keeps_what_the_refiner_would_take_away(least: float) -> None:
    class Takes:
        """Leaves ``left`` of a hundred pixels of the object."""

        def __init__(self, left: int) -> None:
            self.left = left

        def refine(self, images: Tensor, scores: Tensor) -> Tensor:
            out = torch.tensor([0.9, 0.1])[:, None].expand(2, 400).clone()
            out[:, : self.left] = out[:, : self.left].flip(0)
            return out.reshape(1, 2, 20, 20)

    photo, probabilities = np.zeros((20, 20, 3), np.uint8), torch.full((2, 20, 20), 0.5)
    probabilities[1, :5], probabilities[0, :5] = 0.6, 0.4  # an object of a hundred pixels
    probabilities[1, 5:], probabilities[0, 5:] = 0.3, 0.7
    for left in (0, 9, 10, 100):
        found = refined(photo, probabilities, Takes(left), least)
        expected = 100 if least and left < 10 else left
        assert int((index_mask(found) > 0).sum()) == expected


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.endswith(("-small", "agree"))])
def test_the_limit_of_new_photos_is_that_of_training_photos(name: str) -> None:
    assert recipe(name).inference.min_growth == recipe(name).pseudo.min_growth


@pytest.mark.slow
def test_where_the_segmenter_loses_an_object_the_earlier_mask_stays(world: Path, tmp_path: Path) -> None:
    """With a limit of 1 every relabelled mask that is smaller is not believed; the others are the segmenter's."""
    for name, least in (("limited", "1"), ("free", "0")):
        flags = (
            "--pseudo.min-growth",
            least,
            "--pseudo.max-growth",
            "0",
            "--refine",
            "none",
            "--relabel.refine",
            "none",
        )
        assert run("train", world, "--out", tmp_path / name, *SMALL, *flags, "--relabel.rounds", "1") == 0
    first, free, limited = masks(tmp_path / "free"), *(masks(tmp_path / n, "masks-1") for n in ("free", "limited"))
    area = lambda mask: int(((mask > 0) & (mask < 255)).sum())  # noqa: E731
    lost = {name for name in first if area(free[name]) < area(first[name])}
    assert lost
    for name in first:
        np.testing.assert_array_equal(limited[name], (first if name in lost else free)[name])
    assert manifest(tmp_path / "limited", "masks-1")["unrefined"] == len(lost)
