"""Several real processes on one command, as torchrun starts them but without its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

TAG2MASK = [sys.executable, "-m", "tag2mask"]


def start(count: int, command: Sequence[object], **changes: str) -> list[subprocess.Popen[str]]:
    """So many processes that meet at a free port; each with one thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = []
    for rank in range(count):
        of_rank = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{n: str(v) for n, v in {**of_rank, **meeting}.items()}, **changes}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        found.append(subprocess.Popen([*map(str, command)], env=environment, text=True, **pipes))
    return found


def ended(processes: Sequence[subprocess.Popen[str]], timeout: float = 1500) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def run_all(count: int, command: Sequence[object], timeout: float = 1500) -> str:
    """Standard error of the main one of so many processes, all of which must end well."""
    results = ended(start(count, command), timeout)
    assert all(code == 0 for code, _ in results), results
    return results[0][1]
