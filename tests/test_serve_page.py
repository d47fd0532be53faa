"""The page in a real browser: what a person sees and does there."""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import Served, served, started
from tag2mask import pipeline
from tag2mask.data.images import read_index_mask
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.serve import app, order
from test_report import BROWSER, browser
from world import SMALL, make, run

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = browser
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished run of a few photos; one class has a name that markup could trip over. Read only."""
    root = tmp_path_factory.mktemp("page")
    data = make(root / "data", train=16, val=3)
    for name in ("tags.csv", "classes.txt"):
        (data / name).write_text((data / name).read_text().replace("bar", HOSTILE))
    assert (
        run(
            "train",
            data,
            "--method",
            "cam",
            "--out",
            root / "run",
            *SMALL,
            "--inference.refine",
            "none",
            "--relabel.rounds",
            0,
        )
        == 0
    )
    return root / "run"


@pytest.fixture
def copy(small_run, tmp_path):
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextlib.contextmanager
def opened(chromium, page_of: Served, **options) -> Iterator:
    """The page, ready. What its console complains of fails the test."""
    context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    context.set_default_timeout(60_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_of.url)
    page.wait_for_selector("#stage[data-ready]")
    page.complaints = complaints
    yield page
    context.close()
    of_tests = ("Failed to load resource", "willReadFrequently")  # answers with an error, pixels read back by tests
    assert not [text for text in complaints if not any(known in text for known in of_tests)], complaints


def name_of(page) -> str:
    return page.text_content("#photo-name")


def overlay(page) -> np.ndarray:
    """The overlay's pixels ``[height width 4]``, read by the browser."""
    width, height, data = page.evaluate(
        "() => { const c = document.getElementById('overlay'); const d = c.getContext('2d').getImageData(0, 0, c.width,"
        " c.height); return [c.width, c.height, Array.from(d.data)]; }"
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def next_photo_times(page) -> list[float]:
    return page.evaluate("() => performance.getEntriesByName('next photo').map(one => one.duration)")


def wait_for_times(page, count: int) -> list[float]:
    for _ in range(200):
        if len(times := next_photo_times(page)) >= count:
            return times
        page.wait_for_timeout(50)
    raise AssertionError(f"{len(next_photo_times(page))} of {count} photos were shown")


def lines(folder: Path, count: int, page) -> list[dict]:
    """The decisions of a run, once there are so many."""
    path = folder / "review" / "decisions.jsonl"
    for _ in range(200):
        if path.exists() and len(found := path.read_text().splitlines()) >= count:
            return [json.loads(line) for line in found]
        page.wait_for_timeout(50)
    raise AssertionError(f"{path} has not {count} decisions")


@pytest.mark.slow
def test_masks_lie_over_photos_and_a_key_decides(chromium, copy, capsys):
    """Overlay, slider, accept and reject by keys, the time to the next photo."""
    with served(copy) as server, opened(chromium, server) as page:
        row = server.rows()[0]
        assert name_of(page) == row["id"]
        mask = server.get(f"/api/photos/{row['key']}/mask").array
        assert np.array_equal(overlay(page)[..., 3] > 0, mask > 0), "what the mask shows is covered, nothing else"
        page.fill("#opacity", "25")
        assert page.eval_on_selector("#overlay", "one => getComputedStyle(one).opacity") == "0.25"
        page.wait_for_timeout(1000)  # the next photos are loaded ahead
        for number, key in enumerate("axjaxa"):
            page.keyboard.press(key)
            wait_for_times(page, number + 1)
            page.wait_for_timeout(300)
        times = next_photo_times(page)
        kept = lines(copy, 5, page)
        with capsys.disabled():
            print(f"\nkey to next photo: {', '.join(f'{one:.0f}' for one in times)} ms")
        assert sorted(times)[len(times) // 2] < 100
        assert [one["decision"] for one in kept] == ["accepted", "rejected", "accepted", "rejected", "accepted"]
        ids = [one["id"] for one in server.rows()]
        assert [one["id"] for one in kept] == [*ids[:2], *ids[3:6]], "the third was skipped"
        assert re.match("5 of 19", page.text_content("#progress"))


@pytest.mark.exhaustive
def test_names_are_text(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        row = next(row for row in server.rows() if 1 in row["tags"])
        page.locator(f".entry[title^='{row['id']} ']").click()
        page.locator("#classes").get_by_text(HOSTILE).wait_for()
        assert page.locator("#classes img").count() == 0


@pytest.mark.exhaustive
def test_a_brush_stroke_is_saved_and_can_be_undone(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        row = server.rows()[0]
        before = server.get(f"/api/photos/{row['key']}/mask").array
        page.keyboard.press("b")
        page.fill("#size", "4")
        page.keyboard.press("1")  # the photo's first class
        value = row["tags"][0] + 1
        box = page.locator("#overlay").bounding_box()
        scale = box["width"] / before.shape[1]
        page.mouse.move(box["x"] + 10.5 * scale, box["y"] + 40.5 * scale)
        page.mouse.down()
        page.mouse.move(box["x"] + 30.5 * scale, box["y"] + 40.5 * scale, steps=4)
        page.mouse.up()
        rows, columns = np.mgrid[: before.shape[0], : before.shape[1]]
        near = (rows - 40) ** 2 + (columns - columns.clip(10, 30)) ** 2
        assert page.text_content("#accept").startswith("Save")
        page.keyboard.press("z")
        assert page.text_content("#accept").startswith("Accept")
        page.keyboard.press("Shift+Z")
        page.keyboard.press("a")
        (kept,) = lines(copy, 1, page)
        assert kept["decision"] == "corrected"
        saved = read_index_mask(copy / "review" / kept["mask"])
        assert (saved[near <= 3.5**2] == value).all(), "what the brush passed over"
        assert np.array_equal(saved[near > 4.5**2], before[near > 4.5**2]), "and nothing else"
        page.keyboard.press("u")  # back to it, undecided
        lines(copy, 2, page)
        for _ in range(100):
            if name_of(page) == row["id"]:
                break
            page.wait_for_timeout(50)
        assert lines(copy, 2, page)[1]["decision"] == "withdrawn" and name_of(page) == row["id"]


@pytest.mark.exhaustive
def test_the_brush_takes_the_class_under_the_cursor(chromium, copy):
    """A stroke that begins in a class extends it; the eraser gives background; alt picks."""
    with served(copy) as server, opened(chromium, server) as page:
        row = next(r for r in server.rows() if len(np.unique(server.get(f"/api/photos/{r['key']}/mask").array)) > 1)
        page.locator(f".entry[title^='{row['id']} ']").click()
        page.wait_for_timeout(500)
        mask = server.get(f"/api/photos/{row['key']}/mask").array
        y, x = np.argwhere(mask > 0)[len(np.argwhere(mask > 0)) // 2]
        box = page.locator("#overlay").bounding_box()
        scale = box["width"] / mask.shape[1]
        page.keyboard.press("b")
        page.mouse.move(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)
        page.mouse.down()
        page.mouse.move(box["x"] + 5, box["y"] + 5, steps=5)
        page.mouse.up()
        page.keyboard.down("Alt")
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        page.keyboard.up("Alt")
        chosen = page.locator("#classes button[aria-pressed=true]").get_attribute("data-value")
        assert chosen == str(mask[y, x])
        page.keyboard.press("e")
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        assert overlay(page)[1, 1, 3] == 0


@pytest.mark.exhaustive
def test_painting_by_keyboard_alone(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        row = server.rows()[0]
        page.keyboard.press("b")
        page.keyboard.press("1")
        page.focus("#stage")
        page.keyboard.down("Space")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.keyboard.up("Space")
        page.keyboard.press("a")
        (kept,) = lines(copy, 1, page)
        height, width = row["work"]
        assert kept["decision"] == "corrected"
        assert read_index_mask(copy / "review" / kept["mask"])[height // 2, width // 2] == row["tags"][0] + 1


@pytest.mark.exhaustive
def test_the_mask_follows_a_tag(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        row = next(row for row in server.rows() if len(row["tags"]) == 2 and row["split"] == "train")
        page.locator(f".entry[title^='{row['id']} ']").click()
        page.wait_for_timeout(500)
        before = overlay(page)[..., 3] > 0
        page.keyboard.press("Shift+Digit2")
        expected = server.get(f"/api/photos/{row['key']}/prediction?tags={row['tags'][0]}").array
        assert not np.array_equal(before, expected > 0), "the test would see nothing"
        for _ in range(200):
            if np.array_equal(overlay(page)[..., 3] > 0, expected > 0):
                break
            page.wait_for_timeout(50)
        assert np.array_equal(overlay(page)[..., 3] > 0, expected > 0)
        page.keyboard.press("a")
        (kept,) = lines(copy, 1, page)
        assert kept["decision"] == "corrected" and kept["tags"] == ["disc"]
        assert np.array_equal(read_index_mask(copy / "review" / kept["mask"]), expected)


@pytest.mark.exhaustive
def test_layers_and_an_upload(chromium, copy, tmp_path):
    photo, text = tmp_path / "new.jpg", tmp_path / "notes.txt"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(photo)
    text.write_text("no photo")
    with served(copy) as server, opened(chromium, server) as page:
        for name in ("Maps", "Prediction", "Mask"):
            page.get_by_role("radio", name=name).click()
            page.wait_for_timeout(600)
            assert page.get_by_role("radio", name=name).get_attribute("aria-checked") == "true"
        page.get_by_role("tab", name="Try a photo").click()
        page.set_input_files("#files", [str(text), str(photo)])
        page.wait_for_selector(".failed >> text=is not an image")
        page.wait_for_selector("#dropped button[aria-current=true] >> text=new.jpg")
        assert name_of(page) == "new.jpg" and overlay(page).shape[:2] == (60, 90)
        with page.expect_download() as download:
            page.keyboard.press("s")
        assert download.value.suggested_filename == "new.png"
        mask = read_index_mask(Path(download.value.path()))
        assert mask.shape == (60, 90) and np.array_equal(mask > 0, overlay(page)[..., 3] > 0)


@pytest.mark.exhaustive
def test_two_browsers_decide_on_one_photo(chromium, copy):
    with served(copy) as server, opened(chromium, server) as one, opened(chromium, server) as other:
        assert name_of(one) == name_of(other)
        one.keyboard.press("a")
        lines(copy, 1, one)
        other.keyboard.press("x")
        other.wait_for_selector("#conflict[open]")
        assert "was accepted" in other.text_content("#conflict-text")
        other.get_by_role("button", name="Replace with mine").click()
        kept = lines(copy, 2, other)
        assert [line["decision"] for line in kept] == ["accepted", "rejected"] and kept[0]["id"] == kept[1]["id"]


@pytest.mark.exhaustive
def test_decisions_wait_for_a_run_folder_that_is_gone(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        page.wait_for_timeout(1000)
        gone = copy.rename(copy.with_name("elsewhere"))
        page.keyboard.press("a")
        page.wait_for_selector("#banner >> text=1 decision waits")
        gone.rename(copy)
        assert lines(copy, 1, page)[0]["decision"] == "accepted"
        page.wait_for_selector("#banner", state="hidden")


@pytest.mark.exhaustive
@pytest.mark.parametrize("width", [360, 1200])
def test_it_is_never_wider_than_the_screen(chromium, copy, width):
    with served(copy) as server, opened(chromium, server, viewport={"width": width, "height": 780}) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        for name in ("accept", "reject", "next"):
            box = page.locator(f"#{name}").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 780


@pytest.mark.exhaustive
@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_it_follows_the_reader_into_the_dark(chromium, copy, scheme, dark, tmp_path):
    with served(copy) as server, opened(chromium, server, color_scheme=scheme) as page:
        page.screenshot(path=tmp_path / "shot.png")
    brightness = np.array(Image.open(tmp_path / "shot.png").convert("L"))[:, -250:].mean()
    assert brightness < 70 if dark else brightness > 200


@pytest.mark.exhaustive
def test_the_keyboard_reaches_everything_and_says_what_it_does(chromium, copy):
    with served(copy) as server, opened(chromium, server) as page:
        page.keyboard.press("?")
        assert page.locator("#help[open] dt").count() > 15
        page.keyboard.press("Escape")
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
        assert {
            "tab-review",
            "undecided",
            "entry",
            "stage",
            "accept",
            "reject",
            "opacity",
            "tag",
            "size",
            "who",
        } <= reached
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('button, input')].filter(one => one.checkVisibility()"
            " && !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).map(one => one.outerHTML)"
        )
        assert unnamed == []


# --- many photos ---------------------------------------------------------------------------------------------------


def many(execution: Execution, folder: Path, count: int) -> Execution:
    """The same run as if it had so many training photos: links to the few that there are."""
    data, masks = execution.data, execution.folders["masks"]
    samples = [replace(s, id=f"copy{n}/{s.id}") for n in range(count) for s in data.train.samples][:count]
    photos = {s.key: data.photos[s.split, s.id.partition("/")[2]] for s in samples}
    stage = StageFolder(folder / "masks", masks.key)
    stage.own.mkdir(parents=True)
    records = []
    for number, sample in enumerate(samples):
        path = stage.path(sample.id, ".png")
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(masks.path(sample.id.partition("/")[2], ".png"))
        records.append({"id": sample.id, "split": sample.split, "uncertainty": number % 997 / 997})
    stage.records.write_text("".join(json.dumps(record) + "\n" for record in records))
    run_data = replace(data, train=data.train.with_samples(samples), val=None, photos=photos)
    folders = {**execution.folders, "masks": stage}
    folders.pop("predictions")
    return replace(execution, data=run_data, folders=folders)


@pytest.mark.exhaustive
def test_ten_thousand_photos(chromium, copy, tmp_path, capsys, monkeypatch):
    """Nothing is done for every photo before the page opens; the list holds the rows in sight alone."""
    execution = many(pipeline.reopen(Run(copy, existing=True)), tmp_path / "many", 10_000)
    monkeypatch.setattr(order, "_in_background", lambda *_: None)
    began = time.monotonic()
    page_of = app.Page(execution)
    opening = time.monotonic() - began
    with started(app.guarded(page_of)) as server, opened(chromium, server) as page:
        began = time.monotonic()
        server.get("/api/queue?start=9900&count=100")
        listing = time.monotonic() - began
        page.wait_for_timeout(1000)
        for number in range(5):
            page.keyboard.press("a")
            wait_for_times(page, number + 1)
            page.wait_for_timeout(300)
        page.eval_on_selector("#list", "one => { one.scrollTop = one.scrollHeight; }")
        page.wait_for_selector("[data-mark^='9999 null']")
        assert page.locator(".entry").count() < 60
        page.locator("[data-mark^='9999 ']").click()
        for _ in range(100):
            if name_of(page) == server.get("/api/queue?start=9999&count=1").json[0]["id"]:
                break
            page.wait_for_timeout(50)
        assert name_of(page) == server.get("/api/queue?start=9999&count=1").json[0]["id"]
        times = next_photo_times(page)
    with capsys.disabled():
        shown = ", ".join(f"{one:.0f}" for one in times)
        print(
            f"\n10,000 photos: opened in {opening:.2f} s, a page of the list {listing * 1000:.0f} ms, next {shown} ms"
        )
    assert sorted(times)[len(times) // 2] < 100 and opening < 20
