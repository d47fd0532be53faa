"""Names of the stages, by what the settings ask for. Read down, the names are the pipeline."""

from __future__ import annotations

from collections.abc import Container

from tag2mask.recipes import RunSettings


def networks(settings: RunSettings) -> list[str]:
    """The networks that make maps: the method, then each student."""
    return ["method", *(f"self-method-{turn}" for turn in range(1, settings.self_train.students + 1))]


def maps(settings: RunSettings) -> list[str]:
    """The maps of each network."""
    return ["maps", *(f"self-maps-{turn}" for turn in range(1, settings.self_train.students + 1))]


def final_maps(settings: RunSettings) -> str:
    """The maps that masks are made of."""
    return maps(settings)[-1] if settings.propagate == "none" else "propagated"


def masks(settings: RunSettings) -> list[str]:
    """The masks: the maps' own, then those of each relabelling."""
    rounds = 0 if settings.single_stage else settings.relabel.rounds
    return ["masks", *(f"masks-{turn}" for turn in range(1, rounds + 1))]


def last_masks(settings: RunSettings, done: Container[str]) -> str:
    """The last masks made: of the last relabelling, or of the maps; those of the maps must be done."""
    return [name for name in masks(settings) if name in done][-1]


def segmenters(settings: RunSettings, *, oracle: bool = False) -> list[str]:
    """The segmenter's rounds, the result last. A single-stage method is its own, and has no other."""
    if settings.single_stage:
        return [] if oracle else ["method"]
    end = "-oracle" if oracle else ""
    return [*(f"segmenter-{turn}{end}" for turn in range(settings.relabel.rounds)), f"segmenter{end}"]
