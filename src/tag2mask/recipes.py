"""What a run is: one frozen dataclass of settings; and the named runs, functions that return one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tag2mask.backbones import BackboneSettings
from tag2mask.data import DataSettings
from tag2mask.data.augment import AugmentSettings
from tag2mask.errors import unknown
from tag2mask.features import FeatureSettings
from tag2mask.localize import LocalizeSettings
from tag2mask.methods import entry, mcis, single_stage
from tag2mask.methods.apc import ApcSettings
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.eps import EpsSettings
from tag2mask.methods.ppl import PplSettings
from tag2mask.methods.smaf import SelfTrainSettings
from tag2mask.propagation import PropagationSettings
from tag2mask.pseudo import PseudoSettings
from tag2mask.segment import InferenceSettings, RelabelSettings, SegmenterSettings
from tag2mask.train import TrainSettings


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides a run's outcome, stage by stage. Each part stands beside the code it sets."""

    method: str = "cam"
    options: object = field(default_factory=CamSettings)
    """The method's own settings."""
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    augment: AugmentSettings = AugmentSettings()
    train: TrainSettings = TrainSettings(epochs=5.0)
    localize: LocalizeSettings = LocalizeSettings()
    self_train: SelfTrainSettings = SelfTrainSettings()
    """Students that learn from the method's maps."""
    student_train: TrainSettings = TrainSettings(epochs=5.0)
    """Of each student; it goes on from the network whose maps it learns, but most get a new head."""
    propagate: str = "none"
    """How maps are propagated before they are refined (`tag2mask list propagations`), or none."""
    propagation: PropagationSettings = PropagationSettings()
    propagation_train: TrainSettings = TrainSettings(epochs=3.0, learning_rate=1e-3)
    refine: str = "crf"
    """Refiners of the maps, in order (`tag2mask list refiners`), or none."""
    refine_longest: int = 1024
    """Larger photos are refined at this many pixels a side: a CRF on 12 megapixels takes minutes. 0: as they are."""
    pseudo: PseudoSettings = PseudoSettings()
    features: FeatureSettings = FeatureSettings()
    segmenter: SegmenterSettings = SegmenterSettings()
    segmenter_augment: AugmentSettings = AugmentSettings(scale=(0.8, 2.0))
    """Larger than for the classifier: borders are learnt from detail."""
    segmenter_train: TrainSettings = TrainSettings(epochs=5.0)
    relabel: RelabelSettings = RelabelSettings()
    relabel_train: TrainSettings = TrainSettings(epochs=5.0, learning_rate=2.5e-4)
    """Of each round on relabelled masks; it goes on from the weights of the round before."""
    inference: InferenceSettings = InferenceSettings()
    seed: int = 0
    oracle_masks: bool = False
    """Also train the same segmenter on the true masks, for measuring only: what tags cost against full supervision."""
    workers: int = 0
    """Threads that refine masks and decode photos; 0: one a core, at most 8."""

    @property
    def frozen(self) -> bool:
        """Whether a part of the backbone is not trained and its output kept on disk."""
        return self.backbone.freeze or self.backbone.freeze_until is not None

    @property
    def single_stage(self) -> bool:
        """Whether the method is the segmenter, so that no other is trained."""
        return single_stage(self.options)


def with_method(settings: RunSettings, method: str) -> RunSettings:
    """The same run with another method at its default settings, trained as that method wants."""
    if method == settings.method:
        return settings
    found = entry(method)
    return replace(settings, method=method, options=found.settings(), train=found.train(settings.train))


def default() -> RunSettings:
    """Fine-tunes the embedded EfficientNet-Lite0: an hour for a few thousand photos on two cores."""
    return RunSettings()


def quick() -> RunSettings:
    """A first look in minutes: short training, one scale."""
    run = default()
    return replace(
        run,
        train=replace(run.train, epochs=3.0),
        localize=replace(run.localize, scales=(1.0,)),
        segmenter_train=replace(run.segmenter_train, epochs=3.0),
        relabel=replace(run.relabel, rounds=0),
        inference=replace(run.inference, scales=(1.0,)),
    )


def frozen() -> RunSettings:
    """Backbone features computed once and kept on disk; only heads train. Another head is minutes away."""
    run = default()
    return replace(
        run,
        backbone=replace(run.backbone, freeze=True),
        train=replace(run.train, epochs=8.0),
        localize=replace(run.localize, scales=(1.0,)),
        segmenter=replace(run.segmenter, warm_start=False),
        # wide heads on features that do not give way: at the rate of the default they diverge
        segmenter_train=replace(run.segmenter_train, epochs=4.0, learning_rate=1e-4),
        relabel=replace(run.relabel, rounds=0),  # it looks at the photos again, which costs more than all the rest
        inference=replace(run.inference, scales=(1.0,)),
    )


