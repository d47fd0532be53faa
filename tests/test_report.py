"""The page says what was measured, escapes what it is given, loads nothing, and is readable in a browser."""

import base64
import dataclasses
import html as entities
import io
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tag2mask import report
from tag2mask.evaluate import OracleSweep, Scores, TagAgreement
from tag2mask.report import GalleryRow, ReportData, ScoreTable, StageTime, charts
from tag2mask.report.colors import class_colors, rgb
from tag2mask.report.pictures import draw_maps, draw_mask
from tag2mask.report.tables import class_rows
from tag2mask.report.words import duration, flat_settings, percent, plain_setting
from tag2mask.types import LocalizationMaps

CLASSES = ("cat", "dog", "potted plant")
HOSTILE = "<script>alert('x')</script>\"><img src=https://example.invalid/x.png onerror=alert(1)>"


def scores(confusion: list[list[int]]) -> Scores:
    matrix = np.array(confusion, np.int64)
    return Scores(("background", *CLASSES), matrix, np.stack([np.diagonal(matrix), 2 * np.diagonal(matrix) + 1]))


GOOD = scores([[9000, 100, 100, 0, 0], [100, 900, 0, 0, 0], [0, 0, 800, 200, 0], [60, 0, 0, 40, 0]])
MAPS = scores([[8000, 600, 600, 0, 0], [300, 500, 200, 0, 0], [500, 0, 500, 0, 0], [60, 0, 0, 40, 0]])
TAGS = TagAgreement(CLASSES, 50, 2, 4, 1, (700, 100, 100, 50, 50), (30, 20, 5), (1, 0, 7), (0, 0, 0))
SWEEP = OracleSweep(  # 1000 pixels, 500 of them cat, whose score is right above 0.2
    (0.1, 0.2, 0.3),
    truth=np.array([500, 500, 0, 0]),
    undecided=np.zeros(4, int),
    best=np.array([[0, 480, 20, 500], [0] * 4, [0] * 4]),
    hits=np.array([[0, 0, 20, 480], [0] * 4, [0] * 4]),
    objects=np.array([0, 0, 20, 480]),
)


def gallery_row(id: str, seed: int = 0) -> GalleryRow:
    rng = np.random.default_rng(seed)
    mask = np.zeros((90, 140), np.uint8)
    mask[20:60, 30:90] = 2
    mask[20:60, 90:100] = 255
    return GalleryRow(
        id,
        rng.integers(0, 256, (90, 140, 3), dtype=np.uint8),
        tags=frozenset({1, 2}),
        maps=LocalizationMaps(id, (1, 2), rng.random((2, 6, 9)).astype(np.float16), (90, 140)),
        mask=mask,
        prediction=np.where(mask == 255, np.uint8(3), mask),
        truth=mask,
        score=71.26,
        note="as seen",
    )


