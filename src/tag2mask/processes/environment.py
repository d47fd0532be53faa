"""Which of how many processes this one is, as torchrun, accelerate launch and their like say it in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tag2mask.errors import InputError


@dataclass(frozen=True)
class Place:
    """One process among those of a run, counted from 0; the main one is 0."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1  # processes on this machine

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def place() -> Place:
    """What RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE say; without them, one process.

    Raises:
        InputError: they are no numbers, or do not go together.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        return Place(local_rank=_number("LOCAL_RANK", 0))
    rank = _number("RANK", None)
    local_rank = _number("LOCAL_RANK", 0)
    local_world = _number("LOCAL_WORLD_SIZE", local_rank + 1)
    if not 0 <= rank < world or not 0 <= local_rank < local_world <= world:
        raise InputError(
            f"RANK {rank}, WORLD_SIZE {world}, LOCAL_RANK {local_rank} and LOCAL_WORLD_SIZE {local_world} do not go "
            "together: start `torchrun --nproc-per-node N -m tag2mask ...` or `accelerate launch`, which set them, or "
            "unset them to run as one process"
        )
    return Place(rank, world, local_rank, local_world)


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name) or ("" if default is None else str(default))
    if not text.isascii() or not text.isdigit() or (name.endswith("WORLD_SIZE") and int(text) == 0):
        said = (
            f"{name} is '{text}', which is no number of processes" if text else f"WORLD_SIZE is set and {name} is not"
        )
        raise InputError(
            f"{said}: start `torchrun --nproc-per-node N -m tag2mask ...` or `accelerate launch`, which set it, or "
            "unset it to run as one process"
        )
    return int(text)
