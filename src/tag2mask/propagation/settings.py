"""How affinities are learnt, and how maps are propagated along them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tag2mask.errors import InputError
from tag2mask.settings import NOT_NEGATIVE, POSITIVE, WIDTH, ByFact, Range, check_values


@dataclass(frozen=True)
class PropagationSettings:
    """How affinities are learnt, and how maps are propagated along them."""

    foreground: Annotated[float, Range(above=0, below=1)] = 0.30
    """Maps above this, after a CRF, are confident foreground (IRN; a fixed number of the paper, not set here)."""
    background: Annotated[float, Range(above=0, below=1)] = 0.05
    """Maps below this, after a CRF, are confident background (IRN)."""
    stride: Annotated[int, Range(at_least=1, at_most=32)] = 4
    """Pixels per cell of the walk's grid (IRN; PSA used 8)."""
    radius: Annotated[int, Range(at_least=1, at_most=50)] = 10
    """Cells; pairs nearer than this are learnt from (IRN; PSA 5)."""
    pairs: Annotated[int, NOT_NEGATIVE] = 48
    """Neighbours of each cell drawn anew every step, of the 152 within radius 10; 0: all (both papers, 3x the time)."""
    walk_radius: Annotated[int, Range(at_least=1, at_most=50)] = 5
    """Cells; the walker's longest step (both papers)."""
    beta: Annotated[float, POSITIVE] = 10.0
    """Exponent of the affinities in the walk (IRN; PSA 8)."""
    steps: Annotated[int, Range(at_least=0, at_most=100_000)] = 256
    """Steps of the walk (both papers)."""
    sigma: Annotated[float, POSITIVE] = 0.08
    """Of `--propagate colours` and `features`: colour difference (root mean square over channels, of 1) at which the
    affinity is 0.61; wider lets 256 steps wander across everything (docs/log.md; chosen on photos with truth)."""
    cosine: Annotated[float, NOT_NEGATIVE] = 3.0
    """Of `--propagate features`: exponent of the features' cosine, with the colours."""
    token_cosine: Annotated[float, Range(above=0, at_most=1000)] = 8.0
    """Of `--propagate tokens`: exponent of the features' cosine (ours, not measured)."""
    blocks: Annotated[int, Range(at_least=1, at_most=100)] = 8
    """Of `--propagate attention`: last blocks whose attention is averaged (CLIP-ES)."""
    box: Annotated[float, Range(at_least=0, below=1)] = 0.4
    """Of `--propagate attention` and `tokens`: maps move out of the boxes around what is above this share of their
    maximum (CLIP-ES)."""
    backbone: str | None = None
    """Of `--propagate features`, `attention` and `tokens`: a network of its own, by its timm name; None: the one that
    made the maps."""
    weights: Annotated[str, ByFact("propagation weights", "none")] = "auto"
    """Of that network: auto, timm's from the hub; none: random; or a file."""
    channels: Annotated[int, WIDTH] = 32
    """Width of each depth's features (IRN)."""
    learn_backbone: bool = False
    """Train the backbone too (PSA does); otherwise only the layers on top (IRN)."""

    def __post_init__(self) -> None:
        check_values(self, "propagation")
        if self.background >= self.foreground:
            raise InputError(
                f"--propagation.background {self.background} must be below --propagation.foreground {self.foreground}"
            )
        if self.walk_radius > self.radius:
            raise InputError(
                f"--propagation.walk-radius {self.walk_radius} is larger than --propagation.radius {self.radius}: the "
                "walk would step where nothing was learnt"
            )
