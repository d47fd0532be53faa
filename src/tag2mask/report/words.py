"""Numbers and settings as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def percent(value: float | None, digits: int = 1) -> str:
    """``57.3``; a dash where nothing was measured."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """``9.2 s``, ``4 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def counted(amount: int) -> str:
    """``12.3 million``, ``48,200``."""
    return f"{amount / 1e6:.1f} million" if amount >= 1e6 else f"{amount:,}"


def plain_setting(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_setting(item) for item in value) or "none"
    return str(value)


def flat_settings(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Groups of dotted names: ``{"train": {"a": 1, "b": {"c": 2}}}`` -> ``("train", [("a", 1), ("b.c", 2)])``."""

    def flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            return [pair for key, inner in value.items() for pair in flat(f"{prefix}.{key}" if prefix else key, inner)]
        return [(prefix, value)]

    single = [(key, value) for key, value in settings.items() if not isinstance(value, Mapping)]
    groups = [(key, flat("", value)) for key, value in settings.items() if isinstance(value, Mapping) and value]
    return ([("run", single)] if single else []) + groups
