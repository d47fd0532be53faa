"""The page's server: what it answers to which address. All that lasts happens on threads."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tag2mask import pseudo
from tag2mask.plan.execute import Execution
from tag2mask.report.colors import class_colors
from tag2mask.review import VERDICTS, Review
from tag2mask.serve.answers import Handler, Json, Refused, answering, array, body, download, error
from tag2mask.serve.photos import Photos, labels_of
from tag2mask.serve.pixels import jpeg
from tag2mask.serve.queue import Queue
from tag2mask.serve.security import Guard
from tag2mask.serve.segmenting import Segmented, Segmenting
from tag2mask.serve.uploads import UPLOAD_BYTES, Uploads, mask_png

ROWS = 200  # of the list at once
LABEL_BYTES = 2_000_000  # of a mask that the page sends: a byte a pixel at its size
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Page:
    """The handlers of the page of one run."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.session = secrets.token_hex(
            4
        )  # no photo of an earlier server on this port is taken from the browser's memory
        self.segmenting = Segmenting(execution)
        self.uploads = Uploads(self.segmenting)
        review = Review(execution.run.folder, execution.data.train.classes, execution.data.photos)
        self.photos = Photos(execution, Queue(execution), review, self.segmenting)
        self.files = {
            file.name: (file.read_bytes(), TYPES[file.name.rpartition(".")[2]])
            for file in resources.files("tag2mask.serve").joinpath("page").iterdir()
        }

    def routes(self) -> list[Route]:
        """Address, handler, method."""
        table: list[tuple[str, Handler, str]] = [
            ("/", self.page, "GET"),
            ("/page/{name}", self.file, "GET"),
            ("/api/run", self.run, "GET"),
            ("/api/queue", self.rows, "GET"),
            ("/api/upcoming", self.upcoming, "GET"),
            ("/api/photos/{key}", self.row, "GET"),
            ("/api/photos/{key}/photo.jpg", self.photo, "GET"),
            ("/api/photos/{key}/mask", self.mask, "GET"),
            ("/api/photos/{key}/maps", self.maps, "GET"),
            ("/api/photos/{key}/prediction", self.prediction, "GET"),
            ("/api/photos/{key}/decision", self.decide, "POST"),
            ("/api/photos/{key}/mask.png", self.photo_png, "POST"),
            ("/api/uploads", self.upload, "POST"),
            ("/api/uploads/{key}/photo.jpg", self.uploaded_photo, "GET"),
            ("/api/uploads/{key}/maps", self.uploaded_maps, "GET"),
            ("/api/uploads/{key}/prediction", self.uploaded_prediction, "GET"),
            ("/api/uploads/{key}/mask.png", self.uploaded_png, "POST"),
        ]
        return [Route(path, answering(handler), methods=[method]) for path, handler, method in table]

    async def page(self, request: Request) -> Response:
        return self._file("page.html")

    async def file(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:  # names of a dict: no path is made of what is asked for
            raise Refused(404, "there is no such file")
        content, kind = self.files[name]
        return Response(content, media_type=kind)

    async def run(self, request: Request) -> Response:
        classes = self.photos.classes
        return Json(
            {
                "run": self.execution.run.folder.absolute().name,
                "classes": classes,
                "values": pseudo.mask_values(range(len(classes)))[1:].tolist(),
                "colors": class_colors(len(classes)),
                "photos": len(self.photos.queue),
                "largest_need": self.photos.queue.largest_need,
                "counts": await run_in_threadpool(self.photos.counts),
                "segmenter": self.segmenting.there,
                "refines": self.segmenting.refines,
                "upload_bytes": UPLOAD_BYTES,
                "session": self.session,
            }
        )

    async def rows(self, request: Request) -> Response:
        start, count = _number(request, "start", 0), min(_number(request, "count", 100), ROWS)
        positions = range(max(start, 0), max(min(start + count, len(self.photos.queue)), 0))
        return Json(await run_in_threadpool(self.photos.rows, positions))

    async def upcoming(self, request: Request) -> Response:
        after, count = _number(request, "after", -1), min(_number(request, "count", 4), 16)
        undecided = request.query_params.get("undecided") == "1"
        return Json(await run_in_threadpool(lambda: self.photos.upcoming(after, count, undecided=undecided)))

    async def row(self, request: Request) -> Response:
        return Json(await run_in_threadpool(self.photos.row, self._position(request)))

    async def photo(self, request: Request) -> Response:
        side = _number(request, "side", 0)
        position = self._position(request)
        content = await run_in_threadpool(self.photos.jpeg, position, min(side, 512) if side > 0 else None)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    async def mask(self, request: Request) -> Response:
        return array(await run_in_threadpool(self.photos.shown_mask, self._position(request)))

    async def maps(self, request: Request) -> Response:
        return _maps(*await run_in_threadpool(self.photos.maps, self._position(request)))

    async def prediction(self, request: Request) -> Response:
        position = self._position(request)
        return await self._predicted(request, lambda: self.photos.segmented(position))

    async def decide(self, request: Request) -> Response:
        position = self._position(request)
        verdict = VERDICTS.get(request.query_params.get("verdict", ""))
        if verdict is None:
            raise Refused(422, f"a decision is one of {', '.join(VERDICTS)}")
        work = await body(request, LABEL_BYTES, "the mask")
        tags, who = self._tags(request), request.query_params.get("who", "")[:80]
        await run_in_threadpool(self.photos.decide, position, verdict, work, tags, who, _number(request, "revision", 0))
        return Json({"row": await run_in_threadpool(self.photos.row, position), "counts": self.photos.counts()})

    async def photo_png(self, request: Request) -> Response:
        position = self._position(request)
        work = await body(request, LABEL_BYTES, "the mask")
        size = self.photos.queue.size(position)
        content = await run_in_threadpool(lambda: mask_png(self.photos.labels(position, work), size))
        return download(content, f"{self.photos.queue.sample(position).id.rpartition('/')[2]}.png", "image/png")

    async def upload(self, request: Request) -> Response:
        content = await body(request, UPLOAD_BYTES, "the file")
        name = request.query_params.get("name", "photo")
        key, plain, photo = await run_in_threadpool(self.uploads.add, name, content)
        tags = await run_in_threadpool(self.uploads.shown_classes, photo)
        work = list(photo.pixels.shape[:2])
        return Json({"key": key, "id": plain, "tags": tags, "size": list(photo.size), "work": work})

    async def uploaded_photo(self, request: Request) -> Response:
        photo = self.uploads.of(request.path_params["key"])
        return Response(await run_in_threadpool(jpeg, photo.pixels), media_type="image/jpeg")

    async def uploaded_maps(self, request: Request) -> Response:
        return _maps(*await run_in_threadpool(self.segmenting.maps, self.uploads.of(request.path_params["key"])))

    async def uploaded_prediction(self, request: Request) -> Response:
        return await self._predicted(request, lambda: self.uploads.of(request.path_params["key"]))

    async def uploaded_png(self, request: Request) -> Response:
        photo = self.uploads.of(request.path_params["key"])
        work = await body(request, LABEL_BYTES, "the mask")
        labels = labels_of(work, photo.pixels.shape[:2], len(self.photos.classes))
        return download(await run_in_threadpool(mask_png, labels, photo.size), "mask.png", "image/png")

    async def _predicted(self, request: Request, photo: Callable[[], Segmented]) -> Response:
        tags, refine = self._tags(request), request.query_params.get("refine") == "1"
        mask = await run_in_threadpool(lambda: self.segmenting.mask(photo(), tags, refine=refine))
        return array(mask)

    def _position(self, request: Request) -> int:
        return self.photos.position(request.path_params["key"])

    def _tags(self, request: Request) -> list[int] | None:
        """Classes by number, ``0,3``; None where nothing is said."""
        text = request.query_params.get("tags")
        if text is None:
            return None
        numbers = [_whole(part) for part in text.split(",") if part]
        if any(number is None or not 0 <= number < len(self.photos.classes) for number in numbers):
            raise Refused(422, "a tag is none of the run's classes: reload the page")
        return sorted({number for number in numbers if number is not None})


def _maps(classes: Any, scores: np.ndarray) -> Response:
    values = np.round(scores.clip(0, 1) * 255).astype(np.uint8)
    return array(values, classes=",".join(map(str, classes)))


def _number(request: Request, name: str, default: int) -> int:
    number = _whole(request.query_params.get(name, str(default)))
    if number is None:
        raise Refused(422, f"{name} is a whole number")
    return number


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text) else None


def guarded(page: Page, host: str = "127.0.0.1", token: str | None = None) -> Guard:
    """The ASGI application of a page.

    Args:
        host: that it will be reached at.
        token: that every request must bring.
    """

    async def unknown(request: Request, exception: Exception) -> Response:
        return error(404, "there is nothing here")

    return Guard(Starlette(routes=page.routes(), exception_handlers={404: unknown, 405: unknown}), host, token)