def demo() -> RunSettings:
    """The embedded demo data in a few minutes on two cores."""
    run = default()
    return replace(
        run,
        augment=replace(run.augment, size=192),
        train=replace(run.train, epochs=6.0),
        localize=replace(run.localize, longest=256, scales=(1.0, 1.5)),
        segmenter_augment=replace(run.segmenter_augment, size=192),
        segmenter_train=replace(run.segmenter_train, epochs=8.0),
        relabel=replace(run.relabel, rounds=0),
        inference=replace(run.inference, longest=256, scales=(1.0,)),
    )


# The segmenter after EPS, SMAF, PPL and APC (kazuto1011/deeplab-pytorch): DeepLab-v2 on ResNet-101, from ImageNet,
# three scales in training, 20,000 steps of 2 batches of 5 for VOC's 10,582 photos, which are scaled 0.5 to 1.5 from
# 500 pixels. Its code also gives the classifiers' biases a factor of 20.
_DEEPLAB = SegmenterSettings(
    "deeplab-v2", presence=False, warm_start=False, backbone="resnet101.tv_in1k", pyramid=(0.5, 0.75)
)
_DEEPLAB_VIEWS = AugmentSettings(size=321, scale=(250 / 321, 750 / 321), jitter=0.0)
_DEEPLAB_TRAIN = TrainSettings(
    epochs=18.9, batch_size=5, accumulate=2, optimizer="sgd", learning_rate=2.5e-4, head_factor=10.0, weight_decay=5e-4,
    momentum=0.9, warmup=0.0, power=0.9, clip=0.0,
)  # fmt: skip


def ppl_implicit() -> RunSettings:
    """PPL in stages at paper scale: ResNet-50, views of 512 pixels, IRN's training, DeepLab-v2. Wants a GPU."""
    return _ppl("implicit")


def ppl_explicit() -> RunSettings:
    """PPL with all cuts at once at paper scale; otherwise as ppl/implicit. Wants a GPU."""
    return _ppl("explicit")


def ppl_implicit_small() -> RunSettings:
    """PPL in three stages at the default's network and size: minutes on a laptop."""
    return replace(default(), method="ppl", options=PplSettings("implicit"))


def ppl_explicit_small() -> RunSettings:
    """PPL with all cuts at once at the default's network and size: minutes on a laptop."""
    return replace(default(), method="ppl", options=PplSettings("explicit"))


def ppl_agree() -> RunSettings:
    """PPL with one low cut whose cut and uncut maps must agree: for a few hundred photos, not for thousands."""
    return replace(default(), method="ppl", options=PplSettings(stages=1, reconstruction=1.0))


def _ppl(mode: Literal["implicit", "explicit"]) -> RunSettings:
    """The paper does not give its training; this is IRN's, the base code's of its time, for VOC's 10,582 photos.

    Two things in that code are easy to miss. Its optimiser hands the weight decay to SGD as momentum, so its large
    learning rates are those of an SGD without momentum: 0.1 with momentum 0.9 would be ten times as much. And it
    detaches the output of layer2, which here would leave a stage that cuts lower nothing to teach; so only the first
    convolution is fixed. Not IRN's: layer4 has dilation 2 (timm's at stride 16), norms and biases do not decay, scales
    are drawn log-uniformly, and the background threshold is found without truth.
    """
    return RunSettings(
        method="ppl",
        options=PplSettings(mode, fixed_until="stem"),
        backbone=BackboneSettings("resnet50.tv_in1k", output_stride=16),
        augment=AugmentSettings(size=512, scale=(320 / 512, 640 / 512), jitter=0.0),
        train=TrainSettings(
            epochs=5.0, batch_size=16, optimizer="sgd", learning_rate=0.1, head_factor=10.0, weight_decay=1e-4,
            momentum=1e-4, warmup=0.0, power=0.9, clip=0.0,
        ),
        localize=LocalizeSettings(longest=500, scales=(0.5, 1.0, 1.5, 2.0)),
        propagate="irn",
        refine="none",
        segmenter=_DEEPLAB,
        segmenter_augment=_DEEPLAB_VIEWS,
        segmenter_train=_DEEPLAB_TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(longest=0, scales=(0.5, 0.75, 1.0)),
    )  # fmt: skip


