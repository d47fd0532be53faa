r"""Class maps from what a photo has in common with reference photos of the class, by any method with class maps.

Idea (the multi-round inference of MCIS, Sun et al., ECCV 2020, with nothing trained for it). A photo's own class map
peaks on the most telling part of an object, and other photos of the class show other parts. So every cell :math:`p`
takes, from the reference photos :math:`r \in R_c` that are tagged c, the class scores of the cells that look like it:

.. math::
    M_c(p) = \frac{1}{|R_c|} \sum_{r \in R_c} \sum_{q \in r} a_r(p, q)\, v_r(q), \qquad
    a_r(p, q) = \operatorname{softmax}_{q \in r} \frac{\cos(f(p), f(q))}{\tau}, \qquad
    v_r(q) = \frac{\max(0, z_c(q))}{\max_{q' \in r} z_c(q')}

* :math:`f` -- features of a trained network, :math:`z_c` -- its score of class c at the same cell.

MCIS learns a matrix inside the cosine; the identity finds as much (docs/log.md). Ours: each reference's scores are
rectified and divided by their maximum. MCIS averages signed scores, so that one reference in which the classifier
misses a small object pulls the others below 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.layers.cross_attention import ClassReferences, attend_to_references, stack_references
from tag2mask.protocols import ClassMaps, Traits
from tag2mask.types import Batch, Reference

TEMPERATURE = 0.02  # of the cosine, MCIS's at the same backbone


class ComparedWithReferences(nn.Module):
    """A trained method with class maps, whose maps are those that references give it.

    A :class:`tag2mask.protocols.Localizes` that :class:`tag2mask.protocols.UsesReferences`.

    Args:
        method: in eval mode, a :class:`tag2mask.protocols.ClassMaps`.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        assert isinstance(method, ClassMaps), type(method)
        self.method = method
        self.references: dict[int, ClassReferences] = {}

    def features_and_scores(self, views: Batch | Reference) -> tuple[Tensor, Tensor]:
        """The method's, in float32; features of length one."""
        assert isinstance(self.method, ClassMaps)
        features, scores = self.method.features_and_scores(views)
        return F.normalize(features.float(), dim=1), scores.float()

    @torch.no_grad()
    def prepare_localization(self, references: Iterable[Reference]) -> None:
        """Keep features and scores of each reference, once for all photos to come."""
        shown: dict[int, list[tuple[dict[bool, Tensor], Tensor]]] = {}
        for reference in references:
            features, scores = self.features_and_scores(reference)
            keys = features[0].flatten(1) / TEMPERATURE
            for label in reference.classes:
                values = scores[0, label].flatten().relu()
                shown.setdefault(label, []).append(({False: keys}, values / (values.max() + 1e-5)))
        self.references = {label: stack_references(of_class) for label, of_class in shown.items()}

    def localize(self, batch: Batch) -> Tensor:
        """Maps in [0, 1] of the tagged classes ``[batch classes rows columns]``, each of which has a reference; of the
        others zero."""
        features, scores = self.features_and_scores(batch)
        out = torch.zeros_like(scores)
        with torch.autocast(scores.device.type, enabled=False):  # exponentials of sums over hundreds of channels
            for label in batch.labels.any(0).nonzero().flatten().tolist():
                rows, of_class = batch.labels[:, label] > 0, self.references[label]
                total = attend_to_references(
                    features[rows].flatten(2), of_class.keys[False], of_class.values, of_class.inside
                )
                out[rows, label] = (total / len(of_class.values)).unflatten(1, scores.shape[2:])
        return out


def compared_traits(traits: Traits, references: int) -> Traits:
    """Those of a method whose maps come from so many references of each class (0: its own). They are means of scores,
    no probabilities, and their background lies higher than that of a photo's own map: Otsu's threshold suits them."""
    if not references:
        return traits
    return replace(traits, references=references, maps="evidence", threshold_rule="otsu")
