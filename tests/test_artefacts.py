"""Artefacts of photos on disk: maps and masks; damaged ones are moved aside and named."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.errors import DamagedArtefact, InputError
from tag2mask.plan.folder import StageFolder
from tag2mask.stages.artefacts import MapReader, MaskReader, read_maps, write_maps, write_mask
from tag2mask.types import LocalizationMaps, Sample

SCORES = np.random.default_rng(0).random((2, 5, 7)).astype(np.float16)
MAPS = LocalizationMaps("a/b", (1, 4), SCORES, (40, 56))
PHOTO = Sample("a/b", Path("photo.png"), frozenset({1, 4}))


def test_maps_round_trip_in_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.npz"
    write_maps(path, MAPS)
    back = read_maps(path, "a/b")
    assert back.classes == (1, 4) and back.size == (40, 56) and back.scores.dtype == np.float16
    np.testing.assert_array_equal(back.scores, SCORES)
    assert back.covered is None
    write_maps(path, replace(MAPS, covered=0.25))
    assert read_maps(path, "a/b").covered == 0.25


def archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def damaged_maps() -> dict[str, bytes]:
    own = {"classes": np.array([1, 4], np.int16), "scores": SCORES, "size": np.array([40, 56], np.int32)}
    whole = archive(**own)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        entry = zipfile.ZipInfo("scores.npy")
        file.writestr(entry, b"\0")
    claimed = bytearray(bomb.getvalue())
    place = claimed.rindex(b"PK\x01\x02") + 24  # size of the unpacked entry in the central directory
    claimed[place : place + 4] = (3 * 2**30).to_bytes(4, "little")
    return {
        "cut": whole[:50],
        "cut late": whole[:-40],
        "empty": b"",
        "no archive": b"not an archive",
        "an array is missing": archive(classes=own["classes"], size=own["size"]),
        "not finite": archive(**own | {"scores": np.where(SCORES > 0.9, np.inf, SCORES).astype(np.float16)}),
        "of other classes": archive(**own | {"classes": np.array([1], np.int16)}),
        "flat": archive(**own | {"scores": SCORES[0]}),
        "pickled": archive(**own | {"scores": np.array([object()])}),
        "claims gigabytes": bytes(claimed),
    }


def test_maps_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    """They would be called damaged by whoever reads them, and made anew without end."""
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"the maps of a/b are not finite"):
            write_maps(tmp_path / "a.npz", replace(MAPS, scores=np.full((2, 5, 7), value, np.float32)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", damaged_maps())
def test_damaged_maps_are_moved_aside_and_named(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / "a" / "b.npz", damaged_maps()[name]
    path.parent.mkdir()
    path.write_bytes(content)
    reason = {"claims gigabytes": "unpack to 3.2 GB", "not finite": "not finite", "pickled": "pickle"}.get(name, ".+")
    with pytest.raises(DamagedArtefact, match=rf"b\.npz is damaged \(.*{reason}.*\) and was moved aside: run") as found:
        MapReader(StageFolder(tmp_path, "key"))(PHOTO)
    assert found.value.path == path and not path.exists()
    assert (tmp_path / "a" / ".b.npz.damaged").read_bytes() == content


def test_absent_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedArtefact, match=r"b\.npz is missing: run the command"):
        MapReader(StageFolder(tmp_path, "key"))(PHOTO)


def test_masks_round_trip_and_damaged_ones_are_moved_aside(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path, "key")
    mask = np.random.default_rng(0).choice([0, 1, 2, 255], (5, 7)).astype(np.uint8)
    read = MaskReader(stage, ("disc", "bar"))
    with pytest.raises(DamagedArtefact, match=r"b\.png is missing"):
        read.if_any(PHOTO)
    stage.own.mkdir()
    stage.finish(count=1, seconds=0, without=[PHOTO.id])
    assert MaskReader(stage, ("disc", "bar")).if_any(PHOTO) is None
    (stage.own / "manifest.json").unlink()
    read = MaskReader(stage, ("disc", "bar"))
    write_mask(stage, PHOTO, mask)
    np.testing.assert_array_equal(read(PHOTO), mask)
    path = tmp_path / "a" / "b.png"
    whole = path.read_bytes()
    for content in (whole[:-30], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(DamagedArtefact, match=r"b\.png is damaged .* and was moved aside"):
            read.if_any(PHOTO)
        assert not path.exists() and (tmp_path / "a" / ".b.png.damaged").read_bytes() == content


def test_masks_that_somebody_else_wrote(tmp_path: Path) -> None:
    """A value of no class is damage; another size may be the photo's fault, so the mask stays."""
    Image.new("RGB", (7, 5)).save(tmp_path / "b.png")
    stage, photo = StageFolder(tmp_path / "masks", "key"), replace(PHOTO, image_path=tmp_path / "b.png")
    read, path = MaskReader(stage, ("disc", "bar")), stage.path(PHOTO.id, ".png")
    write_mask(stage, photo, np.full((5, 7), 3, np.uint8))
    with pytest.raises(DamagedArtefact, match="holds the value 3, and no class is above 2"):
        read(photo)
    write_mask(stage, photo, np.full((7, 5), 2, np.uint8))
    with pytest.raises(InputError, match="is 5x7 pixels and its photo 7x5"):
        read(photo)
    assert path.exists()
