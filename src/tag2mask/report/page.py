"""The page: plain data into the template."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from tag2mask.errors import printable
from tag2mask.files import atomic
from tag2mask.report.charts import line_chart, sweep_chart
from tag2mask.report.colors import class_colors
from tag2mask.report.data import ReportData
from tag2mask.report.headline import headline, verdict
from tag2mask.report.pictures import pictures
from tag2mask.report.tables import class_rows
from tag2mask.report.trust import trust
from tag2mask.report.words import duration, flat_settings, memory, percent, plain_setting


def render(data: ReportData, path: Path) -> None:
    """Write the page, whole or not at all."""
    page = html(data)
    with atomic(path) as file:
        file.write(page)


def html(data: ReportData) -> str:
    """The page as text."""
    import markupsafe

    colors = class_colors(len(data.classes))
    return _template().render(
        style=markupsafe.Markup(_text("page.css")),
        data=data,
        cards=headline(data),
        product=data.product,
        verdict=verdict(data),
        trust=trust(data),
        colors=colors,
        rows=class_rows(data),
        legend=list(zip(data.classes, colors, strict=True)),
        galleries=[(name, [pictures(row, data.classes) for row in rows]) for name, rows in data.galleries.items()],
        charts=[
            (training, [line_chart(loss, points) for loss, points in losses.items() if points])
            for training, losses in data.curves.items()
        ],
        sweep=None if data.sweep is None else sweep_chart(data.sweep),
        risk=[line_chart(split, points, smoothed=False) for split, points in data.risk.items()],
        settings=flat_settings(data.settings),
        passport=markupsafe.escape(json.dumps(data.passport, indent=1)),
        seconds=sum(stage.seconds for stage in data.stages),
    )


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_printable
    )
    environment.filters |= {"percent": percent, "duration": duration, "memory": memory, "plain": plain_setting}
    return environment.from_string(_text("page.html.j2"))


def _printable(value: object) -> object:
    """Names and tags are other people's, and whoever prints the page's source has a terminal."""
    return printable(value) if type(value) is str else value


def _text(name: str) -> str:
    return resources.files("tag2mask.report").joinpath(name).read_text(encoding="utf-8")
