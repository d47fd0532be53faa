"""A run that is served by a real server on a thread, and requests to it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from tag2mask import pipeline
from tag2mask.plan.folder import Run
from tag2mask.serve import app, listening, security

OWN = {"X-Tag2mask": "1"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.content, np.uint8).reshape([int(n) for n in self.headers["x-shape"].split(",")])


@dataclass
class Served:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method: str, path: str, content: bytes | None = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, names)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def post(self, path: str, content: bytes = b"") -> Answer:
        return self.ask("POST", path, content, **OWN)

    def rows(self) -> list[dict[str, Any]]:
        return self.get("/api/queue?count=200").json

    def decide(self, row: dict[str, Any], verdict: str, content: bytes = b"", **more: object) -> Answer:
        query = "&".join(f"{k}={v}" for k, v in {"verdict": verdict, "revision": row["revision"], **more}.items())
        return self.post(f"/api/photos/{row['key']}/decision?{query}", content)


@contextlib.contextmanager
def served(run: Path, host: str = "127.0.0.1", token: str | None = None) -> Iterator[Served]:
    execution = pipeline.reopen(Run(run, existing=True))
    with started(app.guarded(app.Page(execution), host, token)) as server:
        yield server


@contextlib.contextmanager
def started(page: security.Guard) -> Iterator[Served]:
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(page, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield Served(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
