"""`list`: the names that settings take, a line each."""

from __future__ import annotations

from collections.abc import Callable


def list_names(arguments: list[str]) -> int:
    from tag2mask.errors import InputError, unknown

    tables: dict[str, Callable[[], dict[str, str]]] = {
        "methods": _methods,
        "recipes": _recipes,
        "datasets": _datasets,
        "backbones": _backbones,
        "propagations": _propagations,
        "refiners": _refiners,
        "segmenters": _segmenters,
        "formats": _formats,
    }
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: tag2mask list " + "|".join(tables))
            return 0
        raise InputError("say what to list: tag2mask list " + "|".join(tables))
    if arguments[0] not in tables:
        raise unknown("list", arguments[0], tables)
    rows = tables[arguments[0]]()
    width = max(map(len, rows))
    for name, line in rows.items():
        print(f"{name:<{width}}  {line}".rstrip())
    return 0


def _methods() -> dict[str, str]:
    from tag2mask.methods import METHODS

    return {
        **{name: entry.line for name, entry in METHODS.items()},
        "...": "any of them with --self-train smaf: students learn from its maps (Yang et al., ICME 2023)",
    }


def _recipes() -> dict[str, str]:
    from tag2mask.recipes import RECIPES

    return {name: (function.__doc__ or "").split("\n")[0] for name, function in RECIPES.items()}


def _datasets() -> dict[str, str]:
    from tag2mask.data.layouts import LAYOUTS

    return {
        "demo": "composed from photographs that scikit-image and Matplotlib ship; embedded (tag2mask demo)",
        **{name: f"layout: {entry.line}" for name, entry in LAYOUTS.items()},
        "voc2012": "tag2mask download voc2012 --to DIR",
        "pets": "tag2mask download pets --to DIR",
        "coco2014": "tag2mask download coco2014 --to DIR says what to fetch, and checks it",
    }


def _backbones() -> dict[str, str]:
    from tag2mask.backbones import BACKBONES

    return {**BACKBONES, "...": "any timm model that gives a feature map, by its timm name"}


def _propagations() -> dict[str, str]:
    from tag2mask.propagation import PROPAGATIONS

    return {**{name: way.line for name, way in PROPAGATIONS.items()}, "none": "the maps as they are"}


def _refiners() -> dict[str, str]:
    from tag2mask.refine import REFINERS

    return {
        **{name: entry.line for name, entry in REFINERS.items()},
        "none": "the masks as they are",
        "...": "several in order, joined by commas: par,crf",
    }


def _segmenters() -> dict[str, str]:
    from tag2mask.segment import known

    return {name: "" for name in known()}


def _formats() -> dict[str, str]:
    from tag2mask.exchange import FORMATS

    models = {
        "onnx": "the segmenter for ONNX Runtime, any size and number of photos (export only)",
        "bundle": "the segmenter as safetensors, JSON and model card, for tag2mask.load (export only)",
    }
    return {**{name: entry.line for name, entry in FORMATS.items()}, **models}
