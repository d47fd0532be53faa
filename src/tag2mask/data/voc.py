"""The layout of PASCAL VOC: ``JPEGImages/``, ``ImageSets/Segmentation/*.txt``, ``Annotations/*.xml``.

Lists may have either style, ``2007_000032`` or ``/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png``.

Tags are taken from the first of these that is there: ``--tags FILE``; ``tags.csv`` (columns image,tags);
``cls_labels.npy``; lists of lines ``id 0 14`` called ``<list>_cls.txt``; the XML annotations. Truth lies in
``SegmentationClassAug/`` (VOC and SBD), else in ``SegmentationClass/``; saliency in ``Saliency/`` or ``SALImages/``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from tag2mask.data.folder import SALIENCY_SUFFIXES, rows
from tag2mask.data.listing import (
    DataSettings,
    Listing,
    Present,
    Samples,
    absolute,
    beside,
    class_values,
    folder,
    known_split,
    missing_images,
    sample_id,
    text_lines,
    tidy,
)
from tag2mask.errors import InputError, unknown

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes, alphabetical; class ``c`` has value ``c + 1`` in the truth masks."""

_LISTS = Path("ImageSets") / "Segmentation"
_FIRST_OF = {"train": ("train_aug", "train")}  # the field trains on VOC train + SBD, 10,582 photos

Tags = Callable[[str], frozenset[int] | None]


def _lists(root: Path) -> dict[str, Path]:
    return {
        path.stem: path
        for path in sorted((root / _LISTS).glob("*.txt"))
        if not path.stem.endswith("_cls") and not path.name.startswith(".")
    }


def split_names(root: Path, settings: DataSettings) -> tuple[str, ...]:
    """The lists that exist, and ``train`` when ``train_aug`` does."""
    names = dict.fromkeys(_lists(root))
    if "train_aug" in names:
        names = {"train": None, **names}
    return tuple(names)


def _list_of(root: Path, settings: DataSettings, split: str) -> Path:
    lists = _lists(root)
    if split.endswith(".txt") and split[:-4] in lists:
        return lists[split[:-4]]
    for name in _FIRST_OF.get(split, (split,)):
        if name in lists:
            return lists[name]
    known_split(split, split_names(root, settings), folder(root / _LISTS, "the folder of lists"))
    raise AssertionError(split)


def read(root: Path, settings: DataSettings, split: str) -> Listing:
    """One split of a data set in the VOC layout."""
    images = absolute(folder(settings.images or root / "JPEGImages", "the folder of images"))
    source = _list_of(root, settings, split)
    present = Present()
    names: list[str] = []
    missing: list[str] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(text_lines(source), 1):
        words = line.split()
        if not words:
            continue
        id_ = photo_id(words[0])
        if line_of.setdefault(id_, number) != number:
            raise InputError(f"{source} lists image {id_} on lines {line_of[id_]} and {number}: remove one")
        name = next((id_ + suffix for suffix in (".jpg", ".png", ".jpeg") if present(f"{images / id_}{suffix}")), None)
        if name is None:
            missing.append(id_)
        names.append(name or id_)
    if missing:
        raise missing_images(missing, len(names), str(source), images)
    truth = (
        [absolute(folder(settings.truth, "the truth folder"))]
        if settings.truth
        else [root / "SegmentationClassAug", root / "SegmentationClass"]
    )
    saliency = (
        [absolute(folder(settings.saliency, "the saliency folder"))]
        if settings.saliency
        else [root / "Saliency", root / "SALImages"]
    )
    tags_from, tags = _tags(root, settings, source)
    samples = Samples(
        images,
        names,
        map(tags, map(sample_id, names)),
        (),
        beside(truth, [".png"], names, present),
        beside(saliency, SALIENCY_SUFFIXES, names, present),
    )
    return Listing(root.name, CLASSES, class_values(CLASSES, settings), samples, tags_from)


def photo_id(word: str) -> str:
    """``2007_000032`` of ``2007_000032``, ``2007_000032.jpg`` and ``/JPEGImages/2007_000032.jpg``."""
    name = tidy(word).lstrip("/")
    first, slash, rest = name.partition("/")
    return sample_id(rest if slash and first == "JPEGImages" else name)


