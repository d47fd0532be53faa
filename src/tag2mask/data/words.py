"""Tags as people write them: which are the same word, which only look so, and which are no class at all.

The same are spellings that differ in what nobody sees (Unicode's composed and decomposed letters, kinds of blanks,
characters without width) and in capitals. What looks alike beyond that (``traffic_light`` and ``traffic light``,
Cyrillic letters among Latin ones, a plural) may be two classes, so it is only said.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tag2mask.errors import InputError, printable

LONGEST = 200  # characters of a class name

MISSING = frozenset({
    "nan", "none", "null", "nil", "n/a", "na", "#n/a", "<na>", "nat", "-", "--", "---", "?", "[]", "{}", "()", '""',
    "''", "#ref!", "#name?", "#value!", "#null!", "#num!", "#div/0!",
})  # fmt: skip
"""How programs and people write an empty cell, folded."""

# Letters of other alphabets that look like Latin ones (the common part of Unicode's confusables.txt).
_LATIN_LOOKS = str.maketrans(
    "аеорсухіјѕһԁԛԝвкмнтгαεορτυχνικη",
    "aeopcyxijshdqwbkmhtraeoptuxvikn",
)


@functools.lru_cache(maxsize=1 << 16)
def clean(text: str) -> str:
    """A tag as it is shown: composed (NFC), without characters that do not print, every blank one blank, none at the
    ends."""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip(" ")
    text = "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    return " ".join("".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cs")).split())


@functools.lru_cache(maxsize=1 << 16)
def folded(text: str) -> str:
    """Equal for spellings of one word."""
    if text.isascii() and text.isprintable():
        return clean(text).lower()
    return unicodedata.normalize("NFC", clean("".join(map(_usual, text))).casefold())


def _usual(character: str) -> str:
    """Letters of East Asian width as usual ones; of a symbol's forms (an emoji, a text) none."""
    if "\ufe00" <= character <= "\ufe0f":
        return ""
    wide = "\uff00" <= character <= "\uffef"
    return unicodedata.normalize("NFKC", character) if wide else character


_COPY = re.compile(r"\s*\(\d+\)$|[\s_-]+copy(\s*\(?\d+\)?)?$")  # how systems call a second folder of one name


