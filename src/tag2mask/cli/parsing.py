"""Flags of a command to its settings: by tyro, which says in a box of several lines what is wrong; here it is one."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tag2mask.errors import InputError

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # where standard output is a terminal
RULE = re.compile(r"[─╰╯-]{6,}")
FLAG = re.compile(r"^--[\w.-]+")
NO_TYPE = re.compile(r"Error parsing (\S+): no type matching (.+?) could be instantiated from \[(.*?)\]\.?")
INVALID = re.compile(r"Error parsing (\S+): (.+)")
MISSING_VALUE = re.compile(r"Missing value for argument '(\S+)'\. Expected (\d+) values?\.?")
NO_CHOICE = re.compile(r"invalid choice (.+?) for argument '(\S+)'\. Expected one of \((.+?),?\)")
MISSING = re.compile(r"Missing from .*?: (.+)")
NAMES = re.compile(r"--[\w.-]+(?: [A-Z|{}]+)?(?= |$)|\b[A-Z]+ [A-Z]+\b")
NOT_WHOLE = re.compile(r"invalid literal for int\(\) with base 10: (.+)")
NOT_A_NUMBER = re.compile(r"could not convert string to float: (.+)")
WORDS = {"FLOAT": "a number", "INT": "a whole number", "PATH": "a path", "STR": "a word", "None": "none"}


def parse(kind: Any, arguments: Sequence[str], command: str, *, config: tuple[Any, ...] = ()) -> Any:
    """The settings of a command, an instance of ``kind``, read from its arguments.

    Raises:
        InputError: one line: an unknown flag, a value that is none, something missing.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(kind, args=arguments, prog=f"tag2mask {command}", config=config)
        if "" in arguments:
            _refuse_empty_paths(parsed)
        return parsed
    except InputError as error:
        raise InputError(_by_its_flag(str(error), arguments)) from error
    except SystemExit as end:
        if not end.code:
            raise
    raise InputError(f"{in_one_line(said.getvalue())}; `tag2mask {command.split()[0]} --help` shows the settings")


def field_texts(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass in its source."""
    (of_class,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(of_class, ast.ClassDef)
    texts = {}
    for field, below in pairwise(of_class.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return texts


def _by_its_flag(said: str, arguments: Sequence[str]) -> str:
    """Several trainings, and the views of several, have the same settings, which know only the first one's flag: the
    one that was given is named, or, of a value that does not go with a default, the training of that value."""
    named = re.match(r"--(train|augment)\.([\w-]+) (is )?(\S+?):? ", said)
    if named is None:
        return said
    of_kind = re.compile(rf"--((?:[\w-]+-)?{named[1]})\.([\w-]+)")
    words = [word for argument in arguments for word in argument.split("=", 1)]
    given = [(flag[1], flag[2], value) for word, value in pairwise(words) if (flag := of_kind.fullmatch(word))]
    meant = [(group, value) for group, name, value in given if name == named[2]]
    if len(meant) > 1:
        meant = [(group, value) for group, value in meant if _same(value, named[4])]
    elif not meant and not named[3]:
        told = re.findall(r"[^\s:,]+", said)
        meant = [(group, value) for group, _, value in given if any(_same(value, word) for word in told)]
    return f"--{meant[0][0]}{said[2 + len(named[1]) :]}" if meant else said


def _same(value: str, other: str) -> bool:
    try:
        return float(value) == float(other)
    except ValueError:
        return value == other


def _refuse_empty_paths(settings: Any, above: str = "--") -> None:
    """An empty text would be the folder at hand, which nobody meant whose shell had a variable unset."""
    for f in dataclasses.fields(settings):
        value, flag = getattr(settings, f.name), above + f.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            _refuse_empty_paths(value, f"{flag}.")
        elif Path() in (value if isinstance(value, tuple) else (value,)):
            name = f.name if f.name.isupper() else flag
            raise InputError(f"{name} is empty: give a path (is a variable of the shell not set?)")


def in_one_line(box: str) -> str:
    """What tyro says in a box, drawn in Unicode or ASCII: its first part, with the flags that it takes for meant."""
    parts: list[list[str]] = [[]]
    for line in COLOURS.sub("", box).splitlines()[1:]:  # the first is the title
        text = line.strip(" │")
        if RULE.fullmatch(text):
            parts.append([])
        elif text:
            parts[-1].append(text)
    parts = [part for part in parts if part] or [["flags that cannot be read"]]
    return _reworded(" ".join(parts[0])) + _meant(parts[1:])


def _meant(parts: list[list[str]]) -> str:
    """``: did you mean ...?``, where tyro has a guess."""
    for part in parts:
        if part[0].startswith("Perhaps you meant"):
            flags = dict.fromkeys(found.group() for line in part if (found := FLAG.match(line)))
            return f": did you mean {' or '.join(flags)}?" if flags else ""
    return ""


def _reworded(said: str) -> str:
    """tyro's sentence in the words of our other messages."""
    said = said.split(" Got errors:")[0]
    if found := NO_TYPE.search(said):
        return f"{found[1]} is {found[3]}: give {_in_words(found[2])}"
    if found := NO_CHOICE.search(said):
        return f"{found[2]} is {found[1]}: give {' or '.join(found[3].replace(chr(39), '').split(', '))}"
    if found := INVALID.search(said):
        return f"{found[1]} is {_in_words(found[2].rstrip('.'))}"
    if found := MISSING_VALUE.search(said):
        return f"{found[1]} is given without a value" if found[1].startswith("-") else f"{found[1]} is missing"
    if found := MISSING.search(said):
        return f"missing: {', '.join(NAMES.findall(found[1])) or found[1]}"
    return re.sub(r"^Unrecognized options?: ", "unknown flag or argument ", said)


def _in_words(types: str) -> str:
    """``FLOAT|{auto}`` as "a number or auto"; Python's complaints of a number in words, too."""
    if found := NOT_WHOLE.search(types):
        return f"{found[1]}: give a whole number"
    if found := NOT_A_NUMBER.search(types):
        return f"{found[1]}: give a number"
    if found := re.match(r"Could not find valid parse for arguments: \[(.*)\]", types):
        return f"{found[1]}: not a value that it can have"
    return " or ".join(WORDS.get(part, part) for part in re.split(r"[|,]", types.replace("{", "").replace("}", "")))