# -------------------------------------------------------------------------------------------------- tags


def _tags(root: Path, settings: DataSettings, source: Path) -> tuple[str, Tags]:
    """Where the tags of a list come from, and the function from id to classes (None: the file does not say)."""
    if settings.tags is not None:
        return str(settings.tags), read_tags(settings.tags).get
    places = (root, root / _LISTS, root / "ImageSets")
    names = ("tags.csv", "cls_labels.npy", f"{source.stem}_cls.txt")
    for path in (place / name for name in names for place in places):
        if path.is_file():
            return str(path), read_tags(path).get
    if (root / "Annotations").is_dir():
        return str(root / "Annotations"), lambda id_: read_annotation(root / "Annotations" / f"{id_}.xml")
    raise InputError(
        f"{root} has no tags (no tags.csv, cls_labels.npy, {names[-1]} or Annotations folder): add one or give --tags"
    )


def read_tags(path: Path) -> Mapping[str, frozenset[int]]:
    """Tags by photo id, from a CSV (image,tags), from ``cls_labels.npy`` or from lines ``id 0 14``.

    Raises:
        InputError: a name or number that is no VOC class, an id listed twice, a file of another form.
    """
    if path.suffix == ".npy":
        return _shared(
            (id_, np.flatnonzero(vector).tolist()) for id_, vector in read_label_file(path, len(CLASSES)).items()
        )
    return _shared(_csv_tags(path) if path.suffix in (".csv", ".tsv") else _text_tags(path))


def _shared(pairs: Iterable[tuple[str, Iterable[int]]]) -> dict[str, frozenset[int]]:
    """Equal sets are one object: there are thousands of photos and some hundred sets."""
    sets: dict[frozenset[int], frozenset[int]] = {}
    tags = {}
    for id_, numbers in pairs:
        labels = frozenset(numbers)
        tags[id_] = sets.setdefault(labels, labels)
    return tags


def _csv_tags(path: Path) -> Iterable[tuple[str, list[int]]]:
    line_of: dict[str, int] = {}
    for row in rows(path, ""):
        id_ = photo_id(row.image)
        if line_of.setdefault(id_, row.line) != row.line:
            raise InputError(f"{path} lists image {row.image} on lines {line_of[id_]} and {row.line}: remove one")
        for tag in row.tags:
            if tag not in CLASSES:
                raise InputError(f"{path} line {row.line}: {unknown('class', tag, CLASSES)}")
        yield id_, [CLASSES.index(tag) for tag in row.tags]


def _text_tags(path: Path) -> Iterable[tuple[str, list[int]]]:
    line_of: dict[str, int] = {}
    for number, line in enumerate(text_lines(path), 1):
        words = line.split()
        if not words:
            continue
        id_ = photo_id(words[0])
        if line_of.setdefault(id_, number) != number:
            raise InputError(f"{path} lists image {id_} on lines {line_of[id_]} and {number}: remove one")
        for word in words[1:]:
            if not word.isdecimal() or int(word) >= len(CLASSES):
                raise InputError(f"{path} line {number}: '{word}' is not a class number from 0 to {len(CLASSES) - 1}")
        yield id_, [int(word) for word in words[1:]]


def read_annotation(path: Path) -> frozenset[int] | None:
    """The classes of the objects in one VOC annotation; None when there is no such file.

    Only ``annotation/object/name`` counts (parts of persons have names too). A document type is refused: XML entities
    can name other files or grow without end, and VOC has none.
    """
    labels: set[int] = set()
    place: list[str] = []
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise InputError(f"{path} declares a document type, which VOC annotations do not: remove the file")

    def start(name: str, _: object) -> None:
        place.append(name)
        text.clear()

    def end(_: str) -> None:
        if place == ["annotation", "object", "name"]:
            name = "".join(text).strip()
            if name not in CLASSES:
                raise InputError(f"{path}: {unknown('class', name, CLASSES)}")
            labels.add(CLASSES.index(name))
        place.pop()
        text.clear()

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(path.read_bytes(), True)
    except FileNotFoundError:
        return None
    except expat.ExpatError as error:
        raise InputError(f"{path} is not valid XML ({error}): restore it from the data set") from error
    return frozenset(labels)


