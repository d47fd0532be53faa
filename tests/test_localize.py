"""Views, fusion, gate; and that batching by size changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from localizing import facts_of, localized
from tag2mask import compute
from tag2mask.backbones import BackboneSettings, build
from tag2mask.data.augment import fit_size, resized
from tag2mask.errors import DamagedArtefact, InputError, UnreadableImage
from tag2mask.feature_store import FeatureSettings, FeatureStore
from tag2mask.localize import Localizer, LocalizeSettings, batches_by, fuse, normalise_maps
from tag2mask.methods.cam import Cam
from tag2mask.types import Batch, PhotoFacts, Photos, Sample, normalise
from tag2mask.views import View, views

SETTINGS = LocalizeSettings(long_side=64, scales=(0.5, 1.0), precision="float32", batch_size=2)


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
    assert views(300, 400, 384, (1.0,), False, divisor=14) == [View(294, 378, False)]
    assert fit_size(1, 1000, 64) == (1, 64)  # a one-pixel-wide photo keeps one pixel


def test_maps_equal_a_slow_loop_over_views(method: nn.Module, photos: list[Sample]) -> None:
    backbone = method.backbone
    found = localized(method, photos, SETTINGS, 3)
    assert set(found) == {s.id for s in photos}
    for sample in photos:
        pixels = np.asarray(Image.open(sample.image_path).convert("RGB"))
        total = 0
        grids = []
        for scale in (0.5, 1.0):
            size = fit_size(*pixels.shape[:2], 64, scale)
            x = normalise(resized(pixels, size), (backbone.mean, backbone.std))[None]
            with torch.no_grad():
                pair = [method.localize(Photos(x)), method.localize(Photos(x.flip(3))).flip(3)]
            grids.append(sum(pair) / 2)
        finest = grids[1].shape[2:]
        total = sum(nn.functional.interpolate(g, finest, mode="bilinear") for g in grids) / 2
        expected = total[0] / (total[0].amax((1, 2), keepdim=True) + 1e-5)
        maps = found[sample.id]
        assert maps.classes == tuple(sorted(sample.labels)) and maps.size == pixels.shape[:2]
        np.testing.assert_allclose(maps.scores, expected[list(maps.classes)].numpy(), atol=2e-3)


def test_stored_features_give_the_same_maps(
    method: nn.Module, photos: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = method.backbone
    backbone.freeze_until("layer3")
    facts = facts_of(photos)
    store = FeatureStore(backbone, facts, FeatureSettings(tmp_path), "float32")
    of = lambda s: SETTINGS.views(facts[s.key].height, facts[s.key].width)  # noqa: E731
    with caplog.at_level("INFO", "tag2mask"):
        assert store.fill(photos, of) == 7 * 4
        assert "28 maps" in caplog.messages[0] and "GB" in caplog.messages[0]  # the size is stated first
        assert store.fill(photos, of) == 0 and len(caplog.messages) == 1  # nothing is computed twice
    direct = localized(method, photos, SETTINGS, 3)
    stored = localized(method, photos, SETTINGS, 3, store)
    assert direct.keys() == stored.keys() == {s.id for s in photos}
    for id, maps in direct.items():
        np.testing.assert_allclose(stored[id].scores, maps.scores, atol=1e-2)
    other = FeatureStore(backbone, facts, FeatureSettings(tmp_path), "bfloat16")
    assert other.folder != store.folder  # precision is part of the key
    with torch.no_grad():
        next(backbone.blocks["stem"].parameters()).add_(1e-3)
    assert FeatureStore(backbone, facts, FeatureSettings(tmp_path), "float32").folder != store.folder  # so are weights


def test_trunks_of_other_output_strides_share_nothing_but_what_they_share(tmp_path: Path) -> None:
    """Whole trunks of the same weights at three output strides give three kinds of features; up to layer2, whose stride
    is 8 in all of them, one kind."""

    def store(stride: int, block: str) -> FeatureStore:
        torch.manual_seed(0)
        backbone = build(BackboneSettings("resnet10t", weights="none", output_stride=stride)).eval()
        backbone.freeze_until(block)
        return FeatureStore(backbone, {}, FeatureSettings(tmp_path), "float32")

    def features(stored: FeatureStore) -> torch.Tensor:
        with torch.no_grad():
            return stored.backbone.until(torch.ones(1, 3, 64, 64), stored.block)

    strides = (8, 16, 32)
    whole, lower = ([store(stride, block) for stride in strides] for block in ("layer4", "layer2"))
    assert [features(stored).shape[2] for stored in whole] == [8, 4, 2]
    assert len({stored.folder for stored in whole}) == 3
    assert all(torch.equal(features(stored), features(lower[0])) for stored in lower)
    assert len({stored.folder for stored in lower}) == 1


def test_features_of_copies_are_written_once(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    """Photos of other names and the same bytes share a file, and one shown several times is written once."""
    copies = [replace(photos[0], id=f"copy-{number}") for number in range(3 * 8)]
    method.backbone.freeze_until("layer3")
    store = FeatureStore(method.backbone, facts_of([*photos, *copies]), FeatureSettings(tmp_path), "float32")
    view = View(40, 64, False)
    assert store.fill([photos[0], *copies, *copies, photos[1]], lambda s: [view]) == 2
    assert torch.equal(store.load(copies[5], view), store.load(photos[0], view))
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_stored_features_are_bounded(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    method.backbone.freeze_until("layer3")
    store = FeatureStore(method.backbone, facts_of(photos), FeatureSettings(tmp_path, limit_gb=1e-6), "float32")
    with pytest.raises(InputError, match=r"limit is 1e-06 GB: raise --features\.limit-gb"):
        store.fill(photos, lambda s: [View(40, 64, False)])
    assert not list(tmp_path.rglob("*.npy"))


def test_a_damaged_feature_file_is_moved_aside_and_made_anew(
    method: nn.Module, photos: list[Sample], tmp_path: Path
) -> None:
    method.backbone.freeze_until("layer3")
    store = FeatureStore(method.backbone, facts_of(photos), FeatureSettings(tmp_path), "float32")
    view = View(40, 64, False)
    assert store.fill(photos[:1], lambda s: [view]) == 1
    path = store.path(photos[0], view)
    whole, whole_features = path.read_bytes(), store.load(photos[0], view)
    nan = np.full(tuple(whole_features.shape), np.nan, np.float16)
    np.save(tmp_path / "nan.npy", nan)
    np.save(tmp_path / "wide.npy", whole_features.numpy().astype(np.float32))
    for damage in (whole[:100], b"", (tmp_path / "nan.npy").read_bytes(), (tmp_path / "wide.npy").read_bytes()):
        path.write_bytes(damage)
        with pytest.raises(DamagedArtefact, match=r"is damaged .* and was moved aside"):
            store.load(photos[0], view)
        assert path.with_name(f".{path.name}.damaged").read_bytes() == damage
        assert store.fill(photos[:1], lambda s: [view]) == 1
        assert path.read_bytes() == whole


def test_features_are_of_the_bytes_in_their_name(method: nn.Module, photos: list[Sample], tmp_path: Path) -> None:
    """A photo that changed since it was checked leaves no features under the old content's name."""
    method.backbone.freeze_until("layer3")
    facts = facts_of(photos) | {photos[0].key: PhotoFacts(40, 64, "ab" * 16)}
    store = FeatureStore(method.backbone, facts, FeatureSettings(tmp_path), "float32")
    with pytest.raises(UnreadableImage, match="changed while the run was working"):
        store.fill(photos[:1], lambda s: [View(40, 64, False)])
    assert not list(tmp_path.rglob("*.npy"))


