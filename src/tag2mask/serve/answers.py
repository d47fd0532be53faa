"""What the server answers with: arrays as bytes with their shape, errors as one clear line."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tag2mask.errors import DamagedArtefact, InputError, printable
from tag2mask.files import DISK_FULL
from tag2mask.review import Conflict

log = logging.getLogger("tag2mask")


class Refused(Exception):
    """An answer with an HTTP status and one line for the person before the page."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))
        self.status = status


class Json(JSONResponse):
    """JSON in ASCII: ids may hold bytes that are no text, which UTF-8 cannot carry."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def error(status: int, message: str, **more: Any) -> Json:
    return Json({"error": message, **more}, status)


def array(values: np.ndarray, **more: object) -> Response:
    """An array of uint8, row by row; its shape and what belongs to it in headers."""
    assert values.dtype == np.uint8, values.dtype
    headers = {"X-Shape": ",".join(map(str, values.shape)), **{f"X-{k.title()}": str(v) for k, v in more.items()}}
    return Response(values.tobytes(), media_type="application/octet-stream", headers=headers)


def download(content: bytes, name: str, media_type: str) -> Response:
    """A file that the browser offers to save under this name (RFC 6266, RFC 8187)."""
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(printable(name), safe='')}"}
    return Response(content, media_type=media_type, headers=headers)


async def body(request: Request, limit: int, what: str) -> bytes:
    """The body of a request, never more of it in memory than ``limit`` bytes.

    Raises:
        Refused: it is larger.
    """
    parts, size = [], 0
    declared = request.headers.get("content-length", "0")
    async for part in request.stream():
        size += len(part)
        if size > limit or (declared.isdigit() and int(declared) > limit):
            raise Refused(413, f"{what} is larger than {limit / 1e6:.0f} MB, the most that this page takes")
        parts.append(part)
    return b"".join(parts)


def explained(exception: Exception) -> Json:
    """The answer to any exception; the server goes on."""
    if isinstance(exception, Refused):
        return error(exception.status, str(exception))
    if isinstance(exception, Conflict):
        current = exception.current
        return error(
            409, str(exception), current={"decision": current.decision, "who": current.who, "time": current.time,
                                          "revision": current.revision}
        )  # fmt: skip
    system = exception if isinstance(exception, OSError) else exception.__cause__
    if isinstance(system, OSError) and system.errno in DISK_FULL:
        return error(507, "the disk is full: nothing was kept; free some space and try again")
    if isinstance(exception, InputError):
        return error(410 if isinstance(exception, DamagedArtefact) else 422, str(exception))
    if isinstance(exception, OSError):
        gone = "; was it moved or deleted?" if isinstance(exception, FileNotFoundError) else ""
        return error(410, f"{exception.filename or 'a file of the run'}: {exception.strerror}{gone}")
    log.error("the page met a fault of ours", exc_info=exception)
    return error(500, f"a fault of ours ({type(exception).__name__}): the log of the server says more")


Handler = Callable[[Request], Awaitable[Response]]


def answering(handler: Handler) -> Handler:
    """A handler whose exceptions become answers."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as exception:
            return explained(exception)

    return answer
