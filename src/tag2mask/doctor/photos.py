"""Photos that cannot be read, that are very small or large, that are odd, that are there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from tag2mask.data import DataSettings
from tag2mask.data.checked import CheckedPhotos
from tag2mask.data.finding import Finding, Level
from tag2mask.doctor.leakage import shared_photos
from tag2mask.errors import listed, some

TINY = 64  # pixels on the shorter side: two or four cells of a feature grid
DETAILED = 576  # pixels on the longer side, 1.5 times as many as maps see by default
HUGE = 16_000_000  # pixels; such photos work but decode slowly, and are shrunk anyway

Checks = Mapping[str, CheckedPhotos]


def examine_photos(checked: Checks, settings: DataSettings) -> Iterator[Finding]:
    """Everything about the photos of some splits."""
    for split, checks in checked.items():
        bad = [check.error for check in checks.unreadable()]
        level: Level = "error" if 2 * len(bad) > len(checks.ids) else "warning"  # training sets single ones aside
        yield from (Finding(level, f"{split}: {error}") for error in bad[:10])
        if bad:
            yield Finding(
                level,
                f"{split}: {len(bad)} of {some(len(checks.ids), 'photo')} cannot be read",
                "training sets them aside and goes on without them",
            )
        good = checks.take(np.flatnonzero(checks.rows["readable"]))
        yield from _sizes(split, good)
        yield from _notes(split, good)
    yield from _copies(checked, settings)


def _sizes(split: str, good: CheckedPhotos) -> Iterator[Finding]:
    heights, widths = (good.rows[side].astype(np.int64) for side in ("height", "width"))
    ids = lambda which: [good.ids[place] for place in np.flatnonzero(which)]  # noqa: E731
    tiny = ids(np.minimum(heights, widths) < TINY)
    if tiny:
        yield Finding(
            "warning",
            f"{split}: {some(len(tiny), 'photo')} under {TINY} pixels on the shorter side: {listed(tiny)}",
            "their masks will be blurs: use the original photos",
        )
    huge = ids(heights * widths > HUGE)
    if huge:
        yield Finding(
            "warning",
            f"{split}: {some(len(huge), 'photo')} over {HUGE // 1_000_000} megapixels: {listed(huge)}",
            "they are read slowly: shrink them once",
        )
    if good.ids:
        wide, high = (f"{sides.min()} to {sides.max()}" for sides in (widths, heights))
        yield Finding("info", f"{split}: photos of {wide} pixels wide, {high} high")
        median = float(np.median(np.maximum(heights, widths)))
        if median >= DETAILED:
            yield Finding(
                "info",
                f"{split}: photos of {median:.0f} pixels on the longer side (the median), more than are looked at",
                "where objects cover less than a hundredth of them: --recipe small-objects",
            )


def _notes(split: str, good: CheckedPhotos) -> Iterator[Finding]:
    """Pixels that are not what photos usually have."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for place, (_, note) in sorted(good.texts.items()):
        if note:
            ids[note].append(good.ids[place])
    transparent = ids.pop("transparent", [])
    if transparent:
        yield Finding(
            "warning",
            f"{split}: {some(len(transparent), 'photo')} fully transparent: {listed(transparent)}",
            "their transparency is ignored; if nothing is to be seen in them, remove them",
        )
    if ids:
        kinds = ", ".join(f"{len(ids[bits])} of {bits}" for bits in sorted(ids, key=lambda b: int(b.split()[0])))
        yield Finding(
            "warning" if len(ids) > 1 else "info",
            f"{split}: photos in 16-bit files, by the bits that they use: {kinds}",
            "each is stretched by its own bits, so brightness differs between them: save them as 8 bits by one scale"
            if len(ids) > 1
            else "they are stretched to 8 bits",
        )


def _copies(checked: Checks, settings: DataSettings) -> Iterator[Finding]:
    """Files with the same bytes."""
    good = {split: checks.take(np.flatnonzero(checks.rows["readable"])) for split, checks in checked.items()}
    ids = [id_ for checks in good.values() for id_ in checks.ids]
    splits = np.repeat([*good], [len(checks.ids) for checks in good.values()])
    copies = _equal(np.concatenate([checks.rows["digest"] for checks in good.values()])) if ids else []
    across = [places for places in copies if (splits[places] != splits[places[0]]).any()]
    if across:
        first = [{splits[place]: ids[place] for place in reversed(places)} for places in across]
        shown = listed(" = ".join(f"{split}/{id_}" for split, id_ in sorted(of.items())) for of in first)
        yield shared_photos(f"{some(len(across), 'photo')} in more than one split: {shown}", settings)
    if within := len(copies) - len(across):
        alone = (places for places in copies if (splits[places] == splits[places[0]]).all())
        shown = listed(" = ".join(ids[place] for place in places[:3]) for places in alone)
        yield Finding(
            "warning",
            f"{some(within, 'photo')} more than once under different names: {shown}",
            "remove the copies: they count twice, and their tags may differ",
        )


def _equal(digests: np.ndarray) -> list[np.ndarray]:
    """Places of equal ones, those of each content that is there more than once, in the order of their first."""
    _, number, count = np.unique(digests, return_inverse=True, return_counts=True)
    places = np.flatnonzero(count[number] > 1)
    ordered = places[np.argsort(number[places], kind="stable")]
    groups = np.split(ordered, np.flatnonzero(np.diff(number[ordered])) + 1) if len(ordered) else []
    return sorted(groups, key=lambda group: int(group[0]))
