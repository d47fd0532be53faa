"""Under which terms a backbone's weights from the hub are."""

from __future__ import annotations

from tag2mask.backbones.settings import BackboneSettings

OPEN = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")

TERMS = {
    "dinov3-license": "Meta's DINOv3 License, https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}


def licence(settings: BackboneSettings) -> str | None:
    """What timm says of the weights of these settings; None where it says nothing, or they come from elsewhere."""
    if settings.weights != "auto":
        return None
    import timm

    config = timm.get_pretrained_cfg(settings.name, allow_unregistered=True)
    return None if config is None else config.license


def terms(settings: BackboneSettings) -> str:
    """What to tell of weights that are under no open-source licence; empty for all others."""
    found = licence(settings)
    if found is None or found.lower() in OPEN:
        return ""
    return (
        f"the weights of --backbone {settings.name} are under {TERMS.get(found.lower(), found)}, which is no "
        "open-source licence: read whether your use is among its uses"
    )
