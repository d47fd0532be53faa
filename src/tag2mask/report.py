"""One HTML file that tells a person at a glance what a run did and how far its masks can be trusted.

The page is whole in itself: images are data URIs, styles are inline, there is no script, and its content security
policy forbids every request. :class:`ReportData` is plain data that the pipeline fills; :func:`render` only writes.
Every text is escaped by the template.
"""

from __future__ import annotations

import base64
import colorsys
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tag2mask.evaluate import OracleSweep, Scores, TagAgreement, with_background
from tag2mask.files import atomic
from tag2mask.types import BACKGROUND, IGNORE, LocalizationMaps

THUMBNAIL = 320  # pixels of the longer side: sharp in the grid on a dense screen, 15 kB each
JPEG_QUALITY = 82  # below it thin contours fringe
FEW_PHOTOS = 20  # a class tagged on fewer is called thin: its classifier sees each object only a few times
WEAK_IOU = 40.0  # percent; below it a mask shares less of its area with the object than it gets wrong
CONFUSED = 10.0  # percent of a class's pixels that go to one other class before it is worth a line
DISAGREES = 80.0  # percent of a class's tags shown in the masks, below which the class is named
HATCH = 6  # pixels between the stripes that mark undecided pixels

# Told apart on a grey photograph, light enough for dark text; beyond them hues follow the golden angle.
_COLORS = (
    "#ef5350", "#42a5f5", "#66bb6a", "#ffa726", "#ab47bc", "#26c6da", "#ec407a", "#d4e157",
    "#8d6e63", "#5c6bc0", "#26a69a", "#ffee58", "#78909c", "#ff7043", "#9ccc65", "#7e57c2",
)  # fmt: skip


# --- what a report shows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageTime:
    """A stage of the run, as done."""

    name: str
    seconds: float
    images: int | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores with a name. The last one of a report that is no oracle is taken for the run's product."""

    name: str  # of what was scored: "Maps", "Pseudo masks", "Segmenter"
    scores: Scores
    photos: str = ""  # on what: "222 val photos, no tags given"
    oracle: bool = False  # of something trained on true masks: a yardstick, stamped so and kept out of the headline


@dataclass(frozen=True)
class GalleryRow:
    """One photo with what the run made of it. Absent pictures are left out of the page."""

    id: str
    image: np.ndarray  # [height width 3] uint8
    tags: Sequence[int] | frozenset[int] | None = None  # foreground classes; None: untagged
    maps: LocalizationMaps | None = None
    walked: LocalizationMaps | None = None  # the maps after a random walk
    unrefined: np.ndarray | None = None  # [height width] uint8, the mask straight from the maps
    mask: np.ndarray | None = None  # [height width] uint8, the pseudo mask
    relabelled: np.ndarray | None = None  # [height width] uint8, the segmenter's own, tags known
    prediction: np.ndarray | None = None  # [height width] uint8, the segmenter's
    truth: np.ndarray | None = None  # [height width] uint8
    score: float | None = None  # percent mean IoU of this photo
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. Only the first three are needed; what is empty is left out of the page."""

    title: str
    classes: tuple[str, ...]  # foreground
    created: str  # date and time, as it is to be read
    command: str = ""
    supervision: Sequence[str] = ()  # what the run was told: "tags of 584 photos"
    oracle: bool = False  # true masks took part: a loud banner, the run is no weakly supervised one
    scores: Sequence[ScoreTable] = ()
    agreements: Sequence[tuple[str, TagAgreement]] = ()  # name, masks against tags
    photos: Mapping[str, int] = field(default_factory=dict)  # split -> photos
    class_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)  # split -> photos tagged, by class
    galleries: Mapping[str, Sequence[GalleryRow]] = field(default_factory=dict)  # "Worst" -> rows
    stages: Sequence[StageTime] = ()
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    # training -> loss -> (step, value)
    sweep: OracleSweep | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()  # photos set aside, and the like
    environment: Mapping[str, str] = field(default_factory=dict)  # name -> version
    peak_memory: int | None = None  # bytes


def render(data: ReportData, path: Path) -> None:
    """Write the page, whole or not at all."""
    page = html(data)
    with atomic(path) as file:
        file.write(page)


def html(data: ReportData) -> str:
    """The page as text."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration, "memory": memory, "plain": plain_setting}
    source = resources.files("tag2mask").joinpath("report.html.j2").read_text(encoding="utf-8")
    colors = [color for color, _ in zip(class_colors(len(data.classes)), data.classes, strict=True)]
    return environment.from_string(source).render(
        data=data,
        cards=headline(data),
        product=product(data),
        verdict=verdict(data),
        trust=trust(data),
        colors=colors,
        rows=class_rows(data),
        legend=list(zip(data.classes, colors, strict=True)),
        galleries=[(name, [_pictures(row, data.classes) for row in rows]) for name, rows in data.galleries.items()],
        charts=[
            (training, [line_chart(loss, points) for loss, points in losses.items() if points])
            for training, losses in data.curves.items()
        ],
        sweep=None if data.sweep is None else _sweep_chart(data.sweep),
        settings=_flat_settings(data.settings),
        seconds=sum(stage.seconds for stage in data.stages),
    )


