"""EPS: the saliency loss against published values and a loop, fusion against the published one, checkpoints, runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from localizing import localized
from portable import h, uniform
from tag2mask import methods
from tag2mask.backbones import Backbone, BackboneSettings, resnet38
from tag2mask.backbones.resnet38 import ResNet38d, official_names
from tag2mask.cli.runs import parse_run
from tag2mask.data.augment import AugmentSettings, fit_size, resized
from tag2mask.data.batches import StoredFeatures, TaggedImages
from tag2mask.data.saliency import check_saliency_maps
from tag2mask.errors import InputError
from tag2mask.localize import LocalizeSettings
from tag2mask.methods.check import batch_of, check_method
from tag2mask.methods.eps import ClassMapNet, Eps, EpsSettings, FeatureHead, saliency_loss
from tag2mask.methods.released import released_state
from tag2mask.recipes import recipe
from tag2mask.stages.artefacts import read_maps
from tag2mask.training import parameter_groups
from tag2mask.training.optimizer import optimizer_of
from tag2mask.types import Dataset, Photos, Sample, normalise
from test_resnet38 import mxnet_name, params
from trunks import fresh
from world import SMALL, fails, keys, made_of, redone, run, stamps


def small_backbone() -> Backbone:
    return fresh(BackboneSettings("resnet10t", weights="none", output_stride=8))


# --- the loss ---------------------------------------------------------------------------------------------------


def test_golden_portable_fill() -> None:
    expected = [0.8072537314146757, 0.8237782551441342, 0.861783264670521, 0.17075217654928565]
    np.testing.assert_allclose(h(4, 0), expected, rtol=1e-12)
    np.testing.assert_allclose(h(3, 5), [0.944686273811385, 0.020049348706379533, 0.7115436240565032], rtol=1e-12)


LABELS = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("tau", "lam", "loss", "gradient"),
    [
        (0.5, 0.5, 0.1264254938, 0.1102974506),
        (0.4, 0.5, 0.1161468915, 0.1202863913),
        (0.2, 0.9, 0.1647225175, 0.1647045970),
    ],
)
def test_golden_saliency_loss(tau: float, lam: float, loss: float, gradient: float) -> None:
    logits = (6 * uniform((2, 6, 7, 9), 1)).requires_grad_()
    saliency = torch.from_numpy(h(2 * 28 * 36, 2)).reshape(2, 28, 36)
    found = saliency_loss(logits, saliency, LABELS, tau, lam)
    found.backward()
    assert logits.grad is not None
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert float(logits.grad.abs().sum()) == pytest.approx(gradient, rel=1e-6)


def slow_loss(logits: Tensor, saliency: Tensor, labels: Tensor, tau: float, lam: float, inside: Tensor) -> float:
    batch, channels, rows, columns = logits.shape
    errors = weights = 0.0
    for b in range(batch):
        grid = [(i, j) for i in range(rows) for j in range(columns)]
        s = {
            (i, j): float(saliency[b, i * saliency.shape[1] // rows, j * saliency.shape[2] // columns]) for i, j in grid
        }
        p = {(i, j): np.exp(logits[b, :, i, j].numpy()) / np.exp(logits[b, :, i, j].numpy()).sum() for i, j in grid}
        salient = {}
        for c in range(channels - 1):
            over = sum(float(inside[b][k]) * round(float(p[k][c])) * round(s[k]) for k in grid)
            salient[c] = over / sum(float(inside[b][k]) * (round(float(p[k][c])) + 1e-4) for k in grid) > tau
        for k in grid:
            tagged = [c for c in range(channels - 1) if labels[b, c]]
            foreground = sum(p[k][c] for c in tagged if salient[c])
            background = p[k][-1] + sum(p[k][c] for c in tagged if not salient[c])
            errors += float(inside[b][k]) * (lam * foreground + (1 - lam) * (1 - background) - s[k]) ** 2
            weights += float(inside[b][k])
    return errors / weights


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.95), st.floats(0, 1), st.booleans())
def test_loss_is_its_loop(seed: int, tau: float, lam: float, padded: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 5, generator=random, dtype=torch.float64) * 3
    saliency = torch.rand(2, 6, 10, generator=random, dtype=torch.float64)
    labels = (torch.rand(2, 3, generator=random) < 0.5).double()
    inside = torch.ones(2, 3, 5, dtype=torch.float64)
    if padded:
        inside[:, :, 3] = 0.25
        inside[:, :, 4:] = 0
    found = saliency_loss(logits, saliency, labels, tau, lam, inside)
    assert float(found) == pytest.approx(slow_loss(logits, saliency, labels, tau, lam, inside), rel=1e-9)


def test_each_pixel_adds_its_1e_4_to_the_area_of_a_class() -> None:
    """smaf.md 2.3: the denominator sums (prediction + 1e-4). Of 10,000 pixels a class wins 2, both salient: 2 / (2 + 1)
    is not above 0.8, 2 / (2 + 1e-4) would be."""
    logits = torch.full((1, 2, 100, 100), -20.0, dtype=torch.float64)
    logits[:, 1], logits[0, :, 0, :2] = 20, torch.tensor([[20.0], [-20.0]])
    saliency = torch.zeros(1, 100, 100, dtype=torch.float64)
    saliency[0, 0, :2] = 1
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(saliency_loss(logits, saliency, one, 2 / 3 - 1e-6, 0.5)) < 1e-9
    assert float(saliency_loss(logits, saliency, one, 0.8, 0.5)) == pytest.approx(2 / 10_000)  # counts as background


def test_what_the_loss_asks_for() -> None:
    """Perfect maps cost nothing; a tagged class that saliency does not show counts as background."""
    shape = torch.zeros(1, 4, 6, dtype=torch.float64)
    shape[:, :2] = 1
    sure = torch.full((1, 3, 4, 6), -20.0, dtype=torch.float64)
    sure[:, 0, :2], sure[:, 2, 2:] = 20, 20  # class 0 above, background below
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(saliency_loss(sure, shape, one, 0.4, 0.5)) < 1e-9
    below = sure.clone()
    below[:, 1, 2:], below[:, 2, 2:] = 20, -20  # a lake: class 1, tagged, nowhere salient
    both = torch.ones(1, 2, dtype=torch.float64)
    assert float(saliency_loss(below, shape, both, 0.4, 0.5)) < 1e-9
    assert float(saliency_loss(below, shape, one, 0.4, 0.5)) > 0.1  # untagged it is an error
    assert float(saliency_loss(below, torch.zeros_like(shape), both, 0.4, 0.5)) < 1e-9  # black: all is background


# --- the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "feature"])
def test_both_heads_keep_the_contract(head: str) -> None:
    check_method(Eps, EpsSettings(head=head, channels=16), small_backbone)  # type: ignore[arg-type]


def test_the_feature_head_is_what_its_page_says() -> None:
    torch.manual_seed(0)
    head = FeatureHead(6, 4, 5).train()
    assert not head.bn.training and not head.bn.weight.requires_grad
    head.bn.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 6, 3, 4)
    mean, var = (t.view(1, -1, 1, 1) for t in (head.bn.running_mean, head.bn.running_var))
    feature = ((F.conv2d(x, head.cov_feat.weight) - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(head.features(x), feature)
    torch.testing.assert_close(head(head.features(x)), F.conv2d(feature, head.fc8.weight))
    bound = (6 / (6 + 5)) ** 0.5  # Xavier
    assert head.cov_feat.weight.abs().max() <= bound and head.cov_feat.weight.std() > bound / 3


def test_maps_are_a_softmax_with_background() -> None:
    torch.manual_seed(0)
    method = Eps(small_backbone(), 4).eval()
    batch = batch_of()
    with torch.no_grad():
        maps, logits = method.localize(batch), method.logits(batch)
    torch.testing.assert_close(maps, torch.exp(logits[:, :4]) / torch.exp(logits).sum(1, keepdim=True))
    assert maps.sum(1).max() < 1


def test_saliency_is_asked_for_in_words() -> None:
    method = Eps(small_backbone(), 4)
    with pytest.raises(InputError, match="give --saliency FOLDER, or use --method cam"):
        method.losses(replace(batch_of(), saliency=None), 0.0)
    assert EpsSettings().traits.saliency and not methods.entry("cam").settings().traits.saliency


@pytest.mark.parametrize("change", [{"tau": 1.5}, {"lam": -0.1}, {"channels": 0}, {"saliency": -1.0}])
def test_settings_that_cannot_be(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"^--eps\.{next(iter(change))} is .*: it must be at least"):
        EpsSettings(**change)  # type: ignore[arg-type]


# --- fusion -----------------------------------------------------------------------------------------------------


def published_fusion(method: Eps, pixels: np.ndarray, labels: list[int], longest: int) -> dict[int, Tensor]:
    """One photo at a time, every look alone, each step in the published order, at the photo's size."""
    total: Tensor | float = 0.0
    for scale in (0.5, 1.0, 1.5, 2.0):
        size = fit_size(*pixels.shape[:2], longest, scale)
        plain = normalise(resized(pixels, size), (method.backbone.mean, method.backbone.std))[None]
        for mirrored in (False, True):
            with torch.no_grad():
                logits = method.logits(Photos(plain.flip(3) if mirrored else plain))
            maps = F.interpolate(logits.softmax(1), pixels.shape[:2], mode="bilinear", align_corners=False)
            total = total + (maps.flip(3) if mirrored else maps)
    assert isinstance(total, Tensor)
    return {c: total[0, c] / (total[0, c].max() + 1e-5) for c in labels}


