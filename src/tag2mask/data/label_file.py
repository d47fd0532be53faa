"""The community's ``cls_labels.npy``: a pickled dict of photo id to a multi-hot vector. The pickle is never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.data.ids import sample_id, tidy
from tag2mask.data.inert_pickle import Inert, interpret
from tag2mask.data.reading import explained, open_regular
from tag2mask.errors import InputError

LABEL_FILE_BYTES = 1 << 30


def read_label_file(path: Path) -> dict[str, np.ndarray]:
    """The vectors of a label file, ``[classes]`` float32, by photo id.

    Keys that are numbers of VOC's kind become VOC ids (2007000032 is ``2007_000032``), other numbers texts.

    Raises:
        InputError: not such a file, one that asks for anything else, or vectors of different lengths.
    """
    try:
        with explained(path, "the file of labels"), open_regular(path, LABEL_FILE_BYTES) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype != np.dtype(object) or shape != ():
                raise ValueError(f"it holds an array {list(shape)} of {dtype}, not a dict")
            array = interpret(file.read())
        (content,) = array.state[4]
        vectors = {_photo_id(key): _vector(value) for key, value in content.items()}
        lengths = sorted({len(vector) for vector in vectors.values()})
        if len(lengths) != 1 or not lengths[0]:
            raise ValueError(f"vectors of {' and '.join(map(str, lengths[:4])) or 'no'} numbers")
    except InputError:
        raise
    except Exception as error:  # a hostile or damaged file can go wrong in any of the steps
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a file of labels, a dict of photo id to a number for each class ({reason}): "
            "use tags.csv or lines 'id 0 14' instead"
        ) from error
    return vectors


def _photo_id(key: Any) -> str:
    if isinstance(key, bytes):  # Python 2
        key = key.decode("ascii")
    if isinstance(key, str):
        return sample_id(tidy(key))
    if isinstance(key, Inert):
        key = int(_numbers(key.arguments[0], key.arguments[1])[0])
    if not isinstance(key, int):
        raise ValueError(f"a key is a {type(key).__name__}")
    year, number = divmod(key, 1_000_000)
    return f"{year:04d}_{number:06d}" if 1000 <= year < 10_000 else str(key)


def _vector(value: Any) -> np.ndarray:
    if isinstance(value, Inert):
        if value.name != "array":
            raise ValueError(f"a vector is a {value.name}")
        _, shape, dtype, _, content = value.state
        vector = _numbers(dtype, content)
        if shape != (len(vector),):
            raise ValueError(f"a vector has shape {list(shape)}")
    else:
        vector = np.array(value, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector.astype(np.float32)).all():
        raise ValueError("a vector is not a row of finite numbers")
    return vector.astype(np.float32)


def _numbers(dtype: Any, content: Any) -> np.ndarray:
    """Bytes as numbers of a type that has no room for surprises."""
    code = dtype.arguments[0]
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise ValueError(f"numbers of type '{code}'")
    order = dtype.state[1] if dtype.state else "<"
    swapped = order in (">", b">")  # bytes: Python 2
    return np.frombuffer(content, dtype=np.dtype(code).newbyteorder(">" if swapped else "<"))
