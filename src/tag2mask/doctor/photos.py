"""Photos that cannot be read, that are very small or large, that are odd, that are there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tag2mask.data import DataSettings
from tag2mask.data.check import CheckedImage
from tag2mask.data.finding import Finding, Level
from tag2mask.doctor.leakage import shared_photos
from tag2mask.errors import listed, some

TINY = 64  # pixels on the shorter side: two or four cells of a feature grid
HUGE = 16_000_000  # pixels; such photos work but decode slowly, and are shrunk anyway

Checks = Mapping[str, Sequence[CheckedImage]]


def examine_photos(checked: Checks, settings: DataSettings) -> Iterator[Finding]:
    """Everything about the photos of some splits."""
    for split, checks in checked.items():
        bad = [check.error for check in checks if check.error]
        level: Level = "error" if 2 * len(bad) > len(checks) else "warning"  # training sets single ones aside
        yield from (Finding(level, f"{split}: {error}") for error in bad[:10])
        if bad:
            yield Finding(
                level,
                f"{split}: {len(bad)} of {some(len(checks), 'photo')} cannot be read",
                "training sets them aside and goes on without them",
            )
        good = [check for check in checks if not check.error]
        yield from _sizes(split, good)
        yield from _notes(split, good)
    yield from _copies(checked, settings)


def _sizes(split: str, good: Sequence[CheckedImage]) -> Iterator[Finding]:
    tiny = [check.id for check in good if min(check.height, check.width) < TINY]
    if tiny:
        yield Finding(
            "warning",
            f"{split}: {some(len(tiny), 'photo')} under {TINY} pixels on the shorter side: {listed(tiny)}",
            "their masks will be blurs: use the original photos",
        )
    huge = [check.id for check in good if check.height * check.width > HUGE]
    if huge:
        yield Finding(
            "warning",
            f"{split}: {some(len(huge), 'photo')} over {HUGE // 1_000_000} megapixels: {listed(huge)}",
            "they are read slowly: shrink them once",
        )
    if good:
        heights, widths = [check.height for check in good], [check.width for check in good]
        yield Finding(
            "info",
            f"{split}: photos of {min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high",
        )


def _notes(split: str, good: Sequence[CheckedImage]) -> Iterator[Finding]:
    """Pixels that are not what photos usually have."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for check in good:
        if check.note:
            ids[check.note].append(check.id)
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
    same: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for checks in checked.values():
        for check in checks:
            if not check.error:
                same[check.digest].append(check.key)
    copies = [places for places in same.values() if len(places) > 1]
    across = [places for places in copies if len({split for split, _ in places}) > 1]
    if across:
        of_splits = [list({split: (split, id_) for split, id_ in reversed(places)}.values()) for places in across]
        shown = listed([" = ".join(f"{split}/{id_}" for split, id_ in sorted(places)) for places in of_splits])
        yield shared_photos(f"{some(len(across), 'photo')} in more than one split: {shown}", settings)
    within = [places for places in copies if len({split for split, _ in places}) == 1]
    if within:
        shown = listed([" = ".join(id_ for _, id_ in places[:3]) for places in within])
        yield Finding(
            "warning",
            f"{some(len(within), 'photo')} more than once under different names: {shown}",
            "remove the copies: they count twice, and their tags may differ",
        )
