"""A refiner of one's own: scores follow the edges of the photo as a guided filter sees them.

    python examples/refiner.py photos run

He, Sun and Tang (ECCV 2010): in every window of side 2r + 1 the scores are taken as a line of the brightness,
:math:`q = a I + b` with :math:`a = \\mathrm{cov}(I, p) / (\\mathrm{var}(I) + \\epsilon)`; every pixel gets the mean of
the lines of the windows it lies in. Means over windows are box filters, so the cost does not grow with r.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import tag2mask
from tag2mask.recipes import RunSettings
from tag2mask.refine import REFINERS, Entry


@dataclass(frozen=True)
class GuidedFilter:
    """Keeps :class:`tag2mask.protocols.Refiner`; ``check_refiner`` says what that means."""

    radius: int = 8
    """r, in pixels."""
    smoothness: float = 1e-3
    """epsilon, of brightness in [0, 1]: edges of less contrast than its root are smoothed over."""

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB and probabilities ``[batch labels height width]`` to probabilities."""
        guide = images.to(scores.device, torch.float32).mean(1, keepdim=True) / 255
        mean_guide, mean_scores = self._mean(guide), self._mean(scores.float())
        variance = (self._mean(guide.square()) - mean_guide.square()).clamp(min=0)
        slope = (self._mean(guide * scores) - mean_guide * mean_scores) / (variance + self.smoothness)
        offset = mean_scores - slope * mean_guide
        filtered = (self._mean(slope) * guide + self._mean(offset)).clamp(0, 1)
        return filtered / filtered.sum(1, keepdim=True).clamp(min=torch.finfo(filtered.dtype).tiny)

    def _mean(self, x: Tensor) -> Tensor:
        """Over the window of every pixel, without what lies outside of the photo."""
        return F.avg_pool2d(x, 2 * self.radius + 1, stride=1, padding=self.radius, count_include_pad=False)


REFINERS["guided"] = Entry(GuidedFilter, "guided filter on the brightness (He et al., ECCV 2010)")


def main(photos: str, out: str, settings: RunSettings | None = None) -> Path:
    """Label the photos with it; gives the folder of the masks."""
    tag2mask.label(photos, out=out, settings=replace(settings or RunSettings(), refine="guided"))
    return Path(out) / "masks"


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