def test_batches_give_every_photo_once_and_do_not_depend_on_what_is_done(photos: list[Sample]) -> None:
    facts = facts_of(photos)
    size = lambda s: (facts[s.key].height, facts[s.key].width)  # noqa: E731
    batches = batches_by(photos, size, 3, torch.device("cpu"))
    assert sorted(s.id for batch in batches for s in batch) == [s.id for s in photos]
    assert all(len(set(map(size, batch))) == 1 and len(batch) <= 3 for batch in batches)
    assert [[s.id for s in batch] for batch in batches] == [["0", "2", "4"], ["1", "5"], ["3"], ["6"]]
    many = [Sample(str(i), Path("x"), None) for i in range(70)]
    assert [len(b) for b in batches_by(many, lambda s: 0, None, torch.device("cpu"))] == [8] * 8 + [6]
    assert [len(b) for b in batches_by(many, lambda s: 0, None, torch.device("cuda"))] == [32, 32, 6]


def test_photos_of_other_sizes_with_the_same_views_share_a_batch(method: nn.Module, photos: list[Sample]) -> None:
    """Each keeps its own size, and its maps are those that it has alone."""
    assert SETTINGS.views(40, 64) == SETTINGS.views(80, 128) != SETTINGS.views(64, 40)
    localizer = Localizer(method, method.traits, method.backbone, SETTINGS, 3)
    pair = [photos[0], photos[2]]
    found = localizer(pair, [(40, 64), (80, 128)], [localizer.read(s, (40, 64)) for s in pair])
    assert [maps.size for maps in found] == [(40, 64), (80, 128)]
    for sample, maps in zip(pair, found, strict=True):
        alone = localized(method, [sample], SETTINGS, 3)[sample.id]
        np.testing.assert_allclose(maps.scores, alone.scores, atol=2e-3)