FULL = ReportData(
    title="cats and dogs",
    classes=CLASSES,
    created="2025-03-02 14:07",
    command="tag2mask train photos --out run",
    supervision=["tags of 50 photos"],
    scores=[ScoreTable("Maps", MAPS, "50 train photos"), ScoreTable("Segmenter", GOOD, "20 val photos")],
    agreements=[("Pseudo masks", TAGS)],
    photos={"train": 50, "val": 20},
    class_counts={"train": [31, 20, 12], "val": [10, 10, 5]},
    galleries={"Best": [gallery_row("a/1")], "Worst": [gallery_row("b", 1), gallery_row("c", 2)]},
    stages=[StageTime("localize", 90, 45), StageTime("train segmenter", 270)],
    curves={"Segmenter": {"cross entropy": [(step, 1 / (1 + step)) for step in range(0, 900, 10)]}},
    sweep=SWEEP,
    settings={"seed": 3, "train": {"epochs": 5, "optimizer": {"momentum": 0.9, "nesterov": False}}},
    warnings=["1 photo was set aside: x.jpg"],
    environment={"torch": "2.9"},
    peak_memory=2_340_000_000,
)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text as it is read."""

    VOID = ("meta", "link", "img", "input", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(data: ReportData) -> Page:
    return Page(report.html(data))


# --- what is on the page ------------------------------------------------------------------------------------------


def test_the_numbers_that_matter_come_first():
    text = page(FULL).text
    order = [text.index(words) for words in ("cats and dogs", percent(MAPS.mean_iou), "What can be trusted")]
    assert order == sorted(order)
    assert "weakest at potted plant (13)" in text  # 40 of 300
    for words in ("6 min 00 s", "2.3 GB", "tags of 50 photos", "1 photo was set aside: x.jpg", "tag2mask train photos"):
        assert words in text, words
    assert re.search(r"optimizer\.nesterov\s+no", text) and re.search(r"seed\s+3", text)


def test_every_class_has_its_row_with_the_values_of_every_table():
    rows = re.findall(r"<tr.*?</tr>", report.html(FULL).split('id="classes"')[1].split("</table>")[0], re.S)[2:]
    assert len(rows) == 4
    for at, (row, name) in enumerate(zip(rows, ("background", *CLASSES), strict=True)):
        cells = re.sub(r"<[^>]*>", " ", row).split()
        expected = [] if at == 0 else [str(FULL.class_counts[split][at - 1]) for split in ("train", "val")]
        figures = (MAPS.iou, GOOD.iou, GOOD.precision, GOOD.recall, GOOD.boundary_iou)
        assert cells == [*name.split(), *expected, *(f"{figure[at]:.1f}" for figure in figures)]


def test_pictures_of_a_row_are_small_images_within_the_page():
    images = page(FULL).all("img")
    assert len(images) == 3 * 5
    for image in images:
        uri = image["src"]
        assert uri is not None and uri.startswith("data:image/jpeg;base64,")
        decoded = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert decoded.size == (140, 90) == (int(image["width"] or 0), int(image["height"] or 0))
    assert {image["alt"] for image in images} >= {"photo a/1", "mask of a/1: dog", "prediction of b: dog, potted plant"}


def test_large_photos_are_reduced_and_keep_their_shape():
    row = GalleryRow("large", np.zeros((1000, 3000, 3), np.uint8), truth=np.zeros((1000, 3000), np.uint8))
    images = page(dataclasses.replace(FULL, galleries={"All": [row]})).all("img")
    assert [(image["width"], image["height"]) for image in images] == [("320", "107")] * 2


def test_an_oracle_run_says_so_loudly():
    assert "Oracle run: trained on true masks" not in page(FULL).text
    text = page(dataclasses.replace(FULL, oracle=True)).text
    assert text.index("Oracle run: trained on true masks") < text.index("Segmenter")
    assert "a yardstick, not a result" in text


@pytest.mark.parametrize(
    ("confusion", "words"),
    [
        ([[9, 0, 0, 0, 0], [3, 0, 0, 0, 0], [3, 0, 0, 0, 0], [0] * 5], "not one pixel of any class is right"),
        (
            [[5, 0, 0, 0, 0], [0, 5, 0, 0, 0], [0] * 5, [0] * 5],
            "100 % of the area they cover together, averaged over bac",
        ),
        ([[5, 0, 0, 0, 0], [0] * 5, [0] * 5, [0] * 5], "no class occurs"),
        (
            [[5, 0, 0, 0, 0], [0, 5, 0, 0, 0], [5, 0, 0, 0, 0], [0] * 5],
            "2 classes. Best at cat (100), weakest at dog (0).",
        ),
    ],
)
def test_the_verdict_of_odd_results(confusion, words):
    assert words in report.verdict(dataclasses.replace(FULL, scores=[ScoreTable("Masks", scores(confusion))]))


def test_a_yardstick_is_stamped_and_never_the_headline():
    perfect = scores([[9, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, 9, 0, 0], [0, 0, 0, 9, 0]])
    yardstick = ScoreTable("Same on true masks", perfect, "20 val photos", oracle=True)
    data = dataclasses.replace(FULL, scores=[*FULL.scores, yardstick])
    assert [card.name for card in report.headline(data)] == ["Maps", "Segmenter"]
    assert report.verdict(data) == report.verdict(FULL)
    share = percent(GOOD.mean_iou, 0)
    assert f"That is {share} % of the 100.0 mIoU of: Same on true masks." in [r.text for r in report.trust(data)]
    assert report.html(data).count("ORACLE") == report.html(FULL).count("ORACLE") + 2
    alone = dataclasses.replace(FULL, scores=[yardstick])
    assert "Only what was trained on true masks" in page(alone).text
    assert "No masks made from tags were compared" in report.trust(alone)[0].text


def test_the_sweep_is_stamped_as_an_oracle():
    text = page(FULL).text
    assert text.index("ORACLE") < text.index("96.1 at 0.2")
    assert "ORACLE" not in page(dataclasses.replace(FULL, sweep=None)).text


def test_trust_is_of_what_was_measured():
    texts = [remark.text for remark in report.trust(FULL)]
    assert "Do not rely on masks of potted plant (13): IoU under 40." in texts
    assert "20 % of the pixels of dog are taken for potted plant." in texts
    assert "Pseudo masks: 2 tagged photos have a mask without any object." in texts
    assert "Pseudo masks: tagged but often not shown: potted plant (in 5 of 12 photos)." in texts
    assert "Few photos to learn from in train, under 20: potted plant (12)." in texts
    assert not any("undecided" in text or "too small" in text or "spill" in text for text in texts)


@pytest.mark.parametrize(
    ("confusion", "words"),
    [
        ([[90, 0, 0, 0, 0], [50, 50, 0, 0, 0], [0] * 5, [0] * 5], "Masks are too small: 50 % of the objects"),
        ([[50, 40, 0, 0, 0], [0, 50, 0, 0, 0], [0] * 5, [0] * 5], "Masks spill over: 44 % of what they mark"),
        ([[90, 0, 0, 0, 0], [50, 0, 0, 0, 0], [0] * 5, [0] * 5], "Everything is called background"),
        ([[60, 0, 0, 0, 30], [0, 50, 0, 0, 0], [0] * 5, [0] * 5], "21 % of the pixels are undecided"),
    ],
)
def test_trust_tells_what_is_wrong_with_masks(confusion, words):
    data = dataclasses.replace(FULL, scores=[ScoreTable("Masks", scores(confusion))], agreements=[])
    assert any(words in remark.text for remark in report.trust(data))


def test_false_alarms_and_classes_without_truth_are_told():
    good = np.zeros((4, 5), np.uint8)
    bad = good.copy()
    bad[0] = 1
    measured = sum((Scores.of(good, mask, CLASSES) for mask in (good, good, bad)), Scores.of(bad, bad, CLASSES))
    told = report.trust(dataclasses.replace(FULL, scores=[ScoreTable("Masks", measured)]))
    alarms = next(remark for remark in told if remark.text.startswith("False alarms"))
    assert alarms.level == "caution" and "1 of 3 photos with none" in alarms.text and "8.33 %" in alarms.text
    assert any(r.text.endswith("nothing says how well it is shown: dog, potted plant.") for r in told)
    text = page(dataclasses.replace(FULL, scores=[ScoreTable("Masks", measured)])).text
    assert "False alarms" in text and "1 of 3" in text
    assert "False alarms" not in page(FULL).text  # no photo of background alone: nothing to say
    assert "Pseudo masks: 1 of 4 photos tagged with none of the classes show one." in [
        r.text for r in report.trust(FULL)
    ]
    assert "none of these" not in page(FULL).text
    assert "none of these 7 0 " in page(dataclasses.replace(FULL, background_photos={"train": 7, "val": 0})).text


def test_without_truth_nothing_is_claimed():
    rows = [dataclasses.replace(gallery_row("a"), truth=None, score=None)]
    data = dataclasses.replace(FULL, scores=[], sweep=None, galleries={"First photos": rows})
    text = page(data).text
    assert "No truth was given" in text and "No masks made from tags were compared with the truth" in text
    assert "mIoU" not in text and "IoU" not in text and "Truth" not in text
    assert [(card.value, card.name) for card in report.headline(data)] == [
        ("50", "Pseudo masks"),
        ("95", "Pixels decided"),
        ("87", "Tags shown"),
    ]


def test_a_report_of_nothing_is_still_a_page():
    text = page(ReportData("nothing yet", CLASSES, "today")).text
    assert "nothing yet" in text and "No truth was given" in text


def test_a_class_that_was_never_seen_has_a_dash():
    never = scores([[9, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, 9, 0, 0], [0] * 5])
    rows = class_rows(dataclasses.replace(FULL, scores=[ScoreTable("Masks", never)]))
    assert math.isnan(rows[3].iou[0])
    assert "–" in page(dataclasses.replace(FULL, scores=[ScoreTable("Masks", never)])).text


# --- safety -------------------------------------------------------------------------------------------------------


def hostile(value: Any) -> Any:
    """Every text of a report, replaced by one that breaks out of careless pages."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, Scores):
        return dataclasses.replace(value, class_names=("background", *hostile(value.class_names[1:])))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: hostile(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        )
    if isinstance(value, dict):
        return {f"{HOSTILE}{key}": hostile(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        distinct = len(value) > 1 and all(isinstance(inner, str) for inner in value)
        replaced = [f"{HOSTILE}{at}" if distinct else hostile(inner) for at, inner in enumerate(value)]
        return replaced if isinstance(value, list) else tuple(replaced)
    return value


def test_everything_that_is_given_is_escaped():
    text = report.html(hostile(FULL))
    assert "<script" not in text and "onerror" in text  # the words are there, the tags are not
    built = Page(text)
    assert not built.all("script")
    assert all((image["src"] or "").startswith("data:") for image in built.all("img"))
    assert not any(name.startswith("on") for _, attributes in built.tags for name in attributes)
    assert built.text.count("<script>alert('x')</script>") > 30
    assert [t for t, _ in built.tags if t != "br"] == [t for t, _ in page(FULL).tags if t != "br"]


def test_no_raw_escape_reaches_the_page():
    """A name may hold what steers a terminal, bytes that are no text, or what turns the direction of writing."""
    row = dataclasses.replace(next(iter(FULL.galleries.values()))[0], id="a\x1b]0;x\x07\udcff\u202e")
    data = dataclasses.replace(FULL, title="\x1b[31m", galleries={"Worst": [row]}, warnings=["\x9b31m\udc80"])
    text = report.html(data)
    text.encode()
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert r"a\x1b]0;x\x07\udcff\u202e" in text and r"\x1b[31m" in text and r"\x9b31m\udc80" in text


def test_the_page_loads_nothing():
    text = report.html(FULL)
    built = Page(text)
    for tag, attributes in built.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, name, target)
    assert "@import" not in text and "url(" not in text
    policy = next(meta for meta in built.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_links_within_the_page_lead_somewhere_and_ids_are_unique():
    for data in (FULL, ReportData("nothing yet", CLASSES, "today"), dataclasses.replace(FULL, scores=[])):
        built = page(data)
        ids = [attributes["id"] for _, attributes in built.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert {(link["href"] or "")[1:] for link in built.all("a")} <= set(ids)


def test_render_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / "run" / "report.html"
    report.render(FULL, path)
    first = path.read_text(encoding="utf-8")
    assert first == report.html(FULL)
    broken = dataclasses.replace(FULL, galleries={"x": [GalleryRow("a", np.zeros((2, 3), np.uint8))]})
    with pytest.raises(AssertionError):
        report.render(broken, path)
    assert path.read_text(encoding="utf-8") == first
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


# --- pictures, numbers, charts ------------------------------------------------------------------------------------


def test_class_colors_are_distinct_for_254_classes():
    colors = class_colors(254)
    assert len(set(colors)) == 254 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert class_colors(3) == colors[:3]


def test_a_mask_is_drawn_in_the_colors_of_its_classes():
    photo = np.full((40, 60, 3), 128, np.uint8)
    mask = np.zeros((80, 120), np.uint8)  # twice the photo's thumbnail
    mask[:, 40:80] = 2
    mask[:, 80:] = 255
    drawn = draw_mask(photo, mask, rgb(["#ff0000", "#00ff00"])).astype(int)
    assert (drawn[:, 2:18] == 128).all()
    assert (drawn[:, 22:38, 1] > drawn[:, 22:38, 0] + 150).all()
    stripes = drawn[:, 44:, 0]
    assert set(np.unique(stripes)) == {128, 235}


def test_maps_are_as_opaque_as_their_scores():
    photo = np.full((40, 60, 3), 128, np.uint8)
    found = np.zeros((2, 4, 6), np.float16)
    found[0, :, :2], found[1, :, 4:] = 1.0, 0.5
    colors = rgb(["#ff0000", "#00ff00", "#0000ff"])
    drawn = draw_maps(photo, LocalizationMaps("a", (0, 2), found, (40, 60)), colors).astype(int)
    assert drawn[20, 5, 0] > 230 and drawn[20, 5, 2] < 30
    assert (drawn[20, 30] == 128).all()
    assert drawn[20, 55, 2] > drawn[20, 55, 0] + 50 and drawn[20, 55, 2] < 220
    nothing = LocalizationMaps("b", (), np.zeros((0, 4, 6), np.float16), (40, 60))
    assert (draw_maps(photo, nothing, colors) == 128).all()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.21, "9.2 s"), (59.96, "1 min 00 s"), (245, "4 min 05 s"), (3599.6, "1 h 00 min"), (3723, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_settings_are_read_as_people_write_them():
    groups = flat_settings({"seed": 0, "crf": {"a": (1, 2), "b": {"c": None, "d": {}}}, "none": {}})
    assert groups == [("run", [("seed", 0)]), ("crf", [("a", (1, 2)), ("b.c", None), ("b.d", {})])]
    assert [plain_setting(value) for value in ((1, 2), None, True, ())] == ["1, 2", "none", "yes", "none"]


finite = st.floats(-1e6, 1e6)
series = st.lists(st.one_of(finite, st.just(math.nan), st.just(math.inf)), min_size=1, max_size=600)


@settings(max_examples=40, deadline=None)
@given(series, st.integers(1, 50), st.integers(0, 10_000))
def test_a_chart_stays_in_its_frame(values, stride, start):
    chart = charts.line_chart("loss", [(start + stride * at, value) for at, value in enumerate(values)])
    points = [tuple(map(float, pair.split(","))) for pair in f"{chart.raw} {chart.smooth}".split()]
    assert len(chart.raw.split()) <= charts.MOST_POINTS
    assert all(chart.left <= x <= chart.right and charts.MARGIN[2] <= y <= chart.bottom for x, y in points)
    assert bool(points) == any(map(math.isfinite, values))
    assert len(chart.x_ticks) <= 6 and len(chart.y_ticks) <= 6


def test_a_chart_shows_where_values_are():
    chart = charts.line_chart("loss", [(0, 2.0), (50, 1.0), (100, 0.0)])
    (x0, y0), (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in chart.raw.split())
    assert (x0, x2) == (chart.left, chart.right) and x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert (y0, y2) == (charts.MARGIN[2], chart.bottom) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert [text for _, text in chart.y_ticks] == ["0", "0.5", "1", "1.5", "2"]
    assert chart.last == "0" and chart.smooth == ""


@pytest.mark.parametrize(("at", "anchor"), [(0, "start"), (50, "middle"), (99, "end")])
def test_the_label_of_a_marked_point_stands_above_the_line_within_the_chart(at, anchor):
    points = [(x / 100, 50 - 0.4 * abs(x - at)) for x in range(100)]
    chart = charts.line_chart("mIoU", points, mark=(*points[at], "50.0 at best"), smoothed=False)
    ys = [float(pair.split(",")[1]) for pair in chart.raw.split()]
    assert chart.mark is not None and chart.mark[1] == min(ys) and chart.mark[1] - 9 > 10
    counts = np.array([0, *[10] * 99])  # a sweep whose best threshold stands at that end
    hits = np.where(np.arange(100) > at, counts, 0) if at else counts
    sweep = OracleSweep(
        tuple(x / 100 for x in range(1, 100)),
        truth=np.array([int(counts.sum() - hits.sum()), int(hits.sum())]),
        undecided=np.zeros(2, int),
        best=counts[None],
        hits=hits[None],
        objects=hits,
    )
    text = report.html(dataclasses.replace(FULL, classes=("cat",), scores=[], agreements=[], galleries={}, sweep=sweep,
                                           class_counts={"train": [40]}))  # fmt: skip
    assert re.search(rf'class="marked"[^>]*text-anchor="{anchor}"', text)


@settings(max_examples=25, deadline=None)
@given(st.lists(finite, min_size=1, max_size=60), st.integers(1, 8))
def test_running_mean_is_the_mean_of_the_neighbours(values, window):
    got = charts.running_mean(np.array(values), window)
    for at in range(len(values)):
        half = min(window, at, len(values) - 1 - at)
        assert got[at] == pytest.approx(np.mean(values[at - half : at + half + 1]), abs=1e-3)


# --- a real browser -----------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def in_browser(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page as the browser built it, and what its console complained about."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.slow
@browser
def test_a_browser_shows_the_page_without_complaint_and_without_a_request(tmp_path):
    path = tmp_path / "report.html"
    report.render(hostile(FULL), path)
    shown, complaints = in_browser(path, tmp_path / "profile")
    assert complaints == []
    report.render(FULL, path)
    shown, complaints = in_browser(path, tmp_path / "profile")
    assert complaints == []
    assert shown.count('<article class="row">') == 3
    for name in ("background", *CLASSES):
        assert f"</span>{entities.escape(name)}</th>" in shown

    # the test would notice: the policy refuses what a page tries to load, and the console tells
    path.write_text(path.read_text(encoding="utf-8").replace("<main", '<img src="http://127.0.0.1:9/x.png"><main'))
    _, complaints = in_browser(path, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in complaints)


@pytest.mark.slow
@browser
@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)])
def test_the_page_follows_the_reader_into_the_dark(tmp_path, scheme, dark):
    path = tmp_path / "report.html"
    report.render(FULL, path)
    shot = tmp_path / "shot.png"
    in_browser(
        path,
        tmp_path / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={shot}",
        "--window-size=900,700",
    )
    with Image.open(shot) as picture:
        brightness = np.array(picture.convert("L")).mean()
    assert brightness < 70 if dark else brightness > 200


@pytest.mark.slow
@browser
@pytest.mark.parametrize("width", [500, 1300])
def test_the_page_is_never_wider_than_the_screen(tmp_path, width):
    path, probe = tmp_path / "report.html", tmp_path / "probe.html"
    report.render(FULL, path)
    page_text = path.read_text(encoding="utf-8")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', page_text)
    assert policy
    measured = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    probe.write_text(page_text.replace(policy[0], "").replace("</body>", measured), encoding="utf-8")
    shown, _ = in_browser(probe, tmp_path / "profile", f"--window-size={width},900")
    found = re.search(r"<title>(\d+) of (\d+)</title>", shown)
    assert found and int(found[1]) <= int(found[2]) == width