def apc_e2e() -> RunSettings:
    """APC in a single stage at paper scale: ViT-B/16, views of 448 pixels, ToCo's training. Wants a GPU.

    The paper's training is not known to us; this is ToCo's, whose single stage it most resembles: 20,000 steps of 4 of
    VOC's 10,582 photos, the learning rate falling over all of them, warm-up included. Not ToCo's: photos are normalised
    as the weights were trained (mean and deviation 0.5; ToCo feeds ImageNet's), scales are drawn log-uniformly, and
    views are averaged over scales rather than maximised.
    """
    return RunSettings(
        method="apc",
        options=ApcSettings(
            least_share=0.0, weight_penalty=0.01, equivariance=0.0, decoder_width=512, presence=False,
            segmentation=0.1, label_rule="best",
        ),
        backbone=BackboneSettings("vit_base_patch16_224.orig_in21k_ft_in1k"),
        augment=AugmentSettings(size=448, scale=(250 / 448, 1000 / 448)),
        train=TrainSettings(
            epochs=7.56, batch_size=4, learning_rate=6e-5, head_factor=10.0, weight_decay=1e-2, warmup=0.075, power=0.9,
            clip=0.0,
        ),
        localize=LocalizeSettings(longest=960, scales=(1.0,), flip=False, batch_size=1),
        refine="crf/deeplab",
        inference=InferenceSettings(longest=0, scales=(1.0, 1.25, 1.5), refine="crf/toco-seg"),
    )  # fmt: skip


def apc_multistage() -> RunSettings:
    """APC before a segmenter of its own at paper scale: ViT-B/16 at 384 pixels, ViT-PCM's training. Wants a GPU.

    ViT-PCM's (APC's is not known): the photo as a view of 384 pixels, batches of 16, the last five blocks and the norm
    learn. Not ViT-PCM's: its first epoch has a learning rate of 1e-3, here it is 1e-4 throughout; 50 epochs (it stops
    early, looking at truth); the photo keeps its proportions; no mirroring up and down; AdamW.
    """
    return RunSettings(
        method="apc",
        options=ApcSettings(
            single_stage=False, least_share=0.0, context="hv_bilstm", weight_penalty=0.01, equivariance=1.0,
            heads_first=0.02, fixed_until="block6",
        ),
        backbone=BackboneSettings("vit_base_patch16_384.orig_in21k_ft_in1k"),
        augment=AugmentSettings(size=384, scale=(1.0, 1.0)),
        train=TrainSettings(
            epochs=50.0, batch_size=16, learning_rate=1e-4, head_factor=1.0, weight_decay=0.0, warmup=0.0, power=0.0,
            clip=0.0,
        ),
        localize=LocalizeSettings(longest=960, scales=(1.0,), flip=False, batch_size=1),
        refine="crf/deeplab",
        segmenter=_DEEPLAB,
        segmenter_augment=_DEEPLAB_VIEWS,
        segmenter_train=_DEEPLAB_TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(longest=0, scales=(0.5, 0.75, 1.0)),
    )  # fmt: skip


def eps() -> RunSettings:
    """EPS at paper scale: ResNet-38d (--weights FILE), then DeepLab-v2 on ResNet-101. Needs saliency and a GPU."""
    return RunSettings(
        method="eps",
        options=EpsSettings(),
        backbone=BackboneSettings("resnet38d", output_stride=8),
        # the longer side is 256 to 512 pixels (published: uniformly; here log-uniformly)
        augment=AugmentSettings(size=448, scale=(256 / 448, 512 / 448), jitter=0.3),
        train=_LINEAGE,
        localize=LocalizeSettings(longest=500, scales=(0.5, 1.0, 1.5, 2.0)),
        pseudo=PseudoSettings(background="constant", threshold=0.2),
        refine="crf/labels",
        segmenter=_DEEPLAB,
        segmenter_augment=_DEEPLAB_VIEWS,
        segmenter_train=_DEEPLAB_TRAIN,
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(longest=0, scales=(1.0,), flip=False),
    )  # fmt: skip


def smaf() -> RunSettings:
    """SMAF at paper scale: EPS with the 128-channel head, then one round of self-training. Needs saliency and a GPU."""
    run = eps()
    return replace(
        run,
        options=EpsSettings(head="feature"),
        self_train=SelfTrainSettings("smaf", background=0.2, sharpness=1.0),
        student_train=_LINEAGE,
    )


# EPS and SMAF train alike: 20,000 steps of 8 of VOC's 10,582 photos. Their optimiser (PSA's) hands the weight decay to
# SGD as momentum, so the large learning rates are those of an SGD without it: 0.9 would make a step ten times as large
_LINEAGE = TrainSettings(
    epochs=20_000 * 8 / 10_582, batch_size=8, optimizer="sgd", learning_rate=0.01, head_factor=10.0, weight_decay=5e-4,
    momentum=5e-4, warmup=0.0, power=0.9, clip=0.0,
)  # fmt: skip


