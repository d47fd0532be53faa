"""The real server of Label Studio, on SQLite and without network: what is imported comes out with the same pixels.

Its import answers 201 to nonsense too, so only the round trip says something. Slow: the first run installs the server.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from readers.environment import environment
from tag2mask.exchange import FORMATS, About
from tag2mask.exchange.check import CLASSES, check_same, odd_photos

TOKEN = "0123456789abcdef0123456789abcdef01234567"
READY = 420  # seconds until it answers: it makes its database first


class Server:
    """Its API."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, body, headers), timeout=120) as answer:
            return json.load(answer)

    def wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + READY
        while time.monotonic() < until:
            if process.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
            try:
                self.ask("/api/projects")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(2)
        pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    programs = environment("label-studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = tmp_path / "server"
    place.mkdir()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(place), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
        "DJANGO_DB": "sqlite", "PYTHONPATH": "", "HOME": str(place), "PATH": f"{programs}:{os.environ['PATH']}",
    }  # fmt: skip
    command = [str(programs / "label-studio"), "start", "--no-browser", "--port", str(port), "--data-dir", str(place),
               "--username", "a@example.org", "--password", "long-enough-1", "--user-token", TOKEN]  # fmt: skip
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=file, stderr=file, cwd=place)
    try:
        api = Server(port)
        api.wait(process, log)
        yield api
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_an_export_goes_through_the_server(server: Server, tmp_path: Path) -> None:
    photos, out = list(odd_photos(tmp_path / "photos")), tmp_path / "out"
    out.mkdir()
    about = About(CLASSES, "tag2mask test", "train", tmp_path / "photos")
    FORMATS["label-studio"].write(out, iter(photos), about)
    configuration = (out / "labelling.xml").read_text()
    project = server.ask("/api/projects", {"title": "tag2mask", "label_config": configuration})["id"]
    server.ask(f"/api/projects/{project}/import", json.loads((out / "tasks.json").read_text()))
    tasks = server.ask(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    assert len(tasks) == len(photos)
    for task in tasks:  # a person submits every prediction as it is, but the last, which nobody looks at
        if task["id"] == max(t["id"] for t in tasks):
            continue
        (prediction,) = server.ask(f"/api/predictions?task={task['id']}")
        assert prediction["model_version"] == "tag2mask test" and 0 <= prediction["score"] <= 1
        server.ask(f"/api/tasks/{task['id']}/annotations", {"result": prediction["result"]})
    corrected = server.ask(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    (tmp_path / "corrected.json").write_text(json.dumps(corrected))
    back = {drawn.name: drawn for drawn in FORMATS["label-studio"].read(tmp_path / "corrected.json", CLASSES)}
    assert len(back) == len(photos) - 1
    for photo in photos:
        if photo.name in back:
            check_same(photo, back[photo.name].mask, exact=True)
            assert back[photo.name].accepted and back[photo.name].who
