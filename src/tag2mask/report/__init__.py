"""One HTML file that tells a person at a glance what a run did and how far its masks can be trusted.

The page is whole in itself: images are data URIs, styles are inline, there is no script, and its content security
policy forbids every request. :class:`ReportData` is plain data that the pipeline fills; :func:`render` only writes.
Every text is escaped by the template.
"""

from tag2mask.report.data import GalleryRow, ReportData, ScoreTable, StageTime
from tag2mask.report.headline import headline, verdict
from tag2mask.report.page import html, render
from tag2mask.report.trust import Remark, trust

__all__ = [
    "GalleryRow",
    "Remark",
    "ReportData",
    "ScoreTable",
    "StageTime",
    "headline",
    "html",
    "render",
    "trust",
    "verdict",
]
