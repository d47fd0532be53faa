"""The comparison as one self-contained page: tables, and the photos on which the runs differ most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tag2mask import evaluate
from tag2mask.compare.comparison import Comparison, Row
from tag2mask.compare.measured import WHAT, MeasuredRun
from tag2mask.compare.statistics import mean_iou
from tag2mask.data.images import read_image
from tag2mask.data.peek import start_of
from tag2mask.errors import InputError
from tag2mask.files import atomic
from tag2mask.report.colors import class_colors, rgb
from tag2mask.report.pictures import Picture, draw_mask, picture, thumbnail
from tag2mask.report.words import duration, percent
from tag2mask.stages import names
from tag2mask.stages.artefacts import MaskReader

PHOTOS = 12
_TITLE = b"ways compared"


@dataclass(frozen=True)
class PhotoRow:
    """A photo, its truth and what every row of the comparison made of it."""

    id: str
    pictures: list[Picture]
    scores: list[float]  # mean IoU of each row


def check_page(path: Path) -> None:
    """Refuse to replace anything but such a page.

    Raises:
        InputError: there is something else.
    """
    if path.exists() and _TITLE not in start_of(path, 1 << 12):
        raise InputError(f"--out {path} is there and is no page of a comparison: give a new file")


def render(comparison: Comparison, path: Path) -> None:
    """Write the page, whole or not at all."""
    page = html(comparison)
    with atomic(path) as file:
        file.write(page)


def html(comparison: Comparison) -> str:
    """The page as text."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration}
    style = resources.files("tag2mask.report").joinpath("page.css").read_text(encoding="utf-8")
    template = resources.files("tag2mask.compare").joinpath("compare.html.j2").read_text(encoding="utf-8")
    first = comparison.rows[0].runs[0]
    colors = class_colors(len(first.classes))
    return environment.from_string(template).render(
        style=markupsafe.Markup(style),
        comparison=comparison,
        rows=comparison.rows,
        first=first,
        what=WHAT,
        legend=list(zip(first.classes, colors, strict=True)),
        settings=sorted({name for row in comparison.rows for name in row.differs}),
        galleries=[(WHAT[kind], list(_differing(comparison, kind))) for kind in reversed(comparison.kinds)],
    )


def _differing(comparison: Comparison, kind: str) -> Iterator[PhotoRow]:
    """The photos on which the rows' first runs differ most."""
    runs = [row.runs[0] for row in comparison.rows]
    keys = runs[0].photos[kind]
    scores = np.stack([_of_photos(run, kind, keys) for run in runs])
    spread = np.nan_to_num(scores.std(0))
    for number in np.argsort(-spread, kind="stable")[:PHOTOS].tolist():
        if spread[number] > 0:
            yield PhotoRow(keys[number][1], _pictures(comparison.rows, kind, keys[number]), scores[:, number].tolist())


def _of_photos(run: MeasuredRun, kind: str, keys: tuple[tuple[str, str], ...]) -> np.ndarray:
    place = {key: number for number, key in enumerate(run.photos[kind])}
    return mean_iou(run.confusions[kind][[place[key] for key in keys]])


def _pictures(rows: tuple[Row, ...], kind: str, key: tuple[str, str]) -> list[Picture]:
    data = rows[0].runs[0].execution.data
    dataset = data.train if kind == "masks" else data.val
    assert dataset is not None
    sample = next(sample for sample in dataset.samples if sample.key == key)
    photo, colors = thumbnail(read_image(sample.image_path)), rgb(class_colors(len(dataset.classes)))
    truth = draw_mask(photo, evaluate.read_truth(sample, dataset), colors)
    shown = [picture("Photo", photo, f"photo {sample.id}"), picture("Truth", truth, f"truth of {sample.id}")]
    for run in (row.runs[0] for row in rows):
        execution = run.execution
        stage = names.last_masks(execution.settings, execution.folders) if kind == "masks" else "predictions"
        mask = MaskReader(execution.folders[stage], dataset.classes).if_any(sample)
        if mask is not None:
            shown.append(picture(run.name, draw_mask(photo, mask, colors), f"{run.name} on {sample.id}"))
    return shown
