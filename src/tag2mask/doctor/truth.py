"""Whether truth masks and saliency maps belong to their photos and hold what they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tag2mask.data import DataSettings
from tag2mask.data.decode import open_photo
from tag2mask.data.finding import Finding
from tag2mask.data.images import index_mask_size, read_saliency
from tag2mask.data.samples import Samples
from tag2mask.data.voc_tags import CLASSES as VOC_CLASSES
from tag2mask.data.walk import image_files
from tag2mask.errors import InputError, listed, some
from tag2mask.types import BACKGROUND, IGNORE, Dataset, PhotoFacts, Sample, SampleKey

LOOKED_AT = 300  # masks and maps whose pixels are read, per split; spread evenly, enough to see wrong values
_ARRAYS = (".npy", ".npz", ".mat", ".nii", ".gz", ".h5", ".hdf5", ".raw", ".exr", ".tga", ".pkl", ".svg", ".pt")
BINARY = 0.01  # share of pixels of value 255 from which on they are objects, not borders

Sizes = Mapping[SampleKey, PhotoFacts]


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    """At most :data:`LOOKED_AT`, spread evenly."""
    return samples[:: max(1, -(-len(samples) // LOOKED_AT))]


def _size(facts: PhotoFacts) -> tuple[int, int]:
    return facts.height, facts.width


def examine_saliency(split: str, dataset: Dataset, sizes: Sizes) -> Iterator[Finding]:
    """Saliency maps that are missing, unreadable or black; silent when there are none at all."""
    if isinstance(dataset.samples, Samples) and dataset.samples.saliency is None:
        return
    readable = [sample for sample in dataset.samples if sample.key in sizes]
    having = [sample for sample in readable if sample.saliency_path]
    if not having:
        return
    missing = [sample.id for sample in readable if not sample.saliency_path]
    if missing:
        yield Finding(
            "warning",
            f"{split}: {len(missing)} of {some(len(readable), 'photo')} have no saliency map: {listed(missing)}",
            "methods that use saliency need all of them",
        )
    black: list[str] = []
    examples = _spread(having)
    for sample in examples:
        assert sample.saliency_path is not None
        try:
            if read_saliency(sample.saliency_path, _size(sizes[sample.key])).max() < 0.02:  # under 5 of 255
                black.append(sample.id)
        except InputError as error:
            yield Finding("error", f"{split}: saliency: {error}")
    if black:
        yield Finding(
            "warning",
            f"{split}: {len(black)} of {some(len(examples), 'saliency map')} looked at are black: {listed(black)}",
            "they say that nothing stands out: check how they were made",
        )


def examine_truth_files(
    datasets: Mapping[str, Dataset], settings: DataSettings, *, all_splits: bool
) -> Iterator[Finding]:
    """Truth masks that belong to no photo.

    Args:
        datasets: the splits that are used.
        all_splits: these are all that the data set has, so that every mask should belong to one of their photos.
    """
    folders = dict.fromkeys(
        folder
        for dataset in datasets.values()
        if isinstance(dataset.samples, Samples) and dataset.samples.truth
        for folder in dataset.samples.truth.folders
    )
    files = {folder / name: name for folder in folders for name in image_files(folder)}
    yield from _arrays(folders)
    if settings.truth and not files and any(map(len, datasets.values())):
        yield Finding("error", f"{settings.truth} holds no truth masks", "give the folder of index masks")
    if not files:
        return
    photos = [sample for dataset in datasets.values() for sample in dataset.samples]
    matched = {sample.mask_path for sample in photos if sample.mask_path}
    strange = [name for path, name in files.items() if path not in matched]
    lacking = [sample for sample in photos if not sample.mask_path]
    if not strange or not lacking:
        return
    said = f"{listed(strange)}; a photo without truth is {lacking[0].id}"
    advice = f"a mask is named after its photo, {lacking[0].id}.png: what is not found is not measured"
    if not matched:
        level = "error" if settings.truth else "warning"
        of_files = f"none of the {some(len(files), 'truth mask')} in {listed(map(str, folders))}"
        yield Finding(level, f"{of_files} is named like a photo: {said}", advice)
    else:
        of_files = f"{len(strange)} of {some(len(files), 'truth mask')} in {listed(map(str, folders))}"
        yield Finding("warning" if all_splits else "info", f"{of_files} named like no photo: {said}", advice)


def _arrays(folders: Iterable[Path]) -> Iterator[Finding]:
    """Files that programs take for masks, in folders of masks."""
    for folder in folders:
        names = [name.name for name in sorted(folder.glob("*")) if name.suffix.lower() in _ARRAYS]
        if names:
            yield Finding(
                "warning",
                f"{some(len(names), 'file')} in {folder} that are no images are not read: {listed(names)}",
                "if they are truth masks, save them as PNG: what is not found is not measured",
            )


def _turned(split: str, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Photos that are shown otherwise than their pixels are stored, for which masks may not be."""
    turned = [sample.id for sample in samples if _is_turned(sample.image_path)]
    if turned:
        yield Finding(
            "warning",
            f"{split}: {len(turned)} of {some(len(samples), 'photo')} with truth looked at turned by their EXIF mark: "
            f"{listed(turned)}",
            "photos are read upright, as they are shown: check that their masks are drawn so, too",
        )


