"""What a settings dataclass says of its fields: the range of their values, and whether a run's outcome depends on them.

Fields are marked where they are defined::

    ratio: Annotated[float, Range(above=0, at_most=1)] = 0.9
    workers: Annotated[int, Range(at_least=0), DecidesNothing()] = 0

A number without a range must still be finite.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from tag2mask.errors import InputError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Limits of a number, or of every number of a tuple; None: unlimited."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        limits = [
            f"{word} {number(limit)}"
            for word, limit in (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            if limit is not None
        ]
        return " and ".join(limits) or "a finite number"

    def holds(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class DecidesNothing:
    """Marks a setting that changes how fast or where something is done, and nothing of what comes out."""


@dataclass(frozen=True)
class ByFact:
    """Marks a setting that names a file: what decides is the file's content, a fact of this name.

    Where a stage does not depend on that fact, the setting reads as ``neutral``.
    """

    fact: str
    neutral: Any


def number(value: float) -> str:
    """As a person writes it: whole numbers with all their digits."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f"{value:g}"


SHARE = Range(at_least=0, at_most=1)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(at_least=0)
WIDTH = Range(at_least=1, at_most=8192)  # channels of a layer
REACH = Range(at_least=1, at_most=255)  # cells that a layer or a walk sees from one
SEED = Range(at_least=0, at_most=2**32 - 1)
THREADS = Range(at_least=0, at_most=1024)


@functools.cache
def markers(cls: type) -> dict[str, tuple[object, ...]]:
    """Field name to its markers, for a settings class."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: get_args(hints[f.name])[1:] if get_origin(hints[f.name]) is Annotated else () for f in fields(cls)}


def marker(settings: object, name: str, kind: type[T]) -> T | None:
    """The marker of this kind on a field; None where there is none."""
    return next((m for m in markers(type(settings)).get(name, ()) if isinstance(m, kind)), None)


def check_values(settings: Any, prefix: str) -> None:
    """Every number lies in its field's range, every choice is one of its field's; called from ``__post_init__``.

    Args:
        prefix: how the flags of these settings begin; empty: they are called by name alone.

    Raises:
        InputError: one does not.
    """
    for f in fields(settings):
        value = getattr(settings, f.name)
        flag = "--" + f"{prefix}.{f.name}".removeprefix(".").replace("_", "-")
        limits = marker(settings, f.name, Range) or Range()
        for of_field in _numbers(value):
            if not limits.holds(of_field):
                raise InputError(f"{flag} is {number(of_field)}: it must be {limits}")
        choices = _choices(type(settings))[f.name]
        for name in value if isinstance(value, tuple) else (value,):
            if choices and isinstance(name, str) and name not in choices:
                raise unknown(f"value of {flag}", name, choices)


@functools.cache
def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    """Field name to the names of its ``Literal``, also where that is an element or one of several types."""

    def within(hint: object) -> tuple[str, ...]:
        if get_origin(hint) is Literal:
            return tuple(name for name in get_args(hint) if isinstance(name, str))
        parts = [within(part) for part in get_args(hint)]
        return () if str in get_args(hint) else tuple(name for part in parts for name in part)

    return {name: within(hint) for name, hint in get_type_hints(cls).items()}


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def plain(settings: Any) -> Any:
    """Settings as JSON data."""
    if settings is None or isinstance(settings, (str, bool, int, float)):
        return settings
    content = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings
    return json.loads(json.dumps(content, default=str))


def deciding(settings: Any) -> dict[str, Any]:
    """Settings as JSON data, without those that decide nothing, or decide by the content of a file."""
    out: dict[str, Any] = {}
    for name in _that_decide(type(settings)):
        value = getattr(settings, name)
        out[name] = deciding(value) if is_dataclass(value) else plain(value)
    return out


@functools.cache
def _that_decide(cls: type) -> tuple[str, ...]:
    """Names of the fields of a settings class that decide something by themselves."""
    return tuple(n for n, of in markers(cls).items() if not any(isinstance(m, (DecidesNothing, ByFact)) for m in of))