# ---------------------------------------------------------------------------------------- cls_labels.npy


class _Inert:
    """What a name in the pickle stands for. Nothing is imported and nothing is called by that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None
        self.arguments: tuple = ()


def read_label_file(path: Path, classes: int) -> dict[str, np.ndarray]:
    """The community's ``cls_labels.npy``: a pickled dict of photo id to a multi-hot vector, ``[classes]`` float32.

    The pickle is not loaded: its instructions are read one by one (``pickletools.genops`` only takes them apart), and
    the few that describe numbers, texts, dicts and plain arrays are followed. Nothing in the file can name a function
    that would be called.

    Returns:
        vectors by id; the file's integer keys become VOC ids (2007000032 is ``2007_000032``).

    Raises:
        InputError: not such a file, or one that asks for anything else.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            if dtype != np.dtype(object) or shape != ():
                raise ValueError(f"it holds an array {list(shape)} of {dtype}, not a dict")
            array = _interpret(file.read())
        (content,) = array.state[4]
        return {_voc_id(key): _vector(value, classes) for key, value in content.items()}
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there: check the path") from error
    except InputError:
        raise
    except Exception as error:  # a hostile or damaged file can go wrong in any of the steps
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not a file of labels, a dict of photo id to {classes} numbers ({reason}): "
            "use tags.csv or lines 'id 0 14' instead"
        ) from error


def _voc_id(key: Any) -> str:
    if isinstance(key, bytes):  # Python 2
        key = key.decode("ascii")
    if isinstance(key, str):
        return photo_id(key)
    if isinstance(key, _Inert):
        key = int(_numbers(key.arguments[0], key.arguments[1])[0])
    if not isinstance(key, int):
        raise ValueError(f"a key is a {type(key).__name__}")
    return f"{key // 1_000_000:04d}_{key % 1_000_000:06d}"


def _vector(value: Any, classes: int) -> np.ndarray:
    if isinstance(value, _Inert):
        if value.name != "array":
            raise ValueError(f"a vector is a {value.name}")
        _, shape, dtype, _, content = value.state
        vector = _numbers(dtype, content)
        if shape != (len(vector),):
            raise ValueError(f"a vector has shape {list(shape)}")
    else:
        vector = np.array(value, dtype=np.float32)
    if vector.shape != (classes,):
        raise ValueError(f"a vector has {vector.size} numbers")
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


def _interpret(pickle: bytes) -> Any:
    """Follow the instructions of a pickle that only describes data."""
    mark = object()
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = len(stack) - 1 - next(back for back, item in enumerate(reversed(stack)) if item is mark)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def named(module: str, name: str) -> _Inert:
        if module not in _MODULES or name not in _NAMES:
            raise ValueError(f"it asks to run {module}.{name}")
        return _Inert(_NAMES[name])

    def fill(into: dict, items: list[Any]) -> None:
        if not all(isinstance(key, (str, bytes, int, _Inert)) for key in items[::2]):
            raise ValueError("keys that are neither texts nor numbers")  # hashing nested tuples can exhaust the stack
        into.update(zip(items[::2], items[1::2], strict=True))

    argument: Any
    for code, argument, _ in pickletools.genops(pickle):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG1" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINFLOAT":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # pickles of Python 2: texts that are bytes
                stack.append(argument.encode("latin-1") if isinstance(argument, str) else argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[code.name])
            case "MARK":
                stack.append(mark)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                fill(stack[-1], items)
            case "SETITEMS":
                items = since_mark()
                fill(stack[-1], items)
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(named(module, name))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                stack[-2:] = [named(module, name)]
            case "REDUCE":
                made = stack.pop()
                what = stack.pop()
                stack.append(_made(what, made))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"it holds the instruction {other}")
    raise ValueError("it ends too early")


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
