"""Every segmenter as ONNX, of random weights, against torch, in sizes and batches that the export does not compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask import backbones, segment
from tag2mask.backbones import BackboneSettings
from tag2mask.deploy.onnx import INPUT, _largest_difference, _Logits, _write
from tag2mask.deploy.pooling import exportable_pooling, pooled
from tag2mask.recipes import recipe
from tag2mask.segment.build import known

ADAPTIVE = torch.nn.functional.adaptive_avg_pool2d
CASES = [
    *((name, "resnet10t") for name in known()),
    *((name, "tf_efficientnet_lite0") for name in ("decoder", "deeplab-largefov", "deeplab-v2", "smp:unet")),
    *((name, "vit_tiny_patch16_224") for name in ("decoder", "deeplab-largefov")),
    ("deeplab-largefov", "vgg16"),
]
# photos, height, width: rounded up to what a network takes, where that is any size to 32 at least, as in the export
SIZES = ((5, 40, 40), (1, 33, 65), (2, 200, 72), (1, 1, 72))


DEFAULT = recipe("default").segmenter.name, BackboneSettings().name


@pytest.mark.parametrize(
    ("name", "backbone_name"),
    [pytest.param(*case, marks=pytest.mark.slow if case == DEFAULT else pytest.mark.exhaustive) for case in CASES],
)
def test_logits_are_torchs(name: str, backbone_name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    settings = BackboneSettings(backbone_name, "none")
    backbone = backbones.build(settings)
    segmenter = segment.build(replace(recipe("default").segmenter, name=name, channels=16), backbone, 3, settings)
    for module in segmenter.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
    network, unit = _Logits(segmenter.eval(), segment.InferenceSettings(empty_below=0.0)).eval(), backbone.size_divisor
    _write(network, unit, tmp_path / "model.onnx")
    assert _largest_difference(network, tmp_path / "model.onnx", unit, onnxruntime) <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    for number, *size in SIZES:
        height, width = (-(-side // unit) * unit if unit > 1 else max(side, 32) for side in size)
        images = random.standard_normal((number, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        (given,) = session.run(None, {INPUT: images})
        assert given.shape == expected.shape, (number, size)
        assert np.abs(given - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), (number, size)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 13), (12, 6), (31, 17)])
@pytest.mark.parametrize("cells", [(2, 2), (3, 6), (6, 1)])
def test_pooling_for_export_is_torchs(size: tuple[int, int], cells: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool2d(images, cells)
    assert torch.allclose(pooled(images, *cells), expected, atol=1e-6)
    with exportable_pooling():
        again = torch.nn.AdaptiveAvgPool2d(cells)(images)
    assert torch.equal(again, pooled(images, *cells))
    assert torch.nn.functional.adaptive_avg_pool2d is ADAPTIVE
