"""Masks proposed by segment-anything networks: a part of a mask is exchanged for a proposal that agrees with it.

The networks were trained with masks of other photos, so whatever they refine comes of more than tags: the passport says
"I+M". They run through transformers (extra ``sam``) and are fetched from the hub when first used.

For each connected part of each label but the first, which is background, the network is shown the photo, the part's box
and its map (as SAM's authors feed masks back), and proposes some masks. The one that overlaps the part most is taken if
that is enough (intersection over union); otherwise the part stays as it is: proposals sharpen borders and never decide
what is where.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask import compute
from tag2mask.errors import InputError
from tag2mask.hub import cached_digest
from tag2mask.refine.components import Box, components
from tag2mask.types import Normalisation

log = logging.getLogger("tag2mask")

INSTALL = "pip install 'tag2mask[sam]'"
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CERTAIN = 10.0  # logit of a map's certain cells, as prompts have them
PARTS = 30  # at most so many of a label are proposed for, the largest


@dataclass(frozen=True)
class SamModel:
    """A network by name."""

    classes: str
    """Of transformers."""
    hub: str
    title: str
    licence: str = "Apache-2.0"
    terms: str = ""
    """What its licence asks, where that is not open source."""
    normalisation: Normalisation = IMAGENET

    @property
    def line(self) -> str:
        """Which network it is, for people."""
        return f"{self.title} ({self.licence})"

    @property
    def digest(self) -> str | None:
        """Of its weights, as of :func:`tag2mask.hub.cached_digest`."""
        return cached_digest(self.hub)


MODELS: dict[str, SamModel] = {
    "sam2": SamModel("Sam2Model", "facebook/sam2.1-hiera-small", "SAM 2.1, small"),
    "sam2/tiny": SamModel("Sam2Model", "facebook/sam2.1-hiera-tiny", "SAM 2.1, tiny"),
    "sam2/large": SamModel("Sam2Model", "facebook/sam2.1-hiera-large", "SAM 2.1, large"),
    "edgetam": SamModel("EdgeTamModel", "yonigozlan/EdgeTAM-hf", "EdgeTAM, for small machines"),
    "sam3": SamModel(
        "Sam3TrackerModel",
        "facebook/sam3",
        "SAM 3",
        "Meta's SAM License: see its terms",
        "SAM 3 is under Meta's SAM License, which is no open-source licence and must be accepted on its page "
        "(https://huggingface.co/facebook/sam3) before it can be fetched",
        HALF,
    ),
}


class Proposer:
    """A segment-anything network.

    Args:
        network: a ``Sam2Model`` of transformers or one with its interface, in eval mode.
        normalisation: of the photos that it was trained with.
    """

    def __init__(self, network: Any, normalisation: Normalisation = IMAGENET) -> None:
        self.network, self.normalisation = network, normalisation
        self.side = int(network.config.prompt_encoder_config.image_size)
        self._one_at_a_time = threading.Lock()  # it fills the device by itself

    def propose(
        self,
        image: np.ndarray,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        mask_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks for each prompt. Prompts of several kinds go together, row by row.

        Args:
            image: ``[height width 3]`` uint8 RGB.
            boxes: ``[prompts 4]``: left, top, right, bottom in pixels.
            points: ``[prompts points 2]``: x, y in pixels, of the object.
            mask_logits: ``[prompts height width]``, of any size: a map of what is meant, above 0 inside.

        Returns:
            Logits ``[prompts proposals height width]`` and the network's own scores ``[prompts proposals]``, float32.
        """
        given = [prompt for prompt in (boxes, points, mask_logits) if prompt is not None]
        assert given and len({len(prompt) for prompt in given}) == 1, "as many prompts of each kind, at least one"
        height, width = image.shape[:2]
        scale = torch.tensor([self.side / width, self.side / height])
        with self._one_at_a_time, torch.inference_mode():
            seen = self._embedded(image)
            rows = []
            for row in range(len(given[0])):
                prompts = {
                    "input_boxes": None if boxes is None else (boxes[row].float() * scale.repeat(2))[None, None],
                    "input_points": None if points is None else (points[row].float() * scale)[None, None],
                    "input_masks": None if mask_logits is None else mask_logits[row].float()[None, None],
                }
                moved = {name: prompt.to(self._device) for name, prompt in prompts.items() if prompt is not None}
                rows.append(self.network(image_embeddings=list(seen), multimask_output=True, **moved))
        masks = torch.cat([row.pred_masks[0] for row in rows]).float().cpu()
        scores = torch.cat([row.iou_scores[0] for row in rows]).float().cpu()
        return F.interpolate(masks, (height, width), mode="bilinear", align_corners=False), scores

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _embedded(self, image: np.ndarray) -> list[Tensor]:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        pixels = F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in self.normalisation)
        normalised = ((pixels - mean) / deviation).to(self._device)
        return self.network.get_image_embeddings(normalised)


