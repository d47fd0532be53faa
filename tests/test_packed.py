"""Photos in tars and Parquet files are those of a folder, and what is wrong with such a file is one line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask import data
from tag2mask.data.images import image_size, read_image
from tag2mask.data.packed import file_of
from tag2mask.errors import InputError, UnreadableImage


def photo(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (6 + number, 9, 3)).astype(np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            opened.addfile(about, io.BytesIO(content))
    return path


def parquet(path: Path, columns: dict[str, list[object]], rows: int = 2) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which Ray brings")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def same_photos(samples: data.Samples, numbers: dict[str, int]) -> None:
    assert {sample.id for sample in samples} == {*numbers}
    for sample in samples:
        expected = np.asarray(Image.open(io.BytesIO(photo(numbers[sample.id]))))
        assert (read_image(sample.image_path) == expected).all() and image_size(sample.image_path) == expected.shape[:2]


def test_tars_hold_photos_as_a_folder_does(tmp_path: Path) -> None:
    first = tar(
        tmp_path / "in" / "a.tar", {"x/1.png": photo(1), "x/1.json": b"{}", ".hidden.png": b"", "./2.png": photo(2)}
    )
    second = tar(tmp_path / "in" / "more" / "b.TAR", {"1.png": photo(3)})
    in_folder = {"a/x/1": 1, "a/2": 2, "more/b/1": 3}
    same_photos(data.load_images(tmp_path / "in"), in_folder)
    same_photos(data.load_images([first, second]), in_folder)
    same_photos(data.load_images(first), {"x/1": 1, "2": 2})
    (tmp_path / "in" / "7.png").write_bytes(photo(7))
    same_photos(data.load_images(tmp_path / "in"), {"7": 7})  # a folder of photos is one
    assert file_of(tmp_path / "in" / "7.png") == (tmp_path / "in" / "7.png", "")
    assert file_of(first / "x" / "1.png") == (first, "x/1.png")


def test_a_folder_called_like_a_tar_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "1.png").write_bytes(photo(1))
    same_photos(data.load_images(tmp_path), {"a.tar/1": 1})


def test_parquet_files_hold_photos_in_a_column(tmp_path: Path) -> None:
    """By names or numbers, as bytes or as data sets of Hugging Face have them, over several groups of rows."""
    named = parquet(
        tmp_path / "a.parquet", {"file_name": ["x/1.png", "b.2", "c"], "image": [photo(n) for n in (1, 2, 3)]}
    )
    same_photos(data.load_images(named), {"x/1": 1, "b.2": 2, "c": 3})
    structs = [{"bytes": photo(4), "path": None}, {"bytes": photo(5), "path": "y"}, {"bytes": None, "path": None}]
    samples = data.load_images(parquet(tmp_path / "b.parquet", {"image": structs, "label": [1, 2, 3]}))
    same_photos(samples[:2], {"00000000": 4, "00000001": 5})
    with pytest.raises(UnreadableImage, match=r"b\.parquet/00000002\.jpg holds no photo"):
        read_image(samples[2].image_path)


def test_one_bad_photo_in_a_tar_is_named(tmp_path: Path) -> None:
    samples = data.load_images(tar(tmp_path / "a.tar", {"1.png": photo(1)[:60], "2.png": photo(2)}))
    with pytest.raises(UnreadableImage, match=r"a\.tar/1\.png"):
        read_image(samples[0].image_path)
    assert read_image(samples[1].image_path).shape == (8, 9, 3)
    with pytest.raises(UnreadableImage, match="is not there"):
        read_image(tmp_path / "a.tar" / "3.png")


def test_what_is_wrong_with_a_tar_is_one_line(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {f"{number}.png": photo(number) for number in range(3)})
    contents = {"cut": whole.read_bytes()[:900], "empty": b"", "text": b"x" * 2000, "gzip": b"\x1f\x8b\x08" * 700}
    for name, content in contents.items():
        (path := tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.tar (is no whole tar|holds no photos)"):
            data.load_images(path)
    for members, says in (
        ({"1.txt": b"x"}, "holds no photos"),
        ({"a/../1.png": b"", "1.png": b""}, "two photos 1.png"),
        ({"../1.png": b""}, "a photo ../1.png"),
    ):
        with pytest.raises(InputError, match=says):
            data.load_images(tar(tmp_path / "odd.tar", members))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        data.load_images(tmp_path / "none")


def test_what_is_wrong_with_a_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": ["a", "b"], "label": [1, 2]})
    with pytest.raises(InputError, match=r"a\.parquet holds no photos"):
        data.load_images(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="is no whole Parquet file"):
        data.load_images(path)
