"""Photos inside of tars (as WebDataset has them) and Parquet files, named as if those were folders: ``a.tar/7.jpg``.

Such a photo is read wherever one is read, so on every engine and in every process, from its place in the file.
"""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tag2mask.data.ids import INSIDE, tidy
from tag2mask.data.reading import NotRegular
from tag2mask.data.walk import SUFFIXES
from tag2mask.errors import InputError

ENDINGS = (".tar", ".parquet")
_PHOTOS = ("image", "photo", "img", "jpg", "jpeg", "png", "bytes", "content")  # columns of photos, the likeliest first
_NAMES = ("id", "key", "__key__", "image_id", "file_name", "filename", "path", "name")  # columns of their names


def is_packed(path: Path) -> bool:
    """Whether a file holds photos."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def photos_of(place: Path) -> list[str]:
    """Absolute names of the photos in such a file, or in all such files of a folder, in order.

    Raises:
        InputError: as of :func:`names_in`.
    """
    inner = sorted(place.rglob("*")) if place.is_dir() else [place]
    files = [path for path in inner if is_packed(path) and not path.name.startswith(".")]
    return [f"{file.as_posix()}/{name}" for file in files for name in names_in(file)]


def file_of(path: Path | str) -> tuple[Path, str]:
    """The file that a photo lies in and its name there; an ordinary photo's is itself, without a name."""
    text = path.as_posix() if isinstance(path, Path) else path.replace("\\", "/")
    for ending in INSIDE.finditer(text):
        if is_packed(file := Path(text[: ending.end()])):
            return file, text[ending.end() + 1 :]
    return Path(path), ""


def names_in(file: Path) -> list[str]:
    """Names of the photos in such a file, in their order.

    Raises:
        InputError: it cannot be read, holds no photo, or two of one name.
    """
    names = [*(_tar if file.suffix.lower() == ".tar" else _parquet)(file, _stamp(file))]
    if not names:
        raise InputError(f"{file} holds no photos: {_needed(file)}")
    return names


def _needed(file: Path) -> str:
    if file.suffix.lower() == ".tar":
        return f"they end in {', '.join(SUFFIXES)}"
    return f"they are bytes in a column called one of {', '.join(_PHOTOS)}"


def open_member(file: Path, name: str, limit: int) -> io.BytesIO:
    """A photo's bytes.

    Raises:
        OSError: they are not there, or more than ``limit``.
    """
    if file.suffix.lower() == ".tar":
        start, size = _found(_tar(file, _stamp(file)), file, name)
        if size > limit:
            raise NotRegular(27, f"has {size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB that are read", name)
        with file.open("rb") as opened:
            opened.seek(start)
            return io.BytesIO(opened.read(size))
    group, row = _found(_parquet(file, _stamp(file)), file, name)
    content = _group(file, _stamp(file), group)[row].as_py()
    content = content.get("bytes") if isinstance(content, dict) else content
    if not isinstance(content, bytes) or len(content) > limit:
        raise NotRegular(22, "holds no photo, or too large a one", name)
    return io.BytesIO(content)


def _found(index: dict[str, tuple[int, int]], file: Path, name: str) -> tuple[int, int]:
    if name not in index:
        raise FileNotFoundError(2, "no such photo", f"{file}/{name}")
    return index[name]


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _tar(file: Path, stamp: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Of each photo in a tar: where its bytes begin, and how many they are."""
    try:
        with tarfile.open(file, "r:") as tar:
            photos = [m for m in tar if m.isreg() and not m.issparse() and m.name.lower().endswith(SUFFIXES)]
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file} is no whole tar ({error}): make it again; one that is compressed has to be unpacked first"
        ) from error
    photos = [member for member in photos if not member.name.rpartition("/")[2].startswith(".")]
    return _different(file, ((member.name, (member.offset_data, member.size)) for member in photos))


@functools.lru_cache(maxsize=64)
def _parquet(file: Path, stamp: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Of each photo in a Parquet file: its group of rows, and its row there."""
    with _opened(file) as opened:
        if _column(opened.schema_arrow) is None:
            raise InputError(f"{file} holds no photos: {_needed(file)}")
        column = next((name for name in _NAMES if name in opened.schema_arrow.names), None)
        names = opened.read(columns=[column])[column].to_pylist() if column else range(opened.metadata.num_rows)
        sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
    return _different(file, zip(map(_photo_name, names), places, strict=True))


def _photo_name(name: Any) -> str:
    """With the ending of a photo, which an id leaves out."""
    text = f"{name:08d}" if isinstance(name, int) else str(name)
    return text if text.lower().endswith(SUFFIXES) else f"{text}.jpg"


def _different(file: Path, named: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    index: dict[str, tuple[int, int]] = {}
    for name, place in named:
        name = tidy(name).lstrip("/")
        if name in index or name.startswith("../"):
            raise InputError(f"{file} holds {'two photos' if name in index else 'a photo'} {name}: rename it")
        index[name] = place
    return index


def _column(schema: Any) -> str | None:
    """The column of photos: bytes, or as data sets of Hugging Face have them, bytes and a path."""
    import pyarrow.types as types  # pyright: ignore[reportMissingImports]

    def holds_bytes(kind: Any) -> bool:
        inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        return types.is_binary(inner) or types.is_large_binary(inner)

    return next((name for name in _PHOTOS if name in schema.names and holds_bytes(schema.field(name).type)), None)


@functools.lru_cache(maxsize=2)
def _group(file: Path, stamp: tuple[int, int], group: int) -> Any:
    """The photos of a group of rows: neighbours are read one after the other."""
    with _opened(file) as opened:
        column = _column(opened.schema_arrow)
        return opened.read_row_group(group, columns=[column])[column]


def _opened(file: Path) -> Any:
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise InputError(
            f"{file}: photos in Parquet files need pyarrow, which is not installed: pip install 'tag2mask[ray]'"
        ) from error
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # what pyarrow's own errors are
        raise InputError(f"{file} is no whole Parquet file ({str(error)[:100]}): make it again") from error
