"""The page's server: who may ask, what it answers, what it keeps. A real server, a real run."""

import errno
import io
import json
import os
import shutil
import socket
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving import Served, served
from tag2mask import need, pipeline
from tag2mask import review as review_module
from tag2mask.data.images import read_index_mask
from tag2mask.errors import InputError
from tag2mask.exchange import format_of
from tag2mask.plan.folder import Run
from tag2mask.review import Conflict, Review
from tag2mask.serve import answers, order, pixels, security
from tag2mask.serve.queue import address
from world import CLASSES, SMALL, fails, run

TOKEN = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def small_run(world, tmp_path_factory):
    """A finished run; read only."""
    out = tmp_path_factory.mktemp("serve") / "run"
    assert run("train", world, "--method", "cam", "--out", out, *SMALL) == 0
    return out


@pytest.fixture
def copy(small_run, tmp_path):
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(small_run):
    with served(small_run) as one:
        yield one


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# --- who may ask ---------------------------------------------------------------------------------------------------


def test_the_page_and_what_the_browser_is_told(page: Served):
    answer = page.get("/")
    assert answer.status == 200 and b"page/main.js" in answer.content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    for text in (answer.content, page.get("/page/main.js").content, page.get("/page/page.css").content):
        assert b"https://" not in text and b"//cdn" not in text, "the page asks nobody else"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_other_names_of_this_machine_are_refused(page: Served, host):
    assert page.get("/", Host=host).status == 421
    assert page.get("/api/run", Host=host).status == 421


def test_other_sites_may_not_ask(page: Served):
    assert page.get("/api/run", Sec_Fetch_Site="cross-site").status == 403
    row = page.rows()[0]
    assert page.ask("POST", f"/api/photos/{row['key']}/decision?verdict=rejected&revision=0").status == 403
    assert page.rows()[0]["decision"] is None


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e%2f__init__.py", "/../../../etc/passwd", "/run.json",
     "/page//etc/passwd", "/api/photos/..%2f..%2frun.json/photo.jpg", "/api/photos/0000000000000000/photo.jpg"],
)  # fmt: skip
def test_no_path_of_the_machine_is_reached(page: Served, path):
    answer = page.get(path)
    assert answer.status == 404 and "error" in answer.json


def test_a_token_is_asked_of_everybody(small_run):
    with served(small_run, host="0.0.0.0", token=TOKEN) as page:
        assert page.get("/").status == page.get("/api/run").status == 401
        assert page.get("/?token=wrong-secret-of-the-test").status == 401
        assert page.get("/api/run", Authorization="Bearer x").status == 401
        assert page.get("/api/run", Authorization=f"Bearer {TOKEN}").status == 200
        opened = page.get(f"/?token={TOKEN}")
        assert opened.status == 303 and opened.headers["location"] == "/"
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert page.get("/", Cookie=cookie.split(";")[0]).status == 200
        assert page.get("/", Host="evil.example", Cookie=cookie.split(";")[0]).status == 421
        assert page.get("/", Host="192.168.1.7:8765", Cookie=cookie.split(";")[0]).status == 200


