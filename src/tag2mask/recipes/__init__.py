"""The named runs: functions that return settings."""

from __future__ import annotations

from collections.abc import Callable

from tag2mask.errors import unknown
from tag2mask.recipes import apc, eps, general, mcis, ppl
from tag2mask.recipes.settings import RunSettings, propagation_backbone, settings_from, with_method

__all__ = ["RECIPES", "RunSettings", "propagation_backbone", "recipe", "settings_from", "with_method"]

RECIPES: dict[str, Callable[[], RunSettings]] = {
    "default": general.default,
    "quick": general.quick,
    "frozen": general.frozen,
    "small-objects": general.small_objects,
    "demo": general.demo,
    "saliency": general.saliency,
    "eps": eps.eps,
    "smaf": eps.smaf,
    "mcis/paper": mcis.mcis_paper,
    "mcis/official": mcis.mcis_official,
    "ppl/implicit": ppl.ppl_implicit,
    "ppl/explicit": ppl.ppl_explicit,
    "ppl/implicit-small": ppl.ppl_implicit_small,
    "ppl/explicit-small": ppl.ppl_explicit_small,
    "ppl/agree": ppl.ppl_agree,
    "apc/e2e": apc.apc_e2e,
    "apc/multistage": apc.apc_multistage,
}


def recipe(name: str) -> RunSettings:
    """The settings of a named run.

    Raises:
        InputError: there is no run of this name; the nearest ones are in the message.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
