r"""SMAF: self-training on reactivated attention maps (Yang, Zhu, Zhang, ICME 2023, arXiv 2305.05841).

Idea. The fused maps of a trained network see more of an object than any single view of it, but weakly. Lift in every
cell the strongest class to certainty and teach a student to give exactly that from one view: what eight views
showed together becomes what one view shows, and its own eight views show more.

.. math::
    T_c(p) = y_c A_c(p), \quad T_{\mathrm{bg}}(p) = b, \qquad
    R(p) = \frac{T(p)}{\max_{c, \mathrm{bg}} T(p)}, \qquad
    L = \frac{100}{|\Omega| (C+1)} \sum_{p, c} \bigl(Q_c(p) - R_c(p)\bigr)^2

* :math:`A_c` -- the teacher's fused map of class :math:`c`, in [0, 1], under the geometry of the student's view, with a
  cell for every 4 pixels; :math:`y` -- the tags; :math:`b` -- the constant background, 0.2 in the paper.
* :math:`R` -- the *reactivated* target: the winner of every cell has exactly 1, the others keep their ratio to it, so R
  does not sum to one; where no class reaches b, background has 1 and the classes are amplified by 1/b.
* :math:`Q` -- softmax over the C + 1 scores of the student, brought to the grid of A before the softmax.

The paper starts from EPS (:mod:`tag2mask.methods.eps`; its page also has the fusion that makes A) and names the whole
pipeline SMAF; the recipe ``smaf`` is that. Nothing in the formulas asks for EPS, so ``--self-train smaf`` goes on top
of any method's maps, with any backbone, with or without saliency. The student is then a
:class:`~tag2mask.methods.eps.ClassMapNet` on the method's trained backbone: EPS goes on with its own head, every other
method's student gets a new linear one.

As published: the teacher is the first network, its maps made once and stored; one round; no classification or saliency
loss; padding of a view counts as background (b alone stands there, so R says background); no colour jitter.

What the published code only hints at, each a setting, off by default:

* ``rounds``: the student's maps teach the next student (the *iterated* teacher).
* ``teacher = "ema"``: an exponential moving average of the student sees the same view, and its map moves in place
  of the stored one as training goes on. A view may not show the object at all, so the average's map is scaled, class by
  class, to the maximum that the stored map has in this view: the stored map says how much of the class is there, the
  average where.
* ``denoise``: ``saliency`` sets A to 0 where the photo's saliency is 0.5 or less; ``prototype`` multiplies it by
  :math:`\max(0, \cos(f(p), v_c))`, f the student's features and :math:`v_c` their running mean over the cells that
  class c wins. The tags always gate: maps of untagged classes are not even stored.
* ``classification``: weight of the tags' multi-label loss on the student's mean scores.

What is ours: the ratios in R are raised to the power ``sharpness``; b is found on the maps by the label-free rule of
``pseudo.py`` unless it is given or saliency denoises (0.2 goes with EPS, where background is taught; other methods'
maps have other levels); prototypes are first a plain mean and only later move at the published rate of 1e-4, since the
file the code starts from was not released. The recipe ``smaf`` has 1 and 0.2, as published.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.methods.eps import ClassMapNet, Eps
from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, POSITIVE, SHARE, Range, check_values
from tag2mask.types import Batch, Losses, masked_mean

Denoiser = Literal["prototype", "saliency"]
BACKGROUND_SCORE = 0.2  # b of the paper
PROTOTYPE_RATE = 1e-4  # of the published code, once more than 10,000 photos have shown the class
PROTOTYPE_CELLS = 10  # fewer say little about a class (published)


@dataclass(frozen=True)
class SelfTrainSettings:
    """How a method's maps teach a student. The numbers are the paper's unless said otherwise."""

    name: Literal["none", "smaf"] = "none"
    """smaf: train students on the maps. none: the method's maps are the last."""
    rounds: Annotated[int, Range(at_least=1, at_most=100)] = 1
    """Students, each taught by the maps of the one before (the paper has one)."""
    background: Annotated[float | None, Range(above=0, below=1)] = None
    """Constant score of background in the targets. None: the paper's 0.2 where saliency denoises, since it then says
    what is background; otherwise found on the maps without truth."""
    weight: Annotated[float, POSITIVE] = 100.0
    """Of the squared error."""
    denoise: tuple[Denoiser, ...] = ()
    """What cleans the maps in addition to the tags: prototype, saliency."""
    teacher: Literal["static", "ema"] = "static"
    """static: the stored maps. ema: they give way to an average of the student."""
    decay: Annotated[float, Range(at_least=0, below=1)] = 0.999
    """Of that average, at each step."""
    sharpness: Annotated[float | None, POSITIVE] = None
    """Exponent of the ratios in the targets. None: 1, the paper's, where saliency denoises, otherwise 4 (chosen on
    truth, docs/log.md). The paper's b of 0.2 leaves background far behind wherever a class wins; with the larger b of
    other maps it stays close, the student's softmax hangs in the middle and objects fade: a larger exponent tells them
    apart."""
    padding: Literal["background", "left-out"] = "background"
    """What a view's padding is taught as."""
    classification: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the tags' loss."""
    jitter: Annotated[float, SHARE] = 0.0
    """Strength of random brightness, contrast and saturation on the student's views; their hue stays."""
    stride: Annotated[int, Range(at_least=1, at_most=32)] = 4
    """Pixels per cell of the targets."""

    def __post_init__(self) -> None:
        check_values(self, "self-train")
        if len(set(self.denoise)) < len(self.denoise):
            raise InputError(f"--self-train.denoise {','.join(self.denoise)} names one twice: name each once")

    @property
    def constant(self) -> float | None:
        """b, or None where it is to be found on the maps."""
        if self.background is None and "saliency" in self.denoise:
            return BACKGROUND_SCORE
        return self.background

    @property
    def exponent(self) -> float:
        """What `sharpness` comes to."""
        if self.sharpness is not None:
            return self.sharpness
        return 1.0 if "saliency" in self.denoise else 4.0

    @property
    def maps_traits(self) -> Traits:
        """Of a student's maps. What saliency missed was taught as background, so a student so taught says too much of
        it."""
        return Traits(maps="evidence" if "saliency" in self.denoise else "probabilities")

    @property
    def students(self) -> int:
        """How many there are: 0 without self-training."""
        return 0 if self.name == "none" else self.rounds