# --- words and numbers ----------------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    """``57.3``; a dash where nothing was measured."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """``9.2 s``, ``4 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def plain_setting(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain_setting(item) for item in value) or "none"
    return str(value)


def _flat_settings(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Groups of dotted names: ``{"train": {"a": 1, "b": {"c": 2}}}`` -> ``("train", [("a", 1), ("b.c", 2)])``."""

    def flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            return [pair for key, inner in value.items() for pair in flat(f"{prefix}.{key}" if prefix else key, inner)]
        return [(prefix, value)]

    single = [(key, value) for key, value in settings.items() if not isinstance(value, Mapping)]
    groups = [(key, flat("", value)) for key, value in settings.items() if isinstance(value, Mapping) and value]
    return ([("run", single)] if single else []) + groups


def product(data: ReportData) -> ScoreTable | None:
    """The scores that the run is about."""
    own = [table for table in data.scores if not table.oracle]
    return own[-1] if own else None


@dataclass(frozen=True)
class Card:
    """One number of the headline."""

    value: str
    unit: str
    name: str
    below: str


def headline(data: ReportData) -> list[Card]:
    """At most three numbers, in the order of the pipeline; the last is the run's product."""
    own = [table for table in data.scores if not table.oracle]
    if own:
        return [Card(percent(table.scores.mean_iou), "mIoU", table.name, table.photos) for table in own[-3:]]
    cards = []
    if data.agreements:
        name, agreement = data.agreements[-1]
        cards = [
            Card(str(agreement.photos), "photos", name, "with a mask"),
            Card(percent(100 - agreement.undecided, 0), "%", "Pixels decided", "the rest is left at 255"),
            Card(percent(agreement.shown, 0), "%", "Tags shown", "in their photo's mask"),
        ]
    return cards


def verdict(data: ReportData) -> str:
    """The run in a sentence or two."""
    table = product(data)
    if table is None and data.scores:
        return "Only what was trained on true masks has been measured. Nothing here says how good masks from tags are."
    if table is None:
        return (
            "No truth was given, so how good these masks are was not measured. Look at the photos below, then read "
            "what can be trusted."
        )
    iou = {name: value for name, value in zip(data.classes, table.scores.iou[1:], strict=True) if value == value}
    scored = f"{table.name} on {table.photos}" if table.photos else table.name
    if not iou:
        return f"{scored}: no class occurs in the truth or in the masks."
    if not any(iou.values()):
        return f"{scored}: not one pixel of any class is right. Something went wrong; the masks are of no use."
    best, worst = max(iou, key=lambda name: iou[name]), min(iou, key=lambda name: iou[name])
    text = f"{scored}: masks and truth share {percent(table.scores.mean_iou, 0)} % of the area they cover together"
    if len(iou) == 1:
        return f"{text}, averaged over background and {best}."
    return (
        f"{text}, averaged over background and {len(iou)} classes. Best at {best} ({percent(iou[best], 0)}), "
        f"weakest at {worst} ({percent(iou[worst], 0)})."
    )


@dataclass(frozen=True)
class Remark:
    """A line of the section on trust."""

    level: Literal["good", "note", "caution"]
    text: str


def trust(data: ReportData) -> list[Remark]:
    """What the numbers allow one to believe, in plain words."""
    remarks = []
    if data.oracle:
        remarks.append(
            Remark(
                "caution", "True masks were used for training. These numbers are a yardstick, not a result from tags."
            )
        )
    table = product(data)
    if table is not None:
        remarks += _trust_measured(data, table)
    else:
        remarks.append(
            Remark(
                "caution",
                "No masks made from tags were compared with the truth. The signs below need none, and can look fine "
                "although outlines are wrong: look at the photos, or give a few true masks to measure.",
            )
        )
    for name, agreement in data.agreements:
        remarks += _trust_agreement(name, agreement)
    for split, counts in data.class_counts.items():
        thin = [f"{name} ({count})" for name, count in zip(data.classes, counts, strict=True) if count < FEW_PHOTOS]
        if thin and "train" in split:
            remarks.append(
                Remark("caution", f"Few photos to learn from in {split}, under {FEW_PHOTOS}: {', '.join(thin)}.")
            )
    return remarks


def _trust_measured(data: ReportData, table: ScoreTable) -> list[Remark]:
    scores, remarks = table.scores, []
    where = f" on {table.photos}" if table.photos else ""
    remarks.append(
        Remark(
            "good",
            f"{table.name} was measured{where}, on {scores.pixels / 1e6:.1f} million pixels with known truth: "
            f"{percent(scores.pixel_accuracy, 0)} % of them are right, mIoU {percent(scores.mean_iou)}.",
        )
    )
    for other in data.scores:
        if other.oracle and other.scores.mean_iou > 0:
            share = 100 * scores.mean_iou / other.scores.mean_iou
            remarks.append(
                Remark(
                    "note",
                    f"That is {percent(share, 0)} % of the {percent(other.scores.mean_iou)} mIoU of: {other.name}.",
                )
            )
    found, right = scores.foreground_recall, scores.foreground_precision
    if found + 10 < right:
        remarks.append(Remark("note", f"Masks are too small: {percent(found, 0)} % of the objects' pixels are found."))
    elif right + 10 < found:
        remarks.append(
            Remark("note", f"Masks spill over: {percent(100 - right, 0)} % of what they mark is background.")
        )
    elif math.isnan(right) and found == 0:
        remarks.append(Remark("caution", "Everything is called background: no mask shows an object."))
    weak = [
        f"{name} ({percent(value, 0)})"
        for name, value in zip(data.classes, scores.iou[1:], strict=True)
        if value < WEAK_IOU
    ]
    if weak:
        remarks.append(Remark("caution", f"Do not rely on masks of {', '.join(weak)}: IoU under {WEAK_IOU:.0f}."))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 100 * scores.confusion / scores.truth_pixels[:, None]
    for true in range(1, len(scores.class_names)):
        for guess in range(1, len(scores.class_names)):
            if true != guess and shares[true, guess] >= CONFUSED:
                names = scores.class_names[true], scores.class_names[guess]
                text = f"{percent(shares[true, guess], 0)} % of the pixels of {names[0]} are taken for {names[1]}."
                remarks.append(Remark("caution", text))
    if scores.coverage < 99.5:
        undecided = percent(100 - scores.coverage, 0)
        remarks.append(
            Remark(
                "note",
                f"{undecided} % of the pixels are undecided and count as wrong; without them the mIoU is "
                f"{percent(scores.decided_mean_iou)}.",
            )
        )
    return remarks


def _trust_agreement(name: str, agreement: TagAgreement) -> list[Remark]:
    remarks = []
    if agreement.photos:
        steady = agreement.shown >= 90 and agreement.tagged >= 90
        remarks.append(
            Remark(
                "good" if steady else "note",
                f"{name} and tags: {percent(agreement.shown, 0)} % of the tags are shown in their photo's mask, and "
                f"{percent(agreement.tagged, 0)} % of what masks show is tagged ({agreement.photos} photos).",
            )
        )
    if agreement.empty:
        remarks.append(Remark("caution", f"{name}: {agreement.empty} tagged photos have a mask without any object."))
    if agreement.undecided >= 20:
        remarks.append(Remark("note", f"{name}: {percent(agreement.undecided, 0)} % of the pixels are undecided."))
    seldom = [
        f"{kind} (in {found} of {found + missed} photos)"
        for kind, found, missed in zip(agreement.classes, agreement.found, agreement.missed, strict=True)
        if 100 * found < DISAGREES * (found + missed)
    ]
    if seldom:
        remarks.append(Remark("caution", f"{name}: tagged but often not shown: {', '.join(seldom)}."))
    return remarks


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table."""

    name: str
    color: str | None  # None: background
    counts: list[int | None]  # photos by split
    iou: list[float]  # by score table
    precision: float | None
    recall: float | None
    boundary: float | None


def class_rows(data: ReportData) -> list[ClassRow]:
    """Background, then the classes."""
    colors = [None, *class_colors(len(data.classes))]
    table = product(data)
    last = None if table is None else table.scores
    names = with_background(data.classes)
    assert all(table.scores.class_names == names for table in data.scores), (
        "scores over other classes than the report's"
    )
    return [
        ClassRow(
            name,
            colors[at],
            [None if at == 0 else counts[at - 1] for counts in data.class_counts.values()],
            [float(table.scores.iou[at]) for table in data.scores],
            None if last is None else float(last.precision[at]),
            None if last is None else float(last.recall[at]),
            None if last is None else float(last.boundary_iou[at]),
        )
        for at, name in enumerate(names)
    ]


# --- pictures -------------------------------------------------------------------------------------------------


def class_colors(count: int) -> list[str]:
    """``#rrggbb`` of each foreground class, on the page and in its pictures."""
    more = (
        colorsys.hls_to_rgb((0.11 + 0.618034 * at) % 1, (0.5, 0.66, 0.4)[at % 3], 0.65)
        for at in range(max(0, count - len(_COLORS)))
    )
    return [*_COLORS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in rgb) for rgb in more)]


