r"""EPS: explicit pseudo-pixel supervision (Lee, Lee, Lee, Shim, "Railroad is not a Train", CVPR 2021).

Idea. Tags say what is in a photo and not where it ends; a class-agnostic saliency map shows where something ends and
not what it is. Score every cell for the C classes and for background, and ask that the tagged classes together look
like the saliency map. A tagged class that saliency does not show (a lake behind the boat) is counted with the
background.

.. math::
    P(p) = \mathrm{softmax}_{c = 1 \dots C, \mathrm{bg}}\, Z_c(p), \qquad
    o_c = \frac{\sum_p [P_c(p)]\, [s(p)]}{\sum_p ([P_c(p)] + 10^{-4})}, \qquad
    F = \{c \in y : o_c > \tau\}

.. math::
    \hat s = \lambda \sum_{c \in F} P_c
        + (1 - \lambda) \Bigl(1 - P_{\mathrm{bg}} - \sum_{c \in y \setminus F} P_c\Bigr), \qquad
    L = L_{\mathrm{cls}} + \frac{1}{|\Omega|} \sum_{p \in \Omega} (\hat s(p) - s(p))^2

* :math:`Z` -- class scores of a bias-free head, background last; :math:`s` -- saliency, nearest to the grid of
  :math:`Z`; :math:`[\cdot]` -- rounded to 0 or 1, no gradient; :math:`y` -- the tags; :math:`\Omega` -- the cells
  inside the photos (padding takes no part; the published code teaches padding as not salient).
* :math:`o_c` -- how much of where the class wins is salient: a precision, though the code calls it IoU.
* :math:`L_{\mathrm{cls}}` -- multi-label soft margin loss of the mean scores of the C classes; background has no tag.
* The map of a class is :math:`P_c`.

Multi-scale attention fusion (EPS's inference, which SMAF names; its published code). Eight views of a photo, 4
sizes and their mirror images: softmax over all C + 1 channels *at feature stride, before* any resizing, so each view
decides between all classes by itself; brought to one size; mirrored back; untagged classes dropped; *summed*; then
divided by the maximum of each class plus 1e-5. ``localize.py`` does exactly this, with the mean in the place of the
sum, which the maximum takes out again. The one size is the finest view's feature grid; with sizes up to twice the photo
at stride 8 that is a cell for every 4 pixels, which is what self-training reads. A VOC photo of 375x500 pixels then
takes 94 x 125 half-precision numbers for each tagged class, 37 kB with the 1.56 classes a photo has; the published code
stores 1.2 MB (float32 at the photo's size).

Saliency maps are needed for every photo, from any detector (PFAN's in the paper), at any size. One that is black says
that nothing stands out: its photo is taught background everywhere, against its tags. A few do no harm; a folder of them
stops the run before it trains, and ``tag2mask doctor`` names each.

Heads. ``linear``: one 1x1 convolution, as released with EPS. ``feature``: a 1x1 convolution to 128 channels, a batch
norm that never learns, ReLU, then the classifier; SMAF's, whose prototypes live in those 128 channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask import processes
from tag2mask.backbones import Backbone
from tag2mask.backbones.resnet38 import NAME, ResNet38d, official_names
from tag2mask.errors import InputError
from tag2mask.methods.released import take_over
from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, SHARE, WIDTH, check_values
from tag2mask.types import Batch, Losses, Views, masked_mean

HeadForm = Literal["linear", "feature"]


@dataclass(frozen=True)
class EpsSettings:
    """The numbers of the paper and of its released scripts for VOC."""

    tau: Annotated[float, SHARE] = 0.4
    """A tagged class counts as salient when more than this share of its cells is (0.5 in the code's defaults)."""
    lam: Annotated[float, SHARE] = 0.5
    """Weight of the foreground map in the estimate; the rest is the background map's (0.9 on COCO)."""
    saliency: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the saliency loss, next to that of the tags (1 in the paper)."""
    head: HeadForm = "linear"
    """linear: EPS as released. feature: SMAF's, over `channels` features."""
    channels: Annotated[int, WIDTH] = 128
    """Width of the feature head."""

    def __post_init__(self) -> None:
        check_values(self, "eps")

    @property
    def traits(self) -> Traits:
        return Traits(saliency=True, class_maps=True, maps="probabilities")


class LinearHead(nn.Module):
    """One bias-free 1x1 convolution to the classes and, last, background."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.fc8 = nn.Conv2d(channels, labels, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        self.width = channels

    def features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, features: Tensor) -> Tensor:
        return self.fc8(features)


class FeatureHead(nn.Module):
    """1x1 convolution, frozen batch norm, ReLU; then the classifier. The parts have their published names and order."""

    def __init__(self, channels: int, labels: int, width: int) -> None:
        super().__init__()
        self.fc8 = nn.Conv2d(width, labels, 1, bias=False)
        self.cov_feat = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width).requires_grad_(False)
        nn.init.xavier_uniform_(self.fc8.weight)
        nn.init.xavier_uniform_(self.cov_feat.weight)
        self.width = width

    def train(self, mode: bool = True) -> FeatureHead:
        super().train(mode)
        self.bn.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        return self.bn(self.cov_feat(x)).relu()

    def forward(self, features: Tensor) -> Tensor:
        return self.fc8(features)


class ClassMapNet(nn.Module):
    """A backbone and a head that gives every cell a probability for each class and for background.

    What EPS trains, and the student of any self-training.

    Args:
        backbone: any; it learns unless frozen.
        classes: number of foreground classes.
        head, channels: see :class:`EpsSettings`.
    """

    def __init__(self, backbone: Backbone, classes: int, head: HeadForm = "linear", channels: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        self.form: HeadForm = head
        self.head: LinearHead | FeatureHead = (
            LinearHead(backbone.channels, classes + 1)
            if head == "linear"
            else FeatureHead(backbone.channels, classes + 1, channels)
        )

    def features_and_logits(self, views: Views) -> tuple[Tensor, Tensor]:
        """The head's features ``[batch width rows columns]``, and :math:`Z` in float32, background last:
        ``[batch classes+1 rows columns]``."""
        features = self.head.features(self.backbone.features(views))
        return features, self.head(features).float()

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """The head's features, and :math:`P` of the classes (:class:`tag2mask.protocols.ClassMaps`)."""
        features, logits = self.features_and_logits(views)
        return features, logits.softmax(1)[:, :-1]

    def logits(self, views: Views) -> Tensor:
        """:math:`Z`, background last: ``[batch classes+1 rows columns]``."""
        return self.features_and_logits(views)[1]

    def localize(self, batch: Batch) -> Tensor:
        """:math:`P` of the classes: the softmax sees all of them and background, tagged or not."""
        return self.logits(batch).softmax(1)[:, :-1]


class Eps(ClassMapNet):
    """The method page of EPS. Needs saliency maps.

    Args:
        backbone: any; it learns unless frozen. The paper's is ResNet-38d.
        classes: number of foreground classes.
        settings: see :class:`EpsSettings`.
    """

    def __init__(self, backbone: Backbone, classes: int, settings: EpsSettings = EpsSettings()) -> None:
        super().__init__(backbone, classes, settings.head, settings.channels)
        self.settings, self.traits = settings, settings.traits

    def tag_scores(self, batch: Batch) -> Tensor:
        """The mean of :math:`Z`, without background's (:class:`tag2mask.protocols.PredictsTags`)."""
        return masked_mean(self.logits(batch), batch.valid)[:, :-1]

    def losses(self, batch: Batch, progress: float) -> Losses:
        if batch.saliency is None:
            raise InputError(
                "EPS learns from saliency maps and this batch has none: give --saliency FOLDER, or use --method cam"
            )
        logits, s = self.logits(batch), self.settings
        scores = masked_mean(logits[:, :-1], batch.valid)
        inside = F.adaptive_avg_pool2d(batch.valid[:, None].float(), (logits.shape[2], logits.shape[3]))[:, 0]
        loss = saliency_loss(logits, batch.saliency, batch.labels, s.tau, s.lam, inside)
        return Losses(
            {
                "classification": F.multilabel_soft_margin_loss(scores, batch.labels),
                "saliency": s.saliency * loss,
            }
        )

    # --- released weights ---------------------------------------------------------------------------------------

    def is_released(self, state: Mapping[str, Tensor]) -> bool:
        """A published checkpoint of EPS (a state dict) or of SMAF (nested ``Net.model_state``). A plain classifier,
        which scores no background, or one of other classes is a backbone's."""
        classifier = state.get("fc8.weight")
        return classifier is not None and classifier.ndim == 4 and len(classifier) == self.head.fc8.out_channels

    def load_released(self, state: Mapping[str, Tensor], source: str) -> None:
        form: HeadForm = "feature" if "cov_feat.weight" in state else "linear"
        if form != self.form:
            heads = {"linear": "one classifier (EPS)", "feature": "features of its own (SMAF)"}
            raise InputError(
                f"{source} has a head of {heads[form]} and the network has the other form: give --eps.head {form}"
            )
        if not isinstance(self.backbone, ResNet38d):
            raise InputError(f"{source}: published EPS and SMAF checkpoints are of {NAME}: give --backbone {NAME}")
        names = {name: f"backbone.{ours}" for name, ours in official_names(self.backbone).items()}
        names |= {name.removeprefix("head."): name for name in self.state_dict() if name.startswith("head.")}
        what = f"a checkpoint of EPS or SMAF on {NAME}"
        take_over(self, names, state, source, what, "give one, or the weights of a backbone alone")


def saliency_loss(
    logits: Tensor, saliency: Tensor, labels: Tensor, tau: float, lam: float, inside: Tensor | None = None
) -> Tensor:
    """The second term of the module's :math:`L`.

    Args:
        logits: ``[batch classes+1 rows columns]``, background last.
        saliency: ``[batch height width]`` in [0, 1], of any size.
        labels: ``[batch classes]`` multi-hot.
        inside: ``[batch rows columns]`` share of each cell that lies in the photo; None: all of it.
    """
    s = F.interpolate(saliency[:, None].to(logits.dtype), logits.shape[2:], mode="nearest")[:, 0]
    weight = torch.ones_like(s) if inside is None else inside.to(s.dtype)
    probabilities = logits.softmax(1)
    classes, background = probabilities[:, :-1], probabilities[:, -1]
    with torch.no_grad():
        wins = classes.round()
        shown = torch.einsum("bcij,bij->bc", wins, weight * s.round())
        overlap = shown / torch.einsum("bcij,bij->bc", wins + 1e-4, weight).clamp(min=1e-9)
        salient = labels * (overlap > tau)
        hidden = labels - salient
    foreground = torch.einsum("bcij,bc->bij", classes, salient.to(classes.dtype))
    background = background + torch.einsum("bcij,bc->bij", classes, hidden.to(classes.dtype))
    estimate = lam * foreground + (1 - lam) * (1 - background)
    return processes.ratio((weight * (estimate - s) ** 2).sum(), weight.sum(), 1e-6)
