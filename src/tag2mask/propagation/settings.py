"""How affinities are learnt, and how maps are propagated along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tag2mask.errors import InputError


@dataclass(frozen=True)
class PropagationSettings:
    """How affinities are learnt, and how maps are propagated along them."""

    foreground: float = 0.30
    """Maps above this, after a CRF, are confident foreground (IRN; a fixed number of the paper, not set here)."""
    background: float = 0.05
    """Maps below this, after a CRF, are confident background (IRN)."""
    stride: int = 4
    """Pixels per cell of the walk's grid (IRN; PSA used 8)."""
    radius: int = 10
    """Cells; pairs nearer than this are learnt from (IRN; PSA 5)."""
    pairs: int = 48
    """Neighbours of each cell drawn anew every step, of the 150 within radius 10; 0: all (both papers, 3x the time)."""
    walk_radius: int = 5
    """Cells; the walker's longest step (both papers)."""
    beta: float = 10.0
    """Exponent of the affinities in the walk (IRN; PSA 8)."""
    steps: int = 256
    """Steps of the walk (both papers)."""
    sigma: float = 0.08
    """Of `--propagate colours` and `features`: colour difference (root mean square over channels, of 1) at which the
    affinity is 0.61; wider lets 256 steps wander across everything (docs/log.md; found on photos with truth)."""
    cosine: float = 3.0
    """Of `--propagate features`: exponent of the features' cosine beside the colours."""
    channels: int = 32
    """Width of each depth's features (IRN)."""
    learn_backbone: bool = False
    """Train the backbone too (PSA does); otherwise only the layers on top (IRN)."""

    def __post_init__(self) -> None:
        if not 0 < self.background < self.foreground < 1:  # false for NaN, as the other conditions are
            raise InputError(
                f"propagation.background {self.background} and propagation.foreground {self.foreground} must be "
                "0 < background < foreground < 1"
            )
        for name in ("stride", "radius", "walk_radius", "channels"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"propagation.{flag} is {getattr(self, name)}: it must be at least 1")
        if self.walk_radius > self.radius:
            raise InputError(
                f"propagation.walk-radius {self.walk_radius} is larger than propagation.radius {self.radius}: "
                "the walk would step where nothing was learnt"
            )
        if not (0 < self.sigma < math.inf and 0 <= self.cosine < math.inf):
            raise InputError(
                f"propagation.sigma {self.sigma} must be above 0 and propagation.cosine {self.cosine} at least 0"
            )
        if not (0 < self.beta < math.inf and self.steps >= 0 and self.pairs >= 0):
            raise InputError(
                f"propagation.beta {self.beta} must be above 0, propagation.steps {self.steps} and propagation.pairs "
                f"{self.pairs} at least 0"
            )
