"""Segmenters: DeepLab heads on any backbone, and any segmentation_models_pytorch model by name.

* DeepLab-LargeFOV (Chen et al., ICLR 2015): one 3x3 convolution of large dilation, one 1x1, one classifier.
* DeepLab-v2 (Chen et al., TPAMI 2018): atrous spatial pyramid pooling, the sum of 3x3 classifiers of four dilations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone, BackboneSettings
from tag2mask.errors import InputError, unknown
from tag2mask.protocols import Segmenter
from tag2mask.settings import POSITIVE, ByFact, Range, check_values
from tag2mask.types import IGNORE, Losses, MaskedBatch, Photos, Views, masked_mean

SMP = ("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "deeplabv3", "deeplabv3plus", "upernet")


@dataclass(frozen=True)
class SegmenterSettings:
    """Which head on the run's backbone."""

    name: str = "deeplab-largefov"
    """deeplab-largefov, deeplab-v2, or smp:NAME for a segmentation_models_pytorch model (smp:unet, smp:fpn, ...)."""
    channels: Annotated[int, Range(at_least=1)] = 256
    """Width of the head (the papers use 1024 on ResNet-101)."""
    dilation: Annotated[int, Range(at_least=1)] = 6
    """Of LargeFOV's 3x3 convolution, in feature cells (12 at stride 8 in the paper, the same field as 6 at 16)."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """Probability with which a channel of the head is dropped in training."""
    presence: bool = True
    """DeepLab heads also learn which classes the photo shows, from its tags, and weigh the pixels' classes by it."""
    warm_start: bool = True
    """Start from the backbone that the localization method trained on the tags, not from its pretrained weights."""
    backbone: str | None = None
    """Another backbone than the method's, by name, with its own pretrained weights (resnet101: the literature's); then
    there is no warm start."""
    weights: Annotated[str, ByFact("segmenter weights", "none")] = "auto"
    """Of that backbone: auto, none, or a file (as --weights)."""
    output_stride: Annotated[int | None, Range(at_least=1, at_most=32)] = None
    """Of that backbone, in pixels per cell; None: the method's."""
    pyramid: Annotated[tuple[float, ...], POSITIVE] = ()
    """Other scales of every view that are segmented, too, in training as well; at each pixel the largest logit wins
    (DeepLab-v2's MSC: 0.5, 0.75)."""

    def __post_init__(self) -> None:
        check_values(self, "segmenter")


