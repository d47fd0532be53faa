"""Maps of a finer block: against the formula, and small objects found where large ones keep their own maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localizing import batch
from tag2mask.backbones import BackboneSettings, build
from tag2mask.layers.class_references import ComparedWithReferences
from tag2mask.layers.fine_maps import fine_map, fine_maps, finer_block, part, sharpened, watched
from tag2mask.methods.cam import Cam
from tag2mask.protocols import Views
from tag2mask.types import Reference
from trunks import fresh


class Pooled(nn.Module):
    """A fine block that is the pixels, and above it cells of 4 x 4 pixels, smoothed as those of deep networks are.
    Channel c speaks for class c."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Identity()

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        cells = F.avg_pool2d(self.fine(views.images), 4)
        smooth = F.avg_pool2d(cells, 5, 1, 2, count_include_pad=False)
        return smooth + 1e-3, smooth


def photos() -> Tensor:
    """Channel 0: one bright pixel; channel 1: a square of 20 pixels. ``[1 2 32 40]``"""
    images = torch.zeros(1, 2, 32, 40)
    images[0, 0, 9, 21] = 16.0
    images[0, 1, 6:26, 10:30] = 1.0
    return images


def compared(finer: bool = True) -> ComparedWithReferences:
    method = Pooled()
    found = ComparedWithReferences(method, method.fine if finer else None)
    with torch.no_grad():
        found.prepare_localization([Reference(photos(), (0, 1))])
    return found


def test_padding_neither_asks_for_evidence_nor_gives_any() -> None:
    """On an accelerator photos are padded to a common size; what is bright at a padded border is no object."""
    network, inside = compared(), photos()
    padded = F.pad(inside, (0, 8, 0, 8))
    padded[0, 0, 36:, 44:] = 100.0  # what a network makes of the border between photo and padding
    valid = F.pad(torch.ones(1, 32, 40, dtype=torch.bool), (0, 8, 0, 8))
    labels = torch.ones(1, 2)
    with torch.inference_mode():
        alone = network.with_fine_maps(batch(inside, labels), labels)[2]
        shown = replace(batch(padded, labels), valid=valid)
        among = network.with_fine_maps(shown, labels)[2]
    assert alone is not None and among is not None
    assert not among[..., 32:, :].any() and not among[..., 40:].any()
    torch.testing.assert_close(among[..., :16, :24], alone[..., :16, :24])  # nearer to the border cells see it


def test_a_small_object_is_found_and_a_large_one_has_finer_borders() -> None:
    network = compared()
    assert network.small == (0,)
    with torch.inference_mode():
        small, large = network.localize(batch(photos(), torch.ones(1, 2)))[0]
        plain = compared(finer=False).localize(batch(photos(), torch.ones(1, 2)))
    assert small.shape == (32, 40)
    assert (small > 0.3 * small.max()).nonzero().tolist() == [[9, 21]]
    grown = F.interpolate(plain, (32, 40), mode="bilinear", align_corners=False)[0]
    assert int((grown[0] > 0.3 * grown[0].max()).sum()) > 200, "of 1,280: without the finer block it is all a blur"

    def overlap(map_: Tensor) -> float:
        """IoU with the square, at its best threshold."""
        square = photos()[0, 1] > 0
        above = [map_ > threshold * map_.max() for threshold in (0.3, 0.5, 0.7, 0.9)]
        return max(float((x & square).sum() / (x | square).sum()) for x in above)

    # pixels of the square alone are above 0 in the finer block: what is left of the blur is inside
    assert overlap(large) == 1.0 and overlap(grown[1]) < 0.9
    torch.testing.assert_close(large[6:26, 10:30], (grown[1] * fine_of_square().sqrt())[6:26, 10:30])


def fine_of_square() -> Tensor:
    """tanh(2 L / max L) of the square, by hand: how much all scores together rise with a pixel, times the pixel."""
    image = photos().requires_grad_()
    cells = F.avg_pool2d(image, 4)
    (slope,) = torch.autograd.grad(F.avg_pool2d(cells, 5, 1, 2, count_include_pad=False)[0, 1].sum(), image)
    fine = slope[0].clamp(min=0).mul(photos()[0]).sum(0)
    return torch.tanh(2 * fine / fine.max())