def mcis_paper() -> RunSettings:
    """MCIS in the paper's form at paper scale: VGG-16, saliency maps, DeepLab-LargeFOV. Wants a GPU."""
    # of the paper's solver little is certain: a tenth every 6 epochs, and this decay; the number of epochs is not known
    return _mcis(mcis.paper(), epochs=15.0, milestones=(6.0, 12.0), weight_decay=2e-4)


def mcis_official() -> RunSettings:
    """MCIS as its released code has it, at that scale; otherwise as mcis/paper. Wants a GPU."""
    # trained for 15 epochs, of which the weights after 11 make the maps; the last four change nothing of those
    return _mcis(mcis.official(11), epochs=11.0, milestones=(5.0, 10.0), weight_decay=5e-4)


def _mcis(
    options: mcis.McisSettings, *, epochs: float, milestones: tuple[float, ...], weight_decay: float
) -> RunSettings:
    """The released solver: SGD with Nesterov's momentum, biases at twice the rate, decay on everything, 5 pairs a step.

    Needs a folder of saliency maps (``--saliency``). Not as published: photos keep their aspect and are padded to the
    square of 256 pixels (released: squeezed into it), references are looked at in theirs; the segmenter's ResNet-101
    starts from ImageNet weights (released: those of the Caffe version, perhaps trained on COCO). Its solver, scales and
    test are the published ones but for the last CRF, whose kernel is 67 pixels wide where MCIS has 80, and which takes
    ten steps where MCIS takes one.
    """
    classifier = TrainSettings(
        epochs=epochs, batch_size=5, optimizer="sgd", learning_rate=1e-3, head_factor=10.0, bias_factor=2.0,
        weight_decay=weight_decay, decay_biases=True, momentum=0.9, nesterov=True, warmup=0.0, power=0.0,
        milestones=milestones, clip=0.0,
    )  # fmt: skip
    return RunSettings(
        method="mcis",
        options=options,
        backbone=BackboneSettings("vgg16.tv_in1k", output_stride=8),
        augment=AugmentSettings(size=256, scale=(1.0, 1.0), flip=False),
        train=classifier,
        localize=LocalizeSettings(longest=256, scales=(1.0,), flip=False),
        refine="none",
        pseudo=PseudoSettings("saliency-rule"),
        segmenter=SegmenterSettings(
            "deeplab-largefov", 1024, dilation=12, dropout=0.0, presence=False, warm_start=False,
            backbone="resnet101.tv_in1k",
        ),
        # 16,000 steps of 10 photos; 0.7 to 1.3 times photos of 500 pixels
        segmenter_augment=AugmentSettings(size=321, scale=(350 / 321, 650 / 321), jitter=0.0),
        segmenter_train=TrainSettings(
            epochs=15.1, batch_size=10, optimizer="sgd", learning_rate=1e-3, head_factor=10.0, bias_factor=2.0,
            weight_decay=5e-4, decay_biases=True, momentum=0.9, warmup=0.0, power=0.9, clip=0.0,
        ),
        relabel=RelabelSettings(rounds=0),
        inference=InferenceSettings(longest=0, scales=(0.5, 0.75, 1.0, 1.25, 1.5)),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], RunSettings]] = {
    "default": default,
    "quick": quick,
    "frozen": frozen,
    "demo": demo,
    "eps": eps,
    "smaf": smaf,
    "mcis/paper": mcis_paper,
    "mcis/official": mcis_official,
    "ppl/implicit": ppl_implicit,
    "ppl/explicit": ppl_explicit,
    "ppl/implicit-small": ppl_implicit_small,
    "ppl/explicit-small": ppl_explicit_small,
    "ppl/agree": ppl_agree,
    "apc/e2e": apc_e2e,
    "apc/multistage": apc_multistage,
}


def recipe(name: str) -> RunSettings:
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def plain(settings: Any) -> Any:
    """A settings dataclass as JSON data."""
    return json.loads(json.dumps(asdict(settings), default=str))


def settings_from(content: dict[str, Any]) -> RunSettings:
    """The settings a run stored."""
    return _fill(RunSettings(), {k: v for k, v in content.items() if k != "options"}, content)


def _fill(default: Any, content: dict[str, Any], whole: dict[str, Any]) -> Any:
    changed: dict[str, Any] = {}
    for f in fields(default):
        if f.name == "options" and isinstance(default, RunSettings):
            changed["options"] = _fill(entry(whole["method"]).settings(), whole["options"], {})
        elif f.name in content:
            now, value = getattr(default, f.name), content[f.name]
            if is_dataclass(now):
                value = _fill(now, value, {})
            elif isinstance(value, list):
                value = tuple(value)
            elif value is not None and "Path" in str(f.type):
                value = Path(value)
            changed[f.name] = value
    return replace(default, **changed)
