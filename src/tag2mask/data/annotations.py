"""One annotation of PASCAL VOC: the names of the objects in a photo, from XML."""

from __future__ import annotations

import errno
from pathlib import Path
from xml.parsers import expat

from tag2mask.data.reading import explained, open_regular
from tag2mask.data.words import clean
from tag2mask.errors import InputError

XML_BYTES = 16 << 20


def read_annotation(path: Path) -> frozenset[str] | None:
    """The names of the objects in one annotation; None when there is no such file.

    Only ``annotation/object/name`` counts (parts of persons have names too), in any capitals; objects that LabelMe
    marks as deleted do not. A document type is refused: XML entities
    can name other files or grow without end, and VOC has none.

    Raises:
        InputError: it cannot be read, is not XML, or no annotation of VOC's kind.
    """
    try:
        with explained(path, "the annotation"):
            content = _content(path)
        return None if content is None else _names(content, path)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: of encodings that expat has not
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid XML ({reason}): save it as UTF-8, or restore it") from error


def _content(path: Path) -> bytes | None:
    try:
        with open_regular(path, XML_BYTES) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return None
        raise


def _names(content: bytes, path: Path) -> frozenset[str]:
    names: set[str] = set()
    place: list[str] = []
    of_object: list[tuple[str, str]] = []  # elements of the present object, and their texts
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise InputError(f"{path} declares a document type, which VOC annotations do not: remove the file")

    def start(name: str, _: object) -> None:
        if not place and name.lower() != "annotation":
            raise InputError(f"{path} is no annotation of VOC's kind, its first element is <{name[:40]}>: remove it")
        place.append(name.lower())
        text.clear()

    def end(_: str) -> None:
        if place[:-1] == ["annotation", "object"]:
            of_object.append((place[-1], clean("".join(text))))
        elif place == ["annotation", "object"]:
            if ("deleted", "1") not in of_object:
                names.update(of for name, of in of_object if name == "name")
                if "" in names or not any(name == "name" for name, _ in of_object):
                    raise InputError(f"{path} has an object without a name: name it or remove the object")
            of_object.clear()
        place.pop()
        text.clear()

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.Parse(content, True)
    return frozenset(names)
