"""Masks of new photos whose tags are known: classes outside of them are switched off."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tag2mask
from tag2mask import data
from tag2mask.backbones import Backbone
from tag2mask.data.new_photos import tag_photos
from tag2mask.errors import InputError
from tag2mask.prediction import Prediction
from tag2mask.segment import InferenceSettings, PhotoSegmenter, Segmented, saw_empty
from tag2mask.segment.deeplab import DeepLab
from tag2mask.segment.pyramid import Pyramid
from tag2mask.types import Photos
from world import SMALL, fails, run


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", world, "--out", out, *SMALL, "--relabel.rounds", "0") == 0
    return out


@pytest.fixture
def photos(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    (folder / "deeper").mkdir(parents=True)
    for name, place in (("photo00", "a"), ("photo01", "b"), ("photo02", "deeper/c"), ("photo03", "d")):
        shutil.copy(world / "images" / f"{name}.png", folder / f"{place}.png")
    return folder


def table(folder: Path, *lines: str) -> Path:
    path = folder / "tags.csv"
    path.write_text("\n".join(["image,tags", *lines]) + "\n")
    return path


def values(folder: Path) -> dict[str, set[int]]:
    paths = sorted(folder.rglob("*.png"))
    return {p.relative_to(folder).with_suffix("").as_posix(): set(np.unique(Image.open(p)).tolist()) for p in paths}


def bars(self: DeepLab, views: Photos, valid: object) -> tuple[torch.Tensor, torch.Tensor]:
    """A segmenter that sees a bar nearly everywhere, but does not find it likely that the photo shows one."""
    logits = torch.zeros(len(views.images), 3, 3, 5)
    logits[:, 2], logits[:, 1], logits[:, 1, 0] = 6.0, 5.0, -2.0  # whatever the balance of its training undoes
    return logits, torch.full((len(views.images), 2), -1.0)


@pytest.mark.parametrize("refine", ["none", "crf"])
def test_classes_outside_of_the_tags_are_switched_off(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refine: str
) -> None:
    monkeypatch.setattr(DeepLab, "segment_with_presence", bars)
    tags = table(tmp_path, "a.png,disc", "b.png,", "deeper/c.png,bar;DISC")
    tag2mask.predict(finished, photos, tmp_path / "out", refine=refine, tags=tags)
    found = values(tmp_path / "out")
    assert found["a"] == ({0, 1} if refine == "none" else {1})  # above, nothing but the bar was likely
    assert found["b"] == {0}  # an empty tag: it shows none of the classes
    assert found["deeper/c"] == found["d"] == {2}  # all of its tags; no line, so nothing is switched off


def test_empty_tags_of_all_photos_mean_none_of_the_classes(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the good photos alone."""
    monkeypatch.setattr(DeepLab, "segment_with_presence", bars)
    tag2mask.predict(finished, photos, tmp_path / "out", refine="none", tags=table(tmp_path, "a.png,", "b.png,"))
    found = values(tmp_path / "out")
    assert found["a"] == found["b"] == {0} and found["d"] == {2}


@pytest.mark.parametrize(("saw_empty", "likely"), [(True, False), (False, False), (True, True)])
def test_a_photo_in_which_no_class_is_likely_shows_none(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saw_empty: bool, likely: bool
) -> None:
    """Where training photos taught what none looks like, and where nobody said what the photo shows."""

    def seen(self: DeepLab, views: Photos, valid: object) -> tuple[torch.Tensor, torch.Tensor]:
        self.saw_empty.fill_(saw_empty)
        logits, shown = bars(self, views, valid)
        shown[:, 0] += 2.0 * likely  # a disc: any class counts
        return logits, shown

    monkeypatch.setattr(DeepLab, "segment_with_presence", seen)
    tags = table(tmp_path, "a.png,disc", "b.png,")
    tag2mask.predict(finished, photos, tmp_path / "out", refine="crf", tags=tags)
    assert values(tmp_path / "out") == {"a": {1}, "b": {0}, **dict.fromkeys(
        ("d", "deeper/c"), {0} if saw_empty and not likely else {2}
    )}  # fmt: skip