def student_of(method: nn.Module, backbone: Backbone, classes: int) -> ClassMapNet:
    """The network that learns from ``method``'s maps, on its trained ``backbone``: EPS and a student keep their head,
    every other method gets a new one."""
    if not isinstance(method, ClassMapNet):
        return ClassMapNet(backbone, classes)
    if not isinstance(method, Eps):
        return method
    student = ClassMapNet(backbone, classes, method.form, method.head.width)
    student.head = method.head
    return student


def reactivated(maps: Tensor, labels: Tensor, background: float, sharpness: float = 1.0) -> Tensor:
    """:math:`R`, background last: ``[batch classes+1 rows columns]``, the largest of every cell exactly 1.

    Args:
        maps: :math:`A`, ``[batch classes rows columns]`` in [0, 1].
        labels: ``[batch classes]`` multi-hot; maps of other classes are set to 0.
        background: the constant, in (0, 1).
        sharpness: exponent of the ratios, see :attr:`SelfTrainSettings.sharpness`.
    """
    gated = maps * labels[:, :, None, None]
    scores = torch.cat([gated, torch.full_like(gated[:, :1], background)], 1)
    return (scores / scores.amax(1, keepdim=True)) ** sharpness


def map_loss(logits: Tensor, target: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean squared error of the softmax of ``logits`` ``[batch classes+1 rows columns]`` (any grid) to ``target``.

    Args:
        inside: ``[batch rows columns]`` weight of the target's cells; None: all alike.
    """
    grown = F.interpolate(logits, target.shape[2:], mode="bilinear", align_corners=True)
    error = ((grown.softmax(1) - target) ** 2).mean(1)
    return error.mean() if inside is None else processes.ratio((inside * error).sum(), inside.sum(), 1e-6)


class Student(nn.Module):
    """Trains ``network`` on batches with maps.

    Args:
        network: what is kept in the end.
        settings: see :class:`SelfTrainSettings`.
        background: the constant :math:`b`, given or found.
    """

    prototypes: Tensor  # [labels-1 channels]
    shown: Tensor  # photos each prototype is the mean of

    def __init__(self, network: ClassMapNet, settings: SelfTrainSettings, background: float) -> None:
        super().__init__()
        self.network, self.settings, self.background = network, settings, background
        self.average: ClassMapNet | None = None
        if settings.teacher == "ema":
            self.average = copy.deepcopy(network).requires_grad_(False)
        if "prototype" in settings.denoise:
            labels, width = network.head.fc8.out_channels, network.head.width
            self.register_buffer("prototypes", torch.zeros(labels - 1, width))
            self.register_buffer("shown", torch.zeros(labels - 1))

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def losses(self, batch: Batch, progress: float) -> Losses:
        assert batch.maps is not None, "a student learns from maps"
        s = self.settings
        features, logits = self.network.features_and_logits(batch)
        with torch.no_grad():
            maps = batch.maps * batch.labels[:, :, None, None]
            if self.average is not None:
                maps = self._moving(maps, batch, progress)
            maps = self._denoised(maps, features.float(), batch)
            target = reactivated(maps, batch.labels, self.background, s.exponent)
        grid = (target.shape[2], target.shape[3])
        inside = None
        if s.padding == "left-out":
            inside = F.adaptive_avg_pool2d(batch.valid[:, None].float(), grid)[:, 0]
        terms = {"maps": s.weight * map_loss(logits, target, inside)}
        if s.classification > 0:
            scores = masked_mean(logits[:, :-1], batch.valid)
            terms["classification"] = s.classification * F.multilabel_soft_margin_loss(scores, batch.labels)
        return Losses(terms)

    def _moving(self, maps: Tensor, batch: Batch, progress: float) -> Tensor:
        """Maps that go from the stored ones to the average's as ``progress`` goes from 0 to 1."""
        assert self.average is not None
        follow(self.average, self.network, self.settings.decay)
        logits = self.average.logits(batch)
        grown = F.interpolate(logits, maps.shape[2:], mode="bilinear", align_corners=True)
        moving = grown.softmax(1)[:, :-1] * batch.labels[:, :, None, None]
        top = maps.amax((2, 3), keepdim=True)
        moving = moving * (top / moving.amax((2, 3), keepdim=True).clamp(min=1e-8))
        return (1 - progress) * maps + progress * moving

    def _denoised(self, maps: Tensor, features: Tensor, batch: Batch) -> Tensor:
        if "saliency" in self.settings.denoise:
            if batch.saliency is None:
                raise InputError(
                    "--self-train.denoise saliency needs saliency maps and this batch has none: give --saliency "
                    "FOLDER, or leave it out"
                )
            size = (maps.shape[2], maps.shape[3])
            near = F.interpolate(batch.saliency[:, None], size, mode="bilinear", align_corners=False)
            maps = maps * (near > 0.5)
        if "prototype" in self.settings.denoise:
            before = likeness(features, self.prototypes)
            before = torch.where(self.shown[None, :, None, None] > 0, before, 1.0)  # nothing is known of the class yet
            if self.training:
                learn_prototypes(
                    self.prototypes, self.shown, features, reactivated(maps, batch.labels, self.background)
                )
            maps = maps * F.interpolate(before, maps.shape[2:], mode="bilinear", align_corners=True)
        return maps


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of the weights; buffers are copied."""
    for mean, now in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
    for mean, now in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(now)


def likeness(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine, at least 0, of ``[batch width rows columns]`` with ``[classes width]``: ``[batch classes rows
    columns]``."""
    return torch.einsum("bfij,cf->bcij", F.normalize(features, dim=1), F.normalize(prototypes, dim=1)).relu()


@torch.no_grad()
def learn_prototypes(prototypes: Tensor, shown: Tensor, features: Tensor, target: Tensor) -> None:
    """Move, in place, each class's prototype towards the mean feature of the cells it wins, photo by photo.

    A plain mean of the photos at first, later a moving one at :data:`PROTOTYPE_RATE`.

    Args:
        prototypes: ``[classes width]``. shown: ``[classes]`` photos that each has seen.
        features: ``[batch width rows columns]``.
        target: reactivated ``[batch classes+1 rows columns]`` of any grid, background last.
    """
    grid = features.shape[2:]
    wins = F.interpolate(target, grid, mode="bilinear", align_corners=True).argmax(1)  # [batch rows columns]
    cells = features.new_zeros(len(features), len(prototypes))
    means = features.new_zeros(len(features), *prototypes.shape)
    for row, (photo, winner) in enumerate(zip(features, wins, strict=True)):
        for c in winner.unique().tolist():
            where = winner == c
            if c < len(prototypes) and int(where.sum()) >= PROTOTYPE_CELLS:
                cells[row, c] = where.sum()
                means[row, c] = photo[:, where].mean(1)
    for of_photo, photo_means in zip(processes.rows(cells), processes.rows(means), strict=True):
        for c in of_photo.nonzero().flatten().tolist():
            shown[c] += 1
            rate = max(PROTOTYPE_RATE, 1 / float(shown[c]))
            prototypes[c].lerp_(photo_means[c], rate)
