"""The page of a run: photos dropped on it are segmented, the run's photos reviewed. One process, one run.

Files: ``order`` and ``queue`` (which photo comes first), ``photos`` and ``uploads`` (what is asked of a photo),
``segmenting`` (probabilities that are kept), ``pixels`` (sizes), ``security`` (who may ask), ``app`` (addresses),
``answers`` (arrays and errors), ``page/`` (what the browser runs). What a person decides is kept by
:mod:`tag2mask.review`.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from tag2mask import interrupt
from tag2mask.errors import InputError

log = logging.getLogger("tag2mask")

PORT = 8765


def serve(
    run_folder: Path,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    ready: Callable[[str], None] = log.info,
) -> None:
    """Serve the page of a run until the process is interrupted.

    Args:
        host: the address to listen on. Other machines reach the page only where it is not 127.0.0.1.
        port: 0: any that is free.
        token: a secret that every request must bring; needed for any other host than this machine.
        ready: is told the page's address once it can be opened.

    Raises:
        InputError: no such run, the port is in use, no token for other machines, or the extra is not installed.
    """
    try:
        import uvicorn

        from tag2mask.serve import app, security
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise InputError(f"the page needs {error.name}: pip install 'tag2mask[serve]'") from error
    security.check_token(host, token)
    with listening(host, port) as listener:
        from tag2mask import pipeline
        from tag2mask.plan.folder import Run

        page = app.Page(pipeline.reopen(Run(Path(run_folder), existing=True)))
        config = uvicorn.Config(
            app.guarded(page, host, token), log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
        ready(address(host, listener.getsockname()[1], token))
        interrupt.end_if_asked()
        uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: the port is in use or not allowed, or this machine has no such address.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"cannot listen on --port {port}: ports are 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} is in use, perhaps by another `tag2mask serve`: give another with --port (0: any)"
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(f"port {port} may not be used by you: give one above 1023 with --port") from error
        raise InputError(
            f"cannot listen on --host {host} --port {port} ({error}): give an address of this machine"
        ) from error


def address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{shown}]" if ":" in shown else shown
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