@pytest.fixture(scope="module")
def teacher() -> Eps:
    torch.manual_seed(0)
    method = Eps(small_backbone(), 3).eval()
    with torch.no_grad():  # logits spread enough that the order of the steps matters
        method.head.fc8.weight.mul_(60)
    return method


@pytest.fixture
def photo(tmp_path: Path) -> Sample:
    pixels = np.random.default_rng(3).integers(0, 255, (6, 10, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((80, 48), Image.Resampling.NEAREST).save(tmp_path / "photo.png")
    return Sample("photo", tmp_path / "photo.png", frozenset({0, 2}))


VIEWS = LocalizeSettings(long_side=80, scales=(0.5, 1.0, 1.5, 2.0), precision="float32")


def test_fused_maps_are_the_published_ones_on_the_finest_grid(teacher: Eps, photo: Sample) -> None:
    found = localized(teacher, [photo], VIEWS, 3)["photo"]
    assert found.classes == (0, 2) and found.scores.shape == (2, 12, 20)  # twice 48x80 at stride 8
    expected = published_fusion(teacher, np.asarray(Image.open(photo.image_path)), [0, 2], 80)
    for scores, c in zip(found.scores, found.classes, strict=True):
        grown = F.interpolate(torch.from_numpy(scores.astype(np.float32))[None, None], (48, 80), mode="bilinear")[0, 0]
        assert (grown - expected[c]).abs().mean() < 0.02  # ours are summed on the grid, then grown


def test_the_order_of_the_steps_matters_and_is_the_published_one(teacher: Eps, photo: Sample) -> None:
    """Sum of softmaxes, then one maximum per class: every other order is another map."""
    pixels = np.asarray(Image.open(photo.image_path))
    logits = []
    for scale in VIEWS.scales:
        size = fit_size(48, 80, 80, scale)
        plain = normalise(resized(pixels, size), (teacher.backbone.mean, teacher.backbone.std))[None]
        with torch.no_grad():
            logits += [teacher.logits(Photos(plain)), teacher.logits(Photos(plain.flip(3))).flip(3)]
    grow = lambda x: F.interpolate(x, (12, 20), mode="bilinear", align_corners=False)  # noqa: E731
    norm = lambda x: x / (x.amax((2, 3), keepdim=True) + 1e-5)  # noqa: E731
    present = [0, 2]
    right = norm(sum(grow(x.softmax(1)) for x in logits))[0, present]
    late = norm(sum(grow(x).softmax(1) for x in logits))[0, present]
    early = norm(sum(norm(grow(x.softmax(1))) for x in logits))[0, present]
    gated = norm(sum(grow(x[:, [0, 2, 3]].softmax(1)) for x in logits))[0, [0, 1]]
    mean_of_logits = norm(sum(map(grow, logits)).softmax(1))[0, present]
    unmirrored = norm(sum(grow(x.flip(3) if i % 2 else x).softmax(1) for i, x in enumerate(logits)))[0, present]
    found = localized(teacher, [photo], VIEWS, 3)["photo"]
    scores = torch.from_numpy(found.scores.astype(np.float32))
    torch.testing.assert_close(scores, right, rtol=0, atol=2e-3)
    for name, wrong in {
        "late": late,
        "early": early,
        "gated": gated,
        "logits": mean_of_logits,
        "mirror": unmirrored,
    }.items():
        assert (scores - wrong).abs().max() > 0.02, name


def test_what_is_covered_is_where_tags_are_likelier_than_not(teacher: Eps, photo: Sample) -> None:
    """Of the mean probabilities on the finest grid; a class without a tag wins nothing."""
    pixels = np.asarray(Image.open(photo.image_path))
    grown = []
    for scale in VIEWS.scales:
        size = fit_size(48, 80, 80, scale)
        plain = normalise(resized(pixels, size), (teacher.backbone.mean, teacher.backbone.std))[None]
        with torch.no_grad():
            looks = [teacher.logits(Photos(plain)).softmax(1), teacher.logits(Photos(plain.flip(3))).flip(3).softmax(1)]
        grown += [F.interpolate(look, (12, 20), mode="bilinear", align_corners=False) for look in looks]
    mean = torch.stack(grown).mean(0)[0]
    shares = []
    for tags in ({0, 2}, {0}, {1}, {2}):
        found = localized(teacher, [replace(photo, labels=frozenset(tags))], VIEWS, 3)["photo"]
        wins = mean[sorted(tags)].sum(0) > 0.5
        assert found.covered == pytest.approx(float(wins.float().mean()), abs=1 / 240)
        shares.append(found.covered)
    assert len(set(shares)) > 1  # the example says something


def test_stored_size(teacher: Eps, photo: Sample, tmp_path: Path) -> None:
    """Half precision at feature stride, present classes only: under a thirtieth of float32 at the photo's size."""
    height, width = 375, 500
    rows, columns = (-(-side // 8) for side in fit_size(height, width, 500, 2.0))
    assert (rows, columns) == (94, 125)
    assert rows * columns * 2 * 30 < height * width * 4


# --- checkpoints ------------------------------------------------------------------------------------------------


def net38(head: str = "linear", classes: int = 3, seed: int = 0) -> Eps:
    torch.manual_seed(seed)
    return Eps(ResNet38d(thin=16), classes, EpsSettings(head=head, channels=8))  # type: ignore[arg-type]


def published(network: Eps) -> dict[str, Tensor]:
    own = network.state_dict()
    names = {official: f"backbone.{ours}" for official, ours in official_names(network.backbone).items()}
    state = {official: own[ours].clone() for official, ours in names.items()}
    return state | {n.removeprefix("head."): own[n].clone() for n in own if n.startswith("head.")}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def load(network: Eps, path: Path) -> None:
    """As a run does with ``--weights``."""
    state = released_state(network, str(path))
    assert state is not None, "a backbone's file"
    network.load_released(state, str(path))


def test_published_checkpoints_of_both_heads(tmp_path: Path) -> None:
    images = torch.randn(1, 3, 32, 48)
    for head in ("linear", "feature"):
        trained = net38(head).eval()
        content: object = published(trained)
        if head == "feature":
            content = {"Net": {"model_state": content, "objective_vectors": torch.zeros(4, 8)}, "iter": 20000}
        path = saved(content, tmp_path / f"{head}.pth")
        other = net38(head, seed=1).eval()
        with torch.no_grad():
            assert not torch.equal(other.logits(Photos(images)), trained.logits(Photos(images)))
            load(other, path)
            assert torch.equal(other.logits(Photos(images)), trained.logits(Photos(images)))


def test_checkpoints_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    linear, feature = published(net38()), published(net38("feature"))
    cases = [
        (feature, net38(), r"features of its own \(SMAF\).*give --eps\.head feature"),
        (linear, net38("feature"), r"head of one classifier \(EPS\).*give --eps\.head linear"),
        (linear, Eps(small_backbone(), 3), "of resnet38d: give --backbone resnet38d"),
        (
            {n: t for n, t in linear.items() if not n.startswith("b7")},
            net38(),
            r"is not a checkpoint of EPS or SMAF on resnet38d: it lacks b7",
        ),
        (linear | {"extra": torch.zeros(1)}, net38(), "also holds extra"),
        (linear | {"conv1a.weight": torch.zeros(1)}, net38(), r"has other shapes in conv1a\.weight"),
    ]
    for number, (content, network, expected) in enumerate(cases):
        before = {n: t.clone() for n, t in network.state_dict().items()}
        with pytest.raises(InputError, match=expected) as error:
            load(network, saved(content, tmp_path / f"{number}.pth"))
        assert "\n" not in str(error.value)
        assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items()), "half loaded"


def test_files_that_hold_no_whole_network_of_these_classes_are_a_backbones(tmp_path: Path) -> None:
    linear = published(net38())
    classifier = linear | {"fc8.weight": linear["fc8.weight"][:3]}  # of 3 classes, without background
    without = {n: t for n, t in linear.items() if n != "fc8.weight"}
    dense = linear | {"fc8.weight": torch.zeros(4, 16)}
    for number, (content, network) in enumerate(
        [(classifier, net38()), (linear, net38(classes=5)), (without, net38()), (dense, net38())]
    ):
        path = saved(content, tmp_path / f"{number}.pth")
        assert released_state(network, str(path)) is None
        backbone = ResNet38d(thin=16)
        resnet38.load_file(backbone, path)  # of which it takes its part
        assert torch.equal(backbone.state_dict()["blocks.conv1a.weight"], linear["conv1a.weight"])
    mxnet = {m: t.numpy() for n, t in without.items() if (m := mxnet_name(n))}
    (tmp_path / "imagenet.params").write_bytes(params(mxnet))  # the lineage's ImageNet weights are no torch file
    assert released_state(net38(), str(tmp_path / "imagenet.params")) is None
    for name in ("auto", "none", str(tmp_path / "absent.pth")):
        assert released_state(net38(), name) is None


def test_bad_checkpoint_files(tmp_path: Path) -> None:
    whole = saved(published(net38()), tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:1000])
    with pytest.raises(InputError, match="is it complete"):
        load(net38(), tmp_path / "cut.pth")


# --- recipes ----------------------------------------------------------------------------------------------------


def test_the_optimiser_of_the_recipes_is_the_published_one() -> None:
    for name in ("eps", "smaf"):
        settings = recipe(name)
        with torch.device("meta"):
            head = settings.options.head  # type: ignore[attr-defined]
            network = ClassMapNet(ResNet38d(), 20, head)
        optimizer = optimizer_of(network, settings.train)
        assert isinstance(optimizer, torch.optim.SGD)
        assert all(g["momentum"] == 5e-4 and g["weight_decay"] == 5e-4 for g in optimizer.param_groups)
        counts = {g["lr"]: len(g["params"]) for g in parameter_groups(network, settings.train)}
        assert counts == {0.01: 35, 0.1: 1 if name == "eps" else 2}
        assert settings.augment.size == 448 and settings.localize.scales == (0.5, 1.0, 1.5, 2.0)
        assert round(settings.train.epochs * 10_582 / settings.train.batch_size) == 20_000


def test_sizes_of_the_views_round_half_to_even() -> None:
    for side, scale, expected in ((375, 0.5, 188), (375, 1.5, 562), (333, 0.5, 166), (335, 1.5, 502)):
        assert fit_size(side, 500, 500, scale)[0] == expected


# --- data and runs ----------------------------------------------------------------------------------------------


def with_saliency(world: Path, folder: Path, scale: float = 1.0) -> Path:
    """The small world with saliency: what is colourful stands out, at another size than the photo where asked."""
    shutil.copytree(world, folder)
    (folder / "saliency").mkdir()
    for path in (folder / "images").glob("*.png"):
        photo = Image.open(path).convert("RGB")
        pixels = np.asarray(photo).astype(int)
        grey = Image.fromarray((np.abs(pixels[..., 0] - pixels[..., 2]).clip(0, 255)).astype(np.uint8))
        size = (round(photo.width * scale), round(photo.height * scale))
        grey.resize(size, Image.Resampling.BILINEAR).save(folder / "saliency" / path.name)
    return folder


@pytest.fixture(scope="module")
def salient(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_saliency(world, tmp_path_factory.mktemp("salient") / "data", 0.5)  # of another size: resized


def test_saliency_moves_with_the_photo(tmp_path: Path) -> None:
    """In views and beside stored features: the saliency map of a photo that is its own brightness."""
    rows, columns = np.mgrid[:40, :60]
    grey = (255 * (rows / 40 + 2 * columns / 60) / 3).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "p.png")
    Image.fromarray(grey[::2, ::2]).save(tmp_path / "s.png")
    sample = Sample("p", tmp_path / "p.png", frozenset({0}), saliency_path=tmp_path / "s.png")
    data = Dataset("d", ("a",), [sample])
    views = TaggedImages(data, AugmentSettings(size=32, jitter=0), ((0.0,) * 3, (1.0,) * 3), 0, saliency=True)
    flipped = set()
    for epoch in range(12):
        batch = views.collate([views.item(epoch, 0)]).to(torch.device("cpu"))
        assert batch.saliency is not None and batch.saliency.shape == (1, 32, 32)
        inner = batch.valid & (F.avg_pool2d(batch.valid.float(), 5, 1, 2) > 0.99)
        assert (batch.saliency - batch.images[:, 0])[inner].abs().max() < 0.08
        assert batch.saliency[~batch.valid].abs().sum() == 0
        inside = batch.saliency[0][batch.valid[0]]
        flipped.add(bool(inside[0] > inside[-1]))
    assert flipped == {False, True}
    stored = StoredFeatures(data, lambda s, flip: torch.zeros(2, 5, 8), [(5, 8)], 0, None, 4, saliency=True)
    seen = set()
    for epoch in range(12):
        batch = stored.collate([stored.item(epoch, 0)])
        assert batch.stored and batch.saliency.shape == (1, 20, 32) and batch.maps is None
        seen.add(bool(batch.saliency[0, 0, 0] > batch.saliency[0, 0, -1]))
        assert batch.saliency[0, -1].mean() > batch.saliency[0, 0].mean()
    assert seen == {False, True}


def test_eps_runs_and_uses_what_saliency_says(salient: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--method", "eps", "--relabel.rounds", "0"]
    assert run("train", salient, "--out", out, *SMALL, *flags) == 0
    scores = json.loads((out / "scores" / "scores.json").read_text())
    assert {"maps", "masks", "predictions"} <= set(scores)
    maps = read_maps(out / "maps" / "photo02.npz", "photo02")
    assert maps.classes == (0, 1) and float(maps.scores.max()) <= 1
    log = (out / "method" / "log.jsonl").read_text()
    assert "saliency" in log and "classification" in log
    assert "saliency maps of the training photos" in (out / "report.html").read_text()
    # the same maps elsewhere, with another date, redo nothing; other saliency maps redo the method
    before, written = keys(out), stamps(out)
    other = tmp_path / "other"
    shutil.copytree(salient, other, copy_function=shutil.copyfile)
    assert run("label", other, "--out", out, *SMALL, *flags) == 0
    assert keys(out) == before
    assert redone(written, stamps(out)) == {"images"}  # other files: looked at again, and found to be the same
    for path in (other / "saliency").glob("*.png"):
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert run("label", other, "--out", out, *SMALL, *flags) == 0
    changed = {name for name, key in keys(out).items() if before[name] != key}
    assert changed == {"method", "maps", "masks", "scores"}
    assert made_of(out, "method")["facts"].keys() == {"photos", "tags", "weights", "saliency"}


def test_eps_on_stored_features(salient: Path, tmp_path: Path) -> None:
    flags = [
        "--method",
        "eps",
        "--freeze-until",
        "layer3",
        "--features.folder",
        tmp_path / "features",
        "--refine",
        "none",
    ]
    assert run("label", salient, "--out", tmp_path / "run", *SMALL, *flags) == 0
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9


def test_saliency_that_is_not_there_or_black(
    capsys: pytest.CaptureFixture[str], world: Path, salient: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = fails(capsys, "label", world, "--out", out, *SMALL, "--method", "eps")
    assert "--method eps needs a saliency map for every photo; 9 have none (photo00, " in said
    assert "--saliency FOLDER" in said and "--method cam" in said and not out.exists()
    data = tmp_path / "data"
    shutil.copytree(salient, data)
    (data / "saliency" / "photo04.png").unlink()
    assert "1 have none (photo04)" in fails(capsys, "label", data, "--out", out, *SMALL, "--method", "eps")
    for path in (data / "images").glob("*.png"):
        Image.new("L", (9, 7)).save(data / "saliency" / path.name)
    said = fails(capsys, "label", data, "--out", out, *SMALL, "--method", "eps")
    assert "are black, all of the 9 that were read" in said
    assert not list(out.rglob("model.safetensors"))


def test_a_few_black_maps_are_counted() -> None:
    some = [np.zeros((3, 4), np.float32), np.full((3, 4), 0.5, np.float32)]
    assert check_saliency_maps(some, "x") == 1 and check_saliency_maps([], "x") == 0
    with pytest.raises(InputError, match="black, all of the 1"):
        check_saliency_maps(some[:1], "x")


def test_a_checkpoint_is_used_without_training(
    salient: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ResNet38d
    monkeypatch.setattr(
        resnet38, "ResNet38d", type("Thin", (whole,), {"__init__": lambda s: whole.__init__(s, thin=16)})
    )
    trained = net38(classes=2)
    path = saved(published(trained), tmp_path / "eps.pth")
    flags = [*SMALL, "--method", "eps", "--backbone", "resnet38d", "--backbone.output-stride", "8", "--refine", "none"]
    assert run("label", salient, "--out", tmp_path / "run", *flags, "--weights", path, "--epochs", "0") == 0
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "run" / "method" / "model.safetensors")
    assert all(torch.equal(kept[n], t) for n, t in trained.state_dict().items())
    assert not (tmp_path / "run" / "method" / "log.jsonl").exists()
    assert len(list((tmp_path / "run" / "masks").glob("*.png"))) == 9
    again = ("label", salient, "--out", tmp_path / "b", *flags, "--weights", path, "--epochs", "0")
    said = fails(capsys, *again, "--eps.head", "feature")
    assert "give --eps.head linear" in said and not list((tmp_path / "b").rglob("model.safetensors"))
    saved(published(net38(classes=4)), path)  # of other classes: the weights of a backbone, which must be trained
    said = fails(capsys, *again)
    assert "a training of 0 epochs" in said and "a whole released eps of these classes" in said


def test_flags_reach_the_settings(world: Path) -> None:
    _, _, found = parse_run([str(world), "--out", "x", "--method", "eps", "--eps.tau", "0.3"], "label")
    assert found.options == EpsSettings(tau=0.3)
    with pytest.raises(InputError, match=r"give --recipe smaf .* or --self-train smaf with any --method"):
        parse_run([str(world), "--out", "x", "--method", "smaf"], "label")
