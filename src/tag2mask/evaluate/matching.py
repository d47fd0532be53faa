"""Which mask of one folder belongs to which of another: by name, whatever the habits of the tools that wrote them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from tag2mask.errors import InputError, listed
from tag2mask.files import read_object
from tag2mask.naming import safe_name

MADE_BY = ".predicted.json"
"""In a folder of predictions: what they are made of, and how many subfolders deep they lie (tag2mask.naming)."""

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless ones: a JPEG cannot hold indices
PHOTO_SUFFIXES = (*MASK_SUFFIXES, ".jpg", ".jpeg", ".webp")  # which some tools keep: a.jpg.png

# what tools put before or behind a photo's name to say that it is a mask
WORD = (
    r"(?:ground[ _-]?truth|gt|truth|masks?|labels?|label[ _-]?ids|seg(?:mentation)?(?:[ _-]?mask)?|anno(?:tation)?|"
    r"pred(?:iction)?)"
)
BEHIND, BEFORE = re.compile(rf"(?<=.)[ _.-]+{WORD}$"), re.compile(rf"^{WORD}[ _.-]+(?=.)")


def mask_files(folder: Path) -> dict[str, Path]:
    """Name to file of the index masks in a folder; a name is the path below the folder without suffix.

    Raises:
        InputError: no folder, no mask in it, or two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is {'a file' if folder.exists() else 'missing'}: give a folder of index masks")
    files: dict[str, Path] = {}
    depth = subfolders(folder)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() not in MASK_SUFFIXES or hidden or not path.is_file():
            continue
        name = Path(*relative.parts[min(depth, len(relative.parts) - 1) :]).with_suffix("").as_posix()
        if name in files:
            raise InputError(f"two masks for one image: {files[name]} and {path}; keep one of them")
        files[name] = path
    if not files:
        raise InputError(f"no index masks in {folder}: they are lossless images ({', '.join(MASK_SUFFIXES)})")
    return files


def subfolders(folder: Path) -> int:
    """How many subfolders deep the masks of a folder lie that `predict` or a run wrote; 0 of any other."""
    made = read_object(folder / MADE_BY) or read_object(folder / ".stage" / "key.json") or {}
    depth = made.get("subfolders", 0)
    return depth if isinstance(depth, int) else 0


def match(truths: Mapping[str, Path], predictions: Mapping[str, Path]) -> dict[str, str]:
    """Name of each truth mask to the name of its prediction, those that have one.

    Equal names first, and names as a run writes them (:func:`tag2mask.naming.safe_name`). What is left is matched by
    its :func:`bare_name`, where that names one mask on each side.

    Raises:
        InputError: several masks on one side have the bare name of one on the other.
    """
    pairs = {name: name for name in truths if name in predictions}
    pairs |= {n: written for n in truths.keys() - pairs.keys() if (written := safe_name(n)) in predictions}
    left = _by_bare_name(name for name in truths if name not in pairs)
    right = _by_bare_name(predictions.keys() - pairs.values())
    for bare in left.keys() & right.keys():
        if len(left[bare]) > 1 or len(right[bare]) > 1:
            raise InputError(
                f"which masks belong together cannot be told: {listed(left[bare])} of the truth and "
                f"{listed(right[bare])} of the predictions all look like '{bare}': give equal names"
            )
        pairs[left[bare][0]] = right[bare][0]
    return pairs


def bare_name(name: str) -> str:
    """A mask's name without what says that it is one: ``Sub/A_mask``, ``sub/a.jpg`` and ``sub/gt_a`` are ``sub/a``."""
    folder, slash, last = unicodedata.normalize("NFC", name).casefold().rpartition("/")
    before = None
    while last != before:
        before = last
        stem, dot, end = last.rpartition(".")
        if stem and dot + end in PHOTO_SUFFIXES:
            last = stem
        last = BEFORE.sub("", BEHIND.sub("", last))
    return folder + slash + last


def _by_bare_name(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(bare_name(name), []).append(name)
    return groups
