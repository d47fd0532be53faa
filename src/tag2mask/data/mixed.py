"""Masks that lie among photos, told by their names: ``cat/7_mask.png`` next to ``cat/7.jpg``, ``cat/masks/7.png``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from tag2mask.data.companions import MARK, SALIENCY_WORDS, TRUTH_WORDS, word
from tag2mask.data.finding import Finding
from tag2mask.data.ids import sample_id
from tag2mask.data.peek import is_colour, is_flat
from tag2mask.errors import listed, some

_WORDS = frozenset((*TRUTH_WORDS, *SALIENCY_WORDS))
# 7_mask, also of several objects (BUSI: 7_mask_1), or mask_7
_MARKS = re.compile(
    rf"{MARK.pattern.removesuffix('$')}([ _-]?\d{{1,2}})?$|^(masks?|gt|seg|labels?)[ _-](?=.)", re.IGNORECASE
)


def masks_among(names: Sequence[str], base: Path, photos: Iterable[str] = ()) -> frozenset[str]:
    """Those of some files that are masks of others, or of photos.

    A file is one if its name is another's and ``_mask`` (:data:`~tag2mask.data.companions.MARK`), in the same folder
    and without a photo's colours, or if it lies in a folder called as truth or saliency is, in one that holds a photo
    of its name or next to such a one. A PNG is one, too, if it has the name of a photo in another format and areas of
    one colour each.

    Args:
        names: of files, relative to ``base``.
        photos: further ones, which are no masks.
    """
    candidates: defaultdict[str, set[str]] = defaultdict(set)  # file by the photo that it may be a mask of
    others = any(not name.lower().endswith(".png") for name in (*names, *photos))
    for name in names:
        folder, _, last = name.rpartition("/")
        stem = sample_id(last)
        plain = _MARKS.sub("", stem)
        if plain != stem or (others and last.lower().endswith(".png")):
            candidates[f"{folder}/{plain}"].add(name)
        parent, _, inner = folder.rpartition("/")
        if parent and word(inner) in _WORDS:
            candidates[f"{parent}/{plain}"].add(name)
    if not candidates:
        return frozenset()
    return frozenset(_of_photos((*names, *photos), candidates, base))


def _of_photos(names: Iterable[str], candidates: dict[str, set[str]], base: Path) -> Iterator[str]:
    """The candidates whose photo is there."""
    for name in names:
        folder, _, last = name.rpartition("/")
        stem = sample_id(last)
        for mask in candidates.get(f"{folder}/{stem}", ()):
            if mask != name and (mask.rpartition("/")[0] != folder or _is_mask_of(mask, name, base)):
                yield mask
        parent = folder.rpartition("/")[0]  # cat/images/7.jpg and cat/masks/7.png
        yield from (mask for mask in candidates.get(f"{parent}/{stem}", ()) if _apart(mask, name))


def _is_mask_of(mask: str, photo: str, base: Path) -> bool:
    """Whether a file next to a photo has a mask's colours: none, or some areas of one each, which the photo has not.

    Of a file with the very name of the photo, but for its ending, only the latter tells.
    """
    other_name = sample_id(mask.rpartition("/")[2]) != sample_id(photo.rpartition("/")[2])
    return (other_name and is_colour(base / mask) is False) or (is_flat(base / mask) and not is_flat(base / photo))


def _apart(mask: str, photo: str) -> bool:
    """Whether a mask lies in a folder of masks next to the photo's folder, which is none."""
    of_mask, of_photo = (name.rpartition("/")[0].rpartition("/") for name in (mask, photo))
    return of_mask[0] == of_photo[0] and word(of_mask[2]) in _WORDS and word(of_photo[2]) not in _WORDS


def masks_left_out(masks: Sequence[str], base: Path) -> Iterator[Finding]:
    """What is said of masks among photos."""
    if masks:
        yield Finding(
            "warning",
            f"{some(len(masks), 'file')} in {base} named like masks of photos left out: {listed(masks)}",
            "to measure on them, move them to a folder masks of the same structure, under the photos' names",
        )


def not_named(photos: Iterable[str], named: Set[str], base: Path, by: str) -> Iterator[Finding]:
    """Files in the folder of photos that no list names."""
    unnamed = [name for name in photos if name not in named]
    masks = masks_among(unnamed, base, named)
    yield from masks_left_out(sorted(masks), base)
    unnamed = [name for name in unnamed if name not in masks]
    if unnamed:
        yield Finding(
            "note",
            f"{some(len(unnamed), 'photo')} in {base} not named in {by}: {listed(unnamed)}",
            "nobody tagged them, so they are not used",
        )
