"""Settings as a stage may see them: what it did not declare raises."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from tag2mask.plan.stage import Part, Stage
from tag2mask.settings import ByFact, DecidesNothing, deciding, marker, plain


class Undeclared(Exception):
    """A stage used something that it had not declared. A fault of ours: the stage's key would miss it."""


class SettingsView:
    """A settings dataclass of which a stage declared some paths. Reads like the dataclass.

    Settings that decide nothing can always be read. One that names a file reads as its neutral value, unless the stage
    declared the fact that stands for the file's content.
    """

    def __init__(self, settings: Any, stage: Stage, prefix: str = "") -> None:
        self._settings, self._stage, self._prefix = settings, stage, prefix

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        path = self._prefix + name
        if marker(self._settings, name, DecidesNothing) is not None:
            return value
        for declared in self._stage.settings:
            if isinstance(declared, Part):
                if declared.path == path:
                    return _without(_neutral(value, self._stage.facts), declared.without)
            elif declared == path:
                return _neutral(value, self._stage.facts)
        if is_dataclass(value) and any(_path(d).startswith(path + ".") for d in self._stage.settings):
            return SettingsView(value, self._stage, path + ".")
        if is_dataclass(value) and all(marker(value, f.name, DecidesNothing) for f in fields(value)):
            return value
        raise Undeclared(f"stage '{self._stage.name}' reads the setting {path} and does not declare it")


def declared_settings(settings: Any, stage: Stage) -> dict[str, Any]:
    """What a stage's key holds of the settings: dotted path to JSON data."""
    out = {}
    for declared in stage.settings:
        value = settings
        for name in _path(declared).split("."):
            value = getattr(value, name)
        if isinstance(declared, Part):
            value = _without(value, declared.without)
            out[declared.path] = {k: v for k, v in deciding(value).items() if k not in declared.without}
        else:
            out[declared] = deciding(value) if is_dataclass(value) else plain(value)
    return out


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Dotted paths at which two pieces of JSON data differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from differences(before.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif before != now:
        yield f"{path}: {before} -> {now}"


def _path(declared: str | Part) -> str:
    return declared.path if isinstance(declared, Part) else declared


def _without(value: Any, names: Collection[str]) -> Any:
    """The dataclass with the defaults of these fields."""
    plain = type(value)()
    return replace(value, **{name: getattr(plain, name) for name in names})


def _neutral(value: Any, facts: Collection[str]) -> Any:
    """The dataclass with neutral values of the fields that stand for facts which were not declared."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    hidden = {f.name: m for f in fields(value) if (m := marker(value, f.name, ByFact)) and m.fact not in facts}
    return replace(value, **{name: m.neutral for name, m in hidden.items()}) if hidden else value
