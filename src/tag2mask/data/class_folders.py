"""The layout *class-folders*: ``cat/01.jpg``, ``dog/7.jpg``, the folder's name is the tag; or the same in ``train/``
and ``val/``. Photos in a folder called ``good`` (or ``ok``, ``normal``, ``no_defect``) show none of the classes, unless
the user lists it as one. What else lies there (truth in ``masks/``, photos without a class) is told apart by what it
holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.assemble import Photos, listing
from tag2mask.data.class_file import known_classes, user_classes
from tag2mask.data.companions import TRUTH_WORDS, existing_folder, word
from tag2mask.data.finding import Finding
from tag2mask.data.foreign import foreign
from tag2mask.data.ids import absolute
from tag2mask.data.listing import Listing
from tag2mask.data.mixed import masks_among, masks_left_out
from tag2mask.data.roles import Groups, Meant, Role, groups_of, role_of
from tag2mask.data.settings import DataSettings, comma_separated, is_split, known_split, split_name
from tag2mask.data.walk import folders, left_out, walk
from tag2mask.errors import InputError, listed, some


class Place(NamedTuple):
    """What lies in one place: the data set's folder, or a split's."""

    sizes: dict[str, int]  # how many photos are in each folder; in none, by ""
    roles: dict[str, Role]

    @property
    def classes(self) -> list[str]:
        """The folders that are classes."""
        return [name for name, role in self.roles.items() if role == "class"]

    @property
    def good(self) -> list[str]:
        """The folders of photos that show none of the classes."""
        return [name for name, role in self.roles.items() if role == "good"]

    @property
    def labelled(self) -> list[str]:
        """The folders whose names say what their photos show."""
        return [*self.classes, *self.good]


class ClassFolders:
    """A data set in the layout *class-folders*. Its folders are listed once, here."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.base = absolute(existing_folder(settings.images, "the folder of images")) if settings.images else root
        self.files = walk(self.base)
        self._meant = _meant(root, settings)
        masks = masks_among(self.files.photos, self.base)
        self._masks = sorted(masks)
        self.files.photos = [name for name in self.files.photos if name not in masks]
        groups = groups_of(self.files.photos)
        inner = _photo_folder(groups, self._place("", groups).roles)
        if settings.images is None and inner:
            self.base, self.files.photos = root / inner, groups[inner]
            groups = groups_of(self.files.photos)
        top = self._place("", groups)
        self._places: dict[str, Place] = {"": top}  # by prefix of the photos' names
        self._splits: dict[str, list[str]] = {}  # the prefixes of each split
        for name, role in top.roles.items():
            if role == "split":
                place = self._places[f"{name}/"] = self._place(f"{name}/", groups_of(groups[name]))
                if place.labelled:
                    self._splits.setdefault(split_name(name), []).append(f"{name}/")
        self.nested = bool(self._splits)
        if not self.nested:
            self._splits[split_name(settings.train_split)] = [""]
        self._prefixes = [prefix for group in self._splits.values() for prefix in group]
        origins = {
            n: f"folder {self.base / prefix / n}" for prefix in self._prefixes for n in self._places[prefix].classes
        }
        self._check(origins, groups)
        self.known = known_classes(root, settings, origins)

    def _place(self, prefix: str, groups: Groups) -> Place:
        names = [name for name in sorted(groups) if name]
        roles: dict[str, Role] = {name: role_of(name, groups, self.base / prefix, self._meant) for name in names}
        return Place({name: len(photos) for name, photos in groups.items()}, roles)

    def _check(self, origins: Mapping[str, str], groups: Groups) -> None:
        """Refuse a folder that holds no class, or that holds the data set one folder deeper."""
        only_default = [*origins] == ["default"]  # as CVAT and Datumaro call the folder of all photos
        found = foreign(self.root) if only_default or not origins else None
        if only_default and found:
            raise InputError(f"{self.base} holds one folder of photos, default; {found}")
        if not origins:
            state = "holds images but no tags" if self.files.photos else "holds no images"
            if good := self._good():
                state = f"holds photos of no class, only in {listed(good)}, which means none of the classes"
            if found:
                raise InputError(f"{self.base} {state}; {found}")
            raise InputError(
                f"{self.base} {state}: make a file tags.csv with columns image,tags, or one folder for each class, or "
                "give the layout of VOC or COCO"
            )
        if self.nested:
            return
        inner = {name: groups_of(groups[name]) for name in self._places[""].classes if name not in self._meant.classes}
        (only, *more) = origins
        deeper = inner.get(only, {"": []})
        roles = self._place(f"{only}/", deeper).roles.values()
        if not more and not self._good() and "" not in deeper and (len(deeper) > 1 or "class" not in roles):
            raise InputError(
                f"{self.base} holds one folder of folders, {only}: did you mean {self.base / only}? If '{only}' is the "
                f"only class, say --classes {only}"
            )
        split = sorted({name for deeper in inner.values() for name in deeper if is_split(name)})
        several = len({*map(split_name, split)}) > 1 or (
            len(inner) > 1 and all(d.keys() <= {*split} for d in inner.values())
        )
        if split and several and all(deeper.keys() & {*split} for deeper in inner.values()):
            raise InputError(
                f"the folders of {self.base} hold one for each split ({listed(split)}): if they are classes, put the "
                f"splits outside ({split[0]}/{min(inner)}), or write tags.csv with columns image,tags,split"
            )

    def _good(self) -> list[str]:
        """The folders of photos that show none of the classes, each name once."""
        return list(dict.fromkeys(name for prefix in self._prefixes for name in self._places[prefix].good))

    @property
    def because(self) -> str:
        """What was recognised."""
        inside = [prefix.rstrip("/") for prefix in self._prefixes if prefix]
        note = f", in {', '.join(inside)}" if inside else ""
        good = self._good()
        none = f"; photos in {listed(good)} show none of them (if that is a class, list it in classes.txt)" * bool(good)
        return f"a folder of photos for each class ({listed(self.known.names, 6)}){note}{none}"

    def splits(self) -> tuple[str, ...]:
        """The splits there are; folders without splits are all for training."""
        return tuple(self._splits)

    def read(self, split: str) -> Listing:
        """One split. Ids keep the folders: ``train/cat/01``."""
        known_split(split, self.splits(), self.base)
        known, names, labels = self.known, [], []
        for prefix in self._splits[split]:
            place = self._places[prefix]
            shown = {name: frozenset({known.number[name]}) for name in place.classes}
            shown |= {name: frozenset() for name in place.good}
            for name in self.files.photos:
                folder, slash, _ = name[len(prefix) :].partition("/")
                if slash and folder in shown and name.startswith(prefix):
                    names.append(name)
                    labels.append(shown[folder])
        photos = Photos(self.base, names, labels, explicit=False)
        source = f"the folders of {listed(str(self.base / prefix) for prefix in self._splits[split])}"
        called_class = frozenset(self._places[""].labelled)
        return listing(self.root, self.settings, split, photos, known, source, skip=called_class)

    def left_out(self) -> Iterator[Finding]:
        """Photos without a class, folders that are none, and files that are not read."""
        state = "lie in no class folder of a split" if self.nested else "lie in no class folder"
        for name, count in self._untagged():
            photos = f"{some(count, 'photo')} in {self.base / name}"
            yield Finding("note", f"{photos} {state}", "nobody tagged them, so they are not used")
        for prefix, place in self._places.items():
            for name, role in place.roles.items():
                if role == "truth" and word(name) not in TRUTH_WORDS:
                    said = f"{some(place.sizes[name], 'file')} in {self.base / prefix / name} taken for masks of photos"
                    yield Finding("note", said, "to measure on them, put them in a folder masks")
        yield from masks_left_out(self._masks, self.root)
        yield from self._deeper()
        for prefix in self._prefixes:
            empty = sorted(set(folders(self.base / prefix)) - self._places[prefix].sizes.keys())
            if empty:
                yield Finding("note", f"{self.base / prefix}: folders without photos are no classes: {listed(empty)}")
        yield from left_out(self.files, self.base)

    def _deeper(self) -> Iterator[Finding]:
        """Folders inside those of classes, which might be the classes that the user means: surely so where each class
        has the same ones."""
        for prefix in self._prefixes:
            classes = self._places[prefix].classes
            inner = {name: groups_of(self.files.photos, f"{prefix}{name}/").keys() for name in classes}
            doubtful = len(classes) > 1 and len({*map(frozenset, inner.values())}) == 1 and not self.known.explicit
            for name in classes:
                deeper = sorted(inner[name] - {""})
                if len(deeper) > 1:
                    photos = f"photos in {listed(f'{prefix}{name}/{d}' for d in deeper)} are all of class '{name}'"
                    advice = "if the inner folders are the classes, move them up"
                    if doubtful and "" not in inner[name]:
                        photos += f", and each of {listed(classes)} holds such folders"
                        advice += "; if not, list the classes in classes.txt"
                    yield Finding("warning" if doubtful and "" not in inner[name] else "note", photos, advice)
                    return

    def _untagged(self) -> Iterator[tuple[str, int]]:
        """Folders of photos without a class, and how many those are."""
        top = self._places[""]
        for prefix, place in self._places.items():
            if "" in place.sizes and (place.labelled or not prefix):
                yield prefix, place.sizes[""]
        for name, role in top.roles.items():
            unused = role == "photos" or (role in ("class", "good") and self.nested)
            place = self._places.get(f"{name}/")
            if unused or (place is not None and not place.labelled):
                yield name, top.sizes[name]


def _meant(root: Path, settings: DataSettings) -> Meant:
    own = user_classes(root, settings)
    classes = frozenset((*comma_separated(settings.classes), *(own.names if own else ())))
    return Meant(classes, frozenset((settings.train_split, settings.val_split)))


def _photo_folder(groups: Groups, roles: Mapping[str, Role]) -> str | None:
    """The folder of photos that holds the folders of classes, ``images/cat/01.jpg``, if that is how photos lie."""
    photos = [name for name, role in roles.items() if role == "photos"]
    alone = len(photos) == 1 and not any(role in ("class", "good", "split") for role in roles.values())
    return photos[0] if alone and all("/" in name for name in groups[photos[0]]) else None
