"""Two layouts for people's own photos.

**folder**: photos in ``images/`` (or in the folder itself) and their tags in ``tags.csv``::

    image,tags,split,domain          split and domain are optional
    cat_01.jpg,cat,train,
    beach/7.jpg,cow;person,val,       tags are separated by ; or |

or one CSV for each split (``train.csv``, ``val.csv``). Beside them, all optional: ``classes.txt`` (a class a line, in
order; ``name value`` when truth masks use other values than 1, 2, ...), ``masks/`` (truth, ``beach/7.png``),
``saliency/``.

**class-folders**: ``cat/01.jpg``, ``dog/7.jpg``: the folder's name is the tag; or the same under ``train/``, ``val/``.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tag2mask.data.images import SUFFIXES
from tag2mask.data.listing import (
    DataSettings,
    Listing,
    Present,
    Samples,
    absolute,
    beside,
    class_values,
    folder,
    image_files,
    known_split,
    missing_images,
    sample_id,
    text_lines,
    tidy,
    unique_ids,
)
from tag2mask.errors import InputError, listed, unknown
from tag2mask.types import DOMAINS, Domain

TAG_SEPARATORS = re.compile(r"[;|]")
SALIENCY_SUFFIXES = (".png", ".jpg")
BESIDE = frozenset({"masks", "saliency"})  # folders of a data set that hold no photos
SPLIT_FOLDERS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV of tags."""

    line: int
    image: str
    tags: tuple[str, ...]
    split: str
    domain: Domain


def rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of a CSV of tags, read as they are asked for. Where there is no split column, all are of ``split``.

    Raises:
        InputError: no such file, not UTF-8, a column missing (the message names those found), an empty image name,
            an unknown domain, tags that look separated by commas.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
            for needed in ("image", "tags"):
                if needed not in columns:
                    raise InputError(
                        f"{path} has no column '{needed}' (its first line has: {', '.join(columns) or 'nothing'}): "
                        "the first line must be image,tags"
                    )
            at = {name: columns.index(name) for name in ("image", "tags", "split", "domain") if name in columns}
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                line = reader.line_num + 1  # the header was line 1
                if not any(map(str.strip, cells)):
                    continue
                if len(cells) > len(columns):
                    raise InputError(
                        f"{path} line {line} has {len(cells)} cells where the first line has {len(columns)}: "
                        "separate tags by ;"
                    )
                cells += [""] * (len(columns) - len(cells))
                image = cells[at["image"]].strip()
                if not image:
                    raise InputError(f"{path} line {line} names no image: fill it in or remove the line")
                tags = tuple(tag.strip() for tag in TAG_SEPARATORS.split(cells[at["tags"]]) if tag.strip())
                if any("," in tag for tag in tags):
                    raise InputError(f"{path} line {line}: tag '{listed(tags)}' has a comma in it: separate tags by ;")
                domain = cells[at["domain"]].strip() if "domain" in at else ""
                if domain and domain not in DOMAINS:
                    raise InputError(f"{path} line {line}: {unknown('domain', domain, DOMAINS)}")
                own_split = cells[at["split"]].strip() if "split" in at else ""
                yield Row(line, tidy(image), tags, own_split or split, cast(Domain, domain or "target"))
    except FileNotFoundError as error:
        raise InputError(f"the file of tags {path} is not there: check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: a CSV with columns image,tags is needed") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file ({error}): save it as CSV UTF-8") from error


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names and, where the lines have them, their values in truth masks (else empty)."""
    names: dict[str, int] = {}
    values: list[int] = []
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(.*?[^\s=])[\s=]+(\d+)", line.strip())
        name = match[1] if match else line.strip()
        if name.lower() in ("background", "__background__"):
            raise InputError(f"{path} line {number}: background is no class (it is value 0 of masks): remove the line")
        if name in names:
            raise InputError(f"{path} line {number}: class '{name}' is already on line {names[name]}: remove one")
        names[name] = number
        if match:
            values.append(int(match[2]))
            if not 1 <= values[-1] <= 254:
                raise InputError(f"{path} line {number}: value {values[-1]} is outside 1..254: 0 is background")
    if not names:
        raise InputError(f"{path} names no class: write one a line")
    if values and len(values) != len(names):
        raise InputError(f"{path} gives {len(values)} of {len(names)} classes a value: give it to all or to none")
    return tuple(names), tuple(values)


def tag_files(root: Path, settings: DataSettings) -> dict[str, Path]:
    """Every CSV of tags, by the split its rows belong to when they do not say."""
    if settings.tags is not None:
        return {settings.train_split: settings.tags}
    tables = {
        path.stem: path for path in sorted(root.glob("*.csv")) if path.is_file() and not path.name.startswith(".")
    }
    if "tags" in tables:
        for name in (settings.train_split, settings.val_split):
            if name in tables and name != "tags":
                raise InputError(f"{root} has both tags.csv and {name}.csv: remove one, or say which with --tags")
        return {settings.train_split: tables["tags"]}
    return tables


def _split_rows(root: Path, settings: DataSettings, split: str | None = None) -> Iterator[tuple[Path, Row]]:
    """The rows of one split, or of all."""
    tables = tag_files(root, settings)
    for name, path in tables.items():
        for row in rows(path, name):
            if split is None or row.split == split:
                yield path, row


def split_names(root: Path, settings: DataSettings) -> tuple[str, ...]:
    """The splits of a folder with CSV files, in order of appearance."""
    return tuple(dict.fromkeys(row.split for _, row in _split_rows(root, settings)))


def read(root: Path, settings: DataSettings, split: str) -> Listing:
    """One split of the layout *folder*."""
    base = absolute(folder(settings.images, "the folder of images")) if settings.images else root / "images"
    if not base.is_dir():
        base = root
    if not tag_files(root, settings):
        raise InputError(f"{root} has no tags: write tags.csv with columns image,tags, or give --tags FILE")
    classes, own = (), ()
    if (root / "classes.txt").is_file():
        classes, own = read_classes(root / "classes.txt")
    else:  # the same classes in the same order for every split, hence from all of them
        classes = tuple(sorted({tag for _, row in _split_rows(root, settings) for tag in row.tags}))
        if "background" in classes:
            raise InputError(
                f"{root}: 'background' is used as a tag; it is what no tag covers: remove it from the tags"
            )
    number = {name: index for index, name in enumerate(classes)}

    present = Present()
    names: list[str] = []
    labels: list[frozenset[int] | None] = []
    domains: list[Domain] = []
    line_of: dict[str, tuple[Path, int]] = {}
    missing: list[str] = []
    shared: dict[tuple[str, ...], frozenset[int] | None] = {(): None}
    source = ""
    for path, row in _split_rows(root, settings, split):
        source = str(path)
        name = _locate(row.image, base, root, present)
        if name is None:
            missing.append(row.image)
            name = row.image
        known = line_of.setdefault(sample_id(name), (path, row.line))
        if known != (path, row.line):
            raise InputError(f"{path} lists image {row.image} on lines {known[1]} and {row.line}: remove one")
        if row.tags not in shared:
            for tag in row.tags:
                if tag not in number:
                    raise InputError(f"{path} line {row.line}: {unknown('class', tag, classes)}")
            shared[row.tags] = frozenset(number[tag] for tag in row.tags)
        names.append(name)
        labels.append(shared[row.tags])
        domains.append(row.domain)
    if missing:
        raise missing_images(missing, len(names), source, base)
    if not names:
        known_split(split, split_names(root, settings), root)
    if not classes:
        raise InputError(f"{source or root} holds no tags at all: fill the column 'tags'")
    if set(domains) == {"target"}:
        domains = []
    return Listing(
        root.name,
        classes,
        class_values(classes, settings, own),
        _with_companions(root, settings, base, names, labels, domains, present),
        source,
    )


def _locate(name: str, base: Path, root: Path, present: Present) -> str | None:
    """The photo's file relative to ``base`` (absolute when it lies elsewhere), or None when it is not there.

    A CSV may name a photo from the folder of images, from the data set's folder, or by its id without suffix.
    """
    if not os.path.isabs(name) and present(f"{base}{os.sep}{name}") and not name.startswith("../"):  # noqa: PTH117
        return name  # nearly always, and there may be a million
    for place in dict.fromkeys((base, root)):
        path = os.path.normpath(f"{place}{os.sep}{name}") if not os.path.isabs(name) else name  # noqa: PTH117
        for suffix in ("", *SUFFIXES):
            if present(path + suffix):
                inside = path.startswith(f"{base}{os.sep}")
                found = path[len(str(base)) + 1 :] if inside else str(Path(path).absolute())
                return (found + suffix).replace(os.sep, "/")
            if name.lower().endswith(SUFFIXES):
                break  # a whole file name: no guessing
    return None


def _with_companions(
    root: Path,
    settings: DataSettings,
    base: Path,
    names: list[str],
    labels: Iterable[frozenset[int] | None],
    domains: Iterable[Domain],
    present: Present,
) -> Samples:
    """Samples with the truth and the saliency that lie beside them."""
    masks = absolute(folder(settings.truth, "the truth folder")) if settings.truth else root / "masks"
    saliency = absolute(folder(settings.saliency, "the saliency folder")) if settings.saliency else root / "saliency"
    return Samples(
        base,
        names,
        labels,
        domains,
        beside([masks], [".png"], names, present),
        beside([saliency], SALIENCY_SUFFIXES, names, present),
    )


def class_folders(base: Path) -> tuple[str, ...]:
    """Names of the folders directly under ``base`` that may stand for classes, sorted."""
    return tuple(
        sorted(
            entry.name
            for entry in base.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in BESIDE
        )
    )


def _split_folders(base: Path, settings: DataSettings) -> tuple[str, ...]:
    """Folders called as splits are and holding folders; empty when ``base`` holds the class folders itself.

    A class may be called ``train`` (it is one of VOC's): its folder holds photos, not folders.
    """
    usual = dict.fromkeys((settings.train_split, settings.val_split, *SPLIT_FOLDERS))
    return tuple(name for name in usual if (base / name).is_dir() and class_folders(base / name))


def class_folder_splits(root: Path, settings: DataSettings) -> tuple[str, ...]:
    """The splits of the layout *class-folders*; folders without splits are all for training."""
    return _split_folders(settings.images or root, settings) or (settings.train_split,)


def read_class_folders(root: Path, settings: DataSettings, split: str) -> Listing:
    """One split of the layout *class-folders*. Ids keep the folders: ``train/cat/01``."""
    base = absolute(folder(settings.images, "the folder of images")) if settings.images else root
    nested = _split_folders(base, settings)
    known_split(split, nested or (settings.train_split,), base)
    places = {name: base / name for name in nested} or {split: base}
    classes = tuple(sorted({name for place in places.values() for name in class_folders(place)}))
    if (root / "classes.txt").is_file():
        listed_classes, own = read_classes(root / "classes.txt")
        for name in classes:
            if name not in listed_classes:
                raise InputError(
                    f"{root / 'classes.txt'} does not name folder {name}: {unknown('class', name, listed_classes)}"
                )
        classes = listed_classes
    else:
        own = ()
    if not classes:
        raise InputError(f"{base} has no folder of photos: make one folder for each class")
    prefix = f"{split}/" if nested else ""
    here = image_files(places[split], skip=BESIDE)
    names = [prefix + name for name in here if "/" in name]
    unique_ids(names, base)
    number = {name: frozenset({index}) for index, name in enumerate(classes)}
    labels = (number[name[len(prefix) :].partition("/")[0]] for name in names)
    return Listing(
        root.name,
        classes,
        class_values(classes, settings, own),
        _with_companions(root, settings, base, names, labels, (), Present()),
        f"the folders of {places[split]}",
    )
