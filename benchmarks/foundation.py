"""CLIP, DINO and SAM on your data: what can be run here, and what each comes to (docs/foundation.md).

    pip install 'tag2mask[text,sam]'
    python benchmarks/foundation.py DATA --out RUNS                  # fetches what is not there, then runs all
    python benchmarks/foundation.py DATA --out RUNS --check          # only says what can be run
    python benchmarks/foundation.py DATA --out RUNS --only text dino-mcis -- --classes cat,dog --recipe quick

Every variant is `tag2mask label DATA` with flags that are printed, in a folder of its own under RUNS; what was done is
not done again. Where the data set has true masks, mean IoU of the maps and masks is printed, with the minutes. What
stands after `--` goes to every run. A variant whose weights cannot be had is named, with the reason, and passed over.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DINO = "vit_small_patch14_dinov2.lvd142m"
SIGLIP = "vit_base_patch16_siglip_224.v2_webli"
FROZEN = ("--backbone", DINO, "--freeze")


@dataclass(frozen=True)
class Variant:
    """A run, and what it needs."""

    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """``backbone:NAME``, ``text:IMAGE TOWER``, ``refiner:NAME``."""


TEXT = ("--method", "text")
CLIP_NEEDS = ("backbone:vit_base_patch16_clip_quickgelu_224.openai", "text:vit_base_patch16_clip_quickgelu_224.openai")
DINO_NEEDS = (f"backbone:{DINO}",)

VARIANTS: dict[str, Variant] = {
    "default": Variant(()),
    "text": Variant(TEXT, CLIP_NEEDS),
    "text-gradient": Variant((*TEXT, "--text.form", "gradient"), CLIP_NEEDS),
    "text-gradient-attention": Variant((*TEXT, "--text.form", "gradient", "--propagate", "attention"), CLIP_NEEDS),
    "text-siglip2": Variant((*TEXT, "--backbone", SIGLIP), (f"backbone:{SIGLIP}", f"text:{SIGLIP}")),
    "text-dino-tokens": Variant(
        (*TEXT, "--propagate", "tokens", "--propagation.backbone", DINO), (*CLIP_NEEDS, *DINO_NEEDS)
    ),
    "dino-cam": Variant(FROZEN, DINO_NEEDS),
    "dino-mcis": Variant((*FROZEN, "--method", "mcis"), DINO_NEEDS),
    "dino-eps": Variant((*FROZEN, "--method", "eps", "--saliency", "self-supervised"), DINO_NEEDS),
    "default-dino-tokens": Variant(("--propagate", "tokens", "--propagation.backbone", DINO), DINO_NEEDS),
    "default-sam2": Variant(("--refine", "sam2"), ("refiner:sam2",)),
    "default-edgetam": Variant(("--refine", "edgetam"), ("refiner:edgetam",)),
    "text-gradient-attention-sam2": Variant(
        (*TEXT, "--text.form", "gradient", "--propagate", "attention", "--refine", "sam2"),
        (*CLIP_NEEDS, "refiner:sam2"),
    ),
}


def load(need: str) -> None:
    """Fetch and build what a variant needs.

    Raises:
        InputError: it cannot be had, with what to do.
    """
    from tag2mask.backbones import BackboneSettings, build
    from tag2mask.methods.text_settings import TOWERS
    from tag2mask.methods.text_tower import TextEmbedder
    from tag2mask.refine import entries

    kind, _, name = need.partition(":")
    loaders: dict[str, Callable[[str], Any]] = {
        "backbone": lambda name: build(BackboneSettings(name)),
        "text": lambda name: TextEmbedder(TOWERS[name]).embed(["a photo"]),
        "refiner": lambda name: [(entry.check(), entry.load()) for entry in entries(name)],
    }
    loaders[kind](name)


def lacking(variant: Variant, known: dict[str, str]) -> str:
    """Why a variant cannot be run; empty where it can. ``known``: what was found of each need."""
    from tag2mask.errors import InputError

    for need in variant.needs:
        if need not in known:
            try:
                load(need)
                known[need] = ""
            except InputError as error:
                known[need] = str(error)
        if known[need]:
            return known[need]
    return ""


def measured(data: Path, out: Path, flags: Sequence[str]) -> dict[str, str]:
    """A run's minutes, and mean IoU of what it measured."""
    from tag2mask.cli.runs import parse_run
    from tag2mask.files import read_object
    from tag2mask.pipeline import label

    path, folder, settings = parse_run([str(data), "--out", str(out), *flags], "label")
    began = time.monotonic()
    label(path, folder, settings)
    scores = read_object(folder / "scores" / "scores.json") or {}
    found = {stage: f"{100 * of['mean_iou']:.1f}" for stage, of in scores.items() if _is_score(of)}
    return {"minutes": f"{(time.monotonic() - began) / 60:.1f}", **found}


def _is_score(content: object) -> bool:
    return isinstance(content, dict) and "mean_iou" in content


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and what stands after it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--check", action="store_true", help="say what can be run, and run nothing")
    own, every_run = split(sys.argv[1:])
    given = parser.parse_args(own)
    from tag2mask.errors import InputError

    known: dict[str, str] = {}
    for name in given.only or VARIANTS:
        variant = VARIANTS[name]
        flags = [*variant.flags, *every_run]
        if reason := lacking(variant, known):
            print(f"{name}: not run: {reason}", flush=True)
        elif given.check:
            print(f"{name}: can be run: tag2mask label {given.data} {' '.join(flags)}", flush=True)
        else:
            try:
                figures = measured(given.data, given.out / name, flags)
            except InputError as error:
                print(f"{name}: not run: {error}", flush=True)
                continue
            print(f"{name}: " + ", ".join(f"{what} {figure}" for what, figure in figures.items()), flush=True)


if __name__ == "__main__":
    main()
