"""From the photos that a layout names to a listing: ids, truth masks, saliency maps and values of classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tag2mask.data.class_file import Known, merged_words
from tag2mask.data.companions import saliency, truth
from tag2mask.data.finding import Finding
from tag2mask.data.ids import distinct_ids
from tag2mask.data.listing import Listing, class_values
from tag2mask.data.samples import Labels, Samples
from tag2mask.data.settings import DataSettings
from tag2mask.data.walk import Present
from tag2mask.types import Domain


class Photos(NamedTuple):
    """The photos of one split as a layout names them."""

    base: Path  # names are relative to it, with forward slashes, or absolute
    names: list[str]
    labels: Iterable[Labels]  # of each
    domains: Iterable[Domain] = ()  # of each, or none where all are of the target set
    explicit: bool = True  # the user named each photo, rather than a folder that was listed


def listing(
    root: Path,
    settings: DataSettings,
    split: str,
    photos: Photos,
    known: Known,
    source: str,
    *,
    present: Present | None = None,
    skip: frozenset[str] = frozenset(),
    findings: Iterable[Finding] = (),
    name: str = "",
) -> Listing:
    """A listing of these photos.

    Args:
        root: the folder in which truth masks and saliency maps lie, where the settings do not say.
        source: where the tags come from, for messages.
        present: what is known of files already.
        skip: folders in ``root`` that are neither truth nor saliency maps, whatever they are called.
        name: of the data set, by default the folder's.

    Raises:
        InputError: photos that cannot be told apart, a folder that is not there, values of classes that do not fit.
    """
    present = present or Present()
    ids = distinct_ids(photos.names, explicit=photos.explicit, place=source if photos.explicit else str(photos.base))
    samples = Samples(
        photos.base,
        photos.names,
        photos.labels,
        photos.domains,
        truth(root, settings, map(ids, photos.names), present, skip),
        saliency(root, settings, map(ids, photos.names), present, skip),
        split=split,
        ids=ids,
    )
    values = class_values(known.names, settings, known.values)
    notes = (*merged_words(known.merged), *findings)
    return Listing(name or root.name, known.names, values, samples, source, known.explicit, known.origins, notes)
