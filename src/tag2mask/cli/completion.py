"""`completion`: a script for the shell that completes commands and flags. It is text: completing starts no Python."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence

from tag2mask.errors import InputError, unknown

USAGE = """\
usage: tag2mask completion bash|zsh|fish

  bash  tag2mask completion bash > ~/.local/share/bash-completion/completions/tag2mask
  zsh   tag2mask completion zsh > a folder of $fpath, as _tag2mask
  fish  tag2mask completion fish > ~/.config/fish/completions/tag2mask.fish
"""
FLAG = re.compile(r"(?<![\w-])--[a-z0-9][a-z0-9.-]*")


Command = Callable[[list[str]], int]


def completion(arguments: list[str], commands: Mapping[str, Command]) -> int:
    """Print the script of a shell."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    if len(arguments) != 1:
        raise InputError("say for which shell: tag2mask completion " + "|".join(SHELLS))
    if arguments[0] not in SHELLS:
        raise unknown("shell", arguments[0], SHELLS)
    print(SHELLS[arguments[0]](flags_of_commands(commands)), end="")
    return 0


def flags_of_commands(commands: Mapping[str, Command]) -> dict[str, list[str]]:
    """Command to its flags, as its help shows them."""
    from tag2mask.cli.flags import SHORT

    table = {}
    for name, command in commands.items():
        if name == "completion":
            table[name] = []
            continue
        shown = _printed(command, ["--help"])
        if name in ("train", "label", "plan", "demo"):
            source = commands["train"] if name == "demo" else command
            shown += " ".join(["", *SHORT, "--method", "--recipe", "--seeds ", _printed(source, ["--help-all"])])
        table[name] = sorted({flag.rstrip(".-") for flag in FLAG.findall(shown)} | {"--help"})
    return table


def _printed(command: Command, arguments: list[str]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        command(arguments)
    return text.getvalue()


def bash(table: Mapping[str, Sequence[str]]) -> str:
    """Files are completed where no flag is begun."""
    cases = "".join(f"    {name}) known='{' '.join(flags)}' ;;\n" for name, flags in table.items())
    return f"""\
_tag2mask() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" known=''
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W '{" ".join(table)}' -- "$current"))
    return
  fi
  [[ $current == -* ]] || return
  case "${{COMP_WORDS[1]}}" in
{cases}  esac
  COMPREPLY=($(compgen -W "$known" -- "$current"))
}}
complete -o default -F _tag2mask tag2mask
"""


def zsh(table: Mapping[str, Sequence[str]]) -> str:
    """Likewise."""
    cases = "".join(f"    {name}) compadd -- {' '.join(flags)} ;;\n" for name, flags in table.items() if flags)
    return f"""\
#compdef tag2mask
_tag2mask() {{
  if (( CURRENT == 2 )); then
    compadd -- {" ".join(table)}
    return
  fi
  if [[ $PREFIX != -* ]]; then
    _files
    return
  fi
  case "${{words[2]}}" in
{cases}  esac
}}
compdef _tag2mask tag2mask
"""


def fish(table: Mapping[str, Sequence[str]]) -> str:
    """Likewise."""
    lines = [f"complete -c tag2mask -f -n __fish_use_subcommand -a '{' '.join(table)}'"]
    for name, flags in table.items():
        lines += [f"complete -c tag2mask -n '__fish_seen_subcommand_from {name}' -l {flag[2:]}" for flag in flags]
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[Mapping[str, Sequence[str]]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
