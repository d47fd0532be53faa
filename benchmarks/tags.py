"""Other tags for the same photos, to measure what extra and wrong ones do: a small data set in the folder layout.

    python benchmarks/tags.py DATA --out NEW --classes cat,cow,dog --corrupt 0.2
    python benchmarks/tags.py DATA --out NEW --classes cat,cow,dog --single-label

Half of the training photos (``--extra``) become photos from elsewhere, with a domain of their own:

* ``--corrupt SHARE``: they come as from the web. So many of all tags of the training photos, each a tag of such a
  photo, say a class that the photo does not show instead of one it shows.
* ``--single-label``: they show, as far as their tags say, one class each; the others are hidden.

Everything else stays: photos, the other half, validation photos, truth. What is drawn depends on the seed and the
photos' ids alone, and a larger share corrupts the tags of a smaller one and more. NEW gets ``tags.csv`` and
``classes.txt``; the flags that point to the photos, their truth and their saliency are printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from tag2mask import data
from tag2mask.data import DataSettings
from tag2mask.errors import InputError
from tag2mask.files import atomic
from tag2mask.types import Dataset, Sample


def draw(*of: object) -> float:
    """A number in [0, 1) that is a function of its arguments."""
    return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=7).digest(), "big") / 2**56


def elsewhere(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """The photos that become extra ones: this share, those with the smallest numbers."""
    return sorted(samples, key=lambda s: draw(seed, "extra", s.id))[: round(share * len(samples))]


def corrupted(
    samples: Sequence[Sample], extra: Sequence[Sample], share: float, classes: int, seed: int
) -> dict[str, frozenset[int]]:
    """New labels of the extra photos whose tags lie, ``share`` of all tags."""
    tags = [(s, label) for s in extra for label in sorted(s.labels or ()) if len(s.labels or ()) < classes]
    count = round(share * sum(len(s.labels or ()) for s in samples))
    if count > len(tags):
        raise InputError(f"{count} tags cannot lie, the extra photos have {len(tags)}: use a larger --extra")
    new: dict[str, set[int]] = {}
    for s, label in sorted(tags, key=lambda t: draw(seed, "lies", t[0].id, t[1]))[:count]:
        shown = s.labels or frozenset()
        said = new.setdefault(s.id, set(shown))
        absent = [c for c in range(classes) if c not in shown]
        absent = [c for c in absent if c not in said] or absent
        said.discard(label)
        said.add(absent[int(draw(seed, "says", s.id, label) * len(absent))])
    return {id: frozenset(labels) for id, labels in new.items()}


def alone(extra: Sequence[Sample], seed: int) -> dict[str, frozenset[int]]:
    """One of each photo's labels."""
    kept = {}
    for s in extra:
        labels = sorted(s.labels or ())
        kept[s.id] = frozenset(labels[int(draw(seed, "kept", s.id) * len(labels)) :][:1])
    return kept


def write(
    train: Dataset, val: Dataset | None, new: dict[str, frozenset[int]], domains: dict[str, str], out: Path
) -> None:
    rows = [("image", "tags", "split", "domain")]
    for split, dataset in (("train", train), ("val", val)):
        for s in dataset.samples if dataset else ():
            labels = new.get(s.id, s.labels) if split == "train" else s.labels
            names = ";".join(train.classes[c] for c in sorted(labels or ()))
            rows.append((s.image_path.name, names, split, domains.get(s.id, "") if split == "train" else ""))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with atomic(out / "tags.csv") as file:
        file.write(text.getvalue())
    with atomic(out / "classes.txt") as file:
        file.writelines(f"{name} {value}\n" for name, value in zip(train.classes, train.truth_values, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("DATA", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", default="", help="a,b,c: only these")
    parser.add_argument("--train-split", default="train")
    parser.add_argument(
        "--extra", type=float, default=0.5, help="share of the training photos that come from elsewhere"
    )
    parser.add_argument("--corrupt", type=float, metavar="SHARE", help="of all tags; 0: all are right")
    parser.add_argument("--single-label", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.single_label == (args.corrupt is not None):
        parser.error("give one of --corrupt SHARE and --single-label")
    settings = DataSettings(classes=(args.classes,) if args.classes else (), train_split=args.train_split)
    train = data.load(args.DATA, settings)
    val = data.load(args.DATA, settings, "val") if "val" in data.splits(args.DATA, settings) else None
    samples = [s for s in train.samples if s.labels]
    extra = elsewhere(samples, args.extra, args.seed)
    if args.single_label:
        new, domain = alone(extra, args.seed), "single-label"
    else:
        new, domain = corrupted(samples, extra, args.corrupt, len(train.classes), args.seed), "web"
    args.out.mkdir(parents=True, exist_ok=True)
    write(train, val, new, {s.id: domain for s in extra}, args.out)
    told = {s.id: s.labels or frozenset() for s in samples}
    wrong = sum(len(labels - told[id]) for id, labels in new.items())
    hidden = sum(len(told[id] - labels) for id, labels in new.items())
    print(f"{len(extra)} of {len(samples)} photos are {domain}: {wrong} tags lie, {hidden} are hidden or replaced")
    first = samples[0]
    flags = ["--data.images", str(first.image_path.parent)]
    for flag, path in (("--truth", first.mask_path), ("--saliency", first.saliency_path)):
        flags += [flag, str(path.parent)] if path else []
    print("tag2mask train", args.out, *flags)


if __name__ == "__main__":
    main()
