"""Ids of photos from the names of their files."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tag2mask.errors import InputError

INSIDE = re.compile(r"\.(?:tar|parquet)(?=/)", re.IGNORECASE)
"""The ending of a file that holds photos, in the name of a photo (:mod:`tag2mask.data.packed`)."""
_OUTSIDE = ("/", "../")
_WINDOWS = sys.platform == "win32"
_ENDS = ("", "/", ".")  # of a name that may hold detours


def tidy(name: str) -> str:
    """A file name from a list, with forward slashes and without detours."""
    if name[-1:] not in _ENDS and not ("./" in name or "//" in name or "\\" in name):
        return name  # nearly always, and there may be a million
    return posixpath.normpath(name.replace("\\", "/"))


def absolute(path: Path) -> Path:
    """``path`` from the root of the file system, without detours; links are kept."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def is_outside(name: str) -> bool:
    """Whether a photo's name does not start at the data set's folder of photos."""
    return name.startswith(_OUTSIDE) or (_WINDOWS and name[1:2] == ":")


def sample_id(name: str) -> str:
    """The id of a photo in the folder of photos: its name there, without suffix. Of one from elsewhere, only the last
    part; see :class:`Ids`."""
    if is_outside(name):
        name = name.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    if dot and stem[-1:] not in _ENDS and "/" not in suffix:
        return stem  # nearly always
    folder, slash, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return folder + slash + (stem if stem.strip(".") else last.replace(".", "_"))  # never "." or ".."


@dataclass(frozen=True)
class Ids:
    """The ids of one split's photos, all different.

    Photos from elsewhere (absolute names) are known by their path in the folder that all of those share, so that
    ``/disk1/a/7.jpg`` and ``/disk2/a/7.jpg`` are ``disk1/a/7`` and ``disk2/a/7``. Names that differ only in their
    suffix keep it.
    """

    shared: str = ""  # the folder shared by photos from elsewhere, with a slash at its end
    whole: frozenset[str] = frozenset()  # names that keep their suffix
    packed: bool = False  # whether photos lie in files, whose endings are left out

    def __call__(self, name: str) -> str:
        if not self.shared and not self.whole:
            return sample_id(name)
        inside = name[len(self.shared) :] if self.shared and name.startswith(self.shared) else name
        id_ = inside if name in self.whole else sample_id(inside)
        return INSIDE.sub("", id_) if self.packed else id_

    def of_all(self, names: Sequence[str]) -> list[str]:
        return [*map(sample_id if not self.shared and not self.whole else self, names)]


def distinct_ids(names: Sequence[str], *, explicit: bool, place: str, packed: bool = False) -> Ids:
    """Ids for these names, which differ from each other.

    Args:
        explicit: the user named each photo. Otherwise two that differ only in suffix are refused: one may be the
            other's mask.
        place: where the photos lie, for the message.
        packed: some lie in tars and the like.

    Raises:
        InputError: a name twice, or two names that differ only in suffix in a folder that was merely listed.
    """
    ids = Ids(_shared_folder(name for name in names if is_outside(name)), packed=packed)
    same = _collisions(names, ids)
    while same and any(map(is_outside, same)) and ids.shared.strip("/"):  # one folder more tells them apart
        ids = replace(ids, shared=ids.shared.rstrip("/").rpartition("/")[0] + "/")
        same = _collisions(names, ids)
    if not same:
        return ids
    if not explicit or len(set(same)) < len(same):
        raise InputError(
            f"{place}: {same[0]} and {same[1]} differ only in suffix, and their masks would share one name: rename one "
            "(if one is the other's mask, move it to a folder 'masks')"
        )
    ids = replace(ids, whole=frozenset(same))
    same = _collisions(names, ids)
    if same:
        raise InputError(f"{place}: {same[0]} and {same[1]} would have masks of one name: rename one")
    return ids


def _collisions(names: Sequence[str], ids: Ids) -> list[str]:
    """All names that share an id with another, those of one id together."""
    if len({*ids.of_all(names)}) == len(names):
        return []
    first: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for name in names:
        id_ = ids(name)
        if id_ in first:
            groups.setdefault(id_, [first[id_]]).append(name)
        else:
            first[id_] = name
    return [name for group in groups.values() for name in group]


def _shared_folder(names: Iterable[str]) -> str:
    """The deepest folder above all of them, with a slash at its end; empty when there are none."""
    shared = None
    for name in names:
        if shared is None:
            shared = name.rpartition("/")[0] + "/"
        while shared != "/" and not name.startswith(shared):
            shared = shared.rstrip("/").rpartition("/")[0] + "/"
    return shared or ""
