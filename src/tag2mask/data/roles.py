"""What the folders of a data set are: classes, splits, truth, photos without tags. Decided by what they hold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tag2mask.data.companions import GOOD_WORDS, MARK, PHOTO_WORDS, SALIENCY_WORDS, TRUTH_WORDS, word
from tag2mask.data.ids import sample_id
from tag2mask.data.peek import is_colour
from tag2mask.data.settings import is_split, split_name

Role = Literal["class", "good", "truth", "saliency", "photos", "split"]
Groups = Mapping[str, Sequence[str]]


class Meant(NamedTuple):
    """What folders are, where the user said it."""

    classes: frozenset[str]
    splits: frozenset[str]


def groups_of(names: Iterable[str], prefix: str = "") -> dict[str, list[str]]:
    """The photos under ``prefix`` by the folder there that holds them, relative to it; by "" those in no folder."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.startswith(prefix):
            folder, slash, rest = name[len(prefix) :].partition("/")
            groups[folder if slash else ""].append(rest if slash else folder)
    return dict(groups)


def role_of(folder: str, groups: Groups, base: Path, meant: Meant) -> Role:
    """What a folder of photos is.

    Args:
        folder: its name.
        groups: the photos of it and of the folders next to it.
        base: where they lie.
        meant: what the user said.
    """
    if folder in meant.splits and any("/" in name for name in groups[folder]):
        return "split"
    if folder in meant.classes:
        return "class"
    if word(folder) in GOOD_WORDS:
        return "good"
    if _are_masks(folder, groups, base) or _mirrors(folder, groups, base):
        return "truth"
    if is_split(folder) or (_numbered_split(folder) and any(is_split(name) for name in groups if name != folder)):
        return "split" if _is_split(folder, groups) else "class"
    if word(folder) in PHOTO_WORDS:
        return "photos"
    if word(folder) in SALIENCY_WORDS:
        return "saliency"
    if word(folder) in TRUTH_WORDS:
        return "class" if _are_photos(folder, groups, base) else "truth"
    return "class"


def _is_split(folder: str, groups: Groups) -> bool:
    """A class may be called ``train``, as one of VOC's: its folder holds photos, not folders, next to other classes."""
    others = [name for name in groups if name not in ("", folder)]
    if any("/" in name for name in groups[folder]) or split_name(folder) != "train":
        return True
    return not others or any(map(_numbered_split, others))


def _numbered_split(folder: str) -> bool:
    """``test1`` as well as ``test``."""
    return is_split(re.sub(r"[ _-]?\d{1,4}$", "", folder))


def _are_masks(folder: str, groups: Groups, base: Path) -> bool:
    """Whether a folder holds index masks that name their classes, as tag2mask writes its predictions."""
    named = (base / folder / "classes.txt").is_file()
    return named and all(is_colour(base / folder / name) is False for name in _spread(groups[folder]))


def _mirrors(folder: str, groups: Groups, base: Path) -> bool:
    """Whether ``disc_mask`` (``discannot``) holds files without colour, most of them named after photos in ``disc``."""
    of = re.sub(r"[ _.-]?annot$", "", MARK.sub("", folder))
    if of == folder or not groups.get(of):
        return False
    photos = {sample_id(name) for name in groups[of]}
    own = groups[folder]
    named = sum(bool(photos & {sample_id(name), MARK.sub("", sample_id(name))}) for name in own)
    return 2 * named >= len(own) and not any(is_colour(base / folder / name) for name in _spread(own))


def _spread(names: Sequence[str]) -> Sequence[str]:
    """About twenty of them."""
    return names[:: max(1, len(names) // 20)]


def _are_photos(folder: str, groups: Groups, base: Path) -> bool:
    """Whether a folder called as truth is holds photos of a class called so (faces with and without masks).

    Its files are truth where they are named after photos in the other folders. Else they are photos if they are in
    colour, which index masks never are, or if another folder is called ``no_`` or ``without_`` it.
    """
    others = {f"{other}/{sample_id(name)}" for other in groups if other not in ("", folder) for name in groups[other]}
    own = groups[folder]
    if 2 * sum(MARK.sub("", sample_id(name)) in others for name in own) >= len(own):
        return False
    examples = _spread(own)
    photos = sum(_is_photo(base / folder / name) for name in examples)
    return 2 * photos > len(examples) or any(_is_opposite(folder, other) for other in groups)


def _is_photo(path: Path) -> bool:
    colour = is_colour(path)
    return path.suffix.lower() in (".jpg", ".jpeg") if colour is None else colour


def _is_opposite(folder: str, other: str) -> bool:
    """``no_masks`` of ``masks``, ``with_mask`` of ``mask``."""
    thing = word(folder).rstrip("s")
    return word(other).rstrip("s") in {f"{prefix}{thing}" for prefix in ("no", "non", "not", "un", "without", "with")}
