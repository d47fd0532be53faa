"""The layout *class-folders*: ``cat/01.jpg``, ``dog/7.jpg``, the folder's name is the tag; or the same in ``train/`` and
``val/``. What else lies there (truth in ``masks/``, photos without a class) is told apart by what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tag2mask.data.class_file import given_classes, known_classes, merged_words
from tag2mask.data.companions import existing_folder, saliency, truth
from tag2mask.data.finding import Finding
from tag2mask.data.ids import absolute, distinct_ids
from tag2mask.data.listing import Listing, class_values
from tag2mask.data.roles import Groups, Role, groups_of, role_of
from tag2mask.data.samples import Samples
from tag2mask.data.settings import DataSettings, given_names, known_split, split_name
from tag2mask.data.walk import Present, folders, left_out, walk
from tag2mask.errors import InputError, listed


class ClassFolders:
    """A data set in the layout *class-folders*."""

    def __init__(self, root: Path, settings: DataSettings) -> None:
        self.root, self.settings = root, settings
        self.base = absolute(existing_folder(settings.images, "the folder of images")) if settings.images else root
        self.found = walk(self.base)
        self._meant = _meant(root, settings)
        groups = groups_of(self.found.photos)
        self.roles = self._roles("", groups)
        inner = _photo_folder(self.roles, groups)
        if settings.images is None and inner:
            self.base, self.found.photos = root / inner, groups[inner]
            groups = groups_of(self.found.photos)
            self.roles = self._roles("", groups)
        self.places: dict[str, list[str]] = {}  # the split's name: its folders, with a slash at their end
        for name, role in self.roles.items():
            if role == "split" and self._classes(f"{name}/"):
                self.places.setdefault(split_name(name), []).append(f"{name}/")
        self.nested = bool(self.places)
        if not self.places:
            self.places[split_name(settings.train_split)] = [""]
        prefixes = [prefix for group in self.places.values() for prefix in group]
        where = {name: f"folder {self.base / prefix / name}" for prefix in prefixes for name in self._classes(prefix)}
        self._check(where, groups)
        self.known = known_classes(root, settings, where)

    def _roles(self, prefix: str, groups: dict[str, list[str]]) -> dict[str, Role]:
        return {name: role_of(name, groups, self.base / prefix, self._meant) for name in sorted(groups) if name}

    def _classes(self, prefix: str) -> list[str]:
        """The folders in one place that are classes."""
        roles = self._roles(prefix, groups_of(self.found.photos, prefix)) if prefix else self.roles
        return [name for name, role in roles.items() if role == "class"]

    def _check(self, where: dict[str, str], groups: dict[str, list[str]]) -> None:
        """Refuse a folder that holds no class, or that holds the data set one folder deeper."""
        if not where:
            state = "holds images but no tags" if self.found.photos else "holds no images"
            raise InputError(
                f"{self.base} {state}: make a file tags.csv with columns image,tags, or one folder for each class, "
                "or give the layout of VOC or COCO"
            )
        (only, *more) = where
        inner = groups_of(groups[only]) if not self.nested and not more else {}
        if only not in self._meant and "" not in inner and len(inner) > 1:
            raise InputError(
                f"{self.base} holds one folder of folders, {only}: did you mean {self.base / only}? If '{only}' is the "
                f"only class, say --classes {only}"
            )

    @property
    def because(self) -> str:
        """What was recognised."""
        splits = (
            f", in {', '.join(p.rstrip('/') for group in self.places.values() for p in group)}" if self.nested else ""
        )
        return f"a folder of photos for each class ({listed(self.known.names, 6)}){splits}"

    def splits(self) -> tuple[str, ...]:
        """The splits there are; folders without splits are all for training."""
        return tuple(self.places)

    def read(self, split: str) -> Listing:
        """One split. Ids keep the folders: ``train/cat/01``."""
        known_split(split, self.splits(), self.base)
        known, names, labels = self.known, [], []
        numbers = {name: frozenset({number}) for name, number in known.number.items()}
        for prefix in self.places[split]:
            classes = set(self._classes(prefix))
            for name in self.found.photos:
                folder, slash, _ = name[len(prefix) :].partition("/")
                if slash and name.startswith(prefix) and folder in classes:
                    names.append(name)
                    labels.append(numbers[folder])
        ids = distinct_ids(names, explicit=False, place=str(self.base))
        present = Present()
        samples = Samples(
            self.base,
            names,
            labels,
            (),
            truth(self.root, self.settings, map(ids, names), present, skip=self._called_class()),
            saliency(self.root, self.settings, map(ids, names), present, skip=self._called_class()),
            split=split,
            ids=ids,
        )
        values = class_values(known.names, self.settings, known.values)
        source = f"the folders of {listed(str(self.base / prefix) for prefix in self.places[split])}"
        findings = tuple(merged_words(known.merged))
        return Listing(self.root.name, known.names, values, samples, source, known.explicit, known.where, findings)

    def _called_class(self) -> frozenset[str]:
        return frozenset(name for name, role in self.roles.items() if role == "class")

    def left_out(self) -> Iterator[Finding]:
        """Photos without a class, folders that are none, and files that are not read."""
        groups = groups_of(self.found.photos)
        untagged = {"": groups.get("", [])}
        for name, role in self.roles.items():
            loose = role == "photos" or (role == "split" and not self._classes(f"{name}/"))
            if loose or (self.nested and role == "class"):
                untagged[name] = groups[name]
            elif role == "split":
                untagged[f"{name}/"] = groups_of(self.found.photos, f"{name}/").get("", [])
        for name, photos in untagged.items():
            if photos:
                yield Finding(
                    "info",
                    f"{len(photos)} photo{'s' if len(photos) > 1 else ''} in {self.base / name} {_in_no_class(self)}",
                    "nobody tagged them, so they are not used",
                )
        for prefix in (prefix for group in self.places.values() for prefix in group):
            empty = sorted(set(folders(self.base / prefix)) - set(groups_of(self.found.photos, prefix)))
            if empty:
                yield Finding(
                    "info", f"folders in {self.base / prefix} that hold no photo are no class: {listed(empty)}"
                )
        yield from left_out(self.found, self.base)


def _in_no_class(source: ClassFolders) -> str:
    return "lie in no class folder of a split" if source.nested else "lie in no class folder"


def _meant(root: Path, settings: DataSettings) -> frozenset[str]:
    """Names of folders that the user said are classes."""
    given = given_classes(root, settings)
    return frozenset((*given_names(settings.classes), *(given.names if given else ())))


def _photo_folder(roles: Mapping[str, Role], groups: Groups) -> str | None:
    """The folder of photos that holds the folders of classes, ``images/cat/01.jpg``, if that is how photos lie."""
    photos = [name for name, role in roles.items() if role == "photos"]
    alone = len(photos) == 1 and not any(role in ("class", "split") for role in roles.values())
    return photos[0] if alone and all("/" in name for name in groups[photos[0]]) else None
