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
from typing import Annotated, Literal

from tag2mask.errors import InputError
from tag2mask.settings import NOT_NEGATIVE, SHARE, Range, check_values

SALIENCY = ("saliency", "saliency-rule")  # backgrounds that need saliency maps


@dataclass(frozen=True)
class SaliencyRule:
    """Thresholds of the rule of OAA (Jiang et al., ICCV 2019), at the values of MCIS's released code."""

    foreground: Annotated[float, SHARE] = 0.3
    """Classes and background below it do not count."""
    conflict: Annotated[float, SHARE] = 0.99
    """Where two of them, the background one of them, lie above it, nobody knows (OAA: 0.9)."""
    attention: Annotated[float, SHARE] = 0.95
    """A class above it makes a pixel stand out as if it were salient (OAA: 0.8)."""
    salient: Annotated[int, Range(at_least=0, at_most=255)] = 32
    """Saliency of 255 from which on a pixel that no class claims is unknown rather than background."""
    minimum: Annotated[float, SHARE] = 0.01
    """A mask with a smaller share of foreground is unknown altogether."""

    def __post_init__(self) -> None:
        check_values(self, "pseudo.saliency-rule")


@dataclass(frozen=True)
class PseudoSettings:
    """How scores become masks. No mask of the data is looked at; which rule and limits are the defaults was chosen on
    true masks of our test sets, and a run's passport says so."""

    background: Literal["power", "constant", "saliency", "saliency-rule"] = "power"
    """What stands for background: power or constant (from the maps), saliency maps, or a fixed rule on these."""
    threshold: Annotated[float | None, Range(at_least=0.001, at_most=0.999)] = None
    """Score in (0, 1) at which a class beats the background. None: by `rule`, from the maps."""
    rule: Literal["auto", "between", "otsu", "otsu3", "otsu23", "otsu23-by-class", "features", "li"] = "auto"
    """What sets the threshold, without truth: of the maps Otsu's threshold, the upper one of his for three groups
    (otsu3), the geometric mean of both (otsu23), that of each class (otsu23-by-class), Li's, or the geometric mean of
    Otsu's and Li's (between); of maps and photos, for each class the score between otsu and otsu3 that best separates
    the photos' features, or half-way (geometric mean) from otsu to a lower one that does (features). auto: by the
    method's own background, if it scores one; by the rule named for its maps (mcis: otsu; maps from references:
    features); else between."""
    margin: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Pixels whose two best refined probabilities differ by less become "do not care" (255)."""
    max_growth: Annotated[float, NOT_NEGATIVE] = 0.0
    """A refined mask whose objects cover more than so many times the area of the unrefined mask's is not believed, and
    the photo keeps the unrefined one. 0: always believed."""
    min_growth: Annotated[float, SHARE] = 0.0
    """The same of one whose objects cover less than so many times that area: they were too small or thin to survive."""
    saliency_rule: SaliencyRule = SaliencyRule()
    """Of `--background saliency-rule`, which has no use for the threshold, its rule and the margin."""

    def __post_init__(self) -> None:
        check_values(self, "pseudo")
        if 0 < self.max_growth < 1:
            raise InputError(f"--pseudo.max-growth is {self.max_growth:g}: give a factor of at least 1, or 0")