def _skeleton(text: str) -> str:
    """Equal for words that look alike: no accents, separators, plural or mark of a copy, letters of other alphabets as
    Latin ones."""
    text = unicodedata.normalize("NFKD", _COPY.sub("", folded(text)))
    text = re.sub(r"[\W_]", "", "".join(c for c in text if not unicodedata.combining(c)).translate(_LATIN_LOOKS))
    return text[:-1] if len(text) > 3 and text.endswith("s") and not text.endswith("ss") else text


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and which spelling means which."""

    names: tuple[str, ...]
    number: Mapping[str, int]  # by spelling, as it was met
    explicit: bool = False  # the names were listed by the user, so they are meant as they stand
    merged: tuple[tuple[str, ...], ...] = ()  # spellings that are taken as one, where they differ in capitals


def merge(spellings: Iterable[str], *, alphabetical: bool = True) -> Classes:
    """The classes that these spellings are of, in alphabetical order or in that of their first spelling.

    Of several spellings, one without capitals names the class.
    """
    groups: dict[str, dict[str, None]] = {}
    for spelling in spellings:
        groups.setdefault(folded(spelling), {})[spelling] = None
    shown = {key: min({clean(s) for s in group}, key=lambda s: (s != s.lower(), s)) for key, group in groups.items()}
    order = sorted(groups, key=lambda key: shown[key]) if alphabetical else list(groups)
    number = {spelling: index for index, key in enumerate(order) for spelling in groups[key]}
    merged = [tuple(sorted({clean(s) for s in groups[key]})) for key in order]
    return Classes(tuple(shown[key] for key in order), number, merged=tuple(m for m in merged if len(m) > 1))


def listed_classes(names: Sequence[str], spellings: Iterable[str] = ()) -> Classes:
    """Classes that the user listed: they stay apart however much they look alike, and spellings find theirs.

    A spelling that is none of them has no number: see :func:`tag2mask.errors.unknown`.
    """
    exact = {clean(name): index for index, name in enumerate(names)}
    loose: dict[str, int | None] = {}
    for name, index in exact.items():
        loose[folded(name)] = None if folded(name) in loose else index  # None: of two, only the exact word tells
    number = {}
    for spelling in {*names, *spellings}:
        index = exact.get(clean(spelling), loose.get(folded(spelling)))
        if index is not None:
            number[spelling] = index
    return Classes(tuple(map(clean, names)), number, explicit=True)


def no_class(name: str) -> str | None:
    """Why a word cannot name a class and what to do, or None."""
    key = folded(name)
    if re.fullmatch(r"_*background_*|_*bg_+|_+bg", key):
        return (
            "background is no class, it is what no tag covers (value 0 of masks): leave it out of the tags, or select "
            "the other classes with --classes; photos of it alone then show none of them"
        )
    if not key:
        return "a name without letters: write a name"
    if key in MISSING:
        return (
            f"'{printable(name)}' is how programs write an empty cell: leave the tag empty if the photo shows none of "
            "the classes, leave the photo out if nobody tagged it; or list it in classes.txt if it is a class"
        )
    if re.match(r"[\[{\"“”„«»]|\(.*\)$|(['`]).*\1$|‘.*’$", name) or re.search(
        r"[\]}\"“”„«»]$|[:=]\s*(0|[01]?\.\d+)$", name
    ):
        return f"{printable(name)} is in a program's notation: write the tags themselves, separated by ;"
    if re.search(r"&(#\d+|[a-z]+)$", name):
        return f"{printable(name)} was cut at the ; of a character written as in web pages: write the character itself"
    if len(name) > LONGEST:
        return f"'{printable(name[:40])}...' has {len(name)} characters: shorten it"
    return None


def check_class(name: str, where: str, *, explicit: bool = False) -> None:
    """Refuse a class that cannot be one. Where the user listed it, only background is refused."""
    reason = no_class(name)
    if reason and not (explicit and folded(name) in MISSING):
        raise InputError(f"{where}: {reason}" if where else reason)


def several_words(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Names that consist of others, ``cat dog`` or ``cat/dog`` where there are ``cat`` and ``dog``, and their parts."""
    names = list(names)
    known = {folded(name) for name in names}
    for name in names:
        parts = [part for part in re.split(r"(?:[\s/\\&+]|\band\b)+", name) if part]
        if len(parts) > 1 and all(folded(part) in known for part in parts):
            yield name, parts


def joined(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names in which another is joined to a word that is none, ``cat & dog`` where there is ``cat``, or to a further
    one, ``cat_dog``; and that other."""
    known = {folded(name): name for name in names}
    for name in known.values():
        parts = [part.strip() for part in re.split(r"[/\\&+]|\band\b", name)]
        if len(parts) == 1 and all(folded(part) in known for part in name.split("_")):
            parts = name.split("_")
        part = next((known[folded(part)] for part in parts if folded(part) in known), None)
        if len(parts) > 1 and part is not None:
            yield name, part


def look_alike(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Groups of names that look alike and are not the same."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_skeleton(name) or name].append(name)
    return (tuple(group) for group in groups.values() if len(group) > 1)


def misspelt(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Rare names that differ by one letter from a frequent one: the rare one, then the frequent one.

    Args:
        counts: photos of each class.
    """
    deletions: defaultdict[str, list[str]] = defaultdict(list)
    for name in counts:
        if len(name) >= 5:
            for cut in {name, *(name[:i] + name[i + 1 :] for i in range(len(name)))}:
                deletions[folded(cut)].append(name)
    pairs = {pair for group in deletions.values() for pair in itertools.permutations(sorted(set(group)), 2)}
    yield from sorted((a, b) for a, b in pairs if counts[a] and 20 * counts[a] <= counts[b])