def test_other_machines_need_a_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        security.check_token(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.7", "gpu-box"):
        with pytest.raises(InputError, match="add --token"):
            security.check_token(host, None)
    with pytest.raises(InputError, match="easy to guess"):
        security.check_token("0.0.0.0", "1234")


# --- the command ---------------------------------------------------------------------------------------------------


def test_any_text_can_be_answered():
    said = answers.Json({"id": "\udcff", "class": "ü<b>"}).body
    assert json.loads(said) == {"id": "\udcff", "class": "ü<b>"}
    assert "%5Cudcff" in answers.download(b"", "\udcff", "image/png").headers["content-disposition"]


def test_the_port_is_in_use(small_run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} is in use" in fails(capsys, "serve", small_run, "--port", port)


def test_what_cannot_be_served(small_run, tmp_path, capsys, monkeypatch):
    assert "add --token" in fails(capsys, "serve", small_run, "--host", "0.0.0.0", "--port", "0")
    assert "is not a run folder" in fails(capsys, "serve", tmp_path, "--port", "0")
    assert "cannot listen" in fails(capsys, "serve", small_run, "--port", "99999")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'tag2mask[serve]'" in fails(capsys, "serve", small_run)


# --- photos --------------------------------------------------------------------------------------------------------


def test_the_queue_begins_with_the_greatest_need(small_run, page: Served):
    rows = page.rows()
    assert len(rows) == page.get("/api/run").json["photos"] == 12
    needs = [row["need"] for row in rows]
    assert needs == sorted(needs, reverse=True)
    execution = pipeline.reopen(Run(small_run, existing=True))
    scored = need.scores(execution)
    assert needs == pytest.approx([scored[row["split"], row["id"]] for row in rows], abs=1e-4)
    assert [row["position"] for row in rows] == list(range(12))
    assert {row["split"] for row in rows} == {"train", "val"}
    assert page.get("/api/queue?start=5&count=2").json == rows[5:7]
    assert page.get("/api/queue?start=50").json == page.get("/api/queue?start=-9&count=4").json == []
    assert page.get("/api/queue?start=x").status == 422


def test_a_large_run_opens_before_it_is_scored(copy, monkeypatch):
    """By the recorded uncertainty at first; by the score at the next start."""
    (copy / need.FILE).unlink(missing_ok=True)
    monkeypatch.setattr(order, "AT_ONCE", 3)
    with served(copy) as page:
        records = (copy / "masks-1" / ".stage" / "records.jsonl").read_text().splitlines()
        uncertain = {r["id"]: r["uncertainty"] for r in map(json.loads, records)}
        rows = [row for row in page.rows() if row["split"] == "train"]
        assert [row["need"] for row in rows] == pytest.approx([uncertain[row["id"]] for row in rows], abs=1e-3)
        for _ in range(600):
            if (copy / need.FILE).exists():
                break
            time.sleep(0.1)
    scored = need.scores(pipeline.reopen(Run(copy, existing=True)))
    assert scored != pytest.approx(uncertain, abs=1e-3)
    with served(copy) as page:
        needs = [row["need"] for row in page.rows()]
        assert needs == pytest.approx(sorted(scored.values(), reverse=True), abs=1e-4)


def test_masks_and_photos_are_the_run_s(world, small_run, page: Served):
    for row in page.rows():
        stage = "masks-1" if row["split"] == "train" else "predictions"
        mask = read_index_mask(small_run / stage / f"{row['id']}.png")
        assert np.array_equal(page.get(f"/api/photos/{row['key']}/mask").array, mask)
        shown = Image.open(io.BytesIO(page.get(f"/api/photos/{row['key']}/photo.jpg").content))
        photo = Image.open(world / "images" / f"{row['id']}.png")
        assert shown.size == photo.size and np.abs(np.asarray(shown, float) - np.asarray(photo, float)).mean() < 25
        assert max(Image.open(io.BytesIO(page.get(f"/api/photos/{row['key']}/photo.jpg?side=30").content)).size) == 30


def test_maps_are_of_the_photo_s_tags(page: Served):
    row = next(row for row in page.rows() if row["split"] == "train" and len(row["tags"]) == 2)
    answer = page.get(f"/api/photos/{row['key']}/maps")
    assert answer.headers["x-classes"] == "0,1" and answer.array.shape[0] == 2 and answer.array.max() > 100


def test_a_prediction_is_as_the_run_predicts(small_run, page: Served):
    """Probabilities are kept in half precision, so a pixel in a hundred may differ."""
    for row in page.rows():
        if row["split"] == "val":
            predicted = page.get(f"/api/photos/{row['key']}/prediction?refine=1").array
            assert (predicted == read_index_mask(small_run / "predictions" / f"{row['id']}.png")).mean() > 0.99


def test_masks_follow_tags(page: Served):
    key = page.rows()[0]["key"]
    for tags, allowed in (("", {0}), ("0", {0, 1}), ("1", {0, 2}), ("0,1", {0, 1, 2})):
        for refine in (0, 1):
            mask = page.get(f"/api/photos/{key}/prediction?tags={tags}&refine={refine}").array
            assert set(np.unique(mask)) <= allowed
    assert page.get(f"/api/photos/{key}/prediction?tags=7").status == 422


# --- uploads -------------------------------------------------------------------------------------------------------


def test_an_upload_and_its_mask(page: Served):
    row = page.post("/api/uploads?name=..%2F..%2Fmy%20photo.png", png(50, 70)).json
    assert row["id"] == "my photo.png" and row["size"] == row["work"] == [50, 70]
    mask = page.get(f"/api/uploads/{row['key']}/prediction").array
    assert mask.shape == (50, 70) and sorted({int(v) - 1 for v in np.unique(mask)} - {-1}) == row["tags"]
    drawn = np.tile(np.array([0, 1, 2, 255, 1], np.uint8), 700)
    saved = page.post(f"/api/uploads/{row['key']}/mask.png", drawn.tobytes())
    assert saved.headers["content-disposition"] == "attachment; filename*=UTF-8''mask.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(saved.content))).ravel(), drawn)


def test_a_large_upload_is_worked_on_small_and_saved_large(page: Served):
    row = page.post("/api/uploads?name=a.png", png(1500, 1100)).json
    height, width = row["work"]
    assert row["size"] == [1500, 1100] and height * width <= 1_001_000 and abs(height / width - 1500 / 1100) < 0.01
    assert page.get(f"/api/uploads/{row['key']}/prediction").array.shape == (height, width)
    saved = page.post(f"/api/uploads/{row['key']}/mask.png", np.ones(height * width, np.uint8).tobytes())
    assert Image.open(io.BytesIO(saved.content)).size == (1100, 1500)


def huge_png(side: int) -> bytes:
    """A few kilobytes that claim ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_uploads_that_are_no_photos(page: Served):
    """Each a clear line, and the server stays up."""
    for content, status, said in (
        (b"", 422, "photo.jpg is empty (0 bytes)"),
        (b"GIF89a no picture", 422, "photo.jpg"),
        (b"#!/bin/sh\necho hello", 422, "is not an image"),
        (huge_png(10_000), 422, "64 million pixels that are read"),
        (png(40, 40)[:300], 422, "cannot be decoded"),
    ):
        answer = page.post("/api/uploads?name=photo.jpg", content)
        assert answer.status == status and said in answer.json["error"], answer.content
    assert page.get("/api/uploads/0123456789abcdef/prediction").status == 410
    assert page.post("/api/uploads?name=fine.png", png(30, 40)).status == 200


def test_an_upload_of_too_many_bytes(page: Served, monkeypatch):
    monkeypatch.setattr("tag2mask.serve.app.UPLOAD_BYTES", 1000)
    answer = page.post("/api/uploads?name=a.png", b"x" * 5000)
    assert answer.status == 413 and "larger than" in answer.json["error"]


# --- decisions -----------------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "review" / "decisions.jsonl").read_text().splitlines()]


def test_decisions_are_kept(copy):
    with served(copy) as page:
        assert not (copy / "review").exists(), "looking keeps nothing"
        first, second, third = page.rows()[:3]
        before = page.get(f"/api/photos/{first['key']}/mask").array

        assert page.decide(first, "accepted", who="Ada", tags="0").status == 200
        of_split = copy / "review" / "masks" / first["split"]
        assert np.array_equal(read_index_mask(of_split / f"{first['id']}.png"), before)
        assert (of_split / "classes.txt").read_text().split() == list(CLASSES)

        drawn = np.full(second["work"], 2, np.uint8)
        drawn[:5] = 255
        answer = page.decide(second, "corrected", drawn.tobytes())
        assert answer.json["row"]["decision"] == "corrected" and answer.json["counts"]["corrected"] == 1
        path = copy / "review" / "masks" / second["split"] / f"{second['id']}.png"
        assert np.array_equal(read_index_mask(path), drawn)
        assert np.array_equal(page.get(f"/api/photos/{second['key']}/mask").array, drawn), "what was painted is shown"

        assert page.decide(answer.json["row"], "rejected").status == 200
        assert not path.exists()
        aside = copy / "review" / "replaced" / second["split"] / f"{second['id']}.1.png"
        assert np.array_equal(read_index_mask(aside), drawn), "nothing painted is lost"

        undecided = page.get("/api/upcoming?after=-1&count=16&undecided=1").json
        assert [row["position"] for row in undecided] == list(range(2, 12))
        assert page.get("/api/upcoming?after=-1&count=3").json[0]["decision"] == "accepted"
        assert page.decide(third, "perhaps").status == page.decide(third, "corrected", b"short").status == 422
        assert page.decide(third, "corrected", bytes([9] * drawn.size)).status == 422

    kept = lines(copy)
    assert [line["decision"] for line in kept] == ["accepted", "corrected", "rejected"]
    (drawn,) = format_of("png").read(copy / "review" / "masks" / first["split"], CLASSES)
    assert drawn.name == first["id"] and np.array_equal(drawn.mask, before), "`import --from png` reads the folder"
    assert kept[0]["who"] == "Ada" and kept[0]["tags"] == ["disc"] and kept[0]["mask"].startswith("masks/")
    assert kept[2]["mask"] is None and kept[2]["revision"] == 2 and kept[2]["time"].endswith("+00:00")
    with served(copy) as page:
        assert page.get("/api/run").json["counts"] == {"accepted": 1, "corrected": 0, "rejected": 1}
        assert run("report", copy) == 0, "the run is still a run"


def test_the_second_of_two_is_told(copy):
    with served(copy) as page:
        row = page.rows()[0]
        assert page.decide(row, "accepted", who="Ada").status == 200
        answer = page.decide(row, "rejected", who="Bob")
        assert answer.status == 409 and "was accepted by Ada" in answer.json["error"]
        assert page.rows()[0]["decision"] == "accepted" and len(lines(copy)) == 1
        row["revision"] = answer.json["current"]["revision"]  # Bob has seen it and insists
        assert page.decide(row, "rejected", who="Bob").status == 200
        assert page.rows()[0]["decision"] == "rejected"


def test_two_servers_of_one_run_know_each_other_s_decisions(copy):
    with served(copy) as one, served(copy) as other:
        row = one.rows()[0]
        assert one.decide(row, "accepted").status == 200
        assert other.rows()[0]["decision"] == "accepted"
        assert other.decide(row, "rejected").status == 409


def test_the_run_folder_is_deleted_meanwhile(copy):
    with served(copy) as page:
        row = page.rows()[0]
        gone = copy.rename(copy.with_name("elsewhere"))
        for answer in (page.get(f"/api/photos/{row['key']}/mask"), page.get(f"/api/photos/{row['key']}/maps")):
            assert answer.status in (410, 422) and answer.json["error"]
        answer = page.decide(row, "rejected")
        assert answer.status == 503 and "is gone" in answer.json["error"]
        assert not copy.exists(), "it is not made again"
        gone.rename(copy)
        assert page.decide(row, "rejected").status == 200 and len(lines(copy)) == 1


def test_a_photo_is_deleted_meanwhile(world, small_run, tmp_path):
    data, out = Path(shutil.copytree(world, tmp_path / "data")), Path(shutil.copytree(small_run, tmp_path / "run"))
    assert run("train", data, "--method", "cam", "--out", out, *SMALL) == 0  # looks at the copies of the photos alone
    with served(out) as page:
        row = page.rows()[0]
        (data / "images" / f"{row['id']}.png").unlink()
        answer = page.get(f"/api/photos/{row['key']}/photo.jpg")
        assert answer.status == 422 and "is not there" in answer.json["error"]
        assert page.get(f"/api/photos/{page.rows()[1]['key']}/photo.jpg").status == 200


def test_the_disk_is_full(copy, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with served(copy) as page:
        row = page.rows()[0]
        with monkeypatch.context() as patched:
            patched.setattr("tag2mask.review.write_index_mask", full)
            answer = page.decide(row, "accepted")
        assert answer.status == 507 and "free some space" in answer.json["error"]
        assert page.rows()[0]["decision"] is None and page.decide(row, "accepted").status == 200


def test_a_run_without_masks(copy):
    for stage in ("masks", "masks-1", "segmenter", "segmenter-0", "predictions"):
        shutil.rmtree(copy / stage)
    with served(copy) as page:
        described = page.get("/api/run").json
        assert described["photos"] == 0 and not described["segmenter"] and page.rows() == []
        answer = page.post("/api/uploads?name=a.png", png(30, 30))
        assert answer.status == 422 and "no finished segmenter" in answer.json["error"]


# --- what is kept --------------------------------------------------------------------------------------------------

IDS = ["a", "deep/er/photo", "../../escape", "con", "x" * 300, "\udcff byte", ".hidden", "<img src=x>", "ü"]


def test_any_id_can_be_decided_on(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    review = Review(tmp_path, ("cat",))
    for number, id_ in enumerate(IDS):
        for split in ("train", "val"):
            review.decide((split, id_), "accepted", mask=np.full((2, 3), number % 2, np.uint8), tags=("cat",))
    again = Review(tmp_path, ("cat",)).latest()
    assert set(again) == {(split, id_) for split in ("train", "val") for id_ in IDS}
    paths = [tmp_path / "review" / str(decision.mask) for decision in again.values()]
    assert len(set(paths)) == len(paths) and all(
        (tmp_path / "review" / "masks").resolve() in p.resolve().parents for p in paths
    )
    assert len({address(key) for key in again}) == len(again)


def test_a_line_cut_by_a_kill_costs_that_line_alone(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    review = Review(tmp_path, ("cat",))
    review.decide(("train", "a"), "rejected")
    with review.path.open("ab") as file:
        file.write(b'{"split": "train", "id": "b", "deci')
    assert set(review.latest()) == {("train", "a")}
    review.decide(("train", "c"), "rejected")
    assert set(review.latest()) == set(Review(tmp_path, ("cat",)).latest()) == {("train", "a"), ("train", "c")}


class Killed(BaseException):
    """As a kill: no handler of ours sees it."""


def kinds_of_end(kill):
    """Where a decision may end half-way: (what is called there, whether it is done, what it raises)."""
    error = Killed() if kill else OSError(errno.ENOSPC, "No space left on device")
    for target, names in ((review_module, ("write_index_mask", "write_classes")), (os, ("fsync",)),
                          (Path, ("replace", "mkdir", "unlink"))):  # fmt: skip
        for name in names:
            for after in (False, True):
                for nth in range(3):
                    yield target, name, after, nth, error


@pytest.mark.parametrize("kill", [False, True])
def test_every_decision_has_its_own_mask_wherever_it_ends(tmp_path, kill):
    """Ended by a kill or a full disk at every step: the decision that counts has the mask that was painted for it, one
    that failed is not there, and the next decision puts everything where readers of the folder look for it."""
    ended = 0
    for number, (target, name, after, nth, error) in enumerate(kinds_of_end(kill)):
        for accepts in (True, False):
            run = tmp_path / f"{number}-{accepts}"
            run.mkdir()
            (run / "run.json").write_text("{}")
            key, masks = ("train", "a"), {n: np.full((2, 3), n, np.uint8) for n in (1, 2, 3)}
            review, calls, honest = Review(run, ("cat",)), 0, getattr(target, name)
            review.decide(key, "accepted", mask=masks[1])

            def ending(*arguments, target=target, honest=honest, after=after, nth=nth, error=error, **options):
                nonlocal calls
                calls += 1
                if calls - 1 != nth:
                    return honest(*arguments, **options)
                if after:
                    honest(*arguments, **options)
                raise error

            decided = True
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(target, name, ending)
                try:
                    verdict, painted = ("accepted", masks[2]) if accepts else ("rejected", None)
                    review.decide(key, verdict, mask=painted, revision=1)
                except (Killed, OSError, InputError):
                    decided = kill and Review(run, ()).latest()[key].revision == 2
                    ended += 1
            again = Review(run, ("cat",))
            decision = again.latest()[key]
            assert decision.revision == (2 if decided else 1)
            shown = again.mask_path(key)
            if decided and not accepts:
                assert shown is None
            else:
                assert shown is not None and np.array_equal(read_index_mask(shown), masks[2 if decided else 1])
            again.decide(key, "corrected", mask=masks[3], revision=decision.revision)
            folder = run / "review"
            assert again.mask_path(key) == folder / "masks" / "train" / "a.png"
            assert np.array_equal(read_index_mask(folder / "masks" / "train" / "a.png"), masks[3])
            aside = {p.name: read_index_mask(p)[0, 0] for p in (folder / "replaced" / "train").iterdir()}
            assert aside == ({"a.1.png": 1, "a.2.png": 2} if decided and accepts else {"a.1.png": 1})
    assert ended > 10


def test_a_decision_on_what_was_not_seen_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    review = Review(tmp_path, ("cat",))
    review.decide(("train", "a"), "rejected")
    with pytest.raises(Conflict):
        review.decide(("train", "a"), "accepted", mask=np.zeros((2, 2), np.uint8))
    assert not (tmp_path / "review" / "masks").exists()
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="is gone"):
        review.decide(("train", "a"), "accepted", revision=1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.randoms(use_true_random=False))
def test_painting_small_changes_no_other_pixel(height, width, factor, random):
    large = np.array([[random.randrange(3) for _ in range(width * factor)] for _ in range(height * factor)], np.uint8)
    work = pixels.nearest(large, (height, width)).copy()
    assert np.array_equal(pixels.painted(large, work), large)
    y, x = random.randrange(height), random.randrange(width)
    work[y, x] = 7
    after = pixels.painted(large, work)
    inside = np.zeros_like(large, bool)
    inside[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor] = True
    assert (after[inside] == 7).all() and np.array_equal(after[~inside], large[~inside])


def test_sizes():
    assert pixels.work_size((480, 640)) == (480, 640)
    height, width = pixels.work_size((3000, 4000))
    assert height * width <= 1_001_000 and height / width == pytest.approx(0.75, abs=1e-3)
    assert pixels.work_size((1, 60_000_000))[0] == 1