def _is_turned(path: Path) -> bool:
    try:
        with open_photo(path) as photo:
            return photo.turned
    except InputError:  # gone since it was checked
        return False


def examine_truth(split: str, dataset: Dataset, known: frozenset[int], sizes: Sizes) -> Iterator[Finding]:
    """Truth masks that do not fit their photos, or whose values are not those of the classes.

    Args:
        known: values of all classes, those that were not selected too.
        sizes: of every readable photo.
    """
    if isinstance(dataset.samples, Samples) and dataset.samples.truth is None:
        return
    readable = [sample for sample in dataset.samples if sample.key in sizes]
    having = [sample for sample in readable if sample.mask_path]
    if not having:
        return
    yield Finding("info", f"{split}: {len(having)} of {some(len(readable), 'photo')} have truth, for measuring only")
    problems = {sample.key: problem for sample in having if (problem := _problem(sample, _size(sizes[sample.key])))}
    shown = list(problems.values())
    yield from (Finding("error", f"{split}: {problem}") for problem in shown[:5])
    if len(shown) > 5:
        yield Finding("error", f"{split}: {len(shown)} of {some(len(having), 'truth mask')} have such problems")
    yield from _turned(split, _spread(having))
    yield from _values(split, dataset, [sample for sample in _spread(having) if sample.key not in problems], known)


def _problem(sample: Sample, size: tuple[int, int]) -> str | None:
    """What the header of a truth mask tells: no index mask, or not of its photo's size."""
    assert sample.mask_path is not None
    try:
        mask_size = index_mask_size(sample.mask_path)
    except InputError as error:
        return str(error)
    if mask_size != size:
        return (
            f"truth mask {sample.mask_path} is {mask_size[1]}x{mask_size[0]} pixels but its image "
            f"{sample.image_path} is {size[1]}x{size[0]}: give masks of the images' size"
        )
    return None


class _Seen:
    """What the masks show, and how it goes with the tags."""

    def __init__(self) -> None:
        self.pixels = np.zeros(256, np.int64)  # of each value
        self.tagged: Counter[int] = Counter()  # photos by class
        self.agreeing: Counter[int] = Counter()  # those whose mask shows it
        self.alone = 0  # photos of one class whose mask shows some class
        self.others_only = 0  # those where it shows others

    def add(self, counts: np.ndarray, labels: Iterable[int], values: Sequence[int]) -> None:
        """One photo: pixels of each value in its mask, its classes, and the value of each class."""
        labels = list(labels)
        self.pixels += counts
        self.tagged.update(labels)
        shown = [label for label in labels if counts[values[label]]]
        self.agreeing.update(shown)
        if len(labels) == 1 and counts[BACKGROUND + 1 : IGNORE].any():
            self.alone += 1
            self.others_only += not shown


