"""How many corrupted tags are found, and where in the ranking: `tag2mask tags` on tags of which some are made wrong.

    python benchmarks/tag_errors.py DATA --classes cat,cow,dog --train-split train_small

A share of all tags is corrupted (``--corrupt``): half of them become another class, a quarter is dropped (another class
where it is the only one), to a quarter one is added. Printed, mean over ``--seeds``: the share of the corrupted
statements (photo and class) in the top tenth of all statements; of the corrupted photos in the top tenth of all photos,
and the most that this can be; of the wrong tags in the top tenth of all tags; and how many tags look wrong and missing,
with their precision and recall. Tags of the data set that were wrong before count as right here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask import data
from tag2mask.backbones import BackboneSettings
from tag2mask.data import DataSettings
from tag2mask.tag_errors.features import write_features
from tag2mask.tag_errors.ranking import doubts

KINDS = ("replaced", "replaced", "dropped", "added")


def corrupted(tags: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """``[photos classes]`` bool with so many of the tags made wrong."""
    new = tags.copy()
    pairs = random.permutation(np.argwhere(tags))[: round(share * tags.sum())]
    for row, label in pairs.tolist():
        kind = random.choice(KINDS)
        alone = new[row].sum() < 2
        if kind != "added":
            new[row, label] = False
        absent = np.flatnonzero(~tags[row] & ~new[row])
        if len(absent) and (kind != "dropped" or alone):
            new[row, random.choice(absent)] = True
    return new


def in_top(scores: np.ndarray, bad: np.ndarray, share: float = 0.1) -> float:
    """Percent of the bad ones in this share of the ranking."""
    first = np.argsort(-scores, kind="stable")[: round(share * len(scores))]
    return 100 * bad[first].sum() / max(1, bad.sum())


def measured(features: np.ndarray, tags: np.ndarray, share: float, seed: int) -> list[float]:
    said = corrupted(tags, share, np.random.default_rng(seed))
    bad, of = said != tags, doubts(features, said, seed)
    possible = 100 * min(1.0, 0.1 * len(tags) / max(1, bad.any(1).sum()))
    figures = [in_top(of.scores.ravel(), bad.ravel()), in_top(of.of_photos, bad.any(1)), possible]
    figures.append(in_top(of.scores[said], bad[said]))
    for looks, kind in ((of.wrong, said), (of.missing, ~said)):
        hits = float((looks & bad).sum())
        figures += [looks.sum(), 100 * hits / max(1, looks.sum()), 100 * hits / max(1, (bad & kind).sum())]
    return [float(x) for x in figures]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("DATA", type=Path)
    parser.add_argument("--classes", default="", help="a,b,c: only these")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--corrupt", type=float, nargs="+", default=[0.0, 0.1], metavar="SHARE")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(arguments)
    settings = DataSettings(classes=(args.classes,) if args.classes else (), train_split=args.train_split)
    train = data.load(args.DATA, settings)
    tags = np.array([[c in (s.labels or ()) for c in range(len(train.classes))] for s in train.samples])
    print(
        "corrupted | statements, photos (at most), tags: % in the top tenth | looks wrong, precision, recall | missing"
    )
    with tempfile.TemporaryDirectory() as folder:
        features = write_features(train.samples, BackboneSettings(), Path(folder) / "features.npy")
        for share in args.corrupt:
            mean = np.mean([measured(features, tags, share, seed) for seed in range(args.seeds)], 0)
            print(f"{100 * share:3.0f} % | " + "  ".join(f"{x:.0f}" for x in mean), flush=True)


if __name__ == "__main__":
    main()
