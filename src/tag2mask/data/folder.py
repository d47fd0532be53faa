"""The layout *folder*: photos in ``images/`` (or in the folder itself) and their tags in ``tags.csv``::

    image,tags,split,domain          split and domain are optional
    cat_01.jpg,cat,train,
    beach/7.jpg,cow;person,val,       tags are separated by ; or |
    empty.jpg,,train,                 no tag: it shows none of the classes

or one CSV for each split (``train.csv``, ``val.csv``); the other forms are those of :mod:`~tag2mask.data.table`. A
photo that no line names is untagged and not used. Beside them, all optional: ``classes.txt`` (a class a line, in
order; ``name value`` when truth masks use other values than 1, 2, ...), ``masks/`` (truth, ``beach/7.png``),
``saliency/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import known_classes, user_classes
from tag2mask.data.companions import PHOTO_WORDS, companion_names, existing_folder, word
from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute, is_outside
from tag2mask.data.lines import DistinctTags, Lines
from tag2mask.data.listing import Listing
from tag2mask.data.locating import Locator, missing_images
from tag2mask.data.mixed import not_named
from tag2mask.data.settings import DataSettings, is_split, known_split, split_name
from tag2mask.data.table import form_of, photo_names, rows, unread_columns
from tag2mask.data.walk import Present, folders, left_out, walk
from tag2mask.data.words import check_class, several_words
from tag2mask.errors import InputError, listed


def recognise(root: Path, settings: DataSettings) -> str | None:
    """Why a folder is of this layout, or None."""
    if settings.tags is not None:
        return f"tags in {settings.tags}"
    tables = [path for path in csv_files(root) if _holds_tags(path)]
    tables = _of_splits(root, tables, settings) or tables
    return f"tags in {listed(path.relative_to(root).as_posix() for path in tables)}" if tables else None


_TABLE_WORDS = frozenset(["annotations", "annotation", "labels", "label", "tags", "csv", "meta", "metadata"])


def csv_files(root: Path) -> list[Path]:
    """CSV files in the data set's folder; where there is none, in folders called as splits or as tables are."""
    names = folders(root)
    of_splits = [root / name for name in names if is_split(name)]
    for group in ([root], of_splits, [root / name for name in names if word(name) in _TABLE_WORDS]):
        paths = (path for place in group for path in sorted(place.glob("*.[cCtT][sS][vV]")))
        tables = [path for path in paths if path.is_file() and not path.name.startswith(".")]
        if tables:
            return tables
    return []


def _holds_tags(path: Path) -> bool:
    """Whether a CSV is one of tags; what cannot be read is taken for one, so that reading it says what is wrong."""
    try:
        form = form_of(path)
    except InputError as error:
        return "has no column 'image'" not in str(error)
    return "tags" in form.at or bool(form.one_hot) or is_split(path.stem)


def _split_of(path: Path, root: Path) -> str:
    """The split that a table's name says, or its folder's."""
    return path.parent.name if path.parent != root and is_split(path.parent.name) else path.stem


def _of_splits(root: Path, tables: Sequence[Path], settings: DataSettings) -> list[Path]:
    """Those called as splits are; none where one is tags.csv."""
    names = {path: _split_of(path, root) for path in tables}
    asked = (settings.train_split, settings.val_split)
    chosen = [path for path, name in names.items() if is_split(name) or name in asked]
    return chosen if "tags" not in names.values() else []


def tag_files(root: Path, settings: DataSettings) -> list[tuple[str, Path]]:
    """Every CSV of tags, with the split its rows belong to when they do not say."""
    train = split_name(settings.train_split)
    if settings.tags is not None:
        return [(train, settings.tags)]
    tables = csv_files(root)
    tables = [path for path in tables if _holds_tags(path)] or tables
    names = {_split_of(path, root): path for path in tables}
    if "tags" in names:
        for name in (settings.train_split, settings.val_split):
            if name in names and name != "tags":
                raise InputError(f"{root} has both tags.csv and {name}.csv: remove one, or say which with --tags")
        return [(train, names["tags"])]
    of_splits = _of_splits(root, tables, settings)
    if not of_splits and len(tables) > 1:
        shown = listed(path.relative_to(root).as_posix() for path in tables)
        raise InputError(f"{root} has several tables of tags, {shown}: say which with --tags FILE")
    if not of_splits:
        return [(train, path) for path in tables]  # labels.csv: all are for training
    return [(split_name(_split_of(path, root)), path) for path in of_splits]