def _rgb(colors: Sequence[str]) -> np.ndarray:
    return np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in colors], np.float32).reshape(-1, 3)


@dataclass(frozen=True)
class Picture:
    caption: str
    uri: str
    width: int
    height: int
    about: str  # for those who do not see it


@dataclass(frozen=True)
class PictureRow:
    id: str
    tags: list[tuple[str, str]] | None  # name, colour
    score: float | None
    note: str
    pictures: list[Picture]


def _pictures(row: GalleryRow, classes: Sequence[str]) -> PictureRow:
    colors = class_colors(len(classes))
    photo = _thumbnail(row.image)
    pictures = [_picture("Photo", photo, f"photo {row.id}")]
    for caption, maps in (("Map", row.maps), ("Walked map", row.walked)):
        if maps is not None:
            pictures.append(_picture(caption, _draw_maps(photo, maps, _rgb(colors)), f"{caption.lower()} of {row.id}"))
    masks = (
        ("Unrefined", row.unrefined),
        ("Mask", row.mask),
        ("Relabelled", row.relabelled),
        ("Prediction", row.prediction),
        ("Truth", row.truth),
    )
    for caption, mask in masks:
        if mask is not None:
            found = [classes[int(label) - 1] for label in np.unique(mask) if label not in (BACKGROUND, IGNORE)]
            about = f"{caption.lower()} of {row.id}: {', '.join(found) or 'background only'}"
            pictures.append(_picture(caption, _draw_mask(photo, mask, _rgb(colors)), about))
    tags = None if row.tags is None else [(classes[tag], colors[tag]) for tag in sorted(row.tags)]
    return PictureRow(row.id, tags, row.score, row.note, pictures)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8, (image.shape, image.dtype)
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _grey(photo: np.ndarray, strength: float) -> np.ndarray:
    """``[height width 3]`` float32: the photo without colour, its contrast drawn towards a mid grey."""
    grey = photo @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat((128 + strength * (grey - 128))[..., None], 3, axis=2)