def test_maps_do_not_depend_on_who_shares_the_batch() -> None:
    network = compared()
    both = torch.cat([photos(), photos().flip(3)])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    together = network.localize(batch(both, labels))
    for row in range(2):
        alone = network.localize(batch(both[row : row + 1], labels[row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone)
    assert not together[0, 1].any() and not together[1, 0].any(), "classes that a photo is not tagged with"


def test_the_fine_map_is_the_formula() -> None:
    torch.manual_seed(0)
    below, above = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 2, 2)
    x = torch.randn(2, 3, 6, 8)
    with torch.inference_mode(), watched(below) as outputs:
        scores = above(below(x))
        found = fine_map(scores[:, 1], outputs[0])
    output = below(x).detach()
    for photo in range(2):
        # every cell is seen by one cell above: the gradient is that weight of the kernel
        for i, j in ((0, 0), (3, 5), (5, 6)):
            slopes = above.weight[1, :, i % 2, j % 2].detach()
            expected = (slopes.clamp(min=0) * output[photo, :, i, j].clamp(min=0)).sum()
            torch.testing.assert_close(found[photo, i, j], expected)
    assert not found.requires_grad and below(x).requires_grad, "the hook is gone"


def test_each_photo_has_the_fine_maps_of_its_own_classes() -> None:
    """Computed together as one by one."""
    torch.manual_seed(1)
    below, above = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 2, 2)
    x, labels = torch.randn(3, 3, 6, 8), torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    with watched(below) as outputs:
        found = fine_maps(above(below(x)), outputs[0], labels)
    assert found.shape == (3, 3, 6, 8) and not found.requires_grad
    for photo in range(3):
        for label in range(3):
            with watched(below) as outputs:
                alone = fine_map(above(below(x[photo : photo + 1]))[:, label], outputs[0])[0]
            torch.testing.assert_close(found[photo, label], alone * labels[photo, label])


def test_sharpened_and_part_by_hand() -> None:
    fine = torch.zeros(1, 4, 4)
    fine[0, 0, 0], fine[0, 3, 3] = 2.0, 1.0
    maps = torch.ones(1, 2, 2)
    found = sharpened(torch.ones(1, 4, 4), fine)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(2.0).tanh())
    torch.testing.assert_close(found[0, 3, 3], torch.tensor(1.0).tanh())
    assert float(found.sum()) == pytest.approx(float(torch.tensor([2.0, 1.0]).tanh().sum()))
    torch.testing.assert_close(sharpened(torch.ones(1, 4, 4), fine, 0.5), found.sqrt())
    assert part(maps, fine) == pytest.approx((1.5**2 / 1.25) / 16)
    assert part(torch.zeros(1, 2, 2), fine) is None and part(maps, torch.zeros(1, 4, 4)) is None


def test_which_block_is_finer() -> None:
    assert finer_block(fresh(BackboneSettings(weights="none"))) == "block2"
    assert finer_block(fresh(BackboneSettings("resnet10t", weights="none", output_stride=8))) == "layer1"
    assert finer_block(fresh(BackboneSettings("vit_tiny_patch16_224", weights="none"))) is None


def test_stored_features_that_begin_above_the_finer_block_have_no_fine_maps() -> None:
    backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=8, freeze_until="layer4")).eval()
    name = finer_block(backbone)
    assert name is not None
    network = ComparedWithReferences(Cam(backbone, 2).eval(), backbone.blocks[name])
    with torch.no_grad():
        stored = backbone.until(torch.randn(1, 3, 32, 48), "layer4")
    network.prepare_localization([Reference(stored, (0, 1), stored=True)])
    assert network.small == ()
    shown = replace(batch(stored, torch.ones(1, 2)), stored=True)
    assert network.localize(shown).shape == (1, 2, *stored.shape[2:])