class Folder:
    """A data set in the layout *folder*. Its CSV files are read once, here."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.base = _photo_folder(root, settings)
        self.tables = tag_files(root, settings)
        if not self.tables:
            raise InputError(f"{root} has no tags: write tags.csv with columns image,tags, or give --tags FILE")
        self._present = Present()
        self._lines: dict[str, Lines] = {}
        tags = DistinctTags()
        self._by_folder: list[Path] = []  # tables whose splits are those of the photos' folders
        for name, path in self.tables:
            by_folder = self._splits_are_folders(path)
            for row in rows(path, name):
                if by_folder:
                    row = row._replace(split=split_of_folder(row.image) or name)
                if row.split not in self._lines:
                    self._lines[row.split] = Lines(path, tags)
                self._lines[row.split].add(row, path)
        if user_classes(root, settings) is None:
            check_tags(tags.origins)
        self.known = known_classes(root, settings, tags.origins)

    def _splits_are_folders(self, path: Path) -> bool:
        """Whether a table without a column of splits, which is not called as one either, names each photo in the folder
        of a split, ``train/7.jpg`` and ``test/8.jpg`` (Hugging Face's ``metadata.csv``)."""
        named = is_split(_split_of(path, self.root)) or not is_split(self.settings.train_split)
        if named or "split" in form_of(path).at:
            return False
        splits: set[str] = set()
        for name in photo_names(path):
            split = split_of_folder(name)
            if split is None:  # nearly always the first one
                return False
            splits.add(split)
        self._by_folder += [path] if len(splits) > 1 else []
        return len(splits) > 1

    def splits(self) -> tuple[str, ...]:
        """The splits, in order of appearance."""
        return tuple(self._lines)

    def read(self, split: str) -> Listing:
        """The photos of one split.

        Raises:
            InputError: photos that are not there, or that two lines contradict each other about.
        """
        known_split(split, self.splits(), self.root)
        lines, known = self._joined(split), self.known
        if not known.names:
            raise InputError(f"{lines.path} holds no tags at all: fill the column 'tags'")
        photos = Photos(self.base, lines.names, lines.labels(known.number), lines.domains())
        source, notes = str(lines.path), lines.findings()
        return listing(self.root, self.settings, split, photos, known, source, present=self._present, findings=notes)

    def _joined(self, split: str) -> Lines:
        lines = self._lines[split]
        if not lines.names:
            missing = lines.join(Locator(self._places(split, lines.path), self._present))
            if missing:
                raise missing_images(missing, len(lines), str(lines.path), self.base)
        return lines

    def _places(self, split: str, table: Path) -> list[Path]:
        """Where the photos of a split may lie: names start from there."""
        places = list(dict.fromkeys((self.base, self.root, table.parent)))
        return places + [
            place / name
            for place in places
            for name in folders(place)
            if split_name(name) == split or (word(name) in PHOTO_WORDS and place / name not in places)
        ]

    def left_out(self) -> Iterator[Finding]:
        """What lies in the folder of photos and is not read."""
        for path in self._by_folder:
            said = f"{path} has no column split: photos are of the splits whose folders they are in"
            yield Finding("note", f"{said} ({', '.join(self.splits())})")
        for _, path in self.tables:
            yield from unread_columns(path)
        contents = walk(self.base, companion_names(self.base))
        named = {name for split in self.splits() for name in self._joined(split).names}
        yield from not_named(contents.photos, named, self.base, listed(path.name for _, path in self.tables))
        yield from left_out(contents, self.base)


def split_of_folder(image: str) -> str | None:
    """The split whose folder a photo lies in, by its name there; None where no folder is called so, and for photos from
    elsewhere, whose folders may be called anything."""
    above = () if is_outside(image) else image.split("/")[:-1]
    return next((split_name(name) for name in above if is_split(name)), None)


def _photo_folder(root: Path, settings: DataSettings) -> Path:
    """The folder that names of photos start from."""
    if settings.images:
        return absolute(existing_folder(settings.images, "the folder of images"))
    called_so = [name for name in folders(root) if word(name) in PHOTO_WORDS]
    return root / called_so[0] if len(called_so) == 1 else root


def check_tags(origins: Mapping[str, str]) -> None:
    """Refuse tags that hold several: separated by commas, or by blanks where the parts are tags themselves.

    Args:
        origins: every tag, and where it is first met.
    """
    for tag, place in origins.items():
        if re.search("[,，、]", tag):
            check_class(tag, place)  # a list in a program's notation has commas, too
            raise InputError(f"{place}: tag '{tag}' has a comma in it: separate tags by ;")
    for name, parts in several_words(origins):
        raise InputError(
            f"{origins[name]}: '{name}' looks like {len(parts)} tags: write {';'.join(parts)}, or list all classes in "
            "classes.txt if it is one"
        )
