"""Where in a stage's folder the artefact of a photo lies: a relative path made from the photo's id.

Ids come from file names, so they may be longer than a name can be once a suffix is added, hold bytes that are no text,
or be called like a file of ours. What is plain stays as it is; everything else is written as in web addresses.
"""

from __future__ import annotations

import hashlib
import re

FLAT = 100_000  # artefacts that lie in one folder, as far as their ids have none
LEAF = 500  # at most so many in a subfolder on average, so that none holds 1,000

LIMIT = 230  # bytes of one part of a path: most file systems hold 255, and suffixes and temporary names need some

_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file of Windows may be called so
_NO_NAMES = frozenset(
    ["", "con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))]
)
_FILE_LIKE = re.compile(r"(.*)\.([a-z][a-z0-9]{0,10})", re.IGNORECASE | re.DOTALL)


def safe_name(id_: str) -> str:
    """The relative path of a photo's artefacts, without suffix: ``stage.folder / (safe_name(id) + ".png")``.

    Two ids never share one, and no part is longer than :data:`LIMIT` bytes of UTF-8, hidden, ``..`` or a name of a
    device. Folders of the id stay folders. Written as ``%XX``, a byte each (UTF-8, as RFC 3986 has it): characters that
    do not print, bytes that are no text, ``%`` and a backslash; a leading or trailing dot, a trailing blank; the dot of
    a folder called like a file (``key.json/2``), which could be a file of the run. ``urllib.parse.unquote(name,
    errors="surrogatepass")`` gives the id back. A longer part is cut and ends in ``%~`` and 32 hex digits of it.
    """
    if _is_plain(id_):
        return id_  # nearly always, and there may be a million
    *folders, last = id_.split("/")
    return "/".join([*(_safe(part, folder=True) for part in folders), _safe(last, folder=False)])


def _is_plain(id_: str) -> bool:
    """Whether every part is of letters, digits, "_" and "-" alone, short, and no device."""
    letters = id_.replace("/", "").replace("_", "x").replace("-", "x")
    return len(id_) <= LIMIT and id_.isascii() and letters.isalnum() and _NO_NAMES.isdisjoint(id_.lower().split("/"))


def levels(photos: int) -> int:
    """How many subfolders deep the artefacts of so many photos lie: a folder of very many files is slow."""
    if photos <= FLAT:
        return 0
    return next(depth for depth in range(1, 5) if photos <= LEAF * 256**depth)


def spread_name(id_: str, depth: int) -> str:
    """:func:`safe_name` below ``depth`` subfolders ``00`` to ``ff``, which a digest of the id chooses."""
    chosen = hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if depth else ""
    return "/".join([*(chosen[2 * level : 2 * level + 2] for level in range(depth)), safe_name(id_)])


def _safe(part: str, *, folder: bool) -> str:
    text = "".join(c if c.isprintable() and c not in "%\\" else _escaped(c) for c in part)
    if _DEVICE.fullmatch(text):
        text = _escaped(text[0]) + text[1:]
    like_file = _FILE_LIKE.fullmatch(text) if folder else None
    if like_file:
        text = f"{like_file[1]}%2E{like_file[2]}"
    if text[-1:] in (".", " "):
        text = text[:-1] + _escaped(text[-1])
    if text[:1] == ".":
        text = _escaped(".") + text[1:]
    if not text or len(text.encode()) > LIMIT:
        return _cut(text, part)
    return text


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _cut(text: str, part: str) -> str:
    """The start of a text that is too long, and a digest of all of it."""
    end = "%~" + hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return text.encode()[: LIMIT - len(end)].decode("utf-8", "ignore") + end
