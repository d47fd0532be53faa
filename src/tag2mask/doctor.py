"""What is wrong with a data set, said before hours are spent on it.

``diagnose`` looks at everything once (tags, every photo, saliency, some truth masks) and returns findings; it changes
nothing. Truth is only read through :func:`tag2mask.evaluate.read_truth`.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tag2mask import data
from tag2mask.data import voc
from tag2mask.data.images import CheckedImage, check_images, read_saliency
from tag2mask.data.listing import Selection
from tag2mask.errors import InputError, listed
from tag2mask.types import BACKGROUND, IGNORE, Dataset, Sample

Level = Literal["error", "warning", "info"]

FEW = 20  # photos of a class below which a classifier hardly learns what the photos have in common
IMBALANCE = 20  # ratio of the most to the least frequent class above which the rare ones are drowned
TINY = 64  # pixels on the shorter side: two or four cells of a feature grid
HUGE = 16_000_000  # pixels; such photos work but decode slowly, and are shrunk anyway
OFTEN = 0.95  # share of a class's photos that show another one too, above which tags hardly separate them
MASKS = 300  # truth masks and saliency maps read per split; spread evenly, enough to see a wrong palette


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing."""

    level: Level  # error: training would fail or teach nonsense; warning: masks will suffer; info: figures
    message: str  # what, where, how much
    advice: str = ""  # what to do about it