def _values(split: str, dataset: Dataset, examples: Sequence[Sample], known: frozenset[int]) -> Iterator[Finding]:
    """Whether the masks' values are those of the classes, as far as tags tell."""
    from tag2mask.evaluate import read_truth

    # With one class for every value, read_truth gives the values as they stand in the files.
    raw = Dataset(dataset.name, tuple(str(value) for value in range(1, 255)), (), tuple(range(1, 255)))
    seen = _Seen()
    for sample in examples:
        try:
            counts = np.bincount(read_truth(sample, raw).ravel(), minlength=256)
        except InputError as error:
            yield Finding("error", f"{split}: {error}")
            continue
        seen.add(counts, sample.labels or (), dataset.truth_values)
    yield from _judged(split, dataset, seen, known)


def _judged(split: str, dataset: Dataset, seen: _Seen, known: frozenset[int]) -> Iterator[Finding]:
    pixels, tagged = seen.pixels, seen.tagged
    wanted = ", ".join(f"{name}={value}" for name, value in zip(dataset.classes, dataset.truth_values, strict=True))
    if pixels.sum() and pixels[BACKGROUND] + pixels[IGNORE] == pixels.sum():
        yield _without_classes(split, pixels, wanted)
        return
    strange = [value for value in np.flatnonzero(pixels).tolist() if value not in known | {BACKGROUND, IGNORE}]
    absent = [
        dataset.classes[label] for label, count in sorted(tagged.items()) if count >= 3 and not seen.agreeing[label]
    ]
    if pixels.sum() and not pixels[BACKGROUND] and not strange:
        yield Finding(
            "warning",
            f"{split}: the truth masks looked at have no pixel of background (0)",
            f"check their values: 0 is background, 255 is 'do not care', {wanted}",
        )
    if strange or absent:
        message = f"{split}: truth masks"
        message += " have no pixel of background (0)," * (not pixels[BACKGROUND])
        if strange:
            message += f" hold values {listed(map(str, strange), 8)} that are no class ({wanted})"
        if absent:
            message += (" and" if strange else "") + f" never show {listed(absent, 6)} where the tags do"
        advice = f"say which value each class has with --truth-values {_suggested(dataset, strange)}"
        objects = np.flatnonzero(pixels[BACKGROUND + 1 : IGNORE]) + BACKGROUND + 1
        if absent and len(objects) == 1 < len(dataset.classes):
            advice = f"objects of every class have the value {objects[0]}: write the number of its class into each"
        yield Finding("error" if absent else "warning", message, advice)
    elif seen.alone >= 3 and 2 * seen.others_only > seen.alone:
        yield Finding(
            "error" if seen.others_only == seen.alone else "warning",
            f"{split}: in {seen.others_only} of {seen.alone} photos of one class the truth mask shows others only",
            f"its values are taken as {wanted}: if they are not, say which with --truth-values "
            f"{_suggested(dataset, strange)}",
        )


def _without_classes(split: str, pixels: np.ndarray, wanted: str) -> Finding:
    """Masks of background and "do not care" only."""
    share = pixels[IGNORE] / pixels.sum()
    if share >= BINARY:
        return Finding(
            "error",
            f"{split}: the truth masks hold 0 and 255 only, and 255 means 'do not care', so nothing would be measured",
            f"write the class's number in place of 255: 1 where there is one class ({wanted})",
        )
    more = f" and 255 ({100 * share:.1f} % of the pixels)" if share else ""
    return Finding(
        "warning",
        f"{split}: the truth masks looked at hold background only{more}",
        f"if 255 marks objects, write the class's number in its place ({wanted})" if share else "",
    )


def _suggested(dataset: Dataset, strange: Iterable[int]) -> str:
    """Truth values to try: VOC's own when the names are VOC's and the values fit."""
    if set(dataset.classes) <= set(VOC_CLASSES):
        values = {name: VOC_CLASSES.index(name) + 1 for name in dataset.classes}
        if set(strange) <= set(range(1, len(VOC_CLASSES) + 1)):
            return " ".join(f"{name}={value}" for name, value in values.items()) + " (the values of PASCAL VOC)"
    return f"{dataset.classes[0]}=VALUE ..."