@dataclass(frozen=True)
class ProposalRefiner:
    """A refiner (:class:`tag2mask.protocols.Refiner`) that exchanges parts for proposals; label 0 is background."""

    name: str
    """Of :data:`MODELS`."""
    agreement: float = 0.5
    """Intersection over union from which a proposal is taken."""
    smallest: float = 0.0005
    """Share of the photo below which a part is left as it is."""

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """As of the protocol."""
        proposer = loaded(self.name)
        pairs = zip(images.permute(0, 2, 3, 1).cpu().numpy(), scores.float().cpu(), strict=True)
        return torch.stack([self.of_photo(proposer, image, of_photo) for image, of_photo in pairs]).to(scores.device)

    def of_photo(self, proposer: Proposer, image: np.ndarray, scores: Tensor) -> Tensor:
        """Probabilities ``[labels height width]`` of one photo ``[height width 3]`` uint8, background first."""
        best = scores.argmax(0).numpy()
        parts = [
            (label, part, box)
            for label in range(1, len(scores))
            for part, box in _largest(best == label, self.smallest)
        ]  # fmt: skip
        if not parts:
            return scores.clone()
        boxes = torch.tensor([(left, top, right - 1, bottom - 1) for _, _, (top, left, bottom, right) in parts])
        maps = torch.stack([_map_of(scores[label], box, proposer.side // 4) for label, _, box in parts])
        logits, _ = proposer.propose(np.ascontiguousarray(image), boxes=boxes, mask_logits=maps)
        taken = []
        for (label, part, _), proposals in zip(parts, logits, strict=True):
            agreement, at = overlap(torch.from_numpy(part), proposals > 0).max(0)
            if agreement >= self.agreement:
                taken.append((float(agreement), label, torch.from_numpy(part), proposals[int(at)].sigmoid()))
        refined = scores.clone()
        for _, label, part, proposal in sorted(taken, key=lambda one: one[0]):  # what agrees most has the last word
            refined = exchanged(refined, label, part, proposal)
        return refined


def overlap(part: Tensor, proposals: Tensor) -> Tensor:
    """Intersection over union of ``[height width]`` bool with each of ``[proposals height width]`` bool."""
    both, either = (part & proposals).sum((1, 2)), (part | proposals).sum((1, 2))
    return both / either.clamp(min=1)


def exchanged(scores: Tensor, label: int, part: Tensor, proposal: Tensor) -> Tensor:
    """Probabilities ``[labels height width]`` in which ``label`` has those of the proposal, on the part and where the
    proposal says it is; the other labels share the rest as before, or leave it to background."""
    here = part | (proposal > 0.5)
    others = scores.clone()
    others[label] = 0
    total = others.sum(0)
    nothing = total < 1e-6
    others = others / total.clamp(min=1e-6)
    others[0] = torch.where(nothing, 1.0, others[0])
    others[1:] = torch.where(nothing, 0.0, others[1:])
    mixed = others * (1 - proposal)
    mixed[label] = proposal
    return torch.where(here, mixed, scores)


def _largest(mask: np.ndarray, smallest: float) -> list[tuple[np.ndarray, Box]]:
    labels, boxes = components(mask)
    parts = [(labels == number, box) for number, box in enumerate(boxes, 1)]
    parts = [(part, box) for part, box in parts if part.sum() >= max(1.0, smallest * mask.size)]
    return sorted(parts, key=lambda one: -int(one[0].sum()))[:PARTS]


def _map_of(scores: Tensor, box: Box, side: int) -> Tensor:
    """The logits of a label's probabilities ``[height width]`` within a box, ``[side side]``; outside certainly not."""
    logits = torch.full_like(scores, -CERTAIN)
    top, left, bottom, right = box
    logits[top:bottom, left:right] = scores[top:bottom, left:right].logit(1e-6).clamp(-CERTAIN, CERTAIN)
    return F.interpolate(logits[None, None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def check_installed(name: str) -> None:
    """Raises :class:`~tag2mask.errors.InputError` where the extra is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"--refine {name} needs the package transformers, which is not installed: {INSTALL}")


@functools.cache
def loaded(name: str) -> Proposer:
    """The network of a name of :data:`MODELS`, fetched once and kept.

    Raises:
        InputError: the extra is not installed, it is too old, or the weights cannot be had.
    """
    check_installed(name)
    import transformers

    model = MODELS[name]
    if model.terms:
        log.warning("%s", model.terms)
    if not hasattr(transformers, model.classes):
        raise InputError(
            f"--refine {name} needs {model.classes}, which transformers {transformers.__version__} has not: "
            f"{INSTALL} --upgrade"
        )
    try:
        network = getattr(transformers, model.classes).from_pretrained(model.hub)
    except Exception as error:  # of the hub, of files: many types
        raise InputError(
            f"the weights of --refine {name} cannot be had ({type(error).__name__}): check the network or "
            f"HF_HUB_OFFLINE; or fetch {model.hub} where there is one (`hf download {model.hub}`) and copy its cache "
            "to HF_HOME here; or give --refine crf"
        ) from error
    return Proposer(network.to(compute.device()).eval(), model.normalisation)
