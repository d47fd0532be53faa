r"""Class maps from what a photo has in common with reference photos of the class, by any method with class maps.

Idea (the multi-round inference of MCIS, Sun et al., ECCV 2020, with nothing trained for it). A photo's own class map
peaks on the most telling part of an object, and other photos of the class show other parts. So every cell :math:`p`
takes, from the reference photos :math:`r \in R_c` that are tagged c, the class scores of the cells that look like it:

.. math::
    M_c(p) = \frac{1}{|R_c|} \sum_{r \in R_c} \sum_{q \in r} a_r(p, q)\, v_r(q), \qquad
    a_r(p, q) = \operatorname{softmax}_{q \in r} \frac{\cos(f(p), f(q))}{\tau}, \qquad
    v_r(q) = \frac{\max(0, z_c(q))}{\max_{q' \in r} z_c(q')}

* :math:`f` -- features of a trained network, :math:`z_c` -- its score of class c at the same cell.

The cosines of p with a reference are computed less their mean, which no softmax over q sees: what is left is small
enough for the products of a network that runs in bfloat16.

MCIS learns a matrix inside the cosine; the identity finds as much (docs/log.md). Ours: each reference's scores are
rectified and divided by their maximum. MCIS averages signed scores, so that one reference in which the classifier
misses a small object pulls the others below 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.layers.cross_attention import ClassReferences, attend_to_references, stack_references
from tag2mask.layers.fine_maps import POWER, SMALL_PART, fine_maps, part, sharpened, watched
from tag2mask.protocols import ClassMaps, Traits
from tag2mask.types import Batch, Reference

TEMPERATURE = 0.02  # of the cosine, MCIS's at the same backbone


class ComparedWithReferences(nn.Module):
    """A trained method with class maps, whose maps are those that references give it.

    A :class:`tag2mask.protocols.Localizes` that :class:`tag2mask.protocols.UsesReferences`.

    Args:
        method: in eval mode, a :class:`tag2mask.protocols.ClassMaps`; its weights learn no more.
        finer: a block of its backbone by which maps become finer (:mod:`tag2mask.layers.fine_maps`); None: they do not.
    """

    def __init__(self, method: nn.Module, finer: nn.Module | None = None) -> None:
        super().__init__()
        assert isinstance(method, ClassMaps), type(method)
        self.method, self.finer = method.requires_grad_(False), finer  # nothing learns: half the time of fine maps
        self.references: dict[int, ClassReferences] = {}
        self.small: tuple[int, ...] = ()  # classes whose objects are smaller than a cell

    def features_and_scores(self, views: Batch | Reference) -> tuple[Tensor, Tensor]:
        """The method's, in float32; features of length one."""
        assert isinstance(self.method, ClassMaps)
        features, scores = self.method.features_and_scores(views)
        return F.normalize(features.float(), dim=1), scores.float()

    def with_fine_maps(self, views: Batch | Reference, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features and scores; and the finer block's maps of the classes in ``labels`` (``[batch classes]`` multi-hot),
        ``[batch classes rows columns]`` on its grid, of the others zero. None where there is no finer block, or it has
        no output: stored features begin above it."""
        if self.finer is None:
            return *self.features_and_scores(views), None
        with watched(self.finer) as outputs:
            features, scores = self.features_and_scores(views)
            if not outputs:
                return features.detach(), scores.detach(), None
            # cells of padding see what is not there: they neither ask for evidence nor give any
            inside, inside_fine = (_inside(views.valid, grid) for grid in (scores, outputs[0]))
            fine = fine_maps(scores * inside, outputs[0], labels) * inside_fine
        return features.detach(), scores.detach(), fine

    @torch.no_grad()
    def prepare_localization(self, references: Iterable[Reference]) -> None:
        """Keep features and scores of each reference, once for all photos to come; see which classes are small."""
        shown: dict[int, list[tuple[dict[bool, Tensor], Tensor]]] = {}
        parts: dict[int, list[float]] = {}
        for reference in references:
            features, scores, fine = self.with_fine_maps(reference, _multi_hot(reference))
            keys = features[0].flatten(1) / TEMPERATURE
            keys = (keys - keys.mean(1, keepdim=True)).to(compute.autocast_dtype(keys.device))
            for label in reference.classes:
                values = scores[0, label].flatten().relu()
                shown.setdefault(label, []).append(({False: keys}, values / (values.max() + 1e-5)))
                if fine is not None and (share := part(scores[:, label].relu(), fine[:, label])) is not None:
                    parts.setdefault(label, []).append(share)
        self.references = {label: stack_references(of_class) for label, of_class in shown.items()}
        self.small = tuple(sorted(label for label, shares in parts.items() if median(shares) <= SMALL_PART))

    def localize(self, batch: Batch) -> Tensor:
        """Maps in [0, 1] of the tagged classes ``[batch classes rows columns]``, each of which has a reference; of the
        others zero. Where there is a finer block, they are on its grid."""
        features, scores, fine = self.with_fine_maps(batch, batch.labels)
        maps = self._compared(features, scores, batch.labels)
        if fine is None:
            return maps
        powers = torch.full((maps.shape[1], 1, 1), POWER)
        powers[list(self.small)] = 1.0
        grown = F.interpolate(maps, fine.shape[2:], mode="bilinear", align_corners=False)
        return sharpened(grown, fine, powers.to(maps.device, non_blocking=True))

    def _compared(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        out = torch.zeros_like(scores)
        with torch.autocast(scores.device.type, enabled=False):  # exponentials of sums over hundreds of channels
            shown = labels.cpu() > 0  # once: every question to a device waits for it
            for label in shown.any(0).nonzero().flatten().tolist():
                rows, of_class = shown[:, label].nonzero().flatten(), self.references[label]
                total = attend_to_references(
                    features[rows].flatten(2), of_class.keys[False], of_class.values, of_class.inside
                )
                out[rows, label] = (total / len(of_class.values)).unflatten(1, scores.shape[2:])
        return out


def _inside(valid: Tensor | None, grid: Tensor) -> Tensor | float:
    """``[batch 1 rows columns]``: how much of each cell of a grid is of the photo and no padding."""
    if valid is None or (valid.is_cpu and bool(valid.all())):
        return 1.0
    return F.adaptive_avg_pool2d(valid[:, None].float(), (grid.shape[2], grid.shape[3]))


def _multi_hot(reference: Reference) -> Tensor:
    """``[1 classes]`` up to the last of the classes that it stands for."""
    labels = torch.zeros(1, 1 + max(reference.classes))
    labels[0, list(reference.classes)] = 1
    return labels


def compared_traits(traits: Traits, references: int) -> Traits:
    """Those of a method whose maps come from so many references of each class (0: its own). They are means of scores,
    no probabilities, and what surrounds objects lies between them and the background, so a threshold between Otsu's for
    two and three groups suits them, of each class."""
    if not references:
        return traits
    return replace(traits, references=references, maps="evidence", threshold_rule="features")
