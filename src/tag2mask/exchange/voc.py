"""PASCAL VOC's layout: ``SegmentationClass/<id>.png`` in its palette, lists, the photos, and ``labelmap.txt``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tag2mask.data.images import voc_palette
from tag2mask.errors import InputError, listed
from tag2mask.evaluate import write_classes
from tag2mask.exchange import png
from tag2mask.exchange.photos import About, Drawn, MaskedPhoto, place_photo
from tag2mask.files import atomic
from tag2mask.naming import safe_name
from tag2mask.types import IGNORE

MASKS = "SegmentationClass"
LABELS = "labelmap.txt"
IGNORED = "ignored"  # what datumaro and CVAT call 255


def refuses(name: str) -> str:
    """Names that ``labelmap.txt`` cannot hold."""
    if name == IGNORED:
        return "that is the name of what is not decided"
    if ":" in name or name.startswith("#"):
        return "labelmap.txt separates its fields by ':' and begins remarks with '#'"
    return ""


def write(out: Path, photos: Iterable[MaskedPhoto], about: About) -> list[str]:
    """A data set in VOC's layout."""
    (out / MASKS).mkdir(parents=True)
    names = png.write_masks(out / MASKS, _placed(photos, out / "JPEGImages"))
    with atomic(out / "ImageSets" / "Segmentation" / f"{about.split}.txt") as file:
        file.writelines(f"{name}\n" for name in names)
    write_classes(out, about.classes)
    colours = voc_palette().tolist()
    with atomic(out / LABELS) as file:
        file.write("# label:color_rgb:parts:actions\n")
        for value, name in [*enumerate(("background", *about.classes)), (IGNORE, IGNORED)]:
            file.write(f"{name}:{','.join(map(str, colours[value]))}::\n")
    return []


def _placed(photos: Iterable[MaskedPhoto], folder: Path) -> Iterator[MaskedPhoto]:
    for photo in photos:
        place_photo(photo, folder / f"{safe_name(photo.id)}{photo.path.suffix}")
        yield photo


def read(path: Path, classes: Sequence[str]) -> Iterator[Drawn]:
    """The masks of such a data set.

    Raises:
        InputError: no ``SegmentationClass``, or ``labelmap.txt`` names other classes.
    """
    if not (path / MASKS).is_dir():
        raise InputError(f"{path} has no folder {MASKS}: give the folder of the corrected VOC data set")
    if (path / LABELS).is_file():
        lines = (path / LABELS).read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.split(":")[0] for line in lines if line.strip() and not line.startswith("#")]
        if [name for name in named if name != IGNORED] != ["background", *classes]:
            raise InputError(
                f"{path / LABELS} names {listed(named, 9)}, and the run's classes are background, "
                f"{listed(classes, 8)}: values would mean other classes"
            )
    yield from png.read_masks(path / MASKS, classes)
