"""Photos that show the same though their bytes differ, and what the doctor says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from tag2mask.data.likeness import SYMMETRIES, detail, near_duplicates, same_detail, signs
from world import run


def same_pixels(one: Path, other: Path, symmetry: int) -> bool:
    return same_detail(detail(one), detail(other), symmetry)


def photo(seed: int, height: int = 90, width: int = 130) -> np.ndarray:
    """``[height width 3]`` uint8: soft blobs of any colour."""
    cells = np.random.default_rng(seed).integers(0, 255, (12, 17, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def test_signs_are_those_of_scipys_cosine_transform() -> None:
    pixels = photo(0)
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX), float)
    low = dctn(grey, norm="ortho")[:8, :8] > 0
    low[0, 0] = False
    assert signs(pixels) == np.packbits(low.ravel()).tobytes().hex()


@pytest.mark.parametrize("symmetry", range(8))
def test_a_turned_photo_is_found_and_its_turn_is_named(symmetry: int, tmp_path: Path) -> None:
    """All of eight symmetries, among a hundred others; its pixels agree under that turn and no other."""
    photos = [photo(seed) for seed in range(100)]
    turned = np.ascontiguousarray(np.stack([SYMMETRIES[symmetry](photos[7][..., c]) for c in range(3)], -1))
    assert list(near_duplicates([signs(turned)], [signs(x) for x in photos])) == [(0, 7, symmetry)]
    Image.fromarray(turned).save(tmp_path / "turned.jpg", quality=70)
    Image.fromarray(photos[7]).resize((390, 270)).save(tmp_path / "seven.png")
    agreeing = [k for k in range(8) if same_pixels(tmp_path / "turned.jpg", tmp_path / "seven.png", k)]
    assert agreeing == [symmetry]


def test_where_the_signs_of_all_photos_agree_the_likeliest_are_given() -> None:
    """A thing that lies in the same place of all photos: not every pair is compared, and the twin is among those."""
    alike = photo(0)
    others = []
    for seed in range(60):  # a small part of each differs, so a few signs do
        other = alike.copy()
        other[20:34, 30:50] = photo(100 + seed)[20:34, 30:50]
        others.append(signs(other))
    others.insert(41, signs(alike))
    found = list(near_duplicates([signs(alike)], others, most=5))
    assert len(found) == 5 and (0, 41, 0) in found
    agreeing = [sum(a == b for a, b in zip(bits(signs(alike)), bits(others[k]), strict=True)) for _, k, _ in found]
    assert agreeing == sorted(agreeing, reverse=True)


def bits(hexadecimal: str) -> str:
    return f"{int(hexadecimal, 16):064b}"


def test_one_light_on_many_surfaces_is_no_likeness(tmp_path: Path) -> None:
    """Signs agree, for the slope of the light decides them; pixels do not."""
    slope = np.add.outer(np.linspace(0, 90, 96), np.linspace(0, 120, 128))[..., None]
    for name in ("a", "b"):
        grain = np.random.default_rng(ord(name)).normal(0, 6, (96, 128, 3))
        Image.fromarray((20 + slope + grain).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert not same_pixels(*paths, 0) and same_pixels(paths[0], paths[0], 0)
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "flat.png")
    assert not same_pixels(tmp_path / "flat.png", tmp_path / "flat.png", 0)  # nothing to compare


def test_the_doctor_names_twins_of_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    lines = ["image,tags,split"]
    for seed in range(8):
        split = "train" if seed < 5 else "val"
        Image.fromarray(photo(seed)).save(tmp_path / "images" / f"{seed}.png")
        lines.append(f"{seed}.png,cat,{split}")
    brighter = Image.fromarray(photo(2)).point(lambda value: min(255, 20 + 4 * value // 5))
    brighter.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "images" / "again.jpg")
    (tmp_path / "tags.csv").write_text("\n".join([*lines, "again.jpg,cat,val"]) + "\n")
    run("doctor", tmp_path)
    said = capsys.readouterr().out
    assert "1 of 4 photos of 'val' show nearly the same as a photo of 'train': val/again ~ train/2" in said
    assert "keep photos of one thing in one split" in said
