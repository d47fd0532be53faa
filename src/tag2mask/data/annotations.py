"""One annotation of PASCAL VOC: the names of the objects in a photo, from XML."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Set
from pathlib import Path
from xml.parsers import expat

from tag2mask.data.finding import Finding
from tag2mask.data.ids import sample_id
from tag2mask.data.peek import start_of
from tag2mask.data.reading import explained, open_regular
from tag2mask.data.words import clean
from tag2mask.errors import InputError, listed, some

XML_BYTES = 16 << 20
SOME = 1000  # annotations of which it is asked which photo they name


def strange_annotations(folder: Path, ids: Set[str]) -> Iterator[Finding]:
    """Annotations that are of no photo where photos have none, or that name another photo in ``filename``."""
    there = {path.relative_to(folder).as_posix().removesuffix(".xml") for path in folder.rglob("*.xml")}
    lacking, others = len(ids - there), sorted(there - ids)
    if lacking and others:
        yield Finding(
            "warning" if ids & there else "error",
            f"{some(len(others), 'annotation')} in {folder} named like no photo: {listed(others)}; "
            f"{some(lacking, 'photo')} without one",
            "an annotation is named after its photo, 7.xml of 7.jpg; nothing is learned from a photo without one",
        )
    known = {_last(id_) for id_ in ids & there}
    swapped = [id_ for id_ in sorted(ids & there)[:SOME] if _names(folder / f"{id_}.xml") in known - {_last(id_)}]
    if swapped:
        yield Finding(
            "warning",
            f"{some(len(swapped), 'annotation')} in {folder} with another photo's <filename>: {listed(swapped)}",
            "they count for the photos that they are called after: make sure that they are of those",
        )


def _last(id_: str) -> str:
    return id_.rpartition("/")[2]


def _names(path: Path) -> str:
    """The id of the photo that an annotation names itself; empty where it names none."""
    found = re.search(rb"<filename>\s*([^<]*?)\s*</filename>", start_of(path, 1 << 12))
    return sample_id(_last(found[1].decode("utf-8", "replace").replace("\\", "/"))) if found else ""


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
        return None if content is None else _shown(content, path)
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


def _shown(content: bytes, path: Path) -> frozenset[str]:
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
