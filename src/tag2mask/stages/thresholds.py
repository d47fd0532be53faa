"""The background threshold of maps: given, or found on a sample of them without truth."""

from __future__ import annotations

from tag2mask import methods, pseudo
from tag2mask.layers.class_references import compared_traits
from tag2mask.plan.context import Context
from tag2mask.recipes import RunSettings
from tag2mask.stages.artefacts import MapReader

SAMPLE = 500  # maps read to find it


def threshold_settings(settings: RunSettings) -> tuple[str, ...]:
    """What the rule depends on: whether the maps are the method's own, and then which rule suits them."""
    return ("pseudo.rule", "pseudo.threshold", "method", "options", "localize.references")


def chosen_threshold(context: Context, name: str) -> tuple[float, str]:
    """The user's threshold, or the rule's on the maps of this stage, and where it is from. No truth is seen."""
    if context.settings.pseudo.threshold is not None:
        return context.settings.pseudo.threshold, "given"
    return ruled_threshold(context, name)


def ruled_threshold(context: Context, name: str) -> tuple[float, str]:
    """What the rule finds on an evenly spread sample of the maps of this stage, whatever the user gave, and how."""
    samples = [s for s in context.train.samples if s.labels]
    samples = samples[:: max(1, len(samples) // SAMPLE)]
    s = context.settings
    rule = s.pseudo.rule
    if rule == "auto" and name == "maps":  # the method's own, neither a student's nor propagated
        rule = compared_traits(methods.traits(s.options), s.localize.references).threshold_rule
    return pseudo.find_threshold(map(MapReader(context.read(name)), samples), rule)
