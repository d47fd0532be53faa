"""Fuzzing for readers: damaged copies of good files, of which only our own errors may come out, and nothing may hang.

    @fuzz.cases
    def test_my_format(tmp_path, count):
        fuzz.survives(read_my_format, tmp_path / "a.xyz", fuzz.damaged([good], count))

``cases`` gives 300 cases in the fast suite and 10,000 in the slow one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tag2mask.errors import InputError

FAST, THOROUGH = 300, 10_000
SECONDS = 10.0  # that one case may take; nearly all take a thousandth of it

# 10,000 cases of the slowest take two minutes of CPU, and a busy machine gives a tenth of one: each case has its limit
_PATIENT = pytest.mark.timeout(0)
cases = pytest.mark.parametrize("count", [FAST, pytest.param(THOROUGH, marks=[pytest.mark.slow, _PATIENT])])
cases_of_runs = pytest.mark.parametrize(
    "count", [FAST, pytest.param(THOROUGH, marks=[pytest.mark.exhaustive, _PATIENT])]
)

# What breaks parsers of texts: quotes, separators, line ends, marks, numbers without end, other alphabets and escapes.
TOKENS: tuple[bytes, ...] = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b";", b"|", b"\t", b"..", b"../",
    b"/", b"\\", b"-1", b"1e999", b"nan", b"9" * 30, b"9" * 5000, b"\x1b[31m", b"\xe2\x80\xae", b"\xe2\x80\x8b",
    b"\xed\xa0\x80", b"\xc3", b"\x85", b"{", b"}", b"[", b"]", b"<", b">", b"&", b"&#0;", b"null", b"None",
    b"background", b"/dev/zero", b"%s",
)  # fmt: skip


class Outcome(NamedTuple):
    """How many damaged files could be read all the same, and how many were refused."""

    read: int
    refused: int


def damaged(seeds: Sequence[bytes], count: int, tokens: Sequence[bytes] = TOKENS, seed: int = 0) -> Iterator[bytes]:
    """``count`` damaged copies of good files: bytes changed, cut out, doubled, put in; two files in one; cut off."""
    random = np.random.default_rng([seed, 20])
    for _ in range(count):
        content = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.geometric(0.6)):
            _damage(content, seeds, tokens, random)
        yield bytes(content)


def _damage(content: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes], random: np.random.Generator) -> None:
    start = int(random.integers(len(content) + 1))
    end = min(len(content), start + int(random.geometric(0.2)))
    match random.integers(20):
        case 0 | 1 | 2 | 3:
            content[start:end] = random.bytes(end - start)
        case 4 | 5 | 6 | 7:
            del content[start:end]
        case 8 | 9:
            content[start:start] = content[start:end] * int(random.integers(1, 20))
        case 10 | 11 | 12 | 13:
            content[start:start] = tokens[random.integers(len(tokens))]
        case 14 | 15 | 16 | 17:
            content[start:end] = tokens[random.integers(len(tokens))]
        case 18:
            other = seeds[random.integers(len(seeds))]
            content[start:] = other[int(random.integers(len(other) + 1)) :]
        case _:
            del content[start:]


def survives(read: Callable[[Path], object], path: Path, contents: Iterable[bytes]) -> Outcome:
    """Write each content to ``path`` and read it: it is read, or refused in one clear line, and soon."""
    done = refused = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        path.write_bytes(content)
        start = time.monotonic()
        try:
            read(path)
            done += 1
        except InputError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) <= 2000, (number, content[:500])
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}\n{content[:2000]!r}") from error
        assert time.monotonic() - start < SECONDS, (number, content[:500])
    return Outcome(done, refused)