def diagnose(path: Path | str, settings: data.DataSettings | None = None, workers: int | None = None) -> list[Finding]:
    """Everything worth saying about a data set, errors first.

    Args:
        path: the data set.
        settings: as training would use them.
        workers: threads that decode photos.
    """
    settings = settings or data.DataSettings()
    findings: list[Finding] = []
    selections: dict[str, Selection] = {}
    try:
        existing = data.splits(path, settings)
        if settings.train_split not in existing:
            data.load(path, settings)  # raises the error training would raise
        for split in (settings.train_split, settings.val_split):
            if split in existing and split not in selections:
                selections[split] = data.read(path, settings, split)
    except InputError as error:
        return [Finding("error", str(error))]
    if settings.val_split not in selections:
        findings.append(
            Finding("info", f"there is no split '{settings.val_split}'", "without it nothing is measured at the end")
        )
    train = selections[settings.train_split].dataset
    try:
        data.load(path, settings)
    except InputError as error:
        findings.append(Finding("error", str(error)))
    for split, selection in selections.items():
        findings += _counts(split, selection)
    findings += _tags(
        train, {split: chosen.dataset for split, chosen in selections.items() if chosen.dataset is not train}
    )
    checked = {
        split: tuple(check_images(selection.dataset.samples, workers)) for split, selection in selections.items()
    }
    findings += _files(checked)
    for split, selection in selections.items():
        usable = [
            sample
            for sample, check in zip(selection.dataset.samples, checked[split], strict=True)
            if check.error is None
        ]
        sizes = {check.id: (check.height, check.width) for check in checked[split]}
        findings += _saliency(split, usable, sizes)
        findings += _truth(split, selection.dataset.with_samples(usable), selection.truth_values)
    findings += _space(checked[settings.train_split])
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def render(findings: Sequence[Finding]) -> str:
    """Findings as plain text, one paragraph each, with a last line that counts them."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.message}")
        if finding.advice:
            lines.append(f"{'':<8} -> {finding.advice}")
    count = Counter(finding.level for finding in findings)
    if count["error"] or count["warning"]:
        lines.append(f"{_some(count['error'], 'error')}, {_some(count['warning'], 'warning')}")
    else:
        lines.append("no problems found")
    return "\n".join(lines)


def _some(count: int, thing: str, things: str = "") -> str:
    return f"{count} {thing if count == 1 else things or thing + 's'}"


# -------------------------------------------------------------------------------------------------- tags


def _class_counts(dataset: Dataset) -> dict[str, int]:
    count = Counter(label for sample in dataset.samples for label in sample.labels or ())
    return {name: count[number] for number, name in enumerate(dataset.classes)}


def _counts(split: str, selection: Selection) -> list[Finding]:
    """How many photos, of which classes."""
    dataset = selection.dataset
    classes = ", ".join(f"{name} {count}" for name, count in _class_counts(dataset).items())
    findings = [Finding("info", f"{split}: {_some(len(dataset), 'photo')}; per class: {classes}")]
    if selection.dropped:
        findings.append(
            Finding("info", f"{split}: {_some(selection.dropped, 'photo')} with none of the classes left out")
        )
    several = sum(1 for sample in dataset.samples if sample.labels and len(sample.labels) > 1)
    if several:
        findings.append(Finding("info", f"{split}: {_some(several, 'photo')} with more than one class"))
    domains = Counter(sample.domain for sample in dataset.samples)
    if len(domains) > 1:
        shown = ", ".join(f"{domain} {count}" for domain, count in domains.items())
        findings.append(Finding("info", f"{split}: photos by domain: {shown}"))
    return findings


def _tags(train: Dataset, others: dict[str, Dataset]) -> Iterator[Finding]:
    """Whether the tags can tell the classes apart."""
    counts = _class_counts(train)
    present = {name: count for name, count in counts.items() if count}
    few = [f"{name} ({count})" for name, count in present.items() if count < FEW]
    if few:
        yield Finding(
            "warning",
            f"fewer than {FEW} training photos of {listed(few, 6)}",
            "find more, or select the other classes",
        )
    if present and max(present.values()) > IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield Finding(
            "warning",
            f"'{most}' has {present[most]} training photos and '{least}' {present[least]}",
            "find more of the rare ones, or expect little of them",
        )
    yield from _together(train, counts)
    everywhere = [name for name, count in present.items() if count == len(train)]
    if everywhere and len(train) > 1:
        yield Finding(
            "warning",
            f"every training photo is tagged {listed(everywhere)}",
            "a classifier has nothing to compare with: add photos without it (--keep-untagged takes untagged ones)",
        )
    for split, dataset in others.items():
        tagged = any(sample.labels for sample in dataset.samples)
        unseen = [name for name, count in _class_counts(dataset).items() if not count]
        if tagged and unseen:
            yield Finding(
                "warning",
                f"{split}: no photo of {listed(unseen, 6)}",
                "nothing will be measured for it" if len(unseen) == 1 else "nothing will be measured for them",
            )


def _together(train: Dataset, counts: Mapping[str, int]) -> Iterator[Finding]:
    """Classes that are hardly tagged without each other."""
    together: Counter[tuple[int, int]] = Counter()
    for sample in train.samples:
        together.update(itertools.permutations(sorted(sample.labels or ()), 2))
    for (one, other), count in sorted(together.items()):
        a, b = train.classes[one], train.classes[other]
        if count == counts[a] == counts[b]:
            if one < other:
                yield Finding(
                    "warning",
                    f"'{a}' and '{b}' are always tagged together ({_some(count, 'photo')})",
                    "tags cannot tell them apart: add photos of each alone, or make them one class",
                )
        elif count >= OFTEN * counts[a]:
            yield Finding(
                "warning",
                f"{count} of {counts[a]} photos of '{a}' are tagged '{b}' too",
                f"tags hardly say which pixels are '{a}': add photos of it without '{b}'",
            )


# -------------------------------------------------------------------------------------------------- photos


def _files(checked: dict[str, tuple[CheckedImage, ...]]) -> Iterator[Finding]:
    """Photos that cannot be read, that are very small or large, that are there twice."""
    for split, checks in checked.items():
        bad = [check.error for check in checks if check.error]
        level: Level = "error" if 2 * len(bad) > len(checks) else "warning"  # training sets single ones aside
        yield from (Finding(level, f"{split}: {error}") for error in bad[:10])
        if bad:
            yield Finding(
                level,
                f"{split}: {len(bad)} of {_some(len(checks), 'photo')} cannot be read",
                "training sets them aside and goes on without them",
            )
        yield from _sizes(split, [check for check in checks if not check.error])
    yield from _copies(checked)


def _sizes(split: str, good: Sequence[CheckedImage]) -> Iterator[Finding]:
    """Of photos that can be read."""
    tiny = [check.id for check in good if min(check.height, check.width) < TINY]
    if tiny:
        yield Finding(
            "warning",
            f"{split}: {_some(len(tiny), 'photo')} under {TINY} pixels on the shorter side: {listed(tiny)}",
            "their masks will be blurs: use the original photos",
        )
    huge = [check.id for check in good if check.height * check.width > HUGE]
    if huge:
        yield Finding(
            "warning",
            f"{split}: {_some(len(huge), 'photo')} over {HUGE // 1_000_000} megapixels: {listed(huge)}",
            "they are read slowly: shrink them once",
        )
    if good:
        heights, widths = [check.height for check in good], [check.width for check in good]
        yield Finding(
            "info",
            f"{split}: photos of {min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high",
        )


def _copies(checked: dict[str, tuple[CheckedImage, ...]]) -> Iterator[Finding]:
    """Files with the same bytes."""
    same: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, checks in checked.items():
        for check in checks:
            if not check.error:
                same[check.digest].append((split, check.id))
    copies = [places for places in same.values() if len(places) > 1]
    across = [places for places in copies if len({split for split, _ in places}) > 1]
    if across:
        shown = listed([" = ".join(f"{split}/{id_}" for split, id_ in places[:3]) for places in across])
        yield Finding(
            "error",
            f"{_some(len(across), 'photo')} in more than one split: {shown}",
            "what is measured on them means nothing: remove them from one split",
        )
    within = [places for places in copies if len({split for split, _ in places}) == 1]
    if within:
        shown = listed([" = ".join(id_ for _, id_ in places[:3]) for places in within])
        yield Finding(
            "warning",
            f"{_some(len(within), 'photo')} more than once under different names: {shown}",
            "remove the copies: they count twice, and their tags may differ",
        )


def _some_of(samples: Sequence[Sample], most: int = MASKS) -> list[Sample]:
    """At most so many, spread evenly."""
    step = max(1, -(-len(samples) // most))
    return list(samples[::step])


# -------------------------------------------------------------------------------------------------- masks


def _saliency(split: str, samples: Sequence[Sample], sizes: dict[str, tuple[int, int]]) -> list[Finding]:
    """Saliency maps that are missing, unreadable or black; silent when there are none at all."""
    having = [sample for sample in samples if sample.saliency_path]
    if not having:
        return []
    findings: list[Finding] = []
    missing = [sample.id for sample in samples if not sample.saliency_path]
    if missing:
        findings.append(
            Finding(
                "warning",
                f"{split}: {len(missing)} of {_some(len(samples), 'photo')} have no saliency map: {listed(missing)}",
                "methods that use saliency need all of them",
            )
        )
    black: list[str] = []
    looked = _some_of(having)
    for sample in looked:
        assert sample.saliency_path is not None
        try:
            if read_saliency(sample.saliency_path, sizes[sample.id]).max() < 0.02:  # under 5 of 255
                black.append(sample.id)
        except InputError as error:
            findings.append(Finding("error", f"{split}: saliency: {error}"))
    if black:
        findings.append(
            Finding(
                "warning",
                f"{split}: {len(black)} of {_some(len(looked), 'saliency map')} looked at are black: {listed(black)}",
                "they say that nothing stands out: check how they were made",
            )
        )
    return findings


def _truth(split: str, dataset: Dataset, known: frozenset[int]) -> list[Finding]:
    """Truth masks that do not fit their photos, or whose values are not those of the classes."""
    having = [sample for sample in dataset.samples if sample.mask_path]
    if not having:
        return []
    from tag2mask.evaluate import read_truth

    findings: list[Finding] = [
        Finding("info", f"{split}: {len(having)} of {_some(len(dataset), 'photo')} have truth, for measuring only")
    ]
    # With one class for every value, read_truth gives the values as they stand in the files.
    raw = Dataset(dataset.name, tuple(str(value) for value in range(1, 255)), (), tuple(range(1, 255)))
    pixels = np.zeros(256, np.int64)
    tagged: Counter[int] = Counter()
    agreeing: Counter[int] = Counter()
    problems: list[str] = []
    for sample in _some_of(having):
        try:
            counts = np.bincount(read_truth(sample, raw).ravel(), minlength=256)
        except InputError as error:
            problems.append(str(error))
            continue
        pixels += counts
        for label in sample.labels or ():
            tagged[label] += 1
            agreeing[label] += bool(counts[dataset.truth_values[label]])
    findings += [Finding("error", f"{split}: {problem}") for problem in problems[:5]]
    if len(problems) > 5:
        findings.append(Finding("error", f"{split}: {len(problems)} of the truth masks looked at have such problems"))
    strange = [value for value in np.flatnonzero(pixels).tolist() if value not in known | {BACKGROUND, IGNORE}]
    wanted = ", ".join(f"{name}={value}" for name, value in zip(dataset.classes, dataset.truth_values, strict=True))
    absent = [dataset.classes[label] for label, count in sorted(tagged.items()) if count >= 3 and not agreeing[label]]
    if strange or absent:
        message = f"{split}: truth masks"
        if strange:
            message += f" hold values {listed(map(str, strange), 8)} that are no class ({wanted})"
        if absent:
            message += (" and" if strange else "") + f" never show {listed(absent, 6)} where the tags do"
        advice = f"say which value each class has with --truth-values {_suggested(dataset, strange)}"
        findings.append(Finding("error" if absent else "warning", message, advice))
    if pixels.sum() and pixels[BACKGROUND] + pixels[IGNORE] == pixels.sum():
        findings.append(Finding("warning", f"{split}: the truth masks looked at hold background only"))
    return findings


def _suggested(dataset: Dataset, strange: Iterable[int]) -> str:
    """Truth values to try: VOC's own when the names are VOC's and the values fit."""
    if set(dataset.classes) <= set(voc.CLASSES):
        values = {name: voc.CLASSES.index(name) + 1 for name in dataset.classes}
        if set(strange) <= set(range(1, len(voc.CLASSES) + 1)):
            return " ".join(f"{name}={value}" for name, value in values.items()) + " (the values of PASCAL VOC)"
    return f"{dataset.classes[0]}=VALUE ..."


def _space(checked: Sequence[CheckedImage]) -> list[Finding]:
    """Whether a run of this data set fits on the disk one stands on."""
    pixels = sum(check.height * check.width for check in checked)
    # Maps at stride 16 in half precision (about 2 classes a photo), masks and refined masks as PNG (under 0.1 byte a
    # pixel each), weights and checkpoints with optimiser state.
    needed = pixels * (2 * 2 / 256 + 0.3) + 1e9
    free = shutil.disk_usage(Path.cwd()).free
    if free < needed:
        return [
            Finding(
                "error",
                f"{free / 1e9:.1f} GB are free in {Path.cwd()}; a run needs about {needed / 1e9:.1f} GB",
                "free some space or put the run elsewhere with --out",
            )
        ]
    return [Finding("info", f"a run needs about {needed / 1e9:.1f} GB of disk; {free / 1e9:.0f} GB are free here")]
