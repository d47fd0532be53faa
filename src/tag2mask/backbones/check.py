"""``check_backbone``: what every backbone promises, executed. A new backbone joins by being in ``BACKBONES``.

In the manner of scikit-learn's ``check_estimator``: call it on your own chain of blocks from your own tests.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tag2mask.backbones.chain import Backbone
from tag2mask.protocols import DeclaresPretrained

Make = Callable[[], Backbone]


def check_backbone(make: Make) -> None:
    """Run every check of the contract.

    Args:
        make: gives the backbone, of any weights; called once.

    Raises:
        AssertionError: a promise is not kept; the message says which.
    """
    torch.manual_seed(0)
    backbone = make()
    for check in (
        check_shape_and_range,
        check_batch_norm_keeps_its_statistics,
        check_every_block_is_a_place_to_stop_and_go_on,
        check_strides_and_resolutions,
        check_outputs_on_the_way,
        check_crops,
        check_a_photo_does_not_depend_on_its_batch,
        check_what_is_pretrained,
        check_frozen_blocks,  # last: it freezes
    ):
        check(backbone.eval())


def photos(backbone: Backbone, batch: int = 2) -> Tensor:
    """Noise two cells high and four wide."""
    unit = max(backbone.stride, backbone.size_divisor)
    return torch.randn(batch, 3, 2 * unit, 4 * unit, generator=torch.Generator().manual_seed(0))


def _assert_equal(one: Tensor, other: Tensor, fault: str) -> None:
    scale = float(one.abs().max()) + 1e-6
    assert one.shape == other.shape and float((one - other).abs().max()) <= 1e-3 * scale, fault


def check_shape_and_range(backbone: Backbone) -> None:
    images = photos(backbone)
    with torch.no_grad():
        features = backbone(images)
    expected = (2, backbone.channels, images.shape[2] // backbone.stride, images.shape[3] // backbone.stride)
    assert features.shape == expected, f"features are {tuple(features.shape)}, not {expected}"
    assert bool(torch.isfinite(features).all()), "features are not finite"
    assert len(backbone.mean) == len(backbone.std) == 3 and min(backbone.std) > 0, "a normalisation of three channels"


def check_batch_norm_keeps_its_statistics(backbone: Backbone) -> None:
    backbone.train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms), "train() sets batch norm to statistics of the batch"
    backbone.eval()


def check_every_block_is_a_place_to_stop_and_go_on(backbone: Backbone) -> None:
    images = photos(backbone, 1)
    with torch.no_grad():
        whole = backbone(images)
        for block in backbone.names:
            half = backbone.until(images, block)
            assert half.ndim == 4, f"{block} gives {half.ndim} dimensions"
            _assert_equal(backbone.forward_from(half, block), whole, f"stopping after {block} changes the features")


def check_strides_and_resolutions(backbone: Backbone) -> None:
    images = photos(backbone, 1)
    assert list(backbone.strides) == list(backbone.resolutions) == list(backbone.names), "a stride for every block"
    assert backbone.strides[backbone.names[-1]] == backbone.stride, "the last block's stride is the backbone's"
    with torch.no_grad():
        for block, stride in backbone.strides.items():
            grid = backbone.grid(backbone.until(images, block), block)
            expected = (images.shape[2] // stride, images.shape[3] // stride)
            assert grid == expected, f"{block} gives a grid of {grid} at stride {stride}, not {expected}"
    resolutions = list(backbone.resolutions.values())
    assert resolutions == sorted(resolutions), "a block cannot be finer than the one below it"
    assert all(r >= s for r, s in zip(resolutions, backbone.strides.values(), strict=True)), "finer than its stride"


def check_outputs_on_the_way(backbone: Backbone) -> None:
    images, wanted = photos(backbone, 1), (backbone.names[0], backbone.names[-1])
    with torch.no_grad():
        outputs = dict(backbone.outputs(images, wanted))
        assert set(outputs) == set(wanted), f"outputs() gives {list(outputs)}"
        for block, grid in outputs.items():
            cells = backbone.grid(backbone.until(images, block), block)
            assert tuple(grid.shape[2:]) == cells, f"outputs() of {block} is no grid of its cells"
        _assert_equal(outputs[wanted[1]], backbone(images), "outputs() and forward() disagree")


def check_crops(backbone: Backbone) -> None:
    """All of a block's output is itself; a part has the cells asked for, and the blocks above take it."""
    images = photos(backbone, 1)
    with torch.no_grad():
        whole = backbone(images)
        for block in backbone.names[:-1]:
            x = backbone.until(images, block)
            rows, columns = backbone.grid(x, block)
            everything = backbone.crop(x, block, slice(0, rows), slice(0, columns))
            _assert_equal(backbone.forward_from(everything, block), whole, f"a crop of all of {block} is not all of it")
            part = backbone.crop(x, block, slice(0, rows // 2), slice(0, columns // 2))
            assert backbone.grid(part, block) == (rows // 2, columns // 2), f"a crop of {block} has other cells"
            features = backbone.forward_from(part, block)
            assert features.shape[:2] == whole.shape[:2] and bool(torch.isfinite(features).all()), f"a part of {block}"


def check_a_photo_does_not_depend_on_its_batch(backbone: Backbone) -> None:
    images = photos(backbone)
    with torch.no_grad():
        _assert_equal(backbone(images)[1:], backbone(images[1:]), "a photo's features depend on its batch")


def check_what_is_pretrained(backbone: Backbone) -> None:
    assert isinstance(backbone, DeclaresPretrained), "pretrained_parameters()"
    declared = {id(parameter) for parameter in backbone.pretrained_parameters()}
    assert declared == {id(parameter) for parameter in backbone.parameters()}, "all of a backbone is pretrained"


def check_frozen_blocks(backbone: Backbone) -> None:
    """Frozen below: no gradient there, some above, and the stored output serves in the place of photos."""
    block = backbone.names[len(backbone.names) // 2]
    images = photos(backbone)
    backbone.freeze_until(block)
    with torch.no_grad():
        stored = backbone(backbone.until(images, block), stored=True)
        _assert_equal(stored, backbone(images), "stored features give others than the photos they are of")
    features = backbone(images)
    learns = any(p.requires_grad for p in backbone.parameters())
    if learns:
        features.square().mean().backward()
    reached = {n.split(".")[1] for n, p in backbone.named_parameters() if p.grad is not None}
    frozen = set(backbone.names[: backbone.position(block) + 1])
    assert not reached & frozen, f"a gradient reaches {sorted(reached & frozen)}, which are frozen"
    assert bool(reached) == learns, "no gradient reaches the blocks above the frozen ones"
    backbone.zero_grad()
