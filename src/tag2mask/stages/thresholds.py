"""The background threshold of maps: given, or found on a sample of them without truth."""

from __future__ import annotations

from tag2mask import methods, pseudo
from tag2mask.layers.class_references import compared_traits
from tag2mask.plan.context import Context
from tag2mask.plan.stage import PhotoStage
from tag2mask.pseudo import Threshold
from tag2mask.recipes import RunSettings
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader
from tag2mask.stages.separation import measure_separation, separations

SAMPLE = 500  # maps read to find it


def threshold_settings(settings: RunSettings) -> tuple[str, ...]:
    """What the rule depends on: whether the maps are the method's own, and then which rule suits them."""
    return ("pseudo.rule", "pseudo.threshold", "method", "options", "localize.references")


def threshold_rule(settings: RunSettings, name: str) -> str:
    """The rule for the maps of this stage: the user's, or the one that is named for the method's own maps. Settings of
    inference have a part in it: a stage that does not see them is told the rule."""
    rule = settings.pseudo.rule
    if rule == "auto" and name == "maps":  # neither a student's nor propagated
        return compared_traits(methods.traits(settings.options), settings.localize.references).threshold_rule
    return rule


def threshold_stages(settings: RunSettings) -> list[PhotoStage]:
    """What is measured for the masks' threshold, if anything."""
    found = settings.pseudo.threshold is None and settings.pseudo.background != "saliency-rule"
    by_features = found and threshold_rule(settings, names.final_maps(settings)) == pseudo.BY_FEATURES
    return [measure_separation(settings)] if by_features else []


def threshold_reads(settings: RunSettings) -> tuple[str, ...]:
    """The names of these stages."""
    return tuple(stage.name for stage in threshold_stages(settings))


def threshold_constants(settings: RunSettings, name: str) -> dict[str, str]:
    """For a stage's key: what `auto` comes to, so that masks of another default are not taken for this one's."""
    if settings.pseudo.threshold is not None:
        return {}
    rule = threshold_rule(settings, name)
    by_features = {"of classes that cover little": "the higher the less they cover", "wanted below": "half of the way"}
    return {"threshold rule": rule, **(by_features if rule == pseudo.BY_FEATURES else {})}


def chosen_threshold(context: Context, name: str) -> Threshold:
    """The user's threshold, or the rule's on the maps of this stage. No truth is seen."""
    if context.settings.pseudo.threshold is not None:
        return Threshold(context.settings.pseudo.threshold, "given")
    return ruled_threshold(context, name, threshold_rule(context.settings, name))


def ruled_threshold(context: Context, name: str, rule: str) -> Threshold:
    """What a rule finds on an evenly spread sample of the maps of this stage, whatever the user gave."""
    samples = [s for s in context.train.samples if s.labels]
    samples = samples[:: max(1, len(samples) // SAMPLE)]
    maps = map(MapReader(context.read(name)), samples)
    return pseudo.find_threshold(maps, rule, len(context.classes), separations(context, name))
