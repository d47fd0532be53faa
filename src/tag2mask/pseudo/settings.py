r"""How localization maps become pseudo masks: background, refinement, decision, ignore regions.

Background. Maps score foreground only; something must stand for "none of these". With :math:`m(p)` the largest class
score at pixel :math:`p`:

* ``constant``: :math:`b(p) = t` (IRN, SEAM);
* ``power``: :math:`b(p) = (1 - m(p))^\alpha` (PSA), softer, so a refiner has something to move. :math:`\alpha` is set
  through the score :math:`t` at which foreground and background are equal: :math:`\alpha = \ln t / \ln(1 - t)`;
* ``saliency``: :math:`b(p) = 1 - s(p)` from a class-agnostic saliency map.

Or masks come from maps and saliency by fixed thresholds instead, without refinement (``saliency-rule``, that of OAA and
MCIS; :mod:`tag2mask.pseudo.saliency`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tag2mask.errors import InputError

SALIENCY = ("saliency", "saliency-rule")  # backgrounds that need saliency maps


@dataclass(frozen=True)
class SaliencyRule:
    """Thresholds of the rule of OAA (Jiang et al., ICCV 2019), at the values of MCIS's released code."""

    foreground: float = 0.3
    """Classes and background below it do not count."""
    conflict: float = 0.99
    """Where two of them, the background one of them, lie above it, nobody knows (OAA: 0.9)."""
    attention: float = 0.95
    """A class above it makes a pixel stand out as if it were salient (OAA: 0.8)."""
    salient: int = 32
    """Saliency of 255 from which on a pixel that no class claims is unknown rather than background."""
    minimum: float = 0.01
    """A mask with a smaller share of foreground is unknown altogether."""

    def __post_init__(self) -> None:
        for name in ("foreground", "conflict", "attention", "minimum"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"pseudo.saliency-rule.{name} is {getattr(self, name)}: it must lie in [0, 1]")


@dataclass(frozen=True)
class PseudoSettings:
    """How scores become masks. Nothing here is set on ground truth."""

    background: Literal["power", "constant", "saliency", "saliency-rule"] = "power"
    threshold: float | None = None
    """Score in (0, 1) at which a class beats the background. None: by `rule`, from the maps."""
    rule: Literal["auto", "between", "otsu", "li"] = "auto"
    """What sets the threshold, from the maps alone: Otsu's threshold, Li's, or their geometric mean (between). auto: by
    the method's own background, if it scores one; by the rule the method names for its maps (mcis: otsu); else
    between."""
    margin: float = 0.0
    """Pixels whose two best refined probabilities differ by less become "do not care" (255)."""
    saliency_rule: SaliencyRule = SaliencyRule()
    """Of `--background saliency-rule`, which has no use for the threshold, its rule and the margin."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold} must lie between 0 and 1")
        if not 0 <= self.margin < 1:
            raise InputError(f"margin {self.margin} must lie in [0, 1)")
