"""The community's ``cls_labels.npy``: a pickled dict of photo id to a multi-hot vector.

The pickle is not loaded: its instructions are read one by one (``pickletools.genops`` only takes them apart), and the
few that describe numbers, texts, dicts and plain arrays are followed. Nothing in the file can name a function that
would be called.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.data.ids import sample_id, tidy
from tag2mask.data.reading import explained, open_regular
from tag2mask.errors import InputError

LABEL_FILE_BYTES = 1 << 30


class _Inert:
    """What a name in the pickle stands for. Nothing is imported and nothing is called by that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None
        self.arguments: tuple = ()


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
            array = _interpret(file.read())
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
    if isinstance(key, _Inert):
        key = int(_numbers(key.arguments[0], key.arguments[1])[0])
    if not isinstance(key, int):
        raise ValueError(f"a key is a {type(key).__name__}")
    year, number = divmod(key, 1_000_000)
    return f"{year:04d}_{number:06d}" if 1000 <= year < 10_000 else str(key)


def _vector(value: Any) -> np.ndarray:
    if isinstance(value, _Inert):
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


_NAMES = {
    "_reconstruct": "array",
    "ndarray": "class",
    "dtype": "dtype",
    "scalar": "scalar",
    "encode": "bytes",
    "_frombuffer": "buffer",
}
_MODULES = (
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "_codecs",
    "numpy.core.numeric",
    "numpy._core.numeric",
)


_CONSTANTS = frozenset({
    "BININT", "BININT1", "BININT2", "INT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _interpret(pickle: bytes) -> Any:
    """Follow the instructions of a pickle that only describes data."""
    machine = _Machine()
    for code, argument, _ in pickletools.genops(pickle):
        if code.name == "STOP":
            return machine.stack.pop()
        machine.follow(code.name, argument)
    raise ValueError("it ends too early")


class _Machine:
    """The stack that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.mark = object()

    def follow(self, code: str, argument: Any) -> None:
        if code in _CONSTANTS:
            self.stack.append(argument)
        elif code in _FIXED:
            self.stack.append(_FIXED[code])
        elif code in ("BINSTRING", "SHORT_BINSTRING"):  # pickles of Python 2: texts that are bytes
            self.stack.append(argument.encode("latin-1") if isinstance(argument, str) else argument)
        elif not (self._remember(code, argument) or self._collect(code) or self._describe(code, argument)):
            raise ValueError(f"it holds the instruction {code}")

    def _remember(self, code: str, argument: Any) -> bool:
        match code:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                return False
        return True

    def _collect(self, code: str) -> bool:
        """Lists, tuples and dicts."""
        stack = self.stack
        match code:
            case "MARK":
                stack.append(self.mark)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self._since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                _fill(stack[-1], items)
            case "SETITEMS":
                items = self._since_mark()
                _fill(stack[-1], items)
            case _:
                return False
        return True

    def _describe(self, code: str, argument: Any) -> bool:
        """What a pickle would import and call: only described."""
        stack = self.stack
        match code:
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(_named(module, name))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                stack[-2:] = [_named(module, name)]
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - next(back for back, item in enumerate(reversed(self.stack)) if item is self.mark)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items


def _named(module: str, name: str) -> _Inert:
    if module not in _MODULES or name not in _NAMES:
        raise ValueError(f"it asks to run {module}.{name}")
    return _Inert(_NAMES[name])


def _fill(into: dict, items: list[Any]) -> None:
    if not all(isinstance(key, (str, bytes, int, _Inert)) for key in items[::2]):
        raise ValueError("keys that are neither texts nor numbers")  # hashing nested tuples can exhaust the stack
    into.update(zip(items[::2], items[1::2], strict=True))


def _made(what: Any, arguments: tuple) -> Any:
    """What a call in the pickle would give, described."""
    if what.name == "bytes":
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in '{encoding}'")
        return text.encode("latin-1")
    thing = _Inert(what.name)
    thing.arguments = arguments
    if what.name == "dtype" and isinstance(arguments[0], bytes):  # Python 2
        thing.arguments = (arguments[0].decode("ascii"), *arguments[1:])
    if what.name == "buffer":  # protocol 5: (bytes, dtype, shape, order)
        content, dtype, shape, _ = arguments
        thing.name, thing.state = "array", (1, shape, dtype, False, content)
    return thing
