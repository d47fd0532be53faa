"""What the check of a data set's photos gave, in columns: a million photos take 0.25 GB, where an object each takes
gigabytes."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.archives import check_archive
from tag2mask.data.check import CheckedImage
from tag2mask.files import atomic
from tag2mask.types import PhotoFacts, SampleKey

STAMP = 4  # whole numbers of a stamp at most
_NO_STAMP = (-1,) * STAMP
_ROW = np.dtype(
    [
        ("stamp", "<i8", STAMP),
        ("height", "<i4"),
        ("width", "<i4"),
        ("digest", "S32"),
        ("signs", "S16"),
        ("split", "<u2"),
        ("readable", "?"),
    ]
)
_pack = struct.Struct(f"<{STAMP}q2i32s16sH?").pack  # a row of that


class CheckedPhotos(Mapping[SampleKey, PhotoFacts]):
    """Every photo that was checked; as a mapping, size and digest of those that can be read.

    Attributes:
        ids: of the photos, in order.
        rows: what is known of each, ``[photos]`` of :data:`_ROW`.
        splits: names of the splits, which ``rows["split"]`` counts.
        texts: by place, the error and the note of photos that have one.
    """

    def __init__(
        self, ids: list[str], rows: np.ndarray, splits: Sequence[str], texts: Mapping[int, tuple[str | None, str]]
    ) -> None:
        self.ids, self.rows, self.splits, self.texts = ids, rows, tuple(splits), dict(texts)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> CheckedPhotos:
        """From records with the fields of :class:`CheckedImage`, and maybe a ``stamp``.

        Of several of one photo the last counts; those of values that no photo has are passed over.
        """
        ids: list[str] = []
        packed = bytearray()
        splits: dict[str, int] = {}
        texts: dict[int, tuple[str | None, str]] = {}
        for record in records:
            number = splits.setdefault(record["split"], len(splits))
            error, note = record["error"], record["note"]
            content = (record["digest"].encode("ascii", "replace"), record["signs"].encode("ascii", "replace"))
            try:
                packed += _pack(*stamped(record), record["height"], record["width"], *content, number, not error)
            except (struct.error, TypeError):  # damaged
                continue
            if error or note:
                texts[len(ids)] = error, note
            ids.append(record["id"])
        found = cls(ids, np.frombuffer(packed, _ROW), [*splits], texts)
        last = sorted(place for of_split in found.by_id() for place in of_split.values())
        return found.take(last)

    def take(self, places: Iterable[int]) -> CheckedPhotos:
        """Those at these places, in this order."""
        chosen = np.fromiter(places, np.int64)
        if np.array_equal(chosen, np.arange(len(self.ids))):
            return self
        texts = {new: self.texts[old] for new, old in enumerate(chosen.tolist()) if old in self.texts}
        return CheckedPhotos([self.ids[place] for place in chosen], self.rows[chosen], self.splits, texts)

    def by_id(self) -> list[dict[str, int]]:
        """Of each split, id to place."""
        places: list[dict[str, int]] = [{} for _ in self.splits]
        for place, (number, id_) in enumerate(zip(self.rows["split"].tolist(), self.ids, strict=True)):
            places[number][id_] = place
        return places

    @cached_property
    def _by_id(self) -> dict[str, dict[str, int]]:
        return dict(zip(self.splits, self.by_id(), strict=True))

    def place(self, key: SampleKey) -> int:
        """The place of a photo, -1 of one that was not checked."""
        return self._by_id.get(key[0], {}).get(key[1], -1)

    def places(self, keys: Iterable[SampleKey]) -> np.ndarray:
        """``[keys]`` int64 of :meth:`place`, quick where the photos are in the same order."""
        splits = [self.splits[number] for number in self.rows["split"].tolist()]
        here = zip(splits, self.ids, strict=True)
        pairs = ((place, key, next(here, None)) for place, key in enumerate(keys))
        return np.fromiter((place if key == other else self.place(key) for place, key, other in pairs), np.int64)

    def __getitem__(self, key: SampleKey) -> PhotoFacts:
        place = self.place(key)
        if place < 0 or not self.rows["readable"][place]:
            raise KeyError(key)
        row = self.rows[place]
        return PhotoFacts(int(row["height"]), int(row["width"]), row["digest"].decode())

    def __iter__(self) -> Iterator[SampleKey]:
        readable = zip(self.ids, self.rows["split"].tolist(), self.rows["readable"].tolist(), strict=True)
        return ((self.splits[number], id_) for id_, number, is_readable in readable if is_readable)

    def __len__(self) -> int:
        return int(self.rows["readable"].sum())

    def readable(self, places: np.ndarray) -> np.ndarray:
        """``[places]`` bool: whether a photo was checked and can be read."""
        return (places >= 0) & self.rows["readable"][places] if len(self.ids) else places >= 0

    def digests(self, places: np.ndarray) -> Iterator[str]:
        """The digest of the bytes of each."""
        for part in np.array_split(places, max(1, len(places) // 10_000)):
            yield from (content.decode() for content in self.rows["digest"][part].tolist())

    def check(self, place: int) -> CheckedImage:
        """All that is known of one."""
        row, (error, note) = self.rows[place], self.texts.get(place, (None, ""))
        size, split = (int(row["height"]), int(row["width"])), self.splits[row["split"]]
        return CheckedImage(self.ids[place], *size, row["digest"].decode(), error, split, note, row["signs"].decode())

    def unreadable(self) -> Iterator[CheckedImage]:
        """Those that cannot be used."""
        return map(self.check, np.flatnonzero(~self.rows["readable"]).tolist())

    def write(self, path: Path, of: Sequence[int]) -> None:
        """As an npz without objects.

        Args:
            of: what tells apart the files that it may have been made from.
        """
        text = json.dumps({"splits": self.splits, "texts": [[place, *of] for place, of in self.texts.items()]})
        blobs = ["\0".join(self.ids).encode("utf-8", "surrogatepass"), text.encode("utf-8", "surrogatepass")]
        ids, said = (np.frombuffer(blob, np.uint8) for blob in blobs)
        with atomic(path, "wb") as file:
            np.savez(file, of=np.array(of, np.int64), rows=self.rows, ids=ids, said=said)

    @staticmethod
    def is_kept(path: Path, of: Sequence[int]) -> bool:
        """Whether :meth:`read` would give something, if nothing is damaged."""
        try:
            check_archive(path)
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return file["of"].tolist() == [*of]
        except (MemoryError, PermissionError):
            raise  # says nothing of the file
        except Exception:  # zip files and arrays raise many types when they are damaged
            return False

    @classmethod
    def read(cls, path: Path, of: Sequence[int]) -> CheckedPhotos | None:
        """What :meth:`write` wrote, if it is of that; None where there is none, or it is damaged."""
        if not cls.is_kept(path, of):
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                rows, ids, said = file["rows"], file["ids"], json.loads(file["said"].tobytes())
            names = ids.tobytes().decode("utf-8", "surrogatepass").split("\0") if len(rows) else []
            if rows.dtype != _ROW or rows.shape != (len(names),) or (rows["split"] >= len(said["splits"])).any():
                raise ValueError("it does not hold a row for each photo")
            texts = {int(place): (error, str(note)) for place, error, note in said["texts"]}
        except (MemoryError, PermissionError):
            raise  # says nothing of the file
        except Exception:  # zip files and arrays raise many types when they are damaged
            return None
        return cls(names, rows, said["splits"], texts)


def stamped(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The stamp of a record, -1 where it has no further number."""
    stamp = record.get("stamp")
    return (*stamp, *_NO_STAMP)[:STAMP] if isinstance(stamp, list) else _NO_STAMP


def stamps_of(found: Iterable[Sequence[int]]) -> np.ndarray:
    """``[photos STAMP]`` int64 of what :func:`stamped` reads one by one."""
    numbers = itertools.chain.from_iterable((*stamp, *_NO_STAMP)[:STAMP] for stamp in found)
    return np.fromiter(numbers, np.int64).reshape(-1, STAMP)
