"""What a dense CRF does, and the parameter sets of the published codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tag2mask.errors import InputError, unknown


@dataclass(frozen=True)
class CrfSettings:
    """What a dense CRF does. The defaults are AffinityNet's (PSA), meant for class activation maps."""

    iterations: int = 10  # mean field has settled by then; every code of the lineage uses 10
    gaussian_sxy: float = 3.0  # pixels; width of the smoothness kernel, which removes specks
    gaussian_compat: float = 3.0  # its strength; 0 leaves the kernel out
    bilateral_sxy: float = 80.0  # pixels; how far pixels of one colour see each other: about an object's size
    bilateral_srgb: float = 13.0  # grey levels; colours closer than this count as one. Small: clings to each edge
    bilateral_compat: float = 10.0  # its strength; 0 leaves the kernel out
    floor: float = 1e-5  # lowest probability of a label in the unary: a zero must stay possible (pydensecrf's clip)

    def __post_init__(self) -> None:
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise InputError(f"dense CRF: iterations is {self.iterations}; give a whole number of at least 0")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"dense CRF: {name} is {getattr(self, name)}; give a width above 0")
        for name in ("gaussian_compat", "bilateral_compat"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"dense CRF: {name} is {getattr(self, name)}; give a strength of at least 0")
        if not 0 < self.floor < 1:
            raise InputError(f"dense CRF: floor is {self.floor}; give a probability between 0 and 1")


# The parameter sets of the published codes, all with 10 iterations.
PRESETS: dict[str, CrfSettings] = {
    # AffinityNet (PSA), SEAM, EPS on class activation maps, with a background score (1 - max)^alpha
    "psa": CrfSettings(),
    # IRN, SMAF: made for hard labels with gt_prob 0.7
    "irn": CrfSettings(bilateral_sxy=50.0, bilateral_srgb=5.0),
    # DeepLab-v2's PyTorch codes, ViT-PCM, EPS: on a segmenter's softmax
    "deeplab": CrfSettings(gaussian_sxy=1.0, bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0),
    # ToCo: on its segmenter's softmax, and on its maps
    "toco-seg": CrfSettings(
        gaussian_sxy=1.0, gaussian_compat=1.0, bilateral_sxy=121.0, bilateral_srgb=5.0, bilateral_compat=4.0
    ),
    "toco-cam": CrfSettings(bilateral_sxy=36.0, bilateral_srgb=3.0, bilateral_compat=4.0),
    # AFA: on its segmenter's softmax
    "afa": CrfSettings(bilateral_sxy=64.0, bilateral_srgb=5.0, bilateral_compat=4.0),
}


def preset_settings(name: str) -> CrfSettings:
    """The settings a name of :data:`PRESETS` stands for; :class:`InputError` on any other name."""
    if name not in PRESETS:
        raise unknown("CRF preset", name, PRESETS)
    return PRESETS[name]
