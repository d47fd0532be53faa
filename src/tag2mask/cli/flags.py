"""Short flags, lists, and what a command shows while it works."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tag2mask.errors import InputError

# short flag -> the setting it stands for
SHORT = {
    "--classes": "--data.classes",
    "--layout": "--data.layout",
    "--tags": "--data.tags",
    "--truth": "--data.truth",
    "--truth-values": "--data.truth-values",
    "--saliency": "--data.saliency",
    "--negatives": "--data.negatives",
    "--class-names": "--data.class-names",
    "--train-split": "--data.train-split",
    "--val-split": "--data.val-split",
    "--backbone": "--backbone.name",
    "--weights": "--backbone.weights",
    "--freeze": "--backbone.freeze",
    "--from": "--start-from",
    "--freeze-until": "--backbone.freeze-until",
    "--epochs": "--train.epochs",
    "--scales": "--localize.scales",
    "--references": "--localize.references",
    "--background": "--pseudo.background",
    "--self-train": "--self-train.name",
    "--threshold": "--pseudo.threshold",
    "--segmenter": "--segmenter.name",
    "--text": "--text.prompts",
}
# each gives one more value
REPEATED = {"--text.prompts"}
# accept a,b,c too
LISTS = {
    "--data.classes", "--data.class-names", "--data.truth-values", "--localize.scales", "--inference.scales",
    "--self-train.denoise", "--text.background",
}  # fmt: skip


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Short flags to the settings they stand for; ``a,b,c`` and files of names to lists."""
    spelled: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not flag.startswith("--"):
            spelled.append(argument)
            continue
        spelled.append(SHORT.get(flag, flag))
        if equals:
            spelled.append(value)
    spelled = _joined(spelled)
    out: list[str] = []
    for index, argument in enumerate(spelled):
        if index and spelled[index - 1] in LISTS and not argument.startswith("--"):
            out += _listed(spelled[index - 1], argument)
        else:
            out.append(argument)
    return out


def as_given(said: str, arguments: Sequence[str]) -> str:
    """A message that names a setting by the short flag with which a command line gave it."""
    given = {argument.partition("=")[0] for argument in arguments}
    for short, flag in SHORT.items():
        if short in given and flag not in given:
            said = re.sub(rf"{re.escape(flag)}(?![\w.-])", short, said)
    return said


def _joined(arguments: Sequence[str]) -> list[str]:
    """Flags that are given more than once become one with all their values."""
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    of: list[str] | None = None
    for argument in arguments:
        if argument.startswith("--"):
            of = values.setdefault(argument, []) if argument in REPEATED else None
        elif of is not None:
            of.append(argument)
            continue
        if of is None:
            rest.append(argument)
    return [*rest, *(part for flag, given in values.items() for part in (flag, *given))]


def _listed(flag: str, argument: str) -> list[str]:
    path = Path(argument)
    if flag == "--data.classes" and "," not in argument and path.is_file():
        from tag2mask.data.reading import read_text

        lines = [line.split("#")[0].strip() for line in read_text(path, "classes").splitlines()]
        return [name for name in lines if name]
    return [part.strip() for part in argument.split(",") if part.strip()]


def take(arguments: list[str], flag: str, default: str, *, several: bool = False) -> str:
    """Take ``flag VALUE`` or ``flag=VALUE`` out of the arguments; ``several``: all values up to the next flag.

    Raises:
        InputError: the value is empty.
    """
    given = _taken(arguments, flag, several)
    if given is not None and not given.strip():
        raise InputError(f"{flag} is empty: give a value, or leave it out (is a variable of the shell not set?)")
    return default if given is None else given


def _taken(arguments: list[str], flag: str, several: bool) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            end = index + 2
            while several and end < len(arguments) and not arguments[end].startswith("-"):
                end += 1
            value = " ".join(arguments[index + 1 : end])
            del arguments[index:end]
            return value
        if argument.startswith(flag + "="):
            del arguments[index]
            return argument.partition("=")[2]
    return None


def show_progress() -> None:
    """Show the library's log and its bars; other libraries' notes only where they are warnings."""
    from tag2mask import progress

    warnings.filterwarnings("ignore", message="Image size")  # Pillow's; ours says the same, with what to do
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    own = logging.getLogger("tag2mask")
    main = is_main()
    own.setLevel(logging.ERROR if not main else logging.WARNING if _how == "quiet" else logging.INFO)
    own.handlers, own.propagate = [_EventHandler() if _how == "json" else _ConsoleHandler()], False
    progress.show(main and _how != "quiet")
    progress.listen(tell_json if main and _how == "json" else None)


def is_main() -> bool:
    """Whether this process speaks for all that were started with it."""
    from tag2mask import processes

    return processes.place().is_main


COMMANDS_WITH_EVENTS = ("train", "label", "demo", "predict")

_how: Literal["all", "quiet", "json"] = "all"


def choose_output(command: str, arguments: list[str]) -> list[str]:
    """The arguments without ``--quiet`` and, for commands with a run's progress, ``--json``; they say what
    :func:`show_progress` shows."""
    global _how
    own = ["--quiet", *(["--json"] if command in COMMANDS_WITH_EVENTS else [])]
    given = [argument for argument in arguments if argument in own]
    _how = "json" if "--json" in given else "quiet" if given else "all"
    return [argument for argument in arguments if argument not in own]


def tell_json(event: dict[str, Any]) -> None:
    """One JSON object a line on standard output, at once; never half a line, whatever the log does."""
    print(json.dumps(event, default=str), flush=True)


def say(text: str) -> None:
    """A result in words, for people."""
    if _how == "all":
        print(text)


def tell_error(message: str) -> None:
    """The event of an error, where events are wanted."""
    if _how == "json":
        tell_json({"event": "error", "message": message})


class _EventHandler(logging.Handler):
    """The log as events."""

    def emit(self, record: logging.LogRecord) -> None:
        tell_json({"event": "log", "level": record.levelname.lower(), "message": self.format(record)})


class _ConsoleHandler(logging.Handler):
    """The log on the console of the bars, so that neither writes over the other."""

    def emit(self, record: logging.LogRecord) -> None:
        from tag2mask.progress import console

        text = self.format(record)
        encoding = console().encoding or "utf-8"
        console().print(
            text.encode(encoding, "backslashreplace").decode(encoding), markup=False, soft_wrap=True, highlight=False
        )