def test_what_counts_as_likely_can_be_changed_for_new_photos(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(self: DeepLab, views: Photos, valid: object) -> tuple[torch.Tensor, torch.Tensor]:
        self.saw_empty.fill_(True)
        return bars(self, views, valid)  # 0.27 each

    monkeypatch.setattr(DeepLab, "segment_with_presence", seen)
    command = ("predict", finished, photos, "--out", tmp_path / "out", "--empty-below")
    assert run(*command, "0.2") == 0 and values(tmp_path / "out")["a"] == {2}
    assert run(*command, "0.3") == 0 and values(tmp_path / "out")["a"] == {0}  # masks of before are made anew
    assert "--inference.empty-below is 1.5" in fails(capsys, *command, "1.5")


@pytest.mark.parametrize("scales", [(), (0.5,)])
def test_the_largest_window_and_the_mean_view_say_what_is_likely(scales: tuple[float, ...]) -> None:
    """An object in one of the windows is in the photo."""

    class Bright(DeepLab):
        def __init__(self) -> None:
            super().__init__(backbone, torch.nn.Identity(), 1)
            self.saw_empty.fill_(True)

        def segment_with_presence(self, views: Photos, valid: object) -> tuple[torch.Tensor, torch.Tensor]:
            likely = views.images.amax((1, 2, 3)) * 8 - 4  # -4: the window is black; 4: some of it is white
            return torch.zeros(len(views.images), 2, 4, 4), likely[:, None]

    backbone = Backbone([("b0", torch.nn.Identity())], 3, 1, (0.0,) * 3, (1.0,) * 3)
    settings = InferenceSettings(long_side=0, scales=(1.0,), window=32, refine="none", precision="float32")
    segmenter = Pyramid(Bright(), scales) if scales else Bright()
    assert saw_empty(segmenter)
    photos = PhotoSegmenter(segmenter, backbone, settings)
    black, dotted = np.zeros((2, 90, 120, 3), np.uint8)
    dotted[80:, 100:] = 255
    segmented = photos([(90, 120)] * 2, [photos.read(black), photos.read(dotted)])
    assert [photos.is_empty(photo) for photo in segmented] == [True, False]
    assert [photo.presence.item() for photo in segmented] == pytest.approx([0.018, 0.982], abs=1e-3)  # type: ignore[union-attr]
    assert not replace(photos, settings=replace(settings, empty_below=0.0)).is_empty(segmented[0])


def test_a_photo_taken_to_show_nothing_is_surer_the_less_an_object_was_seen(finished: Path, tmp_path: Path) -> None:
    predictor = Prediction.of(finished, tmp_path).predictor
    predictor.photos.segmenter.saw_empty.fill_(True)  # type: ignore[union-attr]
    scores = torch.tensor([0.2, 0.7, 0.1])[:, None, None].expand(3, 8, 9)
    doubts = []
    for likely in (0.1, 0.4, 0.6):
        mask, uncertainty = predictor.decided(
            (np.zeros((8, 9, 3), np.uint8), Segmented(scores, torch.tensor([likely, 0])))
        )
        assert bool(mask.any()) == (likely > 0.5)
        doubts.append(uncertainty)
    assert doubts[:2] == pytest.approx([0.1 * 0.8, 0.4 * 0.8])


def test_a_run_remembers_whether_photos_showed_none(finished: Path, world: Path) -> None:
    stored = load_file(finished / "segmenter" / "model.safetensors")["saw_empty"]
    assert bool(stored) == any(not sample.labels for sample in data.load(world).samples)


def test_photos_without_a_line_are_as_without_a_table(finished: Path, photos: Path, tmp_path: Path) -> None:
    assert run("predict", finished, photos, "--out", tmp_path / "plain") == 0
    tags = table(photos, "a,disc")  # in the folder of the photos, named without suffix
    assert run("predict", finished, photos, "--out", tmp_path / "tagged", "--tags", tags) == 0
    for name in ("b", "deeper/c", "d"):
        assert (tmp_path / "plain" / f"{name}.png").read_bytes() == (tmp_path / "tagged" / f"{name}.png").read_bytes()


def test_a_mask_made_under_other_tags_is_not_kept(finished: Path, photos: Path, tmp_path: Path) -> None:
    """A photo less and a photo more, and the same list of tags stands for others; without tags nothing changes when
    photos come and go."""
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    (photos / "a.png").rename(tmp_path / "a.png")
    tags = table(tmp_path, "b,", "d,disc", "deeper/c,disc")
    assert run("predict", finished, photos, "--out", out, "--tags", tags) == 0
    (photos / "b.png").rename(tmp_path / "b.png")
    (photos / "deeper" / "e.png").write_bytes((tmp_path / "a.png").read_bytes())
    tags = table(tmp_path, "d,", "deeper/c,disc", "deeper/e,disc")
    for folder in (out, fresh):
        assert run("predict", finished, photos, "--out", folder, "--tags", tags) == 0
    assert values(out)["d"] == {0}
    for name in ("d", "deeper/c", "deeper/e"):
        assert (out / f"{name}.png").read_bytes() == (fresh / f"{name}.png").read_bytes()
    key = Prediction.of(finished, out).key
    assert key(data.load_images(photos)) == key(data.load_images(photos)[:1])


BAD = {
    "photos that are not there": (["a.png,disc", "z.png,bar"], "1 of 2 photos named in .* not among the 4 .*z.png"),
    "a photo elsewhere": (["a.png,disc", "../images/photo05.png,bar"], "1 of 2 photos named in"),
    "a tag of no class": (["a.png,disk"], r"tags.csv line 2: unknown class 'disk': did you mean disc"),
    "no line": ([], "names no photo"),
    "contradicting lines": (["a.png,disc", "a.png,bar;disc"], "different tags on lines 2 and 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_tables_are_one_line(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    lines, message = BAD[what]
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", table(tmp_path, *lines))
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()  # nothing was written


def test_a_table_that_is_none(finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", tmp_path / "absent.csv")
    assert "absent.csv" in said
    (tmp_path / "list.csv").write_text("image\na.png\n")
    said = fails(capsys, "predict", finished, photos, "--out", tmp_path / "out", "--tags", tmp_path / "list.csv")
    assert "no column 'tags'" in said


def test_tags_of_a_run_whose_classes_were_selected(photos: Path, tmp_path: Path) -> None:
    """The table may name the other classes, too: they are none of the run's."""
    tags = table(tmp_path, "a.png,disc;tree", "b.png,tree")
    new = data.load_images(photos)
    with pytest.raises(InputError, match="unknown class 'tree'"):
        tag_photos(new, tags, ("disc", "bar"))
    found = {s.id: s.labels for s in tag_photos(new, tags, ("disc", "bar"), selected=True)}
    assert found == {"a": {0}, "b": frozenset(), "d": None, "deeper/c": None}


def test_files_given_one_by_one(photos: Path, tmp_path: Path) -> None:
    new = data.load_images([photos / "a.png", photos / "deeper" / "c.png"])
    assert [s.labels for s in tag_photos(new, table(photos, "deeper/c.png,bar"), ("disc", "bar"))] == [None, {1}]