def _draw_maps(photo: np.ndarray, maps: LocalizationMaps, colors: np.ndarray) -> np.ndarray:
    """The strongest class's colour, as opaque as its score."""
    if not maps.classes:
        return _grey(photo, 0.7).astype(np.uint8)
    size = (photo.shape[1], photo.shape[0])
    scores = np.stack(
        [
            np.array(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
            for one in maps.scores
        ]
    )
    opaque = np.clip(scores.max(axis=0), 0, 1)[..., None] * 0.85
    color = colors[np.asarray(maps.classes)[scores.argmax(axis=0)]]
    return np.clip(_grey(photo, 0.7) * (1 - opaque) + color * opaque, 0, 255).astype(np.uint8)


def _draw_mask(photo: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Classes in their colours with a contour, background the grey photo, undecided pixels striped."""
    height, width = photo.shape[:2]
    labels = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    drawn = _grey(photo, 0.7)
    object_ = (labels != BACKGROUND) & (labels != IGNORE)
    color = colors[labels[object_].astype(np.intp) - 1]
    drawn[object_] = 0.3 * drawn[object_] + 0.7 * color
    contour = np.zeros_like(object_)
    contour[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    contour[1:] |= labels[1:] != labels[:-1]
    drawn[contour] = 250
    y, x = np.mgrid[:height, :width]
    drawn[(labels == IGNORE) & ((x + y) % HATCH < HATCH // 3)] = 235
    return np.clip(drawn, 0, 255).astype(np.uint8)


def _picture(caption: str, image: np.ndarray, about: str) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(caption, uri, image.shape[1], image.shape[0], about)


# --- charts ---------------------------------------------------------------------------------------------------

CHART = (360, 190)  # width, height of a chart in its own units: about its size in pixels on every screen
MARGIN = (44, 12, 10, 24)  # left, right, top, bottom
MOST_POINTS = 400  # more cannot be told apart in a chart of this width


@dataclass(frozen=True)
class Chart:
    """A line chart, laid out; the template draws it."""

    title: str
    last: str
    raw: str  # points of the values as logged
    smooth: str  # points of their running mean; empty for short ones
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: tuple[float, float, str] | None = None  # a point worth a label
    width: int = CHART[0]
    height: int = CHART[1]
    left: int = MARGIN[0]
    right: int = CHART[0] - MARGIN[1]
    bottom: int = CHART[1] - MARGIN[3]


def line_chart(
    title: str,
    points: Sequence[tuple[float, float]],
    mark: tuple[float, float, str] | None = None,
    smoothed: bool = True,
) -> Chart:
    """Lay a series out. Values that are no finite numbers are left out; long series are thinned by their means."""
    values = np.array([point for point in points if all(map(math.isfinite, point))], np.float64).reshape(-1, 2)
    if not len(values):
        return Chart(title, "no finite value", "", "", [], [])
    last = f"{values[-1, 1]:.3g}"
    smooth = _running_mean(values[:, 1], window=max(1, len(values) // 20)) if smoothed and len(values) >= 40 else None
    if len(values) > MOST_POINTS:
        groups = np.array_split(np.arange(len(values)), MOST_POINTS)
        smooth = None if smooth is None else np.array([smooth[group].mean() for group in groups])
        values = np.array([values[group].mean(axis=0) for group in groups])
    low, high = _range(values[:, 1])
    first, final = float(values[0, 0]), float(values[-1, 0])
    if final <= first:
        first, final = first - 0.5, first + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        left, right, top, bottom = MARGIN
        return (
            round(left + (x - first) / (final - first) * (CHART[0] - left - right), 1),
            round(top + (high - min(max(y, low), high)) / (high - low) * (CHART[1] - top - bottom), 1),
        )

    def line(ys: np.ndarray) -> str:
        return " ".join("{},{}".format(*place(x, y)) for x, y in zip(values[:, 0].tolist(), ys.tolist(), strict=True))

    return Chart(
        title,
        last,
        line(values[:, 1]),
        "" if smooth is None else line(smooth),
        [(place(x, low)[0], _number(x)) for x in _ticks(first, final)],
        [(place(first, y)[1], _number(y)) for y in _ticks(low, high)],
        None if mark is None else (*place(*mark[:2]), mark[2]),
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """From zero where that does not flatten the line, so that heights can be compared."""
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= 0.6 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred, and narrower towards the ends so that it neither lags nor leads there."""
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(len(values))
    half = np.minimum(window, np.minimum(at, len(values) - 1 - at))
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values within a range, at most ``most`` of them."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    return [round(at * step, 10) for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def _sweep_chart(sweep: OracleSweep) -> Chart:
    threshold, mean_iou = sweep.best
    return line_chart(
        "Best class where its score exceeds a constant",
        list(zip(sweep.thresholds, sweep.mean_iou, strict=True)),
        mark=(threshold, mean_iou, f"{mean_iou:.1f} at {threshold:g}"),
        smoothed=False,
    )
