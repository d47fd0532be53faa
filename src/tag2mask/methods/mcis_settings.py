"""The settings of MCIS (:mod:`tag2mask.methods.mcis`), and those of its two published forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tag2mask.protocols import Traits
from tag2mask.settings import NOT_NEGATIVE, POSITIVE, SHARE, WIDTH, Range, check_values


@dataclass(frozen=True)
class McisSettings:
    """What the two published forms differ in, what an ablation switches off, and how it localizes."""

    parts: Literal["basic", "co", "full"] = "full"
    """basic: the classifier alone, nothing is compared (so give it the epochs and the batch size of --method cam); co:
    and co-attention; full: and contrastive co-attention."""
    references: Annotated[int, NOT_NEGATIVE] = 3
    """Reference photos of each class with which a photo is compared in localization (the paper's best of 1 to 5). 0:
    none (single-round)."""
    aggregation: Literal["mean", "gated"] = "mean"
    """mean: over the references. gated: the released sum of five maps, each by its maximum, those of the photo with
    itself among them, and only if the class is likely (sigmoid of the map's mean above 0.1)."""
    affinity: Literal["plain", "cosine"] = "cosine"
    """plain: the paper's P, without scaling. cosine: features of length one, W_P = (1 + E / sqrt(C)) / temperature.
    On EfficientNet-Lite0 (1280 channels, four photos) plain affinities spread by 11 before any training, so that a
    softmax over 192 cells sees 6 of them; AdamW moves each of the C^2 weights by its rate, and after six steps of the
    default it sees one. By direction it sees 43, and moves slowly."""
    temperature: Annotated[float, POSITIVE] = 0.02
    """Of cosine; at 0.01 a softmax sees 11 of the 192 cells, at 0.05 it sees 134."""
    by_domain: bool = True
    """Three W_P by the domains of a pair, or one for all."""
    share_head: bool = True
    """One head, or a second one without bias for what is (not) found again."""
    extra_convs: Annotated[int, Range(at_least=0, at_most=100)] = 0
    """New 3x3 convolutions, each with ReLU, between the backbone and F; both published forms have 3 on VGG-16. They and
    the head then start as N(0, 2 / (k k C_out)), as published."""
    channels: Annotated[int, WIDTH] = 512
    """C, where there are new convolutions; without, it is the backbone's."""
    reduction: Literal["sum", "mean"] = "sum"
    """Losses of the two photos of a pair are added, or averaged but for the contrastive ones."""
    contrast_from: Annotated[float, SHARE] = 0.4
    """Share of the training after which the contrastive losses begin (paper: at once; released: with epoch 2 of 0, 1,
    2, ...). Ours: what is found again must be learnt first, or the gate ends where nothing is (docs/log.md)."""
    skip_empty: Literal["no", "batch", "photo"] = "photo"
    """Contrastive loss of a photo with no unshared class: kept (no, the paper's), skipped where no photo of the batch
    on that side of the pairs has one (batch, the released code's), or skipped photo by photo (photo, ours: on an object
    that the other photo lacks it contradicts the basic loss, docs/log.md)."""
    feedback: Annotated[float, SHARE] = 0.0
    """Share of the gradient of what is (not) found again that reaches features and classifier; W_P, W_B and a second
    head have all of it. Paper: 1. Ours: they learn to compare what the classifier sees. Where they teach it, too, its
    own maps lose more than references give (docs/log.md)."""
    web_tolerance: Annotated[float, SHARE] = 0.7
    """q of the generalised cross entropy with which photos from the web teach the classifier (0.7 is its authors'; 1:
    absolute error). 0, both published forms: their tags are taken as true."""
    self_pairs: bool = False
    """Also pair photos with themselves, mirrored, smaller and larger. Needs photos, not stored features."""

    def __post_init__(self) -> None:
        check_values(self, "mcis")

    @property
    def pairs(self) -> bool:
        """Whether training compares photos."""
        return self.parts != "basic"

    @property
    def traits(self) -> Traits:
        """With references background comes out higher and more spread than without, and a threshold rule that expects
        it low cuts too low (docs/decisions/0002)."""
        references = self.references if self.pairs else 0
        return Traits(
            class_maps=True,
            pairs=self.pairs,
            references=references,
            threshold_rule="otsu" if references else "auto",
            whole_views=self.aggregation == "gated",
            inference_settings=("references", "aggregation"),
            tuned_on_truth=("how mcis is trained by default was chosen on VOC's truth",),
        )


def paper() -> McisSettings:
    """The paper's form, on VGG-16."""
    return McisSettings(
        affinity="plain", extra_convs=3, contrast_from=0.0, skip_empty="no", feedback=1.0, web_tolerance=0.0
    )


def official(epochs: float) -> McisSettings:
    """The released code's form, on VGG-16, for a training of so many epochs."""
    return McisSettings(
        affinity="plain",
        extra_convs=3,
        aggregation="gated",
        by_domain=False,
        share_head=False,
        reduction="mean",
        contrast_from=min(1.0, 2 / epochs),
        skip_empty="batch",
        feedback=1.0,
        web_tolerance=0.0,
        self_pairs=True,
    )