def test_batches_that_memory_does_not_hold_are_halved_and_a_single_photo_is_one_line() -> None:
    worked: list[int] = []

    def work(limit: int) -> Callable[[Sequence[int]], list[int]]:
        def of(items: Sequence[int]) -> list[int]:
            if len(items) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            worked.append(len(items))
            return [10 * item for item in items]

        return of

    assert compute.by_halves(work(2), list(range(7)), "less") == [0, 10, 20, 30, 40, 50, 60]
    assert worked == [1, 2, 2, 2]
    with pytest.raises(InputError, match=r"memory does not hold a single photo in its views: give less$"):
        compute.by_halves(work(0), [1, 2, 3], "give less")


def test_normalise_maps() -> None:
    maps = normalise_maps(torch.tensor([[[0.0, 2.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    torch.testing.assert_close(maps[0], torch.tensor([[0.0, 0.5], [1.0, 0.25]]), atol=1e-5, rtol=0)
    assert (maps[1] == 0).all()


def test_fuse_is_the_mean_on_the_finest_grid() -> None:
    out = fuse([torch.full((1, 1, 2, 3), 1.0), torch.full((1, 1, 4, 6), 3.0)])
    assert out.shape == (1, 1, 4, 6) and torch.all(out == 2.0)


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"--localize\.scales is 0: it must be above 0"):
        LocalizeSettings(scales=(0.0,))
    with pytest.raises(InputError, match=r"--localize\.scales is empty: give at least one scale"):
        LocalizeSettings(scales=())
    with pytest.raises(InputError, match=r"--localize\.scales is nan: it must be above 0"):
        LocalizeSettings(scales=(1.0, float("nan")))
    with pytest.raises(InputError, match=r"--localize\.long-side is 4: it must be at least 16"):
        LocalizeSettings(long_side=4)


def test_photos_without_tags_are_not_shown_to_the_network(method: nn.Module, photos: list[Sample]) -> None:
    """They have no maps; the maps of the photos next to them are the same."""
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.traits, self.backbone = method, method.traits, method.backbone

        def localize(self, batch: Batch) -> torch.Tensor:
            seen.append(len(batch.images))
            return method.localize(batch)

    mixed = [replace(sample, labels=frozenset()) if i % 2 else sample for i, sample in enumerate(photos)]
    found, expected = localized(Counting(), mixed, SETTINGS, 3), localized(method, photos, SETTINGS, 3)
    assert sum(seen) == 4 * 4, "four photos in two scales, each also mirrored"
    for sample in mixed:
        maps = found[sample.id]
        assert maps.size == expected[sample.id].size
        if sample.labels:
            np.testing.assert_allclose(maps.scores, expected[sample.id].scores, atol=2e-3)
        else:
            assert maps.classes == () and len(maps.scores) == 0
