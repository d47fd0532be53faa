"""Which backbone a run has, and with which weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tag2mask.settings import ByFact, Range, check_values


@dataclass(frozen=True)
class BackboneSettings:
    """Which feature extractor, with which weights, and what of it learns."""

    name: str = "tf_efficientnet_lite0"
    """Any timm model that gives a feature map, by its timm name; or resnet38d (PSA, SEAM, EPS, SMAF)."""
    weights: Annotated[str, ByFact("weights", "none")] = "auto"
    """auto: embedded for the default backbone, otherwise timm's from the hub; none: random; or a file."""
    output_stride: Annotated[int, Range(at_least=1, at_most=32)] = 16
    """Pixels per feature cell asked of a CNN (8, 16 or 32); a ViT's is its patch size."""
    freeze: bool = False
    """Train nothing of it: its features are computed once and kept on disk."""
    freeze_until: str | None = None
    """Keep the output of the blocks up to and including this one on disk, and train the blocks above it."""
    freeze_norms: bool = False
    """Scale and shift of its batch norms do not learn, as their statistics never do (DeepLab's published codes)."""

    def __post_init__(self) -> None:
        check_values(self, "backbone")
