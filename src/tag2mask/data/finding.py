"""What is worth knowing about a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tag2mask.errors import printable

Level = Literal["error", "warning", "note", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note", "info")


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing."""

    level: Level
    # error: training would fail or teach nonsense; warning: masks will suffer; note: how something was taken, which a
    # run says, too; info: figures
    message: str  # what, where, how much
    advice: str = ""  # what to do about it

    def __str__(self) -> str:
        """One line, safe to print."""
        return printable(f"{self.message}: {self.advice}" if self.advice else self.message)
