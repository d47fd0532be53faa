"""Views, fusion, gate; and that batching by size changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tag2mask.backbones import BackboneSettings, build
from tag2mask.data.augment import fit_size, normalise, resized
from tag2mask.errors import InputError
from tag2mask.features import FeatureSettings, FeatureStore, Seen, View, by_size, views
from tag2mask.localize import LocalizeSettings, fuse, localize, normalise_maps
from tag2mask.methods.cam import Cam
from tag2mask.types import Sample

SETTINGS = LocalizeSettings(longest=64, scales=(0.5, 1.0), precision="float32", batch_size=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Seven photos of three sizes."""
    folder = tmp_path_factory.mktemp("photos")
    samples = []
    for index, (height, width) in enumerate([(40, 64), (64, 40), (40, 64), (48, 48), (40, 64), (64, 40), (40, 64)]):
        pixels = np.random.default_rng(index).integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
        path = folder / f"{index}.png"
        Image.fromarray(pixels).resize((width, height)).save(path)
        samples.append(Sample(str(index), path, frozenset({index % 3, 2})))
    return samples


@pytest.fixture(scope="module")
def method() -> nn.Module:
    torch.manual_seed(0)
    return Cam(build(BackboneSettings("resnet10t", weights="none", output_stride=8)), 3).eval()


def test_views_are_scale_by_scale_and_keep_the_aspect() -> None:
    assert views(300, 400, 384, (0.5, 1.0), True) == [
        View(144, 192, False), View(144, 192, True), View(288, 384, False), View(288, 384, True)
    ]  # fmt: skip
    assert views(300, 400, 384, (1.0,), False, multiple=14) == [View(294, 378, False)]
    assert fit_size(1, 1000, 64) == (1, 64)  # a one-pixel-wide photo keeps one pixel


def test_maps_equal_a_slow_loop_over_views(method: nn.Module, photos: list[Sample]) -> None:
    backbone = method.backbone
    found = {m.id: m for m in localize(method, backbone, photos, SETTINGS, 3)}
    assert set(found) == {s.id for s in photos}
    for sample in photos:
        pixels = np.asarray(Image.open(sample.image_path).convert("RGB"))
        total = 0
        grids = []
        for scale in (0.5, 1.0):
            size = fit_size(*pixels.shape[:2], 64, scale)
            x = normalise(resized(pixels, size), backbone.mean, backbone.std)[None]
            with torch.no_grad():
                pair = [method.localize(x, None), method.localize(x.flip(3), None).flip(3)]
            grids.append(sum(pair) / 2)
        finest = grids[1].shape[2:]
        total = sum(nn.functional.interpolate(g, finest, mode="bilinear") for g in grids) / 2
        expected = total[0] / (total[0].amax((1, 2), keepdim=True) + 1e-5)
        maps = found[sample.id]
        assert maps.classes == tuple(sorted(sample.labels)) and maps.size == pixels.shape[:2]
        np.testing.assert_allclose(maps.scores, expected[list(maps.classes)].numpy(), atol=2e-3)


def test_stored_features_give_the_same_maps(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    backbone = method.backbone
    backbone.freeze_until("layer3")
    seen = {}
    for s in photos:
        with Image.open(s.image_path) as image:
            seen[s.id] = Seen(image.height, image.width, f"{int(s.id):032x}")
    store = FeatureStore(backbone, seen, FeatureSettings(tmp_path), "float32")
    said: list[str] = []
    of = lambda s: SETTINGS.views(seen[s.id].height, seen[s.id].width)  # noqa: E731
    assert store.fill(photos, of, said.append) == 7 * 4
    assert "28 maps" in said[0] and "GB" in said[0]  # the size is stated first
    assert store.fill(photos, of, said.append) == 0 and len(said) == 1  # nothing is computed twice
    direct = {m.id: m.scores for m in localize(method, backbone, photos, SETTINGS, 3)}
    stored = {m.id: m.scores for m in localize(method, backbone, photos, SETTINGS, 3, store)}
    for id, scores in direct.items():
        np.testing.assert_allclose(stored[id], scores, atol=1e-2)
    other = FeatureStore(backbone, seen, FeatureSettings(tmp_path), "bfloat16")
    assert other.folder != store.folder  # precision is part of the key
    with torch.no_grad():
        next(backbone.blocks["stem"].parameters()).add_(1e-3)
    assert FeatureStore(backbone, seen, FeatureSettings(tmp_path), "float32").folder != store.folder  # so are weights


def test_stored_features_are_bounded(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    method.backbone.freeze_until("layer3")
    seen = {s.id: Seen(40, 64, s.id * 32) for s in photos}
    store = FeatureStore(method.backbone, seen, FeatureSettings(tmp_path, limit_gb=1e-6), "float32")
    with pytest.raises(InputError, match=r"limit is 1e-06 GB: raise --features\.limit-gb"):
        store.fill(photos, lambda s: [View(40, 64, False)], lambda text: None)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_damaged_feature_file_is_named(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    method.backbone.freeze_until("layer3")
    store = FeatureStore(method.backbone, {photos[0].id: Seen(40, 64, "ab")}, FeatureSettings(tmp_path), "float32")
    store.fill(photos[:1], lambda s: [View(40, 64, False)], lambda text: None)
    path = store.path(photos[0], View(40, 64, False))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="delete that file"):
        store.load(photos[0], View(40, 64, False))


def test_by_size_gives_every_photo_once_and_bounds_what_waits(photos: list[Sample]) -> None:
    chunks = list(by_size(photos, 3, window=4))
    assert sorted(s.id for chunk in chunks for s, _ in chunk) == [s.id for s in photos]
    assert all(len({p.shape for _, p in chunk}) == 1 and len(chunk) <= 3 for chunk in chunks)


def test_normalise_maps() -> None:
    maps = normalise_maps(torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    torch.testing.assert_close(maps[0], torch.tensor([[0.0, 0.5], [1.0, 0.25]]), atol=1e-5, rtol=0)
    assert (maps[1] == 0).all()


def test_fuse_is_the_mean_on_the_finest_grid() -> None:
    out = fuse([torch.full((1, 1, 2, 3), 1.0), torch.full((1, 1, 4, 6), 3.0)])
    assert out.shape == (1, 1, 4, 6) and torch.all(out == 2.0)


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(InputError, match="positive"):
        LocalizeSettings(scales=(0.0,))
    with pytest.raises(InputError, match="too small"):
        LocalizeSettings(longest=4)