class DeepLab(nn.Module):
    r"""A backbone and a head: ``segment`` gives logits ``[batch 1+classes rows columns]`` at feature stride.

    With ``presence`` the context of the whole photo decides between classes, in the spirit of EncNet (Zhang et al.,
    CVPR 2018): a linear classifier on the mean feature predicts which classes the photo shows, :math:`\pi_c`, trained
    on the tags. It moves foreground between classes and never between foreground and background:

    .. math:: p'(c) = p(\mathrm{fg}) \frac{\pi_c\, p(c)}{\sum_k \pi_k\, p(k)}, \qquad p'(\mathrm{bg}) = p(\mathrm{bg})
    """

    def __init__(self, backbone: Backbone, head: nn.Module, presence_of: int = 0) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.presence = nn.Conv2d(backbone.channels, presence_of, 1) if presence_of else None

    def segment(self, views: Views) -> Tensor:
        return self.segment_with_presence(views, None)[0]

    def segment_with_presence(self, views: Views, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits, and the photo's class logits ``[batch classes]`` (None without ``presence``).

        ``valid`` is ``[batch height width]`` bool, False on padding, which takes no part in the mean.
        """
        features = self.backbone.features(views)
        logits = self.head(features)
        if self.presence is None:
            return logits, None
        maps = self.presence(features)
        shown = maps.float().mean((2, 3)) if valid is None else masked_mean(maps, valid)
        return weigh_classes(logits.float(), F.logsigmoid(shown)), shown


def weigh_classes(logits: Tensor, log_presence: Tensor) -> Tensor:
    """Foreground logits of ``[batch 1+classes rows columns]`` weighed by ``[batch classes]``, the background's
    probability unchanged."""
    foreground = logits[:, 1:]
    weighed = foreground + log_presence[:, :, None, None]
    lost = foreground.logsumexp(1, keepdim=True) - weighed.logsumexp(1, keepdim=True)
    return torch.cat([logits[:, :1], weighed + lost], 1)


class Pyramid(nn.Module):
    """A segmenter of a view and of smaller copies of it; the largest logit wins (Chen et al., TPAMI 2018, Sec. 4.1). In
    training every copy and the winner are taught: ``all_logits``."""

    def __init__(self, segmenter: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.segmenter, self.scales = segmenter, tuple(scales)

    def all_logits(self, images: Tensor, valid: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """Logits of the view, of each scale (on grids of their own), and the winner on the view's grid, in this order;
        and the view's class logits where the segmenter predicts presence."""
        first, shown = logits_of(self.segmenter, Photos(images), valid)
        logits = [first]
        for scale in self.scales:
            smaller = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            logits.append(logits_of(self.segmenter, Photos(smaller), valid)[0])
        size = first.shape[2:]
        grown = [F.interpolate(of_scale, size, mode="bilinear", align_corners=False) for of_scale in logits]
        return [*logits, torch.stack(grown).amax(0)], shown

    def segment(self, views: Views) -> Tensor:
        assert not views.stored, "checked in build"
        return self.all_logits(views.images, None)[0][-1]


def logits_of(segmenter: nn.Module, views: Views, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Any segmenter's logits, and the photo's class logits where it has them."""
    if isinstance(segmenter, DeepLab):
        return segmenter.segment_with_presence(views, valid)
    assert isinstance(segmenter, Segmenter)
    return segmenter.segment(views), None


class LargeFov(nn.Sequential):
    """3x3 dilated convolution, ReLU, 1x1, ReLU, classifier."""

    def __init__(self, channels: int, labels: int, settings: SegmenterSettings) -> None:
        width, dilation = settings.channels, settings.dilation
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(width, width, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Dropout2d(settings.dropout),
            nn.Conv2d(width, labels, 1),
        )


class Aspp(nn.Module):
    """Sum of four dilated 3x3 classifiers (DeepLab-v2), rates in feature cells of stride 8: 6, 12, 18, 24."""

    def __init__(self, channels: int, labels: int, stride: int) -> None:
        super().__init__()
        rates = [max(1, round(rate * 8 / stride)) for rate in (6, 12, 18, 24)]
        self.branches = nn.ModuleList(nn.Conv2d(channels, labels, 3, padding=r, dilation=r) for r in rates)
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


class SmpSegmenter(nn.Module):
    """A segmentation_models_pytorch model over a timm encoder of the same name and weights as the run's backbone.

    Images are padded to a multiple of 32, which those decoders ask for, and the logits cut back.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """The encoder's."""
        return self.model.encoder.parameters()

    def segment(self, views: Views) -> Tensor:
        assert not views.stored, "checked in build"
        height, width = views.images.shape[2:]
        padded = F.pad(views.images, (0, -width % 32, 0, -height % 32))
        return self.model(padded)[..., :height, :width]


def build(
    settings: SegmenterSettings, backbone: Backbone, classes: int, backbone_settings: BackboneSettings
) -> nn.Module:
    """The segmenter of these settings over 1 + ``classes`` labels.

    Raises:
        InputError: an unknown name; a frozen trunk under a model that needs features of every stage.
    """
    check(settings, frozen=backbone.frozen_until is not None)
    labels = 1 + classes
    presence_of = classes if settings.presence else 0
    if settings.name == "deeplab-largefov":
        segmenter: nn.Module = DeepLab(backbone, LargeFov(backbone.channels, labels, settings), presence_of)
    elif settings.name == "deeplab-v2":
        segmenter = DeepLab(backbone, Aspp(backbone.channels, labels, backbone.stride), presence_of)
    else:
        segmenter = SmpSegmenter(_smp(settings.name[4:], backbone, labels, backbone_settings))
    return Pyramid(segmenter, settings.pyramid) if settings.pyramid else segmenter


def _smp(name: str, backbone: Backbone, labels: int, backbone_settings: BackboneSettings) -> Any:
    import segmentation_models_pytorch as smp

    architecture = backbone_settings.name
    try:
        model = smp.create_model(name, encoder_name=f"tu-{architecture}", encoder_weights=None, classes=labels)
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"smp:{name} cannot be built on {architecture}: {error}; try another backbone") from error
    # the backbone is the same timm model cut into blocks: its tensors by position, in the encoder's order of names
    own = model.encoder.model.state_dict()  # type: ignore[union-attr]
    source = _timm_names(backbone)
    fitting = {n: source[n] for n in own if n in source and source[n].shape == own[n].shape}
    if len(fitting) < len(own) * 0.9:
        raise InputError(f"smp:{name}: the weights of {architecture} do not fit its encoder; try another backbone")
    model.encoder.model.load_state_dict(fitting, strict=False)  # type: ignore[union-attr]
    return model


def _timm_names(backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's tensors under the names timm gives them."""
    found = {}
    for name, tensor in backbone.state_dict().items():
        _, block, rest = name.split(".", 2)
        if block == "stem" and rest[0].isdigit():
            index, rest = rest.split(".", 1)
            first = "conv_stem" if "block0" in backbone.names else "conv1"
            found[f"{(first, 'bn1')[int(index)]}.{rest}"] = tensor
        elif block == "head":
            index, rest = rest.split(".", 1)
            found[f"{('conv_head', 'bn2')[int(index)]}.{rest}"] = tensor
        elif block.startswith("block"):
            found[f"blocks.{block[5:]}.{rest}"] = tensor
        elif block.startswith("stage"):
            found[f"stages.{block[5:]}.{rest}"] = tensor
            found[f"stages_{block[5:]}.{rest}"] = tensor
        else:
            found[f"{block}.{rest}"] = tensor
            if block == "stem":
                index, _, tail = rest.partition(".")
                found[f"stem_{index}.{tail}"] = tensor
    return found


def check(settings: SegmenterSettings, *, frozen: bool) -> None:
    """The name exists and goes with the backbone; builds nothing."""
    if settings.name not in known():
        raise unknown("segmenter", settings.name, known())
    if frozen and settings.name.startswith("smp:"):
        raise InputError(
            f"{settings.name} reads every stage of the backbone, so stored features do not serve it: "
            "use deeplab-largefov or deeplab-v2 with --freeze, or train without --freeze"
        )
    if frozen and settings.pyramid:
        raise InputError(
            "--segmenter.pyramid looks at other scales than the stored features are of: leave it or --freeze out"
        )


class SegmenterTask(nn.Module):
    """Trains a segmenter on masks: cross entropy over decided pixels (255 takes no part); and, where it predicts the
    photo's classes, their multi-label loss against the tags."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def losses(self, batch: MaskedBatch, progress: float) -> Losses:
        if isinstance(self.segmenter, Pyramid):
            # each scale is taught at its own resolution, by the nearest pixel of the mask (DeepLab-v2's codes)
            of_scales, shown = self.segmenter.all_logits(batch.images, batch.valid)
            terms = {}
            for name, logits in zip([*map(str, (1.0, *self.segmenter.scales)), "max"], of_scales, strict=True):
                small = F.interpolate(batch.masks[:, None].float(), logits.shape[2:], mode="nearest-exact")[:, 0]
                terms[f"segmentation_{name}"] = mask_loss(logits.float(), small.long())
        else:
            logits, shown = logits_of(self.segmenter, batch, batch.valid)
            logits = F.interpolate(logits.float(), batch.masks.shape[1:], mode="bilinear", align_corners=False)
            terms = {"segmentation": mask_loss(logits, batch.masks)}
        if shown is not None:
            terms["presence"] = F.multilabel_soft_margin_loss(shown, batch.labels)
        return Losses(terms)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy of ``[batch labels height width]`` and ``[batch height width]`` int64 over decided pixels."""
    loss = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="sum")
    return loss / (masks != IGNORE).sum().clamp(min=1)  # without a decided pixel 0, not NaN


def known() -> tuple[str, ...]:
    return ("deeplab-largefov", "deeplab-v2", *(f"smp:{name}" for name in SMP))
