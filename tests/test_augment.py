"""One geometry carries image, mask and maps; padding is marked; views depend on (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask.data.augment import AugmentSettings, Colour, Geometry, generator
from tag2mask.errors import InputError
from tag2mask.types import normalise


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(0, 10_000))
def test_image_mask_and_maps_stay_together(height: int, width: int, seed: int) -> None:
    """Halves of different colour: wherever the mask says right half, the image and the map say so too."""
    geometry = Geometry.draw(height, width, AugmentSettings(size=32, scale=(0.5, 2.0)), generator(0, 0, seed))
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 7
    image = np.repeat(np.where(mask == 7, 250, 10).astype(np.uint8)[..., None], 3, 2)
    view, labels, valid = geometry.image(image), geometry.mask(mask), geometry.valid()
    maps = geometry.maps(torch.from_numpy((mask == 7).astype(np.float32))[None])[0]
    assert view.shape == (3, 32, 32) and labels.shape == valid.shape == maps.shape == (32, 32)
    assert torch.equal(labels != 255, valid)
    assert (maps[~valid] == 0).all() and (view[:, ~valid] == 0).all()
    # interpolation blurs the border between the halves; wherever it has decided, all three agree on every pixel
    sure = valid & ((maps < 0.02) | (maps > 0.98)) & ((view[0] < 15) | (view[0] > 245))
    assert ((maps > 0.5) == (labels == 7))[sure].all()
    assert ((view[0] > 128) == (labels == 7))[sure].all()
    assert sure.any() or width < 8


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 90), st.integers(3, 90), st.integers(0, 10_000))
def test_as_much_of_the_photo_is_shown_as_fits(height: int, width: int, seed: int) -> None:
    geometry = Geometry.draw(height, width, AugmentSettings(size=32), generator(1, 2, seed))
    assert int(geometry.valid().sum()) == min(32, geometry.height) * min(32, geometry.width)


def test_identity_and_mirror_by_hand() -> None:
    mask = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert Geometry(2, 3, 0, 0, 3, False).mask(mask).tolist() == [[1, 2, 3], [4, 5, 6], [255] * 3]
    assert Geometry(2, 3, -1, 0, 3, True).mask(mask).tolist() == [[255] * 3, [3, 2, 1], [6, 5, 4]]
    assert Geometry(2, 3, 0, 1, 2, False).mask(mask).tolist() == [[2, 3], [5, 6]]


def test_views_repeat_by_seed_epoch_and_index() -> None:
    draws = [Geometry.draw(30, 50, AugmentSettings(), generator(*key)) for key in ((0, 1, 2), (0, 1, 2), (0, 2, 2))]
    assert draws[0] == draws[1] != draws[2]


def test_colour_by_hand() -> None:
    assert Colour.draw(AugmentSettings(jitter=0.0), generator(0, 0, 0)) is None
    drawn = Colour.draw(AugmentSettings(jitter=0.3), generator(0, 0, 0))
    assert drawn is not None and all(0.7 <= f <= 1.3 for f in (drawn.brightness, drawn.contrast, drawn.saturation))
    image = np.array([[[100, 50, 200], [10, 20, 30]]], np.uint8)
    plain = Geometry(1, 2, 0, 0, 2, False)
    assert torch.equal(plain.image(image, Colour(1.0, 1.0, 1.0)), plain.image(image))
    assert plain.image(image, Colour(0.5, 1.0, 1.0))[:, 0, 0].tolist() == [50, 25, 100]
    grey = plain.image(image, Colour(1.0, 1.0, 0.0))[:, 0, 0]
    assert len(set(grey.tolist())) == 1


@pytest.mark.parametrize("turn", [1 / 3, -1 / 3, 0.1, -0.1, 0.5])
def test_the_hue_turns_as_torchvisions(turn: float) -> None:
    """And by hand: a third of the circle makes red green."""
    from torchvision.transforms.functional import adjust_hue

    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    turned = Colour(1.0, 1.0, 1.0, turn).apply(Image.fromarray(image))
    assert (np.asarray(turned) == np.asarray(adjust_hue(Image.fromarray(image), turn))).all()
    red = Image.fromarray(np.full((2, 2, 3), (250, 10, 10), np.uint8))
    assert np.asarray(Colour(1.0, 1.0, 1.0, 1 / 3).apply(red))[0, 0].argmax() == 1


def test_the_hue_is_drawn_after_all_that_was_drawn_without_it() -> None:
    """So a run without it sees the views that it always saw."""
    factors = generator(1, 2, 3).uniform(0.8, 1.2, 3)
    plain = Colour.draw(AugmentSettings(jitter=0.2), generator(1, 2, 3))
    assert plain == Colour(*factors, hue=0.0)
    hued = [Colour.draw(AugmentSettings(jitter=0.2, hue=0.1), generator(1, 2, i)) for i in range(200)]
    assert hued[3] is not None and hued[3] == Colour(*factors, hue=hued[3].hue)
    turns = [drawn.hue for drawn in hued if drawn is not None]
    assert len(turns) == 200 and -0.1 <= min(turns) < -0.09 and 0.09 < max(turns) <= 0.1
    alone = Colour.draw(AugmentSettings(jitter=0.0, hue=0.1), generator(1, 2, 3))
    assert alone is not None and (alone.brightness, alone.contrast, alone.saturation) == (1, 1, 1) and alone.hue


def test_normalise_is_the_formula() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    out = normalise(image, ((0.5, 0.4, 0.3), (0.5, 0.2, 0.1)))
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, -1.0, 7.0]))


def test_bad_settings() -> None:
    with pytest.raises(InputError, match=r"--augment\.size is 4: it must be at least 16"):
        AugmentSettings(size=4)
    with pytest.raises(InputError, match=r"--augment\.scale 2 1 must be two growing numbers"):
        AugmentSettings(scale=(2.0, 1.0))
    for low in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match=rf"--augment\.scale is {low:g}: it must be above 0"):
            AugmentSettings(scale=(low, 1.0))
