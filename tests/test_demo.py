"""The demo data: exact truth, disjoint sources, named licences, and folders that are complete or absent."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask.demo import DemoSettings, backgrounds, catalogue, data_set, demo_root, notice, scenes, sprites
from tag2mask.demo.canvas import Canvas
from tag2mask.demo.catalogue import CLASSES, CUTOUTS, GROUNDS
from tag2mask.errors import InputError
from tag2mask.files import cache_folder

SMALL = DemoSettings(train=24, val=12)
TINY = DemoSettings(train=2, val=1)
IN_BOTH = {"cat", "cup", "shuttle"}  # what NOTICE says train and val share


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_root(tmp_path_factory.mktemp("cache"), SMALL)


def table(root: Path, split: str) -> list[tuple[str, tuple[str, ...]]]:
    with (root / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return [(Path(row["image"]).stem, tuple(row["tags"].split(";"))) for row in csv.DictReader(file)]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_layout(root: Path) -> None:
    assert (root / "classes.txt").read_text().split() == list(CLASSES)
    names = [name for split in ("train", "val") for name, _ in table(root, split)]
    assert len(names) == len(set(names)) == SMALL.train + SMALL.val
    assert {p.stem for p in (root / "images").glob("*.jpg")} == set(names)
    assert {p.stem for p in (root / "masks").glob("*.png")} == set(names)
    sizes = set()
    for name in names:
        with Image.open(root / "images" / f"{name}.jpg") as image, Image.open(root / "masks" / f"{name}.png") as mask:
            assert image.mode == "RGB" and image.size == mask.size
            sizes.add(image.size)
    assert sizes <= set(SMALL.sizes) and len(sizes) > 1
    assert all(width != height and 150 < min(width, height) <= max(width, height) <= 256 for width, height in sizes)


def test_the_data_layer_reads_it(root: Path) -> None:
    from tag2mask.data import load, splits

    assert set(splits(root)) == {"train", "val"}
    for split in ("train", "val"):
        dataset = load(root, split=split)
        assert dataset.classes == CLASSES and dataset.truth_values == (1, 2, 3, 4, 5, 6)
        found = {s.image_path.stem: s.labels for s in dataset.samples}
        assert found == {name: {CLASSES.index(tag) for tag in tags} for name, tags in table(root, split)}
        assert all(s.mask_path == root / "masks" / f"{s.image_path.stem}.png" for s in dataset.samples)


def test_tags_are_what_the_mask_shows(root: Path) -> None:
    counts = dict.fromkeys(CLASSES, 0)
    several = 0
    for split in ("train", "val"):
        for name, tags in table(root, split):
            with Image.open(root / "masks" / f"{name}.png") as file:
                mask = np.asarray(file)
            shares = {CLASSES[v - 1]: float((mask == v).mean()) for v in np.unique(mask) if v}
            assert set(shares) == set(tags), name
            assert list(tags) == sorted(tags, key=CLASSES.index)
            assert min(shares.values()) >= 0.015, (name, shares)
            assert float((mask == 0).mean()) >= 0.25, name
            for tag in tags:
                counts[tag] += 1
            several += len(tags) > 1
    assert min(counts.values()) >= 5, counts
    assert several > 0.4 * (SMALL.train + SMALL.val)


def test_a_scene_is_a_function_of_its_number() -> None:
    first, again = scenes.compose("train", 3, SMALL), scenes.compose("train", 3, replace(SMALL, train=500))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert first.tags == again.tags and first.sources == again.sources
    for other in (scenes.compose("train", 4, SMALL), scenes.compose("val", 3, SMALL)):
        assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)
    assert first.mask.shape == first.image.shape[:2] and first.image.dtype == first.mask.dtype == np.uint8


def test_built_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    one, two = demo_root(tmp_path / "one", TINY), demo_root(tmp_path / "two", TINY)
    assert one != two and files(one) == files(two)


def test_other_settings_and_other_outlines_give_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {data_set.digest(SMALL), data_set.digest(TINY), data_set.digest(replace(TINY, seed=21))}
    assert len(names) == 3
    before = data_set.digest(TINY)
    for path in catalogue.ASSETS.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(data_set, "ASSETS", tmp_path)
    assert data_set.digest(TINY) == before
    (tmp_path / "cat.png").write_bytes(b"another")
    assert data_set.digest(TINY) != before


# --- sources ----------------------------------------------------------------------------------------------------------


def test_train_and_val_share_only_what_is_declared(root: Path) -> None:
    sources = json.loads((root / "sources.json").read_text())
    used = {
        split: {s for name, _ in table(root, split) for s in sources[name]}
        for split in ("train", "val")
    }  # fmt: skip
    assert used["train"] & used["val"] <= {f"cutout:{name}" for name in IN_BOTH}
    assert used["train"] & used["val"]  # so that the line above can fail
    known = {f"cutout:{c.name}" for c in CUTOUTS} | {f"ground:{g.name}-{g.split}" for g in GROUNDS}
    assert used["train"] | used["val"] <= known
    for name, tags in table(root, "train") + table(root, "val"):
        objects = {c.label for c in CUTOUTS if f"cutout:{c.name}" in sources[name]}
        assert objects - {None} == set(tags), name


def test_declared_sources_are_disjoint() -> None:
    assert {c.name for c in CUTOUTS if set(c.splits) == {"train", "val"}} == IN_BOTH
    assert len({c.name for c in CUTOUTS}) == len(CUTOUTS)
    coins = [c for c in CUTOUTS if c.label == "coin"]
    assert sorted(c.value for c in coins) == list(range(1, 25))
    assert [sum(split in c.splits for c in coins) for split in ("train", "val")] == [18, 6]
    for split in ("train", "val"):
        assert {c.label for c in CUTOUTS if split in c.splits} - {None} == set(CLASSES)
        assert {g.use for g in GROUNDS if g.split == split} == {"floor", "wall", "sky"}
    for one in GROUNDS:
        for two in GROUNDS:
            if one.photo == two.photo and one.split != two.split:
                apart_x = one.box[2] <= two.box[0] or two.box[2] <= one.box[0]
                apart_y = one.box[3] <= two.box[1] or two.box[3] <= one.box[1]
                assert apart_x or apart_y, (one, two)


def outline(cutout: catalogue.Cutout) -> np.ndarray:
    with Image.open(catalogue.ASSETS / cutout.mask) as file:
        values = np.asarray(file.convert("L"))
    return values == cutout.value if cutout.value else values > 0


def test_backgrounds_show_no_object() -> None:
    for cutout in (c for c in CUTOUTS if c.mask):
        inside = outline(cutout)
        assert inside.shape == sprites.photograph(cutout.photo).shape[:2] and 500 < inside.sum() < 0.75 * inside.size
        for ground in (g for g in GROUNDS if g.photo == cutout.photo):
            left, top, right, bottom = ground.box
            assert not inside[top:bottom, left:right].any(), (cutout.name, ground.name)
    for ground in GROUNDS:
        height, width = sprites.photograph(ground.photo).shape[:2]
        left, top, right, bottom = ground.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height, ground


def test_every_source_is_named_with_its_licence(root: Path) -> None:
    said = (root / "LICENSES.txt").read_text(encoding="utf-8")
    assert said == notice.NOTICE
    for photo in {c.photo for c in CUTOUTS} | {g.photo for g in GROUNDS}:
        assert photo in said, photo
    for words in ("CC0 1.0", "Public domain", "No known copyright restrictions", "BSD-3-Clause", "18 coins in train"):
        assert words in said
    assert all(name in said for name in IN_BOTH)


# --- building ---------------------------------------------------------------------------------------------------------


def test_kept_and_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = demo_root(tmp_path, TINY)
    monkeypatch.setattr(data_set, "compose", None)  # a second build would fail
    assert demo_root(tmp_path, TINY) == root
    assert os.name == "nt" or root.stat().st_mode & 0o755 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    compose = scenes.compose

    def interrupted(split: catalogue.Split, index: int, how: DemoSettings) -> scenes.Scene:
        if index == 1:
            raise error
        return compose(split, index, how)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(data_set, "compose", interrupted)
        demo_root(tmp_path, TINY)
    assert list(tmp_path.iterdir()) == []
    assert len(table(demo_root(tmp_path, TINY), "train")) == 2


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = data_set.write
    other = tmp_path / f"demo-{data_set.digest(TINY)}"

    def slower(root: Path, how: DemoSettings) -> None:
        write(root, how)
        other.mkdir()
        (other / "classes.txt").write_text("theirs")

    monkeypatch.setattr(data_set, "write", slower)
    assert demo_root(tmp_path, TINY) == other
    assert (other / "classes.txt").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.slow
def test_two_processes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tag2mask.demo import DemoSettings, demo_root;"
        "print(demo_root(Path(sys.argv[1]), DemoSettings(train=2, val=1)))"
    )
    source = str(Path(data_set.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, str(tmp_path / "shared")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(printed) == 1
    root = Path(printed.pop())
    assert list((tmp_path / "shared").iterdir()) == [root]
    assert files(root) == files(demo_root(tmp_path / "alone", TINY))


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written to .*XDG_CACHE_HOME") as caught:
        demo_root(tmp_path / "file" / "below", TINY)
    assert "\n" not in str(caught.value)


def test_a_photograph_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    sprites.photograph.cache_clear()
    monkeypatch.setattr(sprites.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"coffee\.png that scikit-image carries.*reinstall"):
        sprites.photograph("coffee.png")
    with pytest.raises(InputError, match=r"reinstall it with .*matplotlib"):
        sprites.photograph("grace_hopper.jpg")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "tag2mask"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "tag2mask"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "tag2mask"


# --- parts ------------------------------------------------------------------------------------------------------------

NO_SHADOW = (0.0, 0.0, 0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 24), st.integers(-9, 18), st.integers(1, 6)), min_size=1, max_size=4))
def test_truth_is_what_was_pasted(pastes: list[tuple[int, int, int]]) -> None:
    """Against an oracle that goes pixel by pixel: the last thing over a pixel owns it, and shows there."""
    width, height, rows, columns = 21, 13, 8, 6
    canvas = Canvas(np.full((height, width, 3), 7.0, np.float32))
    image, mask = np.full((height, width, 3), 7.0), np.zeros((height, width), int)
    whole = []
    for number, (x, y, label) in enumerate(pastes, 1):
        alpha = np.zeros((rows, columns), np.float32)
        alpha[1:-1, 1:-1] = 1
        alpha[0, :], alpha[-1, :] = 0.25, 0.75
        colour = 30.0 * number
        canvas.paste(sprites.Sprite(np.full((rows, columns, 3), colour, np.float32), alpha), x, y, label, NO_SHADOW)
        count = 0
        for r in range(rows):
            for c in range(columns):
                if 0 <= y + r < height and 0 <= x + c < width:
                    a = float(alpha[r, c])
                    image[y + r, x + c] = a * colour + (1 - a) * image[y + r, x + c]
                    if a >= 0.5:
                        mask[y + r, x + c] = label
                        count += 1
        whole.append(count)
    np.testing.assert_allclose(canvas.image, image, atol=1e-3)
    assert np.array_equal(canvas.mask, mask)
    assert canvas.whole[1:] == whole


def test_a_ledge_is_background() -> None:
    canvas = Canvas(np.zeros((10, 14, 3), np.float32))
    canvas.paste(sprites.Sprite(np.full((6, 5, 3), 99.0, np.float32), np.ones((6, 5), np.float32)), 2, 3, 4, NO_SHADOW)
    canvas.cover(np.full((4, 14, 3), 50.0, np.float32), 6)
    assert (canvas.mask[3:6, 2:7] == 4).all() and canvas.mask.sum() == 4 * 15
    assert (canvas.image[6:] == 50).all() and canvas.whole == [10 * 14 - 15, 15]


def test_placed_keeps_shape_and_area() -> None:
    alpha = np.zeros((40, 60), np.float32)
    alpha[5:35, 10:50] = 1
    rgb = np.zeros((40, 60, 3), np.float32)
    rgb[:, :30] = 200
    sprite = sprites.Sprite(rgb, alpha)
    turned = sprites.placed(sprite, (0.5, 1.5), 30, False)
    assert (turned.alpha >= 0.5).sum() == pytest.approx(0.75 * alpha.sum(), rel=0.05)
    upright = sprites.placed(sprite, (1.0, 1.0), 0, True)
    assert upright.alpha.shape == alpha.shape
    assert upright.rgb[20, 50, 0] == pytest.approx(200, abs=2) and upright.rgb[20, 8, 0] == pytest.approx(0, abs=2)


def test_repainted_changes_red_paint_only() -> None:
    colours = np.array([[[200, 20, 20], [90, 140, 60], [150, 110, 80], [128, 128, 128]]], np.float32)
    green = sprites.repainted(colours, catalogue.Paint(), 1 / 3, 1.0)
    assert green[0, 0, 1] > 180 and green[0, 0, 0] < 40
    np.testing.assert_allclose(green[0, 1:], colours[0, 1:], atol=1)
    np.testing.assert_allclose(sprites.repainted(colours, catalogue.Paint(), 0.0, 1.0), colours, atol=2)
    assert sprites.repainted(colours, catalogue.Paint(), 0.0, 0.5)[0, 0, 0] == pytest.approx(100, abs=2)


def test_tinted_goes_from_dark_over_middle_to_light() -> None:
    grey = np.repeat(np.linspace(0, 255, 101)[None, :, None], 3, -1).astype(np.float32)
    out = sprites.tinted(grey, ((10, 20, 30), (100, 90, 80), (250, 240, 230)))
    assert out[0, 0].tolist() == [10, 20, 30] and out[0, -1].tolist() == [250, 240, 230]
    np.testing.assert_allclose(out[0, 50], (100, 90, 80), atol=1)
    assert (np.diff(out[0], axis=0) >= 0).all()


def test_a_receding_floor_is_wide_far_away() -> None:
    stripes = np.zeros((60, 120, 3), np.float32)
    stripes[:, ::10] = 255
    floor = backgrounds.receding(stripes, 90, 40)
    assert floor.shape == (40, 90, 3)
    lines = [int((np.diff((row[:, 0] > 60).astype(int)) == 1).sum()) for row in (floor[2], floor[-3])]
    assert lines[0] > 1.3 * lines[1] > 0
