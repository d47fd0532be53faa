"""Masks of odd photos leave and come back: names that differ in little, the smallest, those that a tool cannot show."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.corrections.taking import _Names
from tag2mask.data.ids import distinct_ids
from tag2mask.errors import InputError
from tag2mask.exchange import FORMATS, About, MaskedPhoto
from tag2mask.exchange.check import CLASSES
from tag2mask.exchange.photos import ScoreTable
from tag2mask.export import Source
from tag2mask.naming import safe_name
from tag2mask.types import Dataset, Sample
from test_exchange import ACCEPT

NAMES = (
    "x.png", "x.jpg", "y.png.png", "y.png", "100%.png", "sub/x.png", "images/x.png", "a/images/x.png", "\u200b.jpg",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_every_photo_comes_back_as_itself(form: str, tmp_path: Path) -> None:
    """Names that differ in little, or that are the id of another photo; each with a mask of its own."""

    id_of, photos, samples = distinct_ids(NAMES, explicit=True, place="here"), [], []
    for number, name in enumerate(NAMES):
        mask = np.zeros((20, 30), np.uint8)
        mask[2:18, number : number + 10] = 1
        photos.append(placed(tmp_path / "photos", name, mask, id_of(name)))
        samples.append(Sample(photos[-1].id, photos[-1].path, frozenset({0}), "train"))
    (tmp_path / "out").mkdir()
    FORMATS[form].write(tmp_path / "out", iter(photos), About(CLASSES, "v", "train", tmp_path / "photos"))
    ACCEPT.get(form, lambda folder: None)(tmp_path / "out")
    names = _Names(Source(None, None, Dataset("d", CLASSES, samples)))  # type: ignore[arg-type]
    back = {names.sample(drawn).id: drawn.mask for drawn in FORMATS[form].read(tmp_path / "out", CLASSES)}
    assert len(back) == len(NAMES) and names.source.root == tmp_path / "photos"
    for photo in photos:
        assert np.array_equal(back[photo.id], photo.mask), photo.name


def placed(folder: Path, name: str, mask: np.ndarray, id_: str = "", mode: str = "RGB") -> MaskedPhoto:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", mask.shape[::-1], "green")
    image = Image.fromarray(np.full(mask.shape, 40_000, np.uint16)) if mode == "I;16" else image.convert(mode)
    image.save(path)
    return MaskedPhoto(id_ or name, name, path, mask, 0.5)


@pytest.mark.parametrize("form", FORMATS)
def test_the_smallest_photo_no_decision_at_all_and_all_classes_that_a_mask_holds(form: str, tmp_path: Path) -> None:
    classes = tuple(f"kind {c}" for c in range(254))
    masks = {
        "one": np.full((1, 1), 254),
        "undecided": np.full((9, 7), 255),
        "every": np.arange(256).reshape(16, 16).repeat(4, 0).repeat(4, 1),
        "line": np.full((1, 40), 3),
    }
    photos = [placed(tmp_path / "photos", f"{name}.png", m.astype(np.uint8), name) for name, m in masks.items()]
    (tmp_path / "out").mkdir()
    notes = FORMATS[form].write(tmp_path / "out", iter(photos), About(classes, "v", "train", tmp_path / "photos"))
    ACCEPT.get(form, lambda folder: None)(tmp_path / "out")
    back = {drawn.name.removesuffix(".png"): drawn.mask for drawn in FORMATS[form].read(tmp_path / "out", classes)}
    for name, mask in masks.items():
        lost = mask if form in ("png", "voc") else np.where(mask == 255, 0, mask)
        assert np.array_equal(back[name], lost), name
    assert form in ("png", "voc") or any("undecided" in note for note in notes)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("form", FORMATS)
def test_names_of_files_that_are_no_text(form: str, tmp_path: Path) -> None:
    """Written as bytes, or refused in one line; the table of scores shows them."""
    photo = placed(tmp_path / "photos", os.fsdecode(b"\xff.png"), np.ones((5, 6), np.uint8), os.fsdecode(b"\xff"))
    (tmp_path / "out").mkdir()
    table = ScoreTable(tmp_path / "out", CLASSES)
    about = About(CLASSES, "v", "train", tmp_path / "photos")
    if form in ("cvat", "label-studio"):
        with pytest.raises(InputError, match=r"the photo '\\udcff\.png' cannot be written"):
            FORMATS[form].write(tmp_path / "out", table.watch([photo]), about)
        return
    FORMATS[form].write(tmp_path / "out", table.watch([photo]), about)
    (drawn,) = FORMATS[form].read(tmp_path / "out", CLASSES)
    assert drawn.name in (photo.name, safe_name(photo.id)) and (drawn.mask == 1).all()
    assert "\\udcff.png" in table.path.read_text(encoding="utf-8")


def test_photos_that_a_tool_cannot_show(tmp_path: Path) -> None:
    """labelme opens no 16 bits and no CMYK: it gets their pixels; browsers show no TIFF: it is said."""
    mask = np.ones((5, 6), np.uint8)
    photos = [placed(tmp_path, name, mask, mode=mode) for name, mode in
              (("deep.png", "I;16"), ("print.jpg", "CMYK"), ("grey.png", "L"), ("page.tif", "RGB"))]  # fmt: skip
    (tmp_path / "out").mkdir()
    FORMATS["labelme"].write(tmp_path / "out", photos, About(CLASSES, "v", "train", tmp_path))
    coded = {p.stem: json.loads(p.read_text())["imageData"] for p in (tmp_path / "out").glob("*.json")}
    assert coded["grey.png"] is None and coded["page.tif"] is None
    for name in ("deep.png", "print.jpg"):
        shown = Image.open(io.BytesIO(base64.b64decode(coded[name])))
        assert shown.mode == "RGB" and shown.size == (6, 5)
    (note,) = FORMATS["label-studio"].write(tmp_path / "out", photos, About(CLASSES, "v", "train", tmp_path))
    assert note.startswith("1 photo in a format that browsers do not show")
